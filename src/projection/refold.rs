//! The fold of a projection, run once more beside the projector, for those who follow its changes.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::ViewBatch;
use super::applying::apply;
use super::runs::Runs;
use super::views::Views;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::log::cursor::Cursor;
use crate::view::digest::Digest;
use crate::view::feed::RowChange;
use crate::view::levels::{Levels, Version};
use crate::view::memory_rows::MemoryRows;
use crate::view::meta::{Beside, ViewMeta};
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
        let at = base.meta().checkpoint;
        let mut batch = ViewBatch::new(base, &self.views);
        batch.tell();
        let cursor = Cursor::forward(self.catalog.clone(), at);
        Box::new(Fold { projection: self.projection.clone(), batch, cursor, at })
    }
}

/// What is there before the first event.
fn no_rows() -> Arc<Version> {
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
    /// All rows that the events so far have read or changed; never written.
    batch: ViewBatch<P::Key, P::Value>,
    cursor: Cursor,
    at: Position,
}

impl<P: Runs> Refold for Fold<P> {
    fn position(&self) -> Position {
        self.at
    }

    fn step(&mut self) -> Result<Vec<RowChange>, Error> {
        self.cursor.extend();
        let event = self.cursor.next().unwrap_or_else(|| {
            let message = format!("the log gave no event at position {}", self.at.next());
            Err(Error::new(ErrorKind::Io, message))
        })?;
        let applied = apply(&*self.projection, &event, &mut self.batch);
        if let Some(failure) = self.batch.failure() {
            return Err(failure);
        }
        self.at = event.position();
        match applied {
            Ok(()) => self.batch.changes_of_event(),
            // The view has passed this event without it: so does this.
            Err(_) => self.batch.undo_event().map(|()| Vec::new()),
        }
    }
}
