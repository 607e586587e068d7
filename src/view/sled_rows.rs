//! Rows in sled 0.34.7, and the only file that names it: everything that store does badly is dealt with here.
//!
//! - Every call is isolated: sled panics on some damage, and a panic becomes an error. After one, and after a failed
//!   write or sync, no call reaches sled any more. (With `panic = "abort"` there is nothing to isolate.)
//! - Its `flush` does not sync files, so [`make_durable`](Rows::make_durable) does, through a handle that is open from
//!   the start: sled's own background sync drops errors, and the kernel reports one to each handle only once.
//! - A page of more than 128 KiB goes to a file of its own that sled neither syncs nor keeps for as long as an older
//!   durable state needs it. A page has some 20 rows, so no stored item may exceed about 6 KiB: values are stored in
//!   pieces of 4 KiB, and keys are limited to 1 KiB.
//! - Batches leave garbage until the epoch moves on, so each write moves it. Keep batches to a few hundred rows.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};
use crate::view::directory;
use crate::view::pieces::{self, Head};
use crate::view::rows::{self, Change, Row, Rows, Unread};

/// sled divides its cache into 256 parts and refuses to start with less than a byte for each; this is of some use.
const SMALLEST_CACHE: u64 = 1 << 20;
/// How often sled writes out what it has buffered. A crash loses no more than about this much of a view's progress.
const FLUSH_EVERY_MS: u64 = 1000;
/// How long closing waits for sled, which never ends when its background thread has panicked.
const CLOSE_WAIT: Duration = Duration::from_secs(20);
/// How long a flush is waited for: it never ends when a thread of sled's that had to write for it has panicked.
const FLUSH_WAIT: Duration = Duration::from_secs(60);
/// How long opening is waited for: some 5 million rows take 4 seconds.
const OPEN_WAIT: Duration = Duration::from_secs(900);
/// How long opening waits for the lock, which whoever let go of the rows last may be about to give back.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// Times the epoch is moved after a write: garbage is freed two epochs later.
const EPOCH_MOVES: usize = 3;

/// A directory of rows, locked for as long as this lives.
///
/// The directory is private to its owner (0700): sled makes its files readable to all.
pub(crate) struct SledRows {
    open: Arc<Open>,
}

struct Open {
    dir: PathBuf,
    /// `None` only while closing.
    db: Option<sled::Db>,
    /// Our own handle of sled's data file, for syncs.
    data: File,
    /// Why sled must not be called any more. Set once.
    failed: Mutex<Option<Error>>,
    /// Whether any value may be stored in pieces. Only `write` sets it.
    pieced: AtomicBool,
    /// Held for writing by writes, and for reading while a value is put together from its pieces.
    whole: RwLock<()>,
}

impl SledRows {
    /// Opens the rows in a folder below `root`, which is created when it is missing, with a cache of about `cache_bytes`.
    pub(crate) fn open(root: &Path, folder: &str, cache_bytes: u64) -> Result<SledRows, Error> {
        let dir = &root.join(folder);
        directory::create_dir(dir)?;
        let data = directory::open_data(dir)?;
        lock(&data, dir)?;
        let prepared = directory::prepare(dir);
        data.unlock().map_err(|e| Error::io(format_args!("unlock {}", dir.display()), e))?;
        prepared?;
        let probe = data.try_clone().map_err(|e| Error::io(format_args!("open {}", dir.display()), e))?;
        let place = dir.clone();
        let db = isolated_within(OPEN_WAIT, dir, "open", move || open_db(&place, cache_bytes, &probe))?;
        let mut open = Open {
            dir: dir.to_owned(),
            db: Some(db),
            data,
            failed: Mutex::new(None),
            pieced: AtomicBool::new(false),
            whole: RwLock::new(()),
        };
        directory::sync_new(root, dir, &open.data)?;
        let pieced = open.read("look for long values", |db| {
            Ok(db.range([pieces::PIECES]..).next().transpose().map_err(|e| told(dir, "scan", e))?.is_some())
        })?;
        open.pieced = AtomicBool::new(pieced);
        Ok(SledRows { open: Arc::new(open) })
    }
}

impl fmt::Debug for SledRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledRows").field("dir", &self.open.dir).finish_non_exhaustive()
    }
}

