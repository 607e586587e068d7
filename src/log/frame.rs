//! A frame: one batch on disk, the unit of commit and of atomicity. A pure codec.
//!
//! ```text
//!       0         4         8         12        16                  24
//!      ┌─────────┬─────────┬─────────┬─────────┬───────────────────┬───────────────────┐
//!    0 │ "FRM1"  │header   │body_len │events   │first position     │durable position   │
//!      │         │crc      │         │         │                   │when written       │
//!      ├─────────┼─────────┼─────────┼─────────┼───────────────────┼─────────┬─────────┤
//!   32 │chain    │body crc │epoch    │flags    │recorded time, ns  │raw_len 0│ 0 0 0 5A│
//!      ├─────────┴─────────┴─────────┴─────────┴───────────────────┴─────────┴─────────┤
//!   64 │ body: records, each a multiple of 8 bytes                                     │
//!      ├─────────┬─────────┬───────────────────────────────────────────────────────────┘
//!      │header   │ "Done"  │
//!      │crc      │         │
//!      └─────────┴─────────┘
//! ```
//!
//! `header crc` runs over `salt ‖ header[8..64]`, so the length is checked before anything trusts it; `body crc`
//! over `salt ‖` the first 8 bytes (length, checksum) of every record, so each byte is summed once. `chain` is the
//! header crc of the frame before, or the segment header's checksum for a segment's first frame. The first byte
//! and the last byte of header and frame are never zero: that tells a write that was cut short from damage.

use bytes::Bytes;
use crc32fast::Hasher;

use super::crc;
use super::layout::{ALIGN, bytes_at, disk_len, is_zero, memory_len, put, u32_at, u64_at};
use super::record::{self, RecordFault, Slot};
use crate::event::{Position, RecordedEvent};

pub(crate) const FRAME_HEADER: usize = 64;
pub(crate) const FRAME_TRAILER: usize = 8;
/// The smallest frame, a control frame without a body.
pub(crate) const CONTROL_FRAME: usize = FRAME_HEADER + FRAME_TRAILER;
/// The largest body, whatever the options say.
pub(crate) const MAX_BODY: usize = crate::options::MAX_BATCH_BYTES;

const MAGIC: [u8; 4] = *b"FRM1";
const COMMIT_MARK: [u8; 4] = *b"Done";
const LAST_BYTE: u8 = 0x5A;

