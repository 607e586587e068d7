//! A fold whose view is kept up to date by a projector.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::build::Most;
use super::declared::Fold;
use crate::error::Error;
use crate::event::RecordedEvent;
use crate::projection::{ApplyError, Built, Extent, Runs, Stretch, Stretches, ViewBatch, Views};
use crate::view::key::Key;

/// A fold, and how much of it is folded at once while its view is far behind.
#[derive(Debug)]
pub(crate) struct Projected<K, S> {
    pub(crate) fold: Fold<K, S>,
    pub(crate) extent: Extent,
    pub(crate) most: Most,
}

impl<K, S> Projected<K, S> {
    pub(crate) fn new(fold: Fold<K, S>) -> Self {
        let extent = Extent { least: 50_000, most: 1 << 20 };
        Projected { fold, extent, most: Most { rows: 1 << 20, bytes: 64 << 20 } }
    }
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + 'static> Runs for Projected<K, S> {
    type Key = K;
    type Value = S;

    fn name(&self) -> &str {
        self.fold.name()
    }

    fn generation(&self) -> u32 {
        self.fold.generation()
    }

    fn takes_what_is_left(&self) -> bool {
        self.fold.from_log_start
    }

    fn serves_earlier(&self) -> bool {
        self.fold.serves_earlier
    }

    fn views(&self) -> Views<K, S> {
        Views::new()
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<K, S>) -> Result<(), ApplyError> {
        self.fold.apply_to(event, view)
    }

    fn stretches(&self) -> Option<&dyn Stretches> {
        Some(self)
    }
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + 'static> Stretches for Projected<K, S> {
    fn extent(&self) -> Extent {
        self.extent
    }

    fn build(&self, stretch: &Stretch<'_>) -> Result<Option<Built>, Error> {
        self.fold.build(stretch, self.most)
    }
}
