//! What is told of a view and its projection.

use std::fmt;
use std::time::Duration;

use super::meta::ViewMeta;
use crate::error::Error;
use crate::event::Position;

/// What a projection is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProjectionState {
    /// Registered, and has not looked at the log yet.
    NeverRun,
    /// Applying events that were in the log before.
    Rebuilding,
    /// Has applied everything there was, and waits for more.
    Live,
    /// Applies nothing until it is [resumed](crate::View::resume).
    Paused,
    /// Will try an event again that it could not apply.
    Retrying {
        /// The event.
        position: Position,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        cause: Error,
    },
    /// Will apply no more until it is registered again, usually by a program in which the cause is mended.
    Stopped {
        /// The event it could not apply.
        position: Position,
        /// Why.
        cause: Error,
    },
    /// The view was [dropped](crate::Store::drop_view): it can be read no more.
    Dropped,
}

impl ProjectionState {
    /// The word used by the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            ProjectionState::NeverRun => "never run",
            ProjectionState::Rebuilding => "rebuilding",
            ProjectionState::Live => "live",
            ProjectionState::Paused => "paused",
            ProjectionState::Retrying { .. } => "retrying",
            ProjectionState::Dropped => "dropped",
            ProjectionState::Stopped { .. } => "stopped",
        }
    }
}

impl fmt::Display for ProjectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProjectionState::Stopped { position, cause } => {
                write!(f, "stopped at position {position}: {cause}")
            }
            ProjectionState::Retrying { position, attempts, cause } => {
                write!(f, "retrying position {position} after {attempts} attempts: {cause}")
            }
            other => f.write_str(other.name()),
        }
    }
}

/// A view and its projection, as of now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ViewStatus {
    /// The projection's name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// What it is doing.
    pub state: ProjectionState,
    /// The last event applied.
    pub checkpoint: Position,
    /// The last event applied whose effect would survive a loss of power; the others would be applied again.
    pub durable: Position,
    /// How many events it is behind the log.
    pub lag: u64,
    /// How old the oldest event is that was not applied yet; zero when there is none, or it cannot be read.
    pub lag_time: Duration,
    /// How many rows the view has.
    pub rows: u64,
    /// What tells its rows from any others.
    pub digest: ViewDigest,
    /// How many events were [set aside](crate::View::set_aside).
    pub set_aside: u64,
    /// The generation whose rows are served: an earlier one, while this one is built
    /// [beside it](crate::Projection::SERVES_EARLIER).
    pub serves: u32,
    /// How far the rows are that are being built beside those that are served, if there are any.
    pub building: Option<Position>,
    /// Why the last [rebuild](crate::View::rebuild) was given up, if it was.
    pub rebuild_failed: Option<Error>,
    /// Why the view that was found on disk was set aside and is made anew, if it was.
    pub rebuilt_because: Option<String>,
}

/// What tells the rows of a view from any others: how many there are, and the sum of a hash of each, as of a checkpoint.
/// It counts the list of events that were set aside as well. Two stores with the same log and projection have the same
/// digest at the same checkpoint. It finds damage and folds that are not deterministic; it does not authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ViewDigest {
    /// The last event applied.
    pub checkpoint: Position,
    /// How many rows there are, with those about events that were set aside.
    pub rows: u64,
    /// The sum of their hashes.
    pub sum: u128,
}

impl ViewDigest {
    pub(crate) fn of(meta: &ViewMeta) -> Self {
        ViewDigest { checkpoint: meta.checkpoint, rows: meta.digest.rows, sum: meta.digest.sum }
    }
}

impl fmt::Display for ViewDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:032x}", self.checkpoint, self.rows, self.sum)
    }
}
