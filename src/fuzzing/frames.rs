//! Records, frames, and a segment that is gone through past any damage.

use bytes::Bytes;

use super::edits::{Input, edit_all, put};
use super::golden;
use crate::event::{Event, Position, RecordedEvent, Version};
use crate::log::frame::{self, CONTROL_FRAME, FRAME_HEADER, FRAME_TRAILER, FrameHeader};
use crate::log::layout::{disk_len, field_len, memory_len, u32_at, u64_at};
use crate::log::record::{self, RECORD_HEADER, Slot};
use crate::log::scan::{Scanned, SegmentScan};
use crate::log::segment_header::{SEGMENT_HEADER, SegmentHeader};
use crate::log::walk::Walk;
use crate::log::window::Window;

/// Salt, position, record.
pub(super) fn record(input: &[u8]) {
    let mut input = Input::new(input);
    let (salt, position) = (input.number(), Position::new(input.number()));
    let slot = Slot { salt, position, recorded_at_ns: 9, verified: false };
    let mut bytes = input.rest().to_vec();
    check_record(&bytes, slot);
    fix_record(&mut bytes, salt, position);
    check_record(&bytes, slot);
}

fn check_record(bytes: &[u8], slot: Slot) {
    let shared = Bytes::copy_from_slice(bytes);
    let unverified = record::decode(&shared, 0, Slot { verified: true, ..slot });
    if let Ok(event) = &unverified {
        look_at(event, bytes.len());
    }
    let Ok(event) = record::decode(&shared, 0, slot) else { return };
    assert_eq!(event.position(), slot.position);
    assert!(unverified.is_ok_and(|same| is_same(&same, &event)), "verified or not, it is the same event");
    let encoded = encode(&event, slot.salt);
    assert_eq!(
        bytes.get(..encoded.len()),
        Some(encoded.as_slice()),
        "what decodes encodes to the same bytes"
    );
}

/// Asks an event for everything: no more than what its record has.
pub(super) fn look_at(event: &RecordedEvent, room: usize) -> usize {
    let tags: usize = event.tags().map(|tag| tag.len() + 2).sum();
    let names = event.stream().len() + event.event_type().len() + tags;
    let len = RECORD_HEADER + names + event.metadata().map_or(0, <[u8]>::len) + event.payload().len();
    assert!(len <= room.max(RECORD_HEADER), "an event has more than its record");
    let _any: Result<serde_json::Value, _> = event.decode();
    let _seen = (event.event_id(), event.version(), event.recorded_at(), event.encoding());
    len
}

pub(super) fn is_same(a: &RecordedEvent, b: &RecordedEvent) -> bool {
    (a.position(), a.stream(), a.version(), a.event_id())
        == (b.position(), b.stream(), b.version(), b.event_id())
        && (a.event_type(), a.payload(), a.metadata()) == (b.event_type(), b.payload(), b.metadata())
        && a.tags().eq(b.tags())
        && (a.encoding(), a.recorded_at_ns()) == (b.encoding(), b.recorded_at_ns())
}

/// The record of an event at its place.
fn encode(event: &RecordedEvent, salt: u64) -> Vec<u8> {
    let same = Event::raw(event.event_type(), event.payload()).id(event.event_id());
    let same = event.tags().fold(same, |same, tag| same.tag(tag));
    let same = match event.metadata() {
        Some(metadata) => same.metadata(metadata),
        None => same,
    };
    let len = record::check(event.stream(), &same);
    assert!(len.is_ok(), "what was decoded could have been appended");
    let mut bytes = Vec::new();
    record::encode(&mut bytes, event.stream(), &same, len.unwrap_or_default());
    put(&mut bytes, crate::event::field::ENCODING, &[event.encoding().code()]);
    put(&mut bytes, crate::event::field::VERSION, &event.version().get().to_le_bytes());
    fix_record(&mut bytes, salt, event.position());
    bytes
}

/// Makes the checksum of the record that starts the bytes right.
fn fix_record(bytes: &mut [u8], salt: u64, position: Position) {
    let Ok((len, _)) = record::length(bytes) else { return };
    let version = Version::new(u64_at(bytes, 8).unwrap_or_default());
    let partial = crc32fast::hash(bytes.get(16..len).unwrap_or_default());
    record::place(bytes, partial, salt, position, version);
}

/// Flags, salt, frame. With the first flag the header is given the shape of the body that is there.
pub(super) fn frame(input: &[u8]) {
    let mut input = Input::new(input);
    let (flags, salt) = (input.byte(), input.number());
    let mut bytes = input.rest().to_vec();
    check_frame(&bytes, salt);
    if flags & 1 == 1 {
        shape(&mut bytes);
    }
    fix_frame(&mut bytes, salt, None);
    check_frame(&bytes, salt);
    for (at, header) in frame::headers(&bytes, bytes.len(), salt) {
        assert_eq!(FrameHeader::decode(bytes.get(at..).unwrap_or_default(), salt), Ok(header));
    }
}

