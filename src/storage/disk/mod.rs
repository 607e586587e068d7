//! A [`Storage`] in a directory of the file system.
//!
//! Linux is what the tests run on. Other unixes use the same calls. Windows is untested, and has no way to sync a
//! directory: a name there is as durable as NTFS's own journal makes it.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fmt;
use std::fs::{self, DirBuilder, File as StdFile, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;
use super::process::Process;
use super::{Access, File, Lock, LockError, Storage, map};

const LOCK_FILE: &str = "LOCK";
const ZEROS: usize = 1 << 20;

/// A directory on disk. Directories that it makes are for their owner only (0700), and so are files (0600).
#[derive(Debug)]
pub(crate) struct DiskStorage {
    /// Absolute and without symbolic links, so that neither a change of the working directory nor `..` misleads.
    root: PathBuf,
    /// Which directory had this path when it was opened.
    identity: system::Identity,
    process: Process,
}

/// How many bytes may still be written below a path, where the system tells.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    system::free_bytes(path)
}

impl DiskStorage {
    /// Opens a directory that exists; `NotFound` or `NotADirectory` otherwise.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = system::resolve(root)?;
        let metadata = fs::metadata(&root)?;
        if !metadata.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(DiskStorage { root, identity: system::identity(&metadata), process: Process::own() })
    }

    /// Makes the directory and those above it where they are missing, durably, and opens it.
    pub(crate) fn create(root: &Path) -> io::Result<Self> {
        let missing: Vec<&Path> =
            root.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
        for directory in missing.iter().rev() {
            create_directory(directory)?;
            sync_name(directory)?;
        }
        Self::open(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(name.split('/').filter(|part| !part.is_empty()));
        path
    }

    /// Before a name is changed or a file is opened to be written: it has to be this process that opened the directory, and
    /// this directory. Whoever has moved a store away while it is open may have put another one in its place.
    fn check_own(&self) -> io::Result<()> {
        if self.process.is_other() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                "the process was forked from the one that has it open",
            ));
        }
        match fs::metadata(&self.root) {
            Ok(metadata) if system::identity(&metadata) == self.identity => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Err(io::Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} is not the directory any more that was opened: it was moved, removed or replaced; close the store, and \
                     open it where it is",
                    self.root.display()
                ),
            )),
        }
    }

    fn options(access: Access) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        system::restrict(&mut options);
        options
    }
}

impl Storage for DiskStorage {
    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        fs::read_dir(self.path(folder))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.check_own()?;
        create_directory(&self.path(folder))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        if access == Access::Write {
            self.check_own()?;
        }
        let (file, len) = open_regular(&Self::options(access), &self.path(name))?;
        Ok(Arc::new(DiskFile { file, len }))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        self.check_own()?;
        let path = self.path(name);
        let file = Self::options(Access::Write).create_new(true).open(&path)?;
        if let Err(error) = system::allocate(&file, len) {
            drop(file);
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(DiskFile { file, len }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_own()?;
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_own()?;
        fs::remove_file(self.path(name))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        system::sync_directory(&self.path(folder))?;
        match folder.is_empty() {
            true => sync_name(&self.root),
            false => Ok(()),
        }
    }

    fn lock(&self) -> Result<Lock, LockError> {
        let mut options = Self::options(Access::Write);
        options.create(true).truncate(false);
        let (mut file, _) = open_regular(&options, &self.path(LOCK_FILE)).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { pid: read_pid(&file) }),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        // The pid only informs. A full disk may have no room for it, and is no reason to refuse the lock.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock::new(HeldLock { file, process: self.process }))
    }
}

/// The lock's file. It is unlocked, not only closed: a process that is being started may hold a copy of the handle.
#[derive(Debug)]
struct HeldLock {
    file: StdFile,
    process: Process,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // One that was forked would take the lock from the process that it was forked from.
        if !self.process.is_other()
            && let Err(error) = self.file.unlock()
        {
            tracing::warn!(%error, "could not give the store's lock back");
        }
    }
}

