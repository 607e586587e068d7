//! The index of one segment, in memory: of the active one, of one that is sealed and not yet written to its file, and
//! of one that is damaged, which gets no file.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use uuid::Uuid;

use super::key::{Key, KeyHasher, Kind};
use super::pages::IndexFault;
use super::{Found, Lookup, Place};
use crate::error::Corruption;
use crate::event::{Position, RecordedEvent, Version};
use crate::log::layout::memory_len;

/// No key.
const NONE: u32 = u32::MAX;

pub(crate) struct MemoryIndex {
    /// Of the segment.
    first: Position,
    /// Of every event. Hidden ones have a frame at offset 0, where none can be.
    places: Vec<Place>,
    ids: Vec<Uuid>,
    /// Events whose ids come in ascending order, as generated ones do: most need no hash.
    ascending: Vec<u32>,
    other_ids: HashMap<Uuid, u32>,
    /// The last key added with a hash.
    by_hash: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    keys: Vec<MemoryKey>,
    names: Vec<u8>,
    /// How many postings there are beside each key's first.
    postings: usize,
    /// Lowest and highest time of recording.
    pub(crate) times: Option<(u64, u64)>,
    /// What cannot be read of the segment, and so is not in the index.
    hidden: Vec<Hidden>,
}

/// Events that damage hides, by number, both inclusive.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) cause: Corruption,
}

/// A name of the segment.
#[derive(Debug)]
pub(crate) struct MemoryKey {
    pub(crate) hash: u64,
    pub(crate) kind: Kind,
    name_at: u32,
    name_len: u8,
    /// The key added before with the same hash.
    before: u32,
    pub(crate) base: Version,
    version: Version,
    pub(crate) first: u32,
    /// Ascending.
    pub(crate) rest: Vec<u32>,
}

impl MemoryKey {
    pub(crate) fn last(&self) -> u32 {
        self.rest.last().copied().unwrap_or(self.first)
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.rest.len() + 1).unwrap_or(u32::MAX)
    }
}

