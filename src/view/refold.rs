//! Folding a part of the log once more, beside the projector, to learn what its events changed. What can do it is above
//! this layer: it knows the projection.

use std::fmt::Debug;
use std::sync::Arc;

use super::feed::RowChange;
use super::levels::Version;
use crate::error::Error;
use crate::event::Position;

/// Starts folds.
pub(crate) trait Refolder: Debug + Send + Sync {
    /// Starts with these rows; without any, from the start of the log.
    fn start(&self, base: Option<Arc<Version>>) -> Box<dyn Refold>;
}

/// A fold in memory.
pub(crate) trait Refold: Send {
    /// The last event applied.
    fn position(&self) -> Position;

    /// Applies the next event, which the view has passed, and tells what it changed. After an error it is of no use.
    fn step(&mut self) -> Result<Vec<RowChange>, Error>;
}