struct DiskFile {
    file: StdFile,
    /// As it was opened or made. A write beyond it would change the size, which nothing may.
    len: u64,
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut rest, mut offset, mut total) = (buf, offset, 0);
        while !rest.is_empty() {
            match system::read_at(&self.file, rest, offset) {
                Ok(0) => break,
                Ok(read) => {
                    total += read;
                    offset = advance(offset, read)?;
                    rest = mem::take(&mut rest).get_mut(read..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if advance(offset, bytes.len())? > self.len {
            return Err(io::Error::new(ErrorKind::InvalidInput, "write beyond the end of the file"));
        }
        write_all_at(&self.file, bytes, offset)
    }

    /// `fdatasync`, and where a disk's own cache has to be asked separately (macOS), std does so. A file whose name was
    /// taken away meanwhile is gone when it is closed: nothing in it can be called durable.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        match system::is_removed(&self.file)? {
            true => Err(io::Error::new(ErrorKind::NotFound, "the file was removed while it was open")),
            false => Ok(()),
        }
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        match usize::try_from(len) {
            _ if len > self.len()? => Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => Ok(Bytes::new()),
            Ok(len) => map::map(&self.file, len),
            Err(_) => Err(ErrorKind::OutOfMemory.into()),
        }
    }
}

/// Opens a regular file, and nothing else: what stands in its place may be a pipe that gives no byte, or a link that leads
/// out of the store.
fn open_regular(options: &OpenOptions, path: &Path) -> io::Result<(StdFile, u64)> {
    let file = options.open(path).map_err(system::explain)?;
    let metadata = file.metadata()?;
    match metadata.file_type() {
        kind if kind.is_file() => Ok((file, metadata.len())),
        kind if kind.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")),
    }
}

fn advance(offset: u64, by: usize) -> io::Result<u64> {
    u64::try_from(by)
        .ok()
        .and_then(|by| offset.checked_add(by))
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "offset beyond 2^64"))
}

