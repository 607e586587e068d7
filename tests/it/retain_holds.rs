//! What keeps retention from dropping segments: cursors, subscriptions and views.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everfold::{
    ApplyError, ErrorKind, Event, Expected, KeptBy, Position, Projection, ProjectionState, Query,
    RecordedEvent, Retention, Store, Version, ViewBatch,
};
use tempfile::TempDir;

use crate::ledger::small;
use crate::retain::{EVENTS, at, fill, filled, read};
use crate::view_cases::copy;

#[test]
fn an_open_cursor_keeps_what_it_has_not_read() {
    let (_, store) = filled();
    let all = Retention::new().max_bytes(0);
    let kept_at = |position: u64| {
        let retained = store.retain(&all).unwrap();
        assert!(retained.first <= at(position.max(1)), "{retained:?}");
        assert_eq!(retained.kept_by, Some(KeptBy::Cursor { position: at(position) }));
    };
    let mut forward = store.read(Position::START);
    kept_at(1);
    forward.by_ref().take(4).for_each(|event| drop(event.unwrap()));
    kept_at(5);
    let mut tagged = store.read_query(&Query::all().tags(["of:even"]), Position::START);
    assert_eq!(tagged.next().unwrap().unwrap().position(), at(6));
    drop(forward);
    kept_at(8);
    drop(tagged);
    for cursor in [
        store.read_backward(Position::END),
        store.read_stream("odd", Version::NONE),
        store.read_stream_backward("odd", Version::END),
        store.read_query_backward(&Query::all().tags(["of:odd"]), Position::END),
    ] {
        kept_at(1);
        let (positions, error) = read(cursor);
        assert_eq!(error, None);
        assert!(positions.len() > 100);
    }
    let mut stream = store.read_stream("odd", Version::NONE);
    stream.by_ref().take(60).for_each(|event| drop(event.unwrap()));
    kept_at(127);
    assert!(store.log_start() > at(60));
    let last = stream.last().unwrap().unwrap();
    assert_eq!(last.position().get(), EVENTS - 1);
    let limited = store.read(store.log_start()).limit(1);
    assert_eq!(read(limited).0.len(), 1);
    let mut ended = store.read(Position::START);
    assert!(ended.next().unwrap().is_err());
    assert_eq!(store.retain(&all).unwrap().kept_by, None);
}

#[test]
fn a_subscription_goes_on_while_the_log_is_dropped_behind_it() {
    let (_, store) = filled();
    let mut all = store.subscribe(Position::START);
    let mut odd = store.subscribe_stream("odd", Version::NONE);
    let mut none = store.subscribe_query(&Query::all().types(["never"]), Position::START);
    for n in 1..=EVENTS {
        assert_eq!(all.next().unwrap().unwrap().position(), at(n));
        if n.is_multiple_of(50) {
            assert_eq!(store.retain(&Retention::new().max_bytes(0)).unwrap().segments, 0);
        }
    }
    assert_eq!(store.log_start(), at(1));
    for _ in 0..(EVENTS - 6) / 2 {
        odd.next().unwrap().unwrap();
    }
    assert!(none.next_timeout(Duration::from_millis(1)).is_none());
    assert!(odd.next_timeout(Duration::from_millis(1)).is_none());
    for n in 1..=EVENTS {
        store.append("odd", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
        assert_eq!(all.next().unwrap().unwrap().position(), at(EVENTS + n));
        assert_eq!(odd.next().unwrap().unwrap().position(), at(EVENTS + n));
        assert!(none.next_timeout(Duration::ZERO).is_none());
        assert_eq!(store.retain(&Retention::new().max_bytes(0)).unwrap().kept_by, None);
    }
    assert!(store.log_start() > at(2 * EVENTS - 100));
}

struct Count;

impl Projection for Count {
    const NAME: &'static str = "count";
    const GENERATION: u32 = 1;
    type Key = ();
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<(), u64>) -> Result<(), ApplyError> {
        if event.payload() == b"stop" {
            return Err(ApplyError::new("told to"));
        }
        view.update((), |count| Some(count.unwrap_or(0) + 1))
    }
}

struct CountLeft;

impl Projection for CountLeft {
    const NAME: &'static str = "count-left";
    const GENERATION: u32 = 1;
    const FROM_LOG_START: bool = true;
    type Key = ();
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<(), u64>) -> Result<(), ApplyError> {
        Count.apply(event, view)
    }
}

const WAIT: Duration = Duration::from_secs(30);

