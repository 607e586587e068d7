//! What can be proved of views: digests, verifying, comparing; and that projections which share the log all have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use everfold::{
    ApplyError, Batch, Difference, ErrorKind, Event, MemoryStorage, Options, Position, Projection,
    RecordedEvent, ViewBatch, ViewNote,
};

use crate::life::{Counts, FOR_EVER, append, fold, rows, small};

#[test]
fn two_stores_with_the_same_log_have_the_same_digest_however_it_was_applied() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    for _ in 0..40 {
        view.wait_for(append(&store, 5), FOR_EVER).unwrap();
    }
    let digest = view.digest().unwrap();
    assert_eq!((digest.checkpoint.get(), digest.rows), (200, 7));
    assert_eq!(view.status().digest, digest);
    let (backup, restored) = (copies.path().join("backup"), copies.path().join("restored"));
    store.backup(&backup).unwrap();
    everfold::restore(&backup, &restored).unwrap();
    let again = small().open(&restored).unwrap();
    let in_copy = again.project(Counts::<1>(None)).unwrap();
    in_copy.wait_for(Position::new(200), FOR_EVER).unwrap();
    assert_eq!(in_copy.digest().unwrap(), digest);
    append(&again, 1);
    in_copy.wait_for(Position::new(201), FOR_EVER).unwrap();
    assert_ne!(in_copy.digest().unwrap().sum, digest.sum);
    store.close().unwrap();
    let note = &ViewNote::read_all(dir.path()).unwrap()[0];
    assert_eq!((note.digest.clone().unwrap(), note.serves), (digest.to_string(), Some(1)));
}

/// Not deterministic: the row of stream 3 depends on how often it was called, and one row more each time.
struct Calls(AtomicU64);

impl Projection for Calls {
    const NAME: &'static str = "calls";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        let calls = self.0.fetch_add(1, Ordering::SeqCst);
        if e.position().get() == 1 {
            view.put(format!("call {calls:06}"), 1);
        }
        let value = if e.stream() == "stream-3" { calls } else { 1 };
        view.put(e.stream().to_owned(), value);
        Ok(())
    }
}

#[test]
fn verifying_finds_and_names_the_rows_that_do_not_follow_from_the_log() {
    let store = small().open_memory(&MemoryStorage::new()).unwrap();
    let last = append(&store, 100);
    let sound = store.project(Counts::<1>(None)).unwrap();
    sound.wait_for(last, FOR_EVER).unwrap();
    let verified = sound.verify().unwrap();
    assert!(verified.is_sound() && verified.differing.is_empty(), "{verified:?}");
    assert_eq!((verified.said, verified.expected), (sound.digest().unwrap(), verified.found));

    let view = store.project(Calls(AtomicU64::new(0))).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    let verified = view.verify().unwrap();
    assert!(!verified.is_sound(), "{verified}");
    assert_eq!(verified.said, verified.found, "the rows are what the view says");
    let named: Vec<_> =
        verified.differing.iter().map(|row| (row.key.clone().unwrap(), row.difference)).collect();
    let call = |n: u32| format!("call {n:06}");
    let expected = [
        (call(0), Difference::OnlyFirst),
        (call(100), Difference::OnlySecond),
        ("stream-3".into(), Difference::Value),
    ];
    assert_eq!(named, expected);
}

#[test]
fn a_view_is_verified_while_events_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    append(&store, 200);
    let done = Arc::new(AtomicBool::new(false));
    let appender = {
        let (store, done) = (store.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                append(&store, 20);
            }
        })
    };
    let outcomes: Vec<_> = (0..10).map(|_| view.verify()).collect();
    done.store(true, Ordering::SeqCst);
    appender.join().unwrap();
    for verified in outcomes {
        let verified = verified.unwrap();
        assert!(verified.is_sound(), "{verified}: {:?}", verified.differing);
    }
}

#[test]
fn comparing_two_projections_names_the_first_rows_that_differ() {
    let store = small().open_memory(&MemoryStorage::new()).unwrap();
    let last = append(&store, 100);
    let same = store.compare(&Counts::<1>(None), &Counts::<1, true>(None), last).unwrap();
    assert!(same.is_equal() && same.first.rows == 7, "{same:?}");
    let compared = store.compare(&Counts::<1>(None), &Counts::<2>(None), Position::new(3)).unwrap();
    let keys: Vec<_> = compared.differing.iter().map(|row| row.key.clone().unwrap()).collect();
    assert_eq!(keys, ["stream-0", "stream-1", "stream-2"]);
    assert!(!compared.is_equal() && compared.differing.iter().all(|row| row.difference == Difference::Value));
    assert!(store.compare(&Counts::<1>(None), &Counts::<2>(None), Position::START).unwrap().is_equal());
    let beyond = store.compare(&Counts::<1>(None), &Counts::<2>(None), Position::new(101)).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Invalid);
    let other = Calls(AtomicU64::new(0));
    let compared = store.compare(&Counts::<1>(None), &other, last).unwrap();
    assert_eq!(compared.differing.first().unwrap().difference, Difference::OnlySecond);
    assert!(store.views().is_empty());
}

/// The same fold under many names: the name is its number.
struct Numbered<const N: usize>;

impl<const N: usize> Projection for Numbered<N> {
    const NAME: &'static str = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"][N];
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    }
}

#[test]
fn many_projections_that_read_the_same_log_all_have_all_of_it() {
    let store = Options::new().segment_size(1 << 20).open_memory(&MemoryStorage::new()).unwrap();
    let grow = |batches: u64| {
        for _ in 0..batches {
            let events = (0..777).map(|n| (format!("stream-{}", n % 7), Event::raw("t", vec![7; 40])));
            store
                .append_batch(events.fold(Batch::new(), |b, (stream, event)| b.event(stream, event)))
                .unwrap();
        }
    };
    grow(11);
    let first = [
        store.project(Numbered::<0>).unwrap(),
        store.project(Numbered::<1>).unwrap(),
        store.project(Numbered::<2>).unwrap(),
    ];
    grow(7);
    let second = [
        store.project(Numbered::<3>).unwrap(),
        store.project(Numbered::<4>).unwrap(),
        store.project(Numbered::<5>).unwrap(),
        store.project(Numbered::<6>).unwrap(),
        store.project(Numbered::<7>).unwrap(),
    ];
    grow(4);
    let last = store.watermark();
    let expected = fold(&store, last, 1);
    for view in first.iter().chain(&second) {
        view.wait_for(last, FOR_EVER).unwrap();
        assert_eq!(rows(view), expected, "{:?}", view.status());
    }
}
