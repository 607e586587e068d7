//! An append, encoded by the thread that wants it, before it is given its place in the log.

use std::collections::HashSet;

use uuid::Uuid;

use super::frame::{FRAME_HEADER, FRAME_TRAILER, FrameHeader};
use super::guarding::Known;
use super::index::Place;
use super::index::key::{Key, KeyHasher, Kind};
use super::index::memory::MemoryIndex;
use super::layout::{disk_len, field_len, memory_len};
use super::numbers::Numbers;
use super::record::{self, RECORD_HEADER};
use crate::batch::{Batch, Durability};
use crate::error::Error;
use crate::event::{Event, MAX_NAME_BYTES, Position, Version};
use crate::guard::Guard;

/// A batch as the bytes of its frame, all but what depends on its place.
#[derive(Debug)]
pub(crate) struct Request {
    buffers: RequestBuffers,
    pub(crate) guards: Vec<Guard>,
    pub(crate) durability: Durability,
    /// When its events were recorded, if they are copied from another log; they keep their ids, whoever else has them.
    pub(crate) recorded_at_ns: Option<u64>,
    /// What was looked up before the batch was queued.
    pub(crate) known: Known,
}

/// What a request is encoded into. Used again: fresh memory costs more than what is put into it.
#[derive(Debug, Default)]
pub(crate) struct RequestBuffers {
    frame: Vec<u8>,
    /// The length of each record.
    lens: Vec<usize>,
    records: Vec<Record>,
    /// The streams, types and tags of the events, each once.
    keys: Vec<RequestKey>,
    /// For each event in turn the numbers of its keys: stream, type, tags.
    uses: Vec<u32>,
    numbers: Numbers,
    /// The numbers of the keys in the active segment's index.
    known_as: Vec<u32>,
    /// Of the events, once the batch has its place.
    versions: Vec<Version>,
    last_versions: Vec<Version>,
}

impl RequestBuffers {
    /// Forgets what is in them.
    pub(crate) fn clear(&mut self) {
        let RequestBuffers {
            frame,
            lens,
            records,
            keys,
            uses,
            numbers: _,
            known_as,
            versions,
            last_versions,
        } = self;
        frame.clear();
        lens.clear();
        records.clear();
        keys.clear();
        uses.clear();
        known_as.clear();
        versions.clear();
        last_versions.clear();
    }