#[test]
fn a_view_keeps_what_it_has_not_durably_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    fill(&store);
    store.append("odd", Expected::Any, [Event::raw("t", "stop")]).unwrap();
    for n in 0..200 {
        store.append("odd", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
    let view = store.project(Count).unwrap();
    assert_eq!(
        view.wait_for(at(EVENTS + 1), WAIT).unwrap_err().kind(),
        ErrorKind::Stopped { position: at(EVENTS + 1) }
    );
    let all = Retention::new().max_bytes(0);
    let retained = store.retain(&all).unwrap();
    let by_count = KeptBy::View { name: "count".into(), checkpoint: at(EVENTS) };
    assert_eq!((retained.first <= at(EVENTS), &retained.kept_by), (true, &Some(by_count)), "{retained:?}");
    assert!(retained.segments > 0);
    assert_eq!(view.get(&()).unwrap(), Some(EVENTS));
    store.close().unwrap();

    let store = small().open(dir.path()).unwrap();
    let unregistered = store.retain(&all).unwrap();
    assert_eq!(unregistered.kept_by, Some(KeptBy::UnregisteredView { name: "count".into() }));
    assert_eq!(unregistered.segments, 0);
    // What was found on disk is held against the log, and goes on from where it was.
    let view = store.project(Count).unwrap();
    assert!(view.wait_for(at(EVENTS + 1), WAIT).is_err());
    assert_eq!((view.get(&()).unwrap(), view.status().rebuilt_because), (Some(EVENTS), None));
    let without = store.retain(&all.without_view("count")).unwrap();
    assert_eq!(without.kept_by, None);
    assert!(without.first > at(EVENTS + 1));
    let again = store.project(Count).unwrap();
    assert!(again.wait_for(store.watermark(), WAIT).is_err());
    let state = again.status().state;
    let ProjectionState::Stopped { position, cause } = state else { panic!("{state}") };
    assert_eq!((position, cause.kind()), (at(EVENTS + 1), ErrorKind::Truncated { first: without.first }));
}

#[test]
fn a_view_that_is_up_to_date_keeps_nothing_more_than_the_segment_of_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Count).unwrap();
    for _ in 0..3 {
        fill(&store);
        view.wait_for(store.watermark(), WAIT).unwrap();
        let retained = store.retain(&Retention::new().max_bytes(0)).unwrap();
        assert!(retained.segments > 3, "{retained:?}");
        assert!(retained.first.get() > store.watermark().get() - 100, "{retained:?}");
    }
    assert_eq!(view.get(&()).unwrap(), Some(3 * EVENTS));
    store.close().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Count).unwrap();
    assert_eq!((view.get(&()).unwrap(), view.status().rebuilt_because), (Some(3 * EVENTS), None));
}

#[test]
fn what_a_retention_leaves_is_enough_for_the_views_as_they_are_on_disk() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Count).unwrap();
    fill(&store);
    view.wait_for(store.watermark(), WAIT).unwrap();
    store.retain(&Retention::new().max_bytes(0)).unwrap();
    copy(dir.path(), crashed.path()).unwrap();
    let after = small().open(crashed.path()).unwrap();
    let view = after.project(Count).unwrap();
    view.wait_for(after.watermark(), WAIT).unwrap();
    assert_eq!(view.get(&()).unwrap(), Some(EVENTS));
}

/// A store with a view that has caught up.
fn closed_with_a_view() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Count).unwrap();
    fill(&store);
    view.wait_for(store.watermark(), WAIT).unwrap();
    store.close().unwrap();
    dir
}

#[test]
fn a_damaged_view_that_cannot_be_made_anew_yet_keeps_what_it_will_be_made_of() {
    let dir = closed_with_a_view();
    let folder = dir.path().join("views/count");
    std::fs::write(folder.join("1/db"), b"").unwrap();
    // A file where the new rows would be made.
    std::fs::write(folder.join("1.new"), b"").unwrap();

    let store = small().open(dir.path()).unwrap();
    store.project(Count).unwrap_err();
    let retained = store.retain(&Retention::new().max_bytes(0)).unwrap();
    assert_eq!(retained.kept_by, Some(KeptBy::UnregisteredView { name: "count".into() }));
    assert_eq!(retained.segments, 0);
    std::fs::remove_file(folder.join("1.new")).unwrap();
    let view = store.project(Count).unwrap();
    view.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(view.get(&()).unwrap(), Some(EVENTS));
    assert!(view.status().rebuilt_because.is_some());
}

#[test]
fn a_view_that_was_being_made_anew_at_a_crash_keeps_what_it_will_be_made_of() {
    let dir = closed_with_a_view();
    // The damaged rows were set aside, and the new ones have not got their name.
    let folder = dir.path().join("views/count");
    std::fs::rename(folder.join("1"), folder.join("1.new")).unwrap();

    let store = small().open(dir.path()).unwrap();
    let retained = store.retain(&Retention::new().max_bytes(0)).unwrap();
    assert_eq!(retained.kept_by, Some(KeptBy::UnregisteredView { name: "count".into() }));
    assert_eq!(retained.segments, 0);
    let view = store.project(Count).unwrap();
    view.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(view.get(&()).unwrap(), Some(EVENTS));
}

