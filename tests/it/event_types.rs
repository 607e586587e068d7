//! How many events of each type there are, as the indexes tell: what a scan tells, and without reading an event.

use std::collections::BTreeMap;

use everfold::{
    Batch, Durability, ErrorKind, Event, EventTypeCount, MemoryStorage, Position, Retention, Store,
};
use proptest::prelude::*;

use crate::ledger::small;

/// Counted by reading every event.
fn scanned(store: &Store) -> Vec<(String, u64, u64, u64)> {
    let mut types: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for event in store.read(store.log_start().previous()) {
        let event = event.unwrap();
        let position = event.position().get();
        let (count, _, last) = types.entry(event.event_type().to_owned()).or_insert((0, position, 0));
        (*count, *last) = (*count + 1, position);
    }
    types.into_iter().map(|(name, (count, first, last))| (name, count, first, last)).collect()
}

fn plain(found: &EventTypeCount) -> (String, u64, u64, u64) {
    (found.event_type.clone(), found.count, found.first.get(), found.last.get())
}

/// What the indexes tell is what a scan tells, as a whole and by segment.
#[track_caller]
fn check_types(store: &Store) {
    let types = store.event_types().unwrap();
    assert_eq!(types.iter().map(plain).collect::<Vec<_>>(), scanned(store));
    let mut next = store.log_start();
    for segment in types.segments() {
        assert_eq!(segment.first, next);
        let events = segment.types.iter().map(|found| found.count).sum::<u64>();
        assert_eq!(segment.last.get() + 1 - segment.first.get(), events);
        for found in &segment.types {
            assert!((segment.first..=segment.last).contains(&found.first) && found.last <= segment.last);
            let of_all = types.get(&found.event_type).unwrap();
            assert!(of_all.first <= found.first && found.last <= of_all.last);
        }
        next = Position::new(segment.last.get() + 1);
    }
    assert_eq!(next.get(), store.watermark().get() + 1, "every durable event is counted");
}

