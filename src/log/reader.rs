//! Reads single events by position, keeping the frame it is in, so that neighbours cost little.

use std::io;
use std::sync::Arc;

use super::catalog::Catalog;
use super::frame::{FRAME_HEADER, FrameFault, FrameHeader};
use super::index::Place;
use super::layout::{disk_len, memory_len};
use super::record::{self, RECORD_HEADER, RecordFault, Slot};
use super::segment::Segment;
use super::segment_header::SEGMENT_HEADER;
use super::window::Window;
use crate::error::{Corruption, Damage, Error};
use crate::event::{EventAt, Position, RecordedEvent};

/// Every event handed out was checked: its frame's header, and its own bytes, by their checksums. A mapped segment is
/// checked once in each opening: what a reader verified from the segment's start on, is not summed again.
#[derive(Debug)]
pub(crate) struct Reader {
    catalog: Arc<Catalog>,
    ahead: usize,
    current: Option<Current>,
}

/// The segment being read, and the frame in it.
#[derive(Debug)]
struct Current {
    segment: Arc<Segment>,
    window: Window,
    frame: Option<OpenFrame>,
    /// Where records start in the frame that was last read backwards; kept for its memory.
    starts: Vec<u64>,
}

#[derive(Debug)]
struct OpenFrame {
    offset: u64,
    header: FrameHeader,
    /// The record to read next, and where it starts.
    next: Position,
    at: u64,
    /// The frame was verified by somebody: its records need no sums.
    verified: bool,
    /// Every record before the next was read, so that after the last one the frame is verified.
    whole: bool,
    /// The list of starts is of this frame.
    listed: bool,
}

impl OpenFrame {
    fn new(offset: u64, header: FrameHeader, verified: bool) -> Self {
        let (next, at) = (header.first, offset + disk_len(FRAME_HEADER));
        OpenFrame { offset, header, next, at, verified, whole: true, listed: false }
    }

    fn holds(&self, position: Position) -> bool {
        (self.header.first..=self.header.last()).contains(&position)
    }

    fn end(&self) -> u64 {
        self.offset + self.header.frame_len()
    }

    fn body(&self) -> u64 {
        self.offset + disk_len(FRAME_HEADER)
    }

    /// How much of the body is left for the next record.
    fn room(&self) -> usize {
        memory_len((self.body() + u64::from(self.header.body_len)).saturating_sub(self.at))
    }

    fn index(&self) -> u32 {
        u32::try_from(self.next.get().saturating_sub(self.header.first.get())).unwrap_or(u32::MAX)
    }

    fn passed(&mut self, record_len: usize) {
        self.next = self.next.next();
        self.at += disk_len(record_len);
    }
}

impl Reader {
    /// A reader that asks the disk for `ahead` bytes at a time where a segment is not mapped.
    pub(crate) fn new(catalog: Arc<Catalog>, ahead: usize) -> Self {
        Reader { catalog, ahead, current: None }
    }

    /// The event at a position, which the watermark has reached.
    pub(crate) fn event(&mut self, position: Position) -> Result<RecordedEvent, Error> {
        self.read(position).map(EventAt::event)
    }

    /// The same, and leaves the event where it is.
    #[inline]
    pub(crate) fn read(&mut self, position: Position) -> Result<EventAt<'_>, Error> {
        let is_next = |current: &Current| {
            current.frame.as_ref().is_some_and(|frame| frame.next == position && frame.holds(position))
        };
        if !self.current.as_ref().is_some_and(is_next) {
            self.seek(position)?;
        }
        self.current.as_mut().ok_or_else(|| missing(position))?.take(position)
    }

    /// Makes the record of a position the next one.
    #[cold]
    fn seek(&mut self, position: Position) -> Result<(), Error> {
        if let Some(current) = &mut self.current
            && (current.go_on(position) || current.go_within(position)?)
        {
            return Ok(());
        }
        self.enter(position)?;
        self.current.as_mut().ok_or_else(|| missing(position))?.find(&self.catalog, position)
    }

    /// Makes the segment that holds a position the current one.
    fn enter(&mut self, position: Position) -> Result<(), Error> {
        let segment = self.catalog.segment_with(position).ok_or_else(|| missing(position))?;
        if !self.current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.segment, &segment)) {
            let window = segment.window(
                self.catalog.storage.as_ref(),
                self.catalog.reading.map_segments,
                self.ahead,
            )?;
            self.current = Some(Current { segment, window, frame: None, starts: Vec::new() });
        }
        Ok(())
    }
}

