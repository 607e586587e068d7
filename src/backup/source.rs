//! What there is to copy: segments with the ends of their durable frames, and what else a store needs.

use std::sync::Arc;

use crate::error::Error;
use crate::event::Position;
use crate::log::catalog::{Catalog, closed};
use crate::log::files::read_store;
use crate::log::holds::{Base, Start};
use crate::log::index::Sealed;
use crate::log::segment::Segment;
use crate::log::store_file::StoreFile;
use crate::storage::{File, Storage};

/// A store's durable files, as of a moment. They are not changed, only added to.
pub(super) struct Source<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) store: StoreFile,
    pub(super) log_start: Position,
    /// At least one, in order.
    pub(super) parts: Vec<Part>,
}

/// A segment, as far as its frames are durable.
pub(super) struct Part {
    pub(super) segment: Arc<Segment>,
    pub(super) end: u64,
    pub(super) sealed: Option<Sealed>,
}

impl Part {
    fn of(segment: Arc<Segment>) -> Self {
        let sealed = segment.sealed();
        let end = sealed.map_or_else(|| segment.settled(), |sealed| sealed.len);
        Part { segment, end, sealed }
    }

    pub(super) fn file(&self, storage: &dyn Storage) -> Result<Arc<dyn File>, Error> {
        self.segment.file(storage)
    }
}

impl<'a> Source<'a> {
    /// Everything from the log's start on, which the caller holds.
    pub(super) fn of(catalog: &'a Catalog, start: &Start) -> Result<Self, Error> {
        if catalog.is_closed() {
            return Err(closed());
        }
        if let Some(error) = catalog.damaged_end() {
            return Err(error);
        }
        if let Base::Lost(damage) = &start.base {
            return Err(damage.clone().into());
        }
        let storage = catalog.storage.as_ref();
        let store = read_store(storage, &mut Vec::new())?;
        let (first, active) = catalog.numbers();
        let segments = (first..=active).filter_map(|number| catalog.segment(number));
        let parts = segments.filter(|segment| segment.header.first >= start.first).map(Part::of).collect();
        Ok(Source { storage, store, log_start: start.first, parts })
    }
}
