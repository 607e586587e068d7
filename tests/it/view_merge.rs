//! Values merged into rows, where there are so many that values wait for each other: as if each came alone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use everfold::{
    ApplyError, Batch, Durability, ErrorKind, Event, Index, MemoryStorage, NamedView, OnError, Options,
    Position, Projection, ProjectionOptions, RecordedEvent, Store, View, ViewBatch, Views,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

const FOR_EVER: Duration = Duration::MAX;
/// So many rows that values wait.
const MANY: u32 = 9000;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Op {
    Merge(u32, String),
    /// Into the other view, too.
    MergeBoth(u32, String),
    /// Puts what the row of one key is into that of another.
    Copy(u32, u32),
    Remove(u32),
    Update(u32, String),
    /// Fails after it has merged something.
    Fail(u32),
    /// Goes on when merging panics.
    Careless(u32, String),
    /// Reads a row of both views, and goes on when the first panics.
    Peek(u32),
}

struct Texts;

struct Beside;

impl NamedView for Beside {
    const NAME: &'static str = "beside";
    type Key = u32;
    type Value = String;
}

struct ByLength;

impl Index<u32, String> for ByLength {
    const NAME: &'static str = "by-length";
    type Key = u32;

    fn keys(_: &u32, text: &String) -> impl IntoIterator<Item = u32> {
        u32::try_from(text.len())
    }
}

/// The order of the values is seen. There is no merging of "!".
fn join(text: &mut String, more: String) {
    assert_ne!(more, "!", "nobody shouts");
    text.push_str(&more);
}

impl Projection for Texts {
    const NAME: &'static str = "texts";
    const GENERATION: u32 = 1;
    type Key = u32;
    type Value = String;

