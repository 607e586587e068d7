//! Conditions that an append must meet, and the conflict when one is not met.

use crate::event::Version;

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
pub struct Guard {
    pub(crate) stream: String,
    pub(crate) expected: Expected,
}

impl Guard {
    /// The stream is at this version. The batch need not append to that stream.
    pub fn version(stream: impl Into<String>, expected: impl Into<Expected>) -> Self {
        Guard { stream: stream.into(), expected: expected.into() }
    }
}

/// A guard that did not hold: somebody else appended first. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream {stream:?}: expected {expected}, but it is at version {actual}")]
#[non_exhaustive]
pub struct Conflict {
    /// The stream whose guard failed.
    pub stream: String,
    /// What the append expected.
    pub expected: Expected,
    /// The version the stream has.
    pub actual: Version,
}
