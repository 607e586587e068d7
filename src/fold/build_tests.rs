//! How far a build goes, and what ends it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::Fold;
use super::build::{Most, ended_early};
use super::builder::FoldBy;
use crate::batch::{Batch, Durability};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Position};
use crate::log::Log;
use crate::options::{MIN_SEGMENT_BYTES, Options};
use crate::projection::{Built, Stretch};
use crate::storage::memory::MemoryStorage;
use crate::view::digest::Digest;
use crate::view::levels::{Levels, Version};
use crate::view::memory_rows::MemoryRows;
use crate::view::meta::{Beside, ViewMeta};

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

fn build<S: Serialize + DeserializeOwned + Clone + Send + 'static>(
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
