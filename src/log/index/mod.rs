//! What is where: streams, types, tags and ids to events, and events to offsets. One index for each segment.
//!
//! [`memory`] is the index of the active segment, and of any that has none in a file; [`file`] is that of a sealed
//! segment, in pages ([`pages`], [`table`]) beside it; [`directory`] tells which segments have a name or an id, for
//! many segments at a time; [`key`] is what all of them are asked for. An index is never evidence of what the log
//! holds, only the way to it: it is made from the segment, bound to it by salt and length, and made again when it is
//! missing or does not verify. Only [`base`], which tells of segments that are gone, cannot be made again.

pub(crate) mod base;
pub(crate) mod directory;
pub(crate) mod encode;
pub(crate) mod file;
#[cfg(test)]
mod hostile_tests;
pub(crate) mod key;
pub(crate) mod memory;
pub(crate) mod pages;
pub(crate) mod table;

use std::sync::{PoisonError, RwLock};

use uuid::Uuid;

use crate::event::Version;
use file::IndexFile;
use key::Key;
use memory::{Hidden, MemoryIndex};
use pages::IndexFault;

/// What an index of a segment is asked for. Events are numbered from 0 in their segment.
pub(crate) trait Lookup {
    /// How many events the segment has, as far as the index knows.
    fn events(&self) -> u32;

    /// What is known of a name. The names were compared.
    fn find(&self, key: &Key<'_>) -> Result<Option<Found>, IndexFault>;

    /// The number of an event that has the name: the first has `at` 0, the last `count - 1`.
    fn posting(&self, found: &Found, at: u32) -> Result<u32, IndexFault>;

    /// Where an event is.
    fn place(&self, number: u32) -> Result<Option<Place>, IndexFault>;

    /// Events that may have an id: its hash is theirs.
    fn with_id(&self, id: Uuid, hash: u64) -> Result<Vec<u32>, IndexFault>;

    /// Events that damage hides from the index. One in a file hides none.
    fn hidden(&self) -> &[Hidden] {
        &[]
    }
}

/// A name in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// How many events have it; at least one.
    pub(crate) count: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Where its postings are, for the index alone.
    pub(crate) at: u64,
    /// Of a stream: its version before its first event here, and after its last.
    pub(crate) base: Version,
    pub(crate) version: Version,
}

/// Where an event is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The offset of its frame.
    pub(crate) frame: u64,
    /// The offset of its record.
    pub(crate) record: u64,
}

/// The end of a sealed segment, to which its index is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Where the frames end.
    pub(crate) len: u64,
    /// The chain value after the seal, in which all frames up to there have a part.
    pub(crate) chain: u32,
}

/// The index of a segment.
#[derive(Debug)]
pub(crate) enum SegmentIndex {
    Memory(RwLock<MemoryIndex>),
    File(IndexFile),
}

impl SegmentIndex {
    /// Asks it. Whoever asks one in memory keeps the writer from adding to it meanwhile, so be short.
    pub(crate) fn look<T>(
        &self,
        ask: impl FnOnce(&dyn Lookup) -> Result<T, IndexFault>,
    ) -> Result<T, IndexFault> {
        match self {
            SegmentIndex::Memory(index) => ask(&*index.read().unwrap_or_else(PoisonError::into_inner)),
            SegmentIndex::File(index) => ask(index),
        }
    }

    /// The lowest and the highest event id; `None` when they are not known.
    pub(crate) fn ids(&self) -> Option<(Uuid, Uuid)> {
        match self {
            SegmentIndex::Memory(_) => None,
            SegmentIndex::File(file) => file.header.ids.0.zip(file.header.ids.1),
        }
    }

    /// The index in memory, if that is where it is.
    pub(crate) fn memory(&self) -> Option<&RwLock<MemoryIndex>> {
        match self {
            SegmentIndex::Memory(index) => Some(index),
            SegmentIndex::File(_) => None,
        }
    }
}
