//! Opens, wires and closes: a log, the projectors that follow it, the handles on both.

mod folds;
#[cfg(test)]
mod folds_tests;
mod projections;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::backup::{BackedUp, Onto, Target, back_up};
use crate::batch::{Appended, Batch};
use crate::error::{AppendError, Error};
use crate::event::{Event, Position, Version};
use crate::guard::{Expected, Guard};
use crate::log::Log;
use crate::log::cursor::Cursor;
use crate::log::report::RecoveryReport;
use crate::log::ticket::Ticket;
use crate::options::Options;
use crate::projection::Chunks;
use crate::query::Query;
use crate::storage::Storage;
use crate::storage::disk::DiskStorage;
use crate::storage::memory::MemoryStorage;
use crate::subscription::Subscription;
use crate::view::folder;
use crate::view::state::RebuiltViews;
use projections::Projectors;

/// An open event store. A cheap handle: clone it, and share it between threads.
///
/// [`close`](Store::close) ends it; when the last handle is dropped, that is tried as well, but nobody is told of a
/// failure. After a crash, opening the store recovers it: everything that was acknowledged as durable is there.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: Log,
    view_cache_bytes: u64,
    view_memory_bytes: usize,
    verify_views: bool,
    change_buffer_bytes: usize,
    projectors: Mutex<Projectors>,
    rebuilt_views: Arc<RebuiltViews>,
    /// The log as projections read it.
    chunks: Arc<Chunks>,
    /// How closing ended, once it has.
    closed: Mutex<Option<Result<(), Error>>>,
}

impl Options {
    /// Opens the store in a directory, recovering it if it was not closed.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`](crate::ErrorKind::Locked) when it is open for writing elsewhere,
    /// [`NotFound`](crate::ErrorKind::NotFound) when there is none and none is to be created, or the directory holds
    /// something else, [`Corrupt`](crate::ErrorKind::Corrupt) when events that may have been acknowledged are damaged
    /// or missing, [`Unsupported`](crate::ErrorKind::Unsupported) when it was written by a newer everfold,
    /// [`Invalid`](crate::ErrorKind::Invalid) when an option is out of range, and
    /// [`DiskFull`](crate::ErrorKind::DiskFull) or [`Io`](crate::ErrorKind::Io) when the system fails a call.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store, Error> {
        let path = path.as_ref();
        let storage =
            if self.create && !self.read_only { DiskStorage::create(path) } else { DiskStorage::open(path) };
        let storage =
            storage.map_err(|e| Error::io(format_args!("open the directory {}", path.display()), e))?;
        self.open_storage(Arc::new(storage))
    }

    /// Opens a store that lives in memory, for tests: of code that uses a store, and of what a crash would do to
    /// it. Its views are in memory too, and are folded anew whenever it is opened.
    ///
    /// # Errors
    /// As [`open`](Options::open).
    pub fn open_memory(&self, storage: &MemoryStorage) -> Result<Store, Error> {
        self.open_storage(Arc::new(storage.clone()))
    }

    fn open_storage(&self, storage: Arc<dyn Storage>) -> Result<Store, Error> {
        let shared = Shared {
            log: Log::open(storage, self)?,
            view_cache_bytes: self.view_cache_bytes,
            view_memory_bytes: self.view_memory_bytes,
            verify_views: self.verify_views,
            change_buffer_bytes: self.change_buffer_bytes,
            projectors: Mutex::default(),
            rebuilt_views: Arc::default(),
            chunks: Arc::default(),
            closed: Mutex::default(),
        };
        if let Some(root) = shared.log.catalog.storage.root().filter(|_| shared.log.is_writable())
            && let Err(error) = folder::remove_dropped(root)
        {
            tracing::warn!(%error, "could not remove what is left of a view that was dropped");
        }
        Ok(Store { shared: Arc::new(shared) })
    }
}