#[derive(Clone, Debug)]
enum Op {
    Append { types: Vec<u8>, size: usize, durable: bool },
    Sync,
    Retain(u64),
    Reopen { mapped: bool },
    LoseIndexes(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let append = (prop::collection::vec(0..12u8, 1..6), 0..600usize, any::<bool>());
    let op = prop_oneof![
        8 => append.prop_map(|(types, size, durable)| Op::Append { types, size, durable }),
        1 => Just(Op::Sync),
        1 => (0..100u64).prop_map(Op::Retain),
        1 => any::<bool>().prop_map(|mapped| Op::Reopen { mapped }),
        1 => any::<u64>().prop_map(Op::LoseIndexes),
    ];
    prop::collection::vec(op, 1..60)
}

fn run(ops: Vec<Op>) {
    let storage = MemoryStorage::new();
    let mut store = small().open_memory(&storage).unwrap();
    for op in ops {
        match op {
            Op::Append { types, size, durable } => {
                let durability = if durable { Durability::Durable } else { Durability::Deferred };
                let batch = types.iter().fold(Batch::new().durability(durability), |batch, number| {
                    let event = Event::raw(format!("type@{}", number + 1), vec![*number; size]);
                    batch.event(format!("s{}", number % 3), event.tag(format!("type:{number}")))
                });
                store.append_batch(batch).unwrap();
            }
            Op::Sync => {
                store.sync().unwrap();
            }
            Op::Retain(percent) => {
                let before = Position::new(store.watermark().get() * percent / 100);
                store.retain(&Retention::new().before(before)).unwrap();
            }
            Op::Reopen { mapped } => {
                store.close().unwrap();
                store = small().map_segments(mapped).open_memory(&storage).unwrap();
            }
            Op::LoseIndexes(which) => {
                store.close().unwrap();
                let is_index = |name: &String| name.ends_with(".idx") || name.ends_with(".keys");
                for (number, name) in storage.files().into_iter().filter(is_index).enumerate() {
                    if which >> (number % 64) & 1 == 1 {
                        storage.delete(&name).unwrap();
                    }
                }
                store = small().open_memory(&storage).unwrap();
            }
        }
        check_types(&store);
    }
    store.sync().unwrap();
    check_types(&store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_indexes_count_types_as_a_scan_does(ops in ops()) {
        run(ops);
    }
}

/// A closed store of several segments whose types are many.
fn filled() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    for n in 0..200u64 {
        let event = Event::raw(format!("type-{}", n % 40), vec![0xab; 300]);
        store.append_batch(Batch::new().event("s", event).durability(Durability::Deferred)).unwrap();
    }
    store.close().unwrap();
    storage
}

fn names(storage: &MemoryStorage, ending: &str) -> Vec<String> {
    storage.files().into_iter().filter(|name| name.ends_with(ending)).collect()
}

#[test]
fn no_event_is_read_to_count_types() {
    let storage = filled();
    let segments = names(&storage, ".seg");
    assert!(segments.len() > 8);
    for name in &segments[..segments.len() - 1] {
        storage.flip_bit(name, 4096 + 400, 1).unwrap();
    }
    let store = small().open_memory(&storage).unwrap();
    assert!(store.read(Position::START).any(|event| event.is_err()), "a scan meets the damage");
    let types = store.event_types().unwrap();
    assert_eq!(types.iter().map(|found| found.count).collect::<Vec<_>>(), [5; 40]);
    assert!(types.segments().iter().all(|segment| !segment.read_whole));
}

#[test]
fn a_segment_without_a_good_index_is_read_whole_and_the_answer_says_so() {
    let storage = filled();
    let before = small().open_memory(&storage.crash(u64::MAX)).unwrap().event_types().unwrap();
    let indexes = names(&storage, ".idx");
    for mapped in [true, false] {
        let copy = storage.crash(u64::MAX);
        copy.delete(&indexes[1]).unwrap();
        // In the last page but the ids', where the names' lists are.
        let pages = copy.file(&indexes[3]).unwrap().len() / 4096;
        for page in 1..pages {
            copy.flip_bit(&indexes[3], u64::try_from(page * 4096 + 100).unwrap(), 3).unwrap();
        }
        let store = small().map_segments(mapped).read_only(true).open_memory(&copy).unwrap();
        let types = store.event_types().unwrap();
        assert!(types.iter().eq(before.iter()));
        let read: Vec<_> =
            (0..).zip(types.segments()).filter(|(_, segment)| segment.read_whole).map(|(at, _)| at).collect();
        assert_eq!(read, [1, 3]);
    }
}

#[test]
fn types_that_damage_hides_are_an_error_and_not_left_out() {
    let storage = filled();
    let (segments, indexes) = (names(&storage, ".seg"), names(&storage, ".idx"));
    storage.flip_bit(&segments[2], 4096 + 400, 1).unwrap();
    storage.delete(&indexes[2]).unwrap();
    let store = small().open_memory(&storage).unwrap();
    let error = store.event_types().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.corruption().unwrap().file, segments[2]);
    store.close().unwrap();
    assert_eq!(store.event_types().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn types_are_counted_up_to_what_is_durable_while_others_append() {
    let store = small().open_memory(&MemoryStorage::new()).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..300u64 {
                        let event = Event::raw(format!("type-{}", (n + writer) % 30), vec![1; 200]);
                        let durability = if n % 7 == 0 { Durability::Durable } else { Durability::Deferred };
                        store.append_batch(Batch::new().event("s", event).durability(durability)).unwrap();
                    }
                })
            })
            .collect();
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let (before, types, after) = (store.watermark(), store.event_types().unwrap(), store.watermark());
            let counted = types.iter().map(|found| found.count).sum::<u64>();
            assert!((before.get()..=after.get()).contains(&counted));
        }
    });
    store.sync().unwrap();
    check_types(&store);
}
