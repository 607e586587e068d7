//! The rows of a view as its projector writes them and its handles read them: always as of one checkpoint.
//!
//! What is published is a [`run`] in memory. Runs are [`merge`]d so that there are few, and each [`version`] is the runs
//! of its time over the bottom level, [`blocks`] in a key-value store. To be durable, what was published since the last
//! time is written to a [`redo`] record ([`redo_files`]). When the runs take too much memory, a [`drain`] moves them into
//! the bottom level in the background; until it has ended, and the key-value store is durable, the records stay. So rows
//! that changed often are written there once, many at a time, in the order of their keys.

mod blocks;
mod drain;
mod filter;
mod merge;
mod redo;
mod redo_files;
mod run;
#[cfg(test)]
mod tests;
mod version;
mod writes;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use blocks::Blocks;
use filter::Filter;
use redo::Redo;
use redo_files::RedoFiles;
use run::Run;
use version::Epoch;
pub(crate) use version::Version;
pub(crate) use writes::Writes;

use super::digest::Digest;
use super::meta::{Place, ViewMeta};
use super::rows::{Change, Rows};
use crate::error::{Error, ErrorKind};
use crate::event::Position;

/// So many records are on disk before one takes the place of all.
const MOST_RECORDS: usize = 16;

/// What a projector writes through.
#[derive(Debug)]
pub(crate) struct Levels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bottom: Blocks,
    current: RwLock<Arc<Version>>,
    writing: Mutex<Writing>,
    /// A drain has ended.
    drained: Condvar,
    /// Bytes of runs at which a drain begins.
    limit: usize,
    /// Drains end early.
    closing: AtomicBool,
}

/// What is not in the bottom level yet.
#[derive(Debug)]
struct Writing {
    /// None: nothing is to outlive the process.
    redo: Option<RedoFiles>,
    /// Nothing was published yet.
    is_as_opened: bool,
    /// What was published since the last record, the newest first.
    unrecorded: Vec<Arc<Run>>,
    /// How far the rows are that are durable.
    durable: Place,
    /// How far the bottom level is.
    bottom: Place,
    /// How many runs, the oldest, are being drained.
    draining: usize,
    drain: Option<JoinHandle<()>>,
    /// Why a drain failed.
    failure: Option<Error>,
}

impl Levels {
    /// The first rows, in the order of their keys, and what they say they are, durably.
    pub(crate) fn create(stored: &Arc<dyn Rows>, first: &[Change], meta: &ViewMeta) -> Result<(), Error> {
        let bottom = Blocks::over(stored.clone());
        let first = first.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        bottom.drain(first, meta, drop, || true)?;
        bottom.make_durable()
    }

    /// Rows in memory, gone with this.
    pub(crate) fn in_memory(stored: Arc<dyn Rows>, meta: ViewMeta, limit: usize) -> Self {
        Levels::over(Blocks::over(stored), meta, Vec::new(), None, limit)
    }

    /// The rows in a key-value store, with the redo records beside it.
    pub(crate) fn open(stored: Arc<dyn Rows>, dir: &Path, limit: usize) -> Result<Self, Error> {
        let bottom = Blocks::over(stored);
        let said = bottom.said()?;
        let (redo, records) = RedoFiles::open(dir)?;
        let (at, meta) = (said.meta.place(), said.meta);
        let (mut meta, mut runs) = (meta, Vec::new());
        let mut records: Vec<Redo> = records.into_iter().filter(|redo| fits(&redo.meta, &meta)).collect();
        while let Some(next) = next_record(&mut records, meta.place()) {
            meta = next.meta;
            runs.insert(0, Arc::new(next.rows));
        }
        if let Some(to) = said.draining
            && meta.place() < to
        {
            let to = to.checkpoint;
            let message = format!(
                "the view is damaged: its rows were being brought to position {to}, and the redo records for it end at {}",
                meta.checkpoint
            );
            return Err(Error::new(ErrorKind::View, message));
        }
        let levels = Levels::over(bottom, meta, runs, Some(redo), limit);
        levels.shared.writing().bottom = at;
        Ok(levels)
    }

    fn over(
        bottom: Blocks,
        meta: ViewMeta,
        runs: Vec<Arc<Run>>,
        redo: Option<RedoFiles>,
        limit: usize,
    ) -> Self {
        let writing = Writing {
            redo,
            is_as_opened: true,
            unrecorded: Vec::new(),
            durable: meta.place(),
            bottom: meta.place(),
            draining: 0,
            drain: None,
            failure: None,
        };
        let version = Version { meta, runs, epoch: Arc::new(Epoch::default()), bottom: bottom.clone() };
        let shared = Shared {
            bottom,
            current: RwLock::new(Arc::new(version)),
            writing: Mutex::new(writing),
            drained: Condvar::new(),
            limit,
            closing: AtomicBool::new(false),
        };
        Levels { shared: Arc::new(shared) }
    }

    /// The rows as of the last checkpoint.
    pub(crate) fn version(&self) -> Arc<Version> {
        self.shared.version()
    }

