//! What opening a store found and did.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use super::recovery::Removed;
use crate::error::Corruption;
use crate::event::Position;

/// What opening a store found, kept and removed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The store's id, given at its creation.
    pub store_id: Uuid,
    /// The store did not exist and was made.
    pub created: bool,
    /// The store had been closed; nothing needed recovering.
    pub clean: bool,
    /// The store was opened read-only: nothing was recovered, and nothing written.
    pub read_only: bool,
    /// How many segments the log has.
    pub segments: usize,
    /// The first position that retention has left; 1 if it was never asked to remove any.
    pub log_start: Position,
    /// Position of the last event.
    pub last: Position,
    /// Bytes after the last event that were never acknowledged, and were set aside.
    pub removed: Option<Removed>,
    /// How many bytes were written and synced once more, because nothing proved them to be on the disk.
    pub rewritten_bytes: u64,
    /// Damage that did not keep the store from opening: of headers and of the ends of sealed segments, and with
    /// [`verify_on_open`](crate::Options::verify_on_open) of all that is in them. Reading what it covers is an error.
    pub damage: Vec<Corruption>,
    /// Damage that a second copy made up for, a mark that does not verify, an unfinished write that a read-only opening
    /// leaves where it is.
    pub notes: Vec<String>,
    /// Views that did not fit the log or were damaged, and were set aside and made anew: those of the projections that
    /// were registered up to now, since a view is looked at when its projection is.
    pub rebuilt_views: Vec<RebuiltView>,
    /// How long opening the log took.
    pub took: Duration,
}

/// A view that was set aside, and made anew from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuiltView {
    /// The projection's name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// Why, and where the old one is kept.
    pub because: String,
}

impl RebuiltView {
    pub(crate) fn new(name: &str, generation: u32, because: &str) -> Self {
        RebuiltView { name: name.to_owned(), generation, because: because.to_owned() }
    }
}

impl fmt::Display for RebuiltView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view {} (generation {}) was made anew: {}", self.name, self.generation, self.because)
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.created, self.clean, self.read_only) {
            (true, ..) => "created",
            (_, true, _) => "had been closed",
            (_, _, true) => "open for writing elsewhere, or not closed: read as it is",
            (_, _, false) => "had not been closed: recovered",
        };
        let plural = if self.segments == 1 { "" } else { "s" };
        write!(f, "{how}; the last position is {}, in {} segment{plural}", self.last, self.segments)?;
        if self.log_start > Position::new(1) {
            write!(f, "; the log starts at position {}", self.log_start)?;
        }
        if let Some(removed) = &self.removed {
            write!(
                f,
                "; set aside {} bytes at offset {} of {} ({}), kept in {}",
                removed.bytes, removed.offset, removed.file, removed.reason, removed.kept_in
            )?;
        }
        if self.rewritten_bytes > 0 {
            write!(f, "; wrote {} bytes once more", self.rewritten_bytes)?;
        }
        for damage in &self.damage {
            write!(f, "; DAMAGE {damage}")?;
        }
        for note in &self.notes {
            write!(f, "; note: {note}")?;
        }
        for view in &self.rebuilt_views {
            write!(f, "; {view}")?;
        }
        write!(f, "; took {:.1} ms", self.took.as_secs_f64() * 1e3)
    }
}
