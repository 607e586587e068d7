//! Repair: what can be read of a damaged store, in a new one. The damaged one is only read.
//!
//! [`wreck`] finds the segments, whatever is wrong with the files, and goes through them in the order of positions.
//! [`survey`] goes through them once to learn what is missing, and which streams' versions are; [`rebuild`] goes through
//! them again, and appends what verifies to the new store.
//!
//! Every event keeps its position, version, id and time of recording. So that it can, an event of the type
//! [`LOST_TYPE`] stands in for each one that is lost, in the stream whose version is missing: checkpoints, guards and
//! references to events stay true. Only where the log begins with what is lost, it starts later, as after retention.

mod rebuild;
mod survey;
mod wreck;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Corruption, Error};
use crate::event::Position;
use crate::storage::Storage;
use crate::storage::disk::DiskStorage;
use crate::storage::memory::MemoryStorage;
use survey::Survey;
use wreck::Wreck;

/// The type of events that stand in for lost ones. Their payload is JSON: the id of the store that lost them.
pub const LOST_TYPE: &str = "everfold.lost";
/// The stream of those of which nobody knows the stream.
pub const LOST_STREAM: &str = "everfold.lost";

/// How [`repair`] treats what it cannot be sure of.
#[derive(Clone, Debug, Default)]
#[must_use = "these are options: give them to repair"]
pub struct Repair {
    pub(crate) accept_unproven_tail: bool,
}

impl Repair {
    /// Nothing is accepted that may never have been acknowledged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to take also what verifies at the end of the log behind bytes that do not, and that nothing proves to
    /// have been acknowledged (default: no): [`Damage::SuspectTail`](crate::Damage::SuspectTail). It may be a part of a
    /// batch.
    pub fn accept_unproven_tail(mut self, accept: bool) -> Self {
        self.accept_unproven_tail = accept;
        self
    }
}

/// What a repair saved, and what it could not.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RepairReport {
    /// The damaged store's id, as far as a file still tells.
    pub source_id: Uuid,
    /// The new store's id.
    pub store_id: Uuid,
    /// The first position of the new store.
    pub log_start: Position,
    /// The last position of the new store.
    pub last: Position,
    /// How many events were saved.
    pub saved: u64,
    /// What is missing between them and after them, in order: an event of the type [`LOST_TYPE`] is in each place.
    pub lost: Vec<Lost>,
    /// Events from here up to the log's start are lost as well; none stand in for them.
    pub lost_before: Option<Position>,
    /// What was read at the log's end, and nothing proves to have been acknowledged.
    pub unproven: Option<Unproven>,
    /// What is wrong with the files.
    pub damage: Vec<Corruption>,
    /// What is worth a word and may be no damage at all.
    pub notes: Vec<String>,
}

/// Positions whose events are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The first of them.
    pub first: Position,
    /// The last of them.
    pub last: Position,
    /// The streams they belonged to, as far as later events of these tell, with how many each has lost.
    pub streams: Vec<(String, u64)>,
}

/// An end of the log that may never have been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unproven {
    /// Where it starts.
    pub position: Position,
    /// How many of its events verify.
    pub events: u64,
    /// Whether they were taken.
    pub accepted: bool,
}

impl RepairReport {
    /// How many events are known to be lost, of those that stand in for them.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.lost.iter().map(|lost| lost.last.get() - lost.first.get() + 1).sum()
    }

    /// Whether everything that may have been acknowledged was saved.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let left_out = self.unproven.as_ref().is_some_and(|unproven| !unproven.accepted);
        self.lost.is_empty() && self.lost_before.is_none() && !left_out
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "saved {} events of store {} into store {}, positions {} to {}",
            self.saved, self.source_id, self.store_id, self.log_start, self.last
        )?;
        if let Some(from) = self.lost_before {
            writeln!(f, "LOST: everything from position {from} up to the new log's start")?;
        }
        for Lost { first, last, streams } in &self.lost {
            write!(f, "LOST: positions {first} to {last}")?;
            for (stream, events) in streams {
                write!(f, "; {events} of stream {stream:?}")?;
            }
            writeln!(f)?;
        }
        if let Some(Unproven { position, events, accepted }) = &self.unproven {
            let what = if *accepted { "taken" } else { "left out (--accept-unproven-tail takes them)" };
            writeln!(
                f,
                "UNPROVEN: from position {position} on nothing proves that it was acknowledged; {events} events that verify were {what}"
            )?;
        }
        for damage in &self.damage {
            writeln!(f, "damage: {damage}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        match self.is_complete() {
            true => write!(f, "nothing that was acknowledged is missing"),
            false => write!(
                f,
                "{} lost events are stood in for by events of the type {LOST_TYPE:?}",
                self.lost_events()
            ),
        }
    }
}

/// Saves what can be read of the store in one directory into a new one, which is made, or is empty.
///
/// Nothing in the damaged store's directory is changed. No application may have it open. Views are not copied: they are
/// made anew. Memory is taken for every stream once: about 50 bytes, and for its name if it ended before the log's start.
/// On return the new store is durable, closed, and can be opened.
///
/// # Errors
/// `NotFound` when there is nothing of a store in the first directory, or the second one holds something else;
/// `Invalid` when the second holds a store; `Unsupported` when a newer everfold wrote it; `DiskFull` or `Io` when the
/// system fails a call. What was written to the second directory until then is of no use.
///
/// ```
/// use everfold::{Event, Expected, Repair, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let (shop, repaired) = (dir.path().join("1"), dir.path().join("2"));
/// # Store::open(&shop)?.append("cart-7", Expected::NoStream, [Event::raw("sold", *b"hats")])?;
/// let report = everfold::repair(&shop, &repaired, &Repair::new())?;
/// println!("{report}");
/// assert!(report.is_complete());
/// assert_eq!(Store::open(&repaired)?.watermark(), report.last);
/// # Ok(()) }
/// ```
pub fn repair(
    source: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    options: &Repair,
) -> Result<RepairReport, Error> {
    let fault = |path: &Path, e| Error::io(format_args!("open the directory {}", path.display()), e);
    let (source, directory) = (source.as_ref(), directory.as_ref());
    let from = DiskStorage::open(source).map_err(|e| fault(source, e))?;
    let to = DiskStorage::create(directory).map_err(|e| fault(directory, e))?;
    if to.root().zip(from.root()).is_some_and(|(to, from)| to.starts_with(from)) {
        return Err(Error::invalid("the new store cannot be in the damaged one's directory"));
    }
    run(Arc::new(from), Arc::new(to), options)
}

/// The same for stores in memory, for tests.
///
/// # Errors
/// As [`repair`].
pub fn repair_memory(
    source: &MemoryStorage,
    new: &MemoryStorage,
    options: &Repair,
) -> Result<RepairReport, Error> {
    run(Arc::new(source.clone()), Arc::new(new.clone()), options)
}

fn run(from: Arc<dyn Storage>, to: Arc<dyn Storage>, options: &Repair) -> Result<RepairReport, Error> {
    rebuild::check_empty(to.as_ref())?;
    let wreck = Wreck::open(from, options.accept_unproven_tail)?;
    let survey = Survey::make(&wreck)?;
    rebuild::rebuild(&wreck, survey, to)
}
