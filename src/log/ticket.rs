//! What stands for an append that was submitted and not yet answered.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::bell::Bell;
use super::request::Request;
use crate::batch::Appended;
use crate::error::{AppendError, Error, ErrorKind};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

pub(crate) type Outcome = Result<Appended, AppendError>;

/// One bell for the group that is committed, and one for the group that gathers meanwhile.
pub(crate) type Bells = [Bell; 2];

/// An append that was submitted: [`wait`](Ticket::wait) for its outcome, or `.await` it in any runtime.
///
/// The append goes its way whether anybody waits or not; dropping the ticket only means not to be told.
///
/// ```
/// use everfold::{Batch, Event};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
/// let mut tickets = Vec::new();
/// for n in 0..100 {
///     tickets.push(store.submit(Batch::new().event("counted", Event::json("number", &n)?))?);
/// }
/// for (ticket, position) in tickets.into_iter().zip(1..) {
///     assert_eq!(ticket.wait()?.position.get(), position);
/// }
/// # Ok(()) }
/// ```
#[must_use = "only the ticket tells whether the events were recorded"]
pub struct Ticket {
    slot: Arc<Slot>,
    bells: Arc<Bells>,
    /// Which of the bells is rung for it.
    odd: bool,
}

impl Ticket {
    /// Blocks until the append has reached its durability or failed.
    ///
    /// # Errors
    /// As [`Store::append_batch`](crate::Store::append_batch).
    pub fn wait(self) -> Result<Appended, AppendError> {
        let [even, odd] = &*self.bells;
        let bell = if self.odd { odd } else { even };
        bell.wait(|| self.slot.outcome.get().cloned())
    }
}

impl Future for Ticket {
    type Output = Result<Appended, AppendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.slot.outcome.get() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => self.slot.register(cx.waker()),
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("outcome", &self.slot.outcome.get()).finish()
    }
}

/// An append in the queue. Dropped without an outcome (by a panic), it tells its owner that nothing is known.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    /// What the writer said, until it is known whether it lasts.
    pub(crate) outcome: Option<Outcome>,
    slot: Arc<Slot>,
}

impl Pending {
    pub(crate) fn new(request: Request) -> Self {
        Pending { request, outcome: None, slot: Arc::default() }
    }

    /// The ticket for it. `odd` is the parity of its group's number.
    pub(crate) fn ticket(&self, bells: &Arc<Bells>, odd: bool) -> Ticket {
        Ticket { slot: self.slot.clone(), bells: bells.clone(), odd }
    }

    /// Gives the answer. The first one counts. Tasks are woken by this, threads by the bell that is rung next.
    pub(crate) fn answer(&self, outcome: Outcome) {
        self.slot.complete(outcome);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.slot.outcome.get().is_none() {
            self.answer(Err(indeterminate(None).into()));
        }
    }
}

/// Where the outcome is put by who commits, and found by who waits.
#[derive(Debug, Default)]
struct Slot {
    outcome: OnceLock<Outcome>,
    /// Somebody has been here: the task, with a waker, or the outcome. Of the two the later one sees the earlier.
    visited: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Slot {
    fn register(&self, waker: &Waker) -> Poll<Outcome> {
        match &mut *self.waker() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        self.visited.swap(true, Ordering::AcqRel);
        match self.outcome.get() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => Poll::Pending,
        }
    }

    fn complete(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_ok() && self.visited.swap(true, Ordering::AcqRel) {
            let waker = self.waker().take();
            // A panic of one task's waker is not to keep the others from being told.
            let woken = waker.map(|waker| catch_unwind(AssertUnwindSafe(|| waker.wake())));
            if woken.is_some_and(|woken| woken.is_err()) {
                tracing::error!("the waker of a task that waits for an append panicked");
            }
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn indeterminate(failure: Option<&Error>) -> Error {
    let is_full = failure.is_some_and(|failure| failure.kind() == ErrorKind::DiskFull);
    let message = match is_full {
        true => {
            "the disk is full: the events of this append wait in memory for room, which the next append or sync looks for, \
             and are gone if the process ends before; append them again, with the same ids, to be sure"
        }
        false => {
            "the write of this append failed: its events may or may not be there after the store is reopened; \
             append them again then, with the same ids"
        }
    };
    let error = Error::new(ErrorKind::Indeterminate, message);
    match failure {
        Some(failure) => error.because(failure.clone()),
        None => error,
    }
}
