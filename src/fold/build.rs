//! Brings the rows of a view on by a stretch of the log, on several threads.
//!
//! Each thread folds a piece of the stretch, and sorts the keys of what it came to. Then each puts a range of the keys together:
//! what the pieces came to, in the order of the log, behind what the view has.

use std::mem;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::declared::Fold;
use super::merging::{Merge, RangeOfKeys, RangeRows, split};
use super::piece_rows::PieceRows;
use crate::error::{Error, ErrorKind};
use crate::event::{EventAt, Position, RecordedEvent};
use crate::log::catalog::closed;
use crate::log::cursor::Cursor;
use crate::log::holds::truncated;
use crate::projection::threads::each;
use crate::projection::{ApplyError, Built, Stretch};
use crate::view::key::Key;
use crate::view::key_list::Sorted;
use crate::view::levels::Writes;

/// So many events are read before they are folded, when there are many rows.
const EVENTS_AT_ONCE: usize = 32;
/// No more are read when they have so many bytes.
const BYTES_AT_ONCE: usize = 256 << 10;

/// How much is in memory at a time, about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub(crate) rows: usize,
    /// Of events, as they are in the log.
    pub(crate) bytes: usize,
}

/// Events that were read and are not folded yet. Others are put in the places of those that were.
#[derive(Default)]
struct Taken {
    events: Vec<RecordedEvent>,
    count: usize,
}

impl Taken {
    /// Adds an event, if it is one to be taken.
    fn add(&mut self, event: EventAt<'_>, takes: impl FnOnce(&RecordedEvent) -> bool) {
        match self.events.get_mut(self.count) {
            Some(place) => event.replace(place),
            None => self.events.push(event.event()),
        }
        self.count += usize::from(self.events.get(self.count).is_some_and(takes));
    }

    /// Leaves none, and keeps places for so many, if they are small: each has the memory that its event was read from.
    fn clear(&mut self, places: usize, bytes: usize) {
        self.events.truncate(if bytes < BYTES_AT_ONCE { places } else { 0 });
        self.count = 0;
    }

    fn events(&self) -> &[RecordedEvent] {
        self.events.get(..self.count).unwrap_or_default()
    }
}

