//! What [`Store::retain`](crate::Store::retain) is asked for, and what it tells.

use std::fmt;
use std::time::Duration;

use crate::event::Position;

/// Which events are kept no longer. A policy of several parts drops what any of them drops.
///
/// Whole segments are dropped, the oldest first, so some events are kept that a policy would let go. Never dropped are
/// the segment being appended to, what the view of a projection has not durably applied yet, and what an open cursor or
/// subscription still has to read.
///
/// ```
/// use std::time::Duration;
/// use everfold::{Position, Retention};
/// # fn main() -> Result<(), everfold::Error> {
/// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
/// let month = Duration::from_secs(30 * 24 * 60 * 60);
/// let retained = store.retain(&Retention::new().older_than(month).max_bytes(1 << 30))?;
/// assert_eq!((retained.first, retained.segments), (Position::new(1), 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a policy drops nothing until it is given to Store::retain"]
pub struct Retention {
    pub(crate) before: Option<Position>,
    pub(crate) older_than: Option<Duration>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) without_views: Vec<String>,
    pub(crate) dry_run: bool,
}

impl Retention {
    /// Keeps everything, until it is told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops segments of which every event is before this position.
    pub fn before(mut self, position: Position) -> Self {
        self.before = Some(position);
        self
    }

    /// Drops segments of which every event was recorded longer ago than this. Times are those of the clock when the
    /// events were recorded, which may have gone back or been wrong: a segment with an event of a later time stays, and
    /// so do all that follow it.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Drops segments until the files of those that are left, the active one included, have no more bytes than this. A
    /// segment's file has its full size from the start; indexes are not counted.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Does not wait for a view: what it has not applied may be dropped. Its projection then stops with
    /// [`Truncated`](crate::ErrorKind::Truncated), or is folded anew if it is one
    /// [`FROM_LOG_START`](crate::Projection::FROM_LOG_START). May be called for several.
    pub fn without_view(mut self, name: impl Into<String>) -> Self {
        self.without_views.push(name.into());
        self
    }

    /// Whether only to tell what would be dropped (default: no). This also works on a store opened read-only, which
    /// does not see the cursors of the process that writes.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What retention has dropped, or would drop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retained {
    /// The first position that is left: where the log starts.
    pub first: Position,
    /// How many segments were dropped.
    pub segments: usize,
    /// How many bytes their files had. A file that cannot be removed at once is removed later.
    pub bytes: u64,
    /// What kept a segment that the policy would have dropped, if anything did.
    pub kept_by: Option<KeptBy>,
}

/// What keeps a segment that is not to be kept any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptBy {
    /// A view that would need the segment after a crash.
    View {
        /// The projection's name.
        name: String,
        /// The last event applied that is sure to survive a loss of power. [`Position::START`] for a view in memory,
        /// which is folded from the log's start at each opening, and for one that is being made anew.
        checkpoint: Position,
    },
    /// A view in the store's directory whose projection is not registered, so that nobody knows what it still needs.
    UnregisteredView {
        /// The projection's name.
        name: String,
    },
    /// An open cursor or subscription, which goes on reading here; one that goes backward may read down to the log's
    /// start.
    Cursor {
        /// The lowest position it may still read.
        position: Position,
    },
    /// Damage in the segment, which hides the versions that its streams have.
    Damage {
        /// The segment's file.
        file: String,
    },
}

impl fmt::Display for KeptBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeptBy::View { name, checkpoint } => {
                write!(f, "view {name:?} at checkpoint {checkpoint}")
            }
            KeptBy::UnregisteredView { name } => {
                write!(f, "view {name:?} on disk, whose projection is not registered")
            }
            KeptBy::Cursor { position } => write!(f, "an open cursor at position {position}"),
            KeptBy::Damage { file } => {
                write!(f, "damage in {file}, which hides the versions of its streams")
            }
        }
    }
}
