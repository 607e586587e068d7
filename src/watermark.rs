//! A position that only grows, and the threads and tasks that wait for it.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::event::Position;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The log has one for what is durable, hence readable; each view has one for its checkpoint, and one that counts.
///
/// Ending it (closed, poisoned, stopped) wakes every waiter: nobody waits for what will not come.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    position: AtomicU64,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    ended: bool,
    wakers: HashMap<u64, Waker>,
    next_task: u64,
}

/// A task's place among those that wait. It is given back with [`Watermark::forget`].
#[derive(Debug, Default)]
pub(crate) struct TaskSlot(Option<u64>);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Reached(Position),
    Ended,
    TimedOut,
}

impl Watermark {
    pub(crate) fn get(&self) -> Position {
        Position::new(self.position.load(Ordering::Acquire))
    }

    /// Raises the position; a lower one changes nothing.
    pub(crate) fn advance(&self, position: Position) {
        if self.position.fetch_max(position.get(), Ordering::AcqRel) < position.get() {
            self.wake();
        }
    }

    /// Raises the position by one, for a watermark that counts what happens.
    pub(crate) fn raise(&self) {
        self.position.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Puts the position back: for a view that is rebuilt, never for the log.
    pub(crate) fn reset(&self, position: Position) {
        self.position.store(position.get(), Ordering::Release);
        self.wake();
    }

    /// No more will come. Waiters for what has been reached still succeed.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.wake();
    }

    /// Blocks until the position is at least `target`; without a deadline for as long as it takes.
    pub(crate) fn wait(&self, target: Position, deadline: Option<Instant>) -> Waited {
        let mut waiting = self.lock();
        loop {
            let now = self.get();
            if now >= target {
                return Waited::Reached(now);
            }
            if waiting.ended {
                return Waited::Ended;
            }
            waiting = match deadline {
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Waited::TimedOut;
                    }
                    self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The task's form of [`wait`](Self::wait): registers the waker unless there is an answer already.
    pub(crate) fn poll_wait(
        &self,
        target: Position,
        slot: &mut TaskSlot,
        cx: &mut Context<'_>,
    ) -> Poll<Waited> {
        let mut waiting = self.lock();
        let now = self.get();
        if now >= target {
            return Poll::Ready(Waited::Reached(now));
        }
        if waiting.ended {
            return Poll::Ready(Waited::Ended);
        }
        let task = *slot.0.get_or_insert_with(|| {
            waiting.next_task += 1;
            waiting.next_task
        });
        waiting.wakers.insert(task, cx.waker().clone());
        Poll::Pending
    }

    /// The task does not wait any longer.
    pub(crate) fn forget(&self, slot: &mut TaskSlot) {
        if let Some(task) = slot.0.take() {
            self.lock().wakers.remove(&task);
        }
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut self.lock().wakers);
        self.changed.notify_all();
        wakers.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_waiter_wakes_when_the_position_is_reached() {
        let mark = Arc::new(Watermark::default());
        let waiter = {
            let mark = mark.clone();
            std::thread::spawn(move || mark.wait(Position::new(3), None))
        };
        mark.advance(Position::new(2));
        mark.advance(Position::new(5));
        assert_eq!(waiter.join().unwrap(), Waited::Reached(Position::new(5)));
    }

    #[test]
    fn a_waiter_wakes_when_the_watermark_ends() {
        let mark = Arc::new(Watermark::default());
        mark.advance(Position::new(1));
        let waiter = {
            let mark = mark.clone();
            std::thread::spawn(move || mark.wait(Position::new(2), None))
        };
        mark.end();
        assert_eq!(waiter.join().unwrap(), Waited::Ended);
        assert_eq!(mark.wait(Position::new(1), None), Waited::Reached(Position::new(1)));
    }

    #[test]
    fn a_task_has_one_waker_and_none_once_it_is_forgotten() {
        let mark = Watermark::default();
        let mut slots = [TaskSlot::default(), TaskSlot::default()];
        for _ in 0..3 {
            for slot in &mut slots {
                let pending = mark.poll_wait(Position::new(1), slot, &mut Context::from_waker(Waker::noop()));
                assert!(pending.is_pending());
            }
        }
        assert_eq!(mark.lock().wakers.len(), 2);
        slots.iter_mut().for_each(|slot| mark.forget(slot));
        assert_eq!(mark.lock().wakers.len(), 0);
    }

    #[test]
    fn the_position_never_goes_back_and_a_wait_times_out() {
        let mark = Watermark::default();
        mark.advance(Position::new(4));
        mark.advance(Position::new(2));
        assert_eq!(mark.get(), Position::new(4));
        assert_eq!(
            mark.wait(Position::new(5), Some(Instant::now() + Duration::from_millis(1))),
            Waited::TimedOut
        );
    }
}
