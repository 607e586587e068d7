//! What every engine is given, and how it is told whether an engine gave it back.

use std::fmt;

/// Length of every payload.
pub(crate) const PAYLOAD: usize = 256;
/// The one type that all events have.
pub(crate) const EVENT_TYPE: &str = "measured";

/// One event, the same for every engine: its payload follows from its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fact {
    /// From 1, each once in a store.
    pub(crate) number: u64,
    /// Number of its stream.
    pub(crate) stream: u64,
    /// Its number in the stream, from 1.
    pub(crate) version: u64,
    /// Number of its one tag.
    pub(crate) tag: u64,
}

impl Fact {
    /// The event with this number of a log whose streams take turns, and whose tags are scattered.
    pub(crate) fn in_turn(number: u64, streams: u64, tags: u64) -> Self {
        let place = number - 1;
        Fact {
            number,
            stream: place % streams,
            version: place / streams + 1,
            tag: (place.wrapping_mul(7919) + place / tags) % tags,
        }
    }

    /// The name of its stream.
    pub(crate) fn stream_name(&self) -> String {
        stream_name(self.stream)
    }

    /// The name of its tag.
    pub(crate) fn tag_name(&self) -> String {
        tag_name(self.tag)
    }

    /// 256 bytes: the number, and noise that no compression makes smaller.
    pub(crate) fn payload(&self) -> [u8; PAYLOAD] {
        let mut payload = [0; PAYLOAD];
        let mut state = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for word in payload.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        payload[..8].copy_from_slice(&self.number.to_le_bytes());
        payload
    }

    /// The event as one run of bytes, for the raw limits and for engines that know nothing of streams: length,
    /// checksum of the rest, number, version, id, three names, payload.
    pub(crate) fn record(&self) -> Vec<u8> {
        let mut record = vec![0; 8];
        record.extend_from_slice(&self.number.to_le_bytes());
        record.extend_from_slice(&self.version.to_le_bytes());
        record.extend_from_slice(&u128::from(self.number).to_le_bytes());
        for name in [self.stream_name().as_str(), EVENT_TYPE, self.tag_name().as_str()] {
            record.extend_from_slice(&(name.len() as u16).to_le_bytes());
            record.extend_from_slice(name.as_bytes());
        }
        record.extend_from_slice(&self.payload());
        let checksum = crc32fast::hash(&record[8..]);
        let length = record.len() as u32;
        record[..4].copy_from_slice(&length.to_le_bytes());
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
        record
    }
}

/// The payload at the end of a [`record`](Fact::record).
pub(crate) fn payload_of(record: &[u8]) -> &[u8] {
    &record[record.len().saturating_sub(PAYLOAD)..]
}

/// `stream-00017`
pub(crate) fn stream_name(stream: u64) -> String {
    format!("stream-{stream:05}")
}

/// `customer:00017`
pub(crate) fn tag_name(tag: u64) -> String {
    format!("customer:{tag:05}")
}

/// How many payloads there were, and a sum over them that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many.
    pub(crate) events: u64,
    sum: u64,
}

impl Tally {
    /// What reading these facts back must come to.
    pub(crate) fn of<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let mut tally = Tally::default();
        for fact in facts {
            tally.add(&fact.payload());
        }
        tally
    }

    /// Counts a payload with the checksum of all its bytes. Never in a timed part.
    pub(crate) fn add(&mut self, payload: &[u8]) {
        self.events += 1;
        self.sum = self.sum.wrapping_add(u64::from(crc32fast::hash(payload)));
    }

    /// Counts a payload by its first and last eight bytes: what a timed read does with each event.
    pub(crate) fn touch(&mut self, payload: &[u8]) {
        let first = payload.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let last = payload.last_chunk().copied().map_or(0, u64::from_le_bytes);
        self.events += 1;
        self.sum = self.sum.wrapping_add(first ^ last.rotate_left(1));
    }

    /// What touching these facts must come to.
    pub(crate) fn touching<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let mut tally = Tally::default();
        for fact in facts {
            tally.touch(&fact.payload());
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events with the sum {:016x}", self.events, self.sum)
    }
}
