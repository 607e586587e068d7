//! Group commit: whoever appends while nobody commits becomes the leader, and commits for all who came meanwhile.
//!
//! The group is whatever queued up during the commit before; there are no timers, and a lone appender hands
//! nothing to another thread. Queue and writer are never locked together, and nobody is woken while the writer is.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::catalog::{Catalog, closed};
use super::keeper::Keeper;
use super::request::Request;
use super::writer::Writer;
use crate::batch::{Appended, Durability};
use crate::error::{AppendError, Error, ErrorKind};

type Outcome = Result<Appended, AppendError>;

#[derive(Debug)]
pub(crate) struct Committer {
    catalog: Arc<Catalog>,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    keeper: Arc<Keeper>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Pending>,
    /// Somebody commits; it is cleared only by the leader, when nobody waits.
    led: bool,
}

/// An append in the queue. Dropped without an outcome (by a panic), it tells its owner that nothing is known.
#[derive(Debug)]
struct Pending {
    request: Request,
    ticket: Arc<Ticket>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.ticket.complete(Turn::Done(Err(indeterminate(None).into())));
    }
}

#[derive(Debug, Default)]
struct Ticket {
    turn: Mutex<Option<Turn>>,
    changed: Condvar,
}

#[derive(Debug)]
enum Turn {
    /// The append is over.
    Done(Outcome),
    /// The append is still queued, and its owner is the leader now.
    Lead,
}

impl Ticket {
    fn complete(&self, turn: Turn) {
        let mut slot = self.lock();
        if !matches!(*slot, Some(Turn::Done(_))) {
            *slot = Some(turn);
            self.changed.notify_one();
        }
    }

    fn wait(&self) -> Turn {
        let mut slot = self.lock();
        loop {
            if let Some(turn) = slot.take() {
                return turn;
            }
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Committer {
    pub(crate) fn new(catalog: Arc<Catalog>, writer: Writer, keeper: Arc<Keeper>) -> Self {
        Committer { catalog, queue: Mutex::default(), writer: Mutex::new(writer), keeper }
    }

    /// Commits a request, together with those of other threads; returns when its durability is reached.
    pub(crate) fn append(&self, request: Request) -> Outcome {
        let ticket = Arc::new(Ticket::default());
        let leads = {
            let mut queue = self.queue();
            queue.waiting.push(Pending { request, ticket: ticket.clone() });
            !std::mem::replace(&mut queue.led, true)
        };
        if !leads && let Turn::Done(outcome) = ticket.wait() {
            return outcome;
        }
        let leadership = Leadership { committer: self };
        let group = std::mem::take(&mut self.queue().waiting);
        self.commit(group);
        drop(leadership);
        match ticket.wait() {
            Turn::Done(outcome) => outcome,
            Turn::Lead => Err(indeterminate(None).into()),
        }
    }

    fn commit(&self, group: Vec<Pending>) {
        let (placed, reached) = self.with_writer(|writer| {
            let mut placed: Vec<(Pending, Outcome)> = Vec::with_capacity(group.len());
            let mut wanted = Durability::Deferred;
            for mut pending in group {
                let outcome = match self.catalog.is_closed() {
                    true => Err(closed().into()),
                    false => writer.sequence(&mut pending.request),
                };
                if outcome.is_ok() {
                    wanted = wanted.max(pending.request.durability);
                }
                placed.push((pending, outcome));
            }
            let reached = match wanted {
                Durability::Durable => writer.sync(),
                Durability::Written => writer.write(),
                Durability::Deferred => writer.write_if_large(),
            };
            self.keeper.after_commit(writer);
            (placed, reached)
        });
        let durable = self.catalog.watermark.get();
        for (pending, outcome) in placed {
            let outcome = match (outcome, &reached) {
                (Ok(appended), Err(failure)) if appended.position > durable => {
                    Err(indeterminate(Some(failure)).into())
                }
                (outcome, _) => outcome,
            };
            pending.ticket.complete(Turn::Done(outcome));
        }
    }

    /// Makes everything appended so far durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.with_writer(|writer| {
            if self.catalog.is_closed() {
                return Err(closed());
            }
            writer.sync()?;
            self.keeper.after_commit(writer);
            Ok(())
        })
    }

    /// Makes everything durable, says that the store was closed, and takes no more appends.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let result = self.with_writer(|writer| match self.catalog.is_closed() {
            true => Ok(()),
            false => {
                self.catalog.refuse();
                writer.close()
            }
        });
        self.catalog.close();
        result
    }

    /// Lends the writer, one thread at a time. When it is back, and not before, readers and waiters are told what it
    /// reached: whoever they wake may append.
    pub(crate) fn with_writer<T>(&self, act: impl FnOnce(&mut Writer) -> T) -> T {
        let (result, reached) = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            (act(&mut writer), writer.reached())
        };
        self.catalog.publish(reached);
        result
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands leadership on when dropped, whatever happened.
struct Leadership<'a> {
    committer: &'a Committer,
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.committer.with_writer(Writer::abandon);
        }
        let mut queue = self.committer.queue();
        match queue.waiting.first() {
            Some(next) => next.ticket.complete(Turn::Lead),
            None => queue.led = false,
        }
    }
}

fn indeterminate(failure: Option<&Error>) -> Error {
    let message = "the write of this append failed: its events may or may not be there after the store is reopened; \
                   append them again then, with the same ids";
    let error = Error::new(ErrorKind::Indeterminate, message);
    match failure {
        Some(failure) => error.because(failure.clone()),
        None => error,
    }
}
