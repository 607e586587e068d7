//! Group commit: what is queued during one commit is committed by the next, with one write and one sync.
//!
//! An appender that finds nobody committing does it itself, in its own thread and with no hand-off. What others queue
//! meanwhile, and what is submitted, is committed by the thread `everfold-committer`, which is started when it is first
//! needed. There are no timers. Queue and writer are never locked together, and nobody is woken while either is.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};

use super::buffers::Buffers;
use super::catalog::{Catalog, Reached, closed};
use super::keeper::Keeper;
use super::queue::{Group, Leader, Queue, State};
use super::request::{Request, RequestBuffers};
use super::ticket::{Outcome, Pending, Ticket, indeterminate};
use super::writer::Writer;
use crate::batch::Durability;
use crate::error::{Error, ErrorKind};
use crate::storage::process::Process;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Committer {
    catalog: Arc<Catalog>,
    queue: Queue,
    writer: Mutex<Writer>,
    keeper: Arc<Keeper>,
    buffers: Buffers,
    thread: Mutex<Option<JoinHandle<()>>>,
    process: Process,
}

impl Committer {
    pub(crate) fn new(catalog: Arc<Catalog>, writer: Writer, keeper: Arc<Keeper>, max_bytes: usize) -> Self {
        let (queue, writer, thread) = (Queue::new(max_bytes), Mutex::new(writer), Mutex::default());
        let (buffers, process) = (Buffers::default(), Process::own());
        Committer { catalog, queue, writer, keeper, buffers, thread, process }
    }

    /// Empty buffers to encode a request into.
    pub(crate) fn buffers(&self) -> RequestBuffers {
        self.buffers.take()
    }

    /// Commits a request, together with those of other threads; returns when its durability is reached.
    pub(crate) fn append(self: &Arc<Self>, request: Request) -> Outcome {
        let mut state = self.queue.lock_with_room(request.frame_len())?;
        if state.leader == Leader::Nobody && request.durability == Durability::Durable {
            state.leader = Leader::Appender;
            drop(state);
            return self.lead(request);
        }
        // Nothing of this thread is queued, and there is no sync to share: the writer's lock is queue enough.
        if state.leader != Leader::Thread
            && state.waiting.is_empty()
            && request.durability < Durability::Durable
        {
            drop(state);
            return self.commit_one(request).publish(&self.catalog);
        }
        let ticket = self.queue.push(&mut state, Pending::new(request));
        self.see_to_it(state);
        ticket.wait()
    }

    /// Queues a request, waiting only for room.
    pub(crate) fn submit(self: &Arc<Self>, request: Request) -> Result<Ticket, Error> {
        let pending = Pending::new(request);
        let mut state = self.queue.lock_with_room(pending.request.frame_len())?;
        let ticket = self.queue.push(&mut state, pending);
        self.see_to_it(state);
        Ok(ticket)
    }

    /// Something was queued: if nobody leads, the committer's thread does from now on.
    fn see_to_it(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        match state.leader {
            Leader::Appender => {}
            Leader::Thread => self.queue.wake_thread(state),
            Leader::Nobody => {
                state.leader = Leader::Appender;
                drop(state);
                drop(Leadership { committer: self });
            }
        }
    }

    /// Commits one request, as the leader.
    fn lead(self: &Arc<Self>, request: Request) -> Outcome {
        let leadership = Leadership { committer: self };
        let committed = self.commit_one(request);
        drop(leadership);
        committed.publish(&self.catalog)
    }

    fn commit_one(&self, mut request: Request) -> Committed {
        let (committed, reached) = self.lend(|writer| {
            let outcome = self.sequence(writer, &mut request);
            let wanted = if outcome.is_ok() { request.durability } else { Durability::Deferred };
            let failure = self.reach(writer, wanted).err();
            (outcome, failure)
        });
        self.buffers.give_back(std::iter::once(request.take_buffers()));
        Committed { outcome: settle(committed.0, committed.1.as_ref(), &reached), reached }
    }