#[test]
fn a_projection_that_needs_the_log_from_its_start_stops_and_one_that_does_not_is_folded_from_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    fill(&store);
    let first = store.retain(&Retention::new().before(at(200))).unwrap().first;
    let stopped = store.project(Count).unwrap().wait_for(store.watermark(), WAIT).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Stopped { position: at(1) });
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(left.get(&()).unwrap(), Some(EVENTS + 1 - first.get()));
    fill(&store);
    left.wait_for(store.watermark(), WAIT).unwrap();
    store.close().unwrap();
    // A view that what it is at was dropped without is folded anew.
    let store = small().open(dir.path()).unwrap();
    fill(&store);
    let policy = Retention::new().max_bytes(0).without_view("count").without_view("count-left");
    let first = store.retain(&policy).unwrap().first;
    assert!(first > at(2 * EVENTS));
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(left.get(&()).unwrap(), Some(3 * EVENTS + 1 - first.get()));
    let why = left.status().rebuilt_because.unwrap();
    assert!(why.contains(&format!("the log starts at {first}")), "{why}");
}

#[test]
fn a_view_in_memory_keeps_the_log_that_it_is_folded_from_at_each_opening() {
    let (storage, store) = filled();
    store.project(Count).unwrap().wait_for(store.watermark(), WAIT).unwrap();
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    let all = Retention::new().max_bytes(0);
    let kept_by = store.retain(&all).unwrap().kept_by;
    assert_eq!(kept_by, Some(KeptBy::View { name: "count".into(), checkpoint: Position::START }));
    let retained = store.retain(&all.without_view("count")).unwrap();
    assert!(retained.segments > 0, "{retained:?}");
    drop((left, store));
    let store = small().open_memory(&storage).unwrap();
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(left.get(&()).unwrap(), Some(EVENTS + 1 - retained.first.get()));
}

/// Appends to many streams by turns, each event telling its version, until there are so many.
fn append_by_turns(store: &Store, name: &str, rounds: u64) {
    for n in 0..rounds {
        let stream = format!("{name}-{}", n % 97);
        let done =
            store.append(&stream, Version::new(n / 97), [Event::raw("t", "x".repeat(60)).tag(name)]).unwrap();
        assert_eq!(done.version.get(), n / 97 + 1);
    }
}

/// Reads what there is in several ways, until told to stop. Only what is gone may be an error.
fn read_all_the_time(store: &Store, stop: &AtomicBool) {
    let mut read = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for way in 0..6 {
            let after = store.log_start().previous();
            let cursor = match way {
                0 => store.read(after),
                1 => store.read_query(&Query::all().tags(["a"]), after),
                2 => store.read_backward(Position::END).limit(50),
                3 => store.read_stream("a-5", Version::NONE),
                4 => store.read_stream_backward("b-6", Version::END),
                _ => store.read_query_backward(&Query::all().tags(["b"]), Position::END).limit(50),
            };
            for event in cursor {
                match event {
                    Ok(_) => read += 1,
                    Err(error) => {
                        assert!(matches!(error.kind(), ErrorKind::Truncated { .. }), "{way}: {error:?}");
                    }
                }
            }
        }
    }
    assert!(read > 0);
}

#[test]
fn appends_and_reads_go_on_while_the_log_is_dropped() {
    for map in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = small().map_segments(map).open(dir.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let appends = ["a", "b"].map(|name| {
                let store = &store;
                threads.spawn(move || append_by_turns(store, name, 600))
            });
            threads.spawn(|| read_all_the_time(&store, &stop));
            threads.spawn(|| {
                let mut versions = BTreeMap::new();
                let mut all = store.subscribe(Position::START);
                while versions.values().sum::<u64>() < 1200 {
                    let event = all.next().unwrap().unwrap();
                    let version = versions.entry(event.stream().to_owned()).or_insert(0);
                    *version += 1;
                    assert_eq!(event.version().get(), *version);
                }
            });
            let mut dropped = 0;
            while !appends.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                dropped += store
                    .retain(&Retention::new().max_bytes(3 * everfold::MIN_SEGMENT_BYTES))
                    .unwrap()
                    .segments;
            }
            stop.store(true, Ordering::Relaxed);
            assert!(dropped > 3, "{dropped}");
        });
        for name in ["a", "b"] {
            for n in 0..97 {
                let versions = if n < 600 % 97 { 600 / 97 + 1 } else { 600 / 97 };
                let stream = format!("{name}-{n}");
                store.append(&stream, Version::new(versions), [Event::raw("t", "")]).unwrap();
            }
        }
        assert!(store.append("a-5", Expected::NoStream, [Event::raw("t", "")]).is_err());
    }
}
