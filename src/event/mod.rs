//! What a user appends and what a reader gets back.

use std::fmt;

mod id;
mod recorded;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec;
use crate::error::{Error, ErrorKind};
use id::new_id;
pub(crate) use recorded::EventAt;
pub use recorded::RecordedEvent;

/// The longest name of a stream, type or tag, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// The most tags an event can have.
pub const MAX_TAGS: usize = 128;

/// The global number of an event: 1, 2, 3 … without gaps; 0 is *before the first*.
///
/// Ranges are always *after* a position, so a checkpoint is passed on as it is: `read(after)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const START: Position = Position(0);
    /// After every event there will ever be; where a backward read starts.
    pub const END: Position = Position(u64::MAX);

    /// The position with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Position(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Position(self.0.saturating_add(1))
    }

    pub(crate) const fn plus(self, count: u64) -> Self {
        Position(self.0.saturating_add(count))
    }

    /// The position before; that of [`START`](Position::START) is itself. `store.read(first.previous())` reads from
    /// `first` on.
    #[must_use]
    pub const fn previous(self) -> Self {
        Position(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an event in its stream, which is how many events the stream had with it; 0 is *no such stream*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// The version of a stream without events.
    pub const NONE: Version = Version(0);
    /// After every version there will ever be; where a backward read starts.
    pub const END: Version = Version(u64::MAX);

    /// The version with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Version(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Version(self.0.saturating_add(1))
    }

    pub(crate) const fn previous(self) -> Self {
        Version(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How the bytes of a payload are to be read. Stored with every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Bytes whose meaning is the application's own.
    Raw,
    /// JSON text.
    Json,
    /// bincode 2 with fixed-width integers, little-endian.
    Bincode,
}

impl Encoding {
    /// The word used by the command line: `raw`, `json`, `bincode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::Raw => "raw",
            Encoding::Json => "json",
            Encoding::Bincode => "bincode",
        }
    }
}

impl Encoding {
    /// The byte that stands for it in a record.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Encoding::Raw => 1,
            Encoding::Json => 2,
            Encoding::Bincode => 3,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Encoding::Raw),
            2 => Some(Encoding::Json),
            3 => Some(Encoding::Bincode),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fact to append: a type, a payload, tags and optional metadata, under a unique id.
///
/// Names, tags and sizes are checked when the event is appended, before a byte is written.
///
/// ```
/// # fn main() -> Result<(), everfold::Error> {
/// let sold = everfold::Event::json("sold", &("hats", 2))?.tag("customer:jsmith").metadata(b"via web");
/// assert_eq!(sold.event_type(), "sold");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: Uuid,
    encoding: Encoding,
    payload: Vec<u8>,
    /// The type and the tags, end to end: one allocation for all.
    names: String,
    type_len: usize,
    tag_ends: TagEnds,
    metadata: Option<Vec<u8>>,
}

/// Where each tag ends in an event's names: of few without an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TagEnds {
    Few { count: usize, ends: [usize; 3] },
    Many(Vec<usize>),
}

impl TagEnds {
    fn as_slice(&self) -> &[usize] {
        match self {
            TagEnds::Few { count, ends } => ends.get(..*count).unwrap_or_default(),
            TagEnds::Many(ends) => ends,
        }
    }

    fn push(&mut self, end: usize) {
        match self {
            TagEnds::Many(ends) => ends.push(end),
            TagEnds::Few { count, ends } => match ends.get_mut(*count) {
                Some(slot) => (*slot, *count) = (end, *count + 1),
                None => *self = TagEnds::Many(ends.iter().copied().chain([end]).collect()),
            },
        }
    }
}

impl Event {
    /// An event whose payload is bytes of the application's own.
    pub fn raw(event_type: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self::encoded(event_type.into(), Encoding::Raw, payload.into())
    }

