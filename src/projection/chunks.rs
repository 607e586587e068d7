//! Parts of the log that were read lately, for projections that are at the same place: one reads, the others have it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use crate::event::{EventAt, Position};
use crate::log::catalog::Catalog;
use crate::log::cursor::Cursor;

/// A chunk has the events of so many positions, the first one after a multiple of them.
pub(super) const EVENTS: u64 = 1024;
/// So many chunks are kept, if they are not too large.
const MOST_CHUNKS: usize = 8;
/// So many bytes of events a chunk has at the most; the events behind them are read by everybody alone.
const MOST_CHUNK_BYTES: usize = 4 << 20;
/// So many bytes of events are kept, unless the last chunk alone has more.
const MOST_BYTES: usize = 16 << 20;

/// So many chunks are read before they are asked for.
const AHEAD: u64 = 3;
/// Nothing is read ahead for more readers: those that are at different places would push out what others are to read.
const MOST_READERS_AHEAD: usize = 2;
/// Nothing is read ahead when there are fewer events left.
const LEAST_AHEAD: u64 = 8 * EVENTS;

/// Consecutive events, where they were read.
#[derive(Debug)]
pub(super) struct Chunk {
    first: Position,
    buffers: Vec<Bytes>,
    events: Vec<Placed>,
    bytes: usize,
}

#[derive(Debug)]
struct Placed {
    recorded_at_ns: u64,
    /// The number of its buffer, and where it is in there.
    buffer: usize,
    at: usize,
    len: usize,
}

impl Chunk {
    fn new(first: Position) -> Self {
        Chunk { first, buffers: Vec::new(), events: Vec::new(), bytes: 0 }
    }

    #[inline]
    pub(super) fn event(&self, position: Position) -> Option<EventAt<'_>> {
        let number = position.get().checked_sub(self.first.get())?;
        let Placed { recorded_at_ns, buffer, at, len } = *self.events.get(usize::try_from(number).ok()?)?;
        Some(EventAt { position, recorded_at_ns, buffer: self.buffers.get(buffer)?, at, len })
    }

    fn add(&mut self, event: EventAt<'_>) {
        let EventAt { recorded_at_ns, buffer, at, len, .. } = event;
        if !self.buffers.last().is_some_and(|last| event.is_in(last)) {
            self.buffers.push(buffer.clone());
        }
        self.events.push(Placed { recorded_at_ns, buffer: self.buffers.len() - 1, at, len });
        self.bytes += len;
    }

    /// Reads the events from a position on, as far as they are few and can be read.
    fn read(catalog: &Arc<Catalog>, first: Position) -> Self {
        let mut chunk = Chunk::new(first);
        let mut cursor = Cursor::forward(catalog.clone(), first.previous()).limit(EVENTS);
        while chunk.bytes < MOST_CHUNK_BYTES {
            let Some(Ok(())) = cursor.next_with(|event| chunk.add(event)) else { break };
        }
        chunk
    }
}

/// The chunks that were read last, of one store.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    kept: Mutex<Kept>,
    /// A chunk was read, or could not be.
    read: Condvar,
    /// There is something to be read ahead, or nobody reads any more.
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many read now: after the last of them nothing is kept.
    readers: usize,
    /// In the order in which they were read: what was read ahead is asked for last.
    chunks: Vec<Slot>,
    ahead: Ahead,
    reader: Option<AheadReader>,
}

/// The chunks that are to be read before they are asked for: where the next begins, and the last.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    next: Position,
    last: Position,
}

/// The thread that reads ahead.
#[derive(Debug)]
struct AheadReader {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Slot {
    first: Position,
    /// None while somebody is reading it.
    chunk: Option<Arc<Chunk>>,
}

/// The first position of the chunk with this one.
pub(super) fn first_of(position: Position) -> Position {
    Position::new(position.previous().get() / EVENTS * EVENTS + 1)
}

impl Chunks {
    /// Somebody reads from now on.
    pub(super) fn begin(&self) {
        self.kept().readers += 1;
    }

