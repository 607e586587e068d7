//! An event as it is read.

use std::fmt;
use std::ptr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::{Encoding, Position, Version, field};
use crate::codec;
use crate::error::{Error, ErrorKind};

/// An event as stored: with its position, its stream, its version there, and when it was recorded.
///
/// Cheap to clone. It shares the memory it was read from (a mapped segment or a read buffer), so copy the parts
/// that are to be kept for long.
#[derive(Clone)]
pub struct RecordedEvent {
    position: Position,
    recorded_at_ns: u64,
    /// What its record was read from, with those of others.
    buffer: Bytes,
    /// Where the record is, without padding. Its codec has checked it.
    at: usize,
    len: usize,
}

/// An event that was read, where it lies: as [`RecordedEvent`], for who looks at one event after the other. To own one costs
/// a count in memory, and to wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventAt<'a> {
    pub(crate) position: Position,
    pub(crate) recorded_at_ns: u64,
    pub(crate) buffer: &'a Bytes,
    /// Where its record is, without padding. Its codec has checked it.
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl EventAt<'_> {
    /// The event.
    #[inline]
    pub(crate) fn event(self) -> RecordedEvent {
        let EventAt { position, recorded_at_ns, buffer, at, len } = self;
        RecordedEvent { position, recorded_at_ns, buffer: buffer.clone(), at, len }
    }

    /// Puts the event in the place of another, if there is one.
    #[inline]
    pub(crate) fn put_into(self, event: &mut Option<RecordedEvent>) {
        match event {
            Some(event) => self.replace(event),
            None => *event = Some(self.event()),
        }
    }

    /// Puts the event in the place of another, which is mostly from the same buffer.
    #[inline]
    pub(crate) fn replace(self, event: &mut RecordedEvent) {
        if !self.is_in(&event.buffer) {
            event.buffer = self.buffer.clone();
        }
        (event.position, event.recorded_at_ns) = (self.position, self.recorded_at_ns);
        (event.at, event.len) = (self.at, self.len);
    }

    /// Whether it lies in this buffer: while somebody has that, no other can be at the same place.
    #[inline]
    pub(crate) fn is_in(self, buffer: &Bytes) -> bool {
        ptr::eq(self.buffer.as_ref(), buffer.as_ref())
    }

    pub(crate) fn version(self) -> Version {
        let bytes = self.buffer.get(self.at + field::VERSION..);
        Version(bytes.and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }
}

impl RecordedEvent {
    fn record(&self) -> &[u8] {
        self.buffer.get(self.at..self.at + self.len).unwrap_or_default()
    }

    /// The checksum stored with the event: with the position, tells it from an event of another log.
    pub(crate) fn fingerprint(&self) -> u32 {
        u32::from_le_bytes(self.field(field::CRC))
    }

    /// Length of the record on disk, without padding.
    pub(crate) fn record_len(&self) -> usize {
        self.len
    }

    /// The global position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The stream the event belongs to.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.text(field::DATA, self.len16(field::STREAM_LEN))
    }

    /// The number of the event in its stream.
    #[must_use]
    pub fn version(&self) -> Version {
        Version(u64::from_le_bytes(self.field(field::VERSION)))
    }

    /// The event's id.
    #[must_use]
    pub fn event_id(&self) -> Uuid {
        Uuid::from_bytes(self.field(field::ID))
    }

    /// The type.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.text(field::DATA + self.len16(field::STREAM_LEN), self.len16(field::TYPE_LEN))
    }

    /// When the batch was recorded, by the clock of the machine. Informational: clocks go backwards, and order is
    /// told by positions alone.
    #[must_use]
    pub fn recorded_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.recorded_at_ns)
    }

    /// Nanoseconds from the Unix epoch to [`recorded_at`](Self::recorded_at).
    #[must_use]
    pub fn recorded_at_ns(&self) -> u64 {
        self.recorded_at_ns
    }

    /// How the payload is encoded.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        let [code] = self.field(field::ENCODING);
        Encoding::from_code(code).unwrap_or(Encoding::Raw)
    }

    /// The payload's bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.record().get(self.payload_start()..).unwrap_or_default()
    }

    /// The metadata's bytes; `None` when none were given, which is not the same as empty.
    #[must_use]
    pub fn metadata(&self) -> Option<&[u8]> {
        let payload = self.payload_start();
        let start = payload.saturating_sub(self.metadata_len()?);
        Some(self.record().get(start..payload).unwrap_or_default())
    }

    /// The tags, in the order they were added.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let start = field::DATA + self.len16(field::STREAM_LEN) + self.len16(field::TYPE_LEN);
        let end = self.payload_start().saturating_sub(self.metadata_len().unwrap_or(0));
        let mut rest = self.record().get(start..end).unwrap_or_default();
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<2>()?;
            let (tag, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            rest = tail;
            Some(std::str::from_utf8(tag).unwrap_or_default())
        })
    }

    /// The payload as a value, read by its encoding. `T` may borrow from the event.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when the payload is raw bytes, or is not a `T`; the message names the position.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        let fault = |what: String| {
            Error::new(
                ErrorKind::Codec,
                format!("the payload of {:?} at position {} {what}", self.event_type(), self.position),
            )
        };
        match self.encoding() {
            Encoding::Raw => Err(fault("is raw bytes: read payload() instead of decode()".into())),
            Encoding::Json => serde_json::from_slice(self.payload())
                .map_err(|e| fault("is not the expected JSON".into()).because(e)),
            Encoding::Bincode => codec::from_slice(self.payload())
                .map_err(|e| fault("is not the expected bincode".into()).because(e)),
        }
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.record().get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    fn len16(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes(self.field(at)))
    }

    fn metadata_len(&self) -> Option<usize> {
        match u32::from_le_bytes(self.field(field::METADATA_LEN)) {
            field::NO_METADATA => None,
            len => usize::try_from(len).ok(),
        }
    }

    fn payload_start(&self) -> usize {
        let len = u32::from_le_bytes(self.field(field::PAYLOAD_LEN));
        self.len.saturating_sub(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn text(&self, start: usize, len: usize) -> &str {
        let bytes = self.record().get(start..start + len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for RecordedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedEvent")
            .field("position", &self.position.get())
            .field("stream", &self.stream())
            .field("version", &self.version().get())
            .field("event_type", &self.event_type())
            .field("event_id", &self.event_id())
            .field("encoding", &self.encoding())
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}
