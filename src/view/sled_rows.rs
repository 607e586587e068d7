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
use crate::view::digest::{Digest, RowHash};
use crate::view::directory;
use crate::view::meta::META_KEY;
use crate::view::pieces::{self, Head};
use crate::view::rows::{self, Change, End, Row, Rows, RowsIter, Unread};

/// sled divides its cache into 256 parts and refuses to start with less than a byte for each; this is of some use.
const SMALLEST_CACHE: u64 = 1 << 20;
/// How often sled writes out what it has buffered. A crash loses no more than about this much of a view's progress.
const FLUSH_EVERY_MS: u64 = 1000;
/// How long closing waits for sled, which never ends when its background thread has panicked.
const CLOSE_WAIT: Duration = Duration::from_secs(20);
/// Bytes of rows after which a page of a scan ends.
const PAGE_BYTES: usize = 256 << 10;
/// Times the epoch is moved after a write: garbage is freed two epochs later.
const EPOCH_MOVES: usize = 3;

/// A directory of rows, locked for as long as this or a scan of it lives.
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
    /// Opens the rows in `dir`, which is created when it is missing, with a cache of about `cache_bytes`.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<SledRows, Error> {
        directory::create_dir(dir)?;
        let data = directory::open_data(dir)?;
        if directory::is_locked(&data, dir)? {
            return Err(directory::locked(dir));
        }
        let prepared = directory::remove_unfinished_snapshots(dir);
        data.unlock().map_err(|e| Error::io(format_args!("unlock {}", dir.display()), e))?;
        prepared?;
        let db = isolated(dir, "open", || open_db(dir, cache_bytes, &data))?;
        let mut open = Open {
            dir: dir.to_owned(),
            db: Some(db),
            data,
            failed: Mutex::new(None),
            pieced: AtomicBool::new(false),
            whole: RwLock::new(()),
        };
        directory::sync_new(dir, &open.data)?;
        let pieced = open.read("look for long values", |db| {
            Ok(db.range([pieces::PIECES]..).next().transpose().map_err(|e| told(dir, "scan", e))?.is_some())
        })?;
        open.pieced = AtomicBool::new(pieced);
        Ok(SledRows { open: Arc::new(open) })
    }

    /// Reads all rows but that about the view.
    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        let open = &self.open;
        let mut digest = Digest::default();
        open.read("verify", |db| {
            for item in db.range([pieces::ROW]..[pieces::PIECES]) {
                let (stored, head) = item.map_err(|e| told(&open.dir, "verify", e))?;
                let key = pieces::key_of(&stored)?;
                if key != META_KEY {
                    let parsed = Head::parse(&head)?;
                    digest.add(match parsed.is_whole() {
                        true => RowHash::of(key, parsed.start),
                        false => RowHash::of(key, &open.join(db, key, &head)?),
                    });
                }
            }
            Ok(digest)
        })
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

    fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        let dir = &self.open.dir;
        self.open.read("read", |db| db.contains_key(pieces::row_key(key)).map_err(|e| told(dir, "read", e)))
    }

    fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RowsIter {
        let open = Arc::clone(&self.open);
        rows::paged(from, to, move |unread, end, limit| {
            open.read("scan", |db| open.page(db, unread, end, limit))
        })
    }

    fn write(&self, changes: &[Change]) -> Result<(), Error> {
        rows::check_limits(changes)?;
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
            db.flush().map_err(|e| told(&open.dir, "flush", e))?;
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

    fn page(&self, db: &sled::Db, rows: &Unread, end: End, limit: usize) -> Result<Vec<Row>, Error> {
        let mut items = db.range(pieces::stored_range(rows));
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < limit && bytes < PAGE_BYTES {
            let item = match end {
                End::Front => items.next(),
                End::Back => items.next_back(),
            };
            let Some(item) = item else { break };
            let (stored, head) = item.map_err(|e| told(&self.dir, "scan", e))?;
            let key = pieces::key_of(&stored)?;
            let value = self.join(db, key, &head)?;
            bytes += key.len() + value.len();
            page.push((key.to_vec(), value));
        }
        Ok(page)
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
        }
    }
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
mod tests {
    use std::fs;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::view::rows::contract::{self, Model};
    use crate::view::rows::{KEY_LIMIT, VALUE_LIMIT};

    const CACHE: u64 = 1 << 20;

    fn open(dir: &Path) -> SledRows {
        SledRows::open(dir, CACHE).unwrap()
    }

