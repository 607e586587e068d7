//! Which events of a segment match a query: the lists of its names are walked together, each skipping ahead to where
//! the others are.

use super::index::key::{Key, KeyHasher, Kind};
use super::index::pages::IndexFault;
use super::index::{Found, Lookup};
use crate::query::{Query, QueryItem};

/// About so many lists are looked at before a look ends, and the least turns that each item has: whoever asks the active
/// segment's index keeps appends waiting.
const MOST_SEEKS: usize = 4096;
const LEAST_TURNS: usize = 16;

/// A query with its names' hashes.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    items: Vec<PreparedItem>,
}

#[derive(Clone, Debug)]
pub(crate) struct PreparedItem {
    /// An event has all of these: tags, and the stream.
    pub(crate) all: Vec<OwnedKey>,
    /// And one of these types, if there are any.
    pub(crate) any: Vec<OwnedKey>,
}

#[derive(Clone, Debug)]
pub(crate) struct OwnedKey {
    kind: Kind,
    name: String,
    pub(crate) hash: u64,
}

impl OwnedKey {
    pub(crate) fn new(hasher: KeyHasher, kind: Kind, name: &str) -> Self {
        OwnedKey { kind, name: name.to_owned(), hash: hasher.name(kind, name) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn key(&self) -> Key<'_> {
        Key { kind: self.kind, name: self.name.as_bytes(), hash: self.hash }
    }
}

impl Prepared {
    pub(crate) fn new(query: &Query, hasher: KeyHasher) -> Self {
        Prepared { items: query.items().iter().map(|item| PreparedItem::new(item, hasher)).collect() }
    }

    /// All events with a name.
    pub(crate) fn of_key(key: OwnedKey) -> Self {
        Prepared { items: vec![PreparedItem { all: vec![key], any: Vec::new() }] }
    }

    pub(crate) fn items(&self) -> &[PreparedItem] {
        &self.items
    }

    /// Whether it matches every event.
    pub(crate) fn is_all(&self) -> bool {
        self.items.iter().any(|item| item.all.is_empty() && item.any.is_empty())
    }
}

impl PreparedItem {
    fn new(item: &QueryItem, hasher: KeyHasher) -> Self {
        let key = |kind: Kind| move |name: &String| OwnedKey::new(hasher, kind, name);
        let tags = item.tags.iter().map(key(Kind::Tag));
        PreparedItem {
            all: item.stream.iter().map(key(Kind::Stream)).chain(tags).collect(),
            any: item.types.iter().map(key(Kind::Type)).collect(),
        }
    }
}

/// Which way events are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

impl Direction {
    /// Whether one event comes before another.
    fn is_before(self, one: u32, other: u32) -> bool {
        match self {
            Direction::Forward => one < other,
            Direction::Backward => one > other,
        }
    }

    /// Whichever comes first.
    fn first(self, known: Option<u32>, number: u32) -> u32 {
        known.filter(|known| self.is_before(*known, number)).unwrap_or(number)
    }
}

/// Events of a segment that match, by number, in the order asked for.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) numbers: Vec<u32>,
    /// Where to go on; none when everything was looked through.
    pub(crate) next: Option<u32>,
}

/// Looks for events from `from` to `to`, both inclusive; backward, `from` is the higher one.
pub(crate) fn matches(
    index: &dyn Lookup,
    query: &Prepared,
    (from, to): (u32, u32),
    direction: Direction,
    limit: usize,
) -> Result<Matches, IndexFault> {
    let lists = query.items.iter().map(|item| item.all.len() + item.any.len()).sum::<usize>();
    let turns = (MOST_SEEKS / lists.max(1)).max(LEAST_TURNS);
    let mut items = Vec::with_capacity(query.items.len());
    for item in &query.items {
        items.extend(Walk::start(index, item, turns)?);
    }
    let beyond = |number: u32| match direction {
        Direction::Forward => number > to,
        Direction::Backward => number < to,
    };
    let mut found = Matches::default();
    let mut at = from;
    while found.numbers.len() < limit.max(1) {
        let (mut best, mut tired): (Option<u32>, Option<u32>) = (None, None);
        for item in &mut items {
            match item.next(index, at, direction)? {
                Step::Match(number) => best = Some(direction.first(best, number)),
                Step::Tired(number) => tired = Some(direction.first(tired, number)),
                Step::End => {}
            }
        }
        // From where an item gave up on, nobody knows what it matches.
        if let Some(tired) = tired.filter(|tired| !best.is_some_and(|best| direction.is_before(best, *tired)))
        {
            found.next = Some(tired).filter(|tired| !beyond(*tired));
            return Ok(found);
        }
        let Some(number) = best.filter(|number| !beyond(*number)) else { return Ok(found) };
        found.numbers.push(number);
        let next = match direction {
            Direction::Forward => number.checked_add(1),
            Direction::Backward => number.checked_sub(1),
        };
        let Some(next) = next.filter(|next| !beyond(*next)) else { return Ok(found) };
        at = next;
    }
    found.next = Some(at);
    Ok(found)
}

