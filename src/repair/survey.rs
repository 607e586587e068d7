//! What is missing of a log: which positions, and which versions of which streams.
//!
//! An index that is left tells the stream and the version of each event that its segment had. For the rest, the events
//! that are left tell: where a stream goes on with a later version than the next one, the versions between were at
//! positions that are missing between the two events. Of several ways to put them there the one is taken that serves
//! the earliest later event first, which finds one wherever there is one: what happened is one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use super::wreck::{Passed, Wreck};
use super::{Lost, Unproven};
use crate::error::{Corruption, Error};
use crate::event::{Position, Version};
use crate::log::index::base::Ended;
use crate::log::layout::disk_len;

/// An event stands in for each lost one, up to so many.
const MOST_LOST: u64 = 1 << 28;

/// A stream and a version in it.
pub(super) type InStream = (Arc<str>, Version);

/// What going through a damaged store has shown.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Where the new log starts.
    pub(super) log_start: Position,
    /// The first position known to have been there before that, if it is lost.
    pub(super) lost_before: Option<Position>,
    /// Missing positions after the start, ascending: the first and the last of each run.
    pub(super) holes: Vec<(Position, Position)>,
    /// What is known of the events there.
    pub(super) known: BTreeMap<Position, InStream>,
    /// Streams that had events before the new log's start.
    pub(super) ended: Vec<Ended>,
    pub(super) damage: Vec<Corruption>,
    pub(super) notes: Vec<String>,
    pub(super) unproven: Option<Unproven>,
}

/// Versions of a stream that are missing between two events of it.
struct Gap {
    stream: Arc<str>,
    versions: (Version, Version),
    after: Position,
    before: Position,
}

/// What is left of a gap, the one that ends first at the top: where, its first and last version, the stream.
type OpenGap = Reverse<(Position, Version, Version, Arc<str>)>;

/// The last event of each stream so far, by a hash of its name that is wide enough not to be shared.
struct Streams {
    last: HashMap<u128, (Version, Position)>,
    gaps: Vec<Gap>,
    log_start: Position,
    /// Whether what streams had before the log's start is lost, or a part of it.
    past_lost: bool,
    /// What is learnt of that from the first events that are left.
    learnt: HashMap<String, Version>,
}

fn wide_hash(stream: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(stream.as_bytes())
}

impl Survey {
    pub(super) fn make(wreck: &Wreck) -> Result<Self, Error> {
        let mut survey = Survey {
            log_start: wreck.log_start,
            damage: wreck.damage.clone(),
            notes: wreck.notes.clone(),
            ..Survey::default()
        };
        let mut next = None;
        wreck.go_through(&mut |passed| {
            match passed {
                Passed::Events(events) => {
                    for event in events {
                        survey.passes(&mut next, event.position(), wreck.log_start);
                    }
                    survey.count_unproven(disk_len(events.len()), true);
                }
                Passed::Damage(corruption) => survey.note(corruption),
                Passed::Unproven(position) => {
                    survey.unproven = Some(Unproven { position, events: 0, accepted: false });
                }
                Passed::LeftOut(events) => survey.count_unproven(events, false),
            }
            Ok(())
        })?;
        survey.end_at(next, wreck.mark.map(|mark| mark.durable));
        survey.check_size()?;
        let told = wreck.ended()?;
        if told.is_none() {
            survey.notes.push(
                "which streams ended before the log's start is lost: those of which no event is left start anew with version 1".into(),
            );
        }
        survey.learn_streams(wreck, told)?;
        Ok(survey)
    }

    /// Finds out what the lost events were, as far as anything tells, and what streams there were before the log's start.
    fn learn_streams(&mut self, wreck: &Wreck, told: Option<Vec<Ended>>) -> Result<(), Error> {
        let past_lost = told.is_none() || self.lost_before.is_some();
        let told = told.unwrap_or_default();
        if self.holes.is_empty() && !past_lost {
            self.ended = told;
            return Ok(());
        }
        let mut known = BTreeMap::new();
        wreck.ask_indexes(&|position| self.is_lost(position), &mut |position, stream, version| {
            known.insert(position, (Arc::from(stream), version));
        })?;
        let mut streams = Streams {
            last: told
                .iter()
                .map(|ended| (wide_hash(&ended.name), (ended.version, ended.position)))
                .collect(),
            gaps: Vec::new(),
            log_start: self.log_start,
            past_lost,
            learnt: HashMap::new(),
        };
        let mut known_so_far = known.iter().peekable();
        wreck.go_through(&mut |passed| {
            let Passed::Events(events) = passed else { return Ok(()) };
            for event in events {
                while let Some((position, (stream, version))) =
                    known_so_far.next_if(|(position, _)| **position < event.position())
                {
                    streams.passes(stream, *version, *position);
                }
                streams.passes(event.stream(), event.version(), event.position());
            }
            Ok(())
        })?;
        for (position, (stream, version)) in known_so_far {
            streams.passes(stream, *version, *position);
        }
        self.ended = streams.ended(told);
        self.known = known;
        self.attribute(streams.gaps);
        Ok(())
    }

