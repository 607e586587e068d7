//! Stream → positions, and event id → place.
//!
//! Behind a trait, so that the indexes of sealed segments can move into files beside them. Lookups can fail for
//! that reason: an index on disk is read. An index is never evidence of what the log holds, only the way to it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{PoisonError, RwLock};

use uuid::Uuid;

use crate::error::{Corruption, Error};
use crate::event::{Position, Version};

/// What the log asks of an index. All of it covers events that are not durable yet: readers bound what they get by
/// the watermark.
pub(crate) trait StreamIndex: Debug + Send + Sync {
    /// Adds an event. Positions come in order.
    fn insert(&self, stream: &str, version: Version, id: Uuid, position: Position);

    /// The stream's last version. Fails when damage may hide later events of it.
    fn version(&self, stream: &str) -> Result<Version, Error>;

    /// Versions and positions of a stream's events after a version, ascending, at most `limit`.
    fn after(&self, stream: &str, after: Version, limit: usize) -> Result<Vec<Place>, Error>;

    /// Versions and positions of a stream's events before a version, descending, at most `limit`.
    fn before(&self, stream: &str, before: Version, limit: usize) -> Result<Vec<Place>, Error>;

    /// Where an event id was recorded: the version in its stream, and the position.
    fn find(&self, id: Uuid) -> Result<Option<Place>, Error>;

    /// Events up to this position may be missing from the index, because they cannot be read.
    fn hide(&self, up_to: Position, cause: Corruption);
}

/// Where an event of a stream is. Versions that damage hides are left out.
pub(crate) type Place = (Version, Position);

/// The index of everything, in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    /// Ascending by version.
    streams: HashMap<Box<str>, Vec<Place>>,
    ids: HashMap<Uuid, Place>,
    hidden: Option<(Position, Corruption)>,
}

impl Tables {
    fn stream(&self, stream: &str) -> &[Place] {
        self.streams.get(stream).map(Vec::as_slice).unwrap_or_default()
    }
}

impl StreamIndex for MemoryIndex {
    fn insert(&self, stream: &str, version: Version, id: Uuid, position: Position) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.ids.entry(id).or_insert((version, position));
        match tables.streams.get_mut(stream) {
            Some(places) => places.push((version, position)),
            None => {
                tables.streams.insert(stream.into(), vec![(version, position)]);
            }
        }
    }

    fn version(&self, stream: &str) -> Result<Version, Error> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (version, position) = tables.stream(stream).last().copied().unwrap_or_default();
        match &tables.hidden {
            Some((up_to, cause)) if position < *up_to => Err(cause.clone().into()),
            _ => Ok(version),
        }
    }

    fn after(&self, stream: &str, after: Version, limit: usize) -> Result<Vec<Place>, Error> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let places = tables.stream(stream);
        let start = places.partition_point(|(version, _)| *version <= after);
        Ok(places.iter().skip(start).take(limit).copied().collect())
    }

    fn before(&self, stream: &str, before: Version, limit: usize) -> Result<Vec<Place>, Error> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let places = tables.stream(stream);
        let end = places.partition_point(|(version, _)| *version < before);
        Ok(places.iter().take(end).rev().take(limit).copied().collect())
    }

    fn find(&self, id: Uuid) -> Result<Option<Place>, Error> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.ids.get(&id).copied())
    }

    fn hide(&self, up_to: Position, cause: Corruption) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tables.hidden.as_ref().is_none_or(|(hidden, _)| *hidden < up_to) {
            tables.hidden = Some((up_to, cause));
        }
    }
}
