//! The fold of a projection, run once more beside the projector, for those who follow its changes.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::ViewBatch;
use super::applying::apply;
use super::left_out::LeftOut;
use super::runs::Runs;
use super::views::Views;
use crate::error::{Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::log::catalog::Catalog;
use crate::log::cursor::Cursor;
use crate::log::holds::truncated;
use crate::log::reader::Reader;
use crate::log::window::RANDOM;
use crate::view::digest::Digest;
use crate::view::feed::{EventChanges, RowChange};
use crate::view::levels::{Levels, Version};
use crate::view::memory_rows::MemoryRows;
use crate::view::meta::{Beside, Moment, ViewMeta};
use crate::view::refold::{Refold, Refolder};

/// What a fold is started from.
pub(super) struct Source<P: Runs> {
    pub(super) projection: Arc<P>,
    pub(super) views: Arc<Views<P::Key, P::Value>>,
    pub(super) catalog: Arc<Catalog>,
}

impl<P: Runs> fmt::Debug for Source<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("projection", &self.projection.name()).finish_non_exhaustive()
    }
}

impl<P: Runs> Refolder for Source<P> {
    fn start(&self, base: Option<Arc<Version>>) -> Box<dyn Refold> {
        let base = base.unwrap_or_else(no_rows);
        let at = base.meta().moment();
        let mut batch = ViewBatch::new(base, &self.views);
        batch.tell();
        let cursor = Cursor::forward(self.catalog.clone(), at.checkpoint);
        Box::new(Fold {
            projection: self.projection.clone(),
            catalog: self.catalog.clone(),
            batch,
            cursor,
            at,
            to: at,
            left_out: LeftOut::default(),
        })
    }
}

/// What is there before the first event.
pub(super) fn no_rows() -> Arc<Version> {
    let meta = ViewMeta {
        store_id: Uuid::nil(),
        name: String::new(),
        generation: 0,
        checkpoint: Position::START,
        turns: 0,
        fingerprint: 0,
        digest: Digest::default(),
        beside: Beside::default(),
    };
    Levels::in_memory(Arc::new(MemoryRows::new()), meta, usize::MAX).version()
}

struct Fold<P: Runs> {
    projection: Arc<P>,
    catalog: Arc<Catalog>,
    /// All rows that the events so far have read or changed; never written.
    batch: ViewBatch<P::Key, P::Value>,
    cursor: Cursor,
    at: Moment,
    /// It may fold so far.
    to: Moment,
    /// What the view has left out on the way there.
    left_out: LeftOut,
}

impl<P: Runs> Refold for Fold<P> {
    fn moment(&self) -> Moment {
        self.at
    }

    fn extend(&mut self, to: &Version) -> Result<(), Error> {
        self.left_out = LeftOut::of(to, self.at.redriven)?;
        self.to = to.meta().moment();
        Ok(())
    }

    fn step(&mut self) -> Result<Option<EventChanges>, Error> {
        if let Some(redriven) = self.left_out.due(self.at.checkpoint) {
            let (position, log_start) = (redriven.position, self.catalog.log_start());
            if position < log_start {
                return Err(truncated(log_start));
            }
            let rows = self.apply(&Reader::new(self.catalog.clone(), RANDOM).event(position)?)?;
            self.at.redriven += 1;
            return Ok(Some(EventChanges { at: self.at, position, redriven: true, rows }));
        }
        if self.at == self.to {
            return Ok(None);
        }
        if self.at.checkpoint >= self.to.checkpoint {
            let message = "the view is damaged: it has not all events that it says were redriven";
            return Err(Error::new(ErrorKind::View, message));
        }
        self.cursor.extend();
        let event = self.cursor.next().unwrap_or_else(|| {
            let message = format!("the log gave no event at position {}", self.at.checkpoint.next());
            Err(Error::new(ErrorKind::Io, message))
        })?;
        let position = event.position();
        let rows = match self.left_out.has(position) {
            true => Vec::new(),
            false => self.apply(&event)?,
        };
        self.at.checkpoint = position;
        Ok(Some(EventChanges { at: self.at, position, redriven: false, rows }))
    }
}

impl<P: Runs> Fold<P> {
    /// What an event changes, which the view has applied.
    fn apply(&mut self, event: &RecordedEvent) -> Result<Vec<RowChange>, Error> {
        let applied = apply(&*self.projection, event, &mut self.batch);
        if let Some(failure) = self.batch.failure() {
            return Err(failure);
        }
        applied.map_err(|cause| {
            let position = event.position();
            let message = format!(
                "the event at position {position} cannot be applied once more, though the view has applied it: {cause}"
            );
            Error::new(ErrorKind::Stopped { position }, message).because(cause)
        })?;
        self.batch.changes_of_event()
    }
}
