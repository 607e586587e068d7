//! One event on disk: a pure codec.
//!
//! ```text
//!  0        4        8                16                              32       36       40   42   44   46 47 48
//! ┌────────┬────────┬────────────────┬───────────────────────────────┬────────┬────────┬────┬────┬────┬──┬──┬──────
//! │ len    │ crc    │ version        │ event id                      │ payload│metadata│strm│type│tags│en│ 0│ data …
//! └────────┴────────┴────────────────┴───────────────────────────────┴────────┴────────┴────┴────┴────┴──┴──┴──────
//! data: stream · type · tags, each a u16 length and its bytes · metadata · payload · zeros to a multiple of 8
//! ```
//!
//! The checksum runs over `bytes[16..len] ‖ salt ‖ position ‖ version ‖ len`. What depends on the place in the log
//! comes last, so that an appender checksums the long part before it knows the position.

use bytes::Bytes;
use uuid::Uuid;

use super::crc;
use super::layout::{aligned, bytes_at, field_len, memory_len, put, u16_at, u32_at, u64_at};
use crate::error::{Error, ErrorKind};
use crate::event::{Encoding, Event, Position, RecordParts, RecordedEvent, Version};

/// Bytes before the variable part.
pub(crate) const RECORD_HEADER: usize = 48;
/// Where the part that does not depend on the place in the log starts.
const FIXED_PART: usize = 16;
/// In the field of the metadata's length: there is none.
const NO_METADATA: u32 = u32::MAX;

/// The longest name of a stream, type or tag, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// The most tags an event can have.
pub const MAX_TAGS: usize = 128;
/// The largest event on disk: payload, metadata, names and 48 bytes, together.
pub const MAX_EVENT_BYTES: usize = 16 << 20;

/// Why bytes are not the event that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordFault {
    #[error("its length is out of range")]
    Length,
    #[error("its checksum does not match its bytes")]
    Crc,
    #[error("a field is out of range: {0}")]
    Field(&'static str),
}

/// Checks names and sizes against the limits; returns the record's length without padding.
pub(crate) fn check(stream: &str, event: &Event) -> Result<usize, Error> {
    let name = |what: &str, name: &str| match name.len() {
        0 => Err(Error::invalid(format!("a {what} cannot be empty: give it at least one byte"))),
        1..=MAX_NAME_BYTES => Ok(()),
        len => Err(too_large(what, len, MAX_NAME_BYTES)),
    };
    name("stream name", stream)?;
    name("type name", event.event_type())?;
    event.tags().try_for_each(|tag| name("tag", tag))?;
    if event.tags().len() > MAX_TAGS {
        return Err(too_large("list of tags", event.tags().len(), MAX_TAGS));
    }
    let tags: usize = event.tags().map(|tag| 2 + tag.len()).sum();
    let metadata = event.metadata_bytes().map_or(0, <[u8]>::len);
    let names = RECORD_HEADER + stream.len() + event.event_type().len() + tags;
    let len = names.saturating_add(metadata).saturating_add(event.payload().len());
    if len > MAX_EVENT_BYTES {
        return Err(too_large("event (payload, metadata, names and 48 bytes)", len, MAX_EVENT_BYTES));
    }
    Ok(len)
}

pub(crate) fn too_large(what: &str, actual: usize, limit: usize) -> Error {
    let limit_field = u64::try_from(limit).unwrap_or(u64::MAX);
    Error::new(
        ErrorKind::TooLarge { limit: limit_field },
        format!("the {what} has a size of {actual}, and the limit is {limit}; nothing was written"),
    )
}

/// Appends a checked event to `out`, all but what [`place`] fills in. Returns the checksum so far.
pub(crate) fn encode(out: &mut Vec<u8>, stream: &str, event: &Event, len: usize) -> u32 {
    let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
    let metadata = event.metadata_bytes();
    let mut header = [0; RECORD_HEADER];
    put(&mut header, 0, &field_len(len).to_le_bytes());
    put(&mut header, 16, event.event_id().as_bytes());
    put(&mut header, 32, &field_len(event.payload().len()).to_le_bytes());
    put(&mut header, 36, &metadata.map_or(NO_METADATA, |bytes| field_len(bytes.len())).to_le_bytes());
    put(&mut header, 40, &short(stream.len()));
    put(&mut header, 42, &short(event.event_type().len()));
    put(&mut header, 44, &short(event.tags().len()));
    put(&mut header, 46, &[encoding_byte(event.encoding())]);
    let start = out.len();
    out.reserve(aligned(len));
    out.extend_from_slice(&header);
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(event.event_type().as_bytes());
    for tag in event.tags() {
        out.extend_from_slice(&short(tag.len()));
        out.extend_from_slice(tag.as_bytes());
    }
    out.extend_from_slice(metadata.unwrap_or_default());
    out.extend_from_slice(event.payload());
    debug_assert_eq!(out.len() - start, len, "the record is as long as it was checked to be");
    let crc = crc32fast::hash(out.get(start + FIXED_PART..).unwrap_or_default());
    out.resize(start + aligned(len), 0);
    crc
}

