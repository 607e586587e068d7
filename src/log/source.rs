//! The positions that a cursor reads: of the whole log, of a query, of a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use super::catalog::Catalog;
use super::holds::Start;
use super::matching::{Direction, OwnedKey, Prepared, matches};
use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::{EventAt, Position, Version};
use crate::query::Query;

/// So many positions are asked of an index at a time by a read.
const PAGE: usize = 512;

/// Positions of events that match a query, fetched from the indexes some at a time.
#[derive(Debug)]
pub(crate) struct QuerySource {
    query: Arc<Prepared>,
    direction: Direction,
    /// How many positions are asked of an index at a time.
    page: usize,
    /// The first position that has not been looked at.
    next: Position,
    /// Forward, the last position to be looked at.
    pub(crate) last: Position,
    /// Numbers of segments that may have events and were not looked through, as of when they were listed.
    segments: VecDeque<u64>,
    /// Forward, the segments up to this position are listed.
    listed: Position,
    found: VecDeque<Position>,
    /// Whether events that damage hides may be passed over, because they are missed in another way.
    over_damage: bool,
}

impl QuerySource {
    pub(crate) fn forward(catalog: &Catalog, query: &Query, after: Position) -> Self {
        let query = Arc::new(Prepared::new(query, catalog.hasher));
        Self::new(query, Direction::Forward, after.next(), catalog.watermark.get())
    }

    pub(crate) fn backward(catalog: &Catalog, query: &Query, before: Position) -> Self {
        let next = before.previous().min(catalog.watermark.get());
        let query = Arc::new(Prepared::new(query, catalog.hasher));
        Self::new(query, Direction::Backward, next, Position::START)
    }

    /// The last event from a position down to one, both inclusive.
    pub(crate) fn last_of(query: Arc<Prepared>, from: Position, down_to: Position) -> Self {
        QuerySource { page: 1, ..Self::new(query, Direction::Backward, from, down_to) }
    }

    fn new(query: Arc<Prepared>, direction: Direction, next: Position, last: Position) -> Self {
        QuerySource {
            query,
            direction,
            page: PAGE,
            next,
            last,
            segments: VecDeque::new(),
            listed: Position::START,
            found: VecDeque::new(),
            over_damage: false,
        }
    }

    pub(crate) fn is_forward(&self) -> bool {
        self.direction == Direction::Forward
    }

    /// Goes backward down to this position.
    pub(crate) fn down_to(mut self, first: Position) -> Self {
        self.last = first;
        self
    }

    /// Everything up to here has been given or does not match.
    pub(crate) fn looked_to(&self) -> Position {
        self.found.front().map_or_else(|| self.next.previous(), |found| found.previous())
    }

    /// The event at the position given last could not be read.
    pub(crate) fn not_read(&mut self, position: Position) {
        self.found.push_front(position);
    }

