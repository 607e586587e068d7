//! Goes through a segment that nobody writes any more, past damage: what is wrong is told, and the rest still read.

use bytes::Bytes;

use super::frame::FrameHeader;
use super::walk::{Step, Walk};
use crate::error::{Corruption, Damage, Error};
use crate::event::{Position, RecordedEvent};

#[derive(Debug)]
pub(crate) struct SegmentScan<'a> {
    walk: Walk,
    name: &'a str,
    /// The first position of the segment after.
    next: Option<Position>,
    ended: bool,
}

/// What a scan comes across.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A frame that verifies; its events are in [`SegmentScan::events`].
    Frame { offset: u64, header: FrameHeader },
    /// Bytes that do not. [`SegmentScan::events`] has those events of them that verify by themselves.
    Damage { corruption: Corruption, header: Option<FrameHeader>, hidden_to: Position },
}

impl<'a> SegmentScan<'a> {
    pub(crate) fn new(walk: Walk, name: &'a str, next: Option<Position>) -> Self {
        SegmentScan { walk, name, next, ended: false }
    }

    pub(crate) fn events(&self) -> &[RecordedEvent] {
        self.walk.events()
    }

    /// Bytes of the segment, as they are.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> std::io::Result<Option<Bytes>> {
        self.walk.bytes(offset, len)
    }

    /// The next frame or damage; `None` at the end of the segment.
    pub(crate) fn next(&mut self) -> Result<Option<Scanned>, Error> {
        if self.ended {
            return Ok(None);
        }
        let expected = self.walk.place().next;
        let (position, detail) = match self.walk.step().map_err(|e| self.fault(e))? {
            Step::Frame { offset, header } => return Ok(Some(Scanned::Frame { offset, header })),
            Step::Bad(fault) => (fault.position(expected), fault.to_string()),
            Step::End if self.next.is_none_or(|next| next == expected) => return self.end(),
            Step::End => (expected, "frames are missing before the end of the segment".to_owned()),
        };
        let corruption = self.corruption(position, Damage::CorruptAcknowledged, detail);
        self.skip(corruption).map(Some)
    }

    /// Goes on after damage that was found at the walk's place.
    pub(crate) fn skip(&mut self, corruption: Corruption) -> Result<Scanned, Error> {
        let header = self.walk.header_at(corruption.offset).map_err(|e| self.fault(e))?.ok();
        let more = self.walk.resync().map_err(|e| self.fault(e))?;
        let from = corruption.position.unwrap_or_default();
        let hidden_to = match (more, self.next) {
            (true, _) => self.walk.place().next.previous(),
            (false, Some(next)) => next.previous(),
            (false, None) => from,
        };
        self.ended = !more;
        self.walk.salvage(corruption.offset).map_err(|e| self.fault(e))?;
        Ok(Scanned::Damage { corruption, header, hidden_to })
    }

    /// What follows the seal must be zeros.
    fn end(&mut self) -> Result<Option<Scanned>, Error> {
        self.ended = true;
        let written_end = self.walk.beyond().map_err(|e| self.fault(e))?.written_end;
        if self.next.is_none() || written_end.is_none() {
            return Ok(None);
        }
        let next = self.walk.place().next;
        let corruption =
            self.corruption(next, Damage::BytesAfterEnd, "there are bytes after it was sealed".into());
        let hidden_to = next.previous();
        Ok(Some(Scanned::Damage { corruption, header: None, hidden_to }))
    }

    fn corruption(&self, position: Position, damage: Damage, detail: String) -> Corruption {
        let offset = self.walk.place().offset;
        Corruption { file: self.name.into(), offset, position: Some(position), damage, detail }
    }

    fn fault(&self, error: std::io::Error) -> Error {
        Error::io(format_args!("read {}", self.name), error)
    }
}