    fn row(n: u32, len: usize) -> Change {
        (n.to_be_bytes().to_vec(), Some(vec![u8::try_from(n % 251).unwrap(); len]))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rows_on_disk_are_a_sorted_map_that_outlives_a_reopen(
            batches in vec(vec(contract::change(), 0..40), 0..6),
            ranges in vec((contract::bound(), contract::bound(), vec(any::<bool>(), 0..30)), 0..8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut model = Model::new();
            for batch in &batches {
                let rows = open(dir.path());
                contract::check_all(&rows, &model);
                contract::write(&rows, &mut model, batch);
                contract::check_all(&rows, &model);
            }
            let rows = open(dir.path());
            for (from, to, turns) in ranges {
                contract::check_range(&rows, &model, from, to, &turns);
            }
        }
    }

    #[test]
    fn rows_on_disk_keep_the_limits() {
        let dir = tempfile::tempdir().unwrap();
        contract::check_limits_are_kept(&open(dir.path()));
    }

    #[test]
    fn a_long_scan_returns_every_row_once_from_either_end() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, mut model) = (open(dir.path()), Model::new());
        for batch in 0..10 {
            let changes: Vec<_> = (batch * 200..(batch + 1) * 200).map(|n| row(n * 7, 9)).collect();
            contract::write(&rows, &mut model, &changes);
        }
        contract::check_all(&rows, &model);
        let turns: Vec<bool> = (0..3000).map(|n| n % 3 == 0).collect();
        contract::check_range(&rows, &model, Bound::Unbounded, Bound::Unbounded, &turns);
        contract::check_range(&rows, &model, Bound::Unbounded, Bound::Unbounded, &[false; 3000]);
    }

    #[test]
    fn long_values_leave_no_pieces_behind_and_no_files_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let items = |rows: &SledRows| rows.open.db.as_ref().unwrap().len();
        let rows = open(dir.path());
        for round in 0..4 {
            let changes: Vec<_> = (0..40).map(|n| row(n, 30_000 + 9000 * round)).collect();
            rows.write(&changes).unwrap();
        }
        let largest = vec![(vec![0xFF; KEY_LIMIT], Some(vec![1; VALUE_LIMIT]))];
        rows.write(&largest).unwrap();
        rows.make_durable().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
        assert_eq!(items(&rows), 40 * 14 + 257 - 1);
        drop(rows);
        let rows = open(dir.path());
        rows.write(&(0..20).map(|n| row(n, 5)).collect::<Vec<_>>()).unwrap();
        rows.write(&(20..40).map(|n| (row(n, 0).0, None)).collect::<Vec<_>>()).unwrap();
        rows.write(&[(largest[0].0.clone(), Some(vec![])), (largest[0].0.clone(), None)]).unwrap();
        assert_eq!(items(&rows), 20);
        assert_eq!(
            contract::all(&rows),
            (0..20).map(|n| (row(n, 5).0, row(n, 5).1.unwrap())).collect::<Vec<_>>()
        );
    }

    #[test]
    fn keys_that_start_alike_for_long_are_fine() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, mut model) = (open(dir.path()), Model::new());
        let changes: Vec<_> =
            (0..2000u32).map(|n| ([&[b'k'; 900][..], &n.to_le_bytes()].concat(), Some(vec![1]))).collect();
        changes.chunks(200).for_each(|changes| contract::write(&rows, &mut model, changes));
        drop(rows);
        contract::check_all(&open(dir.path()), &model);
    }

    #[test]
    fn rows_that_are_open_are_locked_and_not_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path());
        let unfinished = dir.path().join("snap.0000000000000001.generating");
        fs::write(&unfinished, b"half").unwrap();
        let refused = SledRows::open(dir.path(), CACHE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked { pid: None });
        assert!(unfinished.exists(), "only the owner of the lock clears up");
        first.write(&[row(1, 1)]).unwrap();
        drop(first);
        assert_eq!(contract::all(&open(dir.path())).len(), 1);
        assert!(!unfinished.exists());
    }

    #[test]
    fn a_scan_keeps_the_rows_open() {
        let dir = tempfile::tempdir().unwrap();
        let rows = open(dir.path());
        rows.write(&[row(1, 1), row(2, 1)]).unwrap();
        let mut scan = rows.scan(Bound::Unbounded, Bound::Unbounded);
        drop(rows);
        assert!(SledRows::open(dir.path(), CACHE).is_err());
        assert_eq!(scan.by_ref().count(), 2);
        drop(scan);
        open(dir.path());
    }

    #[test]
    fn a_panic_is_an_error_and_the_last_call() {
        let dir = tempfile::tempdir().unwrap();
        let rows = open(dir.path());
        let error = rows
            .open
            .read("test", |_| -> Result<(), Error> { panic!("the tree is {}", "gone") })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::View);
        assert!(error.to_string().contains("the tree is gone"));
        assert_eq!(rows.get(b"a").unwrap_err().kind(), ErrorKind::View);
        drop(rows);
        open(dir.path());
    }

    #[test]
    fn faults_of_the_environment_are_never_blamed_on_the_view() {
        let kind = |error: io::Error| told(Path::new("v"), "open", sled::Error::Io(error)).kind();
        for errno in [1, 5, 11, 12, 13, 23, 24, 30] {
            assert_eq!(kind(io::Error::from_raw_os_error(errno)), ErrorKind::Io, "errno {errno}");
        }
        assert_eq!(kind(io::Error::from_raw_os_error(28)), ErrorKind::DiskFull);
        assert_eq!(kind(io::Error::new(io::ErrorKind::StorageFull, "a clone")), ErrorKind::DiskFull);
        assert_eq!(kind(io::ErrorKind::UnexpectedEof.into()), ErrorKind::View);
    }
}