/// Nothing follows this frame in its segment.
pub(crate) const SEAL: u32 = 1;
/// The store was closed after this frame.
pub(crate) const CLEAN: u32 = 2;
/// Says only that everything before it is durable.
pub(crate) const WATERMARK: u32 = 4;
/// Reserved: the body is compressed. Refused in format 1.
pub(crate) const COMPRESSED: u32 = 8;

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) body_len: u32,
    pub(crate) events: u32,
    /// Position of the first event; in a control frame, of the next event.
    pub(crate) first: Position,
    /// The watermark when the frame was written: proof that all up to there had been acknowledged.
    pub(crate) durable: Position,
    pub(crate) chain: u32,
    pub(crate) body_crc: u32,
    /// Counts the times the store was opened for writing.
    pub(crate) epoch: u32,
    pub(crate) flags: u32,
    pub(crate) recorded_at_ns: u64,
    /// Set by encoding, checked by decoding: the value that the next frame has as its chain.
    pub(crate) header_crc: u32,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameFault {
    #[error("no frame starts there")]
    Magic,
    #[error("the frame header's checksum does not match")]
    HeaderCrc,
    #[error("the frame header has a field out of range: {0}")]
    Field(&'static str),
    #[error("the frame is longer than the room left in its segment")]
    Length,
    #[error("the commit mark at the frame's end is not there")]
    Trailer,
    #[error("the checksum over the frame's list of events does not match")]
    BodyCrc,
    #[error("an event of the frame does not verify: {1}")]
    Record(u32, RecordFault),
    #[error("the frame does not follow from the one before it: {0}")]
    Stale(&'static str),
}

impl FrameFault {
    /// The first position affected, in a frame that should start with `first`.
    pub(crate) fn position(&self, first: Position) -> Position {
        match self {
            FrameFault::Record(index, _) => first.plus(u64::from(*index)),
            _ => first,
        }
    }
}

impl FrameHeader {
    /// A frame without events.
    pub(crate) fn control(flags: u32, next: Position, durable: Position, chain: u32, epoch: u32) -> Self {
        FrameHeader {
            body_len: 0,
            events: 0,
            first: next,
            durable,
            chain,
            body_crc: 0,
            epoch,
            flags,
            recorded_at_ns: 0,
            header_crc: 0,
        }
    }

    /// Length of the whole frame in bytes.
    pub(crate) fn frame_len(&self) -> u64 {
        u64::from(self.body_len) + disk_len(CONTROL_FRAME)
    }

    pub(crate) fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Position of the last event; for a control frame, the one before the next.
    pub(crate) fn last(&self) -> Position {
        self.first.plus(u64::from(self.events)).previous()
    }

    /// Writes header and trailer around a body that is already in `frame`, and sets both checksums.
    pub(crate) fn seal(&mut self, frame: &mut [u8], salt: u64) {
        let body_end = frame.len().saturating_sub(FRAME_TRAILER);
        let body = frame.get(FRAME_HEADER..body_end).unwrap_or_default();
        self.body_crc = body_crc(body, salt).map_or(0, |(crc, _)| crc);
        let mut header = [0; FRAME_HEADER];
        put(&mut header, 0, &MAGIC);
        put(&mut header, 8, &self.body_len.to_le_bytes());
        put(&mut header, 12, &self.events.to_le_bytes());
        put(&mut header, 16, &self.first.get().to_le_bytes());
        put(&mut header, 24, &self.durable.get().to_le_bytes());
        put(&mut header, 32, &self.chain.to_le_bytes());
        put(&mut header, 36, &self.body_crc.to_le_bytes());
        put(&mut header, 40, &self.epoch.to_le_bytes());
        put(&mut header, 44, &self.flags.to_le_bytes());
        put(&mut header, 48, &self.recorded_at_ns.to_le_bytes());
        put(&mut header, 63, &[LAST_BYTE]);
        self.header_crc = header_crc(&header, salt);
        put(&mut header, 4, &self.header_crc.to_le_bytes());
        put(frame, 0, &header);
        put(frame, body_end, &self.header_crc.to_le_bytes());
        put(frame, body_end + 4, &COMMIT_MARK);
    }

    /// Reads a header: magic, then checksum, then the fields.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Result<Self, FrameFault> {
        let header: [u8; FRAME_HEADER] = bytes_at(bytes, 0).ok_or(FrameFault::Length)?;
        if bytes_at(&header, 0) != Some(MAGIC) {
            return Err(FrameFault::Magic);
        }
        let crc = header_crc(&header, salt);
        if u32_at(&header, 4) != Some(crc) {
            return Err(FrameFault::HeaderCrc);
        }
        Self::fields(&header, crc).ok_or(FrameFault::Length)?.check(&header)
    }

    /// The same of a header that was verified before.
    pub(crate) fn decode_verified(bytes: &[u8]) -> Result<Self, FrameFault> {
        let header: [u8; FRAME_HEADER] = bytes_at(bytes, 0).ok_or(FrameFault::Length)?;
        let crc = u32_at(&header, 4).unwrap_or_default();
        Self::fields(&header, crc).ok_or(FrameFault::Length)?.check(&header)
    }

    fn fields(header: &[u8], header_crc: u32) -> Option<Self> {
        Some(FrameHeader {
            body_len: u32_at(header, 8)?,
            events: u32_at(header, 12)?,
            first: Position::new(u64_at(header, 16)?),
            durable: Position::new(u64_at(header, 24)?),
            chain: u32_at(header, 32)?,
            body_crc: u32_at(header, 36)?,
            epoch: u32_at(header, 40)?,
            flags: u32_at(header, 44)?,
            recorded_at_ns: u64_at(header, 48)?,
            header_crc,
        })
    }

    fn check(self, header: &[u8]) -> Result<Self, FrameFault> {
        let control = self.is(SEAL | CLEAN | WATERMARK);
        let body_len = memory_len(u64::from(self.body_len));
        let smallest = u64::from(self.events) * disk_len(record::RECORD_HEADER);
        let checks = [
            (self.flags & !(SEAL | CLEAN | WATERMARK | COMPRESSED) == 0, "flags"),
            (!self.is(COMPRESSED), "compressed bodies are reserved"),
            (control == (self.events == 0), "number of events"),
            (control == (self.body_len == 0), "length of the body"),
            (body_len <= MAX_BODY && body_len.is_multiple_of(ALIGN), "length of the body"),
            (u64::from(self.body_len) >= smallest, "length of the body"),
            (self.first > Position::START && self.durable < self.first, "position"),
            (header.get(56..63).is_some_and(is_zero) && header.last() == Some(&LAST_BYTE), "reserved bytes"),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            None => Ok(self),
            Some((_, what)) => Err(FrameFault::Field(what)),
        }
    }

    /// Checks the commit mark, `trailer` being the frame's last 8 bytes.
    pub(crate) fn check_trailer(&self, trailer: &[u8]) -> Result<(), FrameFault> {
        if u32_at(trailer, 0) == Some(self.header_crc) && bytes_at(trailer, 4) == Some(COMMIT_MARK) {
            Ok(())
        } else {
            Err(FrameFault::Trailer)
        }
    }

    /// Checks a whole body, every event of it, and hands each to `visit`.
    pub(crate) fn check_body(
        &self,
        body: &Bytes,
        salt: u64,
        mut visit: impl FnMut(RecordedEvent),
    ) -> Result<(), FrameFault> {
        match body_crc(body, salt) {
            Ok((crc, events)) if crc == self.body_crc && events == self.events => {}
            _ => return Err(FrameFault::BodyCrc),
        }
        let mut at = 0;
        for index in 0..self.events {
            let fault = |fault| FrameFault::Record(index, fault);
            let (_, padded) = record::length(body.get(at..).unwrap_or_default()).map_err(fault)?;
            visit(record::decode(body, at, self.slot(index, salt)).map_err(fault)?);
            at += padded;
        }
        Ok(())
    }

    /// Hands to `visit` the events of a damaged body that verify by themselves.
    pub(crate) fn salvage(&self, body: &Bytes, salt: u64, mut visit: impl FnMut(RecordedEvent)) {
        let mut at = 0;
        for index in 0..self.events {
            let Ok((_, padded)) = record::length(body.get(at..).unwrap_or_default()) else { break };
            if let Ok(event) = record::decode(body, at, self.slot(index, salt)) {
                visit(event);
            }
            at += padded;
        }
    }

    /// Where the record of the frame's event with this index is.
    pub(crate) fn slot(&self, index: u32, salt: u64) -> Slot {
        let position = self.first.plus(u64::from(index));
        Slot { salt, position, recorded_at_ns: self.recorded_at_ns, verified: false }
    }
}

/// The frame headers that verify and start in the first `within` bytes, with their offsets.
pub(crate) fn headers(bytes: &[u8], within: usize, salt: u64) -> impl Iterator<Item = (usize, FrameHeader)> {
    (0..within).step_by(ALIGN).filter_map(move |at| {
        let candidate = bytes.get(at..).filter(|rest| rest.starts_with(&MAGIC))?;
        FrameHeader::decode(candidate, salt).ok().map(|header| (at, header))
    })
}

fn header_crc(header: &[u8; FRAME_HEADER], salt: u64) -> u32 {
    let mut hasher = Hasher::new_with_initial(crc::with_number(0, salt));
    hasher.update(header.get(8..).unwrap_or_default());
    hasher.finalize()
}

/// The checksum over the records' lengths and checksums, and how many there are.
fn body_crc(body: &[u8], salt: u64) -> Result<(u32, u32), RecordFault> {
    let mut sum = crc::with_number(0, salt);
    let (mut rest, mut events) = (body, 0);
    while !rest.is_empty() {
        let (_, padded) = record::length(rest)?;
        sum = crc::with_number(sum, u64_at(rest, 0).unwrap_or_default());
        rest = rest.get(padded..).unwrap_or_default();
        events += 1;
    }
    Ok((if events == 0 { 0 } else { sum }, events))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::event::{Event, Version};

    const SALT: u64 = 7;

    fn frame() -> Vec<u8> {
        let mut bytes = vec![0; FRAME_HEADER];
        for n in 0..3u64 {
            let event = Event::raw("sold", vec![b'x'; 20]).tag("t").id(Uuid::from_u128(u128::from(n)));
            let len = record::check("s", &event).unwrap();
            let start = bytes.len();
            let crc = record::encode(&mut bytes, "s", &event, len);
            record::place(&mut bytes[start..], crc, SALT, Position::new(5 + n), Version::new(1 + n));
        }
        let body_len = u32::try_from(bytes.len() - FRAME_HEADER).unwrap();
        bytes.extend_from_slice(&[0; FRAME_TRAILER]);
        let mut header = FrameHeader::control(0, Position::new(5), Position::new(4), 99, 2);
        (header.body_len, header.events) = (body_len, 3);
        header.seal(&mut bytes, SALT);
        bytes
    }

    fn check(bytes: &[u8]) -> Result<Vec<RecordedEvent>, FrameFault> {
        let header = FrameHeader::decode(bytes, SALT)?;
        let body_end = FRAME_HEADER + usize::try_from(header.body_len).unwrap();
        header.check_trailer(bytes.get(body_end..).ok_or(FrameFault::Length)?)?;
        let mut events = Vec::new();
        let body = Bytes::copy_from_slice(&bytes[FRAME_HEADER..body_end]);
        header.check_body(&body, SALT, |event| events.push(event))?;
        Ok(events)
    }

    #[test]
    fn a_frame_comes_back_with_its_events() {
        let events = check(&frame()).unwrap();
        assert_eq!(events.iter().map(|e| e.position().get()).collect::<Vec<_>>(), [5, 6, 7]);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_found() {
        let good = frame();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_control_frame_has_no_body_and_never_starts_or_ends_with_zero() {
        let mut bytes = [0; CONTROL_FRAME];
        FrameHeader::control(SEAL, Position::new(8), Position::new(7), 3, 1).seal(&mut bytes, SALT);
        let header = FrameHeader::decode(&bytes, SALT).unwrap();
        assert!(header.is(SEAL) && header.last() == Position::new(7));
        assert!(header.check_trailer(&bytes[FRAME_HEADER..]).is_ok());
        assert!(bytes[0] != 0 && bytes[63] != 0 && bytes[CONTROL_FRAME - 1] != 0);
    }

    #[test]
    fn zeros_are_not_a_frame() {
        assert_eq!(FrameHeader::decode(&[0; 64], SALT), Err(FrameFault::Magic));
    }
}
