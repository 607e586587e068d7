//! The thread that keeps the log in order between appends, off their way: writes and syncs what was appended without, writes
//! the mark when the log has been idle, puts zeros ahead, and makes the file of the next segment.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::committer::Committer;
use super::outflow::Outflow;
use super::spare::Spare;
use super::writer::Writer;
use crate::error::{Error, ErrorKind};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The mark is written when there was no append for so long, when that is looked at so often.
const IDLE: Duration = Duration::from_secs(1);

/// What the keeper does off the writer's way and without its lock.
#[derive(Debug)]
pub(crate) struct Chores {
    pub(crate) spare: Arc<Spare>,
    pub(crate) ahead: Arc<Ahead>,
    pub(crate) outflow: Arc<Outflow>,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    duties: Mutex<Duties>,
    changed: Condvar,
    sync_after: Duration,
    noted: Noted,
}

/// What the keeper knows already: so that a commit which changes nothing of it costs a few loads. Written by whoever
/// holds the writer, and taken back by the keeper before it acts, unless it says otherwise.
#[derive(Debug, Default)]
struct Noted {
    /// There was a commit since the keeper looked last.
    active: AtomicBool,
    /// It looks again.
    watching: AtomicBool,
    sync: AtomicBool,
    /// Only once for each segment: taken back when it was rolled.
    prepare: AtomicBool,
    zeros: AtomicBool,
    /// How many writes were left to the keeper.
    writes: AtomicU64,
}

/// What is to be done, and when.
#[derive(Debug, Default)]
struct Duties {
    sync_at: Option<Instant>,
    look_at: Option<Instant>,
    prepare: bool,
    zeros: bool,
    write: bool,
    stop: bool,
}

impl Duties {
    fn next(&self) -> Option<Instant> {
        self.sync_at.into_iter().chain(self.look_at).min()
    }
}

/// Sets a flag; whether it was not set.
fn set(flag: &AtomicBool) -> bool {
    !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::AcqRel)
}

impl Keeper {
    pub(crate) fn new(sync_after: Duration) -> Self {
        Keeper { duties: Mutex::default(), changed: Condvar::new(), sync_after, noted: Noted::default() }
    }

    /// Notes what the last commit left to do.
    pub(crate) fn after_commit(&self, writer: &Writer) {
        let _known = set(&self.noted.active);
        if set(&self.noted.watching) {
            self.note(|duties| duties.look_at = Some(Instant::now() + IDLE));
        }
        if writer.is_behind() && set(&self.noted.sync) {
            self.note(|duties| duties.sync_at = Instant::now().checked_add(self.sync_after));
        }
        if !writer.wants_spare() {
            self.noted.prepare.store(false, Ordering::Relaxed);
        } else if set(&self.noted.prepare) {
            self.note(|duties| duties.prepare = true);
        }
        if writer.wants_zeros() && set(&self.noted.zeros) {
            self.note(|duties| duties.zeros = true);
        }
        let writes = writer.outflows();
        if self.noted.writes.load(Ordering::Relaxed) != writes {
            self.noted.writes.store(writes, Ordering::Relaxed);
            self.note(|duties| duties.write = true);
        }
    }

    fn note(&self, what: impl FnOnce(&mut Duties)) {
        what(&mut self.lock());
        self.changed.notify_one();
    }

    pub(crate) fn start(
        self: &Arc<Self>,
        committer: &Arc<Committer>,
        chores: Chores,
    ) -> Result<JoinHandle<()>, Error> {
        let (keeper, committer) = (self.clone(), Arc::downgrade(committer));
        thread::Builder::new()
            .name("everfold-keeper".into())
            .spawn(move || keeper.run(&committer, &chores))
            .map_err(|e| Error::io("start the thread everfold-keeper", e))
    }

    /// Ends the thread; the one who started it joins it.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    fn run(&self, committer: &Weak<Committer>, chores: &Chores) {
        let Chores { spare, ahead, outflow } = chores;
        while let Some(due) = self.wait() {
            let Some(committer) = committer.upgrade() else { return };
            if due.write {
                outflow.work();
            }
            if due.sync || due.mark {
                self.settle(&committer, due.mark);
            }
            if due.zeros
                && let Err(error) = ahead.write_zeros()
            {
                tracing::debug!(%error, "could not write zeros ahead; this segment goes without");
            }
            if due.prepare
                && let Err(error) = spare.prepare(ahead.pays())
            {
                tracing::warn!(%error, "could not make the next segment ahead; it will be tried when it is needed");
            }
        }
    }

    /// A failure poisons the writer, which tells the appenders; there is nobody to tell here. Where the disk is full, it is
    /// tried again.
    fn settle(&self, committer: &Committer, mark: bool) {
        let settled = match mark && committer.with_writer(|writer| writer.mark_is_behind()) {
            true => committer.with_writer(Writer::mark_progress),
            false => Self::sync(committer),
        };
        if let Err(error) = settled {
            tracing::warn!(%error, "could not sync what was appended without");
            if error.kind() == ErrorKind::DiskFull && set(&self.noted.sync) {
                self.note(|duties| duties.sync_at = Instant::now().checked_add(self.sync_after.max(IDLE)));
            }
        }
    }

    /// Appends without a sync go on meanwhile.
    fn sync(committer: &Committer) -> Result<(), Error> {
        let Some(sync) = committer.with_writer(Writer::begin_sync)? else { return Ok(()) };
        let ended = sync.run();
        committer.with_writer(|writer| writer.end_sync(&sync, ended))
    }

    /// Sleeps until something is due; `None` to stop.
    fn wait(&self) -> Option<Due> {
        let mut duties = self.lock();
        loop {
            if duties.stop {
                return None;
            }
            let now = Instant::now();
            let looks = duties.look_at.take_if(|at| *at <= now).is_some();
            let due = Due {
                sync: duties.sync_at.take_if(|at| *at <= now).is_some(),
                mark: looks && !self.noted.active.swap(false, Ordering::AcqRel),
                prepare: std::mem::take(&mut duties.prepare),
                zeros: std::mem::take(&mut duties.zeros),
                write: std::mem::take(&mut duties.write),
            };
            if looks && !due.mark {
                duties.look_at = Some(now + IDLE);
            }
            self.forget(&due);
            if due.sync || due.mark || due.prepare || due.zeros || due.write {
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

    /// What comes after this is noted anew.
    fn forget(&self, due: &Due) {
        let Noted { watching, sync, zeros, .. } = &self.noted;
        let flags = [(due.mark, watching), (due.sync, sync), (due.zeros, zeros)];
        flags.into_iter().filter(|(due, _)| *due).for_each(|(_, flag)| flag.store(false, Ordering::Release));
    }

    fn lock(&self) -> MutexGuard<'_, Duties> {
        self.duties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Due {
    sync: bool,
    mark: bool,
    prepare: bool,
    zeros: bool,
    write: bool,
}
