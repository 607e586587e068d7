//! The calls of Windows, untested. Symbolic links are followed; permissions are inherited from the parent directory.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub(super) fn resolve(root: &Path) -> io::Result<PathBuf> {
    std::path::absolute(root)
}

/// Directories cannot be told apart by stable calls; one that is in use cannot be moved or removed either.
pub(super) type Identity = ();

pub(super) fn identity(_: &Metadata) -> Identity {}

/// A file that is open keeps its name.
pub(super) fn is_removed(_: &File) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn restrict(_: &mut OpenOptions) {}

pub(super) fn explain(error: io::Error) -> io::Error {
    error
}

pub(super) fn restrict_directory(_: &mut DirBuilder) {}

pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    const HANDLE_EOF: i32 = 38;
    match file.seek_read(buf, offset) {
        Err(error) if error.raw_os_error() == Some(HANDLE_EOF) => Ok(0),
        result => result,
    }
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// Windows cannot sync a directory.
pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn sync_file_system(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    super::write_zeros(file, len)
}

/// Nothing that the standard library could ask.
pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}