    pub(crate) fn next_position(&mut self, catalog: &Catalog) -> Option<Result<Position, Error>> {
        loop {
            if let Some(position) = self.found.pop_front() {
                return Some(Ok(position));
            }
            match self.look_on(catalog) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Looks through the next page of events; false when there are none.
    fn look_on(&mut self, catalog: &Catalog) -> Result<bool, Error> {
        let down_to = self.last.max(Position::START.next());
        let over = match self.direction {
            Direction::Forward => self.next > self.last,
            Direction::Backward => self.next < down_to,
        };
        if over {
            return Ok(false);
        }
        if self.segments.is_empty() && !self.list(catalog, down_to)? {
            self.next = match self.direction {
                Direction::Forward => self.last.next(),
                Direction::Backward => Position::START,
            };
            return Ok(false);
        }
        let number = match self.direction {
            Direction::Forward => self.segments.front(),
            Direction::Backward => self.segments.back(),
        };
        let Some(number) = number.copied() else { return Ok(false) };
        let more = match catalog.segment(number) {
            Some(segment) => self.look_through(catalog, &segment, number)?,
            None => false,
        };
        if !more {
            match self.direction {
                Direction::Forward => self.segments.pop_front(),
                Direction::Backward => self.segments.pop_back(),
            };
        }
        Ok(true)
    }

    /// Lists the segments to look through; false when there are none.
    fn list(&mut self, catalog: &Catalog, down_to: Position) -> Result<bool, Error> {
        let (low, high) = match self.direction {
            Direction::Forward => (self.next, self.last),
            Direction::Backward => (down_to, self.next),
        };
        if self.listed >= high && self.direction == Direction::Forward {
            return Ok(false);
        }
        if self.direction == Direction::Backward && self.listed > Position::START {
            return Ok(false);
        }
        self.listed = high;
        let (first, _) = catalog.numbers();
        let from = catalog.numbered_with(low).map_or(first, |(number, _)| number);
        let Some((to, _)) = catalog.numbered_with(high) else { return Ok(false) };
        self.segments = catalog.candidates(&self.query, from, to)?;
        Ok(!self.segments.is_empty())
    }

    /// Looks through a segment from the next position on. Returns whether there is more to look through in it.
    fn look_through(
        &mut self,
        catalog: &Catalog,
        segment: &super::segment::Segment,
        number: u64,
    ) -> Result<bool, Error> {
        let beyond = catalog.segment(number.saturating_add(1)).map(|next| next.header.first);
        let first = segment.header.first;
        let end = beyond.map_or(Position::END, Position::previous);
        let (from, to) = match self.direction {
            Direction::Forward => (self.next.max(first), self.last.min(end)),
            Direction::Backward => (self.next.min(end), self.last.max(first)),
        };
        let is_empty = match self.direction {
            Direction::Forward => from > to,
            Direction::Backward => from < to,
        };
        if is_empty {
            return Ok(false);
        }
        let (query, direction, page) = (&self.query, self.direction, self.page);
        let (low, high) = (from.min(to), from.max(to));
        let (low, high) = (segment.number(low), segment.number(high));
        let (found, hidden) = catalog.look(segment, |index| {
            // The nearest hidden event on the way.
            let on_the_way = index.hidden().iter().filter(|hidden| hidden.from <= high && hidden.to >= low);
            let hidden = match direction {
                _ if self.over_damage => None,
                Direction::Forward => on_the_way.min_by_key(|hidden| hidden.from),
                Direction::Backward => on_the_way.max_by_key(|hidden| hidden.to),
            };
            let range = match (direction, hidden) {
                (Direction::Forward, None) => Some((low, high)),
                (Direction::Backward, None) => Some((high, low)),
                (Direction::Forward, Some(hidden)) => {
                    hidden.from.checked_sub(1).filter(|to| *to >= low).map(|to| (low, to))
                }
                (Direction::Backward, Some(hidden)) => {
                    hidden.to.checked_add(1).filter(|to| *to <= high).map(|to| (high, to))
                }
            };
            let found = range.map(|range| matches(index, query, range, direction, page)).transpose()?;
            Ok((found, hidden.cloned()))
        })?;
        let Some(found) = found else {
            let cause = hidden.map(|hidden| hidden.cause);
            return cause.map_or(Ok(false), |cause| Err(cause.into()));
        };
        self.found.extend(found.numbers.iter().map(|number| segment.position(*number)));
        let at_hidden = hidden.map(|hidden| match direction {
            Direction::Forward => hidden.from,
            Direction::Backward => hidden.to,
        });
        match found.next.or(at_hidden) {
            Some(next) => {
                self.next = segment.position(next);
                Ok(true)
            }
            None => {
                self.next = match direction {
                    Direction::Forward => to.next(),
                    Direction::Backward => to.previous(),
                };
                Ok(false)
            }
        }
    }
}

/// Positions of a stream's events. Their versions must follow each other.
#[derive(Debug)]
pub(crate) struct StreamSource {
    stream: OwnedKey,
    /// None until it is asked for: finding its start may fail.
    events: Option<QuerySource>,
    direction: Direction,
    /// The version of the event last given, or the bound that the read started from.
    from: Version,
    /// Whether `from` is the version of an event that was given.
    started: bool,
    /// The version that the stream had when a backward read was begun.
    end: Option<Version>,
    /// As it was when the read began.
    log_start: Start,
    /// The stream's version before that: events up to it were removed.
    removed: Version,
    /// Why that is not known.
    removed_unknown: Option<Error>,
    pub(crate) last: Position,
}

impl StreamSource {
    pub(crate) fn new(
        stream: OwnedKey,
        from: Version,
        direction: Direction,
        last: Position,
        log_start: &Start,
    ) -> Self {
        StreamSource {
            stream,
            events: None,
            direction,
            from,
            started: false,
            end: None,
            log_start: log_start.clone(),
            removed: Version::NONE,
            removed_unknown: None,
            last,
        }
    }

    pub(crate) fn next_position(&mut self, catalog: &Catalog) -> Option<Result<Position, Error>> {
        let mut events = match self.events.take().map_or_else(|| self.start(catalog), Ok) {
            Ok(events) => events,
            Err(error) => return Some(Err(error)),
        };
        if self.direction == Direction::Forward {
            events.last = self.last;
        }
        let next = events.next_position(catalog);
        self.events = Some(events);
        next.or_else(|| self.missing_rest(catalog).map(Err))
    }

    /// The lowest position that may still be read, if that is known.
    pub(crate) fn place(&self) -> Option<Position> {
        let events = self.events.as_ref().filter(|_| self.direction == Direction::Forward)?;
        Some(events.looked_to().next())
    }

    fn start(&mut self, catalog: &Catalog) -> Result<QuerySource, Error> {
        match self.log_start.end_of(&self.stream.key()) {
            Ok(end) => self.removed = end.unwrap_or_default().version,
            Err(error) => self.removed_unknown = Some(error),
        }
        if self.direction == Direction::Forward && self.from < self.removed {
            return Err(self.truncated());
        }
        let (query, down_to) = (Arc::new(Prepared::of_key(self.stream.clone())), self.log_start.first);
        let (next, last) = match self.direction {
            Direction::Forward => {
                (catalog.stream_start(&self.stream.key(), self.from)?.max(down_to), self.last)
            }
            Direction::Backward => {
                (catalog.stream_end(&self.stream.key(), self.from)?.min(self.last), down_to)
            }
        };
        let mut events = QuerySource::new(query, self.direction, next, last);
        events.over_damage = true;
        Ok(events)
    }

    /// A backward read knows the version that the stream had when it was begun.
    pub(crate) fn ending_at(mut self, end: Option<Version>) -> Self {
        self.end = end;
        self
    }

    /// Takes note of an event of the stream that was read. `None` when it is one that was not asked for.
    pub(crate) fn check(&mut self, catalog: &Catalog, event: EventAt<'_>) -> Option<Result<(), Error>> {
        let version = event.version();
        let beyond = match self.direction {
            Direction::Forward => version <= self.from,
            Direction::Backward => version >= self.from,
        };
        if beyond {
            return None;
        }
        let follows = match self.direction {
            Direction::Forward => Ok(version == self.from.next()),
            Direction::Backward if version.next() == self.from => Ok(true),
            Direction::Backward if self.started => Ok(false),
            Direction::Backward => self.starts_with(catalog, version),
        };
        Some(match follows {
            Ok(true) => {
                (self.from, self.started) = (version, true);
                Ok(())
            }
            Ok(false) => {
                let unknown = self.removed_unknown.take().filter(|_| !self.started);
                Err(unknown.unwrap_or_else(|| hidden(self.stream.name(), event.position)))
            }
            Err(error) => Err(error),
        })
    }

    /// Whether no event is hidden between a version, or none, and the bound that a backward read starts from.
    fn starts_with(&self, catalog: &Catalog, version: Version) -> Result<bool, Error> {
        match self.end == Some(version) {
            true => Ok(true),
            false => catalog.is_gap_after(&self.stream.key(), version).map(|gap| !gap),
        }
    }

    /// Why there may be events beyond the last one given: retention has removed them, or damage hides them.
    fn missing_rest(&mut self, catalog: &Catalog) -> Option<Error> {
        let first = Version::new(1);
        match self.direction {
            Direction::Forward => catalog.hidden_end(&self.stream.key()),
            Direction::Backward if self.from <= first => None,
            // Down to the removed ones, or none at all.
            Direction::Backward if self.removed >= first => {
                let hidden_between = self.started && self.from > self.removed.next();
                Some(match hidden_between {
                    true => hidden(self.stream.name(), Position::START),
                    false => self.truncated(),
                })
            }
            Direction::Backward => {
                let whole = if self.started { Ok(false) } else { self.starts_with(catalog, Version::NONE) };
                let unknown = self.removed_unknown.take();
                let missing = || unknown.unwrap_or_else(|| hidden(self.stream.name(), Position::START));
                whole.map_or_else(Some, |whole| (!whole).then(missing))
            }
        }
    }

    fn truncated(&self) -> Error {
        let (stream, last, first) = (self.stream.name(), self.removed, self.log_start.first);
        let message = format!(
            "retention has removed the events of stream {stream:?} up to version {last}: read those after that version"
        );
        Error::new(ErrorKind::Truncated { first }, message)
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
