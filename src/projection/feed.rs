//! The events that a projection applies, in order: from chunks that it shares with others, else from its own cursor.

use std::fmt;
use std::sync::Arc;

use super::chunks::{Chunk, Chunks, EVENTS, first_of};
use crate::error::{Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::log::catalog::Catalog;
use crate::log::cursor::Cursor;
use crate::log::holds::{Hold, truncated};

/// Reads the log forward. What it has not read yet is kept from retention.
pub(super) struct Feed {
    catalog: Arc<Catalog>,
    chunks: Arc<Chunks>,
    chunk: Option<Arc<Chunk>>,
    /// With the position that it gives next.
    cursor: Option<(Position, Cursor)>,
    /// What was asked for last.
    event: Option<RecordedEvent>,
    hold: Hold,
    log_start: Position,
}

impl Feed {
    /// Of the events after a position.
    pub(super) fn new(catalog: Arc<Catalog>, chunks: Arc<Chunks>, after: Position) -> Self {
        chunks.begin();
        let (hold, start) = catalog.holds.hold(Some(after.next()));
        Feed { catalog, chunks, chunk: None, cursor: None, event: None, hold, log_start: start.first }
    }

    /// The event at a position, which is durable. Asked in order; going back a little is no trouble either.
    #[inline]
    pub(super) fn event(&mut self, position: Position) -> Result<&RecordedEvent, Error> {
        if !self.has(position) {
            self.reach(position)?;
        }
        self.event.as_ref().filter(|event| event.position() == position).ok_or_else(|| missing(position))
    }

    /// Whether the event at a position was asked for last, or is in the chunk at hand: then it is the one from now on.
    #[inline]
    fn has(&mut self, position: Position) -> bool {
        match self.chunk.as_ref().and_then(|chunk| chunk.event(position)) {
            Some(found) => {
                found.put_into(&mut self.event);
                true
            }
            None => self.event.as_ref().is_some_and(|event| event.position() == position),
        }
    }

    fn reach(&mut self, position: Position) -> Result<(), Error> {
        if position < self.log_start {
            return Err(truncated(self.log_start));
        }
        if self.cursor.as_ref().is_none_or(|(next, _)| *next != position) {
            self.hold.move_to(position);
            (self.chunk, self.cursor) = (self.shared(position), None);
            if self.has(position) {
                return Ok(());
            }
        }
        self.read(position)
    }

    /// The chunk with a position. It is read if that is its first one; from the middle on only what is needed is.
    fn shared(&self, position: Position) -> Option<Arc<Chunk>> {
        let first = first_of(position);
        let whole = first.plus(EVENTS).previous() <= self.catalog.watermark.get() && first >= self.log_start;
        whole.then(|| self.chunks.get(&self.catalog, first, first == position)).flatten()
    }

    fn read(&mut self, position: Position) -> Result<(), Error> {
        let catalog = &self.catalog;
        let (next, cursor) = self
            .cursor
            .get_or_insert_with(|| (position, Cursor::forward(catalog.clone(), position.previous())));
        let event = &mut self.event;
        let mut read = cursor.next_with(|found| found.put_into(event));
        if read.is_none() {
            cursor.extend();
            read = cursor.next_with(|found| found.put_into(event));
        }
        *next = position.next();
        self.hold.move_to(position);
        if first_of(*next) == *next {
            self.cursor = None;
        }
        read.unwrap_or_else(|| Err(missing(position)))
    }
}

fn missing(position: Position) -> Error {
    Error::new(ErrorKind::Io, format!("the log gave no event at position {position}"))
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.chunks.end();
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("log_start", &self.log_start).finish_non_exhaustive()
    }
}
