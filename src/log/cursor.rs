//! Pull readers over a finite range: of the log, of what a query matches, or of one stream.

use std::iter::FusedIterator;
use std::sync::Arc;

use super::catalog::{Catalog, closed};
use super::holds::{Hold, Start, truncated};
use super::index::key::Kind;
use super::matching::{Direction, OwnedKey};
use super::reader::Reader;
use super::source::{QuerySource, StreamSource};
use super::window::{RANDOM, SEQUENTIAL};
use crate::error::Error;
use crate::event::{EventAt, Position, RecordedEvent, Version};
use crate::query::Query;

/// An iterator over the events that were durable when it was made.
///
/// It never blocks an append and is never changed by one. After an error it ends. What it has not read yet is kept from
/// [`retain`](crate::Store::retain) until it is dropped or ends.
#[derive(Debug)]
#[must_use = "a cursor reads nothing until it is iterated"]
pub struct Cursor {
    reader: Reader,
    catalog: Arc<Catalog>,
    source: Source,
    /// Keeps what is still to be read.
    hold: Hold,
    /// Where the log started when the cursor was made.
    start: Position,
    left: u64,
    /// The event that was lent last.
    lent: Option<RecordedEvent>,
    /// That the log is closed or the query is none; or what a backward read, which starts at the end, has to say first.
    first_error: Option<Error>,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    Forward { next: Position, last: Position },
    Backward { next: Position },
    Query(QuerySource),
    Stream(StreamSource),
}

impl Source {
    /// The event at the position given last could not be read: it was not given.
    fn not_read(&mut self, position: Position) {
        match self {
            Source::Forward { next, .. } => *next = position,
            Source::Query(source) => source.not_read(position),
            Source::Backward { .. } | Source::Stream(_) => {}
        }
    }

    /// The lowest position that it may still read; `None` when that may be any.
    fn place(&self) -> Option<Position> {
        match self {
            Source::Forward { next, .. } => Some(*next),
            Source::Query(source) => source.is_forward().then(|| source.looked_to().next()),
            Source::Stream(source) => source.place(),
            Source::Backward { .. } => None,
        }
    }
}

impl Cursor {
    pub(crate) fn forward(catalog: Arc<Catalog>, after: Position) -> Self {
        let (next, last) = (after.next(), catalog.watermark.get());
        Self::new(catalog, SEQUENTIAL, Some(next), |_| Source::Forward { next, last })
    }

    pub(crate) fn backward(catalog: Arc<Catalog>, before: Position) -> Self {
        let last = catalog.watermark.get();
        let next = before.previous().min(last);
        Self::new(catalog, RANDOM, None, |_| Source::Backward { next }).noting_damage_before(before, last)
    }

    pub(crate) fn query(catalog: Arc<Catalog>, query: &Query, after: Position) -> Self {
        if query.is_all() {
            return Self::forward(catalog, after).checking(query);
        }
        let source = QuerySource::forward(&catalog, query, after);
        Self::new(catalog, RANDOM, Some(after.next()), |_| Source::Query(source)).checking(query)
    }

    pub(crate) fn query_backward(catalog: Arc<Catalog>, query: &Query, before: Position) -> Self {
        if query.is_all() {
            return Self::backward(catalog, before).checking(query);
        }
        let last = catalog.watermark.get();
        let source = QuerySource::backward(&catalog, query, before);
        let source = |start: &Start| Source::Query(source.down_to(start.first));
        let mut cursor = Self::new(catalog, RANDOM, None, source);
        if before.previous() == Position::START {
            // Nothing is asked for, so nothing of it was removed.
            cursor.start = Position::START.next();
        }
        cursor.checking(query).noting_damage_before(before, last)
    }

    pub(crate) fn stream(catalog: Arc<Catalog>, stream: &str, after: Version) -> Self {
        let last = catalog.watermark.get();
        let stream = OwnedKey::new(catalog.hasher, Kind::Stream, stream);
        Self::new(catalog, RANDOM, None, |start| {
            Source::Stream(StreamSource::new(stream, after, Direction::Forward, last, start))
        })
    }

    pub(crate) fn stream_backward(catalog: Arc<Catalog>, stream: &str, before: Version) -> Self {
        let last = catalog.watermark.get();
        let stream = OwnedKey::new(catalog.hasher, Kind::Stream, stream);
        let (end, hidden) = match catalog.end_of(&stream.key()) {
            Ok(end) => (Some(end.version), catalog.damaged_end()),
            Err(error) => (None, Some(error)),
        };
        let mut cursor = Self::new(catalog, RANDOM, None, |start| {
            let source = StreamSource::new(stream, before, Direction::Backward, last, start);
            Source::Stream(source.ending_at(end))
        });
        cursor.first_error = cursor.first_error.or(hidden);
        cursor
    }