impl Current {
    /// Opens the frame after this one, when it starts with this position. Whatever else is there, [`Current::find`]
    /// looks into.
    fn go_on(&mut self, position: Position) -> bool {
        let before = self.frame.as_ref().filter(|frame| frame.header.last().next() == position);
        let Some(offset) = before.map(OpenFrame::end) else { return false };
        match self.open(offset, true) {
            Ok(Ok(frame)) if frame.holds(position) && frame.next == position => {
                self.frame = Some(frame);
                true
            }
            _ => false,
        }
    }

    /// Goes to another record of the open frame, if it is in there.
    fn go_within(&mut self, position: Position) -> Result<bool, Error> {
        let Some(frame) = self.frame.as_mut().filter(|frame| frame.holds(position)) else {
            return Ok(false);
        };
        let io = |e| self.segment.fault("read", e);
        frame.whole &= position == frame.next;
        if position < frame.next {
            if !frame.listed {
                list_starts(&mut self.window, frame, &mut self.starts).map_err(io)?;
            }
            let index = memory_len(position.get().saturating_sub(frame.header.first.get()));
            if let Some(at) = self.starts.get(index) {
                (frame.next, frame.at) = (position, *at);
            }
        }
        while frame.next < position {
            if !skip(&mut self.window, frame).map_err(io)? {
                return Err(damaged(&self.segment, frame.offset, position, &FrameFault::BodyCrc));
            }
        }
        Ok(true)
    }

    /// Goes to where the index says that the record is; false when the position cannot be there.
    fn go_to(&mut self, position: Position, spot: Place) -> bool {
        if self.frame.as_ref().is_none_or(|frame| frame.offset != spot.frame) {
            let Ok(Ok(frame)) = self.open(spot.frame, false) else { return false };
            self.frame = Some(frame);
        }
        let Some(frame) = self.frame.as_mut().filter(|frame| frame.holds(position)) else { return false };
        // The record's sum is what tells that it is this position's.
        (frame.next, frame.at, frame.verified, frame.whole) = (position, spot.record, false, false);
        frame.at >= frame.body()
    }

    /// Makes the record of a position the next one: after the last frame, at the segment's start, or where the index says.
    fn find(&mut self, catalog: &Catalog, position: Position) -> Result<(), Error> {
        let before = self.frame.as_ref().filter(|frame| frame.header.last().next() == position);
        let mut follows = before.is_some();
        let mut offset = match before.map(OpenFrame::end) {
            Some(end) => end,
            None if position == self.segment.header.first => disk_len(SEGMENT_HEADER),
            None => {
                let place = catalog.place(&self.segment, position)?;
                if self.go_to(position, place) {
                    return Ok(());
                }
                place.frame
            }
        };
        self.frame = None;
        loop {
            let frame = self.open(offset, follows).map_err(|e| self.segment.fault("read", e))?;
            let frame = frame.map_err(|fault| damaged(&self.segment, offset, position, &fault))?;
            if frame.header.first > position {
                let fault = FrameFault::Stale("a later position follows");
                return Err(damaged(&self.segment, offset, position, &fault));
            }
            if frame.holds(position) {
                self.frame = Some(frame);
                return self.go_within(position).map(drop);
            }
            if frame.header.events == 0 && self.window.is_mapped() {
                self.segment.note_verified(offset, frame.end());
            }
            (offset, follows) = (frame.end(), true);
        }
    }

