//! Goes through a segment frame by frame, checking everything, and finds the next good frame after a bad one.

use std::io;

use bytes::Bytes;

use super::frame::{self, CONTROL_FRAME, FRAME_HEADER, FRAME_TRAILER, FrameFault, FrameHeader};
use super::layout::{ALIGN, disk_len, is_zero, memory_len};
use super::segment_header::{SEGMENT_HEADER, SegmentHeader};
use super::window::Window;
use crate::event::{Position, RecordedEvent};

/// Between two frames: where the next one starts and what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    /// Position of the next event.
    pub(crate) next: Position,
    pub(crate) chain: u32,
    /// The last frame's; the next one's is not lower.
    pub(crate) epoch: u32,
    /// The last frame's.
    pub(crate) flags: u32,
}

impl Place {
    /// Before a segment's first frame.
    pub(crate) fn start(header: &SegmentHeader) -> Self {
        Place {
            offset: disk_len(SEGMENT_HEADER),
            next: header.first,
            chain: header.chain,
            epoch: 0,
            flags: 0,
        }
    }

    /// After a frame.
    pub(crate) fn after(self, header: &FrameHeader) -> Self {
        Place {
            offset: self.offset + header.frame_len(),
            next: header.last().next(),
            chain: header.header_crc,
            epoch: header.epoch,
            flags: header.flags,
        }
    }
}

/// What a step found.
#[derive(Debug)]
pub(crate) enum Step {
    /// A frame that verifies and follows from the one before; its events are in [`Walk::events`].
    Frame { offset: u64, header: FrameHeader },
    /// Bytes that are not that.
    Bad(FrameFault),
    /// Zeros, or no room for a frame: nothing was written here.
    End,
}

/// What lies beyond a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// Where the last non-zero byte ends.
    pub(crate) written_end: Option<u64>,
    /// The frame header with the highest durable position, and that position.
    pub(crate) witness: Option<(u64, Position)>,
}

#[derive(Debug)]
pub(crate) struct Walk {
    window: Window,
    salt: u64,
    place: Place,
    events: Vec<RecordedEvent>,
}

