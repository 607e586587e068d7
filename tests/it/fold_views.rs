//! Views of declared folds: kept up to date like any other, built faster when they are far behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use everfold::fold::count;
use everfold::{
    Batch, Durability, ErrorKind, Event, Expected, Fold, OnError, Position, ProjectionOptions, Store, View,
};

type Line = (u32, i32);

fn sold() -> Fold<u32, i64> {
    Fold::new("sold", 1).types(["sold"]).decode::<Line>().key_by(|line| line.0).sum(|line| line.1)
}

const SOON: Duration = Duration::from_secs(60);

/// More than are applied one after the other, a few of which cannot be.
const MANY: u32 = 70_000;
const BAD: [u32; 2] = [3, 60_001];

fn line(number: u32) -> Line {
    (number * 7 % 3001, i32::try_from(number % 11).unwrap() - 3)
}

fn append(store: &Store, numbers: std::ops::Range<u32>, bad: &[u32]) {
    let event = |number: u32| match bad.contains(&number) {
        true => Event::raw("sold", *b"\xff"),
        false => Event::bincode("sold", &line(number)).unwrap(),
    };
    for first in numbers.clone().step_by(1000) {
        let some = first..numbers.end.min(first + 1000);
        let batch = Batch::new().durability(Durability::Deferred);
        store.append_batch(some.fold(batch, |batch, number| batch.event("shop", event(number)))).unwrap();
    }
    store.sync().unwrap();
}

fn expected(numbers: std::ops::Range<u32>, bad: &[u32]) -> BTreeMap<u32, i64> {
    let mut rows = BTreeMap::new();
    for (key, quantity) in numbers.filter(|number| !bad.contains(number)).map(line) {
        *rows.entry(key).or_insert(0) += i64::from(quantity);
    }
    rows
}

fn rows(store: &Store, view: &View<u32, i64>) -> BTreeMap<u32, i64> {
    view.wait_for(store.watermark(), SOON).unwrap();
    view.range(..).map(Result::unwrap).collect()
}

fn open(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

#[test]
fn a_view_that_was_far_behind_has_the_rows_of_the_fold_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..MANY, &[]);
    let view = store.project_fold(sold()).unwrap();
    assert_eq!(rows(&store, &view), expected(0..MANY, &[]));
    assert_eq!(store.fold(&sold()).rows().unwrap(), expected(0..MANY, &[]));
    append(&store, MANY..MANY + 10, &[]);
    assert_eq!(rows(&store, &view), expected(0..MANY + 10, &[]));
    assert!(view.verify().unwrap().is_sound());
    store.close().unwrap();
    let store = open(dir.path());
    append(&store, MANY + 10..2 * MANY, &[]);
    let view = store.project_fold(sold()).unwrap();
    assert_eq!(rows(&store, &view), expected(0..2 * MANY, &[]));
    let status = view.status();
    assert!(status.rebuilt_because.is_none(), "{status:?}");
    view.rebuild().unwrap();
    view.wait_built(SOON).unwrap();
    assert_eq!(rows(&store, &view), expected(0..2 * MANY, &[]));
    assert!(view.verify().unwrap().is_sound());
}

#[test]
fn events_that_fail_are_found_in_a_stretch_and_dealt_with_as_always() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..MANY, &BAD);
    let stopped = store.project_fold(sold()).unwrap();
    let error = stopped.wait_for(store.watermark(), SOON).unwrap_err();
    let first = Position::new(u64::from(BAD[0]) + 1);
    assert_eq!(error.kind(), ErrorKind::Stopped { position: first }, "{error}");
    let options = ProjectionOptions::new().on_error(OnError::SetAside).build_threads(3);
    let view = store.project_fold_with(sold(), options).unwrap();
    assert_eq!(rows(&store, &view), expected(0..MANY, &BAD));
    let aside: Vec<u64> = view.set_aside().unwrap().iter().map(|event| event.position.get()).collect();
    assert_eq!(aside, BAD.map(|number| u64::from(number) + 1));
    assert!(view.verify().unwrap().is_sound());
}

#[test]
fn the_same_fold_has_one_view_and_another_one_of_its_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, same) = (store.project_fold(sold()).unwrap(), store.project_fold(sold()).unwrap());
    store.append("shop", Expected::Any, [Event::bincode("sold", &(7u32, 2i32)).unwrap()]).unwrap();
    assert_eq!(rows(&store, &one), rows(&store, &same));
    assert_eq!(store.views().len(), 1);
    let of_another = Fold::new("sold", 1).decode::<Line>().key_by(|line| line.0).accumulate(count());
    assert_eq!(store.project_fold(of_another).unwrap_err().kind(), ErrorKind::Invalid);
    let elsewhere = Fold::new("sold", 1).decode::<Line>().key_by(|line| line.0).sum(|line| line.1);
    assert_eq!(store.project_fold(elsewhere).unwrap_err().kind(), ErrorKind::Invalid);
    store.drop_view("sold").unwrap();
    assert!(store.views().is_empty());
}

#[test]
fn a_later_generation_serves_the_rows_of_the_one_before_until_it_has_caught_up() {
    fn declared(generation: u32) -> Fold<u32, i64> {
        let fold = Fold::new("sold", generation).decode::<Line>().key_by(|line| line.0);
        fold.sum(move |line: &Line| if line.0 == 1_000_000 { 0 } else { line.1 }).serves_earlier()
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..MANY, &[]);
    rows(&store, &store.project_fold(declared(1)).unwrap());
    store.close().unwrap();
    let store = open(dir.path());
    let view = store.project_fold(declared(2)).unwrap();
    assert_eq!(view.range(..).count(), expected(0..MANY, &[]).len(), "there is no time without rows");
    assert_eq!(rows(&store, &view), expected(0..MANY, &[]));
    view.wait_built(SOON).unwrap();
    assert_eq!((view.status().serves, rows(&store, &view)), (2, expected(0..MANY, &[])));
}
