//! Lives made up at random, against a plain list.

use everfold::{
    AppendError, Batch, Conflict, Durability, ErrorKind, Event, Expected, Guard, MemoryStorage, Position,
    Store, Uuid, Version,
};
use proptest::prelude::*;

use crate::ledger::{Fact, Ledger, facts, small};

const STREAMS: u8 = 4;

#[derive(Clone, Debug)]
enum Op {
    Append {
        stream: u8,
        sizes: Vec<u16>,
        durability: Durability,
        expected: Want,
    },
    /// Events for several streams, and guards on streams.
    AppendBatch {
        events: Vec<(u8, u16)>,
        guards: Vec<(u8, Want)>,
        durability: Durability,
    },
    /// A batch that is there, again.
    Resubmit(prop::sample::Index),
    /// A batch that is there, but for one event.
    ResubmitWithAnother(prop::sample::Index),
    Read {
        after: u8,
        limit: u8,
    },
    /// Fills the active segment, so that the next append rolls.
    Roll,
    Sync,
    Reopen,
    Crash(u64),
}

/// What an append expects, as seen from the stream's version.
#[derive(Clone, Copy, Debug)]
enum Want {
    Any,
    NoStream,
    Exists,
    Right,
    Wrong(u8),
}

impl Want {
    fn expected(self, version: u64) -> Expected {
        match self {
            Want::Any => Expected::Any,
            Want::NoStream => Expected::NoStream,
            Want::Exists => Expected::Exists,
            Want::Right => Expected::Exact(Version::new(version)),
            Want::Wrong(by) => Expected::Exact(Version::new(version + 1 + u64::from(by))),
        }
    }

    fn holds(self, version: u64) -> bool {
        match self {
            Want::Any | Want::Right => true,
            Want::NoStream => version == 0,
            Want::Exists => version > 0,
            Want::Wrong(_) => false,
        }
    }
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        4 => Just(Want::Any),
        4 => Just(Want::Right),
        1 => Just(Want::NoStream),
        1 => Just(Want::Exists),
        1 => (0..3u8).prop_map(Want::Wrong),
    ]
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Deferred), Just(Durability::Written), Just(Durability::Durable)]
}

fn op() -> impl Strategy<Value = Op> {
    let (stream, size) = (0..STREAMS, 0..900u16);
    let append = (stream.clone(), prop::collection::vec(size.clone(), 1..4), durability(), want());
    let events = prop::collection::vec((stream.clone(), size), 1..5);
    let guards = prop::collection::vec((stream, want()), 0..3);
    let seed = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => append.prop_map(|(stream, sizes, durability, expected)| Op::Append { stream, sizes, durability, expected }),
        6 => (events, guards, durability())
            .prop_map(|(events, guards, durability)| Op::AppendBatch { events, guards, durability }),
        2 => index().prop_map(Op::Resubmit),
        1 => index().prop_map(Op::ResubmitWithAnother),
        4 => (any::<u8>(), 0..20u8).prop_map(|(after, limit)| Op::Read { after, limit }),
        1 => Just(Op::Roll),
        1 => Just(Op::Sync),
        2 => Just(Op::Reopen),
        2 => seed.prop_map(Op::Crash),
    ]
}

/// A store and the plain list.
struct Twin {
    storage: MemoryStorage,
    store: Store,
    model: Ledger,
}

fn request(batch: &[Fact]) -> Batch {
    batch.iter().fold(Batch::new(), |request, fact| request.event(fact.stream.clone(), fact.event()))
}

fn name(stream: u8) -> String {
    format!("stream-{stream}")
}

