//! How a command ended.

use crate::batch::{Appended, Batch};
use crate::error::Error;
use crate::event::{Position, Version};
use crate::guard::Conflict;

/// A command that was not rejected: what was decided and recorded, and the state after.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handled<S, E> {
    /// The state with what was decided.
    pub state: S,
    /// What was decided.
    pub events: Vec<E>,
    /// What the append recorded; `None` when nothing was decided, and so nothing appended.
    pub appended: Option<Appended>,
    /// The position of the last event that was recorded, or when there is none, the one up to which the state was loaded.
    pub position: Position,
    /// The version of that event in its stream. When nothing was decided, that of the boundary's stream, and
    /// [`Version::NONE`] for a query.
    pub version: Version,
    /// How often it was decided again, since somebody else was faster.
    pub conflicts: u32,
}

/// Why a command recorded nothing, or may not have. `R` is the decider's rejection.
///
/// ```
/// use everfold::{AppendError, HandleError, Store};
///
/// /// Once the store is open again.
/// fn settle<R>(store: &Store, error: HandleError<R>) -> Result<(), AppendError> {
///     match error {
///         // Recorded now, or before, but not twice.
///         HandleError::Indeterminate { batch, .. } => store.append_batch(*batch).map(|_| ()),
///         HandleError::Conflict { conflict, .. } => Err(conflict.into()),
///         HandleError::Failed(error) => Err(error.into()),
///         _ => Ok(()),
///     }
/// }
/// # let _ = settle::<()>;
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError<R> {
    /// The decider rejected the command.
    #[error("{0}")]
    Rejected(R),
    /// Others were faster every time, as often as it was to be tried. Nothing was recorded.
    #[error("others were faster {conflicts} times, and it was not to be tried more often: {conflict}")]
    Conflict {
        /// The last of the conflicts.
        conflict: Conflict,
        /// How many there were.
        conflicts: u32,
    },
    /// The write or sync failed: nobody knows whether the events are there, before they are appended again. Give the
    /// batch to [`append_batch`](crate::Store::append_batch), after reopening the store unless the disk was full: its
    /// events have their ids, so they are recorded once. A conflict tells then that they were not there, and that the
    /// command is to be handled again.
    #[error("{error}")]
    Indeterminate {
        /// What was appended.
        batch: Box<Batch>,
        /// How that failed.
        #[source]
        error: Error,
    },
    /// The state could not be loaded, or the append was refused. Nothing was recorded.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl<R> HandleError<R> {
    /// The rejection, if that is what it is.
    #[must_use]
    pub fn rejection(&self) -> Option<&R> {
        match self {
            HandleError::Rejected(rejection) => Some(rejection),
            _ => None,
        }
    }
}