    /// Reads a frame's header. One that follows a frame which was looked at needs no sum if it was verified before.
    fn open(&mut self, offset: u64, follows: bool) -> io::Result<Result<OpenFrame, FrameFault>> {
        let mapped = self.window.is_mapped();
        let Some((buffer, at)) = self.window.find(offset, FRAME_HEADER)? else {
            return Ok(Err(FrameFault::Length));
        };
        let bytes = buffer.get(at..).unwrap_or_default();
        let known = mapped && self.segment.is_verified(offset.saturating_add(1));
        let decoded = match known && follows {
            true => FrameHeader::decode_verified(bytes),
            false => FrameHeader::decode(bytes, self.segment.header.salt),
        };
        Ok(decoded.and_then(|header| {
            let frame = OpenFrame::new(offset, header, known);
            if frame.end() <= self.window.len() { Ok(frame) } else { Err(FrameFault::Length) }
        }))
    }

    /// Reads the next record of the open frame.
    #[inline]
    fn take(&mut self, position: Position) -> Result<EventAt<'_>, Error> {
        let mapped = self.window.is_mapped();
        let frame = self.frame.as_mut().ok_or_else(|| missing(position))?;
        let event = read(&mut self.window, frame, self.segment.header.salt);
        let (event, len) = match event {
            Ok(Ok(read)) => read,
            Ok(Err(fault)) => {
                let fault = FrameFault::Record(frame.index(), fault);
                return Err(damaged(&self.segment, frame.offset, position, &fault));
            }
            Err(e) => return Err(self.segment.fault("read", e)),
        };
        frame.passed(len);
        if frame.next > frame.header.last() && frame.whole && !frame.verified && mapped {
            self.segment.note_verified(frame.offset, frame.end());
        }
        Ok(event)
    }
}

/// The next record of a frame, and how long it is with its padding.
#[inline]
fn read<'a>(
    window: &'a mut Window,
    frame: &OpenFrame,
    salt: u64,
) -> io::Result<Result<(EventAt<'a>, usize), RecordFault>> {
    let padded = match next_len(window, frame)? {
        Ok(padded) => padded,
        Err(fault) => return Ok(Err(fault)),
    };
    let Some((buffer, at)) = window.find(frame.at, padded)? else { return Ok(Err(RecordFault::Length)) };
    let slot = Slot { verified: frame.verified, ..frame.header.slot(frame.index(), salt) };
    Ok(record::read(buffer, at, slot).map(|event| (event, padded)))
}

/// The length, with padding, of the next record of a frame.
#[inline]
fn next_len(window: &mut Window, frame: &OpenFrame) -> io::Result<Result<usize, RecordFault>> {
    let Some((buffer, at)) = window.find(frame.at, RECORD_HEADER)? else {
        return Ok(Err(RecordFault::Length));
    };
    let len = record::length_within(buffer.get(at..).unwrap_or_default(), frame.room());
    Ok(len.map(|(_, padded)| padded))
}

/// Passes over the next record of a frame without looking into it; false where no record can be.
fn skip(window: &mut Window, frame: &mut OpenFrame) -> io::Result<bool> {
    let len = next_len(window, frame)?;
    len.iter().for_each(|len| frame.passed(*len));
    Ok(len.is_ok())
}

/// Notes where the records of a frame start, up to the last one or to damage, and stays there.
fn list_starts(window: &mut Window, frame: &mut OpenFrame, starts: &mut Vec<u64>) -> io::Result<()> {
    starts.clear();
    (frame.next, frame.at, frame.listed) = (frame.header.first, frame.body(), true);
    starts.push(frame.at);
    while frame.next < frame.header.last() && skip(window, frame)? {
        starts.push(frame.at);
    }
    Ok(())
}

fn damaged(segment: &Segment, offset: u64, position: Position, fault: &FrameFault) -> Error {
    Corruption {
        file: segment.name.clone(),
        offset,
        position: Some(position),
        damage: Damage::CorruptAcknowledged,
        detail: fault.to_string(),
    }
    .into()
}

