//! Rows that are built beside those that are served: a rebuild, and a new generation.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everfold::{
    ApplyError, Batch, ErrorKind, Event, MemoryStorage, Options, Position, Projection, ProjectionState,
    RecordedEvent, ViewBatch,
};

use crate::life::{Counts, FOR_EVER, Gate, LONG, append, fold, on_disk, rows, small, until};
use crate::view_cases::copy;

#[test]
fn a_rebuild_serves_the_old_rows_until_the_new_ones_have_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk_store = small().open(dir.path()).unwrap();
    for store in [small().open_memory(&MemoryStorage::new()).unwrap(), on_disk_store] {
        let gate = Arc::new(Gate::default());
        gate.open_to(u64::MAX);
        let view = store.project(Counts::<1>(Some(gate.clone()))).unwrap();
        let last = append(&store, 300);
        view.wait_for(last, FOR_EVER).unwrap();
        view.wait_built(Duration::ZERO).unwrap();
        gate.open_to(100);
        view.rebuild().unwrap();
        until("rows are being built", || view.status().building.is_some());
        assert_eq!(rows(&view), fold(&store, last, 1));
        let digest = view.digest().unwrap();
        assert_eq!(view.wait_built(Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);
        let clone = view.clone();
        let waiting = std::thread::spawn(move || clone.wait_built(FOR_EVER));
        gate.open_to(u64::MAX);
        waiting.join().unwrap().unwrap();
        assert_eq!((view.status().building, view.digest().unwrap()), (None, digest));
        let last = append(&store, 10);
        view.wait_for(last, FOR_EVER).unwrap();
        assert_eq!((rows(&view), view.len()), (fold(&store, last, 1), 7));
        for _ in 0..2 {
            view.rebuild().unwrap();
            view.wait_built(LONG).unwrap();
        }
        store.close().unwrap();
    }
    assert_eq!(on_disk(dir.path()), ["1.3", "1.3.serves"]);
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    assert_eq!((view.status().rebuilt_because, view.checkpoint()), (None, store.watermark()));
    assert_eq!(rows(&view), fold(&store, store.watermark(), 1));
}

#[test]
fn a_rebuild_that_fails_leaves_the_rows_and_tells_why() {
    /// Fails from some time on.
    struct Turns(Arc<AtomicBool>);

    impl Projection for Turns {
        const NAME: &'static str = "counts";
        const GENERATION: u32 = 1;
        type Key = String;
        type Value = u64;

        fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
            if self.0.load(Ordering::SeqCst) && e.position().get() == 7 {
                return Err(ApplyError::new("it has turned"));
            }
            view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let turned = Arc::new(AtomicBool::new(false));
    let view = store.project(Turns(turned.clone())).unwrap();
    let last = append(&store, 50);
    view.wait_for(last, FOR_EVER).unwrap();
    turned.store(true, Ordering::SeqCst);
    view.rebuild().unwrap();
    let error = view.wait_built(LONG).unwrap_err();
    assert!(error.to_string().contains("it has turned"), "{error}");
    assert!(view.status().rebuild_failed.is_some());
    let last = append(&store, 50);
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(rows(&view), fold(&store, last, 1));
    let failed = view.verify().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Stopped { position: Position::new(7) });
    turned.store(false, Ordering::SeqCst);
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    assert!(view.status().rebuild_failed.is_none() && view.verify().unwrap().is_sound());
}

/// Opens a copy of a store in which a crash came at some step of a rebuild, and looks for one right view.
fn is_right(copy: &Path, expected: &[&str]) {
    for _ in 0..2 {
        let store = small().open(copy).unwrap();
        let view = store.project(Counts::<1>(None)).unwrap();
        let last = append(&store, 3);
        view.wait_for(last, FOR_EVER).unwrap();
        assert_eq!((rows(&view), view.status().rebuilt_because), (fold(&store, last, 1), None));
        store.close().unwrap();
        assert_eq!(on_disk(copy), expected);
    }
}

#[test]
fn a_crash_at_any_step_of_a_rebuild_leaves_one_right_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let at = |name: &str| path(name).join("views/counts");
    let store = small().open(path("store")).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    view.wait_for(append(&store, 100), FOR_EVER).unwrap();
    store.close().unwrap();
    copy(&path("store"), &path("before")).unwrap();
    let store = small().open(path("store")).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    store.close().unwrap();
    copy(&path("store"), &path("after")).unwrap();
    is_right(&path("after"), &["1.1", "1.1.serves"]);
    // Rows that were begun; then some that were finished; and those of a rebuild long ago.
    for (name, begun) in [("begun", "1.1.new"), ("built", "1.1"), ("old", "1.9")] {
        copy(&path("before"), &path(name)).unwrap();
        copy(&path("after/views/counts/1.1"), &at(name).join(begun)).unwrap();
        is_right(&path(name), &["1"]);
    }
    // It says which rows count, and the others are still there, or half removed.
    copy(&path("store"), &path("marked")).unwrap();
    copy(&path("before/views/counts/1"), &at("marked").join("1")).unwrap();
    is_right(&path("marked"), &["1.1", "1.1.serves"]);
    copy(&path("store"), &path("half")).unwrap();
    fs::create_dir(at("half").join("1")).unwrap();
    fs::write(at("half").join("1/conf"), "garbage").unwrap();
    is_right(&path("half"), &["1.1", "1.1.serves"]);
}

