//! How far a build goes, and what ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::Fold;
use super::accumulator::Accumulator;
use super::build::{Most, ended_early};
use super::builder::FoldBy;
use crate::batch::{Batch, Durability};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Position};
use crate::log::Log;
use crate::options::{MIN_SEGMENT_BYTES, Options};
use crate::projection::{ApplyError, Built, Stretch};
use crate::storage::memory::MemoryStorage;
use crate::view::digest::{Digest, RowHash};
use crate::view::key::Key;
use crate::view::layout::Part;
use crate::view::levels::{Levels, Version};
use crate::view::memory_rows::MemoryRows;
use crate::view::meta::{Beside, ViewMeta};
use crate::view::value;

const ENOUGH: Most = Most { rows: usize::MAX, bytes: usize::MAX };

fn log(events: u32) -> Log {
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES);
    let log = Log::open(Arc::new(MemoryStorage::new()), &options).unwrap();
    for number in 0..events {
        let event = Event::bincode("numbers", &number).unwrap();
        log.append(&Batch::new().durability(Durability::Written).event("s", event)).unwrap();
    }
    log.sync().unwrap();
    log
}

type Row = (u32, u8);

/// Each event makes five rows of its own.
fn rows() -> FoldBy<Row, Row> {
    let five = Fold::new("numbers", 1).map(|event| {
        let number: u32 = event.decode()?;
        Ok((0..5).map(|n| (number, n)).collect::<Vec<_>>())
    });
    five.key_by(|row| *row)
}

fn fold() -> Fold<Row, u64> {
    rows().count()
}

/// What it keeps of each row is not all in place.
fn texts() -> Fold<Row, String> {
    rows().last(|row: &Row| format!("{row:?}"))
}

/// No rows, as of a position.
fn no_rows(checkpoint: u64) -> Arc<Version> {
    let meta = ViewMeta {
        store_id: Uuid::nil(),
        name: String::new(),
        generation: 0,
        checkpoint: Position::new(checkpoint),
        turns: 0,
        fingerprint: 0,
        digest: Digest::default(),
        beside: Beside::default(),
    };
    Levels::in_memory(Arc::new(MemoryRows::new()), meta, usize::MAX).version()
}

fn build<S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static>(
    fold: &Fold<Row, S>,
    log: &Log,
    (after, to): (u64, u64),
    most: Most,
    stop: bool,
) -> Result<Option<Built>, Error> {
    let (rows, stop) = (no_rows(after), AtomicBool::new(stop));
    let stretch =
        Stretch { catalog: &log.catalog, rows: &rows, to: Position::new(to), threads: 2, stop: &stop };
    fold.build(&stretch, most)
}

#[test]
fn a_build_ends_early_when_there_are_enough_rows_or_bytes() {
    let log = log(200);
    let check = |to, built: Result<Option<Built>, Error>| {
        let built = built.unwrap().unwrap();
        assert_eq!(built.writes.len(), usize::try_from((built.to.get() - 3) * 5).unwrap());
        assert_eq!(built.digest.rows, (built.to.get() - 3) * 5);
        assert!(built.to.get() <= to);
        built.to.get()
    };
    let end = |to, most| check(to, build(&fold(), &log, (3, to), most, false));
    assert_eq!(end(200, ENOUGH), 200);
    assert_eq!(end(11, Most { rows: 40, ..ENOUGH }), 11, "two pieces of four events");
    assert_eq!(end(200, Most { rows: 40, ..ENOUGH }), 7, "the end of the first piece");
    assert_eq!(end(200, Most { bytes: 2, ..ENOUGH }), 200, "counts take no memory but in their rows");
    let end_of_texts = |to, most| check(to, build(&texts(), &log, (3, to), most, false));
    assert_eq!(end_of_texts(200, Most { bytes: 1, ..ENOUGH }), 4, "at least one event");
    assert_eq!(end(200, Most { rows: 0, ..ENOUGH }), 4);
    assert_eq!(end(4, ENOUGH), 4);
}

type Value = (u32, u32);

/// Each event makes 300 values, of which two follow each other for one row; later events come to some rows again.
fn many<A: Accumulator<Value>>(of_each: A) -> Fold<u32, A::State> {
    let values = Fold::new("numbers", 1).map(|event| {
        let number: u32 = event.decode()?;
        Ok((0..300).map(move |n| (number, n)))
    });
    values.key_by(many_key).accumulate(of_each)
}

fn many_key((number, n): &Value) -> u32 {
    (number * 150 + n / 2) % 20_000
}

/// Keeps the last value, and fails on one.
struct LastBut(Value);

impl Accumulator<Value> for LastBut {
    type State = Value;

    fn start(&self, value: &Value) -> Result<Value, ApplyError> {
        if *value == self.0 { Err(ApplyError::new("this one")) } else { Ok(*value) }
    }

    fn add(&self, state: &mut Value, value: &Value) -> Result<(), ApplyError> {
        *state = self.start(value)?;
        Ok(())
    }

    fn merge(&self, earlier: &mut Value, later: Value) -> Result<(), ApplyError> {
        *earlier = later;
        Ok(())
    }
}

