//! Group commit with nothing but the commit: a thread that writes and syncs whatever was queued meanwhile.
//!
//! Of the shapes that were tried this one was the fastest here: callers only copy their bytes, and each group has
//! a futex of its own, so that its end wakes nobody but its members.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::file::RawFile;
use crate::peer::Outcome;

/// Groups whose members may still be asleep; a member of a group this much older has long been woken.
const GROUPS: usize = 64;

/// A file with a thread that commits to it.
pub(crate) struct GroupCommit {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    file: RawFile,
    queue: Mutex<Queue>,
    /// Counts the calls that found the queue empty: what the thread sleeps on.
    filled: AtomicU32,
    /// The number of the last group that is durable, for each group's place.
    done: [AtomicU32; GROUPS],
    ended: AtomicBool,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The number of the group that these bytes will be committed with.
    group: u32,
}

/// The group that an append belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u32);

impl GroupCommit {
    /// Starts the thread.
    pub(super) fn start(file: RawFile) -> Self {
        let queue = Mutex::new(Queue { bytes: Vec::with_capacity(1 << 20), group: 1 });
        let shared = Arc::new(Shared {
            file,
            queue,
            filled: AtomicU32::new(0),
            done: [const { AtomicU32::new(0) }; GROUPS],
            ended: AtomicBool::new(false),
        });
        let committing = shared.clone();
        let thread = std::thread::spawn(move || {
            if let Err(fault) = committing.commit() {
                eprintln!("raw group commit: {fault}");
                // Callers would wait for ever.
                std::process::exit(1);
            }
        });
        GroupCommit { shared, thread: Some(thread) }
    }

    /// Queues bytes.
    pub(super) fn submit(&self, bytes: &[u8]) -> Ticket {
        let mut queue = self.shared.queue();
        let first = queue.bytes.is_empty();
        queue.bytes.extend_from_slice(bytes);
        let ticket = Ticket(queue.group);
        drop(queue);
        if first {
            self.shared.filled.fetch_add(1, Ordering::Release);
            atomic_wait::wake_one(&self.shared.filled);
        }
        ticket
    }

    /// Waits until the bytes are durable.
    pub(super) fn wait(&self, Ticket(group): Ticket) {
        let done = self.shared.place(group);
        loop {
            let reached = done.load(Ordering::Acquire);
            // Numbers of groups that share a place only grow.
            if reached.wrapping_sub(group) < u32::MAX / 2 {
                return;
            }
            atomic_wait::wait(done, reached);
        }
    }

    /// What was written. Nothing may be queued while it is read.
    pub(super) fn file(&self) -> &RawFile {
        &self.shared.file
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.filled.fetch_add(1, Ordering::Release);
        atomic_wait::wake_one(&self.shared.filled);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, group: u32) -> &AtomicU32 {
        &self.done[group as usize % GROUPS]
    }

    fn commit(&self) -> Outcome<()> {
        let mut bytes = Vec::with_capacity(1 << 20);
        loop {
            let filled = self.filled.load(Ordering::Acquire);
            let group = {
                let mut queue = self.queue();
                std::mem::swap(&mut queue.bytes, &mut bytes);
                let group = queue.group;
                if !bytes.is_empty() {
                    queue.group = group.wrapping_add(1);
                }
                group
            };
            if bytes.is_empty() {
                if self.ended.load(Ordering::Acquire) {
                    return Ok(());
                }
                atomic_wait::wait(&self.filled, filled);
                continue;
            }
            self.file.write(&bytes)?;
            self.file.sync()?;
            bytes.clear();
            let done = self.place(group);
            done.store(group, Ordering::Release);
            atomic_wait::wake_all(done);
        }
    }
}
