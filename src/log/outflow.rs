//! A write that goes on while appends go on, so that whoever appends does not wait for it.
//!
//! There is one at a time. Whoever needs it finished (the writer, before its next write or sync) does it, if nobody has
//! begun it, or waits for who has: so it is never waited for in vain, whatever else the keeper is busy with. A failure
//! is kept until the writer asks.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::storage::File;

#[derive(Debug, Default)]
pub(crate) struct Outflow {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    Waiting(Write),
    Begun,
    /// With the buffer.
    Done(Result<Vec<u8>, Failed>),
}

#[derive(Debug)]
struct Write {
    file: Arc<dyn File>,
    bytes: Vec<u8>,
    offset: u64,
}

/// A write that failed, and what was to be written where.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: io::Error,
    pub(crate) bytes: Vec<u8>,
    pub(crate) offset: u64,
}

impl Outflow {
    /// Leaves a write to the keeper. The one before is finished.
    pub(crate) fn start(&self, file: Arc<dyn File>, bytes: Vec<u8>, offset: u64) {
        *self.lock() = State::Waiting(Write { file, bytes, offset });
    }

    /// Does the write, if there is one that nobody has begun.
    pub(crate) fn work(&self) {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Waiting(write) => {
                *state = State::Begun;
                drop(state);
                let Write { file, bytes, offset } = write;
                let panicked = io::Error::other("a thread panicked");
                let panicked = Failed { error: panicked, bytes: Vec::new(), offset };
                let mut begun = Begun { outflow: self, result: Err(panicked) };
                begun.result = match file.write_at(&bytes, offset) {
                    Ok(()) => Ok(bytes),
                    Err(error) => Err(Failed { error, bytes, offset }),
                };
            }
            other => *state = other,
        }
    }

    /// How the write ended, once it has, and an empty buffer; none if there was no write.
    pub(crate) fn finish(&self) -> Result<Option<Vec<u8>>, Failed> {
        self.work();
        let mut state = self.lock();
        loop {
            match std::mem::take(&mut *state) {
                State::Done(result) => return result.map(Some),
                State::Nothing => return Ok(None),
                other => *state = other,
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says when dropped that the write is over, however it ended.
struct Begun<'a> {
    outflow: &'a Outflow,
    result: Result<Vec<u8>, Failed>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(Vec::new()));
        *self.outflow.lock() = State::Done(result);
        self.outflow.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use crate::storage::memory::{Fault, MemoryStorage};

    #[test]
    fn a_write_that_is_finished_was_made_whoever_made_it() {
        let storage = MemoryStorage::new();
        let file = storage.create("a", 4000).unwrap();
        let outflow = Outflow::default();
        assert!(outflow.finish().unwrap().is_none());
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    outflow.work();
                }
            });
            for n in 0..1000 {
                outflow.start(file.clone(), vec![1; 4], n * 4);
                assert!(outflow.finish().unwrap().is_some_and(|buffer| buffer.capacity() >= 4));
                let end = usize::try_from(n * 4 + 4).unwrap();
                assert!(storage.file("a").unwrap()[..end].iter().all(|byte| *byte == 1));
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_failure_is_kept_until_it_is_asked_for() {
        let storage = MemoryStorage::new();
        let file = storage.create("a", 4000).unwrap();
        let outflow = Outflow::default();
        storage.fail_at(storage.operations() + 1, Fault::once(io::ErrorKind::Other));
        outflow.start(file, vec![1; 4], 0);
        outflow.work();
        outflow.work();
        assert_eq!(outflow.finish().unwrap_err().bytes, [1; 4]);
        assert!(outflow.finish().unwrap().is_none());
    }
}
