//! Parts of the log that were read lately, for projections that are at the same place: one reads, the others have it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::event::{Position, RecordedEvent};
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

/// Consecutive events.
#[derive(Debug)]
pub(super) struct Chunk {
    first: Position,
    events: Vec<RecordedEvent>,
    bytes: usize,
}

impl Chunk {
    pub(super) fn event(&self, position: Position) -> Option<&RecordedEvent> {
        let at = position.get().checked_sub(self.first.get())?;
        self.events.get(usize::try_from(at).ok()?)
    }

    /// Reads the events from a position on, as far as they are few and can be read.
    fn read(catalog: &Arc<Catalog>, first: Position) -> Self {
        let mut chunk = Chunk { first, events: Vec::new(), bytes: 0 };
        for event in Cursor::forward(catalog.clone(), first.previous()).limit(EVENTS) {
            let Ok(event) = event else { break };
            chunk.bytes += event.record_len();
            chunk.events.push(event);
            if chunk.bytes >= MOST_CHUNK_BYTES {
                break;
            }
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
}

#[derive(Debug, Default)]
struct Kept {
    /// How many read now: after the last of them nothing is kept.
    readers: usize,
    /// Least recently used first.
    chunks: Vec<Slot>,
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
        if kept.readers == 0 {
            kept.chunks.clear();
        }
    }

    /// The chunk that begins at a position, all of whose events are durable. Unless it `reads`, only if somebody has it
    /// or reads it.
    pub(super) fn get(&self, catalog: &Arc<Catalog>, first: Position, reads: bool) -> Option<Arc<Chunk>> {
        let mut kept = self.kept();
        while let Some(at) = kept.chunks.iter().position(|slot| slot.first == first) {
            if let Some(chunk) = kept.chunks.get(at).and_then(|slot| slot.chunk.clone()) {
                let slot = kept.chunks.remove(at);
                kept.chunks.push(slot);
                return Some(chunk);
            }
            kept = self.read.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
        if !reads {
            return None;
        }
        kept.chunks.push(Slot { first, chunk: None });
        drop(kept);
        let mut reading = Reading { chunks: self, first, chunk: None };
        let chunk = Arc::new(Chunk::read(catalog, first));
        reading.chunk = Some(chunk.clone());
        Some(chunk)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Lets go of what was not used for longest.
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

    fn keep(kept: &mut Kept, first: u64, bytes: usize) {
        let first = Position::new(first);
        let chunk = Some(Arc::new(Chunk { first, events: Vec::new(), bytes }));
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

    #[test]
    fn a_chunk_begins_after_a_multiple_of_its_length() {
        let firsts = [1, 2, EVENTS, EVENTS + 1, 2 * EVENTS + 7].map(|at| first_of(Position::new(at)).get());
        assert_eq!(firsts, [1, 1, 1, EVENTS + 1, 2 * EVENTS + 1]);
    }
}