/// The keys of the map are hashes already.
#[derive(Debug, Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl fmt::Debug for MemoryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryIndex")
            .field("first", &self.first)
            .field("events", &self.places.len())
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl MemoryIndex {
    /// Of a segment that starts with a position.
    pub(crate) fn new(first: Position) -> Self {
        MemoryIndex {
            first,
            places: Vec::new(),
            ids: Vec::new(),
            ascending: Vec::new(),
            other_ids: HashMap::new(),
            by_hash: HashMap::default(),
            keys: Vec::new(),
            names: Vec::new(),
            postings: 0,
            times: None,
            hidden: Vec::new(),
        }
    }

    /// Adds the next event. Returns its number.
    pub(crate) fn event(&mut self, place: Place, id: Uuid) -> u32 {
        let number = u32::try_from(self.places.len()).unwrap_or(NONE);
        self.places.push(place);
        self.ids.push(id);
        let last = self.ascending.last().and_then(|last| self.id(*last));
        if last.is_none_or(|last| last < id) {
            self.ascending.push(number);
        } else {
            self.other_ids.entry(id).or_insert(number);
        }
        number
    }

    /// The number of a key, which is added if it is new.
    pub(crate) fn key(&mut self, key: &Key<'_>) -> u32 {
        if let Some(known) = self.key_number(key) {
            return known;
        }
        let number = u32::try_from(self.keys.len()).unwrap_or(NONE);
        let before = self.by_hash.insert(key.hash, number).unwrap_or(NONE);
        self.keys.push(MemoryKey {
            hash: key.hash,
            kind: key.kind,
            name_at: u32::try_from(self.names.len()).unwrap_or(NONE),
            name_len: u8::try_from(key.name.len()).unwrap_or(u8::MAX),
            before,
            base: Version::NONE,
            version: Version::NONE,
            first: NONE,
            rest: Vec::new(),
        });
        self.names.extend_from_slice(key.name);
        number
    }

    /// The number of a key, if it is there.
    pub(crate) fn key_number(&self, key: &Key<'_>) -> Option<u32> {
        let mut number = self.by_hash.get(&key.hash).copied()?;
        loop {
            let known = self.keys.get(memory_len(number.into()))?;
            if known.kind == key.kind && self.name(known) == key.name {
                return Some(number);
            }
            number = known.before;
        }
    }

    /// The event has the key. Of a stream, its version after the event.
    pub(crate) fn note(&mut self, key: u32, event: u32, version: Version) {
        let Some(key) = self.keys.get_mut(memory_len(key.into())) else { return };
        if key.first == NONE {
            key.first = event;
            key.base = Version::new(version.get().saturating_sub(1));
        } else if key.last() != event {
            key.rest.push(event);
            self.postings += 1;
        }
        key.version = version;
    }

    /// Notes when a batch was recorded.
    pub(crate) fn recorded_at(&mut self, ns: u64) {
        let (low, high) = self.times.unwrap_or((ns, ns));
        self.times = Some((low.min(ns), high.max(ns)));
    }

    /// Adds an event that was read. Events between it and the last one added are hidden.
    pub(crate) fn add(&mut self, hasher: KeyHasher, event: &RecordedEvent, place: Place) {
        let number = event.position().get().saturating_sub(self.first.get());
        while self.places.len() < memory_len(number) {
            self.places.push(Place { frame: 0, record: 0 });
            self.ids.push(Uuid::nil());
        }
        let number = self.event(place, event.event_id());
        self.recorded_at(event.recorded_at_ns());
        let stream = self.key(&hasher.key(Kind::Stream, event.stream()));
        self.note(stream, number, event.version());
        let event_type = self.key(&hasher.key(Kind::Type, event.event_type()));
        self.note(event_type, number, Version::NONE);
        for tag in event.tags() {
            let tag = self.key(&hasher.key(Kind::Tag, tag));
            self.note(tag, number, Version::NONE);
        }
    }

    /// Notes that events cannot be read.
    pub(crate) fn hide(&mut self, hidden: Hidden) {
        self.hidden.push(hidden);
    }

    pub(crate) fn keys(&self) -> &[MemoryKey] {
        &self.keys
    }

    pub(crate) fn name(&self, key: &MemoryKey) -> &[u8] {
        let at = memory_len(key.name_at.into());
        self.names.get(at..at + usize::from(key.name_len)).unwrap_or_default()
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn ids(&self) -> &[Uuid] {
        &self.ids
    }

    fn id(&self, number: u32) -> Option<Uuid> {
        self.ids.get(memory_len(number.into())).copied()
    }

    /// The version of a stream, by the number of its key.
    pub(crate) fn version(&self, key: u32) -> Option<Version> {
        let key = self.keys.get(memory_len(key.into()))?;
        (key.first != NONE).then_some(key.version)
    }

    /// The event with an id.
    pub(crate) fn find_id(&self, id: Uuid) -> Option<u32> {
        let highest = self.ascending.last().and_then(|last| self.id(*last));
        if self.other_ids.is_empty() && highest.is_none_or(|highest| highest < id) {
            return None;
        }
        let at = self.ascending.partition_point(|number| self.id(*number).is_some_and(|other| other < id));
        let ordered = self.ascending.get(at).copied().filter(|number| self.id(*number) == Some(id));
        ordered.or_else(|| self.other_ids.get(&id).copied())
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        let fixed = self.places.capacity() * size_of::<Place>()
            + self.ids.capacity() * size_of::<Uuid>()
            + self.ascending.capacity() * size_of::<u32>();
        let tables = self.other_ids.capacity() * 32 + self.by_hash.capacity() * 16;
        let keys = self.keys.capacity() * size_of::<MemoryKey>() + self.names.capacity();
        fixed + tables + keys + self.postings * 8
    }
}

impl Lookup for MemoryIndex {
    fn events(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(NONE)
    }

    fn find(&self, key: &Key<'_>) -> Result<Option<Found>, IndexFault> {
        let Some(number) = self.key_number(key) else { return Ok(None) };
        let known = self.keys.get(memory_len(number.into())).filter(|known| known.first != NONE);
        Ok(known.map(|known| Found {
            count: known.count(),
            first: known.first,
            last: known.last(),
            at: number.into(),
            base: known.base,
            version: known.version,
        }))
    }

    fn posting(&self, found: &Found, at: u32) -> Result<u32, IndexFault> {
        let key = self.keys.get(memory_len(found.at));
        let posting = key.and_then(|key| match at.checked_sub(1) {
            None => Some(key.first),
            Some(at) => key.rest.get(memory_len(at.into())).copied(),
        });
        posting.ok_or(IndexFault::Damaged(0))
    }

    fn place(&self, number: u32) -> Result<Option<Place>, IndexFault> {
        let place = self.places.get(memory_len(number.into())).copied();
        Ok(place.filter(|place| place.frame > 0))
    }

    fn with_id(&self, id: Uuid, _hash: u64) -> Result<Vec<u32>, IndexFault> {
        Ok(self.find_id(id).into_iter().collect())
    }

    fn hidden(&self) -> &[Hidden] {
        &self.hidden
    }
}