    /// An event whose payload is `value` as JSON text.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when `value` does not serialise to JSON.
    pub fn json<T: Serialize + ?Sized>(event_type: impl Into<String>, value: &T) -> Result<Self, Error> {
        let payload = serde_json::to_vec(value)
            .map_err(|e| Error::new(ErrorKind::Codec, "the payload does not serialise to JSON").because(e))?;
        Ok(Self::encoded(event_type.into(), Encoding::Json, payload))
    }

    /// An event whose payload is `value` as bincode 2 with fixed-width integers: small and fast, but without
    /// room for a change of the type's shape. Prefer [`Event::json`] for facts that are kept for years.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when `value` does not serialise.
    pub fn bincode<T: Serialize + ?Sized>(event_type: impl Into<String>, value: &T) -> Result<Self, Error> {
        Ok(Self::encoded(event_type.into(), Encoding::Bincode, codec::to_vec(value)?))
    }

    fn encoded(event_type: String, encoding: Encoding, payload: Vec<u8>) -> Self {
        let (type_len, tag_ends) = (event_type.len(), TagEnds::Few { count: 0, ends: [0; 3] });
        Event { id: new_id(), encoding, payload, names: event_type, type_len, tag_ends, metadata: None }
    }

    /// Adds a tag, a label such as `customer:17`. Tags are compared byte by byte.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
        self.names.push_str(tag.as_ref());
        self.tag_ends.push(self.names.len());
        self
    }

    /// Sets the metadata: bytes beside the payload, such as who caused the event. Empty is not the same as none.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Vec<u8>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// Sets the id, in place of the generated one (a UUID of version 7). Appending the same ids again after an
    /// unclear outcome returns the first positions instead of recording the facts twice.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// The same fact, to be recorded in another log.
    pub(crate) fn copy_of(event: &RecordedEvent) -> Self {
        let copy = Self::encoded(event.event_type().to_owned(), event.encoding(), event.payload().to_vec());
        let copy = event.tags().fold(copy, Event::tag).id(event.event_id());
        Event { metadata: event.metadata().map(<[u8]>::to_vec), ..copy }
    }

    /// The event's id.
    #[must_use]
    pub fn event_id(&self) -> Uuid {
        self.id
    }

    /// The type.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.names.get(..self.type_len).unwrap_or_default()
    }

    /// How the payload is encoded.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The payload's bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The tags, in the order they were added.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = self.type_len;
        self.tag_ends
            .as_slice()
            .iter()
            .map(move |end| self.names.get(std::mem::replace(&mut start, *end)..*end).unwrap_or_default())
    }

    /// The metadata's bytes, if any were set.
    #[must_use]
    pub fn metadata_bytes(&self) -> Option<&[u8]> {
        self.metadata.as_deref()
    }
}

/// Where the fields of a record are that every event has. The codec of records lays them out, and recorded events read
/// them when they are asked: to find them all for every event would cost a scan more than its checksums do.
pub(crate) mod field {
    pub(crate) const CRC: usize = 4;
    pub(crate) const VERSION: usize = 8;
    pub(crate) const ID: usize = 16;
    pub(crate) const PAYLOAD_LEN: usize = 32;
    pub(crate) const METADATA_LEN: usize = 36;
    pub(crate) const STREAM_LEN: usize = 40;
    pub(crate) const TYPE_LEN: usize = 42;
    pub(crate) const TAGS: usize = 44;
    pub(crate) const ENCODING: usize = 46;
    /// The names, the metadata and the payload follow each other from here on, and end with the record.
    pub(crate) const DATA: usize = 48;
    /// In place of the metadata's length: there is none.
    pub(crate) const NO_METADATA: u32 = u32::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_as_they_were_added_however_many_they_are() {
        for count in 0..9 {
            let tags: Vec<String> = (0..count).map(|n| "ä".repeat(n) + &n.to_string()).collect();
            let event = tags.iter().fold(Event::raw("type", *b""), |event, tag| event.tag(tag));
            assert_eq!((event.event_type(), event.tags().len()), ("type", count));
            assert!(event.tags().eq(tags.iter().map(String::as_str)));
        }
    }
}
