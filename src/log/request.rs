//! An append, encoded by the thread that wants it, before it is given its place in the log.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use uuid::Uuid;

use super::frame::{FRAME_HEADER, FRAME_TRAILER, FrameHeader};
use super::guarding::Known;
use super::index::Place;
use super::index::key::{Key, KeyHasher, Kind};
use super::index::memory::{AsIs, MemoryIndex};
use super::layout::{disk_len, field_len, memory_len};
use super::record::{self, RECORD_HEADER};
use crate::batch::{Batch, Durability};
use crate::error::Error;
use crate::event::{MAX_NAME_BYTES, Position, Version};
use crate::guard::Guard;

/// A batch as the bytes of its frame, all but what depends on its place.
#[derive(Debug)]
pub(crate) struct Request {
    frame: Vec<u8>,
    records: Vec<Record>,
    /// The streams, types and tags of the events, each once. Streams come first among those of an event.
    keys: Vec<RequestKey>,
    /// For each event in turn the numbers of its keys: stream, type, tags.
    uses: Vec<u32>,
    pub(crate) guards: Vec<Guard>,
    pub(crate) durability: Durability,
    /// What was looked up before the batch was queued.
    pub(crate) known: Known,
}

/// A name in the request's frame.
#[derive(Clone, Debug)]
pub(crate) struct RequestKey {
    pub(crate) kind: Kind,
    pub(crate) hash: u64,
    at: usize,
    len: usize,
}

/// One event of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Where in the frame its record starts.
    pub(crate) at: usize,
    partial_crc: u32,
    pub(crate) id: Uuid,
    /// Where in the list of uses its keys start, and how many they are.
    uses_at: usize,
    uses: usize,
}

impl Request {
    /// Checks a batch against the limits and encodes it.
    pub(crate) fn encode(batch: &Batch, max_body: usize, hasher: KeyHasher) -> Result<Self, Error> {
        if batch.events.is_empty() {
            return Err(Error::invalid("the batch is empty: give it at least one event"));
        }
        let mut body_len = 0usize;
        for (stream, event) in &batch.events {
            body_len = body_len.saturating_add(super::layout::aligned(record::check(stream, event)?));
        }
        if body_len > max_body {
            return Err(record::too_large("batch, in bytes of its encoded events,", body_len, max_body));
        }
        check_guards(&batch.guards)?;
        check_ids(batch)?;
        let mut request = Request {
            frame: Vec::with_capacity(FRAME_HEADER + body_len + FRAME_TRAILER),
            records: Vec::with_capacity(batch.events.len()),
            keys: Vec::new(),
            uses: Vec::with_capacity(batch.events.len() * 3),
            guards: batch.guards.clone(),
            durability: batch.durability,
            known: Known::default(),
        };
        request.frame.resize(FRAME_HEADER, 0);
        let mut numbers = Numbers::default();
        for (stream, event) in &batch.events {
            let len = record::check(stream, event)?;
            let (at, uses_at) = (request.frame.len(), request.uses.len());
            let partial_crc = record::encode(&mut request.frame, stream, event, len);
            let mut name_at = at + RECORD_HEADER;
            request.use_key(&mut numbers, hasher.key(Kind::Stream, stream), &mut name_at);
            request.use_key(&mut numbers, hasher.key(Kind::Type, event.event_type()), &mut name_at);
            for tag in event.tags() {
                name_at += 2;
                request.use_key(&mut numbers, hasher.key(Kind::Tag, tag), &mut name_at);
            }
            let (id, uses) = (event.event_id(), request.uses.len() - uses_at);
            request.records.push(Record { at, partial_crc, id, uses_at, uses });
        }
        request.frame.resize(FRAME_HEADER + body_len + FRAME_TRAILER, 0);
        Ok(request)
    }

    /// Notes that the current event has a key, whose name is at a place in the frame.
    fn use_key(&mut self, numbers: &mut Numbers, key: Key<'_>, name_at: &mut usize) {
        let known = numbers.find(key.hash, |number| {
            self.keys
                .get(memory_len(number.into()))
                .is_some_and(|known| known.kind == key.kind && self.name(known) == key.name)
        });
        let number = known.unwrap_or_else(|| {
            let number = field_len(self.keys.len());
            self.keys.push(RequestKey { kind: key.kind, hash: key.hash, at: *name_at, len: key.name.len() });
            numbers.add(key.hash, number);
            number
        });
        self.uses.push(number);
        *name_at += key.name.len();
    }

