//! Lives made up at random, against a plain list.

use everfold::{
    AppendError, Batch, Conflict, Durability, ErrorKind, Event, Expected, Guard, MemoryStorage, Position,
    Retention, Store, Uuid, Version,
};
use proptest::prelude::*;

use crate::ask::{self, Ask};
use crate::ledger::{Fact, Ledger, small};

const STREAMS: u8 = 4;

#[derive(Clone, Debug)]
enum Op {
    Append {
        stream: u8,
        sizes: Vec<u16>,
        durability: Durability,
        expected: Want,
    },
    /// Events for several streams, and guards.
    AppendBatch {
        events: Vec<(u8, u16)>,
        guards: Vec<Condition>,
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
    /// Reads what matches a query, both ways.
    Query {
        ask: u16,
        at: u8,
        limit: u8,
    },
    /// Follows a query from where it was followed to before.
    Follow {
        ask: u16,
        events: u8,
    },
    /// Drops segments wholly before a part of the log, in 256ths.
    Retain(u8),
    /// Fills the active segment, so that the next append rolls.
    Roll,
    Sync,
    Reopen(Care),
    Crash(u64, Care),
}

/// What happens to the files of indexes before a store is opened, and how it is opened.
#[derive(Clone, Copy, Debug)]
struct Care {
    /// Two bits for each file: whether it stays, is lost, is damaged, or is cut off.
    harm: u64,
    map: bool,
    max_index_bytes: usize,
}

/// A guard, as seen from what there is.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Version(u8, Want),
    /// No event that matches a query after the position so far before the end.
    NoEvent(u16, u8),
}

/// What breaks a guard: the last event, and the version of the stream.
type Broken = (u64, Option<u64>);

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
    let condition = prop_oneof![
        2 => (stream, want()).prop_map(|(stream, want)| Condition::Version(stream, want)),
        2 => (any::<u16>(), 0..6u8).prop_map(|(ask, back)| Condition::NoEvent(ask, back)),
        1 => any::<u16>().prop_map(|ask| Condition::NoEvent(ask, u8::MAX)),
    ];
    let guards = prop::collection::vec(condition, 0..3);
    let seed = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => append.prop_map(|(stream, sizes, durability, expected)| Op::Append { stream, sizes, durability, expected }),
        6 => (events, guards, durability())
            .prop_map(|(events, guards, durability)| Op::AppendBatch { events, guards, durability }),
        2 => index().prop_map(Op::Resubmit),
        1 => index().prop_map(Op::ResubmitWithAnother),
        4 => (any::<u8>(), 0..20u8).prop_map(|(after, limit)| Op::Read { after, limit }),
        6 => (any::<u16>(), any::<u8>(), 0..20u8).prop_map(|(ask, at, limit)| Op::Query { ask, at, limit }),
        2 => (0..4u16, 0..9u8).prop_map(|(ask, events)| Op::Follow { ask, events }),
        1 => any::<u8>().prop_map(Op::Retain),
        1 => Just(Op::Roll),
        1 => Just(Op::Sync),
        2 => care().prop_map(Op::Reopen),
        2 => (seed, care()).prop_map(|(seed, care)| Op::Crash(seed, care)),
    ]
}

fn care() -> impl Strategy<Value = Care> {
    let harm = prop_oneof![2 => Just(0), 1 => Just(0x5555_5555_5555_5555), 2 => any::<u64>()];
    let max_index_bytes = prop_oneof![3 => Just(128 << 20), 1 => Just(3000), 1 => Just(1)];
    (harm, any::<bool>(), max_index_bytes).prop_map(|(harm, map, max_index_bytes)| Care {
        harm,
        map,
        max_index_bytes,
    })
}

impl Care {
    fn harm(self, storage: &MemoryStorage) {
        let is_index = |name: &String| name.ends_with(".idx") || name.ends_with(".keys");
        for (n, name) in storage.files().into_iter().filter(is_index).enumerate() {
            let harm = self.harm.rotate_right(u32::try_from(n * 2).unwrap());
            let len = u64::try_from(storage.file(&name).unwrap().len()).unwrap();
            match harm % 4 {
                0 => {}
                1 => storage.delete(&name).unwrap(),
                2 => storage.flip_bit(&name, harm % len, 3).unwrap(),
                _ => storage.truncate(&name, harm % len).unwrap(),
            }
        }
    }

    fn open(self, storage: &MemoryStorage) -> Store {
        self.harm(storage);
        let options = small().map_segments(self.map).max_index_bytes(self.max_index_bytes);
        options.open_memory(storage).unwrap()
    }
}

