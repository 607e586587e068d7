//! An append, encoded by the thread that wants it, before it is given its place in the log.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::frame::{FRAME_HEADER, FRAME_TRAILER, FrameHeader};
use super::layout::field_len;
use super::record;
use crate::batch::{Batch, Durability};
use crate::error::Error;
use crate::event::{Position, Version};
use crate::guard::Guard;

/// A batch as the bytes of its frame, all but what depends on its place.
#[derive(Debug)]
pub(crate) struct Request {
    frame: Vec<u8>,
    records: Vec<Record>,
    /// The streams appended to, each once.
    pub(crate) streams: Vec<String>,
    pub(crate) guards: Vec<Guard>,
    pub(crate) durability: Durability,
}

/// One event of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    at: usize,
    partial_crc: u32,
    pub(crate) id: Uuid,
    /// Index into the request's streams.
    pub(crate) stream: usize,
}

impl Request {
    /// Checks a batch against the limits and encodes it, into an empty buffer.
    pub(crate) fn encode(batch: &Batch, max_body: usize, mut frame: Vec<u8>) -> Result<Self, Error> {
        if batch.events.is_empty() {
            return Err(Error::invalid("the batch is empty: give it at least one event"));
        }
        let mut lens = Vec::with_capacity(batch.events.len());
        let mut body_len = 0usize;
        for (stream, event) in &batch.events {
            let len = record::check(stream, event)?;
            body_len = body_len.saturating_add(super::layout::aligned(len));
            lens.push(len);
        }
        if body_len > max_body {
            return Err(record::too_large("batch, in bytes of its encoded events,", body_len, max_body));
        }
        check_ids(batch)?;
        frame.reserve(FRAME_HEADER + body_len + FRAME_TRAILER);
        let mut request = Request {
            frame,
            records: Vec::with_capacity(lens.len()),
            streams: Vec::new(),
            guards: batch.guards.clone(),
            durability: batch.durability,
        };
        request.frame.resize(FRAME_HEADER, 0);
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for ((stream, event), len) in batch.events.iter().zip(lens) {
            let number = *numbers.entry(stream).or_insert_with(|| {
                request.streams.push(stream.clone());
                request.streams.len() - 1
            });
            let at = request.frame.len();
            let partial_crc = record::encode(&mut request.frame, stream, event, len);
            request.records.push(Record { at, partial_crc, id: event.event_id(), stream: number });
        }
        request.frame.resize(FRAME_HEADER + body_len + FRAME_TRAILER, 0);
        Ok(request)
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The buffer, when the request is over.
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frame)
    }

    pub(crate) fn frame_len(&self) -> usize {
        self.frame.len()
    }

    /// How many events.
    pub(crate) fn events(&self) -> u32 {
        field_len(self.records.len())
    }

    pub(crate) fn body_len(&self) -> u32 {
        field_len(self.frame.len() - FRAME_HEADER - FRAME_TRAILER)
    }

    /// Gives the events their versions, one for each record, and the frame its header. Returns the frame.
    pub(crate) fn place(&mut self, header: &mut FrameHeader, versions: &[Version], salt: u64) -> &[u8] {
        let mut position: Position = header.first;
        for (record, version) in self.records.iter().zip(versions) {
            if let Some(bytes) = self.frame.get_mut(record.at..) {
                record::place(bytes, record.partial_crc, salt, position, *version);
            }
            position = position.next();
        }
        header.seal(&mut self.frame, salt);
        &self.frame
    }
}

fn check_ids(batch: &Batch) -> Result<(), Error> {
    let mut ids = HashSet::with_capacity(batch.events.len());
    match batch.events.iter().find(|(_, event)| !ids.insert(event.event_id())) {
        Some((_, event)) => {
            Err(Error::invalid(format!("the batch has two events with the id {}", event.event_id())))
        }
        None => Ok(()),
    }
}
