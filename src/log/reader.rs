//! Reads single events by position, keeping the frame it is in, so that neighbours cost little.

use std::sync::Arc;

use bytes::Bytes;

use super::catalog::Catalog;
use super::frame::{FRAME_HEADER, FrameFault, FrameHeader};
use super::layout::{disk_len, memory_len};
use super::record;
use super::segment::Segment;
use super::segment_header::SEGMENT_HEADER;
use super::window::Window;
use crate::error::{Corruption, Damage, Error};
use crate::event::{Position, RecordedEvent};

/// Every event handed out was checked: its frame's header, and its own bytes, by their checksums.
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
}

#[derive(Debug)]
struct OpenFrame {
    offset: u64,
    header: FrameHeader,
    body: Bytes,
    /// Where each record starts in the body; fewer than there are events when the list of lengths is damaged.
    records: Vec<usize>,
}

impl OpenFrame {
    fn holds(&self, position: Position) -> bool {
        (self.header.first..=self.header.last()).contains(&position)
    }

    fn end(&self) -> u64 {
        self.offset + self.header.frame_len()
    }
}

impl Reader {
    /// A reader that asks the disk for `ahead` bytes at a time where a segment is not mapped.
    pub(crate) fn new(catalog: Arc<Catalog>, ahead: usize) -> Self {
        Reader { catalog, ahead, current: None }
    }

    /// The event at a position, which the watermark has reached.
    pub(crate) fn event(&mut self, position: Position) -> Result<RecordedEvent, Error> {
        if !self
            .current
            .as_ref()
            .is_some_and(|current| current.frame.as_ref().is_some_and(|f| f.holds(position)))
        {
            self.open_frame(position)?;
        }
        let current = self.current.as_ref().ok_or_else(|| missing(position))?;
        let frame = current.frame.as_ref().ok_or_else(|| missing(position))?;
        let index = position.get() - frame.header.first.get();
        let record = frame.records.get(memory_len(index)).ok_or(FrameFault::BodyCrc);
        record
            .and_then(|at| {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let salt = current.segment.header.salt;
                frame
                    .header
                    .decode_record(&frame.body.slice(at..), index, salt)
                    .map_err(|fault| FrameFault::Record(index, fault))
            })
            .map_err(|fault| damaged(&current.segment, frame.offset, position, &fault))
    }

    fn open_frame(&mut self, position: Position) -> Result<(), Error> {
        let stays = self.current.as_ref().is_some_and(|current| {
            let next = self.catalog.segment_with(position);
            next.is_some_and(|next| Arc::ptr_eq(&next, &current.segment))
        });
        if !stays {
            let segment = self.catalog.segment_with(position).ok_or_else(|| missing(position))?;
            let window = segment.window(
                self.catalog.storage.as_ref(),
                self.catalog.reading.map_segments,
                self.ahead,
            )?;
            self.current = Some(Current { segment, window, frame: None });
        }
        self.current.as_mut().ok_or_else(|| missing(position))?.find(&self.catalog, position)
    }
}

impl Current {
    /// Makes the frame that holds a position the open one.
    fn find(&mut self, catalog: &Catalog, position: Position) -> Result<(), Error> {
        let reuse = self.frame.take();
        let mut offset = match &reuse {
            Some(frame) if frame.header.last().next() == position => frame.end(),
            _ if position == self.segment.header.first => disk_len(SEGMENT_HEADER),
            _ => catalog.place(&self.segment, position)?.frame,
        };
        let mut records = reuse.map(|frame| frame.records).unwrap_or_default();
        loop {
            let (header, body) = self.read(offset, position)?;
            if header.first > position {
                let fault = FrameFault::Stale("a later position follows");
                return Err(damaged(&self.segment, offset, position, &fault));
            }
            if header.events > 0 && header.last() >= position {
                list_records(&body, header.events, &mut records);
                self.frame = Some(OpenFrame { offset, header, body, records });
                return Ok(());
            }
            offset += header.frame_len();
        }
    }

    fn read(&mut self, offset: u64, position: Position) -> Result<(FrameHeader, Bytes), Error> {
        let fault = |fault: FrameFault| damaged(&self.segment, offset, position, &fault);
        let io = |e| self.segment.fault("read", e);
        let header = self.window.get(offset, FRAME_HEADER).map_err(io)?.ok_or(FrameFault::Length);
        let header =
            header.and_then(|bytes| FrameHeader::decode(&bytes, self.segment.header.salt)).map_err(fault)?;
        if header.last() < position || header.events == 0 {
            return Ok((header, Bytes::new()));
        }
        let len = memory_len(u64::from(header.body_len));
        let body = self.window.get(offset + disk_len(FRAME_HEADER), len).map_err(io)?;
        Ok((header, body.ok_or(FrameFault::Length).map_err(fault)?))
    }
}

fn list_records(body: &[u8], events: u32, records: &mut Vec<usize>) {
    records.clear();
    let mut at = 0;
    for _ in 0..events {
        let Some(Ok((_, padded))) = body.get(at..).map(record::length) else { break };
        records.push(at);
        at += padded;
    }
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
