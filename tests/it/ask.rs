//! Queries as plain lists, which the plain list of events is asked with: what a store has to find.

use everfold::{Cursor, Position, Query, Store, Version};

use crate::ledger::Fact;

/// An alternative: in which stream, of which types, with which tags.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskItem {
    pub(crate) stream: Option<String>,
    pub(crate) types: Vec<String>,
    pub(crate) tags: Vec<String>,
}

/// Events that match one of the items, of which there is at least one.
#[derive(Clone, Debug)]
pub(crate) struct Ask(pub(crate) Vec<AskItem>);

impl Ask {
    /// One of a row of queries over the names that [`Ledger::make`](crate::ledger::Ledger::make) gives, and some that it
    /// does not: of one item, then of two.
    pub(crate) fn number(seed: u16) -> Self {
        let item = |seed: u16| {
            let types = match seed / 5 % 4 {
                0 => vec![],
                1 => vec![seed % 5],
                2 => vec![seed % 4, (seed + 1) % 4],
                _ => vec![9, seed % 4],
            };
            let tags = match seed / 20 % 4 {
                0 => vec![],
                1 => vec![0],
                2 => vec![1, 0],
                _ => vec![seed % 3],
            };
            AskItem {
                stream: (seed % 5 < 3).then(|| format!("stream-{}", seed % 5 + seed / 80 % 2)),
                types: types.into_iter().map(|n| format!("kind-{n}")).collect(),
                tags: tags.into_iter().map(|n| format!("tag:{n}")).collect(),
            }
        };
        match seed % 3 {
            0 => Ask(vec![item(seed / 3), item(seed / 7 + 11)]),
            _ => Ask(vec![item(seed / 3)]),
        }
    }

    pub(crate) fn query(&self) -> Query {
        let one = |item: &AskItem| {
            let query = Query::all().types(item.types.clone()).tags(item.tags.clone());
            item.stream.iter().fold(query, |query, stream| query.stream(stream.clone()))
        };
        self.0.iter().map(one).reduce(Query::or).unwrap()
    }

    pub(crate) fn matches(&self, fact: &Fact) -> bool {
        self.0.iter().any(|item| {
            item.stream.as_ref().is_none_or(|stream| *stream == fact.stream)
                && (item.types.is_empty() || item.types.contains(&fact.kind))
                && item.tags.iter().all(|tag| fact.tags.contains(tag))
        })
    }

    /// Those of some events that match.
    pub(crate) fn of(&self, facts: &[Fact]) -> Vec<Fact> {
        facts.iter().filter(|fact| self.matches(fact)).cloned().collect()
    }

    /// Holds what a store finds, both ways, from a position on and up to a limit, against these events.
    pub(crate) fn check(&self, store: &Store, facts: &[Fact], at: u64, limit: usize) {
        let (query, all) = (self.query(), self.of(facts));
        let events = u64::try_from(limit).unwrap();
        let up = read(store.read_query(&query, Position::new(at)).limit(events));
        assert!(
            up.iter().eq(all.iter().filter(|fact| fact.position > at).take(limit)),
            "{query}, after {at}"
        );
        let down = read(store.read_query_backward(&query, Position::new(at)).limit(events));
        let before = all.iter().rev().filter(|fact| fact.position < at).take(limit);
        assert!(down.iter().eq(before), "{query}, before {at}");
    }

    /// Holds what some queries and the reads of streams find against these events.
    pub(crate) fn check_some(store: &Store, facts: &[Fact]) {
        for seed in [4, 25, 61] {
            Ask::number(seed).check_all(store, facts);
        }
        for stream in ["stream-0", "stream-1", "stream-2"] {
            let own = || facts.iter().filter(|fact| fact.stream == stream);
            assert!(read(store.read_stream(stream, Version::NONE)).iter().eq(own()), "{stream}");
            let down = read(store.read_stream_backward(stream, Version::END));
            assert!(down.iter().eq(own().rev()), "{stream}, backward");
        }
    }

    /// The same for all of the log.
    pub(crate) fn check_all(&self, store: &Store, facts: &[Fact]) {
        self.check(store, facts, 0, usize::MAX >> 1);
        self.check(store, facts, u64::MAX, usize::MAX >> 1);
    }
}

/// What a cursor gives, which is no error.
pub(crate) fn read(cursor: Cursor) -> Vec<Fact> {
    cursor.map(|event| Fact::from(&event.unwrap())).collect()
}
