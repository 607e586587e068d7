//! Folds in memory, to hold rows against: those of a view, or of another projection.

use std::fmt;
use std::sync::Arc;

use super::batch::{Finished, ViewBatch};
use super::chunks::Chunks;
use super::feed::Feed;
use super::folding::apply;
use super::left_out::LeftOut;
use super::opened::ViewHome;
use super::runs::Runs;
use super::views::Views;
use crate::error::Error;
use crate::event::{Position, RecordedEvent};
use crate::log::catalog::Catalog;
use crate::log::holds::truncated;
use crate::view::levels::{Levels, Version, Writes};
use crate::view::meta::ViewMeta;
use crate::view::set_aside::{Redriven, SetAside, listed};
use crate::view::verify::Prove;

/// So many changed rows are taken in together.
const ROWS: usize = 4096;

/// Folds the log again for a view.
pub(crate) struct Prover<R: Runs> {
    pub(crate) projection: Arc<R>,
    pub(crate) views: Arc<Views<R::Key, R::Value>>,
    pub(crate) home: ViewHome,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) chunks: Arc<Chunks>,
}

impl<R: Runs> fmt::Debug for Prover<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prover").field("home", &self.home).finish_non_exhaustive()
    }
}

impl<R: Runs> Prove for Prover<R> {
    fn refold(&self, rows: &Version) -> Result<Arc<Version>, Error> {
        let start = self.catalog.log_start();
        if self.home.from_log_start && start > Position::START.next() {
            // Nobody knows any more where the log started when the rows did.
            return Err(truncated(start));
        }
        let left_out = (LeftOut::of(rows, 0)?, listed(rows)?);
        let to = rows.meta().checkpoint;
        let log = (&self.catalog, &self.chunks);
        fold(&*self.projection, &self.views, &self.home, log, to, left_out)
    }
}

/// The rows that the log gives up to a position.
pub(crate) fn fold_in_memory<R: Runs>(
    projection: &R,
    views: &Arc<Views<R::Key, R::Value>>,
    home: &ViewHome,
    (catalog, chunks): (&Arc<Catalog>, &Arc<Chunks>),
    to: Position,
) -> Result<Arc<Version>, Error> {
    fold(projection, views, home, (catalog, chunks), to, Default::default())
}

/// Rows in memory, and what they say of themselves.
struct Rows<'a, R: Runs> {
    projection: &'a R,
    views: &'a Arc<Views<R::Key, R::Value>>,
    levels: Levels,
    meta: ViewMeta,
}

fn fold<R: Runs>(
    projection: &R,
    views: &Arc<Views<R::Key, R::Value>>,
    home: &ViewHome,
    (catalog, chunks): (&Arc<Catalog>, &Arc<Chunks>),
    to: Position,
    (mut left_out, still_aside): (LeftOut, Vec<SetAside>),
) -> Result<Arc<Version>, Error> {
    let opened = home.in_memory(catalog, None)?;
    let meta = opened.levels.version().meta().clone();
    let mut rows = Rows { projection, views, levels: opened.levels, meta };
    let mut feed = Feed::new(catalog.clone(), chunks.clone(), rows.meta.checkpoint);
    loop {
        while let Some(next) = left_out.due(rows.meta.checkpoint) {
            let mut feed = Feed::new(catalog.clone(), chunks.clone(), next.position.previous());
            rows.redrive(feed.event(next.position)?, next)?;
        }
        if rows.meta.checkpoint >= to {
            break;
        }
        rows.advance(&mut feed, left_out.until(to), &left_out)?;
    }
    for aside in &still_aside {
        let (version, mut meta) = (rows.levels.version(), rows.meta.clone());
        let change = {
            let ViewMeta { beside, digest, .. } = &mut meta;
            beside.list(&version, aside, digest)?
        };
        rows.levels.publish(Writes::of([change])?, meta.clone())?;
        rows.meta = meta;
    }
    Ok(rows.levels.version())
}

impl<R: Runs> Rows<'_, R> {
    fn advance(&mut self, feed: &mut Feed, to: Position, left_out: &LeftOut) -> Result<(), Error> {
        let mut batch = ViewBatch::new(self.levels.version(), self.views);
        let (mut checkpoint, mut fingerprint) = (self.meta.checkpoint, self.meta.fingerprint);
        while checkpoint < to && batch.changed() < ROWS {
            let event = feed.event(checkpoint.next())?;
            if !left_out.has(event.position()) {
                apply(self.projection, event, &mut batch).map_err(|halt| halt.into_error())?;
            }
            (checkpoint, fingerprint) = (event.position(), event.fingerprint());
        }
        let Finished { writes, digest, .. } = batch.finish(self.meta.digest)?;
        let meta = ViewMeta { checkpoint, fingerprint, digest, ..self.meta.clone() };
        self.levels.publish(writes, meta.clone())?;
        self.meta = meta;
        Ok(())
    }

    fn redrive(&mut self, event: &RecordedEvent, redriven: Redriven) -> Result<(), Error> {
        let version = self.levels.version();
        let mut batch = ViewBatch::new(version.clone(), self.views);
        apply(self.projection, event, &mut batch).map_err(|halt| halt.into_error())?;
        let Finished { mut writes, mut digest, .. } = batch.finish(self.meta.digest)?;
        let mut beside = self.meta.beside;
        writes.extend(beside.redriven(&version, redriven, &mut digest)?)?;
        let meta = ViewMeta { digest, beside, ..self.meta.clone() };
        self.levels.publish(writes, meta.clone())?;
        self.meta = meta;
        Ok(())
    }
}