impl Walk {
    pub(crate) fn new(window: Window, header: &SegmentHeader) -> Self {
        Walk { window, salt: header.salt, place: Place::start(header), events: Vec::new() }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The events of the frame that the last step found.
    pub(crate) fn events(&self) -> &[RecordedEvent] {
        &self.events
    }

    pub(crate) fn step(&mut self) -> io::Result<Step> {
        self.events.clear();
        let offset = self.place.offset;
        match self.window.get(offset, CONTROL_FRAME)? {
            None => return Ok(Step::End),
            Some(bytes) if bytes.get(..FRAME_HEADER).is_none_or(is_zero) => return Ok(Step::End),
            Some(_) => {}
        }
        match self.check_frame(offset)? {
            Ok(header) => {
                self.place = self.place.after(&header);
                Ok(Step::Frame { offset, header })
            }
            Err(fault) => {
                self.events.clear();
                Ok(Step::Bad(fault))
            }
        }
    }

    fn check_frame(&mut self, offset: u64) -> io::Result<Result<FrameHeader, FrameFault>> {
        let header = match self.header_at(offset)? {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        if let Some(what) = self.discontinuity(&header) {
            return Ok(Err(FrameFault::Stale(what)));
        }
        let Some((body, trailer)) = self.body_at(offset, &header)? else {
            return Ok(Err(FrameFault::Length));
        };
        let events = &mut self.events;
        let checked = header
            .check_trailer(&trailer)
            .and_then(|()| header.check_body(&body, self.salt, |event| events.push(event)));
        Ok(checked.map(|()| header))
    }

    fn discontinuity(&self, header: &FrameHeader) -> Option<&'static str> {
        let Place { next, chain, epoch, .. } = self.place;
        [
            (header.chain != chain, "its chain value is another"),
            (header.first != next, "its first position is another"),
            (header.epoch < epoch, "it was written by an earlier opening"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }

    /// The frame header at an offset, whatever came before it.
    pub(crate) fn header_at(&mut self, offset: u64) -> io::Result<Result<FrameHeader, FrameFault>> {
        Ok(match self.window.get(offset, FRAME_HEADER)? {
            Some(bytes) => FrameHeader::decode(&bytes, self.salt),
            None => Err(FrameFault::Length),
        })
    }

    /// A frame's body and trailer; `None` when they do not fit.
    fn body_at(&mut self, offset: u64, header: &FrameHeader) -> io::Result<Option<(Bytes, Bytes)>> {
        let len = memory_len(u64::from(header.body_len));
        let start = offset + disk_len(FRAME_HEADER);
        let whole = self.window.get(start, len.saturating_add(FRAME_TRAILER))?;
        Ok(whole.map(|whole| (whole.slice(..len), whole.slice(len..))))
    }

    /// Makes those events of a frame the current ones that verify by themselves, whatever is wrong with the rest, and also
    /// where the file ends in the middle of it.
    pub(crate) fn salvage(&mut self, offset: u64) -> io::Result<()> {
        self.events.clear();
        let Ok(header) = self.header_at(offset)? else { return Ok(()) };
        let start = offset + disk_len(FRAME_HEADER);
        let there = u64::from(header.body_len).min(self.window.len().saturating_sub(start));
        if let Some(body) = self.window.get(start, memory_len(there))? {
            let events = &mut self.events;
            header.salvage(&body, self.salt, |event| events.push(event));
        }
        Ok(())
    }

    /// Goes on at the next frame header that verifies and is of a later position; false when there is none.
    pub(crate) fn resync(&mut self) -> io::Result<bool> {
        let Place { offset, next, .. } = self.place;
        let after_this = match self.header_at(offset)? {
            Ok(header) if header.first == next && offset + header.frame_len() <= self.window.len() => {
                offset + header.frame_len()
            }
            _ => offset + disk_len(ALIGN),
        };
        let found = self.find_header(after_this, |header| header.first >= next)?;
        if let Some((offset, header)) = found {
            self.place =
                Place { offset, next: header.first, chain: header.chain, epoch: header.epoch, flags: 0 };
        }
        Ok(found.is_some())
    }

    fn find_header(
        &mut self,
        from: u64,
        mut wanted: impl FnMut(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let salt = self.salt;
        let mut found = None;
        self.pieces(from, |at, piece, in_piece| {
            if found.is_none() {
                found = frame::headers(piece, in_piece, salt)
                    .find(|(_, header)| wanted(header))
                    .map(|(offset, header)| (at + disk_len(offset), header));
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// Looks at everything from the place to the end of the file.
    pub(crate) fn beyond(&mut self) -> io::Result<Beyond> {
        let salt = self.salt;
        let mut beyond = Beyond::default();
        self.pieces(self.place.offset, |at, piece, in_piece| {
            let own = piece.get(..in_piece).unwrap_or_default();
            if let Some(last) = own.iter().rposition(|byte| *byte != 0) {
                beyond.written_end = Some(at + disk_len(last) + 1);
            }
            for (offset, header) in frame::headers(piece, in_piece, salt) {
                if beyond.witness.is_none_or(|(_, durable)| durable < header.durable) {
                    beyond.witness = Some((at + disk_len(offset), header.durable));
                }
            }
            true
        })?;
        Ok(beyond)
    }

    /// Visits the file from an offset on in pieces that are not all zero: offset, bytes (with the start of what
    /// follows), and how many of them are the piece's own. The visitor returns whether to go on.
    fn pieces(&mut self, from: u64, mut visit: impl FnMut(u64, &[u8], usize) -> bool) -> io::Result<()> {
        const PIECE: u64 = 64 << 10;
        let mut at = from;
        while at < self.window.len() {
            let own = PIECE.min(self.window.len() - at);
            let with_next = (own + disk_len(FRAME_HEADER)).min(self.window.len() - at);
            let Some(piece) = self.window.get(at, memory_len(with_next))? else { break };
            if !is_zero(&piece) && !visit(at, &piece, memory_len(own)) {
                break;
            }
            at += own;
        }
        Ok(())
    }

    /// Whether a sector that lies whole in a range is all zero.
    pub(crate) fn has_zero_sector(&mut self, from: u64, to: u64) -> io::Result<bool> {
        let sector = disk_len(super::layout::SECTOR);
        let mut at = from.next_multiple_of(sector);
        while at + sector <= to {
            if self.window.get(at, super::layout::SECTOR)?.is_some_and(|bytes| is_zero(&bytes)) {
                return Ok(true);
            }
            at += sector;
        }
        Ok(false)
    }

    /// Bytes at an offset, as they are.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        self.window.get(offset, len)
    }

    /// Forgets what was read ahead: somebody may be writing the file.
    pub(crate) fn refresh(&mut self) {
        self.window.refresh();
    }
}
