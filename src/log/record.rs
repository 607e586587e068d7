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

use std::ops::Range;

use bytes::Bytes;
use crc32fast::Hasher;
use uuid::Uuid;

use super::layout::{aligned, bytes_at, field_len, is_zero, memory_len, put, u16_at, u32_at, u64_at};
use crate::error::{Error, ErrorKind};
use crate::event::{
    Encoding, Event, MAX_NAME_BYTES, MAX_TAGS, Position, RecordParts, RecordedEvent, Version,
};

/// Bytes before the variable part.
pub(crate) const RECORD_HEADER: usize = 48;
/// Where the part that does not depend on the place in the log starts.
const FIXED_PART: usize = 16;
/// In the field of the metadata's length: there is none.
const NO_METADATA: u32 = u32::MAX;

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
    let start = out.len();
    out.extend_from_slice(&field_len(len).to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(event.event_id().as_bytes());
    out.extend_from_slice(&field_len(event.payload().len()).to_le_bytes());
    let metadata = event.metadata_bytes().map_or(NO_METADATA, |bytes| field_len(bytes.len()));
    out.extend_from_slice(&metadata.to_le_bytes());
    out.extend_from_slice(&short(stream.len()));
    out.extend_from_slice(&short(event.event_type().len()));
    out.extend_from_slice(&short(event.tags().len()));
    out.extend_from_slice(&[encoding_byte(event.encoding()), 0]);
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(event.event_type().as_bytes());
    for tag in event.tags() {
        out.extend_from_slice(&short(tag.len()));
        out.extend_from_slice(tag.as_bytes());
    }
    out.extend_from_slice(event.metadata_bytes().unwrap_or_default());
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
    let mut place = [0; 28];
    put(&mut place, 0, &salt.to_le_bytes());
    put(&mut place, 8, &position.get().to_le_bytes());
    put(&mut place, 16, &version.get().to_le_bytes());
    put(&mut place, 24, &len.to_le_bytes());
    let mut hasher = Hasher::new_with_initial(partial);
    hasher.update(&place);
    hasher.finalize()
}

/// The length of the record that starts `bytes`, without and with padding, if it can be one.
pub(crate) fn length(bytes: &[u8]) -> Result<(usize, usize), RecordFault> {
    let len = memory_len(u64::from(u32_at(bytes, 0).ok_or(RecordFault::Length)?));
    if !(RECORD_HEADER..=MAX_EVENT_BYTES).contains(&len) || aligned(len) > bytes.len() {
        return Err(RecordFault::Length);
    }
    Ok((len, aligned(len)))
}

/// Reads the record at the start of `bytes`, and checks everything about it.
pub(crate) fn decode(
    bytes: &Bytes,
    salt: u64,
    position: Position,
    recorded_at_ns: u64,
) -> Result<RecordedEvent, RecordFault> {
    let (len, padded) = length(bytes)?;
    let record = bytes.get(..len).ok_or(RecordFault::Length)?;
    let version = Version::new(u64_at(record, 8).ok_or(RecordFault::Length)?);
    let partial = crc32fast::hash(record.get(FIXED_PART..).ok_or(RecordFault::Length)?);
    let crc = crc_in_place(partial, salt, position, version, field_len(len));
    if u32_at(record, 4) != Some(crc) {
        return Err(RecordFault::Crc);
    }
    if !is_zero(bytes.get(len..padded).ok_or(RecordFault::Length)?) {
        return Err(RecordFault::Field("padding"));
    }
    let parts = parts(record, version).ok_or(RecordFault::Field("a length"))??;
    Ok(RecordedEvent::new(position, recorded_at_ns, crc, parts, bytes.slice(..len)))
}

/// `None`: the bytes end before a field does.
fn parts(record: &[u8], version: Version) -> Option<Result<RecordParts, RecordFault>> {
    let id = Uuid::from_bytes(bytes_at(record, 16)?);
    let payload_len = memory_len(u64::from(u32_at(record, 32)?));
    let metadata_len = match u32_at(record, 36)? {
        NO_METADATA => None,
        len => Some(memory_len(u64::from(len))),
    };
    let stream_len = usize::from(u16_at(record, 40)?);
    let type_len = usize::from(u16_at(record, 42)?);
    let tag_count = usize::from(u16_at(record, 44)?);
    let [encoding, flags] = bytes_at(record, 46)?;

    let mut at = RECORD_HEADER;
    let mut take = |len: usize| -> Option<Range<usize>> {
        let range = at..at.checked_add(len)?;
        at = range.end;
        record.get(range.clone()).map(|_| range)
    };
    let stream = take(stream_len)?;
    let event_type = take(type_len)?;
    let tags_start = event_type.end;
    let mut tags_fit = tag_count <= MAX_TAGS;
    for _ in 0..tag_count.min(MAX_TAGS) {
        let len = usize::from(u16_at(record, take(2)?.start)?);
        tags_fit &= is_name(record.get(take(len)?)?);
    }
    let metadata = match metadata_len {
        Some(len) => Some(take(len)?),
        None => None,
    };
    let payload = take(payload_len)?;
    let tags_end = metadata.as_ref().map_or(payload.start, |range| range.start);

    let checks = [
        (at == record.len(), "the lengths do not add up"),
        (is_name(record.get(stream.clone())?), "stream name"),
        (is_name(record.get(event_type.clone())?), "type name"),
        (tags_fit, "tags"),
        (version > Version::NONE, "version"),
        (flags == 0, "flags"),
    ];
    if let Some((_, what)) = checks.into_iter().find(|(holds, _)| !holds) {
        return Some(Err(RecordFault::Field(what)));
    }
    let Some(encoding) = encoding_of(encoding) else {
        return Some(Err(RecordFault::Field("encoding")));
    };
    let tags = tags_start..tags_end;
    Some(Ok(RecordParts { id, version, encoding, stream, event_type, tags, metadata, payload }))
}

fn is_name(bytes: &[u8]) -> bool {
    (1..=MAX_NAME_BYTES).contains(&bytes.len()) && std::str::from_utf8(bytes).is_ok()
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

    fn read(bytes: Vec<u8>) -> Result<RecordedEvent, RecordFault> {
        decode(&Bytes::from(bytes), SALT, Position::new(9), 77)
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
        assert!(decode(&bytes, SALT, Position::new(9), 0).is_ok());
        assert!(decode(&bytes, SALT, Position::new(8), 0).is_err());
        assert!(decode(&bytes, SALT + 1, Position::new(9), 0).is_err());
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
