//! Folds in memory, to hold rows against: those of a view, or of another projection.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::batch::ViewBatch;
use super::chunks::Chunks;
use super::feed::Feed;
use super::folding::apply;
use super::opened::ViewHome;
use super::runs::Runs;
use crate::error::Error;
use crate::event::{Position, RecordedEvent};
use crate::log::catalog::Catalog;
use crate::log::holds::truncated;
use crate::view::levels::{Levels, Version};
use crate::view::meta::ViewMeta;
use crate::view::set_aside::{Beside, Redriven, SetAside, listed, redriven};
use crate::view::verify::Refold;

/// So many changed rows are taken in together.
const ROWS: usize = 4096;

/// Folds the log again for a view.
pub(crate) struct Refolder<R> {
    pub(crate) projection: Arc<R>,
    pub(crate) home: ViewHome,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) chunks: Arc<Chunks>,
}

impl<R> fmt::Debug for Refolder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refolder").field("home", &self.home).finish_non_exhaustive()
    }
}

impl<R: Runs> Refold for Refolder<R> {
    fn refold(&self, rows: &Version) -> Result<Arc<Version>, Error> {
        let start = self.catalog.log_start();
        if self.home.from_log_start && start > Position::START.next() {
            // Nobody knows any more where the log started when the rows did.
            return Err(truncated(start));
        }
        let mut left_out = LeftOut { aside: listed(rows)?, redriven: redriven(rows)? };
        left_out.redriven.reverse();
        let to = rows.meta().checkpoint;
        fold(&*self.projection, &self.home, &self.catalog, &self.chunks, to, left_out)
    }
}

/// The rows that the log gives up to a position.
pub(crate) fn fold_in_memory<R: Runs>(
    projection: &R,
    home: &ViewHome,
    catalog: &Arc<Catalog>,
    chunks: &Arc<Chunks>,
    to: Position,
) -> Result<Arc<Version>, Error> {
    fold(projection, home, catalog, chunks, to, LeftOut::default())
}

/// The events that were not applied in their turn.
#[derive(Default)]
struct LeftOut {
    aside: Vec<SetAside>,
    /// The last one first.
    redriven: Vec<Redriven>,
}

/// Rows in memory, and what they say of themselves.
struct Rows {
    levels: Levels,
    meta: ViewMeta,
    beside: Beside,
}

fn fold<R: Runs>(
    projection: &R,
    home: &ViewHome,
    catalog: &Arc<Catalog>,
    chunks: &Arc<Chunks>,
    to: Position,
    mut left_out: LeftOut,
) -> Result<Arc<Version>, Error> {
    let opened = home.in_memory(catalog, None);
    let meta = opened.levels.version().meta().clone();
    let mut rows = Rows { levels: opened.levels, meta, beside: opened.beside };
    let aside = left_out.aside.iter().map(|event| event.position);
    let skipped: BTreeSet<Position> =
        aside.chain(left_out.redriven.iter().map(|event| event.position)).collect();
    let mut feed = Feed::new(catalog.clone(), chunks.clone(), rows.meta.checkpoint);
    loop {
        while let Some(next) = left_out.redriven.pop_if(|event| event.checkpoint <= rows.meta.checkpoint) {
            let event =
                Feed::new(catalog.clone(), chunks.clone(), next.position.previous()).event(next.position)?;
            rows.redrive(projection, &event, next)?;
        }
        if rows.meta.checkpoint >= to {
            break;
        }
        let to = left_out.redriven.last().map_or(to, |next| next.checkpoint.min(to));
        rows.advance(projection, &mut feed, to, &skipped)?;
    }
    for aside in &left_out.aside {
        let (version, mut meta) = (rows.levels.version(), rows.meta.clone());
        let change = rows.beside.list(&version, aside, &mut meta.digest)?;
        rows.levels.publish(&[change], meta.clone())?;
        rows.meta = meta;
    }
    Ok(rows.levels.version())
}

impl Rows {
    fn advance<R: Runs>(
        &mut self,
        projection: &R,
        feed: &mut Feed,
        to: Position,
        skipped: &BTreeSet<Position>,
    ) -> Result<(), Error> {
        let mut batch = ViewBatch::new(self.levels.version());
        let (mut checkpoint, mut fingerprint) = (self.meta.checkpoint, self.meta.fingerprint);
        while checkpoint < to && batch.changed() < ROWS {
            let event = feed.event(checkpoint.next())?;
            if !skipped.contains(&event.position()) {
                apply(projection, &event, &mut batch).map_err(|halt| halt.into_error())?;
            }
            (checkpoint, fingerprint) = (event.position(), event.fingerprint());
        }
        let (changes, digest) = batch.finish(self.meta.digest)?;
        let meta = ViewMeta { checkpoint, fingerprint, digest, ..self.meta.clone() };
        self.levels.publish(&changes, meta.clone())?;
        self.meta = meta;
        Ok(())
    }

    fn redrive<R: Runs>(
        &mut self,
        projection: &R,
        event: &RecordedEvent,
        redriven: Redriven,
    ) -> Result<(), Error> {
        let version = self.levels.version();
        let mut batch = ViewBatch::new(version.clone());
        apply(projection, event, &mut batch).map_err(|halt| halt.into_error())?;
        let (changes, mut digest) = batch.finish(self.meta.digest)?;
        let noted = self.beside.redriven(&version, redriven, &mut digest)?;
        let meta = ViewMeta { digest, ..self.meta.clone() };
        let changes: Vec<_> = noted.into_iter().chain(changes).collect();
        self.levels.publish(&changes, meta.clone())?;
        self.meta = meta;
        Ok(())
    }
}
