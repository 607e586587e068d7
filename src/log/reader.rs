//! Reads single events by position, keeping the frame it is in, so that neighbours cost little.

use std::io;
use std::sync::Arc;

use super::catalog::Catalog;
use super::frame::{FRAME_HEADER, FrameFault, FrameHeader};
use super::layout::{disk_len, memory_len};
use super::record::{self, RECORD_HEADER, RecordFault, Slot};
use super::segment::Segment;
use super::window::Window;
use crate::error::{Corruption, Damage, Error};
use crate::event::{Position, RecordedEvent};

/// Every event handed out was checked: its frame's header, and its own bytes, by their checksums. A mapped segment is
/// checked once in each opening: what a reader verified from the segment's start on, is not summed again.
#[derive(Debug)]
pub(crate) struct Reader {
    catalog: Arc<Catalog>,
    ahead: usize,
    current: Option<Current>,
}

/// Where an event's record is, and the frame that it is in: offsets from the start of their segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) frame: u64,
    pub(crate) record: u64,
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
    #[inline]
    pub(crate) fn event(&mut self, position: Position) -> Result<RecordedEvent, Error> {
        let is_next = |current: &Current| {
            current.frame.as_ref().is_some_and(|frame| frame.next == position && frame.holds(position))
        };
        if !self.current.as_ref().is_some_and(is_next) {
            self.seek(position)?;
        }
        self.current.as_mut().ok_or_else(|| missing(position))?.take(position)
    }

    /// The event at a position, read at a spot that somebody noted. A wrong spot costs time: the event is then found
    /// without it.
    pub(crate) fn event_at(&mut self, position: Position, spot: Spot) -> Result<RecordedEvent, Error> {
        self.enter(position)?;
        let current = self.current.as_mut().ok_or_else(|| missing(position))?;
        if current.go_to(position, spot)
            && let Ok(event) = current.take(position)
        {
            return Ok(event);
        }
        current.frame = None;
        self.event(position)
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
        self.current.as_mut().ok_or_else(|| missing(position))?.find(position)
    }

    /// Makes the segment that holds a position the current one.
    fn enter(&mut self, position: Position) -> Result<(), Error> {
        let segment = self.catalog.segment_with(position).ok_or_else(|| missing(position))?;
        if !self.current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.segment, &segment)) {
            let window =
                segment.window(self.catalog.storage.as_ref(), self.catalog.map_segments, self.ahead)?;
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

    /// Goes to a noted spot; false when the position cannot be there.
    fn go_to(&mut self, position: Position, spot: Spot) -> bool {
        if self.frame.as_ref().is_none_or(|frame| frame.offset != spot.frame) {
            let Ok(Ok(frame)) = self.open(spot.frame, false) else { return false };
            self.frame = Some(frame);
        }
        let Some(frame) = self.frame.as_mut().filter(|frame| frame.holds(position)) else { return false };
        // The record's sum is what tells that it is this position's.
        (frame.next, frame.at, frame.verified, frame.whole) = (position, spot.record, false, false);
        frame.at >= frame.body()
    }

    /// Makes the record of a position the next one, from the last place on that is known.
    fn find(&mut self, position: Position) -> Result<(), Error> {
        let before = self.frame.take().filter(|frame| frame.header.last().next() == position);
        let mut follows = before.is_some();
        let mut offset = before.map_or_else(|| self.segment.offset_before(position), |frame| frame.end());
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
    fn take(&mut self, position: Position) -> Result<RecordedEvent, Error> {
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
        if frame.next > frame.header.last() && frame.whole && !frame.verified && self.window.is_mapped() {
            self.segment.note_verified(frame.offset, frame.end());
        }
        Ok(event)
    }
}

/// The next record of a frame, and how long it is with its padding.
#[inline]
fn read(
    window: &mut Window,
    frame: &OpenFrame,
    salt: u64,
) -> io::Result<Result<(RecordedEvent, usize), RecordFault>> {
    let padded = match next_len(window, frame)? {
        Ok(padded) => padded,
        Err(fault) => return Ok(Err(fault)),
    };
    let Some((buffer, at)) = window.find(frame.at, padded)? else { return Ok(Err(RecordFault::Length)) };
    let slot = Slot { verified: frame.verified, ..frame.header.slot(frame.index(), salt) };
    Ok(record::decode(buffer, at, slot).map(|event| (event, padded)))
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
