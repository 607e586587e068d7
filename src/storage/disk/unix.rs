//! The calls of Linux and other unixes.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

pub(super) fn resolve(root: &Path) -> io::Result<PathBuf> {
    root.canonicalize()
}

/// Device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Whether a file that is open has no name any more. Nothing else is asked for: after somebody has asked when a file was
/// changed, Linux from 6.13 on gives the next write a time of its own, and to write that down made a synced append take
/// nearly half as long again (6.18, ext4).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_removed(file: &File) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    match statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
        Ok(found) => Ok(found.stx_nlink == 0),
        Err(Errno::NOSYS) => Ok(file.metadata()?.nlink() == 0),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file that is open has no name any more.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn is_removed(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() == 0)
}

/// No link is followed, and nobody waits for the other end of a pipe.
pub(super) fn restrict(options: &mut OpenOptions) {
    options.mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
}

/// What the system calls too many links is one.
pub(super) fn explain(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => {
            io::Error::other("it is a symbolic link, which is not followed; put the file itself there")
        }
        _ => error,
    }
}

pub(super) fn restrict_directory(builder: &mut DirBuilder) {
    builder.mode(0o700);
}

pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buf, offset)
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(bytes, offset)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// For a parent directory that this process may not read, hence not sync: a service's state directory is
/// often in one. Everything on the file system is synced in its place.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Nothing stands in for the sync of a parent that may not be read; who may read it has made the directory.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn sync_file_system(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};

    if len == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return super::write_zeros(file, len),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    super::write_zeros(file, len)
}

/// How many bytes may still be written below a path, as far as the system tells.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}
