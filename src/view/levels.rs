//! The rows of a view as its projector writes them and its handles read them: always as of one checkpoint.

use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use super::meta::{META_KEY, ViewMeta};
use super::rows::{Change, Rows, RowsIter};
use crate::error::Error;
use crate::event::Position;

/// What a projector writes through.
#[derive(Debug)]
pub(crate) struct Levels {
    bottom: Arc<dyn Rows>,
    current: RwLock<Arc<Version>>,
}

/// The rows as of one checkpoint, whatever is written later.
#[derive(Debug)]
pub(crate) struct Version {
    bottom: Arc<dyn Rows>,
    meta: ViewMeta,
}

impl Levels {
    pub(crate) fn over(bottom: Arc<dyn Rows>, meta: ViewMeta) -> Self {
        let current = RwLock::new(Arc::new(Version { bottom: bottom.clone(), meta }));
        Levels { bottom, current }
    }

    /// The rows as of the last checkpoint.
    pub(crate) fn version(&self) -> Arc<Version> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes changes, in the order of their keys and one for each, visible together with the checkpoint after them.
    /// They are not durable yet. Only the projector calls this.
    pub(crate) fn publish(&self, mut changes: Vec<Change>, meta: ViewMeta) -> Result<(), Error> {
        changes.push((META_KEY.to_vec(), Some(meta.encode())));
        self.bottom.write(&changes)?;
        let version = Version { bottom: self.bottom.clone(), meta };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(version);
        Ok(())
    }

    /// Makes durable what was published, and returns the checkpoint of it.
    pub(crate) fn make_durable(&self) -> Result<Position, Error> {
        let checkpoint = self.version().meta.checkpoint;
        self.bottom.make_durable()?;
        Ok(checkpoint)
    }
}

impl Version {
    pub(crate) fn meta(&self) -> &ViewMeta {
        &self.meta
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.bottom.get(key)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        self.bottom.contains(key)
    }

    /// The rows between two keys, from either end.
    pub(crate) fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RowsIter {
        self.bottom.scan(from, to)
    }
}