#[test]
fn a_copy_taken_while_rows_are_built_beside_holds_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
    let store = small().open(&live).unwrap();
    let gate = Arc::new(Gate::default());
    gate.open_to(u64::MAX);
    let view = store.project(Counts::<1>(Some(gate.clone()))).unwrap();
    view.wait_for(append(&store, 300), FOR_EVER).unwrap();
    store.close().unwrap();
    let store = small().open(&live).unwrap();
    let view = store.project(Counts::<1>(Some(gate.clone()))).unwrap();
    gate.open_to(150);
    view.rebuild().unwrap();
    until("it is there", || on_disk(&live).contains(&"1.1".to_owned()));
    copy(&live, &crashed).unwrap();
    gate.open_to(u64::MAX);
    view.wait_built(LONG).unwrap();
    is_right(&crashed, &["1"]);
}

#[test]
fn an_earlier_generation_is_served_until_the_new_one_has_caught_up() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = small().open(dir.path()).unwrap();
    let first = append(&store, 200);
    store.project(Counts::<1>(None)).unwrap().wait_for(first, FOR_EVER).unwrap();
    store.close().unwrap();
    for (crashes, dir) in [&dir, &crashed].into_iter().enumerate() {
        let store = small().open(dir.path()).unwrap();
        let gate = Arc::new(Gate::default());
        gate.open_to(100);
        let view = store.project(Counts::<3, true>(Some(gate.clone()))).unwrap();
        until("rows are being built", || view.status().building.is_some());
        let status = view.status();
        assert_eq!((status.generation, status.serves, status.checkpoint), (3, 1, first));
        assert_eq!((rows(&view), view.len()), (fold(&store, first, 1), 7), "opened {crashes} times before");
        view.wait_for(first, Duration::ZERO).unwrap();
        let last = append(&store, 10);
        assert_eq!(view.wait_for(last, Duration::from_millis(10)).unwrap_err().kind(), ErrorKind::TimedOut);
        if crashes == 0 {
            copy(dir.path(), crashed.path()).unwrap();
        }
        gate.open_to(u64::MAX);
        view.wait_for(last, FOR_EVER).unwrap();
        view.wait_built(LONG).unwrap();
        assert_eq!((rows(&view), view.status().serves), (fold(&store, last, 3), 3));
        until("it is live", || matches!(view.state(), ProjectionState::Live));
        store.close().unwrap();
        assert_eq!(on_disk(dir.path()), ["3"]);
    }
}

#[test]
fn readers_see_one_generation_or_the_other_and_never_less() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(1 << 20).open(dir.path()).unwrap();
    for _ in 0..10 {
        let events = (0..1000).map(|n| (format!("stream-{}", n % 7), Event::raw("t", "x")));
        store.append_batch(events.fold(Batch::new(), |b, (stream, event)| b.event(stream, event))).unwrap();
    }
    let last = store.watermark();
    store.project(Counts::<1>(None)).unwrap().wait_for(last, FOR_EVER).unwrap();
    store.close().unwrap();
    let store = Options::new().segment_size(1 << 20).open(dir.path()).unwrap();
    let view = store.project(Counts::<2, true>(None)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (view, done) = (view.clone(), done.clone());
            std::thread::spawn(move || {
                let (mut reads, mut seen) = (0u64, 0);
                while !done.load(Ordering::SeqCst) {
                    let count = view.get(&"stream-0".into()).unwrap().unwrap();
                    assert!(count == 1430 || count == 2860, "{count}");
                    assert!(count >= seen && view.len() == 7, "it never goes back");
                    (reads, seen) = (reads + 1, count);
                }
                (reads, seen)
            })
        })
        .collect();
    view.wait_built(LONG).unwrap();
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    until("a reader has seen the new one", || view.get(&"stream-0".into()).unwrap() == Some(2860));
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.join().unwrap().0 > 0);
    }
    assert!(view.verify().unwrap().is_sound());
}

#[test]
fn an_earlier_generation_that_is_damaged_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let last = append(&store, 100);
    store.project(Counts::<1>(None)).unwrap().wait_for(last, FOR_EVER).unwrap();
    store.close().unwrap();
    fs::write(dir.path().join("views/counts/1/db"), "garbage").unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Counts::<2, true>(None)).unwrap();
    assert_eq!(view.status().serves, 2);
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!((rows(&view), view.status().rebuilt_because), (fold(&store, last, 2), None));
}