fn check_frame(bytes: &[u8], salt: u64) {
    let Ok(header) = FrameHeader::decode(bytes, salt) else { return };
    assert_eq!(FrameHeader::decode_verified(bytes), Ok(header));
    let frame_len = memory_len(header.frame_len());
    let Some(whole) = bytes.get(..frame_len) else { return };
    let (rest, trailer) = whole.split_at(frame_len - FRAME_TRAILER);
    let body = Bytes::copy_from_slice(rest.get(FRAME_HEADER..).unwrap_or_default());
    let mut saved = 0;
    header.salvage(&body, salt, |event| saved += look_at(&event, body.len()));
    assert!(saved <= body.len(), "the events of a body are no longer than it");
    let mut events = Vec::new();
    let checked = header
        .check_trailer(trailer)
        .and_then(|()| header.check_body(&body, salt, |event| events.push(event)));
    if let Err(fault) = checked {
        assert!(fault.position(header.first) >= header.first);
        return;
    }
    assert_eq!(events.len(), memory_len(header.events.into()));
    assert!(events.iter().zip(0..).all(|(event, n)| event.position() == header.first.plus(n)));
    let (mut again, mut encoded) = (header, vec![0; frame_len]);
    let records: Vec<u8> = events.iter().flat_map(|event| encode(event, salt)).collect();
    put(&mut encoded, FRAME_HEADER, &records);
    again.seal(&mut encoded, salt);
    assert_eq!(again, header);
    assert_eq!(encoded, whole, "what decodes encodes to the same bytes");
}

/// Gives a frame's header the lengths of what is there, and what it must have everywhere.
fn shape(bytes: &mut [u8]) {
    let Some(body) = bytes.len().checked_sub(CONTROL_FRAME).map(|len| len / 8 * 8) else { return };
    let (mut at, mut events) = (0, 0u32);
    while at < body {
        let record = bytes.get(FRAME_HEADER + at..FRAME_HEADER + body).unwrap_or_default();
        let Ok((_, padded)) = record::length(record) else { break };
        at += padded;
        events += 1;
    }
    put(bytes, 8, &field_len(at).to_le_bytes());
    put(bytes, 12, &events.to_le_bytes());
    let flags = u32_at(bytes, 44).unwrap_or_default() & 7;
    put(bytes, 44, &if at == 0 { flags | 1 } else { 0 }.to_le_bytes());
    put(bytes, 56, &[0, 0, 0, 0, 0, 0, 0, 0x5A]);
}

/// Makes the checksums of the frame that starts the bytes right, and its chain value if one is given. Returns its
/// length and its own chain value.
pub(super) fn fix_frame(bytes: &mut [u8], salt: u64, chain: Option<u32>) -> Option<(usize, u32)> {
    put(bytes, 0, b"FRM1");
    let mut header = FrameHeader::decode_verified(bytes).ok()?;
    header.chain = chain.unwrap_or(header.chain);
    let frame = bytes.get_mut(..memory_len(header.frame_len()))?;
    let mut at = FRAME_HEADER;
    let end = frame.len() - FRAME_TRAILER;
    for n in 0..header.events {
        let Some(rest) = frame.get_mut(at..end) else { break };
        fix_record(rest, salt, header.first.plus(n.into()));
        let Ok((_, padded)) = record::length(rest) else { break };
        at += padded;
    }
    header.seal(frame, salt);
    Some((frame.len(), header.header_crc))
}

/// Makes the checksums and chain values of a segment's frames right, up to the first that has no shape of one. Returns
/// where that is, and the chain value there.
pub(super) fn fix_segment(bytes: &mut [u8]) -> Option<(usize, u32)> {
    let header = SegmentHeader::decode(bytes).ok()?;
    let (mut at, mut chain) = (SEGMENT_HEADER, header.chain);
    while let Some(rest) = bytes.get_mut(at..) {
        if rest.iter().take(FRAME_HEADER).all(|byte| *byte == 0) {
            break;
        }
        let Some((len, next)) = fix_frame(rest, header.salt, Some(chain)) else { break };
        (at, chain) = (at + len, next);
    }
    Some((at, chain))
}

/// Flags, and edits of a good segment behind its header. With the first flag it is a sealed one, with the second its
/// checksums are made right.
pub(super) fn segment(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let good = if flags & 1 == 1 { golden::SEALED } else { golden::SEGMENT };
    let (page, frames) = good.split_at(SEGMENT_HEADER);
    let mut frames = frames.to_vec();
    edit_all(&mut frames, &mut input);
    let mut bytes = [page, &frames].concat();
    if flags & 2 == 2 {
        fix_segment(&mut bytes);
    }
    let Ok(header) = SegmentHeader::decode(&bytes) else { return };
    let next = (flags & 1 == 1).then(|| Position::new(81));
    let served = scan(&bytes, &header, next);
    if flags & 2 == 0 {
        let whole = scan(good, &header, next);
        let known = |event: &RecordedEvent| whole.iter().any(|good| is_same(good, event));
        assert!(served.iter().all(known), "damage is no event");
    }
}

/// The events that a scan finds. It ends, goes forward, and names each position once.
fn scan(bytes: &[u8], header: &SegmentHeader, next: Option<Position>) -> Vec<RecordedEvent> {
    let window = Window::mapped(Bytes::copy_from_slice(bytes));
    let mut scan = SegmentScan::new(Walk::new(window, header), "segment", next);
    let (mut served, mut from, mut last) = (Vec::new(), 0, Position::START);
    while let Ok(Some(found)) = scan.next() {
        let offset = match &found {
            Scanned::Frame { offset, header } => {
                assert!(last < header.first, "no position comes twice");
                last = header.last();
                assert!(offset + header.frame_len() <= disk_len(bytes.len()), "a frame ends in its file");
                assert_eq!(scan.events().len(), memory_len(header.events.into()));
                *offset
            }
            Scanned::Damage { corruption, .. } => corruption.offset,
        };
        assert!(offset >= from, "a scan goes forward");
        from = offset + u64::from(matches!(found, Scanned::Frame { .. }));
        served.extend_from_slice(scan.events());
        assert!(served.len() <= bytes.len() / RECORD_HEADER, "there is room for each event");
    }
    for event in &served {
        look_at(event, bytes.len());
    }
    served
}
