//! The thread that keeps the log in order between appends, off their way: syncs what was appended without, writes
//! the mark when the log has been idle, and makes the file of the next segment.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::committer::Committer;
use super::spare::Spare;
use super::writer::Writer;
use crate::error::Error;

/// The mark is written after so long without an append.
const IDLE: Duration = Duration::from_secs(1);
/// Smaller segments are made when they are needed: that takes no time.
const PREPARE_FROM: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Keeper {
    duties: Mutex<Duties>,
    changed: Condvar,
    sync_after: Duration,
    prepares: bool,
}

/// What is to be done, and when.
#[derive(Debug, Default)]
struct Duties {
    sync_at: Option<Instant>,
    mark_at: Option<Instant>,
    prepare: bool,
    prepared: bool,
    stop: bool,
}

impl Duties {
    fn next(&self) -> Option<Instant> {
        self.sync_at.into_iter().chain(self.mark_at).min()
    }
}

impl Keeper {
    pub(crate) fn new(sync_after: Duration, segment_size: u64) -> Self {
        Keeper {
            duties: Mutex::default(),
            changed: Condvar::new(),
            sync_after,
            prepares: segment_size >= PREPARE_FROM,
        }
    }

    /// Notes what the last commit left to do.
    pub(crate) fn after_commit(&self, writer: &Writer) {
        let now = Instant::now();
        let mut duties = self.lock();
        let slept_until = duties.next();
        duties.sync_at = match writer.is_behind() {
            true => duties.sync_at.or_else(|| now.checked_add(self.sync_after)),
            false => None,
        };
        duties.mark_at = Some(now + IDLE);
        let half_full = self.prepares && writer.eighths_full() >= 4;
        let prepare = half_full && !duties.prepared;
        duties.prepare |= prepare;
        duties.prepared = half_full;
        let due_earlier = slept_until.is_none_or(|until| duties.next().is_some_and(|next| next < until));
        if due_earlier || prepare {
            self.changed.notify_one();
        }
    }

    pub(crate) fn start(
        self: &Arc<Self>,
        committer: &Arc<Committer>,
        spare: Arc<Spare>,
    ) -> Result<JoinHandle<()>, Error> {
        let (keeper, committer) = (self.clone(), Arc::downgrade(committer));
        std::thread::Builder::new()
            .name("everfold-keeper".into())
            .spawn(move || keeper.run(&committer, &spare))
            .map_err(|e| Error::io("start the thread everfold-keeper", e))
    }

    /// Ends the thread; the one who started it joins it.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    fn run(&self, committer: &Weak<Committer>, spare: &Spare) {
        while let Some(due) = self.wait() {
            let Some(committer) = committer.upgrade() else { return };
            if due.sync || due.mark {
                self.settle(&committer, due.mark);
            }
            if due.prepare
                && let Err(error) = spare.prepare()
            {
                tracing::warn!(%error, "could not make the next segment ahead; it will be tried when it is needed");
            }
        }
    }

    /// A failure poisons the writer, which tells the appenders; there is nobody to tell here.
    fn settle(&self, committer: &Committer, mark: bool) {
        let settled = committer.with_writer(|writer| {
            if mark && writer.mark_is_behind() {
                writer.mark_progress()
            } else if writer.is_behind() {
                writer.sync()
            } else {
                Ok(())
            }
        });
        if let Err(error) = settled {
            tracing::warn!(%error, "could not sync what was appended without");
        }
    }

    /// Sleeps until something is due; `None` to stop.
    fn wait(&self) -> Option<Due> {
        let mut duties = self.lock();
        loop {
            if duties.stop {
                return None;
            }
            let now = Instant::now();
            let due = Due {
                prepare: std::mem::take(&mut duties.prepare),
                sync: duties.sync_at.take_if(|at| *at <= now).is_some(),
                mark: duties.mark_at.take_if(|at| *at <= now).is_some(),
            };
            if due.prepare || due.sync || due.mark {
                return Some(due);
            }
            duties = match duties.next() {
                None => self.changed.wait(duties).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let left = next.saturating_duration_since(now);
                    self.changed.wait_timeout(duties, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Duties> {
        self.duties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Due {
    prepare: bool,
    sync: bool,
    mark: bool,
}
