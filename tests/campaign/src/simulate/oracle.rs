//! What a store has to have: a plain list of what it was asked to record, and what it said about it.

use std::collections::BTreeMap;

use everfold::{Event, Position, Query, RecordedEvent, Store, Uuid, Version};

use super::{Held, ensure};

/// All of an event that a store has to give back. Its position is its place in the list.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) stream: String,
    pub(crate) version: u64,
    pub(crate) id: u128,
    pub(crate) kind: String,
    pub(crate) tags: Vec<String>,
    pub(crate) payload: Vec<u8>,
    pub(crate) metadata: Option<Vec<u8>>,
}

impl Fact {
    pub(crate) fn event(&self) -> Event {
        let event = Event::raw(self.kind.clone(), self.payload.clone()).id(Uuid::from_u128(self.id));
        let event = self.tags.iter().fold(event, |event, tag| event.tag(tag));
        match &self.metadata {
            Some(metadata) => event.metadata(metadata.clone()),
            None => event,
        }
    }

    fn is(&self, event: &RecordedEvent) -> bool {
        (event.stream(), event.event_type(), event.payload(), event.metadata())
            == (&self.stream, &self.kind, &self.payload, self.metadata.as_deref())
            && event.version().get() == self.version
            && event.event_id().as_u128() == self.id
            && event.tags().eq(self.tags.iter())
    }
}

/// What a store may not fall behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    /// The last position that was acknowledged as durable, or that anybody saw.
    pub(crate) durable: u64,
    /// The same, where only the process ended.
    pub(crate) written: u64,
    /// The log may go this far.
    pub(crate) most: u64,
    /// Where the log may start.
    pub(crate) starts: Vec<u64>,
}

impl Promise {
    /// Exactly this and nothing else.
    pub(crate) fn exactly(found: Found) -> Self {
        Promise { durable: found.last, written: found.last, most: found.last, starts: vec![found.start] }
    }

    /// What is left of it by a loss of power with this seed.
    pub(crate) fn after(&self, seed: u64) -> Self {
        let durable = if seed == u64::MAX { self.durable.max(self.written) } else { self.durable };
        Promise { durable, written: durable, ..self.clone() }
    }
}

/// What a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: u64,
    pub(crate) last: u64,
}

/// The events that a store was asked to record and did not refuse, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) facts: Vec<Fact>,
    /// The last position of each batch.
    ends: Vec<u64>,
    versions: BTreeMap<String, u64>,
}

fn place(position: u64) -> usize {
    usize::try_from(position - 1).unwrap()
}

