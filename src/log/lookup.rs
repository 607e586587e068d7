//! Finds streams, events by id, and the segments in which something may be, from the latest segment back.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use uuid::Uuid;

use super::catalog::Catalog;
use super::index::directory::Wanted;
use super::index::key::Key;
use super::index::pages::IndexFault;
use super::index::{Found, Lookup, Place};
use super::matching::{OwnedKey, Prepared};
use super::reader::Reader;
use super::segment::Segment;
use super::window::RANDOM;
use crate::error::{Corruption, Error};
use crate::event::{Position, Version};

/// The last event of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamEnd {
    pub(crate) version: Version,
    pub(crate) position: Position,
}

/// An event with an id.
#[derive(Clone, Debug)]
pub(crate) struct WithId {
    pub(crate) position: Position,
    segment: Arc<Segment>,
    number: u32,
}

impl WithId {
    pub(crate) fn in_segment(segment: &Arc<Segment>, number: u32) -> Self {
        WithId { position: segment.position(number), segment: segment.clone(), number }
    }
}

type Flow<T> = Result<ControlFlow<T>, Error>;

impl Catalog {
    /// Asks a segment's index, which is made anew when its file is gone or a page of it does not verify.
    pub(crate) fn look<T>(
        &self,
        segment: &Segment,
        ask: impl Fn(&dyn Lookup) -> Result<T, IndexFault>,
    ) -> Result<T, Error> {
        let index = self.index(segment)?;
        let fault = match index.look(&ask) {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        tracing::warn!(segment.name, %fault, "an index cannot be used and is made anew");
        segment.distrust_index(&index);
        drop(index);
        self.index(segment)?.look(&ask).map_err(|fault| match fault {
            IndexFault::Io(e) => segment.fault("read the index of", e),
            IndexFault::Damaged(_) => segment.fault("read the index of", std::io::Error::other(fault)),
        })
    }

    /// Visits the segments in a range of numbers that may have what is wanted, the latest first.
    fn each_candidate<T>(
        &self,
        wanted: Wanted,
        range: Range<u64>,
        mut visit: impl FnMut(u64, &Arc<Segment>) -> Flow<T>,
    ) -> Result<Option<T>, Error> {
        let first = self.numbers().0.max(range.start);
        let mut end = range.end;
        while let Some(number) = end.checked_sub(1).filter(|number| *number >= first) {
            let directory = self.directory_of(number);
            let found = directory.as_ref().map(|directory| (directory, directory.find(wanted)));
            let (numbers, start) = match found {
                None => (vec![number], number),
                Some((directory, Ok(numbers))) => (numbers, directory.span.start),
                Some((directory, Err(fault))) => {
                    tracing::warn!(directory.span.start, %fault, "a directory of the index is not used any more");
                    self.drop_directory(directory);
                    continue;
                }
            };
            for number in numbers.into_iter().filter(|number| (first..end).contains(number)) {
                let Some(segment) = self.segment(number) else { continue };
                match visit(number, &segment) {
                    Ok(ControlFlow::Break(answer)) => return Ok(Some(answer)),
                    Ok(ControlFlow::Continue(())) => {}
                    // Retention has removed its file meanwhile.
                    Err(_) if number < self.numbers().0 => {}
                    Err(error) => return Err(error),
                }
            }
            end = start;
        }
        Ok(None)
    }

    /// The last event of a stream in the segments below a number, or before the log's start. Fails when damage may hide
    /// a later one.
    pub(crate) fn end_below(&self, stream: &Key<'_>, below: u64) -> Result<Option<StreamEnd>, Error> {
        let end = self.each_candidate(Wanted::Name(stream.hash), 0..below, |_, segment| {
            let (found, hidden) = self.look(segment, |index| {
                Ok((index.find(stream)?, index.hidden().iter().max_by_key(|hidden| hidden.to).cloned()))
            })?;
            if let Some(hidden) = hidden.filter(|hidden| found.is_none_or(|found| found.last < hidden.to)) {
                return Err(hidden.cause.into());
            }
            Ok(match found {
                Some(Found { version, last, .. }) => {
                    ControlFlow::Break(StreamEnd { version, position: segment.position(last) })
                }
                None => ControlFlow::Continue(()),
            })
        })?;
        end.map_or_else(|| self.end_before_start(stream), |end| Ok(Some(end)))
    }

    /// The last event of a stream, durable or not. Fails when damage may hide a later one.
    pub(crate) fn end_of(&self, stream: &Key<'_>) -> Result<StreamEnd, Error> {
        let (_, active) = self.numbers();
        Ok(self.end_below(stream, active.saturating_add(1))?.unwrap_or_default())
    }

    /// The error that a read of a stream meets at its end, when damage may hide events there.
    pub(crate) fn hidden_end(&self, stream: &Key<'_>) -> Option<Error> {
        self.end_of(stream).err().or_else(|| self.damaged_end())
    }

    /// Finds those of some ids that segments below a number have. Returns them with their places in the list.
    pub(crate) fn find_ids(
        self: &Arc<Self>,
        ids: &[Uuid],
        below: u64,
    ) -> Result<Vec<(usize, WithId)>, Error> {
        let mut found = Vec::new();
        if !self.may_have_ids(ids, below)? {
            return Ok(found);
        }
        let mut reader = None;
        for (at, id) in ids.iter().enumerate() {
            let hash = self.hasher.id(*id);
            let event = self.each_candidate(Wanted::Id(*id, hash), 0..below, |_, segment| {
                for number in self.look(segment, |index| index.with_id(*id, hash))? {
                    if self.has_id(segment, number, *id, &mut reader)? {
                        return Ok(ControlFlow::Break(WithId::in_segment(segment, number)));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            found.extend(event.map(|event| (at, event)));
        }
        Ok(found)
    }

    /// Whether some segment has an id between the lowest and the highest of these. Generated ids ascend: new ones are
    /// higher than all that are recorded, and this is all that is asked about them.
    fn may_have_ids(&self, ids: &[Uuid], below: u64) -> Result<bool, Error> {
        let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) else { return Ok(false) };
        let overlaps = |range: Option<(Uuid, Uuid)>| range.is_none_or(|(a, b)| a <= *high && *low <= b);
        let (first, _) = self.numbers();
        let mut end = below;
        while let Some(number) = end.checked_sub(1).filter(|number| *number >= first) {
            if let Some(directory) = self.directory_of(number) {
                if overlaps(Some(directory.ids())) {
                    return Ok(true);
                }
                end = directory.span.start;
                continue;
            }
            if let Some(segment) = self.segment(number)
                && overlaps(self.index(&segment)?.ids())
            {
                return Ok(true);
            }
            end = number;
        }
        Ok(false)
    }

    /// Whether an event has an id. What an index in memory says is exact; a file has the hash only.
    fn has_id(
        self: &Arc<Self>,
        segment: &Segment,
        number: u32,
        id: Uuid,
        reader: &mut Option<Reader>,
    ) -> Result<bool, Error> {
        if self.index(segment)?.memory().is_some() {
            return Ok(true);
        }
        let reader = reader.get_or_insert_with(|| Reader::new(self.clone(), RANDOM));
        Ok(reader.event(segment.position(number))?.event_id() == id)
    }

    /// The version of an event, if it is in this stream.
    pub(crate) fn version_in(
        self: &Arc<Self>,
        event: &WithId,
        stream: &Key<'_>,
    ) -> Result<Option<Version>, Error> {
        let found = self.look(&event.segment, |index| {
            let Some(found) = index.find(stream)? else { return Ok(None) };
            let at = first_at_or_after(index, &found, event.number)?;
            let is_it = at < found.count && index.posting(&found, at)? == event.number;
            Ok(is_it.then_some((found, at)))
        })?;
        match found {
            None => Ok(None),
            Some((found, at)) if is_gapless(&found) => {
                Ok(Some(Version::new(found.base.get().saturating_add(u64::from(at) + 1))))
            }
            // Where versions are missing, they are not counted.
            Some(_) => {
                Reader::new(self.clone(), RANDOM).event(event.position).map(|event| Some(event.version()))
            }
        }
    }

    /// Whether the stream's next event after a version that can be read is not the next one.
    pub(crate) fn is_gap_after(&self, stream: &Key<'_>, after: Version) -> Result<bool, Error> {
        let (_, active) = self.numbers();
        let mut gap = false;
        self.each_candidate(Wanted::Name(stream.hash), 0..active.saturating_add(1), |_, segment| {
            let Some(found) = self.look(segment, |index| index.find(stream))? else {
                return Ok(ControlFlow::Continue(()));
            };
            if found.version <= after {
                return Ok(ControlFlow::Break(()));
            }
            gap = if found.base < after { !is_gapless(&found) } else { found.base != after };
            Ok(if found.base <= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(gap)
    }

    /// Where an event is in its segment.
    pub(crate) fn place(&self, segment: &Segment, position: Position) -> Result<Place, Error> {
        let number = segment.number(position);
        let (place, hidden) = self.look(segment, |index| {
            let hidden = index.hidden().iter().find(|hidden| (hidden.from..=hidden.to).contains(&number));
            Ok((index.place(number)?, hidden.cloned()))
        })?;
        place.ok_or_else(|| match hidden {
            Some(hidden) => Corruption { position: Some(position), ..hidden.cause }.into(),
            None => Error::invalid(format!("there is no event at position {position}")),
        })
    }

    /// The numbers of segments from one to another, both inclusive, that may have events of a query, in order.
    pub(crate) fn candidates(&self, query: &Prepared, from: u64, to: u64) -> Result<VecDeque<u64>, Error> {
        let mut all: Vec<u64> = Vec::new();
        for item in query.items() {
            let mut of_item: Option<Vec<u64>> = None;
            for key in &item.all {
                let of_key = self.candidates_of(std::slice::from_ref(key), from, to)?;
                of_item = Some(match of_item {
                    None => of_key,
                    Some(others) => others.into_iter().filter(|n| of_key.binary_search(n).is_ok()).collect(),
                });
            }
            let of_item = match of_item {
                Some(numbers) => numbers,
                None if item.any.is_empty() => (from..=to).collect(),
                None => self.candidates_of(&item.any, from, to)?,
            };
            all.extend(of_item);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all.into())
    }

    /// The same for events with one of some names.
    fn candidates_of(&self, keys: &[OwnedKey], from: u64, to: u64) -> Result<Vec<u64>, Error> {
        let mut numbers = Vec::new();
        for key in keys {
            self.each_candidate(Wanted::Name(key.hash), from..to.saturating_add(1), |number, _| {
                numbers.push(number);
                Ok(ControlFlow::<()>::Continue(()))
            })?;
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Where a forward read of a stream after a version starts: no event of it with a higher version is before.
    pub(crate) fn stream_start(&self, stream: &Key<'_>, after: Version) -> Result<Position, Error> {
        if after == Version::NONE {
            return Ok(Position::START.next());
        }
        let (_, active) = self.numbers();
        let mut start = Position::START.next();
        self.each_candidate(Wanted::Name(stream.hash), 0..active.saturating_add(1), |_, segment| {
            let first = self.look(segment, |index| {
                let Some(found) = index.find(stream)? else { return Ok(None) };
                if found.version <= after {
                    return Ok(Some((found.last.saturating_add(1), true)));
                }
                let skip = after.get().saturating_sub(found.base.get());
                let at = u32::try_from(skip).unwrap_or(u32::MAX).min(found.count - 1);
                // Where versions are missing, they are not counted.
                let at = if is_gapless(&found) { at } else { 0 };
                Ok(Some((index.posting(&found, at)?, found.base <= after)))
            })?;
            let Some((number, is_start)) = first else { return Ok(ControlFlow::Continue(())) };
            start = segment.position(number);
            Ok(if is_start { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(start)
    }

    /// Where a backward read of a stream before a version starts: no event of it with a lower version is after.
    pub(crate) fn stream_end(&self, stream: &Key<'_>, before: Version) -> Result<Position, Error> {
        if before == Version::END {
            return Ok(self.watermark.get());
        }
        let (_, active) = self.numbers();
        let end =
            self.each_candidate(Wanted::Name(stream.hash), 0..active.saturating_add(1), |_, segment| {
                let last = self.look(segment, |index| {
                    let Some(found) = index.find(stream)? else { return Ok(None) };
                    if found.version < before || !is_gapless(&found) {
                        return Ok(Some(found.last));
                    }
                    let lower = before.get().saturating_sub(1).saturating_sub(found.base.get());
                    let at = u32::try_from(lower).unwrap_or(u32::MAX).checked_sub(1);
                    at.map(|at| index.posting(&found, at.min(found.count - 1))).transpose()
                })?;
                Ok(match last {
                    Some(number) => ControlFlow::Break(segment.position(number)),
                    None => ControlFlow::Continue(()),
                })
            })?;
        Ok(end.unwrap_or_default())
    }
}

/// Whether no version of the stream is missing in the segment.
fn is_gapless(found: &Found) -> bool {
    found.version.get().saturating_sub(found.base.get()) == u64::from(found.count)
}

/// The first posting that is not lower than a number.
pub(super) fn first_at_or_after(index: &dyn Lookup, found: &Found, number: u32) -> Result<u32, IndexFault> {
    let (mut low, mut high) = (0, found.count);
    while low < high {
        let middle = low.midpoint(high);
        if index.posting(found, middle)? < number {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
