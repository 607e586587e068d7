//! Zeros written ahead of the frames, while appends are small and synced: a sync of bytes that replace zeros does not
//! have to make it durable that their space is in use, and takes about half the time. Large appends gain nothing by it
//! and would pay for the bandwidth, so for them nothing is written ahead.
//!
//! Zeros never replace a frame. The writer *claims* the bytes up to some offset before it writes them; the keeper
//! *reserves* bytes behind all that is claimed before it writes zeros there, and gives them back when they are written.
//! Both happen under one lock, and a claim that reaches into reserved bytes waits until they are given back. What is
//! reserved was zeros already, as all of a segment is behind its frames: nothing depends on the zeros being there, they
//! are not synced by themselves, and when they cannot be written the segment goes without.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::layout::memory_len;
use crate::storage::File;

/// Zeros are written so many at a time, with one write, when half of that is left: the next sync has to write them out,
/// too, and to make it durable that their space is in use.
const STEP: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// On an average of so many bytes for each sync, appends are not small any more.
const LARGE: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Ahead {
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Debug)]
struct State {
    file: Arc<dyn File>,
    size: u64,
    /// The writer writes before this offset only.
    claimed: u64,
    /// Zeros were written up to here, unless that is less than claimed.
    zeroed: u64,
    /// The keeper writes zeros behind `zeroed`, or `claimed` when they were reserved.
    reserved: bool,
    /// Of bytes for each sync; moves by an eighth.
    average: u64,
    /// Zeros are not wanted at all.
    never: bool,
    /// Zeros could not be written to this segment.
    failed: bool,
}

impl State {
    fn wants_zeros(&self) -> bool {
        let left = self.zeroed.saturating_sub(self.claimed);
        let wanted = !self.never && !self.failed && !self.reserved && self.average < LARGE && left < STEP / 2;
        wanted && self.start() < self.size
    }

    fn start(&self) -> u64 {
        self.zeroed.max(self.claimed.next_multiple_of(BLOCK))
    }
}

impl Ahead {
    /// For a segment with frames up to an offset.
    pub(crate) fn new(file: Arc<dyn File>, size: u64, end: u64, wanted: bool) -> Self {
        let state = State {
            file,
            size,
            claimed: end,
            zeroed: 0,
            reserved: false,
            // The first dozen of appends shows whether they are small.
            average: 4 * LARGE,
            never: !wanted,
            failed: false,
        };
        Ahead { state: Mutex::new(state), given_back: Condvar::new() }
    }

    /// The writer goes on in another file, in which zeros were written up to an offset.
    pub(crate) fn turn_to(&self, file: Arc<dyn File>, size: u64, end: u64, zeroed: u64) {
        let mut state = self.unreserved(|_| true);
        let (average, never) = (state.average, state.never);
        *state = State { file, size, claimed: end, zeroed, reserved: false, average, never, failed: false };
    }

    /// Called by the writer before it writes bytes up to this offset.
    pub(crate) fn claim(&self, end: u64) {
        let mut state = self.unreserved(|state| end > state.start());
        state.claimed = state.claimed.max(end);
    }

    /// Whether appends are small and synced.
    pub(crate) fn pays(&self) -> bool {
        let state = self.lock();
        !state.never && state.average < LARGE
    }

    /// Takes note of a sync of so many bytes, and says whether zeros are wanted.
    pub(crate) fn note_sync(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        state.average = (state.average * 7 + bytes.min(8 * LARGE)) / 8;
        state.wants_zeros()
    }

    /// Writes zeros, if they are wanted. For the keeper.
    pub(crate) fn write_zeros(&self) -> io::Result<()> {
        let (file, start, end) = {
            let mut state = self.lock();
            if !state.wants_zeros() {
                return Ok(());
            }
            state.reserved = true;
            (state.file.clone(), state.start(), (state.start() + STEP).min(state.size))
        };
        let mut reserved = Reserved { ahead: self, zeroed: None };
        file.write_at(&vec![0; memory_len(end - start)], start)?;
        reserved.zeroed = Some(end);
        Ok(())
    }

    /// Locks once nothing is reserved, where that matters.
    fn unreserved(&self, matters: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.reserved && matters(&state) {
            state = self.given_back.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives reserved bytes back when dropped.
struct Reserved<'a> {
    ahead: &'a Ahead,
    /// How far there are zeros now; none after a failure.
    zeroed: Option<u64>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut state = self.ahead.lock();
        state.reserved = false;
        match self.zeroed {
            Some(zeroed) => state.zeroed = zeroed,
            None => state.failed = true,
        }
        drop(state);
        self.ahead.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use crate::storage::memory::{Fault, MemoryStorage};

    const SIZE: u64 = 8 << 20;

    fn ahead(wanted: bool) -> (MemoryStorage, Arc<dyn File>, Ahead) {
        let storage = MemoryStorage::new();
        let file = storage.create("a", SIZE).unwrap();
        let ahead = Ahead::new(file.clone(), SIZE, 4096, wanted);
        (storage, file, ahead)
    }

    fn sync_small_ones(ahead: &Ahead) -> bool {
        (0..50).map(|_| ahead.note_sync(100)).last().unwrap()
    }

    #[test]
    fn zeros_never_replace_what_the_writer_has_written() {
        let (storage, file, ahead) = ahead(true);
        sync_small_ones(&ahead);
        let mut end = 4096;
        std::thread::scope(|scope| {
            let zeroing = scope.spawn(|| {
                while ahead.lock().claimed < SIZE - (16 << 10) {
                    ahead.write_zeros().unwrap();
                }
            });
            for n in (1..16_000_u64).cycle().take_while(|_| !zeroing.is_finished()) {
                let len = (n * 7919 % 16_000).min(SIZE - end);
                ahead.claim(end + len);
                file.write_at(&vec![0xaa; usize::try_from(len).unwrap()], end).unwrap();
                end += len;
            }
        });
        let (bytes, end) = (storage.file("a").unwrap(), usize::try_from(end).unwrap());
        assert!(bytes[4096..end].iter().all(|byte| *byte == 0xaa));
        assert!(bytes[end..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn zeros_are_wanted_for_small_appends_only_and_not_behind_the_end() {
        let (storage, _, ahead) = ahead(true);
        assert!(!ahead.note_sync(1 << 20));
        assert!(sync_small_ones(&ahead));
        let before = storage.operations();
        ahead.write_zeros().unwrap();
        assert!(!ahead.note_sync(100), "there are enough");
        assert_eq!(storage.operations() - before, 1);
        ahead.claim(4096 + STEP / 2 + 1);
        assert!(ahead.note_sync(100));
        assert!(!ahead.note_sync(4 << 20), "that was a large one");
        ahead.claim(SIZE - 1);
        assert!(!sync_small_ones(&ahead));
        ahead.write_zeros().unwrap();
        assert!(!sync_small_ones(&super::tests::ahead(false).2));
    }

    #[test]
    fn a_segment_whose_zeros_could_not_be_written_goes_without_and_the_next_one_has_them() {
        let (storage, file, ahead) = ahead(true);
        assert!(sync_small_ones(&ahead));
        storage.fail_at(storage.operations() + 1, Fault::once(io::ErrorKind::StorageFull).short());
        assert!(ahead.write_zeros().is_err());
        assert!(!sync_small_ones(&ahead));
        ahead.claim(4096 + 2 * STEP);
        ahead.turn_to(file.clone(), SIZE, 4096, SIZE);
        assert!(!sync_small_ones(&ahead), "this one is full of them");
        ahead.turn_to(file, SIZE, 4096, 0);
        assert!(sync_small_ones(&ahead));
    }
}