    fn commit(&self, group: &mut Group) {
        let (failure, reached) = self.lend(|writer| {
            let mut wanted = Durability::Deferred;
            for pending in &mut group.members {
                let outcome = self.sequence(writer, &mut pending.request);
                if outcome.is_ok() {
                    wanted = wanted.max(pending.request.durability);
                }
                pending.outcome = Some(outcome);
            }
            self.reach(writer, wanted).err()
        });
        self.catalog.publish(reached.clone());
        for pending in &mut group.members {
            if let Some(outcome) = pending.outcome.take() {
                pending.answer(settle(outcome, failure.as_ref(), &reached));
            }
        }
        self.queue.ring(group);
        self.buffers.give_back(group.members.iter_mut().map(|pending| pending.request.take_buffers()));
    }

    fn sequence(&self, writer: &mut Writer, request: &mut Request) -> Outcome {
        match self.catalog.is_closed() {
            true => Err(closed().into()),
            false => writer.sequence(request),
        }
    }

    fn reach(&self, writer: &mut Writer, wanted: Durability) -> Result<(), Error> {
        let reached = match wanted {
            Durability::Durable => writer.sync(),
            Durability::Written => writer.write(),
            Durability::Deferred => writer.write_if_large(),
        };
        self.keeper.after_commit(writer);
        reached
    }

    /// What the committer's thread does until it is stopped.
    fn run(&self) {
        let mut group = Group::default();
        while self.queue.next_group(&mut group) {
            self.commit_whatever_happens(&mut group);
        }
    }

    /// Commits a group. After a panic, too, every member is told.
    fn commit_whatever_happens(&self, group: &mut Group) {
        if catch_unwind(AssertUnwindSafe(|| self.commit(group))).is_err() {
            tracing::error!("a thread panicked while it committed");
            group.members.clear();
            self.queue.ring(group);
        }
    }

    /// Commits all that is queued, in this thread, which leads.
    fn drain(&self) {
        let mut group = Group::default();
        while Queue::take(&mut self.queue.lock(), &mut group) {
            self.commit_whatever_happens(&mut group);
            self.queue.let_go(&mut group);
        }
    }

    /// Whether there is a thread to hand leadership to. It is started when it is first needed. In a process that was forked
    /// it is not there, whatever the handle says.
    fn has_thread(self: &Arc<Self>) -> bool {
        if self.process.is_other() {
            return false;
        }
        let mut thread = self.thread();
        if thread.is_none() {
            let committer = self.clone();
            let started =
                thread::Builder::new().name("everfold-committer".into()).spawn(move || committer.run());
            match started {
                Ok(handle) => *thread = Some(handle),
                Err(error) => tracing::warn!(%error, "could not start the thread everfold-committer"),
            }
        }
        thread.is_some()
    }