fn write_all_at(file: &StdFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let (mut rest, mut offset) = (bytes, offset);
    while !rest.is_empty() {
        match system::write_at(file, rest, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset = advance(offset, written)?;
                rest = rest.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Allocates by writing, where the file system cannot do it by itself.
fn write_zeros(file: &StdFile, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut offset = 0;
    while offset < len {
        let piece = usize::try_from(len - offset).unwrap_or(ZEROS).min(ZEROS);
        write_all_at(file, zeros.get(..piece).unwrap_or(&zeros), offset)?;
        offset = advance(offset, piece)?;
    }
    Ok(())
}

/// Makes one directory; one that is there already is fine.
fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    system::restrict_directory(&mut builder);
    match builder.create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Makes a directory's own name durable, by syncing its parent.
fn sync_name(directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match system::sync_directory(parent) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => system::sync_file_system(directory),
        result => result,
    }
}

/// What the holder of the lock wrote, unless it has not yet done so or the system forbids reading a locked file.
fn read_pid(file: &StdFile) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> (tempfile::TempDir, DiskStorage) {
        let directory = tempfile::tempdir().unwrap();
        let storage = DiskStorage::open(directory.path()).unwrap();
        (directory, storage)
    }

    #[test]
    fn opening_needs_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let missing = DiskStorage::open(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        fs::write(directory.path().join("file"), "").unwrap();
        let file = DiskStorage::open(&directory.path().join("file")).unwrap_err();
        assert_eq!(file.kind(), ErrorKind::NotADirectory);
        assert!(DiskStorage::create(&directory.path().join("file")).is_err());
    }

    #[test]
    fn creating_makes_every_missing_directory_and_may_be_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("a/b/c");
        let storage = DiskStorage::create(&root).unwrap();
        DiskStorage::create(&root).unwrap();
        assert!(storage.root().unwrap().ends_with("a/b/c"));
        storage.sync_folder("").unwrap();
    }

    #[test]
    fn a_created_file_is_zeros_and_keeps_what_is_written() {
        let (_directory, storage) = storage();
        storage.create_folder("log").unwrap();
        storage.create_folder("log").unwrap();
        let len = u64::try_from(ZEROS).unwrap() + 5;
        let file = storage.create("log/a", len).unwrap();
        file.write_at(b"end", len - 3).unwrap();
        file.sync().unwrap();
        storage.sync_folder("log").unwrap();

        let file = storage.open("log/a", Access::Read).unwrap();
        assert_eq!(file.len().unwrap(), len);
        let mut tail = [9; 8];
        assert_eq!(file.read_at(&mut tail, len - 5).unwrap(), 5);
        assert_eq!(tail, *b"\0\0end\x09\x09\x09");
        assert_eq!(file.read_at(&mut tail, len + 1).unwrap(), 0);
        let map = file.map(len).unwrap();
        assert!(map.ends_with(b"\0\0end") && map.len() == ZEROS + 5);
    }

    #[test]
    fn writing_zeros_allocates_what_fallocate_would() {
        let (directory, storage) = storage();
        let file = DiskStorage::options(Access::Write).create_new(true).open(storage.path("a")).unwrap();
        write_zeros(&file, u64::try_from(2 * ZEROS).unwrap() + 7).unwrap();
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), vec![0; 2 * ZEROS + 7]);
    }

    #[test]
    fn an_empty_file_maps_to_no_bytes() {
        let (_directory, storage) = storage();
        assert_eq!(storage.create("empty", 0).unwrap().map(0).unwrap(), Bytes::new());
    }

    #[test]
    fn a_write_never_changes_a_files_size() {
        let (_directory, storage) = storage();
        let file = storage.create("a", 10).unwrap();
        assert_eq!(file.write_at(b"abc", 8).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(file.write_at(b"abc", u64::MAX).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(file.len().unwrap(), 10);
    }

    #[test]
    fn a_file_is_created_once_and_a_file_for_reading_is_not_written() {
        let (_directory, storage) = storage();
        storage.create("a", 1).unwrap();
        assert_eq!(storage.create("a", 1).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(storage.open("a", Access::Read).unwrap().write_at(b"x", 0).is_err());
        assert_eq!(storage.open("b", Access::Write).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_cannot_be_allocated_is_removed_again() {
        let (_directory, storage) = storage();
        assert!(storage.create("a", u64::MAX).is_err());
        assert_eq!(storage.list("").unwrap(), [""; 0]);
    }

    #[test]
    fn renaming_replaces_and_removing_removes() {
        let (_directory, storage) = storage();
        storage.create("a", 1).unwrap();
        storage.create("b", 2).unwrap();
        storage.rename("a", "b").unwrap();
        assert_eq!(storage.list("").unwrap(), ["b"]);
        assert_eq!(storage.open("b", Access::Read).unwrap().len().unwrap(), 1);
        storage.remove("b").unwrap();
        assert_eq!(storage.remove("b").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(storage.list("log").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn one_holder_has_the_lock_and_the_next_is_told_its_pid() {
        let (directory, storage) = storage();
        let other = DiskStorage::open(directory.path()).unwrap();
        fs::write(directory.path().join(LOCK_FILE), "4294967295 and more than fits\n").unwrap();
        let lock = storage.lock().unwrap();
        assert!(matches!(other.lock(), Err(LockError::Held { pid }) if pid == Some(std::process::id())));
        drop(lock);
        drop(other.lock().unwrap());
        assert_eq!(storage.list("").unwrap(), [LOCK_FILE]);
    }

    #[cfg(unix)]
    #[test]
    fn files_and_directories_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let storage = DiskStorage::create(&directory.path().join("a/b")).unwrap();
        storage.create_folder("log").unwrap();
        storage.create("log/x", 1).unwrap();
        let _lock = storage.lock().unwrap();
        let mode =
            |path: &str| fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["a", "a/b", "a/b/log"].map(mode), [0o700; 3]);
        assert_eq!(["a/b/log/x", "a/b/LOCK"].map(mode), [0o600; 2]);
    }

    /// Says something only when it is not root who runs it.
    #[cfg(unix)]
    #[test]
    fn a_parent_that_may_not_be_read_does_not_stop_a_sync() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let allow = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        allow(0o300);
        let made =
            DiskStorage::create(&directory.path().join("a")).and_then(|storage| storage.sync_folder(""));
        allow(0o700);
        made.unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_not_followed() {
        let (directory, storage) = storage();
        storage.create("a", 1).unwrap();
        std::os::unix::fs::symlink("a", directory.path().join("link")).unwrap();
        assert!(storage.open("link", Access::Read).is_err());
        assert!(storage.create("link", 1).is_err());
        std::os::unix::fs::symlink("a", directory.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(storage.lock(), Err(LockError::Io(_))));
    }
}