/// Gives an encoded record its version, and the checksum that ties it to its place.
pub(crate) fn place(record: &mut [u8], partial_crc: u32, salt: u64, position: Position, version: Version) {
    let len = u32_at(record, 0).unwrap_or_default();
    put(record, 8, &version.get().to_le_bytes());
    put(record, 4, &crc_in_place(partial_crc, salt, position, version, len).to_le_bytes());
}

fn crc_in_place(partial: u32, salt: u64, position: Position, version: Version, len: u32) -> u32 {
    crc::with_place(partial, salt, position.get(), version.get(), len)
}

/// The length of the record that starts `bytes`, without and with padding, if it can be one.
pub(crate) fn length(bytes: &[u8]) -> Result<(usize, usize), RecordFault> {
    length_within(bytes, bytes.len())
}

/// The same of a record that may be so long, whether or not `bytes` has all of it.
pub(crate) fn length_within(bytes: &[u8], room: usize) -> Result<(usize, usize), RecordFault> {
    let len = memory_len(u64::from(u32_at(bytes, 0).ok_or(RecordFault::Length)?));
    if !(RECORD_HEADER..=MAX_EVENT_BYTES).contains(&len) || aligned(len) > room {
        return Err(RecordFault::Length);
    }
    Ok((len, aligned(len)))
}

/// Where a record is, and how far it is to be believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) salt: u64,
    pub(crate) position: Position,
    pub(crate) recorded_at_ns: u64,
    /// The same memory was checked before: what is read must lie in the record, and nothing more is asked.
    pub(crate) verified: bool,
}

/// Reads the record that starts `bytes` at an offset, and checks everything about it. The event shares the memory.
#[inline]
pub(crate) fn decode(bytes: &Bytes, at: usize, slot: Slot) -> Result<RecordedEvent, RecordFault> {
    let Slot { salt, position, recorded_at_ns, verified } = slot;
    let from = bytes.get(at..).ok_or(RecordFault::Length)?;
    let (len, padded) = length(from)?;
    let record = from.get(..len).ok_or(RecordFault::Length)?;
    let (header, data) = record.split_first_chunk().ok_or(RecordFault::Length)?;
    let fields = Fields::read(header);
    if !verified {
        let partial = crc32fast::hash(record.get(FIXED_PART..).ok_or(RecordFault::Length)?);
        if fields.crc != crc_in_place(partial, salt, position, fields.version, field_len(len)) {
            return Err(RecordFault::Crc);
        }
        // Fewer than eight bytes: not worth a call.
        let padding = from.get(len..padded).ok_or(RecordFault::Length)?;
        if padding.iter().fold(0, |all, byte| all | byte) != 0 {
            return Err(RecordFault::Field("padding"));
        }
        fields.check_names(data)?;
    }
    let parts = fields.parts(data)?;
    Ok(RecordedEvent::new(position, recorded_at_ns, fields.crc, parts, bytes.slice(at..at + len)))
}

/// The fields of a record's header.
struct Fields {
    crc: u32,
    version: Version,
    id: Uuid,
    payload: usize,
    metadata: u32,
    stream: usize,
    event_type: usize,
    tags: usize,
    encoding: u8,
    flags: u8,
}

impl Fields {
    #[inline]
    fn read(header: &[u8; RECORD_HEADER]) -> Self {
        let u16_at = |at| usize::from(u16_at(header, at).unwrap_or_default());
        let u32_at = |at| u32_at(header, at).unwrap_or_default();
        let [encoding, flags] = bytes_at(header, 46).unwrap_or_default();
        Fields {
            crc: u32_at(4),
            version: Version::new(u64_at(header, 8).unwrap_or_default()),
            id: Uuid::from_bytes(bytes_at(header, 16).unwrap_or_default()),
            payload: memory_len(u64::from(u32_at(32))),
            metadata: u32_at(36),
            stream: u16_at(40),
            event_type: u16_at(42),
            tags: u16_at(44),
            encoding,
            flags,
        }
    }

    fn metadata_len(&self) -> usize {
        if self.metadata == NO_METADATA { 0 } else { memory_len(u64::from(self.metadata)) }
    }

    /// How many bytes of the data are names, with the lengths of tags between them.
    fn names_len(&self, data: &[u8]) -> Option<usize> {
        data.len().checked_sub(self.metadata_len())?.checked_sub(self.payload)
    }

    /// Checks that the names are names, and fill what metadata and payload leave of the data.
    #[inline]
    fn check_names(&self, data: &[u8]) -> Result<(), RecordFault> {
        let fault = |what| Err(RecordFault::Field(what));
        let Some(names) = self.names_len(data).and_then(|len| data.get(..len)) else {
            return fault("a length");
        };
        // Mostly all of it is ASCII, and then so is every part.
        let ascii = names.is_ascii();
        let is_text = |name: &[u8]| ascii || std::str::from_utf8(name).is_ok();
        let is_name = |name: &[u8]| (1..=MAX_NAME_BYTES).contains(&name.len()) && is_text(name);
        let Some((stream, rest)) = names.split_at_checked(self.stream) else { return fault("stream name") };
        let Some((event_type, mut rest)) = rest.split_at_checked(self.event_type) else {
            return fault("type name");
        };
        if !is_name(stream) {
            return fault("stream name");
        }
        if !is_name(event_type) {
            return fault("type name");
        }
        if self.tags > MAX_TAGS {
            return fault("tags");
        }
        for _ in 0..self.tags {
            match split_tag(rest) {
                Some((tag, after)) if is_name(tag) => rest = after,
                _ => return fault("tags"),
            }
        }
        if rest.is_empty() { Ok(()) } else { fault("the lengths do not add up") }
    }

