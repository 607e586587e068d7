//! The directory under rows on disk, and its syncs. `sled_rows` calls the store in between.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use crate::error::{Error, ErrorKind};

/// What the store writes at once at the most.
const SEGMENT: usize = 512 << 10;

/// Does what the store panics about when it cannot be done: open a file, write a segment, start a thread.
pub(super) fn try_environment(dir: &Path) -> io::Result<()> {
    let scratch = dir.join("scratch");
    let write = || -> io::Result<()> {
        let mut file = File::create(&scratch)?;
        file.write_all(&vec![0; SEGMENT])?;
        file.sync_all()
    };
    let written = write();
    let removed = fs::remove_file(&scratch);
    written.and(removed)?;
    match OpenOptions::new().read(true).write(true).open(dir.join("db")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    thread::Builder::new()
        .name("everfold-probe".into())
        .spawn(|| {})?
        .join()
        .map_err(|_| io::Error::other("a thread died at once"))
}

pub(super) fn locked(dir: &Path) -> Error {
    let message = format!("the view in {} is open already, in this process or another", dir.display());
    Error::new(ErrorKind::Locked { pid: None }, message)
}

/// Whether someone else has the lock; if not, we have it now.
pub(super) fn is_locked(data: &File, dir: &Path) -> Result<bool, Error> {
    match data.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(Error::io(format_args!("lock {}", dir.display()), e)),
    }
}

pub(super) fn open_data(dir: &Path) -> Result<File, Error> {
    let path = dir.join("db");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path).map_err(|e| Error::io(format_args!("open {}", path.display()), e))
}

/// Creates `dir` and what is missing above it, each durably in the one before.
pub(super) fn create_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent(dir);
    create_dir(parent)?;
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .and_then(|()| sync_dir(parent))
        .map_err(|e| Error::io(format_args!("create {}", dir.display()), e))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A snapshot that a crash cut short makes every later open fail. Called with the lock held: nobody is writing one.
pub(super) fn remove_unfinished_snapshots(dir: &Path) -> Result<(), Error> {
    let remove = || -> io::Result<()> {
        for path in paths(dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    };
    remove().map_err(|e| Error::io(format_args!("clear {}", dir.display()), e))
}

/// Makes the files of new rows durable, which the store does not; a loss of power could leave some that it refuses.
pub(super) fn sync_new(dir: &Path, data: &File) -> Result<(), Error> {
    sync_files(dir, data)
        .and_then(|()| sync_dir(parent(dir)))
        .map_err(|e| Error::io(format_args!("sync {}", dir.display()), e))
}

/// Syncs the store's files: those that the data refers to first.
pub(super) fn sync_files(dir: &Path, data: &File) -> io::Result<()> {
    let blobs = dir.join("blobs");
    let of_dir = paths(dir)?.into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "conf" || name.starts_with("snap.")
    });
    for path in paths(&blobs)?.into_iter().chain(of_dir) {
        match OpenOptions::new().read(true).write(true).open(&path).and_then(|file| file.sync_data()) {
            // The store has replaced it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
    }
    sync_dir(&blobs)?;
    data.sync_data()?;
    sync_dir(dir)
}

fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Elsewhere a directory cannot be opened as a file, and its entries are durable with the files.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_is_the_fault_of_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"not a directory").unwrap();
        for path in [file.clone(), file.join("below")] {
            assert_eq!(create_dir(&path).unwrap_err().kind(), ErrorKind::Io);
        }
    }

    #[cfg(unix)]
    #[test]
    fn directories_are_created_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("views/totals/1");
        create_dir(&path).unwrap();
        for path in [&path, path.parent().unwrap()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}
