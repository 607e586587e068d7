//! A fold whose view is kept up to date by a projector.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::build::{self, Most};
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
    /// How many events were few enough for that, as far as was seen.
    fits: AtomicU64,
}

impl<K, S> Projected<K, S> {
    pub(crate) fn new(fold: Fold<K, S>) -> Self {
        Projected::of(fold, Extent { least: 50_000, most: 1 << 20 }, Most { rows: 1 << 20, bytes: 64 << 20 })
    }

    pub(crate) fn of(fold: Fold<K, S>, extent: Extent, most: Most) -> Self {
        Projected { fold, extent, most, fits: AtomicU64::new(extent.most) }
    }
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Runs for Projected<K, S> {
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

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Stretches for Projected<K, S> {
    fn extent(&self) -> Extent {
        Extent { most: self.fits.load(Ordering::Relaxed), ..self.extent }
    }

    fn build(&self, stretch: &Stretch<'_>) -> Result<Option<Built>, Error> {
        let built = self.fold.build(stretch, self.most)?;
        if let Some(built) = &built {
            let fits = match build::ended_early(stretch, built.to) {
                Some(events) => events / 8 * 7,
                None => self.fits.load(Ordering::Relaxed) / 8 * 9,
            };
            self.fits.store(fits.max(self.extent.least).min(self.extent.most), Ordering::Relaxed);
        }
        Ok(built)
    }
}
