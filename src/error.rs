//! What can go wrong, said once: an opaque [`Error`] with a [`kind`](Error::kind), a [`Corruption`] that names the
//! place, and [`AppendError`], which keeps a lost race apart from a failure.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::event::Position;
use crate::guard::Conflict;

type Cause = Arc<dyn StdError + Send + Sync>;

/// Why an operation failed. Match on [`kind`](Error::kind); the message is for people and says what to do.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    corruption: Option<Corruption>,
    cause: Option<Cause>,
}

/// The sort of an [`Error`], for code to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system failed a call.
    Io,
    /// The disk or quota is full. Nothing was changed; the same call works once there is space.
    DiskFull,
    /// There is no store (or no such file) at the path. A directory that holds anything else is none either.
    NotFound,
    /// Another process, or another handle in this one, has the store open for writing.
    Locked {
        /// The process that holds it, as it wrote into the lock file.
        pid: Option<u32>,
    },
    /// Bytes on disk are not what was written; see [`Error::corruption`].
    Corrupt,
    /// Retention has removed some of the events that were to be read.
    Truncated {
        /// The first position there is: reading after the one before it gives what is left.
        first: Position,
    },
    /// The files are of a format or use a feature that this version does not know.
    Unsupported,
    /// An argument that can never be right, such as an empty stream name.
    Invalid,
    /// Something is larger than a limit. Nothing was written.
    TooLarge {
        /// The limit, in the unit the message names.
        limit: u64,
    },
    /// Some of the batch's event ids are in the log already, but not as this batch. Nothing was written.
    IdTaken {
        /// Where the first such id was recorded.
        position: Position,
    },
    /// The write or sync of this append failed: the events may or may not be there after the store is reopened.
    /// Append them again with the same ids then. If the next append is refused as [`Poisoned`](ErrorKind::Poisoned), reopen
    /// the store first; if the disk was full, that is not so, and appends go on when there is space.
    Indeterminate,
    /// An earlier write or sync failed, so the store takes no more appends until it is reopened. Nothing was written.
    Poisoned,
    /// The store was opened read-only.
    ReadOnly,
    /// The store was closed.
    Closed,
    /// The projection stopped: `apply` failed on an event, or its view could not be kept.
    Stopped {
        /// The event that was not applied.
        position: Position,
    },
    /// Who follows the changes of a view was too slow: the next ones are not kept any more.
    Lagged {
        /// The position to go on after: all that became of the rows up to it was given.
        from: Position,
    },
    /// The rows of a view that somebody followed were replaced by others: by those of another generation, or after a rebuild
    /// that came to other rows. Begin again with [`follow`](crate::View::follow).
    Replaced,
    /// The wait ended before what was waited for happened.
    TimedOut,
    /// A value could not be encoded or decoded.
    Codec,
    /// An event was to be read as a typed event, and no case and no upcaster is for its type or schema version.
    UnknownEventType {
        /// The type, with its schema version.
        event_type: String,
        /// The event.
        position: Position,
    },
    /// The key-value store under a view failed.
    View,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Inner { kind, message: message.into(), corruption: None, cause: None }))
    }

    /// An operating system's error, with what was being done: `"write log/….seg"`.
    pub(crate) fn io(doing: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let advice = match kind {
            ErrorKind::DiskFull => "; free some space and try again",
            _ => "",
        };
        Error::new(kind, format!("could not {doing}: {error}{advice}")).because(error)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn because(self, cause: impl StdError + Send + Sync + 'static) -> Self {
        let Inner { kind, message, corruption, .. } = self.into_inner();
        Error(Arc::new(Inner { kind, message, corruption, cause: Some(Arc::new(cause)) }))
    }

    fn into_inner(self) -> Inner {
        Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            kind: shared.kind.clone(),
            message: shared.message.clone(),
            corruption: shared.corruption.clone(),
            cause: shared.cause.clone(),
        })
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind.clone()
    }

    /// Where the damage is, when the kind is [`ErrorKind::Corrupt`].
    #[must_use]
    pub fn corruption(&self) -> Option<&Corruption> {
        self.0.corruption.as_ref()
    }
}