    /// Where the parts are; every one of them lies in the data.
    #[inline]
    fn parts(&self, data: &[u8]) -> Result<RecordParts, RecordFault> {
        let names = self.names_len(data).ok_or(RecordFault::Field("a length"))?;
        let type_end = self.stream + self.event_type;
        if type_end > names {
            return Err(RecordFault::Field("a length"));
        }
        if self.version == Version::NONE {
            return Err(RecordFault::Field("version"));
        }
        if self.flags != 0 {
            return Err(RecordFault::Field("flags"));
        }
        let offset = |len: usize| field_len(RECORD_HEADER + len);
        Ok(RecordParts {
            id: self.id,
            version: self.version,
            encoding: encoding_of(self.encoding).ok_or(RecordFault::Field("encoding"))?,
            has_metadata: self.metadata != NO_METADATA,
            stream: offset(0),
            event_type: offset(self.stream),
            tags: offset(type_end),
            metadata: offset(names),
            payload: offset(names + self.metadata_len()),
        })
    }
}

/// The first of a list of tags, each a length and its bytes; and the rest.
fn split_tag(tags: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = tags.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

const fn encoding_byte(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Raw => 1,
        Encoding::Json => 2,
        Encoding::Bincode => 3,
    }
}

const fn encoding_of(byte: u8) -> Option<Encoding> {
    match byte {
        1 => Some(Encoding::Raw),
        2 => Some(Encoding::Json),
        3 => Some(Encoding::Bincode),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x5a17;

    fn record(event: &Event) -> Vec<u8> {
        let mut out = Vec::new();
        let len = check("cart-7", event).unwrap();
        let crc = encode(&mut out, "cart-7", event, len);
        place(&mut out, crc, SALT, Position::new(9), Version::new(3));
        out
    }

    fn slot(salt: u64, position: u64) -> Slot {
        Slot { salt, position: Position::new(position), recorded_at_ns: 77, verified: false }
    }

    fn read(bytes: Vec<u8>) -> Result<RecordedEvent, RecordFault> {
        decode(&Bytes::from(bytes), 0, slot(SALT, 9))
    }

    fn sample() -> Event {
        Event::raw("sold", *b"hats").tag("customer:17").tag("x").metadata(*b"web").id(Uuid::from_u128(5))
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let event = read(record(&sample())).unwrap();
        assert_eq!((event.stream(), event.event_type(), event.payload()), ("cart-7", "sold", &b"hats"[..]));
        assert_eq!(event.tags().collect::<Vec<_>>(), ["customer:17", "x"]);
        assert_eq!((event.metadata(), event.version()), (Some(&b"web"[..]), Version::new(3)));
        assert_eq!((event.event_id(), event.recorded_at_ns()), (Uuid::from_u128(5), 77));
    }

    #[test]
    fn absent_metadata_is_not_empty_metadata_and_an_empty_payload_is_kept() {
        assert_eq!(read(record(&Event::raw("t", []))).unwrap().metadata(), None);
        let event = read(record(&Event::raw("t", []).metadata([]))).unwrap();
        assert_eq!((event.metadata(), event.payload()), (Some(&[][..]), &[][..]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let good = record(&sample());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(bad).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(read(good[..cut].to_vec()).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_record_is_valid_only_in_its_own_place() {
        let bytes = Bytes::from(record(&sample()));
        assert!(decode(&bytes, 0, slot(SALT, 9)).is_ok());
        assert!(decode(&bytes, 0, slot(SALT, 8)).is_err());
        assert!(decode(&bytes, 0, slot(SALT + 1, 9)).is_err());
    }

    #[test]
    fn limits_are_checked_before_anything_is_encoded() {
        let kind = |stream: &str, event: Event| check(stream, &event).unwrap_err().kind();
        assert_eq!(kind("", Event::raw("t", [])), ErrorKind::Invalid);
        assert_eq!(kind("s", Event::raw("", [])), ErrorKind::Invalid);
        assert_eq!(kind("s", Event::raw("t", []).tag("")), ErrorKind::Invalid);
        assert_eq!(kind(&"s".repeat(256), Event::raw("t", [])), ErrorKind::TooLarge { limit: 255 });
        let crowded = (0..=MAX_TAGS).fold(Event::raw("t", []), |event, n| event.tag(n.to_string()));
        assert_eq!(kind("s", crowded), ErrorKind::TooLarge { limit: 128 });
        let huge = Event::raw("t", vec![0; MAX_EVENT_BYTES - RECORD_HEADER - 1]);
        assert_eq!(kind("s", huge), ErrorKind::TooLarge { limit: 16 << 20 });
    }
}