    fn name(&self, key: &RequestKey) -> &str {
        let bytes = self.frame.get(key.at..key.at + key.len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The streams, types and tags.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = Key<'_>> {
        self.keys.iter().map(|key| Key { kind: key.kind, name: self.name(key), hash: key.hash })
    }

    /// One of them.
    pub(crate) fn key(&self, number: u32) -> Option<Key<'_>> {
        let key = self.keys.get(memory_len(number.into()))?;
        Some(Key { kind: key.kind, name: self.name(key), hash: key.hash })
    }

    /// The numbers of an event's keys: its stream, its type, its tags.
    pub(crate) fn uses(&self, record: &Record) -> &[u32] {
        self.uses.get(record.uses_at..record.uses_at + record.uses).unwrap_or_default()
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn frame_len(&self) -> usize {
        self.frame.len()
    }

    /// How many events.
    pub(crate) fn events(&self) -> u32 {
        field_len(self.records.len())
    }

    pub(crate) fn body_len(&self) -> u32 {
        field_len(self.frame.len() - FRAME_HEADER - FRAME_TRAILER)
    }

    /// Tells the active segment's index of the events, whose frame starts at an offset.
    pub(crate) fn index(&self, index: &mut MemoryIndex, versions: &[Version], frame: u64) {
        let numbers: Vec<u32> = self.keys().map(|key| index.key(&key)).collect();
        for (record, version) in self.records.iter().zip(versions) {
            let event = index.event(Place { frame, record: frame + disk_len(record.at) }, record.id);
            for number in self.uses(record) {
                if let Some(key) = numbers.get(memory_len((*number).into())) {
                    index.note(*key, event, *version);
                }
            }
        }
    }

    /// Gives the events their versions, one for each record, and the frame its header. Returns the frame.
    pub(crate) fn place(&mut self, header: &mut FrameHeader, versions: &[Version], salt: u64) -> &[u8] {
        let mut position: Position = header.first;
        for (record, version) in self.records.iter().zip(versions) {
            if let Some(bytes) = self.frame.get_mut(record.at..) {
                record::place(bytes, record.partial_crc, salt, position, *version);
            }
            position = position.next();
        }
        header.seal(&mut self.frame, salt);
        &self.frame
    }
}

/// The numbers of names, by hash: of few by going through them.
#[derive(Debug, Default)]
struct Numbers {
    few: Vec<(u64, u32)>,
    many: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
}

impl Numbers {
    const FEW: usize = 16;

    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let known = self.many.get(&hash).copied().filter(|number| is_it(*number));
        known.or_else(|| {
            self.few.iter().filter(|(other, _)| *other == hash).map(|(_, n)| *n).find(|n| is_it(*n))
        })
    }

    fn add(&mut self, hash: u64, number: u32) {
        // Names whose hashes collide stay among the few.
        if self.few.len() < Self::FEW || self.many.contains_key(&hash) {
            self.few.push((hash, number));
        } else {
            self.many.insert(hash, number);
        }
    }
}

fn check_guards(guards: &[Guard]) -> Result<(), Error> {
    guards.iter().try_for_each(|guard| match guard {
        Guard::Version { stream, .. } if !(1..=MAX_NAME_BYTES).contains(&stream.len()) => {
            Err(Error::invalid(format!(
                "a guard is on a stream with a name of {} bytes, which none has: names have from 1 to {MAX_NAME_BYTES}",
                stream.len()
            )))
        }
        Guard::Version { .. } => Ok(()),
        Guard::NoEvent { query, .. } => query.check(),
    })
}

fn check_ids(batch: &Batch) -> Result<(), Error> {
    // Generated ids ascend.
    if batch.events.is_sorted_by(|(_, a), (_, b)| a.event_id() < b.event_id()) {
        return Ok(());
    }
    let mut ids = HashSet::with_capacity(batch.events.len());
    match batch.events.iter().find(|(_, event)| !ids.insert(event.event_id())) {
        Some((_, event)) => {
            Err(Error::invalid(format!("the batch has two events with the id {}", event.event_id())))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_whose_hashes_collide_keep_their_own_numbers() {
        let mut numbers = Numbers::default();
        for number in 0..60 {
            let hash = u64::from(number % 20);
            assert_eq!(numbers.find(hash, |known| known == number), None);
            numbers.add(hash, number);
        }
        for number in 0..60 {
            assert_eq!(numbers.find(u64::from(number % 20), |known| known == number), Some(number));
        }
    }
}