impl Store {
    /// Opens the store in a directory with the default [`Options`], creating it if the directory is empty or not
    /// there.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store, Error> {
        Options::new().open(path)
    }

    /// Appends events to one stream, if it is at the expected version. They are durable on return.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when it is not; else as [`append_batch`](Store::append_batch).
    pub fn append(
        &self,
        stream: &str,
        expected: impl Into<Expected>,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Appended, AppendError> {
        let mut batch = events.into_iter().fold(Batch::new(), |batch, event| batch.event(stream, event));
        let expected = expected.into();
        if expected != Expected::Any {
            batch = batch.guard(Guard::version(stream, expected));
        }
        self.append_batch(batch)
    }

    /// Appends a batch: all of it, at consecutive positions, or nothing. When it returns `Ok`, the events are as
    /// safe as the batch's [`Durability`](crate::Durability) says; by default they survive a loss of power.
    ///
    /// Appending events again whose ids were recorded (after an unclear outcome, say) records nothing and returns
    /// their first positions, with [`repeated`](Appended::repeated) set. Ids that damage hides, or that
    /// [`retain`](Store::retain) has dropped, cannot be recognised.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when a guard does not hold. [`AppendError::Failed`] with a kind of: `Invalid` or
    /// `TooLarge` (a name, size or number beyond the limits), `IdTaken`, `DiskFull` (try again later),
    /// `ReadOnly`, `Closed`, `Poisoned`, `Io` (the next segment could not be made): nothing was written.
    /// `Indeterminate`: the write failed, and appending the same ids again tells whether the events are there, after
    /// reopening the store unless the disk was full. `Corrupt`:
    /// damage hides what version a stream has, and nothing was written.
    pub fn append_batch(&self, batch: Batch) -> Result<Appended, AppendError> {
        self.shared.log.append(&batch)
    }

    /// Submits a batch and returns at once, with a ticket that tells how it ended: so one thread can have thousands of
    /// appends under way, which share their writes and syncs. What one thread submits and appends is recorded in that
    /// order. Each batch succeeds or fails by itself: one that is refused does not hold up those behind it.
    ///
    /// It blocks only while more than [`max_in_flight_bytes`](Options::max_in_flight_bytes) are under way. The batch is
    /// recorded, or refused, whether anybody waits for the ticket or not. [`close`](Store::close) commits everything
    /// that was submitted before.
    ///
    /// # Errors
    /// What can be said before the batch has its turn: `Invalid`, `TooLarge`, `ReadOnly`, `Closed`. All else is told
    /// by the ticket.
    pub fn submit(&self, batch: Batch) -> Result<Ticket, AppendError> {
        self.shared.log.submit(&batch)
    }

    /// Makes everything appended and submitted so far durable, whatever it was appended with. Returns the last durable position.
    ///
    /// # Errors
    /// When a write or sync fails; the store then takes no more appends until it is reopened. `Closed`, `ReadOnly`.
    pub fn sync(&self) -> Result<Position, Error> {
        self.shared.log.sync()
    }

    /// Reads the events after a position, in order. Where [`retain`](Store::retain) has dropped events that were asked
    /// for, this and the other reads give an error of the kind [`Truncated`](crate::ErrorKind::Truncated).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// for event in store.read(everfold::Position::START).limit(100) {
    ///     println!("{}", event?.event_type());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn read(&self, after: Position) -> Cursor {
        Cursor::forward(self.shared.log.catalog.clone(), after)
    }

    /// Reads the events before a position, last first. [`Position::END`] starts at the end.
    pub fn read_backward(&self, before: Position) -> Cursor {
        Cursor::backward(self.shared.log.catalog.clone(), before)
    }

    /// Reads a stream's events after a version, in order. A stream without events reads as empty. Where damage may hide
    /// events of the stream the read ends with an error.
    pub fn read_stream(&self, stream: &str, after: Version) -> Cursor {
        Cursor::stream(self.shared.log.catalog.clone(), stream, after)
    }

    /// Reads a stream's events before a version, last first. [`Version::END`] starts at the end.
    pub fn read_stream_backward(&self, stream: &str, before: Version) -> Cursor {
        Cursor::stream_backward(self.shared.log.catalog.clone(), stream, before)
    }

    /// Reads the events after a position that match a query, in order. What has to be looked up is, in the indexes:
    /// events that do not match are not read.
    ///
    /// ```
    /// use everfold::{Event, Expected, Position, Query};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// store.append("cart-7", Expected::Any, [Event::raw("sold", *b"hats").tag("customer:jsmith")])?;
    /// let sold = Query::all().types(["sold"]).tags(["customer:jsmith"]);
    /// assert_eq!(store.read_query(&sold, Position::START).count(), 1);
    /// # Ok(()) }
    /// ```
    pub fn read_query(&self, query: &Query, after: Position) -> Cursor {
        Cursor::query(self.shared.log.catalog.clone(), query, after)
    }

    /// Reads the events before a position that match a query, last first. [`Position::END`] starts at the end.
    pub fn read_query_backward(&self, query: &Query, before: Position) -> Cursor {
        Cursor::query_backward(self.shared.log.catalog.clone(), query, before)
    }

    /// Follows the log: the events after a position that are there, then those that come, without a gap. In a store
    /// opened read-only none will come.
    pub fn subscribe(&self, after: Position) -> Subscription {
        Subscription::all(self.shared.log.catalog.clone(), after)
    }

    /// Follows a stream, as [`subscribe`](Store::subscribe) does the log.
    pub fn subscribe_stream(&self, stream: &str, after: Version) -> Subscription {
        Subscription::stream(self.shared.log.catalog.clone(), stream, after)
    }

    /// Follows what matches a query, as [`subscribe`](Store::subscribe) does the log. Its
    /// [`checkpoint`](Subscription::checkpoint) also passes what does not match.
    pub fn subscribe_query(&self, query: &Query, after: Position) -> Subscription {
        Subscription::query(self.shared.log.catalog.clone(), query, after)
    }

    /// The last position that is durable, hence readable.
    #[must_use]
    pub fn watermark(&self) -> Position {
        self.shared.log.catalog.watermark.get()
    }

    /// The first position there is: 1, until [`retain`](Store::retain) has dropped what was before.
    #[must_use]
    pub fn log_start(&self) -> Position {
        self.shared.log.catalog.log_start()
    }

    /// Copies everything that was appended so far into a directory of its own, while appends go on, and reads back what
    /// it wrote. Where that cannot be synced, what was durable is copied: [`position`](BackedUp::position) tells. The copy is a store, with the same id; [`restore`](crate::restore) makes a working store of it again.
    ///
    /// The directory is new or empty, or holds an earlier backup of this store: then only what is new is copied, and
    /// what [`retain`](Store::retain) has dropped meanwhile is dropped there too. When it returns, the backup is
    /// durable. One that is cut short leaves the backup there was, or one of a later position. Do not append to a backup:
    /// the next one would refuse it. Views are not copied; they are made anew. In a store opened read-only, what was
    /// durable at its opening is copied.
    ///
    /// # Errors
    /// `Invalid` when the directory holds something else than this store's past, or is in the store's own; `NotFound` when
    /// it holds files of another kind; `Locked` when it is open for writing; `Corrupt` when damage keeps a segment from
    /// being read back ([`repair`](crate::repair) saves the rest); `DiskFull`, `Io`; `Closed`.
    ///
    /// ```
    /// use everfold::{Event, Expected, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let (shop, copy, shop_again) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("3"));
    /// let store = Store::open(&shop)?;
    /// let done = store.append("cart-7", Expected::NoStream, [Event::raw("sold", *b"hats")])?;
    /// assert_eq!(store.backup(&copy)?.position, done.position);
    /// everfold::restore(&copy, &shop_again)?;
    /// assert_eq!(Store::open(&shop_again)?.watermark(), done.position);
    /// # Ok(()) }
    /// ```
    pub fn backup(&self, directory: impl AsRef<Path>) -> Result<BackedUp, Error> {
        self.back_up(Target::Directory(directory.as_ref()), Onto::Backup)
    }

    /// The same into memory, for tests.
    ///
    /// # Errors
    /// As [`backup`](Store::backup).
    pub fn backup_memory(&self, storage: &MemoryStorage) -> Result<BackedUp, Error> {
        self.back_up(Target::Memory(storage), Onto::Backup)
    }

    fn back_up(&self, target: Target<'_>, onto: Onto) -> Result<BackedUp, Error> {
        let log = &self.shared.log;
        if log.is_writable()
            && let Err(error) = log.sync()
        {
            // Of a log that failed, or has no room, what is durable is worth a copy all the more.
            tracing::warn!(%error, "only what was durable before is backed up");
        }
        back_up(&log.catalog, target, onto)
    }

    /// What opening the store found, kept and removed; and the views that were found to be unfit since, and made anew.
    #[must_use]
    pub fn recovery(&self) -> RecoveryReport {
        let rebuilt_views = self.shared.rebuilt_views.list();
        RecoveryReport { rebuilt_views, ..self.shared.log.report.clone() }
    }

    /// The store's id, given at its creation.
    #[must_use]
    pub fn store_id(&self) -> Uuid {
        self.shared.log.store_id()
    }

    pub(crate) fn log(&self) -> &Log {
        &self.shared.log
    }

    /// Ends the projections, commits what was submitted, makes everything durable, marks the store as closed and gives its
    /// lock back. All clones of this handle, subscriptions and views are closed with it. Closing again tells how it ended.
    ///
    /// # Errors
    /// When a write or sync fails. The store is closed all the same, and recovered when it is opened next.
    pub fn close(&self) -> Result<(), Error> {
        self.shared.close()
    }
}

