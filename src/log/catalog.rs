//! What readers and the writer share: segments, index, watermark.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::index::{MemoryIndex, StreamIndex};
use super::segment::Segment;
use crate::error::{Corruption, Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::storage::Storage;
use crate::watermark::Watermark;

/// How far the writer has come.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) durable: Position,
    /// Why there will be no more.
    pub(crate) failure: Option<Error>,
}

#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) index: Box<dyn StreamIndex>,
    /// Events up to here are durable. Opening sets it, and only the committer raises it; it ends when the log is closed
    /// or poisoned, or was opened read-only.
    pub(crate) watermark: Watermark,
    pub(crate) map_segments: bool,
    /// In order. Only recovery and the writer add to them.
    segments: RwLock<Vec<Arc<Segment>>>,
    /// What is wrong with the bytes after the watermark, in a log that was opened all the same, to be read.
    damaged_end: RwLock<Option<Corruption>>,
    closed: AtomicBool,
    /// Why there are no more appends, after a write or sync failed.
    failure: OnceLock<Error>,
}

impl Catalog {
    pub(crate) fn new(storage: Arc<dyn Storage>, map_segments: bool) -> Self {
        Catalog {
            storage,
            index: Box::new(MemoryIndex::default()),
            watermark: Watermark::default(),
            map_segments,
            segments: RwLock::default(),
            damaged_end: RwLock::default(),
            closed: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn add(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    /// The segment that holds a position.
    pub(crate) fn segment_with(&self, position: Position) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.header.first <= position);
        after.checked_sub(1).and_then(|at| segments.get(at)).cloned()
    }

    /// Takes a new event into the index.
    pub(crate) fn index_event(&self, event: &RecordedEvent) {
        self.index.insert(event.stream(), event.version(), event.event_id(), event.position());
    }

    pub(crate) fn set_damaged_end(&self, corruption: Corruption) {
        *self.damaged_end.write().unwrap_or_else(PoisonError::into_inner) = Some(corruption);
    }

    /// The error that a read meets at the end of the log when events after it were damaged.
    pub(crate) fn damaged_end(&self) -> Option<Error> {
        self.damaged_end.read().unwrap_or_else(PoisonError::into_inner).clone().map(Error::from)
    }

    /// The error that a read of a stream meets at its end, when damage may hide events there.
    pub(crate) fn hidden_end(&self, stream: &str) -> Option<Error> {
        self.index.version(stream).err().or_else(|| self.damaged_end())
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
