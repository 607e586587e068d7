//! What a projector runs: a fold with a name and a generation, wherever the two come from.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ApplyError, Projection, Stretches, ViewBatch, Views};
use crate::event::RecordedEvent;
use crate::view::key::Key;

/// A fold that a projector can run. Every [`Projection`] is one, with what its constants say.
pub(crate) trait Runs: Send + Sync + 'static {
    type Key: Key;
    type Value: Serialize + DeserializeOwned + Send + 'static;

    /// Names the view, and its folder.
    fn name(&self) -> &str;

    fn generation(&self) -> u32;

    /// Whether it may start with what is left of the log.
    fn takes_what_is_left(&self) -> bool;

    /// Whether the rows of an earlier generation are served until this one has caught up.
    fn serves_earlier(&self) -> bool;

    /// The views and indexes it keeps besides its own view.
    fn views(&self) -> Views<Self::Key, Self::Value>;

    fn apply(
        &self,
        event: &RecordedEvent,
        view: &mut ViewBatch<Self::Key, Self::Value>,
    ) -> Result<(), ApplyError>;

    /// How it folds many events at once, if it can.
    fn stretches(&self) -> Option<&dyn Stretches> {
        None
    }
}

impl<P: Projection> Runs for P {
    type Key = P::Key;
    type Value = P::Value;

    fn name(&self) -> &str {
        P::NAME
    }

    fn generation(&self) -> u32 {
        P::GENERATION
    }

    fn takes_what_is_left(&self) -> bool {
        P::FROM_LOG_START
    }

    fn serves_earlier(&self) -> bool {
        P::SERVES_EARLIER
    }

    fn views(&self) -> Views<Self::Key, Self::Value> {
        P::views()
    }

    fn apply(
        &self,
        event: &RecordedEvent,
        view: &mut ViewBatch<Self::Key, Self::Value>,
    ) -> Result<(), ApplyError> {
        Projection::apply(self, event, view)
    }
}