/// Makes a store of a backup, in a directory that is new or empty: copies it, and reads everything back. The backup stays
/// as it is. Views are made anew when their projections are registered.
///
/// The new store has the id of the old one, and is the same up to the backup's position: append to one of them only.
///
/// # Errors
/// `NotFound` when there is no backup, or the directory holds something else; `Invalid` when it holds a store; `Corrupt`
/// when the backup is damaged; `DiskFull`, `Io`.
pub fn restore(backup: impl AsRef<Path>, directory: impl AsRef<Path>) -> Result<BackedUp, Error> {
    let backup = Options::new().read_only(true).map_segments(false).open(backup)?;
    backup.back_up(Target::Directory(directory.as_ref()), Onto::Nothing)
}

impl Shared {
    fn projectors(&self) -> MutexGuard<'_, Projectors> {
        self.projectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Result<(), Error> {
        self.log.check_process()?;
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.get_or_insert_with(|| self.close_once()).clone()
    }

    fn close_once(&self) -> Result<(), Error> {
        let stopped = self.projectors().close();
        stopped.iter().for_each(|registered| registered.projector.stop());
        let result = self.log.close();
        stopped.iter().for_each(|registered| registered.projector.release());
        result
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.log.check_process().is_err() {
            // Views write when they go. In a process that was forked they are left as they are, with their memory.
            let projectors = self.projectors.get_mut().unwrap_or_else(PoisonError::into_inner);
            return std::mem::forget(std::mem::take(projectors));
        }
        if let Err(error) = self.close() {
            tracing::error!(%error, "the store could not be closed; it will be recovered when it is opened");
        }
    }
}