    /// Somebody reads no more.
    pub(super) fn end(&self) {
        let mut kept = self.kept();
        kept.readers = kept.readers.saturating_sub(1);
        if kept.readers > 0 {
            return;
        }
        kept.chunks.clear();
        let Some(AheadReader { thread, stop }) = kept.reader.take() else { return };
        stop.store(true, Ordering::Release);
        drop(kept);
        self.wanted.notify_all();
        if thread.join().is_err() {
            tracing::error!("the thread that reads ahead had panicked");
        }
        let mut kept = self.kept();
        if kept.readers == 0 {
            kept.chunks.clear();
        }
    }

    /// The chunk that begins at a position, all of whose events are durable. Unless it `reads`, only if somebody has it
    /// or reads it.
    pub(super) fn get(
        self: &Arc<Self>,
        catalog: &Arc<Catalog>,
        first: Position,
        reads: bool,
    ) -> Option<Arc<Chunk>> {
        let mut kept = self.kept();
        if reads {
            self.want_ahead(&mut kept, catalog, first);
        }
        loop {
            match kept.find(first) {
                Found::Chunk(chunk) => return Some(chunk),
                Found::BeingRead => kept = self.read.wait(kept).unwrap_or_else(PoisonError::into_inner),
                Found::Nothing if reads => return Some(self.read(kept, catalog, first)),
                Found::Nothing => return None,
            }
        }
    }

    fn read(&self, mut kept: MutexGuard<'_, Kept>, catalog: &Arc<Catalog>, first: Position) -> Arc<Chunk> {
        kept.chunks.push(Slot { first, chunk: None });
        drop(kept);
        let mut reading = Reading { chunks: self, first, chunk: None };
        let chunk = Arc::new(Chunk::read(catalog, first));
        reading.chunk = Some(chunk.clone());
        chunk
    }

