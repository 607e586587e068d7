//! Moves runs into the bottom level, in a thread of its own.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::merge::Merged;
use super::run::Run;
use super::version::{Epoch, Version};
use super::{Shared, Writing};
use crate::error::Error;
use crate::view::meta::{Place, ViewMeta};
use crate::view::rows::End;

/// What is drained.
struct Drain {
    runs: Vec<Arc<Run>>,
    meta: ViewMeta,
    /// That of the versions which do not have all of these runs.
    before: Arc<Epoch>,
}

impl Shared {
    /// Waits until no drain is under way.
    pub(super) fn wait_for_drain<'a>(&'a self, writing: MutexGuard<'a, Writing>) -> MutexGuard<'a, Writing> {
        self.drained
            .wait_while(writing, |writing| writing.draining > 0 && writing.failure.is_none())
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to drain all runs there are. They are made durable before, as a crash may leave some of them drained.
    pub(super) fn start_drain(self: &Arc<Self>, writing: &mut Writing) -> Result<(), Error> {
        self.record(writing)?;
        let version = self.version();
        let after = Arc::new(Epoch::default());
        version.epoch.end(after.clone());
        self.set(Version { epoch: after, ..Version::clone(&version) });
        let drain =
            Drain { runs: version.runs.clone(), meta: version.meta.clone(), before: version.epoch.clone() };
        drop(version);
        writing.draining = drain.runs.len();
        let shared = self.clone();
        let thread = std::thread::Builder::new().name("everfold-drain".into()).spawn(move || {
            let drained = shared.drain(&drain);
            shared.end_drain(&drain.meta, drained);
        });
        match thread {
            Ok(thread) => writing.drain = Some(thread),
            Err(error) => {
                writing.draining = 0;
                return Err(Error::io("start a thread that drains a view", error));
            }
        }
        Ok(())
    }

    /// Whether it came to its end.
    fn drain(&self, drain: &Drain) -> Result<bool, Error> {
        drain.runs.iter().for_each(|run| self.bottom.expect(run));
        let (runs, all) = (drain.runs.iter().map(|run| &**run), &Bound::Unbounded);
        let keep = |rows| {
            // Versions of that time are made no more: when there is none, none will want the rows.
            if Arc::strong_count(&drain.before) > 1 {
                drain.before.keep(rows);
            }
        };
        let go_on = || !self.closing.load(Ordering::Acquire);
        let whole = self.bottom.drain(Merged::new(runs, all, all, End::Front), &drain.meta, keep, go_on)?;
        if whole {
            self.bottom.make_durable()?;
        }
        Ok(whole)
    }

    fn end_drain(&self, meta: &ViewMeta, drained: Result<bool, Error>) {
        let mut writing = self.writing();
        match drained {
            Ok(true) => {
                let version = self.version();
                let left = version.runs.len().saturating_sub(writing.draining);
                let runs = version.runs.iter().take(left).cloned().collect();
                self.set(Version { runs, ..Version::clone(&version) });
                writing.went_down(meta.place());
            }
            // The rows stay where they are: in memory, and in the records.
            Ok(false) => {}
            Err(error) => writing.failure = Some(error),
        }
        writing.draining = 0;
        drop(writing);
        self.drained.notify_all();
    }
}

impl Writing {
    fn went_down(&mut self, place: Place) {
        self.bottom = place;
        if let Some(redo) = &mut self.redo {
            redo.remove_to(place, false);
        }
    }
}