/// An item of the query in one segment.
struct Walk {
    all: Vec<List>,
    any: Vec<List>,
    /// The item asks for types.
    typed: bool,
    /// The last event of the segment.
    last: u32,
    /// How often it may still look for an event.
    turns: usize,
    /// What came of it last.
    reached: Option<Step>,
}

/// What an item has to say.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next event that matches.
    Match(u32),
    /// None matches before this one, from which on it did not look.
    Tired(u32),
    /// No more matches.
    End,
}

impl Walk {
    /// `None` when no event of the segment can match.
    fn start(index: &dyn Lookup, item: &PreparedItem, turns: usize) -> Result<Option<Self>, IndexFault> {
        let Some(last) = index.events().checked_sub(1) else { return Ok(None) };
        let mut all = Vec::with_capacity(item.all.len());
        for key in &item.all {
            match index.find(&key.key())? {
                Some(found) => all.push(List { found, at: None }),
                None => return Ok(None),
            }
        }
        let mut any = Vec::with_capacity(item.any.len());
        for key in &item.any {
            any.extend(index.find(&key.key())?.map(|found| List { found, at: None }));
        }
        let typed = !item.any.is_empty();
        Ok((!typed || !any.is_empty()).then_some(Walk { all, any, typed, last, turns, reached: None }))
    }

    /// The first event at or beyond a number that matches the item.
    fn next(&mut self, index: &dyn Lookup, from: u32, direction: Direction) -> Result<Step, IndexFault> {
        match self.reached {
            Some(step @ (Step::Match(number) | Step::Tired(number)))
                if !direction.is_before(number, from) =>
            {
                return Ok(step);
            }
            Some(Step::End) => return Ok(Step::End),
            _ => {}
        }
        let step = self.look_from(index, from, direction)?;
        self.reached = Some(step);
        Ok(step)
    }

    fn look_from(&mut self, index: &dyn Lookup, from: u32, direction: Direction) -> Result<Step, IndexFault> {
        let mut at = match direction {
            Direction::Forward => from,
            Direction::Backward => from.min(self.last),
        };
        loop {
            let Some(turns) = self.turns.checked_sub(1) else { return Ok(Step::Tired(at)) };
            self.turns = turns;
            let start = at;
            for list in &mut self.all {
                match list.seek(index, at, direction)? {
                    Some(number) => at = number,
                    None => return Ok(Step::End),
                }
            }
            if self.typed {
                let mut best: Option<u32> = None;
                for list in &mut self.any {
                    let number = list.seek(index, at, direction)?;
                    best = match direction {
                        Direction::Forward => best.into_iter().chain(number).min(),
                        Direction::Backward => best.into_iter().chain(number).max(),
                    };
                }
                match best {
                    Some(number) => at = number,
                    None => return Ok(Step::End),
                }
            }
            if at == start {
                return Ok(if at <= self.last { Step::Match(at) } else { Step::End });
            }
        }
    }
}

/// The events of one name, and how far they were walked.
struct List {
    found: Found,
    at: Option<u32>,
}

impl List {
    /// The first event at or beyond a number. Numbers asked for only go one way.
    fn seek(
        &mut self,
        index: &dyn Lookup,
        number: u32,
        direction: Direction,
    ) -> Result<Option<u32>, IndexFault> {
        match direction {
            Direction::Forward => self.seek_forward(index, number),
            Direction::Backward => self.seek_backward(index, number),
        }
    }