/// What a piece came to.
pub(super) struct Piece<S> {
    /// The last event in it.
    to: Position,
    rows: Sorted<S>,
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Fold<K, S> {
    /// Folds a stretch of the log, and puts what it came to behind the rows there are. `None` when it was stopped. After an
    /// error, only one event after the other can tell which one it is of.
    pub(crate) fn build(&self, stretch: &Stretch<'_>, most: Most) -> Result<Option<Built>, Error> {
        let after = stretch.rows.meta().checkpoint;
        if stretch.catalog.is_closed() {
            return Err(closed());
        }
        // Keeps retention from what is being read.
        let (_hold, start) = stretch.catalog.holds.hold(Some(after.next()));
        if after.next() < start.first {
            return Err(truncated(start.first));
        }
        let threads = stretch.threads.max(1);
        let most = Most { rows: most.rows / threads, bytes: most.bytes / threads };
        let ranges = cut((after, stretch.to), threads);
        let pieces = each(threads, ranges, |range| self.piece(stretch, range, most));
        let (mut whole, mut to) = (Vec::new(), after);
        for (folded, end) in pieces {
            let Some(Piece { to: done, rows }) = folded? else { return Ok(None) };
            whole.push(rows);
            to = done;
            if done < end {
                break;
            }
        }
        let merge = Merge { fold: self, rows: stretch.rows };
        let merged =
            each(threads, split(&whole, threads), |range: RangeOfKeys<'_, S>| (merge.range(range), ()));
        drop(whole);
        let mut built = Built { to, writes: Writes::default(), digest: stretch.rows.meta().digest };
        for (range, ()) in merged {
            let RangeRows { writes, gone, come } = range?;
            built.digest.remove_all(gone);
            built.digest.add_all(come);
            built.writes.append(writes)?;
        }
        Ok(Some(built))
    }

    /// Folds some events, and says up to where it should have come.
    fn piece(
        &self,
        stretch: &Stretch<'_>,
        (after, to): (Position, Position),
        most: Most,
    ) -> (Result<Option<Piece<S>>, Error>, Position) {
        (self.folded(stretch, (after, to), most), to)
    }

    fn folded(
        &self,
        stretch: &Stretch<'_>,
        (after, to): (Position, Position),
        most: Most,
    ) -> Result<Option<Piece<S>>, Error> {
        let events = to.get().saturating_sub(after.get());
        let mut cursor = Cursor::forward(stretch.catalog.clone(), after).limit(events);
        let mut rows = PieceRows::new();
        let (mut done, mut bytes, mut taken) = (after, 0, Taken::default());
        while done < to && (done == after || (rows.len() < most.rows && bytes < most.bytes)) {
            if stretch.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let keys = rows.keys_elsewhere();
            let (most_events, mut read) = (if rows.expects() { EVENTS_AT_ONCE } else { 1 }, 0);
            while done < to && taken.count < most_events && read < BYTES_AT_ONCE {
                let event = cursor.next_with(|event| {
                    taken.add(event, |event| self.takes(event));
                    (event.position, event.len)
                });
                let (position, len) = event.unwrap_or_else(|| {
                    let message = format!("the log gave no event at position {}", done.next());
                    Err(Error::new(ErrorKind::Io, message))
                })?;
                (done, read) = (position, read + len);
            }
            let applied = match taken.events() {
                [] => Ok(()),
                [event] => self.apply(event, &mut rows).map_err(|error| (event.position(), error)),
                events => self.apply_all(events, &mut rows),
            };
            applied.map_err(|(position, error)| self.failed(position, &error))?;
            taken.clear(most_events, read);
            // What states have elsewhere comes from the events.
            bytes += if mem::needs_drop::<S>() { read } else { rows.keys_elsewhere() - keys };
            if rows.len() >= most.rows {
                rows.find_listed(|earlier, later| self.merge_states(earlier, later))?;
            }
        }
        Ok(Some(Piece { to: done, rows: rows.into_sorted() }))
    }

    /// Merges what came of different events: which of them it fails of is not known.
    pub(super) fn merge_states(&self, earlier: &mut S, later: S) -> Result<(), Error> {
        self.merge(earlier, later).map_err(|error| {
            let message = format!("the fold {:?} could not be put together: {error}", self.name());
            Error::new(ErrorKind::View, message)
        })
    }

    fn failed(&self, position: Position, error: &ApplyError) -> Error {
        let message = format!("the fold {:?} failed at position {position}: {error}", self.name());
        Error::new(ErrorKind::Stopped { position }, message)
    }
}

/// When a piece of a stretch that came to `to` ended early, those behind it were folded for nothing: so many events would
/// have been few enough for all pieces.
pub(super) fn ended_early(stretch: &Stretch<'_>, to: Position) -> Option<u64> {
    if to >= stretch.to {
        return None;
    }
    let after = stretch.rows.meta().checkpoint;
    let pieces = u64::try_from(stretch.threads.max(1)).unwrap_or(1);
    let of_piece = to.get().saturating_sub(after.get()) % piece_len((after, stretch.to), pieces);
    Some(of_piece.saturating_mul(pieces))
}

fn piece_len((after, to): (Position, Position), pieces: u64) -> u64 {
    to.get().saturating_sub(after.get()).div_ceil(pieces.max(1)).max(1)
}

/// Cuts events into pieces of about the same size.
fn cut((mut after, to): (Position, Position), pieces: usize) -> Vec<(Position, Position)> {
    let size = piece_len((after, to), u64::try_from(pieces).unwrap_or(1));
    let mut ranges = Vec::new();
    while after < to {
        let end = after.plus(size).min(to);
        ranges.push((after, end));
        after = end;
    }
    ranges
}
