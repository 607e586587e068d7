//! Pull readers over a finite range: of the log, or of one stream.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::sync::Arc;

use super::catalog::{Catalog, closed};
use super::index::Place;
use super::reader::Reader;
use super::window::{RANDOM, SEQUENTIAL};
use crate::error::{Corruption, Damage, Error};
use crate::event::{Position, RecordedEvent, Version};

/// An iterator over the events that were durable when it was made.
///
/// It never blocks an append and is never changed by one. After an error it ends.
#[derive(Debug)]
#[must_use = "a cursor reads nothing until it is iterated"]
pub struct Cursor {
    reader: Reader,
    catalog: Arc<Catalog>,
    source: Source,
    left: u64,
    /// That the log is closed; or what a backward read, which starts at the end, has to say first.
    first_error: Option<Error>,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    Forward { next: Position, last: Position },
    Backward { next: Position },
    Stream(StreamSource),
}

/// Positions of a stream's events, fetched from the index some at a time.
#[derive(Debug)]
struct StreamSource {
    stream: String,
    places: VecDeque<Place>,
    /// The version of the event last given, or the bound that the read started from.
    from: Version,
    /// Whether `from` is the version of an event that was given.
    started: bool,
    backward: bool,
    last: Position,
}

/// How many positions are asked of the index at a time.
const PAGE: usize = 512;

impl Cursor {
    pub(crate) fn forward(catalog: Arc<Catalog>, after: Position) -> Self {
        let last = catalog.watermark.get();
        Self::new(catalog, SEQUENTIAL, Source::Forward { next: after.next(), last })
    }

    pub(crate) fn backward(catalog: Arc<Catalog>, before: Position) -> Self {
        let last = catalog.watermark.get();
        let next = before.previous().min(last);
        let mut cursor = Self::new(catalog, RANDOM, Source::Backward { next });
        if before.previous() > last {
            cursor.first_error = cursor.first_error.or_else(|| cursor.catalog.damaged_end());
        }
        cursor
    }

    pub(crate) fn stream(catalog: Arc<Catalog>, stream: &str, after: Version) -> Self {
        let source = StreamSource::new(&catalog, stream, after, false);
        Self::new(catalog, RANDOM, Source::Stream(source))
    }

    pub(crate) fn stream_backward(catalog: Arc<Catalog>, stream: &str, before: Version) -> Self {
        let source = StreamSource::new(&catalog, stream, before, true);
        let mut cursor = Self::new(catalog, RANDOM, Source::Stream(source));
        cursor.first_error = cursor.first_error.or_else(|| cursor.catalog.hidden_end(stream));
        cursor
    }

    fn new(catalog: Arc<Catalog>, ahead: usize, source: Source) -> Self {
        let reader = Reader::new(catalog.clone(), ahead);
        let first_error = catalog.is_closed().then(closed);
        Cursor { reader, catalog, source, left: u64::MAX, first_error, ended: false }
    }

    /// Ends after so many events.
    pub fn limit(mut self, events: u64) -> Self {
        self.left = events;
        self
    }

    /// Goes on to what has become durable since the cursor was made or last extended.
    pub(crate) fn extend(&mut self) {
        let watermark = self.catalog.watermark.get();
        match &mut self.source {
            Source::Forward { last, .. } => *last = watermark,
            Source::Stream(source) => source.last = watermark,
            Source::Backward { .. } => {}
        }
    }

    fn next_position(&mut self) -> Option<Result<Position, Error>> {
        match &mut self.source {
            Source::Forward { next, last } if *next <= *last => {
                let position = *next;
                *next = next.next();
                Some(Ok(position))
            }
            Source::Forward { next, last } => {
                // The log goes on with what cannot be read: say so rather than end as if it did not.
                let (asked_beyond, error) = (*next == last.next(), self.catalog.damaged_end());
                error.filter(|_| asked_beyond).map(Err)
            }
            Source::Backward { next } if *next > Position::START => {
                let position = *next;
                *next = next.previous();
                Some(Ok(position))
            }
            Source::Backward { .. } => None,
            Source::Stream(source) => source.next_position(&self.catalog),
        }
    }
}

impl StreamSource {
    fn new(catalog: &Catalog, stream: &str, from: Version, backward: bool) -> Self {
        let last = catalog.watermark.get();
        StreamSource { stream: stream.into(), places: VecDeque::new(), from, started: false, backward, last }
    }

    fn next_position(&mut self, catalog: &Catalog) -> Option<Result<Position, Error>> {
        loop {
            let (version, position) = match self.next_place(catalog) {
                Ok(Some(place)) => place,
                Ok(None) => return self.hidden_rest(catalog).map(Err),
                Err(error) => return Some(Err(error)),
            };
            if position > self.last && !self.backward {
                self.places.clear();
                return None;
            }
            self.places.pop_front();
            let follows =
                if self.backward { version.next() == self.from } else { version == self.from.next() };
            let checked = !self.backward || self.started;
            self.from = version;
            if position > self.last {
                continue;
            }
            self.started = true;
            return Some(if follows || !checked {
                Ok(position)
            } else {
                Err(hidden(&self.stream, position))
            });
        }
    }

    fn next_place(&mut self, catalog: &Catalog) -> Result<Option<Place>, Error> {
        if self.places.is_empty() {
            let page = match self.backward {
                true => catalog.index.before(&self.stream, self.from, PAGE),
                false => catalog.index.after(&self.stream, self.from, PAGE),
            };
            self.places = page?.into();
        }
        Ok(self.places.front().copied())
    }

    /// Whether damage may hide events beyond the last one given.
    fn hidden_rest(&self, catalog: &Catalog) -> Option<Error> {
        match self.backward {
            true if self.started && self.from > Version::new(1) => {
                Some(hidden(&self.stream, Position::START))
            }
            true => None,
            false => catalog.hidden_end(&self.stream),
        }
    }
}

fn hidden(stream: &str, position: Position) -> Error {
    Corruption {
        file: super::segment::LOG_FOLDER.into(),
        offset: 0,
        position: Some(position),
        damage: Damage::CorruptAcknowledged,
        detail: format!(
            "events of stream {stream:?} next to this position cannot be read: run `everfold verify`"
        ),
    }
    .into()
}

impl Iterator for Cursor {
    type Item = Result<RecordedEvent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.left == 0 {
            return None;
        }
        let event = match self.first_error.take() {
            Some(error) => Err(error),
            None => self.next_position()?.and_then(|position| self.reader.event(position)),
        };
        self.ended = event.is_err();
        self.left -= 1;
        Some(event)
    }
}

impl FusedIterator for Cursor {}