    /// Makes everything appended and submitted so far durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.queue.wait_for_those_before();
        self.with_writer(|writer| {
            if self.catalog.is_closed() {
                return Err(closed());
            }
            writer.sync()?;
            self.keeper.after_commit(writer);
            Ok(())
        })
    }

    /// Commits what was submitted, makes everything durable, says that the store was closed, and takes no more appends.
    pub(crate) fn close(&self) -> Result<(), Error> {
        self.queue.close();
        let is_own =
            self.thread().as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id());
        match is_own {
            // A waker that was called by the committer's thread closes the store: this thread leads.
            true => self.drain(),
            false => self.queue.wait_until_idle(),
        }
        self.queue.stop();
        let thread = self.thread().take();
        if let Some(thread) = thread.filter(|_| !is_own)
            && thread.join().is_err()
        {
            tracing::error!("the thread everfold-committer had panicked");
        }
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
        let (result, reached) = self.lend(act);
        self.catalog.publish(reached);
        result
    }

    /// Lends the writer. What it reached has still to be published, unless `act` panics: then nobody knows what state the
    /// writer is in, and all are told.
    fn lend<T>(&self, act: impl FnOnce(&mut Writer) -> T) -> (T, Reached) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match catch_unwind(AssertUnwindSafe(|| act(&mut writer))) {
            Ok(result) => (result, writer.reached()),
            Err(panic) => {
                writer.abandon();
                let reached = writer.reached();
                drop(writer);
                self.catalog.publish(reached);
                resume_unwind(panic)
            }
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An outcome that may be told once what was reached with it is published.
struct Committed {
    outcome: Outcome,
    reached: Reached,
}

impl Committed {
    fn publish(self, catalog: &Catalog) -> Outcome {
        catalog.publish(self.reached);
        self.outcome
    }
}

/// The outcome, after the write or sync that followed. What was durable before it failed stays so.
fn settle(outcome: Outcome, failure: Option<&Error>, reached: &Reached) -> Outcome {
    match (outcome, failure) {
        (Ok(appended), Some(failure)) if appended.position > reached.durable => match failure.kind() {
            // Nothing was written, and nothing will be: the process is not the one that opened the store.
            ErrorKind::Closed => Err(failure.clone().into()),
            _ => Err(indeterminate(Some(failure)).into()),
        },
        (outcome, _) => outcome,
    }
}

/// An appender's leadership: handed on when dropped, whatever happened.
struct Leadership<'a> {
    committer: &'a Arc<Committer>,
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        let committer = self.committer;
        loop {
            let mut state = committer.queue.lock();
            if state.waiting.is_empty() {
                return committer.queue.resign(&mut state);
            }
            drop(state);
            if committer.has_thread() {
                let mut state = committer.queue.lock();
                state.leader = Leader::Thread;
                return committer.queue.wake_thread(state);
            }
            committer.drain();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::batch::Batch;
    use crate::error::{AppendError, ErrorKind};
    use crate::event::{Event, Position};
    use crate::log::Log;
    use crate::options::Options;
    use crate::storage::memory::MemoryStorage;
    use crate::watermark::Waited;

    fn log() -> Log {
        Log::open(Arc::new(MemoryStorage::new()), &Options::new()).unwrap()
    }

    fn batch() -> Batch {
        Batch::new().event("s", Event::raw("t", "x"))
    }

    #[test]
    fn a_panic_with_the_writer_is_told_to_everyone() {
        let log = log();
        log.append(&batch()).unwrap();
        let committer = log.writing().unwrap().committer.clone();
        let tickets = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| log.catalog.watermark.wait(Position::new(100), None));
            let panicking = scope.spawn(|| committer.with_writer(|_| -> () { panic!("meant") }));
            let tickets: Vec<_> = (0..50).map(|_| log.submit(&batch()).unwrap()).collect();
            assert!(panicking.join().is_err());
            assert_eq!(waiter.join().unwrap(), Waited::Ended);
            tickets
        });
        let refused =
            |outcome| matches!(outcome, Err(AppendError::Failed(e)) if e.kind() == ErrorKind::Poisoned);
        let outcomes: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait()).collect();
        assert!(outcomes.into_iter().all(|outcome| outcome.is_ok() || refused(outcome)));
        assert!(refused(log.append(&batch())));
        assert_eq!(log.close().unwrap_err().kind(), ErrorKind::Poisoned);
    }

    #[test]
    fn without_a_thread_of_its_own_the_committer_lets_appenders_commit_what_is_queued() {
        let log = log();
        let committer = log.writing().unwrap().committer.clone();
        let ticket = log.submit(&batch()).unwrap();
        ticket.wait().unwrap();
        let request = || {
            super::Request::encode(
                &batch(),
                1000,
                committer.catalog.hasher,
                crate::log::request::RequestBuffers::default(),
            )
            .unwrap()
        };
        committer.queue.wait_until_idle();
        let mut state = committer.queue.lock();
        let tickets = [(); 3].map(|()| committer.queue.push(&mut state, super::Pending::new(request())));
        state.leader = super::Leader::Appender;
        drop(state);
        committer.drain();
        assert_eq!(tickets.map(|ticket| ticket.wait().unwrap().position.get()), [2, 3, 4]);
        committer.queue.resign(&mut committer.queue.lock());
        log.close().unwrap();
    }
}
