//! The thread that writes the indexes of sealed segments into files and merges them, off the way of appends.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::catalog::Catalog;
use super::segment::Segment;
use crate::error::Error;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// So many sealed segments may wait for the thread, with their indexes in memory. Of further ones the index is written by
/// whoever rolls: the thread may be merging, or making lost indexes anew, for long.
const MOST_WAITING: usize = 2;
/// Indexes of smaller segments are written when they are sealed: that takes no time.
const INLINE_BELOW: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Indexer {
    catalog: Arc<Catalog>,
    /// Whether a thread does the work.
    threaded: bool,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    /// Sealed, and not written yet.
    waiting: VecDeque<Arc<Segment>>,
    stop: bool,
}

impl Indexer {
    pub(crate) fn new(catalog: Arc<Catalog>, segment_size: u64) -> Self {
        let threaded = segment_size >= INLINE_BELOW;
        Indexer { catalog, threaded, work: Mutex::default(), changed: Condvar::new() }
    }

    /// Starts the thread, which first sees to what a crash or a loss of files left undone.
    pub(crate) fn start(self: &Arc<Self>) -> Result<Option<JoinHandle<()>>, Error> {
        if !self.threaded {
            self.catch_up();
            return Ok(None);
        }
        let indexer = self.clone();
        thread::Builder::new()
            .name("everfold-indexer".into())
            .spawn(move || indexer.run())
            .map(Some)
            .map_err(|e| Error::io("start the thread everfold-indexer", e))
    }

    /// A segment was sealed: its index is to be written.
    pub(crate) fn sealed(&self, segment: Arc<Segment>) {
        if !self.threaded {
            self.catalog.keep_index(&segment);
            self.merge();
            return;
        }
        let mut work = self.lock();
        if work.waiting.len() < MOST_WAITING && !work.stop {
            work.waiting.push_back(segment);
            self.changed.notify_all();
            return;
        }
        drop(work);
        self.catalog.keep_index(&segment);
    }

    /// Ends the thread once the indexes that wait are written; the one who started it joins it.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        let _ended = Ended(self);
        self.catch_up();
        loop {
            let segment = {
                let mut work = self.lock();
                loop {
                    match work.waiting.front() {
                        Some(segment) => break segment.clone(),
                        None if work.stop => return,
                        None => work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
                    }
                }
            };
            self.catalog.keep_index(&segment);
            self.lock().waiting.pop_front();
            self.merge();
        }
    }

    /// Loads or makes the indexes of segments that no directory has.
    fn catch_up(&self) {
        let (first, active) = self.catalog.numbers();
        for number in first..active {
            if self.lock().stop {
                return;
            }
            if self.catalog.directory_of(number).is_none()
                && let Some(segment) = self.catalog.segment(number)
                && let Err(error) = self.catalog.index(&segment)
            {
                tracing::warn!(segment.name, %error, "could not make the index of a segment");
            }
        }
        self.merge();
    }

    fn merge(&self) {
        while !self.lock().stop {
            match self.catalog.merge_directories() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "could not merge indexes; it will be tried when the next segment is sealed");
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing is left to a thread that has ended.
struct Ended<'a>(&'a Indexer);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
    }
}