    fn views() -> Views<u32, String> {
        Views::new().view::<Beside>().index::<ByLength>()
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u32, String>) -> Result<(), ApplyError> {
        match event.decode()? {
            Op::Merge(key, text) => view.merge(key, text, join),
            Op::MergeBoth(key, text) => {
                view.merge(key, text.clone(), join)?;
                view.of::<Beside>()?.merge(key, text, join)
            }
            Op::Copy(from, to) => {
                if let Some(text) = view.get(&from)?.cloned() {
                    view.put(to, text);
                }
                Ok(())
            }
            Op::Remove(key) => {
                view.remove(&key);
                Ok(())
            }
            Op::Update(key, text) => view.update(key, |row| Some(row.unwrap_or_default() + &text)),
            Op::Fail(key) => {
                view.merge(key, "never".into(), join)?;
                Err(ApplyError::new("it fails"))
            }
            Op::Careless(key, text) => {
                let _panic = catch_unwind(AssertUnwindSafe(|| view.merge(key, text, join)));
                Ok(())
            }
            Op::Peek(key) => {
                let _panic = catch_unwind(AssertUnwindSafe(|| view.get(&key).map(drop)));
                view.of::<Beside>()?.get(&key).map(drop)
            }
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    own: BTreeMap<u32, String>,
    beside: BTreeMap<u32, String>,
}

impl Model {
    /// False: the event fails, and changes nothing.
    fn apply(&mut self, op: &Op) -> bool {
        let Model { own, beside } = self;
        match op {
            Op::Merge(key, text) | Op::MergeBoth(key, text) if text == "!" && own.contains_key(key) => {
                return false;
            }
            Op::Careless(key, text) if text == "!" && own.contains_key(key) => {}
            Op::Merge(key, text) | Op::Update(key, text) | Op::Careless(key, text) => {
                own.entry(*key).or_default().push_str(text);
            }
            Op::MergeBoth(key, text) => {
                own.entry(*key).or_default().push_str(text);
                beside.entry(*key).or_default().push_str(text);
            }
            Op::Copy(from, to) => {
                own.get(from).cloned().map(|text| own.insert(*to, text));
            }
            Op::Remove(key) => drop(own.remove(key)),
            Op::Fail(_) => return false,
            Op::Peek(_) => {}
        }
        true
    }
}

/// One event for each, of which some are in a batch.
pub(crate) fn append<T: Serialize>(store: &Store, ops: &[T]) {
    for ops in ops.chunks(1000) {
        let batch = Batch::new().durability(Durability::Written);
        let add = |batch: Batch, op| batch.event("ops", Event::bincode("op", op).unwrap());
        store.append_batch(ops.iter().fold(batch, add)).unwrap();
    }
    store.sync().unwrap();
}

pub(crate) fn store<T: Serialize>(ops: &[T]) -> Store {
    store_with(&Options::new(), ops)
}

pub(crate) fn store_with<T: Serialize>(options: &Options, ops: &[T]) -> Store {
    let store = options.open_memory(&MemoryStorage::new()).unwrap();
    append(&store, ops);
    store
}

fn rows(view: &View<u32, String>) -> Model {
    Model {
        own: view.iter().collect::<Result<_, _>>().unwrap(),
        beside: view.of::<Beside>().unwrap().iter().collect::<Result<_, _>>().unwrap(),
    }
}

/// So many rows, and then some events.
fn many(then: impl IntoIterator<Item = Op>) -> Vec<Op> {
    (0..MANY).map(|key| Op::MergeBoth(key, "a".into())).chain(then).collect()
}

fn op() -> impl Strategy<Value = Op> {
    // Those of the first few are changed often.
    let key = || prop_oneof![0..8u32, 0..2 * MANY];
    let text = || "[b-e]";
    prop_oneof![
        20 => (key(), text()).prop_map(|(key, text)| Op::Merge(key, text)),
        6 => (key(), text()).prop_map(|(key, text)| Op::MergeBoth(key, text)),
        1 => (key(), key()).prop_map(|(from, to)| Op::Copy(from, to)),
        1 => key().prop_map(Op::Remove),
        1 => (key(), text()).prop_map(|(key, text)| Op::Update(key, text)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn values_that_wait_are_merged_as_if_each_came_alone(
        then in vec(op(), 0..400),
        later in vec(op(), 0..400),
    ) {
        let mut model = Model::default();
        let store = store::<Op>(&[]);
        let view = store.project(Texts).unwrap();
        // The second time there are rows.
        for ops in [many(then), many(later)] {
            ops.iter().for_each(|op| assert!(model.apply(op)));
            view.pause().unwrap();
            append(&store, &ops);
            view.resume().unwrap();
            view.wait_for(store.watermark(), FOR_EVER).unwrap();
            prop_assert_eq!(&rows(&view), &model);
        }
        prop_assert!(view.verify().unwrap().is_sound());
    }
}

/// Failing events among many that do not.
fn failing() -> Vec<Op> {
    let merges = |from: u32| (from..from + 50).map(|key| Op::Merge(key, "b".into()));
    let shout = |key| Op::Merge(key, "!".into());
    let ops = merges(0).chain([shout(7)]).chain(merges(3)).chain([Op::MergeBoth(9, "!".into()), shout(1)]);
    // One that fails itself while one that will fail waits.
    many(ops.chain([Op::Merge(2, "c".into()), shout(3), Op::Fail(4)]).chain(merges(MANY)))
}

#[test]
fn a_merge_that_fails_while_it_waits_stops_the_projection_before_its_event() {
    let (ops, mut model) = (failing(), Model::default());
    let failed = ops.iter().position(|op| !model.apply(op)).unwrap();
    let store = store(&ops);
    let view = store.project(Texts).unwrap();
    let error = view.wait_for(store.watermark(), FOR_EVER).unwrap_err();
    let position = Position::new(u64::try_from(failed).unwrap() + 1);
    assert_eq!(error.kind(), ErrorKind::Stopped { position });
    assert!(error.to_string().contains("nobody shouts"), "{error}");
    assert_eq!(view.checkpoint(), position.previous());
    assert_eq!(rows(&view), model);
}

/// Those that fail are set aside, and no others: so many.
fn are_set_aside(ops: &[Op], failing: usize) {
    let mut model = Model::default();
    let failed: Vec<u64> =
        ops.iter().zip(1..).filter(|(op, _)| !model.apply(op)).map(|(_, position)| position).collect();
    assert_eq!(failed.len(), failing);
    let store = store(ops);
    let aside = ProjectionOptions::new().on_error(OnError::SetAside);
    let view = store.project_with(Texts, aside).unwrap();
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    let found: Vec<_> = view.set_aside().unwrap().iter().map(|event| event.position.get()).collect();
    assert_eq!(found, failed);
    assert_eq!(rows(&view), model);
    assert!(view.verify().unwrap().is_sound());
}

#[test]
fn each_event_whose_merge_fails_is_set_aside_and_no_other() {
    are_set_aside(&failing(), 5);
}

#[test]
fn values_are_not_lost_when_the_panic_of_another_is_passed_by() {
    let merges = |text: &'static str| (0..100).map(move |key| Op::Merge(key, text.into()));
    let ops = many(merges("b").chain([Op::Careless(5, "!".into())]).chain((0..100).map(|key| {
        // The panic of the one before comes while one of these is merged.
        Op::Careless(key, "c".into())
    })));
    are_set_aside(&ops, 0);
}

#[test]
fn a_merge_that_failed_stays_failed_whatever_its_event_goes_on_with() {
    let others = |text: &'static str| (0..10).map(move |key| Op::MergeBoth(key, text.into()));
    let ops = many(others("b").chain([Op::Merge(5, "!".into())]).chain(others("c")).chain([Op::Peek(6)]));
    are_set_aside(&ops, 1);
}