impl Rows for SledRows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let open = &self.open;
        open.read("read", |db| {
            let head = db.get(pieces::row_key(key)).map_err(|e| told(&open.dir, "read", e))?;
            head.map(|head| open.join(db, key, &head)).transpose()
        })
    }

    fn floor(&self, to: Bound<&[u8]>) -> Result<Option<Row>, Error> {
        let open = &self.open;
        let range = Unread { from: Bound::Unbounded, to: to.map(<[u8]>::to_vec) };
        open.read("read", |db| {
            let found = db.range(pieces::stored_range(&range)).next_back();
            let Some(item) = found else { return Ok(None) };
            let (stored, head) = item.map_err(|e| told(&open.dir, "read", e))?;
            let key = pieces::key_of(&stored)?;
            Ok(Some((key.to_vec(), open.join(db, key, &head)?)))
        })
    }

    fn key_after(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let open = &self.open;
        open.read("read", |db| {
            let bounds = (Bound::Excluded(pieces::row_key(key)), Bound::Excluded(vec![pieces::PIECES]));
            let Some(item) = db.range(bounds).next() else { return Ok(None) };
            let (stored, _) = item.map_err(|e| told(&open.dir, "read", e))?;
            pieces::key_of(&stored).map(|key| Some(key.to_vec()))
        })
    }

    fn write(&self, changes: &[Change]) -> Result<(), Error> {
        rows::check_stored(changes)?;
        let latest: BTreeMap<&[u8], Option<&[u8]>> =
            changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        let open = &self.open;
        let _alone = open.whole.write().unwrap_or_else(PoisonError::into_inner);
        open.change("write", |db| {
            let batch = open.batch(db, &latest)?;
            db.apply_batch(batch).map_err(|e| told(&open.dir, "write", e))?;
            (0..EPOCH_MOVES).for_each(|_| crossbeam_epoch::pin().flush());
            Ok(())
        })
    }

    fn make_durable(&self) -> Result<(), Error> {
        let open = &self.open;
        open.change("flush", |db| {
            let (db, dir) = (db.clone(), open.dir.clone());
            isolated_within(FLUSH_WAIT, &open.dir, "flush", move || {
                db.flush().map_err(|e| told(&dir, "flush", e)).map(drop)
            })?;
            #[cfg(test)]
            directory::trace::record(Path::new("flush"));
            directory::sync_files(&open.dir, &open.data)
                .map_err(|e| Error::io(format_args!("sync the view in {}", open.dir.display()), e))
        })
    }
}

impl Open {
    /// Calls sled to read. Its damage is remembered; a fault of the environment may pass.
    fn read<T>(&self, doing: &str, work: impl FnOnce(&sled::Db) -> Result<T, Error>) -> Result<T, Error> {
        let _whole = self.whole.read().unwrap_or_else(PoisonError::into_inner);
        self.call(doing, work, |error| error.kind() == ErrorKind::View)
    }

    /// Calls sled to write. After an error of any kind its state is unknown: half of a batch may be in its memory.
    fn change(&self, doing: &str, work: impl FnOnce(&sled::Db) -> Result<(), Error>) -> Result<(), Error> {
        self.call(doing, work, |_| true)
    }

    fn call<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&sled::Db) -> Result<T, Error>,
        is_final: impl FnOnce(&Error) -> bool,
    ) -> Result<T, Error> {
        if let Some(error) = &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.clone());
        }
        let db = self.db.as_ref().ok_or_else(|| Error::new(ErrorKind::Closed, "the view was closed"))?;
        let mut panicked = true;
        let done = isolated(&self.dir, doing, || {
            let done = work(db);
            panicked = false;
            done
        });
        if let Err(error) = &done
            && (panicked || is_final(error))
        {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| error.clone());
        }
        done
    }

    fn join(&self, db: &sled::Db, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, Error> {
        let head = Head::parse(stored)?;
        let mut value = head.start.to_vec();
        for number in head.pieces() {
            let piece = db.get(pieces::piece_key(key, number)).map_err(|e| told(&self.dir, "read", e))?;
            value.extend_from_slice(
                &piece.ok_or_else(|| pieces::damage("a piece of a long value is missing"))?,
            );
        }
        if value.len() != head.len {
            return Err(pieces::damage("the pieces of a long value do not add up to its length"));
        }
        Ok(value)
    }

    fn batch(&self, db: &sled::Db, changes: &BTreeMap<&[u8], Option<&[u8]>>) -> Result<sled::Batch, Error> {
        let mut batch = sled::Batch::default();
        let pieced = self.pieced.load(Ordering::Acquire);
        for (key, value) in changes {
            let stored = pieces::row_key(key);
            if pieced && let Some(old) = db.get(&stored).map_err(|e| told(&self.dir, "read", e))? {
                Head::parse(&old)?.pieces().for_each(|number| batch.remove(pieces::piece_key(key, number)));
            }
            let Some(value) = value else {
                batch.remove(stored);
                continue;
            };
            let (head, rest) = pieces::cut(value);
            batch.insert(stored, head);
            for (number, piece) in rest {
                self.pieced.store(true, Ordering::Release);
                batch.insert(pieces::piece_key(key, number), piece);
            }
        }
        Ok(batch)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            let started = Instant::now();
            close(&self.dir, db);
            // Its file, and so its lock, may outlast it in deferred work: a reopen right after must find it free.
            while started.elapsed() < CLOSE_WAIT
                && directory::is_locked(&self.data, &self.dir).unwrap_or(false)
            {
                crossbeam_epoch::pin().flush();
                thread::sleep(Duration::from_millis(1));
            }
            // Closing is not enough: a process that is just being started has our handles until it runs its program.
            drop(self.data.unlock());
        }
    }
}