impl Oracle {
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.facts.len()).unwrap()
    }

    pub(crate) fn version(&self, stream: &str) -> u64 {
        self.versions.get(stream).copied().unwrap_or(0)
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = (&str, u64)> {
        self.versions.iter().map(|(stream, version)| (stream.as_str(), *version))
    }

    /// The first positions of the batches, and the ones behind their last.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (u64, u64)> {
        let before = std::iter::once(0).chain(self.ends.iter().copied());
        before.zip(&self.ends).map(|(before, end)| (before + 1, *end))
    }

    /// Adds a batch, and gives its events their versions.
    pub(crate) fn push(&mut self, batch: Vec<Fact>) {
        for mut fact in batch {
            let version = self.versions.entry(fact.stream.clone()).or_default();
            *version += 1;
            fact.version = *version;
            self.facts.push(fact);
        }
        self.ends.push(self.len());
    }

    /// What is behind a position is gone.
    pub(crate) fn keep(&mut self, last: u64) {
        if last == self.len() {
            return;
        }
        self.facts.truncate(usize::try_from(last).unwrap());
        self.ends.retain(|end| *end <= last);
        self.versions.clear();
        for fact in &self.facts {
            self.versions.insert(fact.stream.clone(), fact.version);
        }
    }

    pub(crate) fn is_whole(&self, last: u64) -> bool {
        last == 0 || self.ends.binary_search(&last).is_ok()
    }

    /// Whether an event that was read is the one at its position.
    pub(crate) fn knows(&self, event: &RecordedEvent) -> Held {
        let position = event.position().get();
        let fact = position.checked_sub(1).and_then(|at| self.facts.get(usize::try_from(at).unwrap()));
        ensure!(
            fact.is_some_and(|fact| fact.is(event)),
            "position {position} has {event:?} and not {fact:?}"
        );
        Ok(())
    }

    /// Reads a store from its start to its end, and holds it against what was promised.
    pub(crate) fn check(&self, store: &Store, promise: &Promise) -> Result<Found, String> {
        let start = store.log_start().get();
        ensure!(
            promise.starts.contains(&start),
            "the log starts at {start}, and not at one of {:?}",
            promise.starts
        );
        let mut last = start - 1;
        for event in store.read(Position::new(last)) {
            let event = event.map_err(|error| format!("reading after position {last}: {error}"))?;
            last += 1;
            ensure!(event.position().get() == last, "position {} comes after {}", event.position(), last - 1);
            self.knows(&event)?;
        }
        ensure!(
            store.watermark().get() == last,
            "the watermark is {}, and the log ends at {last}",
            store.watermark()
        );
        ensure!(self.is_whole(last), "the log ends at {last}, in the middle of a batch");
        let Promise { durable, most, .. } = promise;
        ensure!(last >= *durable, "the log ends at {last}, and {durable} was promised");
        ensure!(last <= *most, "the log ends at {last}, and nothing was recorded behind {most}");
        Ok(Found { start, last })
    }

    /// Holds what a store answers from its indexes against the list.
    pub(crate) fn check_answers(&self, store: &Store, found: Found, pick: u64) -> Held {
        let facts = &self.facts[..usize::try_from(found.last).unwrap()];
        let own = |wanted: &dyn Fn(&Fact) -> bool| -> Vec<u64> {
            let places = facts.iter().zip(1..).filter(|(fact, _)| wanted(fact)).map(|(_, position)| position);
            places.filter(|position| *position >= found.start).collect()
        };
        let after = Position::new(found.start - 1);
        let some = |n: u64, of: u64| (pick >> (n * 8)) % of;
        for stream in [format!("s{}", some(0, 6)), "never".to_owned()] {
            let wanted = own(&|fact| fact.stream == stream);
            let before = facts[..place(found.start)].iter().rev().find(|fact| fact.stream == stream);
            let gone = before.map_or(0, |fact| fact.version);
            let cursor = store.read_stream(&stream, Version::new(gone));
            self.compare(cursor, wanted.iter().copied(), &stream)?;
            let latest = store.read_stream_backward(&stream, Version::END).limit(2);
            let most = wanted.len().min(2);
            if most == 2 || gone == 0 {
                self.compare(latest, wanted.iter().rev().take(2).copied(), &stream)?;
            }
        }
        let (tag, kind) = (format!("g{}", some(1, 5)), format!("t{}", some(2, 4)));
        let (of_tag, of_kind) = (Query::all().tags([&tag]), Query::all().types([&kind]));
        let tagged = own(&|fact| fact.tags.contains(&tag));
        self.compare(store.read_query(&of_tag, after), tagged.iter().copied(), &tag)?;
        let either = own(&|fact| fact.tags.contains(&tag) || fact.kind == kind);
        self.compare(store.read_query(&of_tag.clone().or(of_kind), after), either.iter().copied(), "either")?;
        let both = own(&|fact| fact.tags.contains(&tag) && fact.kind == kind);
        let query = of_tag.types([&kind]);
        let (last, end) = (both.last().copied(), Position::END);
        if let Some(last) = last {
            self.compare(store.read_query_backward(&query, end).limit(1), std::iter::once(last), "both")?;
        }
        Ok(())
    }

    fn compare(&self, cursor: everfold::Cursor, wanted: impl Iterator<Item = u64>, what: &str) -> Held {
        let mut given = Vec::new();
        for event in cursor {
            let event = event.map_err(|error| format!("asking for {what}: {error}"))?;
            self.knows(&event)?;
            given.push(event.position().get());
        }
        let wanted: Vec<u64> = wanted.collect();
        ensure!(given == wanted, "asking for {what} gives {given:?}, and not {wanted:?}");
        Ok(())
    }
}