    /// Has the chunks behind one that is being asked for read by a thread of its own, if there are many.
    fn want_ahead(self: &Arc<Self>, kept: &mut Kept, catalog: &Arc<Catalog>, first: Position) {
        if kept.readers > MOST_READERS_AHEAD || first.plus(LEAST_AHEAD) > catalog.watermark.get() {
            return;
        }
        let (after, last) = (first.plus(EVENTS), first.plus(AHEAD * EVENTS));
        let is_near = (after..=last.plus(EVENTS)).contains(&kept.ahead.next);
        kept.ahead = Ahead { next: if is_near { kept.ahead.next } else { after }, last };
        if kept.reader.is_some() {
            return self.wanted.notify_all();
        }
        let (chunks, catalog, stop) = (self.clone(), catalog.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("everfold-ahead".into());
        // Without it all is read when it is asked for.
        let thread = thread.spawn(move || chunks.read_ahead(&catalog, &stopped)).ok();
        kept.reader = thread.map(|thread| AheadReader { thread, stop });
    }

    fn read_ahead(&self, catalog: &Arc<Catalog>, stop: &AtomicBool) {
        let mut kept = self.kept();
        while !stop.load(Ordering::Acquire) {
            let Ahead { next, last } = kept.ahead;
            if next > last {
                kept = self.wanted.wait(kept).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            kept.ahead.next = next.plus(EVENTS);
            if matches!(kept.find(next), Found::Nothing) {
                self.read(kept, catalog, next);
                kept = self.kept();
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is of a chunk.
enum Found {
    Chunk(Arc<Chunk>),
    BeingRead,
    Nothing,
}

impl Kept {
    fn find(&self, first: Position) -> Found {
        let Some(at) = self.chunks.iter().position(|slot| slot.first == first) else { return Found::Nothing };
        let chunk = self.chunks.get(at).and_then(|slot| slot.chunk.clone());
        chunk.map_or(Found::BeingRead, Found::Chunk)
    }

    /// Lets go of what was read first.
    fn shrink(&mut self) {
        let size = |slots: &[Slot]| -> usize {
            slots.iter().filter_map(|slot| slot.chunk.as_ref()).map(|chunk| chunk.bytes).sum()
        };
        while self.chunks.len() > MOST_CHUNKS || (self.chunks.len() > 1 && size(&self.chunks) > MOST_BYTES) {
            let Some(oldest) = self.chunks.iter().position(|slot| slot.chunk.is_some()) else { return };
            self.chunks.remove(oldest);
        }
    }
}

/// A chunk being read: those who wait for it are told how it ended, however it did.
struct Reading<'a> {
    chunks: &'a Chunks,
    first: Position,
    chunk: Option<Arc<Chunk>>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut kept = self.chunks.kept();
        kept.chunks.retain(|slot| slot.first != self.first || slot.chunk.is_some());
        if let Some(chunk) = self.chunk.take() {
            kept.chunks.push(Slot { first: self.first, chunk: Some(chunk) });
            kept.shrink();
        }
        drop(kept);
        self.chunks.read.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Durability};
    use crate::event::Event;
    use crate::log::Log;
    use crate::options::Options;
    use crate::storage::memory::MemoryStorage;

    fn keep(kept: &mut Kept, first: u64, bytes: usize) {
        let first = Position::new(first);
        let chunk = Some(Arc::new(Chunk { bytes, ..Chunk::new(first) }));
        kept.chunks.push(Slot { first, chunk });
        kept.shrink();
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_in_bytes() {
        let mut kept = Kept::default();
        (0..20).for_each(|n| keep(&mut kept, n * EVENTS + 1, 1));
        assert_eq!(kept.chunks.len(), MOST_CHUNKS);
        keep(&mut kept, 1, MOST_BYTES);
        assert_eq!(kept.chunks.len(), 1, "the last one is kept however large it is");
        kept.chunks.push(Slot { first: Position::new(5), chunk: None });
        keep(&mut kept, 9, 1);
        assert_eq!(kept.chunks.len(), 2, "what is being read stays");
    }

    /// A log with one event for each position.
    fn log(events: u64) -> Log {
        let log = Log::open(Arc::new(MemoryStorage::new()), &Options::new()).unwrap();
        let batch = (0..events).fold(Batch::new().durability(Durability::Durable), |batch, number| {
            batch.event("s", Event::bincode("numbered", &number).unwrap())
        });
        log.append(&batch).unwrap();
        log
    }

    #[test]
    fn what_follows_is_read_ahead_until_nobody_reads_any_more() {
        let (log, chunks) = (log(LEAST_AHEAD + EVENTS), Arc::new(Chunks::default()));
        let first = |number: u64| Position::new(number * EVENTS + 1);
        let get = |number: u64| chunks.get(&log.catalog, first(number), true).unwrap();
        chunks.begin();
        assert_eq!(get(0).event(first(0)).unwrap().position, first(0));
        let ahead = || (1..=AHEAD).all(|number| chunks.get(&log.catalog, first(number), false).is_some());
        while !ahead() {
            thread::yield_now();
        }
        assert_eq!(get(1).event(first(1)).unwrap().position, first(1));
        chunks.end();
        let kept = chunks.kept();
        assert!(kept.reader.is_none() && kept.chunks.is_empty());
    }

    #[test]
    fn nothing_is_read_ahead_near_the_end_or_for_many() {
        let (log, chunks) = (log(LEAST_AHEAD), Arc::new(Chunks::default()));
        chunks.begin();
        chunks.get(&log.catalog, Position::new(EVENTS + 1), true).unwrap();
        assert!(chunks.kept().reader.is_none());
        chunks.begin();
        chunks.begin();
        chunks.get(&log.catalog, Position::new(1), true).unwrap();
        assert!(chunks.kept().reader.is_none());
        (0..3).for_each(|_| chunks.end());
    }

    #[test]
    fn a_chunk_begins_after_a_multiple_of_its_length() {
        let firsts = [1, 2, EVENTS, EVENTS + 1, 2 * EVENTS + 7].map(|at| first_of(Position::new(at)).get());
        assert_eq!(firsts, [1, 1, 1, EVENTS + 1, 2 * EVENTS + 1]);
    }
}