/// Takes the lock, which other rows of this process may be about to give back.
fn lock(data: &File, dir: &Path) -> Result<(), Error> {
    let started = Instant::now();
    while directory::is_locked(data, dir)? {
        if started.elapsed() >= LOCK_WAIT {
            return Err(directory::locked(dir));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Drops the database in a thread that is waited for, but not for ever.
fn close(dir: &Path, db: sled::Db) {
    let (closed, wait) = mpsc::channel::<()>();
    let closing = catch_unwind(AssertUnwindSafe(|| {
        thread::Builder::new().name("everfold-view-close".into()).spawn(move || {
            release(db);
            drop(closed);
        })
    }));
    let Ok(Ok(closing)) = closing else { return };
    if wait.recv_timeout(CLOSE_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
        tracing::warn!(dir = %dir.display(), "the store of a view does not close; leaving it");
    } else if closing.join().is_err() {
        tracing::warn!(dir = %dir.display(), "the store of a view failed while it was closed");
    }
}

/// Drops the parts one by one: each flushes when it goes, and a second panic during the first would abort the process.
fn release(db: sled::Db) {
    let pages = db.context.pagecache.clone();
    let trees = catch_unwind(AssertUnwindSafe(|| {
        db.tree_names().into_iter().map(|name| db.open_tree(name)).collect::<Vec<_>>()
    }));
    let first = sled::Tree::clone(&db);
    drop(catch_unwind(AssertUnwindSafe(move || drop(db))));
    drop(catch_unwind(AssertUnwindSafe(move || drop(first))));
    for tree in trees.unwrap_or_default() {
        drop(catch_unwind(AssertUnwindSafe(move || drop(tree))));
    }
    drop(catch_unwind(AssertUnwindSafe(move || drop(pages))));
}

fn open_db(dir: &Path, cache_bytes: u64, data: &File) -> Result<sled::Db, Error> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes.max(SMALLEST_CACHE))
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(FLUSH_EVERY_MS))
        .print_profile_on_drop(false);
    config.open().map_err(|e| {
        // A lock that is held is one of several errors of the kind `Other`, so ask the lock itself.
        if directory::is_locked(data, dir).unwrap_or(false) {
            return directory::locked(dir);
        }
        drop(data.unlock());
        told(dir, "open", e)
    })
}

/// Runs `work`; a panic becomes an error, which blames the view unless the environment is at fault.
fn isolated<T>(dir: &Path, doing: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        if let Err(error) = directory::try_environment(dir) {
            return Err(Error::io(format_args!("{doing} the view in {}", dir.display()), error));
        }
        let message = format!("the store of the view in {} panicked: {}", dir.display(), text(&*payload));
        Err(Error::new(ErrorKind::View, message))
    })
}

/// As [`isolated`], in a thread that is not waited for for ever. What it makes after that, it drops.
fn isolated_within<T: Send + 'static>(
    limit: Duration,
    dir: &Path,
    doing: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, wait) = mpsc::sync_channel(1);
    let place = dir.to_owned();
    thread::Builder::new()
        .name(format!("everfold-view-{doing}"))
        .spawn(move || drop(done.send(isolated(&place, doing, work))))
        .map_err(|e| Error::io(format_args!("{doing} the view in {}", dir.display()), e))?;
    wait.recv_timeout(limit).unwrap_or_else(|_| {
        let message = format!(
            "could not {doing} the view in {}: it does not end; restart the process to try again",
            dir.display()
        );
        Err(Error::new(ErrorKind::Io, message))
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// sled's error as ours: `View` when the rows are to blame, and otherwise the operating system's.
fn told(dir: &Path, doing: &str, error: sled::Error) -> Error {
    let blame = |error: &dyn fmt::Display| {
        let message = format!("could not {doing} the view in {}: {error}", dir.display());
        Error::new(ErrorKind::View, message)
    };
    match error {
        // sled makes errors of these kinds itself when a file is short, missing or not what it should be. The kernel's
        // own (no permission, no space, no descriptors, a bad disk) have others.
        sled::Error::Io(error) => match error.kind() {
            io::ErrorKind::Other
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotFound => blame(&error).because(error),
            _ => Error::io(format_args!("{doing} the view in {}", dir.display()), error),
        },
        error => blame(&error),
    }
}

#[cfg(test)]
#[path = "sled_rows_tests.rs"]
mod tests;
