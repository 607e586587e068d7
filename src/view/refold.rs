//! Folding a part of the log once more, beside the projector, to learn what its events changed. What can do it is above
//! this layer: it knows the projection.

use std::fmt::Debug;
use std::sync::Arc;

use super::feed::EventChanges;
use super::levels::Version;
use super::meta::Moment;
use crate::error::Error;

/// Starts folds.
pub(crate) trait Refolder: Debug + Send + Sync {
    /// Starts with these rows; without any, from the start of the log.
    fn start(&self, base: Option<Arc<Version>>) -> Box<dyn Refold>;
}

/// A fold in memory.
pub(crate) trait Refold: Send {
    /// What is folded so far.
    fn moment(&self) -> Moment;

    /// It may go as far as these rows of the view are, and leaves out and redrives what they say was.
    fn extend(&mut self, to: &Version) -> Result<(), Error>;

    /// Applies the next event, and tells what it changed; `None` when it has gone as far as it may. After an error it is of
    /// no use.
    fn step(&mut self) -> Result<Option<EventChanges>, Error>;
}
