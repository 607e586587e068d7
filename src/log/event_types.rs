//! How many events of each type there are, told by the indexes: in each, a type's name has the list of its events.

use std::collections::BTreeMap;
use std::io;
use std::sync::{PoisonError, RwLock};

use super::catalog::{Catalog, closed};
use super::index::Lookup as _;
use super::index::SegmentIndex;
use super::index::file::IndexFile;
use super::index::key::Kind;
use super::index::memory::MemoryIndex;
use super::index::pages::IndexFault;
use super::lookup::first_at_or_after;
use super::segment::Segment;
use crate::error::{Corruption, Error};
use crate::event::Position;

/// So many names of the active segment are looked at before appends get their turn.
const NAMES_AT_A_TIME: usize = 4096;

/// How many events of a type there are, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventTypeCount {
    /// The type, with its schema version if that is not 1: `deposited`, `deposited@2`.
    pub event_type: String,
    /// How many events have it; at least one.
    pub count: u64,
    /// The position of the first of them.
    pub first: Position,
    /// And of the last.
    pub last: Position,
}

/// The types of the events in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentTypes {
    /// The segment's first position.
    pub first: Position,
    /// Its last position, or the last durable one.
    pub last: Position,
    /// The types, by name.
    pub types: Vec<EventTypeCount>,
    /// The segment's index was missing or damaged, so since the store was opened the whole segment was read to make it
    /// anew. Of other segments no event was read.
    pub read_whole: bool,
}

/// The types of the events in a log, with their counts: what [`Store::event_types`](crate::Store::event_types) gives.
///
/// ```
/// use everfold::{Event, Expected, Position};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
/// let sold = || Event::raw("sold", *b"hats");
/// store.append("cart-7", Expected::Any, [sold(), Event::raw("paid", *b""), sold()])?;
/// let types = store.event_types()?;
/// let sold = types.get("sold").unwrap();
/// assert_eq!((sold.count, sold.first, sold.last), (2, Position::new(1), Position::new(3)));
/// assert!(types.get("returned").is_none());
/// let [segment] = types.segments() else { panic!("there is one segment") };
/// assert_eq!((segment.last, segment.types.len(), segment.read_whole), (Position::new(3), 2, false));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTypes {
    segments: Vec<SegmentTypes>,
    by_name: BTreeMap<String, EventTypeCount>,
}

impl EventTypes {
    fn of(segments: Vec<SegmentTypes>) -> Self {
        let mut by_name: BTreeMap<String, EventTypeCount> = BTreeMap::new();
        for found in segments.iter().flat_map(|segment| &segment.types) {
            match by_name.get_mut(&found.event_type) {
                Some(known) => {
                    known.count += found.count;
                    known.last = found.last;
                }
                None => {
                    by_name.insert(found.event_type.clone(), found.clone());
                }
            }
        }
        EventTypes { segments, by_name }
    }

    /// The types, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &EventTypeCount> {
        self.by_name.values()
    }

    /// One type; `None` when the log has no event of it.
    #[must_use]
    pub fn get(&self, event_type: &str) -> Option<&EventTypeCount> {
        self.by_name.get(event_type)
    }

    /// The same for each segment, in order.
    #[must_use]
    pub fn segments(&self) -> &[SegmentTypes] {
        &self.segments
    }
}

/// Why an index has no answer.
enum Fault {
    Index(IndexFault),
    /// Damage hides events from it.
    Hidden(Corruption),
}

impl Catalog {
    /// Counts the durable events of each type, by segment.
    pub(crate) fn event_types(&self) -> Result<EventTypes, Error> {
        if self.is_closed() {
            return Err(closed());
        }
        if let Some(error) = self.damaged_end() {
            return Err(error);
        }
        let up_to = self.watermark.get();
        let (first, active) = self.numbers();
        let mut counted = Vec::new();
        for number in first..=active {
            let Some(segment) = self.segment(number).filter(|segment| segment.header.first <= up_to) else {
                continue;
            };
            let next = self.segment(number.saturating_add(1)).map(|next| next.header.first.previous());
            let last = next.map_or(up_to, |last| last.min(up_to));
            match self.types_in(&segment, last) {
                Ok(types) => counted.push((number, types)),
                // Retention has removed its file meanwhile.
                Err(_) if number < self.numbers().0 => {}
                Err(error) => return Err(error),
            }
        }
        // What retention has dropped meanwhile is left out as a whole.
        let (first, _) = self.numbers();
        let left = counted.into_iter().filter(|(number, _)| *number >= first);
        Ok(EventTypes::of(left.map(|(_, types)| types).collect()))
    }