impl Twin {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        Twin { store: small().open_memory(&storage).unwrap(), storage, model: Ledger::default() }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Append { stream, sizes, durability, expected } => {
                let events: Vec<_> = sizes.iter().map(|size| (*stream, *size)).collect();
                self.append(&events, &[(*stream, *expected)], *durability);
            }
            Op::AppendBatch { events, guards, durability } => self.append(events, guards, *durability),
            Op::Resubmit(index) => self.resubmit(index, false),
            Op::ResubmitWithAnother(index) => self.resubmit(index, true),
            Op::Read { after, limit } => self.read(u64::from(*after), u64::from(*limit)),
            Op::Roll => self.append(&[(0, 3800)], &[], Durability::Deferred),
            Op::Sync => {
                assert_eq!(self.store.sync().unwrap().get(), self.model.len());
                self.model.acknowledge(Durability::Durable);
            }
            Op::Reopen => {
                self.store.close().unwrap();
                self.model.acknowledge(Durability::Durable);
                self.store = small().open_memory(&self.storage).unwrap();
                assert!(self.store.recovery().clean, "{}", self.store.recovery());
                assert_eq!(facts(&self.store), self.model.facts());
            }
            Op::Crash(seed) => self.crash(*seed),
        }
    }

    fn append(&mut self, events: &[(u8, u16)], guards: &[(u8, Want)], durability: Durability) {
        let sizes: Vec<usize> = events.iter().map(|(_, size)| usize::from(*size)).collect();
        let mut batch = self.model.make(&sizes);
        let versions: Vec<u64> = (0..STREAMS).map(|stream| self.model.version(&name(stream))).collect();
        let mut next = versions.clone();
        for (fact, (stream, _)) in batch.iter_mut().zip(events) {
            let version = &mut next[usize::from(*stream)];
            *version += 1;
            (fact.stream, fact.version) = (name(*stream), *version);
        }
        let guarded = guards.iter().fold(request(&batch), |request, (stream, want)| {
            request.guard(Guard::version(name(*stream), want.expected(versions[usize::from(*stream)])))
        });
        let broken = guards.iter().find(|(stream, want)| !want.holds(versions[usize::from(*stream)]));
        let got = self.store.append_batch(guarded.durability(durability));
        match (broken, got) {
            (None, Ok(done)) => {
                let last = batch.last().unwrap();
                assert_eq!((done.position.get(), done.version.get()), (last.position, last.version));
                assert_eq!((done.first.get(), done.repeated), (batch[0].position, false));
                self.model.batches.push(batch);
                self.model.acknowledge(durability);
            }
            (Some((stream, want)), Err(AppendError::Conflict(Conflict { guard, actual, .. }))) => {
                let version = versions[usize::from(*stream)];
                assert_eq!(guard, Guard::version(name(*stream), want.expected(version)));
                assert_eq!(actual, Some(Version::new(version)));
            }
            (broken, got) => unreachable!("broken guard: {broken:?}, outcome: {got:?}"),
        }
    }

    /// The same ids again give the first positions, whatever the guards say; a part of them, or them and others,
    /// are refused.
    fn resubmit(&mut self, index: &prop::sample::Index, with_another: bool) {
        if self.model.batches.is_empty() {
            return;
        }
        let batch = index.get(&self.model.batches);
        let mut again = request(batch).guard(Guard::version("stream-0", Version::new(1 << 40)));
        if with_another {
            again = again.event("stream-1", Event::raw("t", "another").id(Uuid::new_v4()));
        }
        match self.store.append_batch(again) {
            Ok(done) => {
                let last = batch.last().unwrap();
                assert!(done.repeated && !with_another);
                assert_eq!((done.first.get(), done.position.get()), (batch[0].position, last.position));
                assert_eq!(done.version.get(), last.version);
                self.model.acknowledge(Durability::Durable);
            }
            Err(AppendError::Failed(error)) => {
                assert!(with_another, "{error}");
                assert_eq!(error.kind(), ErrorKind::IdTaken { position: Position::new(batch[0].position) });
            }
            Err(other) => unreachable!("{other}"),
        }
    }

    /// Readers see what is durable: all that was acknowledged as such, no part of a batch, nothing else.
    fn read(&self, after: u64, limit: u64) {
        let whole = self.model.check(&facts(&self.store), self.model.durable, "read");
        let seen = self.model.batches[..whole].concat();
        let to_facts = |cursor: everfold::Cursor| cursor.map(|e| Fact::from(&e.unwrap())).collect::<Vec<_>>();
        let page = usize::try_from(limit).unwrap();
        let up = to_facts(self.store.read(Position::new(after)).limit(limit));
        assert!(up.iter().eq(seen.iter().filter(|fact| fact.position > after).take(page)));
        let down = to_facts(self.store.read_backward(Position::new(after)).limit(limit));
        assert!(down.iter().eq(seen.iter().rev().filter(|fact| fact.position < after).take(page)));
        for stream in (0..=STREAMS).map(name) {
            let (low, own) = (after % 8, || seen.iter().filter(|fact| fact.stream == stream));
            let up = to_facts(self.store.read_stream(&stream, Version::new(low)).limit(limit));
            assert!(up.iter().eq(own().filter(|fact| fact.version > low).take(page)));
            let down = to_facts(self.store.read_stream_backward(&stream, Version::new(low)).limit(limit));
            assert!(down.iter().eq(own().rev().filter(|fact| fact.version < low).take(page)));
        }
    }

    fn crash(&mut self, seed: u64) {
        let served = self.model.check(&facts(&self.store), self.model.durable, "before the crash");
        self.storage = self.storage.crash(seed);
        self.store = small().open_memory(&self.storage).unwrap();
        let at_least = if seed == u64::MAX { self.model.written.max(served) } else { served };
        let whole = self.model.check(&facts(&self.store), at_least, "after the crash");
        self.model.keep(whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_does_what_a_plain_list_does(ops in prop::collection::vec(op(), 1..60)) {
        let mut twin = Twin::new();
        ops.iter().for_each(|op| twin.act(op));
        twin.act(&Op::Sync);
        twin.act(&Op::Read { after: 0, limit: 255 });
        twin.act(&Op::Reopen);
    }
}