    fn seek_forward(&mut self, index: &dyn Lookup, number: u32) -> Result<Option<u32>, IndexFault> {
        let count = self.found.count;
        // Everything before `low` is lower than what is looked for; steps double until one is not.
        let (mut low, mut step) = (self.at.unwrap_or(0), 1);
        let mut high = low;
        while high < count && index.posting(&self.found, high)? < number {
            low = high + 1;
            high = high.saturating_add(step);
            step = step.saturating_mul(2);
        }
        let mut high = high.min(count);
        while low < high {
            let middle = low.midpoint(high);
            if index.posting(&self.found, middle)? < number {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.at = Some(low);
        if low < count { index.posting(&self.found, low).map(Some) } else { Ok(None) }
    }

    fn seek_backward(&mut self, index: &dyn Lookup, number: u32) -> Result<Option<u32>, IndexFault> {
        // Everything from `high` on is higher than what is looked for.
        let mut high = self.at.map_or(self.found.count, |at| at.saturating_add(1)).min(self.found.count);
        let (mut low, mut step) = (high, 1);
        while low > 0 && index.posting(&self.found, low - 1)? > number {
            high = low - 1;
            low = low.saturating_sub(step);
            step = step.saturating_mul(2);
        }
        while low < high {
            let middle = low.midpoint(high);
            if index.posting(&self.found, middle)? > number {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        match low.checked_sub(1) {
            Some(at) => {
                self.at = Some(at);
                index.posting(&self.found, at).map(Some)
            }
            None => {
                self.found.count = 0;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::event::{Position, Version};
    use crate::log::index::Place;
    use crate::log::index::encode::encode;
    use crate::log::index::file::{Identity, IndexFile};
    use crate::log::index::memory::MemoryIndex;
    use crate::log::index::pages::Source;

    /// An event: its stream, its type and its tags.
    type Made = (u8, u8, Vec<u8>);

    fn indexes(events: &[Made]) -> (MemoryIndex, IndexFile, KeyHasher) {
        let hasher = KeyHasher::new(Uuid::from_u128(5));
        let mut index = MemoryIndex::new(Position::new(1));
        let mut versions = [0; 256];
        for (number, (stream, kind, tags)) in (0u64..).zip(events) {
            let place = Place { frame: 4096 + number * 800, record: 4160 + number * 800 };
            let event = index.event(place, Uuid::from_u128(u128::from(number * 7 % 5)));
            versions[usize::from(*stream)] += 1;
            let mut note = |kind, name: String, version| {
                let key = index.key(&hasher.key(kind, &name));
                index.note(key, event, Version::new(version));
            };
            note(Kind::Stream, format!("s{stream}"), versions[usize::from(*stream)]);
            note(Kind::Type, format!("t{kind}"), 0);
            tags.iter().for_each(|tag| note(Kind::Tag, format!("g{tag}"), 0));
        }
        let sealed = crate::log::index::Sealed { len: 9, chain: 1 };
        let identity = Identity { store_id: Uuid::from_u128(5), first: Position::new(1), salt: 3, sealed };
        let bytes = encode(&index, &identity, hasher).unwrap();
        let file = IndexFile::open(Source::Lent(bytes.into()), &identity).unwrap().unwrap();
        (index, file, hasher)
    }

    fn events() -> impl Strategy<Value = Vec<Made>> {
        prop::collection::vec((0..4u8, 0..3u8, prop::collection::vec(0..5u8, 0..4)), 0..120)
    }

    type Item = (Option<u8>, Vec<u8>, Vec<u8>);

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let item = (
            prop::option::of(0..5u8),
            prop::collection::vec(0..4u8, 0..3),
            prop::collection::vec(0..6u8, 0..3),
        );
        prop::collection::vec(item, 1..3)
    }

    fn query(items: &[Item]) -> Query {
        let one = |(stream, types, tags): &Item| {
            let query = Query::all()
                .types(types.iter().map(|t| format!("t{t}")))
                .tags(tags.iter().map(|t| format!("g{t}")));
            stream.iter().fold(query, |query, stream| query.stream(format!("s{stream}")))
        };
        items.iter().map(one).reduce(Query::or).unwrap()
    }

    fn wanted(events: &[Made], items: &[Item]) -> Vec<u32> {
        let matches = |(stream, kind, tags): &Made| {
            items.iter().any(|(in_stream, types, all)| {
                in_stream.is_none_or(|s| s == *stream)
                    && (types.is_empty() || types.contains(kind))
                    && all.iter().all(|tag| tags.contains(tag))
            })
        };
        (0..).zip(events).filter(|(_, event)| matches(event)).map(|(number, _)| number).collect()
    }

    fn pages(
        index: &dyn Lookup,
        query: &Prepared,
        (from, to): (u32, u32),
        direction: Direction,
        limit: usize,
    ) -> Vec<u32> {
        let (mut all, mut next) = (Vec::new(), Some(from));
        while let Some(at) = next {
            let found = matches(index, query, (at, to), direction, limit).unwrap();
            all.extend(found.numbers);
            next = found.next;
        }
        all
    }

    #[test]
    fn a_look_ends_after_so_many_steps_although_nothing_matches() {
        let made: Vec<Made> = (0..60_000u32).map(|n| (0, 0, vec![u8::from(n % 2 == 0)])).collect();
        let (memory, file, hasher) = indexes(&made);
        let never = || Query::all().tags(["g0", "g1"]);
        let indexes: [&dyn Lookup; 2] = [&memory, &file];
        for (index, query) in indexes.into_iter().zip([never(), never().or(never())]) {
            let query = Prepared::new(&query, hasher);
            for (from, to, direction) in [(0, 70_000, Direction::Forward), (59_999, 0, Direction::Backward)] {
                let (mut next, mut looks) = (Some(from), 0);
                while let Some(at) = next {
                    let found = matches(index, &query, (at, to), direction, 10).unwrap();
                    assert!(found.numbers.is_empty());
                    assert!(found.next.is_none_or(|next| next.abs_diff(at) <= 20_000), "a short look");
                    (next, looks) = (found.next, looks + 1);
                }
                assert!((5..100).contains(&looks), "{looks}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_query_finds_what_a_plain_filter_finds(events in events(), items in items(), a in 0..130u32, b in 0..130u32, limit in 1..9usize) {
            let (memory, file, hasher) = indexes(&events);
            let query = Prepared::new(&query(&items), hasher);
            let (low, high) = (a.min(b), a.max(b));
            let mut expected: Vec<u32> = wanted(&events, &items).into_iter().filter(|n| (low..=high).contains(n)).collect();
            let indexes: [&dyn Lookup; 2] = [&memory, &file];
            for index in indexes {
                prop_assert_eq!(&pages(index, &query, (low, high), Direction::Forward, limit), &expected);
            }
            expected.reverse();
            for index in indexes {
                prop_assert_eq!(&pages(index, &query, (high, low), Direction::Backward, limit), &expected);
            }
        }

        #[test]
        fn a_file_tells_what_the_index_in_memory_does(events in events()) {
            let (memory, file, hasher) = indexes(&events);
            prop_assert_eq!(memory.events(), file.events());
            for number in 0..125 {
                prop_assert_eq!(memory.place(number).unwrap(), file.place(number).unwrap());
            }
            for (kind, letter) in [(Kind::Stream, 's'), (Kind::Type, 't'), (Kind::Tag, 'g')] {
                for name in (0..7).map(|n| format!("{letter}{n}")) {
                    let key = hasher.key(kind, &name);
                    let (a, b) = (memory.find(&key).unwrap(), file.find(&key).unwrap());
                    prop_assert_eq!(a.map(|f| (f.count, f.first, f.last)), b.map(|f| (f.count, f.first, f.last)));
                    if kind == Kind::Stream {
                        prop_assert_eq!(a.map(|f| (f.base, f.version)), b.map(|f| (f.base, f.version)));
                    }
                }
            }
            for id in (0..8).map(Uuid::from_u128) {
                let found = file.with_id(id, hasher.id(id)).unwrap();
                prop_assert_eq!(memory.find_id(id).is_some(), !found.is_empty());
                prop_assert!(memory.find_id(id).is_none_or(|number| found.contains(&number)));
            }
        }
    }
}