/// A store and the plain list.
struct Twin {
    storage: MemoryStorage,
    store: Store,
    model: Ledger,
    /// How far each of some queries was followed.
    followed: [u64; 4],
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
        let store = small().open_memory(&storage).unwrap();
        Twin { store, storage, model: Ledger::default(), followed: [0; 4] }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Append { stream, sizes, durability, expected } => {
                let events: Vec<_> = sizes.iter().map(|size| (*stream, *size)).collect();
                self.append(&events, &[Condition::Version(*stream, *expected)], *durability);
            }
            Op::AppendBatch { events, guards, durability } => self.append(events, guards, *durability),
            Op::Resubmit(index) => self.resubmit(index, false),
            Op::ResubmitWithAnother(index) => self.resubmit(index, true),
            Op::Read { after, limit } => self.read(u64::from(*after), u64::from(*limit)),
            Op::Query { ask, at, limit } => self.query(&Ask::number(*ask), u64::from(*at), *limit),
            Op::Retain(part) => {
                let before = self.store.watermark().get() * u64::from(*part) / 256;
                let left = self.left();
                self.store.retain(&Retention::new().before(Position::new(before))).unwrap();
                assert!((left..=before.max(left)).contains(&self.left()));
            }
            Op::Follow { ask, events } => self.follow(*ask, usize::from(*events)),
            Op::Roll => self.append(&[(0, 3800)], &[], Durability::Deferred),
            Op::Sync => {
                assert_eq!(self.store.sync().unwrap().get(), self.model.len());
                self.model.acknowledge(Durability::Durable);
            }
            Op::Reopen(care) => {
                self.store.close().unwrap();
                self.model.acknowledge(Durability::Durable);
                self.store = care.open(&self.storage);
                assert!(self.store.recovery().clean, "{}", self.store.recovery());
                assert_eq!(self.all(), self.model.facts());
            }
            Op::Crash(seed, care) => self.crash(*seed, *care),
        }
    }

    /// The first position that retention has left.
    fn left(&self) -> u64 {
        self.store.log_start().get()
    }

    /// What can be read, after what retention has removed, as it was.
    fn all(&self) -> Vec<Fact> {
        let left = self.left();
        let removed = self.model.facts().into_iter().filter(|fact| fact.position < left);
        removed.chain(ask::read(self.store.read(Position::new(left - 1)))).collect()
    }

    /// Holds what a read gives against what it would give if nothing had been removed. `removed` tells whether it asks
    /// for what was; then it may end with an error that says so, and a forward read begins with it.
    fn compare<'a>(
        &self,
        cursor: everfold::Cursor,
        whole: impl Iterator<Item = &'a Fact>,
        removed: bool,
        forward: bool,
    ) {
        let (mut given, mut truncated) = (Vec::new(), false);
        for event in cursor {
            match event {
                Ok(event) => given.push(Fact::from(&event)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Truncated { first: self.store.log_start() });
                    truncated = true;
                }
            }
        }
        let whole: Vec<&Fact> = whole.collect();
        assert!(!truncated || removed, "{whole:?}");
        match (truncated, forward) {
            (false, _) => assert!(given.iter().eq(whole)),
            (true, true) => assert!(given.is_empty()),
            (true, false) => {
                assert!(given.iter().eq(whole.into_iter().take_while(|fact| fact.position >= self.left())));
            }
        }
    }

    fn query(&self, ask: &Ask, at: u64, limit: u8) {
        let (query, all, left) = (ask.query(), ask.of(&self.seen()), self.left());
        let (page, most, at_position) = (usize::from(limit), u64::from(limit), Position::new(at));
        let up = self.store.read_query(&query, at_position).limit(most);
        self.compare(up, all.iter().filter(|fact| fact.position > at).take(page), at + 1 < left, true);
        let down = self.store.read_query_backward(&query, at_position).limit(most);
        let before = all.iter().rev().filter(|fact| fact.position < at).take(page);
        self.compare(down, before, left > 1, false);
    }

    /// The events that readers have to see: those that are durable.
    fn seen(&self) -> Vec<Fact> {
        let last = self.store.watermark().get();
        self.model.facts().into_iter().filter(|fact| fact.position <= last).collect()
    }

    /// What matches comes, in order, and the checkpoint passes all that was given and nothing that was not.
    fn follow(&mut self, ask: u16, events: usize) {
        let (seen, left) = (self.seen(), self.left());
        let from = self.followed[usize::from(ask)].max(left - 1);
        let ask_of = Ask::number(ask * 97 + 4);
        let mut expected = seen.iter().filter(|fact| fact.position > from && ask_of.matches(fact)).peekable();
        let mut subscription = self.store.subscribe_query(&ask_of.query(), Position::new(from));
        for _ in 0..events {
            let event =
                subscription.next_timeout(std::time::Duration::ZERO).map(|event| Fact::from(&event.unwrap()));
            assert_eq!(event.as_ref(), expected.next());
            let checkpoint = subscription.checkpoint().unwrap().get();
            assert!(event.as_ref().is_none_or(|event| event.position <= checkpoint));
            assert!(expected.peek().is_none_or(|next| checkpoint < next.position));
            if event.is_none() {
                assert_eq!(checkpoint, from.max(self.store.watermark().get()));
            }
            self.followed[usize::from(ask)] = checkpoint;
        }
    }

    fn append(&mut self, events: &[(u8, u16)], guards: &[Condition], durability: Durability) {
        let sizes: Vec<usize> = events.iter().map(|(_, size)| usize::from(*size)).collect();
        let mut batch = self.model.make(&sizes);
        let versions: Vec<u64> = (0..STREAMS).map(|stream| self.model.version(&name(stream))).collect();
        let mut next = versions.clone();
        for (fact, (stream, _)) in batch.iter_mut().zip(events) {
            let version = &mut next[usize::from(*stream)];
            *version += 1;
            (fact.stream, fact.version) = (name(*stream), *version);
        }
        let (all, left) = (self.model.facts(), self.left());
        let guards: Vec<(Guard, Option<Broken>)> = guards
            .iter()
            .map(|condition| match condition {
                Condition::Version(stream, want) => {
                    let (stream, version) = (name(*stream), versions[usize::from(*stream)]);
                    let last = all.iter().rev().find(|fact| fact.stream == stream);
                    let broken = (last.map_or(0, |last| last.position), Some(version));
                    (Guard::version(stream, want.expected(version)), (!want.holds(version)).then_some(broken))
                }
                Condition::NoEvent(ask, back) => {
                    let (ask, after) = (Ask::number(*ask), self.model.len().saturating_sub(u64::from(*back)));
                    // Of what was removed nothing is known.
                    let last = ask.of(&all).pop().filter(|last| last.position > after.max(left - 1));
                    let broken = last.map(|last| (last.position, None));
                    (Guard::no_event(ask.query(), Position::new(after)), broken)
                }
            })
            .collect();
        let guarded = guards.iter().fold(request(&batch), |request, (guard, _)| request.guard(guard.clone()));
        let broken = guards.iter().zip(0..).find(|((_, broken), _)| broken.is_some());
        let got = self.store.append_batch(guarded.durability(durability));
        match (broken, got) {
            (None, Ok(done)) => {
                let last = batch.last().unwrap();
                assert_eq!((done.position.get(), done.version.get()), (last.position, last.version));
                assert_eq!((done.first.get(), done.repeated), (batch[0].position, false));
                self.model.batches.push(batch);
                self.model.acknowledge(durability);
            }
            (
                Some(((guard, Some((last, version))), first)),
                Err(AppendError::Conflict(Conflict { guard: told, number, position, actual, .. })),
            ) => {
                assert_eq!((&told, number), (guard, first));
                assert_eq!((position.get(), actual), (*last, version.map(Version::new)));
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
        // Ids that were removed are not known any more.
        if batch[0].position < self.left() {
            return;
        }
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
        let whole = self.model.check(&self.all(), self.model.durable, "read");
        let seen = self.model.batches[..whole].concat();
        let (page, left) = (usize::try_from(limit).unwrap(), self.left());
        let up = self.store.read(Position::new(after)).limit(limit);
        self.compare(up, seen.iter().filter(|fact| fact.position > after).take(page), after + 1 < left, true);
        let down = self.store.read_backward(Position::new(after)).limit(limit);
        self.compare(down, seen.iter().rev().filter(|f| f.position < after).take(page), left > 1, false);
        for stream in (0..=STREAMS).map(name) {
            let (low, own) = (after % 8, || seen.iter().filter(|fact| fact.stream == stream));
            let removed =
                |wanted: &dyn Fn(u64) -> bool| own().any(|f| wanted(f.version) && f.position < left);
            let up = self.store.read_stream(&stream, Version::new(low)).limit(limit);
            let above = own().filter(|fact| fact.version > low).take(page);
            self.compare(up, above, removed(&|version| version > low), true);
            let down = self.store.read_stream_backward(&stream, Version::new(low)).limit(limit);
            let below = own().rev().filter(|fact| fact.version < low).take(page);
            self.compare(down, below, removed(&|version| version < low), false);
        }
    }

    fn crash(&mut self, seed: u64, care: Care) {
        let served = self.model.check(&self.all(), self.model.durable, "before the crash");
        self.storage = self.storage.crash(seed);
        self.store = care.open(&self.storage);
        let at_least = if seed == u64::MAX { self.model.written.max(served) } else { served };
        let whole = self.model.check(&self.all(), at_least, "after the crash");
        self.model.keep(whole);
        // What was served is durable.
        assert!(self.followed.iter().all(|followed| *followed <= self.model.len()));
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
        twin.act(&Op::Reopen(Care { harm: 0, map: true, max_index_bytes: 128 << 20 }));
        (0..12).for_each(|ask| twin.act(&Op::Query { ask: ask * 53, at: 9, limit: 5 }));
    }
}
