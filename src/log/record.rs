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

use super::crc;
use super::layout::{aligned, bytes_at, field_len, memory_len, put, u16_at, u32_at, u64_at};
use crate::error::{Error, ErrorKind};
use crate::event::field::{self, NO_METADATA};
use crate::event::{Encoding, Event, EventAt, MAX_NAME_BYTES, MAX_TAGS, Position, RecordedEvent, Version};
use bytes::Bytes;

/// Bytes before the variable part.
pub(crate) const RECORD_HEADER: usize = field::DATA;
/// Where the part that does not depend on the place in the log starts.
const FIXED_PART: usize = field::ID;

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
    put(&mut header, field::ID, event.event_id().as_bytes());
    put(&mut header, field::PAYLOAD_LEN, &field_len(event.payload().len()).to_le_bytes());
    put(
        &mut header,
        field::METADATA_LEN,
        &metadata.map_or(NO_METADATA, |bytes| field_len(bytes.len())).to_le_bytes(),
    );
    put(&mut header, field::STREAM_LEN, &short(stream.len()));
    put(&mut header, field::TYPE_LEN, &short(event.event_type().len()));
    put(&mut header, field::TAGS, &short(event.tags().len()));
    put(&mut header, field::ENCODING, &[event.encoding().code()]);
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
    put(record, field::VERSION, &version.get().to_le_bytes());
    put(record, field::CRC, &crc_in_place(partial_crc, salt, position, version, len).to_le_bytes());
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
pub(crate) fn decode(bytes: &Bytes, at: usize, slot: Slot) -> Result<RecordedEvent, RecordFault> {
    read(bytes, at, slot).map(EventAt::event)
}

/// The same, and leaves the event where it is.
#[inline]
pub(crate) fn read(bytes: &Bytes, at: usize, slot: Slot) -> Result<EventAt<'_>, RecordFault> {
    let Slot { salt, position, recorded_at_ns, verified } = slot;
    let from = bytes.get(at..).ok_or(RecordFault::Length)?;
    let (len, padded) = length(from)?;
    let record = from.get(..len).ok_or(RecordFault::Length)?;
    let fields = Fields::read(record).ok_or(RecordFault::Length)?;
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
    }
    let names = fields.check(record)?;
    if !verified {
        fields.check_names(names)?;
    }
    Ok(EventAt { position, recorded_at_ns, buffer: bytes, at, len })
}

/// The fields of a record's header.
struct Fields {
    crc: u32,
    version: Version,
    payload: u32,
    metadata: u32,
    stream: u16,
    event_type: u16,
    tags: u16,
    encoding: u8,
    flags: u8,
}

impl Fields {
    #[inline]
    fn read(record: &[u8]) -> Option<Self> {
        let header: [u8; RECORD_HEADER] = bytes_at(record, 0)?;
        let [encoding, flags] = bytes_at(&header, field::ENCODING)?;
        Some(Fields {
            crc: u32_at(&header, field::CRC)?,
            version: Version::new(u64_at(&header, field::VERSION)?),
            payload: u32_at(&header, field::PAYLOAD_LEN)?,
            metadata: u32_at(&header, field::METADATA_LEN)?,
            stream: u16_at(&header, field::STREAM_LEN)?,
            event_type: u16_at(&header, field::TYPE_LEN)?,
            tags: u16_at(&header, field::TAGS)?,
            encoding,
            flags,
        })
    }

    /// Checks that the parts lie in the record, and returns the names, with the lengths of tags between them.
    #[inline]
    fn check<'a>(&self, record: &'a [u8]) -> Result<&'a [u8], RecordFault> {
        let metadata = if self.metadata == NO_METADATA { 0 } else { self.metadata };
        let after = u64::from(self.payload) + u64::from(metadata);
        let names_end = record.len().saturating_sub(memory_len(after));
        let names = record.get(RECORD_HEADER..names_end).ok_or(RecordFault::Field("a length"))?;
        let fault = if usize::from(self.stream) + usize::from(self.event_type) > names.len() {
            "a length"
        } else if self.version == Version::NONE {
            "version"
        } else if self.flags != 0 {
            "flags"
        } else if Encoding::from_code(self.encoding).is_none() {
            "encoding"
        } else {
            return Ok(names);
        };
        Err(RecordFault::Field(fault))
    }

    /// Checks that the names are names, and that there is nothing else.
    #[inline]
    fn check_names(&self, names: &[u8]) -> Result<(), RecordFault> {
        let fault = RecordFault::Field;
        // Mostly all of it is ASCII, and then so is every part.
        let ascii = names.is_ascii();
        let is_text = |name: &[u8]| ascii || std::str::from_utf8(name).is_ok();
        let is_name = |name: &[u8]| (1..=MAX_NAME_BYTES).contains(&name.len()) && is_text(name);
        let (stream, rest) = names.split_at_checked(self.stream.into()).ok_or(fault("stream name"))?;
        let (event_type, mut tags) =
            rest.split_at_checked(self.event_type.into()).ok_or(fault("type name"))?;
        if !is_name(stream) {
            return Err(fault("stream name"));
        }
        if !is_name(event_type) {
            return Err(fault("type name"));
        }
        if usize::from(self.tags) > MAX_TAGS {
            return Err(fault("tags"));
        }
        for _ in 0..self.tags {
            let (_, rest) = split_tag(tags).filter(|(tag, _)| is_name(tag)).ok_or(fault("tags"))?;
            tags = rest;
        }
        if tags.is_empty() { Ok(()) } else { Err(fault("the lengths do not add up")) }
    }
}

/// The first of a list of tags, each a length and its bytes; and the rest.
fn split_tag(tags: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = tags.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

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
    fn a_verified_record_is_read_without_a_panic_whatever_became_of_it() {
        let good = record(&sample());
        let verified = Slot { verified: true, ..slot(SALT, 9) };
        let look_at_all = |bytes: Vec<u8>| {
            let Ok(event) = decode(&Bytes::from(bytes), 0, verified) else { return false };
            let tags: usize = event.tags().map(str::len).sum();
            let names = event.stream().len() + event.event_type().len() + tags;
            let len = names + event.payload().len() + event.metadata().unwrap_or_default().len();
            assert!(len <= good.len());
            drop((
                event.event_id(),
                event.version(),
                event.encoding(),
                event.fingerprint(),
                format!("{event:?}"),
            ));
            true
        };
        assert!(look_at_all(good.clone()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            look_at_all(bad);
        }
        for (at, byte) in (0..good.len()).flat_map(|at| [0, 0x7f, 0x80, 0xff].map(|byte| (at, byte))) {
            for len in [1, 2, 4, 8] {
                let mut bad = good.clone();
                bad.iter_mut().skip(at).take(len).for_each(|to| *to = byte);
                look_at_all(bad);
            }
        }
        assert!((0..good.len()).all(|cut| !look_at_all(good[..cut].to_vec())));
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
