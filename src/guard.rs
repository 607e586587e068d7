//! Conditions that an append must meet, and the conflict when one is not met.

use crate::event::{Position, Version};
use crate::query::Query;

/// What an append expects of a stream's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Expected {
    /// Anything: append whatever the version is.
    Any,
    /// The stream has no events yet.
    NoStream,
    /// The stream has events, however many.
    Exists,
    /// The stream is at exactly this version; [`Version::NONE`] means the same as `NoStream`.
    Exact(Version),
}

impl Expected {
    pub(crate) fn holds(self, actual: Version) -> bool {
        match self {
            Expected::Any => true,
            Expected::NoStream => actual == Version::NONE,
            Expected::Exists => actual > Version::NONE,
            Expected::Exact(version) => actual == version,
        }
    }
}

impl From<Version> for Expected {
    fn from(version: Version) -> Self {
        Expected::Exact(version)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expected::Any => f.write_str("any version"),
            Expected::NoStream => f.write_str("no stream"),
            Expected::Exists => f.write_str("an existing stream"),
            Expected::Exact(version) => write!(f, "version {version}"),
        }
    }
}

/// A condition checked atomically with an append. All guards of a batch hold, or nothing of it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guard {
    /// A stream is at a version. The batch need not append to that stream.
    Version {
        /// The stream.
        stream: String,
        /// What its version is to be.
        expected: Expected,
    },
    /// No event after a position matches a query: what a decision was made from, read up to that position, is still
    /// all there is. The append condition of a Dynamic Consistency Boundary
    /// (<https://dcb.events/specification/#append-condition>).
    NoEvent {
        /// What must not have happened.
        query: Query,
        /// The last position that was considered.
        after: Position,
    },
}

impl Guard {
    /// The stream is at this version.
    pub fn version(stream: impl Into<String>, expected: impl Into<Expected>) -> Self {
        Guard::Version { stream: stream.into(), expected: expected.into() }
    }

    /// No event after the position matches the query.
    ///
    /// ```
    /// use everfold::{Batch, Event, Guard, Position, Query};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let taken = Query::all().types(["registered"]).tags(["user:jsmith"]);
    /// let read_to = store.watermark();
    /// let free = store.read_query(&taken, Position::START).next().is_none();
    /// if free {
    ///     let registered = Event::json("registered", "jsmith")?.tag("user:jsmith");
    ///     store.append_batch(Batch::new().event("user-1", registered).guard(Guard::no_event(taken, read_to)))?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn no_event(query: Query, after: Position) -> Self {
        Guard::NoEvent { query, after }
    }
}

/// A guard that did not hold: somebody else appended first. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The guard.
    pub guard: Guard,
    /// Which of the batch's guards it is, counted from 0.
    pub number: usize,
    /// The event that broke it: the last of the stream, or the last that matches the query.
    /// [`Position::START`] when the stream has no events.
    pub position: Position,
    /// The version the stream has; none for a guard on a query.
    pub actual: Option<Version>,
}

impl std::error::Error for Conflict {}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.guard {
            Guard::Version { stream, expected } => {
                let actual = self.actual.unwrap_or_default();
                write!(f, "stream {stream:?}: expected {expected}, but it is at version {actual}")
            }
            Guard::NoEvent { query, after } => write!(
                f,
                "expected no event after position {after} of {query}, but there is one at position {}",
                self.position
            ),
        }
    }
}
