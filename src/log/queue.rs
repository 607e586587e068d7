//! Appends that wait to be committed, and who commits them.
//!
//! What is queued and not yet answered is bounded in bytes. Whoever finds no room waits in line, so that a large batch
//! is not passed over for ever by small ones.

use std::sync::{Arc, PoisonError};

use super::catalog::closed;
use super::ticket::{Bells, Pending, Ticket};
use crate::error::Error;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Who commits what is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leader {
    /// Nothing is queued, and nobody commits.
    #[default]
    Nobody,
    /// An appender commits its own append in its own thread, and then hands over what was queued meanwhile.
    Appender,
    /// The committer's thread, which may be asleep.
    Thread,
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is work for the committer's thread.
    work: Condvar,
    /// There is room again, or the queue is closing.
    room: Condvar,
    /// A group was answered, or nobody leads any more.
    progress: Condvar,
    bells: Arc<Bells>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) waiting: Vec<Pending>,
    pub(crate) leader: Leader,
    /// The number of the group that is gathering, and how many groups have been answered.
    number: u64,
    answered: u64,
    /// Bytes of the frames that are waiting, and of those with the ones in groups that are not answered.
    gathered: usize,
    in_flight: usize,
    /// Those who found no room are let in by number.
    in_line: u64,
    let_in: u64,
    /// How many wait for progress.
    watched: usize,
    /// The committer's thread is.
    asleep: bool,
    closing: bool,
    stopped: bool,
}

/// The appends that one write and one sync make durable.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) members: Vec<Pending>,
    number: u64,
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Queue {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            progress: Condvar::new(),
            bells: Arc::default(),
            max_bytes,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the queue once there is room for a frame of so many bytes. One that is larger than the bound goes alone.
    pub(crate) fn lock_with_room(&self, bytes: usize) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        let fits =
            |state: &State| state.in_flight == 0 || state.in_flight.saturating_add(bytes) <= self.max_bytes;
        if state.let_in != state.in_line || !fits(&state) {
            let turn = state.in_line;
            state.in_line += 1;
            while !(state.closing || state.let_in == turn && fits(&state)) {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.let_in += 1;
            self.room.notify_all();
        }
        if state.closing { Err(closed()) } else { Ok(state) }
    }

    /// Queues an append. Whoever leads, or will, has to be told.
    pub(crate) fn push(&self, state: &mut State, pending: Pending) -> Ticket {
        let bytes = pending.request.frame_len();
        state.gathered += bytes;
        state.in_flight += bytes;
        let ticket = pending.ticket(&self.bells, is_odd(state.number));
        state.waiting.push(pending);
        ticket
    }

    /// Tells the committer's thread, which leads, that there is work.
    pub(crate) fn wake_thread(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Takes what is queued into a group that was let go; false when there is nothing.
    pub(crate) fn take(state: &mut State, group: &mut Group) -> bool {
        debug_assert!(group.members.is_empty(), "a group is let go before the next is taken");
        std::mem::swap(&mut state.waiting, &mut group.members);
        group.bytes = std::mem::take(&mut state.gathered);
        if group.members.is_empty() {
            return false;
        }
        group.number = state.number;
        state.number += 1;
        true
    }

    /// For the committer's thread: waits for work and takes it; false to stop. The thread leads on after a group of
    /// several, because those whom it has just answered will soon be back; after a single one appenders lead again.
    pub(crate) fn next_group(&self, group: &mut Group) -> bool {
        let several = group.members.len() > 1;
        self.let_go(group);
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() && state.leader == Leader::Thread {
                return Self::take(&mut state, group);
            }
            if state.leader == Leader::Thread && (!several || state.closing) {
                self.resign(&mut state);
            }
            if state.stopped {
                return false;
            }
            state.asleep = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
    }

    /// Lets go of a group: its bytes are free. Members without an answer are told that nothing is known.
    pub(crate) fn let_go(&self, group: &mut Group) {
        group.members.clear();
        let bytes = std::mem::take(&mut group.bytes);
        if bytes > 0 {
            let mut state = self.lock();
            state.in_flight = state.in_flight.saturating_sub(bytes);
            state.answered = state.answered.max(group.number + 1);
            if state.let_in != state.in_line {
                self.room.notify_all();
            }
            if state.watched > 0 {
                self.progress.notify_all();
            }
        }
    }

    /// Nothing is queued: nobody leads.
    pub(crate) fn resign(&self, state: &mut State) {
        state.leader = Leader::Nobody;
        if state.watched > 0 {
            self.progress.notify_all();
        }
    }

    /// Wakes the threads that wait for a group.
    pub(crate) fn ring(&self, group: &Group) {
        let [even, odd] = &*self.bells;
        if is_odd(group.number) { odd.ring() } else { even.ring() }
    }

    /// Takes no more appends.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.room.notify_all();
        self.work.notify_all();
    }

    /// Waits until nobody leads, hence all that was queued is answered; the queue is closing.
    pub(crate) fn wait_until_idle(&self) {
        self.watch(self.lock(), |state| state.leader == Leader::Nobody);
    }

    /// Waits until what is queued now is answered.
    pub(crate) fn wait_for_those_before(&self) {
        let state = self.lock();
        let before = if state.waiting.is_empty() { state.number } else { state.number + 1 };
        self.watch(state, |state| state.answered >= before);
    }

    fn watch(&self, mut state: MutexGuard<'_, State>, until: impl Fn(&State) -> bool) {
        state.watched += 1;
        while !until(&state) {
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.watched -= 1;
    }

    /// Ends the committer's thread.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.work.notify_all();
    }
}

fn is_odd(number: u64) -> bool {
    number % 2 == 1
}
