//! Numbers merged into rows that rarely repeat, where they wait for the end of the batch: as if each came alone.

use std::collections::BTreeMap;
use std::time::Duration;

use everfold::{
    ApplyError, ErrorKind, Index, NamedView, OnError, Options, Position, Projection, ProjectionOptions,
    RecordedEvent, View, ViewBatch, Views,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::view_merge::{append, store, store_with};

const FOR_EVER: Duration = Duration::MAX;
/// So many rows that it was seen how rarely they repeat.
const MANY: u32 = 33_000;
/// Nothing can be merged into it.
const LAST: u64 = 13;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Op {
    Merge(u32, u64),
    /// Into the other view, too.
    MergeBoth(u32, u64),
    /// As no other is merged.
    MergeOtherwise(u32, u64),
    /// Merges what one row is into another.
    Copy(u32, u32),
    Remove(u32),
}

struct Numbers;

struct Beside;

impl NamedView for Beside {
    const NAME: &'static str = "beside";
    type Key = u32;
    type Value = u64;
}

struct ByRest;

impl Index<u32, u64> for ByRest {
    const NAME: &'static str = "by-rest";
    type Key = u64;

    fn keys(_: &u32, number: &u64) -> impl IntoIterator<Item = u64> {
        Some(number % 10)
    }
}

/// The order of the numbers is seen.
fn join(number: &mut u64, more: u64) {
    assert_ne!(*number, LAST, "that was the last");
    *number = number.wrapping_mul(31).wrapping_add(more);
}

fn join_otherwise(number: &mut u64, more: u64) {
    *number = number.rotate_left(1) ^ more;
}

impl Projection for Numbers {
    const NAME: &'static str = "numbers";
    const GENERATION: u32 = 1;
    type Key = u32;
    type Value = u64;

    fn views() -> Views<u32, u64> {
        Views::new().view::<Beside>().index::<ByRest>()
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u32, u64>) -> Result<(), ApplyError> {
        match event.decode()? {
            Op::Merge(key, number) => view.merge(key, number, join),
            Op::MergeBoth(key, number) => {
                view.merge(key, number, join)?;
                view.of::<Beside>()?.merge(key, number, join)
            }
            Op::MergeOtherwise(key, number) => view.merge(key, number, join_otherwise),
            Op::Copy(from, to) => {
                let number = view.get(&from)?.copied();
                number.map_or(Ok(()), |number| view.merge(to, number, join))
            }
            Op::Remove(key) => {
                view.remove(&key);
                Ok(())
            }
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    own: BTreeMap<u32, u64>,
    beside: BTreeMap<u32, u64>,
}

impl Model {
    /// False: the event fails, and changes nothing.
    fn apply(&mut self, op: Op) -> bool {
        let merge = |rows: &mut BTreeMap<u32, u64>, key, number, join: fn(&mut u64, u64)| {
            rows.entry(key).and_modify(|row| join(row, number)).or_insert(number);
        };
        let Model { own, beside } = self;
        match op {
            Op::Merge(key, _) | Op::MergeBoth(key, _) if own.get(&key) == Some(&LAST) => return false,
            Op::Merge(key, number) => merge(own, key, number, join),
            Op::MergeBoth(key, number) => {
                merge(own, key, number, join);
                merge(beside, key, number, join);
            }
            Op::MergeOtherwise(key, number) => merge(own, key, number, join_otherwise),
            Op::Copy(from, to) => {
                own.get(&from).copied().into_iter().for_each(|number| merge(own, to, number, join));
            }
            Op::Remove(key) => drop(own.remove(&key)),
        }
        true
    }
}

fn rows(view: &View<u32, u64>) -> Model {
    Model {
        own: view.iter().collect::<Result<_, _>>().unwrap(),
        beside: view.of::<Beside>().unwrap().iter().collect::<Result<_, _>>().unwrap(),
    }
}

/// On any machine.
fn three_threads() -> ProjectionOptions {
    ProjectionOptions::new().build_threads(3)
}

/// So many rows, in no order, and then some events.
fn many(then: impl IntoIterator<Item = Op>) -> Vec<Op> {
    let merge = |number: u32| Op::MergeBoth(number.wrapping_mul(7919) % (2 * MANY), u64::from(number) + 100);
    (0..MANY).map(merge).chain(then).collect()
}

/// Mostly merged, and sometimes only merged.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    // Those of the first few are changed often.
    let key = || prop_oneof![0..8u32, 0..3 * MANY];
    let number = || 100..200u64;
    let merge = move || {
        prop_oneof![
            (key(), number()).prop_map(|(key, number)| Op::Merge(key, number)),
            (key(), number()).prop_map(|(key, number)| Op::MergeBoth(key, number)),
        ]
    };
    let otherwise = move || (key(), number()).prop_map(|(key, number)| Op::MergeOtherwise(key, number));
    let other = prop_oneof![
        otherwise(),
        (key(), key()).prop_map(|(from, to)| Op::Copy(from, to)),
        key().prop_map(Op::Remove),
    ];
    let merges = prop_oneof![40 => merge(), 1 => otherwise()];
    let any = prop_oneof![40 => merge(), 1 => other];
    prop_oneof![vec(merge(), 0..1000), vec(merges, 0..400), vec(any, 0..400)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn values_that_wait_for_the_end_are_merged_as_if_each_came_alone(then in ops(), later in ops(), mapped: bool) {
        let mut model = Model::default();
        // Events are read from many segments, and from many buffers where these are not mapped.
        let options = Options::new().segment_size(256 << 10).map_segments(mapped);
        let store = store_with::<Op>(&options, &[]);
        let view = store.project_with(Numbers, three_threads()).unwrap();
        // The second time there are rows.
        for ops in [many(then), later] {
            ops.iter().for_each(|op| assert!(model.apply(*op)));
            view.pause().unwrap();
            append(&store, &ops);
            view.resume().unwrap();
            view.wait_for(store.watermark(), FOR_EVER).unwrap();
            prop_assert_eq!(&rows(&view), &model);
        }
        prop_assert!(view.verify().unwrap().is_sound());
    }
}

/// Failing events among many that do not: known at the end only, or when something else than to merge is asked for.
fn failing(otherwise: bool) -> Vec<Op> {
    let merges = |from: u32| (from..from + 50).map(|key| Op::Merge(key, 100));
    let (new, held) = (5 * MANY, 7919);
    let last = [Op::Merge(new, LAST), Op::Merge(new, 7), Op::Merge(new, 8), Op::Merge(held, 100)];
    let other = otherwise.then_some(Op::MergeOtherwise(9, 100));
    many(merges(0).chain(last).chain(merges(3)).chain(other).chain(merges(new)))
}

#[test]
fn a_merge_that_fails_at_the_end_stops_the_projection_before_its_event() {
    for otherwise in [false, true] {
        let (ops, mut model) = (failing(otherwise), Model::default());
        let failed = ops.iter().position(|op| !model.apply(*op)).unwrap();
        let store = store(&ops);
        let view = store.project_with(Numbers, three_threads()).unwrap();
        let error = view.wait_for(store.watermark(), FOR_EVER).unwrap_err();
        let position = Position::new(u64::try_from(failed).unwrap() + 1);
        assert_eq!(error.kind(), ErrorKind::Stopped { position });
        assert!(error.to_string().contains("that was the last"), "{error}");
        assert_eq!(rows(&view), model);
    }
}

#[test]
fn each_event_whose_merge_fails_at_the_end_is_set_aside_and_no_other() {
    for otherwise in [false, true] {
        let (ops, mut model) = (failing(otherwise), Model::default());
        let failed: Vec<u64> =
            ops.iter().zip(1..).filter(|(op, _)| !model.apply(**op)).map(|(_, position)| position).collect();
        assert_eq!(failed.len(), 3, "two of them, and one of those behind");
        let store = store(&ops);
        let aside = three_threads().on_error(OnError::SetAside);
        let view = store.project_with(Numbers, aside).unwrap();
        view.wait_for(store.watermark(), FOR_EVER).unwrap();
        let found: Vec<_> = view.set_aside().unwrap().iter().map(|event| event.position.get()).collect();
        assert_eq!(found, failed);
        assert_eq!(rows(&view), model);
        assert!(view.verify().unwrap().is_sound());
    }
}