    /// Takes note of the next event that is left, and so of what is missing before it.
    fn passes(&mut self, next: &mut Option<Position>, position: Position, log_start: Position) {
        match *next {
            None => {
                self.log_start = position;
                self.lost_before = (position > log_start).then_some(log_start);
            }
            Some(expected) if expected < position => self.holes.push((expected, position.previous())),
            Some(_) => {}
        }
        *next = Some(position.next());
    }

    /// The mark may prove that there was more.
    fn end_at(&mut self, next: Option<Position>, durable: Option<Position>) {
        let durable = durable.unwrap_or_default();
        match next {
            Some(next) if next <= durable => self.holes.push((next, durable)),
            None if durable >= self.log_start => {
                self.lost_before = Some(self.log_start);
                self.log_start = durable.next();
            }
            _ => {}
        }
    }

    /// What so many events would have been is not made up: rather the files contradict each other.
    fn check_size(&self) -> Result<(), Error> {
        let lost = self.holes.iter().map(|(first, last)| last.get() - first.get() + 1);
        let lost = lost.fold(0_u64, u64::saturating_add);
        if lost <= MOST_LOST && self.log_start < Position::END {
            return Ok(());
        }
        let largest = self.holes.iter().max_by_key(|(first, last)| last.get() - first.get());
        let (first, last) = largest.copied().unwrap_or_default();
        Err(Error::invalid(format!(
            "{lost} events are missing, most of them from position {first} to {last}: of more than {MOST_LOST} no new store is made; restore a backup, or take what is out of place from a copy of the directory"
        )))
    }

    fn note(&mut self, corruption: Corruption) {
        if !self.damage.iter().any(|known| known.is_at(&corruption)) {
            self.damage.push(corruption);
        }
    }

    fn count_unproven(&mut self, events: u64, accepted: bool) {
        if let Some(unproven) = &mut self.unproven {
            unproven.events += events;
            unproven.accepted |= accepted && events > 0;
        }
    }

    fn is_lost(&self, position: Position) -> bool {
        let after = self.holes.partition_point(|(_, last)| *last < position);
        self.holes.get(after).is_some_and(|(first, _)| *first <= position)
    }

    /// Gives versions that are missing to positions that are.
    fn attribute(&mut self, mut gaps: Vec<Gap>) {
        gaps.sort_by_key(|gap| gap.after);
        let mut gaps = gaps.into_iter().peekable();
        let mut open: BinaryHeap<OpenGap> = BinaryHeap::new();
        for (first, last) in &self.holes {
            let mut position = *first;
            while position <= *last && (gaps.peek().is_some() || !open.is_empty()) {
                while let Some(gap) = gaps.next_if(|gap| gap.after < position) {
                    open.push(Reverse((gap.before, gap.versions.0, gap.versions.1, gap.stream)));
                }
                if !self.known.contains_key(&position)
                    && let Some(Reverse((before, version, last, stream))) = open.pop()
                {
                    if version < last {
                        open.push(Reverse((before, version.next(), last, stream.clone())));
                    }
                    self.known.insert(position, (stream, version));
                }
                position = position.next();
            }
        }
    }

    /// The runs of lost positions, with the streams that have lost something there.
    pub(super) fn lost(&self) -> Vec<Lost> {
        let runs = self.holes.iter().map(|(first, last)| {
            let mut streams: BTreeMap<&str, u64> = BTreeMap::new();
            for (_, (stream, _)) in self.known.range(*first..=*last) {
                *streams.entry(stream).or_default() += 1;
            }
            let streams = streams.into_iter().map(|(stream, events)| (stream.to_owned(), events)).collect();
            Lost { first: *first, last: *last, streams }
        });
        runs.collect()
    }
}

impl Streams {
    fn passes(&mut self, stream: &str, version: Version, position: Position) {
        let before = self.last.insert(wide_hash(stream), (version, position));
        let (last, after) = before.unwrap_or_default();
        if last.next() >= version {
            return;
        }
        if after < self.log_start && self.past_lost {
            self.learnt.insert(stream.to_owned(), version.previous());
            return;
        }
        let (versions, after) = ((last.next(), version.previous()), after.max(self.log_start.previous()));
        self.gaps.push(Gap { stream: stream.into(), versions, after, before: position });
    }

    /// All streams that had events before the log's start: those that are told of, and those that are learnt of.
    fn ended(&mut self, told: Vec<Ended>) -> Vec<Ended> {
        let mut all: HashMap<String, (Version, Position)> =
            told.into_iter().map(|ended| (ended.name, (ended.version, ended.position))).collect();
        let last = self.log_start.previous();
        all.extend(self.learnt.drain().map(|(name, version)| (name, (version, last))));
        all.into_iter().map(|(name, (version, position))| Ended { name, version, position }).collect()
    }
}