impl From<Corruption> for Error {
    fn from(corruption: Corruption) -> Self {
        let message = corruption.to_string();
        Error(Arc::new(Inner {
            kind: ErrorKind::Corrupt,
            message,
            corruption: Some(corruption),
            cause: None,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        match &self.0.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.cause {
            Some(cause) => Some(cause.as_ref()),
            None => None,
        }
    }
}

/// Damage found in a store's files: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The file, relative to the store's directory.
    pub file: String,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// The first position that is affected, where one is known.
    pub position: Option<Position>,
    /// What sort of damage.
    pub damage: Damage,
    /// What was found there.
    pub detail: String,
}

impl Corruption {
    /// Whether both are of the same place.
    pub(crate) fn is_at(&self, other: &Corruption) -> bool {
        (&self.file, self.offset) == (&other.file, other.offset)
    }
}

/// The sort of a [`Corruption`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// Bytes that were acknowledged as durable no longer verify.
    CorruptAcknowledged,
    /// Events that were acknowledged as durable are not in the log any more.
    TailLost,
    /// The last write does not verify, and does not look like one that a crash cut short.
    SuspectTail,
    /// The last write was cut short by a crash and never acknowledged. Opening the store for writing removes it.
    TornTail,
    /// Bytes follow the end of a sealed segment or of a store that was closed.
    BytesAfterEnd,
    /// A file is shorter or longer than it was made.
    SizeChanged,
    /// A header does not verify: in neither of its copies, or in one, and the other stands in for it, as the detail says.
    Header,
    /// A segment of the log is missing.
    SegmentMissing,
    /// A segment does not follow from the one before it, is named as another one, or belongs to another store.
    SegmentForeign,
    /// The file with the versions of streams whose events retention has removed is missing or damaged.
    VersionsLost,
}

impl Damage {
    /// The word used by the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Damage::CorruptAcknowledged => "corrupt",
            Damage::TailLost => "tail-lost",
            Damage::SuspectTail => "suspect-tail",
            Damage::TornTail => "torn-tail",
            Damage::BytesAfterEnd => "bytes-after-end",
            Damage::SizeChanged => "size-changed",
            Damage::Header => "header",
            Damage::SegmentMissing => "segment-missing",
            Damage::SegmentForeign => "segment-foreign",
            Damage::VersionsLost => "versions-lost",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Damage::TornTail => {
                "nothing to do: it was never acknowledged, and opening the store sets it aside"
            }
            Damage::SuspectTail => {
                "copy the directory and look with `everfold dump --frames`; restore a backup, or save all else with `everfold repair`, and this too with --accept-unproven-tail"
            }
            Damage::VersionsLost => {
                "put an undamaged copy of the file back, or make a new store with `everfold repair`; until then only streams that have events in the log take appends"
            }
            Damage::SegmentMissing | Damage::TailLost => {
                "put the missing file or an undamaged copy back and do not append to this store; or restore a backup, or save the rest with `everfold repair`"
            }
            _ => {
                "copy the directory and check the disk, then put an undamaged copy of the file back or restore a backup; `everfold repair` saves the other events into a new store"
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at offset {}", self.damage, self.file, self.offset)?;
        if let Some(position) = self.position {
            write!(f, ", position {position}")?;
        }
        write!(f, ": {}; {}", self.detail, self.damage.advice())
    }
}

/// Why an append recorded nothing, or may not have.
///
/// A lost race is not a failure of the store, so it has a variant of its own, and there is no conversion from
/// `AppendError` to [`Error`]: `?` does not carry a conflict away unnoticed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A guard did not hold. Nothing was written: read again, decide again, append again.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The append was refused or failed; see [`Error::kind`].
    #[error(transparent)]
    Failed(#[from] Error),
}

impl AppendError {
    /// The conflict, if that is what it is.
    #[must_use]
    pub fn conflict(&self) -> Option<&Conflict> {
        match self {
            AppendError::Conflict(conflict) => Some(conflict),
            AppendError::Failed(_) => None,
        }
    }
}