    #[cfg(test)]
    pub(crate) fn of(bytes: usize) -> Self {
        RequestBuffers { frame: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// How much memory they keep, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.frame.capacity()
            + self.lens.capacity() * size_of::<usize>()
            + self.records.capacity() * size_of::<Record>()
            + self.keys.capacity() * size_of::<RequestKey>()
            + (self.uses.capacity() + self.known_as.capacity()) * size_of::<u32>()
            + (self.versions.capacity() + self.last_versions.capacity()) * size_of::<Version>()
            + self.numbers.size()
    }
}

/// A name in the request's frame.
#[derive(Clone, Debug)]
pub(crate) struct RequestKey {
    pub(crate) kind: Kind,
    pub(crate) hash: u64,
    at: usize,
    len: usize,
}

impl RequestKey {
    fn key<'a>(&self, frame: &'a [u8]) -> Key<'a> {
        Key { kind: self.kind, name: self.name(frame), hash: self.hash }
    }

    fn name<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.at..self.at + self.len).unwrap_or_default()
    }
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
    /// Checks a batch against the limits and encodes it, in memory used before.
    pub(crate) fn encode(
        batch: &Batch,
        max_body: usize,
        hasher: KeyHasher,
        mut buffers: RequestBuffers,
    ) -> Result<Self, Error> {
        if batch.events.is_empty() {
            return Err(Error::invalid("the batch is empty: give it at least one event"));
        }
        let (mut body_len, mut most_keys) = (0usize, 0usize);
        for (stream, event) in &batch.events {
            let len = record::check(stream, event)?;
            buffers.lens.push(len);
            body_len = body_len.saturating_add(super::layout::aligned(len));
            most_keys += 2 + event.tags().len();
        }
        if body_len > max_body {
            return Err(record::too_large("batch, in bytes of its encoded events,", body_len, max_body));
        }
        check_guards(&batch.guards)?;
        check_ids(batch)?;
        buffers.numbers.start(most_keys);
        buffers.frame.reserve(FRAME_HEADER + body_len + FRAME_TRAILER);
        buffers.frame.resize(FRAME_HEADER, 0);
        let mut request = Request {
            buffers,
            guards: batch.guards.clone(),
            durability: batch.durability,
            recorded_at_ns: None,
            known: Known::default(),
        };
        for (number, (stream, event)) in batch.events.iter().enumerate() {
            request.add(stream, event, number, hasher);
        }
        request.buffers.frame.resize(FRAME_HEADER + body_len + FRAME_TRAILER, 0);
        Ok(request)
    }

    fn add(&mut self, stream: &str, event: &Event, number: usize, hasher: KeyHasher) {
        let (at, uses_at) = (self.buffers.frame.len(), self.buffers.uses.len());
        let len = self.buffers.lens.get(number).copied().unwrap_or_default();
        let partial_crc = record::encode(&mut self.buffers.frame, stream, event, len);
        let mut name_at = at + RECORD_HEADER;
        self.use_key(hasher.key(Kind::Stream, stream), &mut name_at);
        self.use_key(hasher.key(Kind::Type, event.event_type()), &mut name_at);
        for tag in event.tags() {
            name_at += 2;
            self.use_key(hasher.key(Kind::Tag, tag), &mut name_at);
        }
        let (id, uses) = (event.event_id(), self.buffers.uses.len() - uses_at);
        self.buffers.records.push(Record { at, partial_crc, id, uses_at, uses });
    }

    /// Notes that the current event has a key, whose name is at a place in the frame.
    fn use_key(&mut self, key: Key<'_>, name_at: &mut usize) {
        let RequestBuffers { frame, keys, uses, numbers, .. } = &mut self.buffers;
        let next = field_len(keys.len());
        let number = numbers.find_or_add(key.hash, next, |number| {
            keys.get(memory_len(number.into()))
                .is_some_and(|known| known.kind == key.kind && known.name(frame) == key.name)
        });
        if number == next {
            keys.push(RequestKey { kind: key.kind, hash: key.hash, at: *name_at, len: key.name.len() });
        }
        uses.push(number);
        *name_at += key.name.len();
    }

    /// The streams, types and tags.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = Key<'_>> {
        let frame = &self.buffers.frame;
        self.buffers.keys.iter().map(|key| key.key(frame))
    }

    /// One of them.
    pub(crate) fn key(&self, number: u32) -> Option<Key<'_>> {
        let key = self.buffers.keys.get(memory_len(number.into()))?;
        Some(key.key(&self.buffers.frame))
    }

    /// The numbers of an event's keys: its stream, its type, its tags.
    pub(crate) fn uses(&self, record: &Record) -> &[u32] {
        self.buffers.uses.get(record.uses_at..record.uses_at + record.uses).unwrap_or_default()
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.buffers.records
    }

    /// The buffers, when the request is over.
    pub(crate) fn take_buffers(&mut self) -> RequestBuffers {
        std::mem::take(&mut self.buffers)
    }

    pub(crate) fn frame_len(&self) -> usize {
        self.buffers.frame.len()
    }

    /// How many events.
    pub(crate) fn events(&self) -> u32 {
        field_len(self.buffers.records.len())
    }

    pub(crate) fn body_len(&self) -> u32 {
        field_len(self.buffers.frame.len() - FRAME_HEADER - FRAME_TRAILER)
    }

    /// Tells the active segment's index of the events, whose frame starts at an offset, and notes their versions.
    /// `last_versions` are those of the streams before them, by key.
    pub(crate) fn index(&mut self, index: &mut MemoryIndex, mut last_versions: Vec<Version>, frame: u64) {
        let RequestBuffers { frame: bytes, records, keys, uses, known_as, versions, .. } = &mut self.buffers;
        known_as.extend(keys.iter().map(|key| index.key(&key.key(bytes))));
        for record in records {
            let event = index.event(Place { frame, record: frame + disk_len(record.at) }, record.id);
            let uses = uses.get(record.uses_at..record.uses_at + record.uses).unwrap_or_default();
            let stream = uses.first().and_then(|stream| last_versions.get_mut(memory_len((*stream).into())));
            let version = stream.map(|version| {
                *version = version.next();
                *version
            });
            let version = version.unwrap_or_default();
            versions.push(version);
            for number in uses {
                if let Some(key) = known_as.get(memory_len((*number).into())) {
                    index.note(*key, event, version);
                }
            }
        }
        self.buffers.last_versions = last_versions;
    }

    /// An empty list for the versions of the streams.
    pub(crate) fn take_versions(&mut self) -> Vec<Version> {
        let mut versions = std::mem::take(&mut self.buffers.last_versions);
        versions.clear();
        versions
    }

    /// The version of the last event.
    pub(crate) fn last_version(&self) -> Version {
        self.buffers.versions.last().copied().unwrap_or_default()
    }

    /// Gives the records their versions, which are known, and the frame its header. Returns the frame.
    pub(crate) fn place(&mut self, header: &mut FrameHeader, salt: u64) -> &[u8] {
        let mut position: Position = header.first;
        for (record, version) in self.buffers.records.iter().zip(&self.buffers.versions) {
            if let Some(bytes) = self.buffers.frame.get_mut(record.at..) {
                record::place(bytes, record.partial_crc, salt, position, *version);
            }
            position = position.next();
        }
        header.seal(&mut self.buffers.frame, salt);
        &self.buffers.frame
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