fn missing(position: Position) -> Error {
    Error::invalid(format!("there is no event at position {position}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Durability};
    use crate::event::Event;
    use crate::log::Log;
    use crate::log::frame::CONTROL_FRAME;
    use crate::options::{MIN_SEGMENT_BYTES, Options};
    use crate::storage::memory::MemoryStorage;

    const EVENTS: u64 = 400;

    fn payload(position: u64) -> Vec<u8> {
        let len = usize::try_from(position * 7 % 90).unwrap();
        vec![u8::try_from(position % 251).unwrap(); len]
    }

    /// Some sealed segments and an active one, of frames with one to eleven events.
    fn log(map: bool) -> Log {
        let options = Options::new().segment_size(MIN_SEGMENT_BYTES).map_segments(map);
        let log = Log::open(Arc::new(MemoryStorage::new()), &options).unwrap();
        let (mut next, mut size) = (1, 1);
        while next <= EVENTS {
            let until = (next + size).min(EVENTS + 1);
            let batch = (next..until)
                .fold(Batch::new().durability(Durability::Written), |batch, position| {
                    batch.event("s", Event::raw("t", payload(position)).tag("x"))
                });
            log.append(&batch).unwrap();
            (next, size) = (until, size % 11 + 1);
        }
        log.sync().unwrap();
        log
    }

    fn reader(log: &Log) -> Reader {
        Reader::new(log.catalog.clone(), 512)
    }

    fn check(event: &RecordedEvent, position: u64) {
        assert_eq!(event.position(), Position::new(position));
        assert_eq!(event.payload(), payload(position));
    }

    fn segments(log: &Log) -> Vec<Arc<Segment>> {
        let mut all: Vec<_> =
            (1..=EVENTS).filter_map(|n| log.catalog.segment_with(Position::new(n))).collect();
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        all
    }

    #[test]
    fn events_are_found_in_every_order_whether_verified_before_or_not() {
        for map in [true, false] {
            let log = log(map);
            for _ in 0..2 {
                let mut reader = reader(&log);
                let strided = (0..3000).map(|n| n * 149 % EVENTS + 1);
                let within = (1..EVENTS - 4).flat_map(|n| [n + 3, n, n + 4, n + 1]);
                for position in (1..=EVENTS).rev().chain(strided).chain(within).chain(1..=EVENTS) {
                    check(&reader.event(Position::new(position)).unwrap(), position);
                }
            }
        }
    }

    #[test]
    fn a_forward_read_verifies_mapped_sealed_segments_and_no_other_read_does() {
        let log = log(true);
        let verified = || {
            let end = |s: &Segment| s.sealed().map(|sealed| sealed.len - disk_len(CONTROL_FRAME));
            segments(&log).iter().filter(|s| end(s).is_some_and(|end| s.is_verified(end))).count()
        };
        let sealed = segments(&log).len() - 1;
        assert!(sealed > 5);
        let mut backward = reader(&log);
        (1..=EVENTS).rev().for_each(|n| drop(backward.event(Position::new(n)).unwrap()));
        let mut with_gaps = reader(&log);
        (1..=EVENTS).filter(|n| n % 12 != 0).for_each(|n| drop(with_gaps.event(Position::new(n)).unwrap()));
        assert_eq!(verified(), 0);
        let mut forward = reader(&log);
        (1..=EVENTS).for_each(|n| drop(forward.event(Position::new(n)).unwrap()));
        assert_eq!(verified(), sealed);
        assert!(!segments(&log).last().unwrap().is_verified(disk_len(SEGMENT_HEADER) + 1));
    }

    #[test]
    fn events_of_mapped_segments_are_lent_and_those_of_buffers_stay_as_they_are() {
        let log = log(true);
        let all = |log: &Log| {
            let mut reader = reader(log);
            (1..=EVENTS).map(|n| reader.event(Position::new(n)).unwrap()).collect::<Vec<_>>()
        };
        let (once, again) = (all(&log), all(&log));
        let active = segments(&log).last().unwrap().header.first;
        for (one, other) in once.iter().zip(&again).filter(|(one, _)| one.position() < active) {
            assert_eq!(one.payload().as_ptr_range(), other.payload().as_ptr_range());
        }
        once.iter().zip(1..).for_each(|(event, position)| check(event, position));
    }
}
