//! The events that a view does without: rows beside those of the view, which no range of a handle shows.
//!
//! ```text
//! [0, 3] position u64, big-endian    1, then bincode of (stream, type, cause, attempts u32)
//! [0, 4] turn u64, big-endian        1, then bincode of (position u64, checkpoint u64)
//! ```
//!
//! The second kind tells which events were applied later than their turn was, and when: so that the rows still follow
//! from the log.

use std::ops::Bound;

use super::digest::{Digest, RowHash};
use super::levels::Version;
use super::meta::Beside;
use super::rows::{Change, Row};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::event::{Position, RecordedEvent};

const LISTED: [u8; 2] = [0, 3];
const REDRIVEN: [u8; 2] = [0, 4];
const END: [u8; 2] = [0, 5];
const FORMAT: u8 = 1;
/// The longest cause that is kept, in bytes.
const MOST_CAUSE: usize = 2048;

/// An event that a projection could not apply, and went on without.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// The event's position.
    pub position: Position,
    /// Its stream.
    pub stream: String,
    /// Its type.
    pub event_type: String,
    /// Why the last attempt failed.
    pub cause: String,
    /// How often it was tried to apply it.
    pub attempts: u32,
}

/// An event that was applied when the view had reached a checkpoint after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Redriven {
    pub(crate) position: Position,
    pub(crate) checkpoint: Position,
}

impl SetAside {
    pub(crate) fn new(event: &RecordedEvent, cause: &Error, attempts: u32) -> Self {
        let mut cause = cause.to_string();
        let end = (0..=MOST_CAUSE).rev().find(|end| cause.is_char_boundary(*end)).unwrap_or_default();
        cause.truncate(end);
        SetAside {
            position: event.position(),
            stream: event.stream().to_owned(),
            event_type: event.event_type().to_owned(),
            cause,
            attempts,
        }
    }

    fn row(&self) -> Result<Row, Error> {
        let value = (&self.stream, &self.event_type, &self.cause, self.attempts);
        Ok((key(LISTED, self.position.get()), formatted(codec::to_vec(&value)?)))
    }

    fn of((key, value): &Row) -> Result<Self, Error> {
        let position = Position::new(number(key)?);
        let (stream, event_type, cause, attempts) = codec::from_slice(unformatted(value)?)?;
        Ok(SetAside { position, stream, event_type, cause, attempts })
    }
}

impl Beside {
    /// Puts an event on the list, in place of what was said of it before.
    pub(crate) fn list(
        &mut self,
        rows: &Version,
        event: &SetAside,
        digest: &mut Digest,
    ) -> Result<Change, Error> {
        let (key, value) = event.row()?;
        match rows.get(&key)? {
            Some(before) => digest.remove(RowHash::of(&key, &before)),
            None => self.listed += 1,
        }
        digest.add(RowHash::of(&key, &value));
        Ok((key, Some(value)))
    }

    /// Takes an event off the list, and notes when it was applied.
    pub(crate) fn redriven(
        &mut self,
        rows: &Version,
        event: Redriven,
        digest: &mut Digest,
    ) -> Result<[Change; 2], Error> {
        let listed = key(LISTED, event.position.get());
        if let Some(before) = rows.get(&listed)? {
            digest.remove(RowHash::of(&listed, &before));
            self.listed = self.listed.saturating_sub(1);
        }
        let noted = key(REDRIVEN, self.redriven);
        let value = formatted(codec::to_vec(&(event.position.get(), event.checkpoint.get()))?);
        digest.add(RowHash::of(&noted, &value));
        self.redriven += 1;
        Ok([(listed, None), (noted, Some(value))])
    }
}

/// The events that are set aside, in the order of their positions.
pub(crate) fn listed(rows: &Version) -> Result<Vec<SetAside>, Error> {
    let found = rows.scan(Bound::Included(LISTED.to_vec()), Bound::Excluded(REDRIVEN.to_vec()));
    found.map(|row| SetAside::of(&row?)).collect()
}

/// The events that were applied later, in the order in which they were.
pub(crate) fn redriven(rows: &Version) -> Result<Vec<Redriven>, Error> {
    let found = rows.scan(Bound::Included(REDRIVEN.to_vec()), Bound::Excluded(END.to_vec()));
    let parsed = found.map(|row| {
        let (position, checkpoint) = codec::from_slice::<(u64, u64)>(unformatted(&row?.1)?)?;
        Ok(Redriven { position: Position::new(position), checkpoint: Position::new(checkpoint) })
    });
    parsed.collect()
}

/// How many events were applied later, before the view reached a position.
pub(crate) fn redriven_before(rows: &Version, position: Position) -> Result<u64, Error> {
    if rows.meta().beside.redriven == 0 {
        return Ok(0);
    }
    let before = redriven(rows)?.into_iter().filter(|event| event.checkpoint < position);
    Ok(u64::try_from(before.count()).unwrap_or(u64::MAX))
}

fn key(kind: [u8; 2], number: u64) -> Vec<u8> {
    let mut bytes = kind.to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

fn number(key: &[u8]) -> Result<u64, Error> {
    let bytes = key.get(LISTED.len()..).and_then(|rest| <[u8; 8]>::try_from(rest).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(unknown)
}

fn formatted(mut value: Vec<u8>) -> Vec<u8> {
    value.insert(0, FORMAT);
    value
}

fn unformatted(value: &[u8]) -> Result<&[u8], Error> {
    match value.split_first() {
        Some((&FORMAT, value)) => Ok(value),
        _ => Err(unknown()),
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::View, "a row about an event that was set aside is of no format that is known")
}