    /// Reads all rows, and returns what tells them from any others. When this is done right after the opening, before
    /// anything is published, other keys than theirs are looked for in the key-value store no more, until too many runs
    /// have been drained.
    pub(crate) fn read_all(&self) -> Result<Digest, Error> {
        let version = self.version();
        let mut keys = Filter::with_room(version.meta.digest.rows);
        let digest = version.digest_with(|key| keys.iter_mut().for_each(|keys| keys.add(key)))?;
        let writing = self.shared.writing();
        // What these rows do not have may still be in the bottom level, where a run removes it: that run is in all
        // versions there are, until it is drained and its keys are expected.
        let is_all = digest == version.meta.digest && writing.is_as_opened;
        if let Some(keys) = keys.filter(|_| is_all) {
            self.shared.bottom.know(keys);
        }
        Ok(digest)
    }

    /// Makes changes visible together with the checkpoint after them. They are not durable yet. Only the projector calls
    /// this.
    pub(crate) fn publish(&self, writes: Writes, meta: ViewMeta) -> Result<(), Error> {
        let run = Arc::new(writes.into_run()?);
        let mut writing = self.shared.writing();
        writing.check()?;
        writing.is_as_opened = false;
        let version = self.shared.version();
        let mut runs = version.runs.clone();
        if !run.is_empty() {
            runs.insert(0, run.clone());
            settle(&mut runs, writing.draining)?;
            if writing.redo.is_some() {
                writing.unrecorded.insert(0, run);
            }
        }
        let active = runs.len() - writing.draining;
        let size: usize = runs.iter().take(active).map(|run| run.size()).sum();
        self.shared.set(Version {
            meta,
            runs,
            epoch: version.epoch.clone(),
            bottom: self.shared.bottom.clone(),
        });
        drop(version);
        if size < self.shared.limit {
            return Ok(());
        }
        // Rows come faster than they go down.
        let mut writing = self.shared.wait_for_drain(writing);
        writing.check()?;
        self.shared.start_drain(&mut writing)
    }

    /// Makes durable what was published, and returns the checkpoint of it.
    pub(crate) fn make_durable(&self) -> Result<Position, Error> {
        let mut writing = self.shared.writing();
        writing.check()?;
        self.shared.record(&mut writing)?;
        Ok(writing.durable.checkpoint)
    }

    /// Bytes of changed rows in memory at which they are moved down.
    pub(crate) fn limit(&self) -> usize {
        self.shared.limit
    }

    /// The last checkpoint that is durable.
    pub(crate) fn durable(&self) -> Position {
        self.shared.writing().durable.checkpoint
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        let drain = self.shared.writing().drain.take();
        if drain.is_some_and(|drain| drain.join().is_err()) {
            tracing::error!("the thread that drains a view had panicked");
        }
    }
}

impl Writing {
    fn check(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn version(&self) -> Arc<Version> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, version: Version) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(version);
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was published since the last record.
    fn record(&self, writing: &mut Writing) -> Result<(), Error> {
        let version = self.version();
        let (place, before, bottom) = (version.meta.place(), writing.durable, writing.bottom);
        let Writing { redo: Some(redo), unrecorded, durable, .. } = writing else {
            writing.durable = place;
            return Ok(());
        };
        if *durable == place {
            return Ok(());
        }
        // Found at the opening, behind one that is lost: from now on they would be of rows that never were.
        redo.remove_after(*durable);
        let in_memory: u64 =
            version.runs.iter().map(|run| u64::try_from(run.size()).unwrap_or(u64::MAX)).sum();
        let (records, bytes) = redo.size();
        if records >= MOST_RECORDS || bytes > in_memory.saturating_mul(3).saturating_add(1 << 20) {
            // One that takes the place of all: rows that change often are in each.
            redo.write(bottom, &version.meta, &*merge::merge(&version.runs)?)?;
            redo.remove_to(place, true);
        } else {
            redo.write(before, &version.meta, &*merge::merge(unrecorded)?)?;
        }
        unrecorded.clear();
        *durable = place;
        Ok(())
    }
}

/// Merges the newest runs while they are no smaller than the next, but for the `draining` oldest.
fn settle(runs: &mut Vec<Arc<Run>>, draining: usize) -> Result<(), Error> {
    while let [newest, next, ..] = runs.as_slice()
        && runs.len() - draining >= 2
        && newest.len() >= next.len()
    {
        let merged = merge::merge(&[newest.clone(), next.clone()])?;
        runs.splice(..2, [merged]);
    }
    Ok(())
}

/// Whether a record is of the view that its folder says.
fn fits(record: &ViewMeta, view: &ViewMeta) -> bool {
    (record.store_id, &record.name, record.generation) == (view.store_id, &view.name, view.generation)
}

/// The record that leads furthest from a place. It has each row that changed since one that is not later, as it is
/// at its own.
fn next_record(records: &mut Vec<Redo>, at: Place) -> Option<Redo> {
    let fit = records.iter().enumerate().filter(|(_, redo)| redo.before <= at && redo.meta.place() > at);
    let (number, _) = fit.max_by_key(|(_, redo)| redo.meta.place())?;
    Some(records.swap_remove(number))
}
