//! The directory under rows on disk, and its syncs. `sled_rows` calls the store in between.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// What the store writes at once at the most.
const SEGMENT: usize = 512 << 10;
/// How long it is waited for that rows are let go of.
const FREE_WAIT: Duration = Duration::from_secs(3);
/// The store's settings have some twenty bytes.
const LARGEST_CONF: u64 = 64 << 10;

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

/// Whether somebody has the rows in a directory open.
pub(super) fn is_in_use(dir: &Path) -> Result<bool, Error> {
    match OpenOptions::new().read(true).write(true).open(dir.join("db")) {
        Ok(data) if is_locked(&data, dir)? => Ok(true),
        Ok(data) => {
            data.unlock().map_err(|e| Error::io(format_args!("unlock {}", dir.display()), e)).map(|()| false)
        }
        // What cannot be opened as a file is open nowhere.
        Err(_) => Ok(false),
    }
}

/// Waits for whoever lets go of the rows in a directory; not for ever.
pub(super) fn wait_until_free(dir: &Path) -> Result<(), Error> {
    let since = Instant::now();
    while is_in_use(dir)? {
        if since.elapsed() >= FREE_WAIT {
            return Err(locked(dir));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(super) fn open_data(dir: &Path) -> Result<File, Error> {
    let path = dir.join("db");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path).map_err(|e| match e.kind() {
        io::ErrorKind::IsADirectory => {
            Error::new(ErrorKind::View, format!("{} is a directory", path.display()))
        }
        _ => Error::io(format_args!("open {}", path.display()), e),
    })
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

/// Looks at the files before the store does. Called with the lock held: nobody is writing one of them.
///
/// A snapshot that a crash cut short makes every later open fail: it is removed. What is no file or far too large for
/// what it is called is damage: the store would read it whole into memory.
pub(super) fn prepare(dir: &Path) -> Result<(), Error> {
    let fault = |e| Error::io(format_args!("look at {}", dir.display()), e);
    let data = fs::metadata(dir.join("db")).map_err(fault)?.len();
    for path in paths(dir).map_err(fault)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let found = fs::symlink_metadata(&path).map_err(fault)?;
        let fits = match &*name {
            "conf" => found.is_file() && found.len() <= LARGEST_CONF,
            "blobs" => found.is_dir(),
            _ if !name.starts_with("snap.") => true,
            // It has some bytes for each page, and the data has more.
            _ => found.is_file() && found.len() <= data.saturating_mul(4).saturating_add(LARGEST_CONF),
        };
        if !fits {
            let message = format!("{} of the view in {} is not what it is called", name, dir.display());
            return Err(Error::new(ErrorKind::View, message));
        }
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path).map_err(fault)?;
        }
    }
    Ok(())
}

/// Makes the files of new rows durable, which the store does not; a loss of power could leave some that it refuses. So
/// are the names of the folders up to the root, also those that were there: a process that was killed may have made
/// them and no more.
pub(super) fn sync_new(root: &Path, dir: &Path, data: &File) -> Result<(), Error> {
    let above = dir.ancestors().skip(1).take_while(|above| above.starts_with(root) && dir != root);
    sync_files(dir, data)
        .and_then(|()| above.into_iter().try_for_each(sync_dir))
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
        // All of them stay: the store removes blobs no more, and makes snapshots when it is opened.
        sync(&path, || OpenOptions::new().read(true).write(true).open(&path)?.sync_data())?;
    }
    sync_dir(&blobs)?;
    sync(&dir.join("db"), || data.sync_data())?;
    sync_dir(dir)
}

/// All syncs go through here.
fn sync(path: &Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    #[cfg(test)]
    trace::allow(path)?;
    work()?;
    #[cfg(test)]
    trace::record(path);
    let _name = path;
    Ok(())
}

fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

#[cfg(unix)]
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync(dir, || File::open(dir)?.sync_all())
}

/// Elsewhere a directory cannot be opened as a file, and its entries are durable with the files.
#[cfg(not(unix))]
pub(super) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// What was synced, in order, by the thread that asks; and a sync that fails.
#[cfg(test)]
pub(super) mod trace {
    use std::cell::RefCell;
    use std::io;
    use std::path::{Path, PathBuf};

    #[derive(Default)]
    struct Trace {
        done: Vec<String>,
        failing: Option<PathBuf>,
    }

    thread_local!(static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) });

    pub(in crate::view) fn start() {
        TRACE.set(Some(Trace::default()));
    }

    pub(in crate::view) fn take() -> Vec<String> {
        TRACE.take().map(|trace| trace.done).unwrap_or_default()
    }

    pub(in crate::view) fn fail_at(path: &Path) {
        TRACE.with_borrow_mut(|trace| trace.as_mut().unwrap().failing = Some(path.components().collect()));
    }

    pub(in crate::view) fn allow(path: &Path) -> io::Result<()> {
        let path: PathBuf = path.components().collect();
        let fails =
            TRACE.with_borrow(|trace| trace.as_ref().is_some_and(|t| t.failing.as_ref() == Some(&path)));
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    pub(in crate::view) fn record(path: &Path) {
        let path: PathBuf = path.components().collect();
        TRACE.with_borrow_mut(|trace| {
            if let Some(trace) = trace {
                trace.done.push(path.display().to_string());
            }
        });
    }
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