    /// A cursor that reads nothing before a position, if one is given.
    fn new(
        catalog: Arc<Catalog>,
        ahead: usize,
        from: Option<Position>,
        source: impl FnOnce(&Start) -> Source,
    ) -> Self {
        let reader = Reader::new(catalog.clone(), ahead);
        let (hold, start) = catalog.holds.hold(from);
        let first_error = match catalog.is_closed() {
            true => Some(closed()),
            false => from.filter(|from| *from < start.first).map(|_| truncated(start.first)),
        };
        if first_error.is_some() {
            hold.let_go();
        }
        let (source, start) = (source(&start), start.first);
        Cursor { reader, catalog, source, hold, start, left: u64::MAX, lent: None, first_error, ended: false }
    }

    fn checking(mut self, query: &Query) -> Self {
        self.first_error = self.first_error.or_else(|| query.check().err());
        self
    }

    /// A backward read that starts beyond the last event has to say that the log goes on with what cannot be read.
    fn noting_damage_before(mut self, before: Position, last: Position) -> Self {
        if before.previous() > last {
            self.first_error = self.first_error.or_else(|| self.catalog.damaged_end());
        }
        self
    }

    /// Ends after so many events.
    pub fn limit(mut self, events: u64) -> Self {
        self.left = events;
        self
    }

    /// The next event, lent until the next call: as [`next`](Iterator::next), in less time where events are small and segments
    /// mapped (two thirds, if they were verified before), since it is not counted who has which.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let (mut events, mut bytes) = (store.read(everfold::Position::START), 0);
    /// while let Some(event) = events.lend() {
    ///     bytes += event?.payload().len();
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As those that the iterator gives.
    pub fn lend(&mut self) -> Option<Result<&RecordedEvent, Error>> {
        let mut lent = self.lent.take();
        let read = self.next_with(|event| event.put_into(&mut lent));
        self.lent = lent;
        match read? {
            Ok(()) => self.lent.as_ref().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// Goes on to what has become durable since the cursor was made or last extended.
    pub(crate) fn extend(&mut self) {
        let watermark = self.catalog.watermark.get();
        match &mut self.source {
            Source::Forward { last, .. } => *last = watermark,
            Source::Query(source) => source.last = watermark,
            Source::Stream(source) => source.last = watermark,
            Source::Backward { .. } => {}
        }
    }

    /// Of a forward read of the log or a query: everything up to here was given, or does not match.
    pub(crate) fn looked_to(&self) -> Option<Position> {
        match &self.source {
            Source::Forward { next, .. } => Some(next.previous()),
            Source::Query(source) => Some(source.looked_to()),
            Source::Backward { .. } | Source::Stream(_) => None,
        }
    }

    /// The next event, which is looked at where it lies.
    #[inline]
    pub(crate) fn next_with<T>(&mut self, take: impl FnOnce(EventAt<'_>) -> T) -> Option<Result<T, Error>> {
        if self.ended || self.left == 0 {
            return None;
        }
        let event = match self.first_error.take() {
            Some(error) => Some(Err(error)),
            None => self.read_next(take),
        };
        self.ended = matches!(event, Some(Err(_)));
        self.left -= u64::from(event.is_some());
        match self.source.place() {
            Some(place) if !self.ended && self.left > 0 => self.hold.move_to(place),
            None if event.is_some() && !self.ended && self.left > 0 => {}
            _ => self.hold.let_go(),
        }
        event
    }

    #[inline]
    fn read_next<T>(&mut self, take: impl FnOnce(EventAt<'_>) -> T) -> Option<Result<T, Error>> {
        loop {
            let position = match self.next_position()? {
                Ok(position) => position,
                Err(error) => return Some(Err(error)),
            };
            match (&mut self.source, self.reader.read(position)) {
                (Source::Stream(source), Ok(event)) => {
                    if let Some(checked) = source.check(&self.catalog, event) {
                        return Some(checked.map(|()| take(event)));
                    }
                }
                (source, Err(error)) => {
                    source.not_read(position);
                    return Some(Err(error));
                }
                (_, Ok(event)) => return Some(Ok(take(event))),
            }
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
            Source::Backward { next } if *next >= self.start => {
                let position = *next;
                *next = next.previous();
                Some(Ok(position))
            }
            // Somebody may have asked for what was before the log's start.
            Source::Backward { next } if *next == Position::START => None,
            Source::Backward { .. } => Some(Err(truncated(self.start))),
            Source::Query(source) => {
                let next = source.next_position(&self.catalog);
                next.or_else(|| match source.is_forward() {
                    true => self.catalog.damaged_end().map(Err),
                    false => (self.start > Position::START.next()).then(|| Err(truncated(self.start))),
                })
            }
            Source::Stream(source) => source.next_position(&self.catalog),
        }
    }
}

impl Iterator for Cursor {
    type Item = Result<RecordedEvent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(|event| event.event())
    }
}

impl FusedIterator for Cursor {}
