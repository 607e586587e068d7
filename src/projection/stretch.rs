//! Rows that are far behind, brought on by many events at once: by a fold that can fold the parts of the log apart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::folding::{Folding, Halt, is_of_a_row};
use super::runs::Runs;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::view::digest::Digest;
use crate::view::levels::{Version, Writes};
use crate::view::meta::ViewMeta;

/// Rows that are not served are brought on by so much less at once: those that are wait meanwhile.
const BESIDE: u64 = 4;

/// Events to be folded at once, and the rows to be brought on by them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'a> {
    pub(crate) catalog: &'a Arc<Catalog>,
    /// The rows of a plain view; the stretch begins after their checkpoint.
    pub(crate) rows: &'a Version,
    /// The last event.
    pub(crate) to: Position,
    pub(crate) threads: usize,
    pub(crate) stop: &'a AtomicBool,
}

/// What a stretch came to.
#[derive(Debug)]
pub(crate) struct Built {
    /// The last event in it: at the end of the stretch, or before.
    pub(crate) to: Position,
    pub(crate) writes: Writes,
    /// What tells the rows after them.
    pub(crate) digest: Digest,
}

/// How many events are folded at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Rows that are less behind are brought on by one event after the other.
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// Folds stretches of the log.
pub(crate) trait Stretches: Send + Sync {
    fn extent(&self) -> Extent;

    /// Folds a stretch, or the beginning of it. `None` when it was stopped.
    fn build(&self, stretch: &Stretch<'_>) -> Result<Option<Built>, Error>;
}

/// How long stretches are not tried after one that failed. It doubles each time, so that the attempts cost little even
/// where there are many events that fail.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause {
    until: Position,
    events: u64,
}

impl Pause {
    fn begin(&mut self, at: Position, extent: Extent) {
        self.events = self.events.saturating_mul(2).max(extent.least.max(1));
        self.until = Position::new(at.get().saturating_add(self.events));
    }
}

impl<R: Runs> Folding<R> {
    /// Brings the rows on by many events, if they are far behind and the fold can. Returns false when the next events are
    /// to be applied one after the other.
    pub(super) fn stretch(&mut self, last: Position) -> Result<bool, Halt> {
        let projection = self.fold.projection.clone();
        let Some(stretches) = projection.stretches() else { return Ok(false) };
        let (extent, after) = (stretches.extent(), self.checkpoint());
        let behind = last.get().saturating_sub(after.get());
        let most = if self.is_served { extent.most } else { extent.most / BESIDE };
        let is_plain = self.fold.views.layout().is_plain();
        if behind < extent.least || after < self.pause.until || !is_plain {
            return Ok(false);
        }
        // Whoever follows is told what each event changes.
        if self.is_served && self.fold.state.feed.begin(self.moment()).is_some() {
            return Ok(false);
        }
        self.rest();
        let rows = self.current.levels.version();
        let stretch = Stretch {
            catalog: &self.fold.state.catalog,
            rows: &rows,
            to: last.min(after.plus(most.max(1))),
            threads: self.fold.options.threads(),
            stop: &self.fold.stop,
        };
        let built = catch_unwind(AssertUnwindSafe(|| stretches.build(&stretch)));
        let built = built.unwrap_or_else(|_| Err(Error::invalid("the projection's code panicked")));
        drop(rows);
        match built.map(|built| built.map(|built| self.publish_stretch(built))) {
            Ok(None) | Ok(Some(Ok(true))) => Ok(true),
            Ok(Some(Err(halt))) => Err(halt),
            Ok(Some(Ok(false))) => {
                self.pause.begin(after, extent);
                Ok(false)
            }
            Err(error) => {
                tracing::debug!(view = &*self.current.meta.name, %error, "events are applied one after the other");
                let at = match error.kind() {
                    ErrorKind::Stopped { position } => position,
                    _ => after,
                };
                self.pause.begin(at, extent);
                Ok(false)
            }
        }
    }

    /// Returns false when a row cannot be kept: which event made it so, one after the other tells.
    fn publish_stretch(&mut self, built: Built) -> Result<bool, Halt> {
        let Built { to, writes, digest } = built;
        let fingerprint = self.event(to)?.fingerprint();
        let meta = ViewMeta { checkpoint: to, digest, fingerprint, ..self.current.meta.clone() };
        match self.current.publish(writes, meta) {
            Err(error) if is_of_a_row(&error) => return Ok(false),
            published => published.map_err(Halt::View)?,
        }
        self.current.rows = digest.rows.wrapping_sub(self.current.meta.beside.rows());
        if self.is_served {
            self.fold.state.feed.publish(None, self.moment());
        }
        Ok(true)
    }
}