    /// Counts the events of a segment up to a position. An index that does not verify is made anew.
    fn types_in(&self, segment: &Segment, last: Position) -> Result<SegmentTypes, Error> {
        let events = segment.number(last).saturating_add(1);
        let index = self.index(segment)?;
        let mut counted = count(&index, segment, events);
        if let Err(Fault::Index(fault)) = &counted {
            tracing::warn!(segment.name, %fault, "an index cannot be used and is made anew");
            segment.distrust_index(&index);
            drop(index);
            counted = count(&*self.index(segment)?, segment, events);
        }
        match counted {
            Ok(types) => {
                let read_whole = segment.was_read_for_index();
                Ok(SegmentTypes { first: segment.header.first, last, types, read_whole })
            }
            Err(Fault::Hidden(cause)) => Err(cause.into()),
            Err(Fault::Index(fault)) => Err(segment.fault("read the index of", io::Error::other(fault))),
        }
    }
}

/// The types of a segment's first events, by name.
fn count(index: &SegmentIndex, segment: &Segment, events: u32) -> Result<Vec<EventTypeCount>, Fault> {
    let mut types = match index {
        SegmentIndex::Memory(index) => of_memory(index, segment, events)?,
        SegmentIndex::File(index) => of_file(index, segment, events).map_err(Fault::Index)?,
    };
    // Each event has one type: an index in which that is not so tells nothing.
    if types.iter().map(|found| found.count).sum::<u64>() != u64::from(events) {
        return Err(Fault::Index(IndexFault::Damaged(0)));
    }
    types.sort_unstable_by(|a, b| a.event_type.cmp(&b.event_type));
    Ok(types)
}

fn of_file(index: &IndexFile, segment: &Segment, events: u32) -> Result<Vec<EventTypeCount>, IndexFault> {
    let mut types = Vec::new();
    index.each_name(Kind::Type, |name, found| {
        let count = match found.last < events {
            true => found.count,
            false => first_at_or_after(index, &found, events)?,
        };
        if let Some(before) = count.checked_sub(1) {
            types.push(EventTypeCount {
                event_type: name.to_owned(),
                count: count.into(),
                first: segment.position(found.first),
                last: segment.position(index.posting(&found, before)?),
            });
        }
        Ok(())
    })?;
    Ok(types)
}

/// Names are only ever added, and events behind those that are counted: so the index can be let go of on the way.
fn of_memory(
    index: &RwLock<MemoryIndex>,
    segment: &Segment,
    events: u32,
) -> Result<Vec<EventTypeCount>, Fault> {
    let (mut types, mut from) = (Vec::new(), 0);
    loop {
        let index = index.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(hidden) = index.hidden().iter().find(|hidden| hidden.from < events) {
            return Err(Fault::Hidden(hidden.cause.clone()));
        }
        let keys = index.keys().get(from..).unwrap_or_default();
        for key in keys.iter().take(NAMES_AT_A_TIME) {
            if key.kind != Kind::Type || key.first >= events {
                continue;
            }
            let more = key.rest.partition_point(|number| *number < events);
            let last = more.checked_sub(1).and_then(|at| key.rest.get(at)).copied().unwrap_or(key.first);
            types.push(EventTypeCount {
                event_type: String::from_utf8_lossy(index.name(key)).into_owned(),
                count: 1 + u64::try_from(more).unwrap_or(u64::MAX - 1),
                first: segment.position(key.first),
                last: segment.position(last),
            });
        }
        if keys.len() <= NAMES_AT_A_TIME {
            return Ok(types);
        }
        from += NAMES_AT_A_TIME;
    }
}