fn digest_of(rows: &BTreeMap<u32, Value>) -> Digest {
    let mut digest = Digest::default();
    for (key, value) in rows {
        let mut row_key = Vec::new();
        Part::OWN.start(&mut row_key);
        key.encode(&mut row_key);
        digest.add(RowHash::of(&row_key, &value::encode(value).unwrap()));
    }
    digest
}

#[test]
fn many_rows_are_folded_as_few_are_and_the_event_that_fails_is_named() {
    let (log, rows, stop) = (log(200), no_rows(0), AtomicBool::new(false));
    let stretch =
        Stretch { catalog: &log.catalog, rows: &rows, to: Position::new(200), threads: 2, stop: &stop };
    let built = many(LastBut((200, 0))).build(&stretch, ENOUGH).unwrap().unwrap();
    let values = (0..200).flat_map(|number| (0..300).map(move |n| (number, n)));
    let last: BTreeMap<u32, Value> = values.map(|value| (many_key(&value), value)).collect();
    assert_eq!((built.to, built.digest), (Position::new(200), digest_of(&last)));
    // The first values of an event may be taken in together with the last ones of the event before.
    for failing in [(0, 0), (90, 0), (90, 299), (190, 3), (199, 299)] {
        let error = many(LastBut(failing)).build(&stretch, ENOUGH).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(u64::from(failing.0) + 1) });
    }
}

/// Rows that come once, until there are so many; and then again, in the same order.
const AGAIN: u32 = 50_000;

#[test]
fn rows_that_rarely_repeat_are_folded_as_others_are_and_the_event_that_fails_is_named() {
    let (log, rows, stop) = (log(400), no_rows(0), AtomicBool::new(false));
    let values = |accumulator| {
        let values = Fold::new("numbers", 1).map(|event| {
            let number: u32 = event.decode()?;
            Ok((0..300).map(move |n| (number, n)))
        });
        values.key_by(|(number, n): &Value| (number * 300 + n) % AGAIN).accumulate(accumulator)
    };
    for threads in [1, 2] {
        let stretch =
            Stretch { catalog: &log.catalog, rows: &rows, to: Position::new(400), threads, stop: &stop };
        let built = values(LastBut((400, 0))).build(&stretch, ENOUGH).unwrap().unwrap();
        let all = (0..400).flat_map(|number| (0..300).map(move |n| (number, n)));
        let last: BTreeMap<u32, Value> =
            all.map(|(number, n)| ((number * 300 + n) % AGAIN, (number, n))).collect();
        assert_eq!((built.to, built.digest), (Position::new(400), digest_of(&last)));
        for failing in [(0, 0), (199, 299), (200, 0), (399, 299)] {
            let error = values(LastBut(failing)).build(&stretch, ENOUGH).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Stopped { position: Position::new(u64::from(failing.0) + 1) }
            );
        }
    }
}

#[test]
fn rows_that_come_to_repeat_take_no_more_room_than_others() {
    let (log, rows, stop) = (log(400), no_rows(0), AtomicBool::new(false));
    let stretch =
        Stretch { catalog: &log.catalog, rows: &rows, to: Position::new(400), threads: 1, stop: &stop };
    let values = Fold::new("numbers", 1).map(|event| {
        let number: u32 = event.decode()?;
        Ok((0..300).map(move |n| (number, n)))
    });
    let counts = values.key_by(|(number, n): &Value| (number * 300 + n) % 35_000).count();
    let built = counts.build(&stretch, Most { rows: 40_000, ..ENOUGH }).unwrap().unwrap();
    assert_eq!((built.to, built.digest.rows), (Position::new(400), 35_000));
}

#[test]
fn of_a_piece_that_ended_early_is_told_how_many_events_fit() {
    let (log, stop) = (log(1), AtomicBool::new(false));
    let rows = no_rows(3);
    let fit = |threads, done: u64| {
        let stretch =
            Stretch { catalog: &log.catalog, rows: &rows, to: Position::new(103), threads, stop: &stop };
        ended_early(&stretch, Position::new(3 + done))
    };
    assert_eq!((fit(1, 100), fit(4, 100), fit(1, 30)), (None, None, Some(30)));
    assert_eq!((fit(4, 10), fit(4, 35)), (Some(40), Some(40)), "also when it was the second of four");
}

#[test]
fn keys_that_are_long_count_as_memory() {
    let log = log(200);
    let long = Fold::new("numbers", 1).decode::<u32>().key_by(|number| format!("{number:0>100}")).count();
    let rows = no_rows(0);
    let stop = AtomicBool::new(false);
    let stretch =
        Stretch { catalog: &log.catalog, rows: &rows, to: Position::new(200), threads: 1, stop: &stop };
    let built = long.build(&stretch, Most { bytes: 1000, ..ENOUGH }).unwrap().unwrap();
    assert!((5..20).contains(&built.to.get()), "{}", built.to);
}

#[test]
fn a_build_that_is_stopped_or_closed_gives_nothing() {
    let log = log(20);
    assert!(build(&fold(), &log, (0, 20), ENOUGH, true).unwrap().is_none());
    log.close().unwrap();
    assert_eq!(build(&fold(), &log, (0, 20), ENOUGH, false).unwrap_err().kind(), ErrorKind::Closed);
}
