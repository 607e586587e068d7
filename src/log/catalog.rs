//! What readers and the writer share: segments, their indexes, the watermark.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use uuid::Uuid;

use super::holds::Holds;
use super::index::directory::Directory;
use super::index::key::KeyHasher;
use super::segment::Segment;
use crate::error::{Corruption, Error, ErrorKind};
use crate::event::Position;
use crate::storage::Storage;
use crate::watermark::Watermark;

/// How far the writer has come.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) durable: Position,
    /// Why there will be no more.
    pub(crate) failure: Option<Error>,
}

/// How a log is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) store_id: Uuid,
    pub(crate) map_segments: bool,
    /// Whether index files that are missing may be written.
    pub(crate) writable: bool,
}

#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) reading: Reading,
    pub(crate) hasher: KeyHasher,
    /// Events up to here are durable. Opening sets it, and only the committer raises it; it ends when the log is closed
    /// or poisoned, or was opened read-only.
    pub(crate) watermark: Watermark,
    /// Where the log starts, and what is read of it.
    pub(crate) holds: Holds,
    segments: RwLock<Segments>,
    /// In order, none of a segment that another is of.
    directories: RwLock<Vec<Arc<Directory>>>,
    /// What is wrong with the bytes after the watermark, in a log that was opened all the same, to be read.
    damaged_end: RwLock<Option<Corruption>>,
    closed: AtomicBool,
    /// Why there are no more appends, after a write or sync failed.
    failure: OnceLock<Error>,
}

#[derive(Debug, Default)]
struct Segments {
    /// The number of the first one in the list: their headers count on from it.
    first_number: u64,
    /// In order. Only opening and the writer add to them, and retention takes the first ones.
    list: Vec<Arc<Segment>>,
}

impl Catalog {
    /// Of a log whose first segment has this number.
    pub(crate) fn new(storage: Arc<dyn Storage>, reading: Reading, first_number: u64) -> Self {
        Catalog {
            storage,
            reading,
            hasher: KeyHasher::new(reading.store_id),
            watermark: Watermark::default(),
            holds: Holds::default(),
            segments: RwLock::new(Segments { first_number, list: Vec::new() }),
            directories: RwLock::default(),
            damaged_end: RwLock::default(),
            closed: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn add(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).list.push(segment);
    }

    /// The segment that holds a position.
    pub(crate) fn segment_with(&self, position: Position) -> Option<Arc<Segment>> {
        self.numbered_with(position).map(|(_, segment)| segment)
    }

    /// The segment that holds a position, and its number.
    pub(crate) fn numbered_with(&self, position: Position) -> Option<(u64, Arc<Segment>)> {
        self.with_segments(|first_number, list| {
            let after = list.partition_point(|segment| segment.header.first <= position);
            let at = after.checked_sub(1)?;
            let number = first_number.checked_add(u64::try_from(at).ok()?)?;
            list.get(at).map(|segment| (number, segment.clone()))
        })
    }

    /// The segment with a number.
    pub(crate) fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        self.with_segments(|first_number, list| {
            let at = usize::try_from(number.checked_sub(first_number)?).ok()?;
            list.get(at).cloned()
        })
    }

    /// The numbers of the first segment and of the active one.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        self.with_segments(|first_number, list| {
            let more = u64::try_from(list.len().saturating_sub(1)).unwrap_or(u64::MAX);
            (first_number, first_number.saturating_add(more))
        })
    }

    fn with_segments<T>(&self, look: impl FnOnce(u64, &[Arc<Segment>]) -> T) -> T {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        look(segments.first_number, &segments.list)
    }

    /// Takes away the segments before this one, whose streams' versions the base has. Whoever has one of them keeps it,
    /// and finds its file gone if it was not open.
    pub(crate) fn drop_before(&self, number: u64) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let gone = usize::try_from(number.saturating_sub(segments.first_number)).unwrap_or(usize::MAX);
        let gone = gone.min(segments.list.len());
        segments.list.drain(..gone);
        segments.first_number = segments.first_number.max(number);
        drop(segments);
        let mut directories = self.directories.write().unwrap_or_else(PoisonError::into_inner);
        directories.retain(|directory| directory.span.end() > number);
    }

    /// The first position there is.
    pub(crate) fn log_start(&self) -> Position {
        self.holds.log_start()
    }

    /// The directory of a segment, if there is one.
    pub(crate) fn directory_of(&self, number: u64) -> Option<Arc<Directory>> {
        let directories = self.directories.read().unwrap_or_else(PoisonError::into_inner);
        let after = directories.partition_point(|directory| directory.span.start <= number);
        let directory = after.checked_sub(1).and_then(|at| directories.get(at))?;
        (number < directory.span.end()).then(|| directory.clone())
    }

    /// Adds a directory in place of those of the same segments.
    pub(crate) fn add_directory(&self, new: Arc<Directory>) {
        let mut directories = self.directories.write().unwrap_or_else(PoisonError::into_inner);
        let span = new.span;
        directories.retain(|other| other.span.start >= span.end() || other.span.end() <= span.start);
        let at = directories.partition_point(|other| other.span.start < span.start);
        directories.insert(at, new);
    }

    /// Takes a directory away that does not verify.
    pub(crate) fn drop_directory(&self, bad: &Arc<Directory>) {
        let mut directories = self.directories.write().unwrap_or_else(PoisonError::into_inner);
        directories.retain(|other| !Arc::ptr_eq(other, bad));
    }

    pub(crate) fn set_damaged_end(&self, corruption: Corruption) {
        *self.damaged_end.write().unwrap_or_else(PoisonError::into_inner) = Some(corruption);
    }

    /// The error that a read meets at the end of the log when events after it were damaged.
    pub(crate) fn damaged_end(&self) -> Option<Error> {
        self.damaged_end.read().unwrap_or_else(PoisonError::into_inner).clone().map(Error::from)
    }

    /// Tells readers and waiters what the writer has reached.
    pub(crate) fn publish(&self, reached: Reached) {
        self.watermark.advance(reached.durable);
        if let Some(failure) = reached.failure
            && self.failure.set(failure).is_ok()
        {
            self.watermark.end();
        }
    }

    /// Why no more events will come, when that is because a write or sync failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// Why the watermark ended.
    pub(crate) fn end_reason(&self) -> Error {
        self.failure().unwrap_or_else(closed)
    }

    /// No more reads and appends are begun.
    pub(crate) fn refuse(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The same, and nobody waits any longer.
    pub(crate) fn close(&self) {
        self.refuse();
        self.watermark.end();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store was closed; open it again")
}
