//! Projections and their views: reading, waiting, resuming, stopping. What becomes of damaged views is in `views`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use everfold::{
    ApplyError, Error, ErrorKind, Event, Expected, Fault, MIN_SEGMENT_BYTES, MemoryStorage, Options,
    Position, Projection, ProjectionState, RecordedEvent, Store, Version, View, ViewBatch,
};

use crate::block_on::block_on;

const FOR_EVER: Duration = Duration::MAX;

/// Counts the events of each stream and type: a second application of any event shows.
struct Tally<const GENERATION: u32>;

impl<const GENERATION: u32> Projection for Tally<GENERATION> {
    const NAME: &'static str = "tally";
    const GENERATION: u32 = GENERATION;
    type Key = (String, String);
    type Value = u64;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<Self::Key, u64>) -> Result<(), ApplyError> {
        let key = (e.stream().to_owned(), e.event_type().to_owned());
        view.update(key, |count| Some(count.unwrap_or(0) + u64::from(GENERATION)))
    }
}

type Cells = BTreeMap<(String, String), u64>;

/// The same fold, in a plain map.
fn fold(store: &Store, weight: u64) -> Cells {
    let mut cells = Cells::new();
    for e in store.read(Position::START).map(Result::unwrap) {
        *cells.entry((e.stream().to_owned(), e.event_type().to_owned())).or_default() += weight;
    }
    cells
}

fn rows<K: everfold::Key + Ord>(view: &View<K, u64>) -> BTreeMap<K, u64> {
    view.iter().map(Result::unwrap).collect()
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap()
}

fn append(store: &Store, events: u64) -> Position {
    let start = store.watermark().get();
    for n in start..start + events {
        let event = Event::raw(format!("type-{}", n % 5), n.to_string());
        store.append(&format!("stream-{}", n % 7), Expected::Any, [event]).unwrap();
    }
    store.watermark()
}

fn small() -> Options {
    Options::new().segment_size(MIN_SEGMENT_BYTES)
}

fn in_memory() -> Store {
    small().open_memory(&MemoryStorage::new()).unwrap()
}

#[test]
fn a_view_is_read_by_key_by_range_and_by_prefix_from_either_end() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = small().open(dir.path()).unwrap();
    for store in [in_memory(), on_disk] {
        let last = append(&store, 70);
        let view = store.project(Tally::<1>).unwrap();
        view.wait_for(last, FOR_EVER).unwrap();
        let cells = fold(&store, 1);
        let cell = |stream: u32, kind: u32| (format!("stream-{stream}"), format!("type-{kind}"));
        assert_eq!((view.len(), view.is_empty(), view.checkpoint()), (35, false, last));
        assert_eq!(view.get(&cell(3, 4)).unwrap(), Some(2));
        assert_eq!(view.get(&cell(3, 5)).unwrap(), None);
        assert!(view.contains_key(&cell(6, 0)).unwrap() && !view.contains_key(&cell(7, 0)).unwrap());
        assert_eq!(rows(&view), cells);
        let backward: Vec<_> = view.iter().rev().map(Result::unwrap).collect();
        assert!(backward.into_iter().eq(cells.clone().into_iter().rev()));

        let (from, to) = (cell(1, 3), cell(4, 2));
        let expected: Vec<_> = cells.range(from.clone()..to.clone()).map(|(k, v)| (k.clone(), *v)).collect();
        let found: Vec<_> = view.range(from.clone()..to.clone()).map(Result::unwrap).collect();
        assert_eq!(found, expected);
        assert_eq!(view.range(from.clone()..=to.clone()).count(), expected.len() + 1);
        assert_eq!(view.range(to.clone()..).count() + view.range(..to.clone()).count(), 35);
        assert_eq!(view.range(to..from).count(), 0);

        let of_stream: Vec<_> = view.prefix(&("stream-2",)).map(|row| row.unwrap().0).collect();
        assert_eq!(of_stream, (0..5).map(|kind| cell(2, kind)).collect::<Vec<_>>());
        assert_eq!(view.prefix(&("stream",)).count(), 0, "a prefix is of whole parts");
        let mut both = view.prefix(&("stream-2",));
        let ends = (both.next().unwrap().unwrap().0, both.next_back().unwrap().unwrap().0);
        assert_eq!((ends, both.count()), ((cell(2, 0), cell(2, 4)), 3));
    }
}

#[test]
fn waiting_for_an_append_reads_ones_own_writes_blocking_and_async() {
    let store = in_memory();
    let view = store.project(Tally::<1>).unwrap();
    assert!(view.is_empty());
    for n in 1..=50 {
        let done = store.append("s", Expected::Any, [Event::raw("t", "")]).unwrap();
        if n % 2 == 0 {
            view.wait_for(done.position, FOR_EVER).unwrap();
        } else {
            block_on(view.wait_for_async(done.position)).unwrap();
        }
        assert_eq!(view.get(&("s".into(), "t".into())).unwrap(), Some(n));
        assert!(view.checkpoint() >= done.position);
    }
    view.wait_for(Position::START, Duration::ZERO).unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(1)] {
        let error = view.wait_for(Position::new(51), timeout).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    let waiting = {
        let view = view.clone();
        std::thread::spawn(move || block_on(view.wait_for_async(Position::new(51))))
    };
    append(&store, 1);
    waiting.join().unwrap().unwrap();
}

#[test]
fn each_event_has_its_effect_once_however_often_the_store_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12_u64 {
        let store = small().open(dir.path()).unwrap();
        let view = store.project(Tally::<1>).unwrap();
        assert!(view.status().rebuilt_because.is_none(), "{:?}", view.status());
        assert!(view.checkpoint() <= store.watermark());
        let last = append(&store, 17 * round);
        if round % 3 != 1 {
            view.wait_for(last, FOR_EVER).unwrap();
            assert_eq!(rows(&view), fold(&store, 1));
            assert_eq!(view.len(), count(rows(&view).len()));
        }
        if round % 2 == 0 {
            store.close().unwrap();
        }
    }
}

/// Keeps the last text of each stream; a text of "-" removes the row, one of "!" is an error, "!!" a panic, and a
/// number after "#" makes a row of that size.
struct Notes<const MENDED: bool>;

impl<const MENDED: bool> Projection for Notes<MENDED> {
    const NAME: &'static str = "notes";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = String;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, String>) -> Result<(), ApplyError> {
        let text = String::from_utf8(e.payload().to_vec())?;
        let stream = e.stream().to_owned();
        if text.starts_with('!') {
            view.put("changed before failing".into(), text.clone());
            view.remove(&"a".into());
        }
        match text.as_str() {
            "!" | "!!" if MENDED => view.remove(&"changed before failing".into()),
            "!" => return Err(ApplyError::new("no exclamations")),
            "!!" => panic!("two of {}", stream),
            "-" => view.remove(&stream),
            text if text.starts_with('#') && MENDED => view.put(stream, "large".into()),
            text if text.starts_with('#') => view.put(stream, "x".repeat(text[1..].parse()?)),
            _ => view.put(stream, text.clone()),
        }
        let known = view.get(&"texts".into())?.map_or(0, |texts| texts.len());
        view.put("texts".into(), "i".repeat(known + 1));
        Ok(())
    }
}

fn note(store: &Store, stream: &str, text: &str) -> Position {
    store.append(stream, Expected::Any, [Event::raw("noted", text)]).unwrap().position
}

fn notes(view: &View<String, String>) -> Vec<(String, String)> {
    view.iter().map(Result::unwrap).filter(|(stream, _)| stream != "texts").collect()
}

fn expect_notes(view: &View<String, String>, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(a, b)| (String::from(*a), String::from(*b))).collect();
    assert_eq!(notes(view), expected);
    assert_eq!(view.len(), count(expected.len()) + 1);
}

#[test]
fn rows_are_put_changed_and_removed_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = small().open(dir.path()).unwrap();
    for store in [in_memory(), on_disk] {
        let view = store.project(Notes::<false>).unwrap();
        let check = |changes: &[(&str, &str)], expected: &[(&str, &str)]| {
            let mut last = Position::START;
            for (stream, text) in changes {
                last = note(&store, stream, text);
            }
            view.wait_for(last, FOR_EVER).unwrap();
            expect_notes(&view, expected);
        };
        check(&[("a", "1"), ("b", "2")], &[("a", "1"), ("b", "2")]);
        check(&[("a", "3"), ("c", "-")], &[("a", "3"), ("b", "2")]);
        check(&[("b", "-"), ("d", "4"), ("d", "-"), ("d", "")], &[("a", "3"), ("d", "")]);
        check(&[("d", "-"), ("a", "-"), ("a", "-")], &[]);
        assert_eq!(view.get(&"texts".into()).unwrap().unwrap().len(), 11);
        let long = "x".repeat(700_000);
        check(&[("a", "#700000"), ("b", "#9000")], &[("a", &long), ("b", &long[..9000])]);
        check(&[("a", "-"), ("b", "5")], &[("b", "5")]);
    }
}

/// What comes before the failing event, the failing event, its message, and whether all of it was there before the
/// projection was registered.
fn stops_at(failing: &str, message: &str, was_there_before: bool) {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let early = (!was_there_before).then(|| store.project(Notes::<false>).unwrap());
    for n in 0..20 {
        note(&store, ["a", "b"][n % 2], &n.to_string());
    }
    let failed = note(&store, "a", failing);
    let last = note(&store, "b", "after it");
    let view = early.unwrap_or_else(|| store.project(Notes::<false>).unwrap());
    let other = store.project(Tally::<1>).unwrap();

    view.wait_for(Position::new(20), FOR_EVER).unwrap();
    for error in
        [view.wait_for(last, FOR_EVER).unwrap_err(), block_on(view.wait_for_async(failed)).unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::Stopped { position: failed }, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    expect_notes(&view, &[("a", "18"), ("b", "19")]);
    assert_eq!(view.get(&"texts".into()).unwrap().unwrap().len(), 20);
    assert_eq!(view.checkpoint().get(), 20);
    other.wait_for(last, FOR_EVER).unwrap();
    let statuses = store.views();
    let [stopped, live] = statuses.as_slice() else { panic!("{statuses:?}") };
    assert_eq!((stopped.name.as_str(), stopped.checkpoint.get(), stopped.lag), ("notes", 20, 2));
    let ProjectionState::Stopped { position, cause } = &stopped.state else { panic!("{stopped:?}") };
    assert_eq!(*position, failed);
    assert!(cause.to_string().contains(message), "{cause}");
    assert_eq!((live.name.as_str(), live.checkpoint, live.rows), ("tally", last, other.len()));
    store.close().unwrap();

    let store = small().open(dir.path()).unwrap();
    let again = store.project(Notes::<false>).unwrap();
    let error = again.wait_for(last, FOR_EVER).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: failed }, "the cause is still there");
    drop(store);

    let store = small().open(dir.path()).unwrap();
    let mended = store.project(Notes::<true>).unwrap();
    assert!(mended.status().rebuilt_because.is_none());
    assert_eq!(mended.checkpoint().get().min(20), 20);
    mended.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(mended.get(&"b".into()).unwrap().unwrap(), "after it");
    assert_eq!(mended.get(&"texts".into()).unwrap().unwrap().len(), 22, "it went on, and did not start anew");
}

#[test]
fn an_error_of_apply_stops_the_projection_there_until_it_is_mended() {
    stops_at("!", "no exclamations", true);
    stops_at("!", "no exclamations", false);
}

#[test]
fn a_panic_of_apply_stops_the_projection_there_until_it_is_mended() {
    stops_at("!!", "two of a", true);
    stops_at("!!", "two of a", false);
}

#[test]
fn a_row_that_is_too_large_stops_the_projection_at_its_event() {
    stops_at("#1048576", "1048576", true);
    stops_at("#1048576", "1048576", false);
}

#[test]
fn of_two_failures_the_first_is_where_the_projection_stops() {
    for second in ["!", "#1048576", "!!"] {
        let store = in_memory();
        (0..10).for_each(|n| assert_eq!(note(&store, "a", "fine").get(), n + 1));
        let failed = note(&store, "a", "#1048576");
        note(&store, "b", "fine");
        let last = note(&store, "b", second);
        let view = store.project(Notes::<false>).unwrap();
        let error = view.wait_for(last, FOR_EVER).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped { position: failed }, "then {second}: {error}");
        assert_eq!(view.checkpoint().get(), 10);
        expect_notes(&view, &[("a", "fine")]);
    }
}

#[test]
fn registering_a_projection_again_gives_the_same_view() {
    let store = in_memory();
    let first = store.project(Tally::<1>).unwrap();
    let last = append(&store, 20);
    let second = store.clone().project(Tally::<1>).unwrap();
    second.wait_for(last, FOR_EVER).unwrap();
    assert_eq!((first.checkpoint(), rows(&first)), (last, rows(&second)));
    assert_eq!(store.views().len(), 1);
}

/// Another projection under any name.
macro_rules! named {
    ($type:ident, $name:expr) => {
        struct $type;

        impl Projection for $type {
            const NAME: &'static str = $name;
            const GENERATION: u32 = 1;
            type Key = u64;
            type Value = u64;

            fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<u64, u64>) -> Result<(), ApplyError> {
                view.put(e.position().get() % 3, e.version().get());
                Ok(())
            }
        }
    };
}

named!(TallyToo, "tally");
named!(Empty, "");
named!(UpperCase, "Tally");
named!(Path1, "../tally");
named!(Path2, "a/b");
named!(Dot, ".");
named!(Space, "a b");
named!(Accent, "zählung");
named!(Long, "n2345678901234567890123456789012345678901234567890123456789012345");
named!(Longest, "n234567890123456789012345678901234567890123456789012345678901234");
named!(Fine, "a-z_0-9");

#[test]
fn a_name_names_one_projection_and_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let last = append(&store, 10);
    let invalid = |outcome: Result<(), Error>| assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid);
    store.project(Tally::<1>).unwrap();
    invalid(store.project(TallyToo).map(drop));
    invalid(store.project(Tally::<2>).map(drop));
    invalid(store.project(Empty).map(drop));
    invalid(store.project(UpperCase).map(drop));
    invalid(store.project(Path1).map(drop));
    invalid(store.project(Path2).map(drop));
    invalid(store.project(Dot).map(drop));
    invalid(store.project(Space).map(drop));
    invalid(store.project(Accent).map(drop));
    invalid(store.project(Long).map(drop));
    store.project(Longest).unwrap().wait_for(last, FOR_EVER).unwrap();
    store.project(Fine).unwrap().wait_for(last, FOR_EVER).unwrap();
    let names: Vec<_> = store.views().into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["a-z_0-9", Longest::NAME, "tally"]);
}

fn generations(store: &Path) -> Vec<String> {
    let entries = fs::read_dir(store.join("views/tally")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".tmp"));
    names.sort();
    names
}

#[test]
fn raising_the_generation_rebuilds_the_view_and_removes_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let last = append(&store, 100);
    store.project(Tally::<1>).unwrap().wait_for(last, FOR_EVER).unwrap();
    store.close().unwrap();
    assert_eq!(generations(dir.path()), ["1", "1.json"]);

    let store = small().open(dir.path()).unwrap();
    let view = store.project(Tally::<3>).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(rows(&view), fold(&store, 3));
    assert_eq!((view.status().generation, view.status().rebuilt_because), (3, None));
    // Once it is live, the projector's next step is to remove what was before; closing the store waits for that.
    while !matches!(view.state(), ProjectionState::Live) {
        std::thread::yield_now();
    }
    store.close().unwrap();
    assert_eq!(generations(dir.path()), ["3", "3.json"]);
}

#[test]
fn a_view_in_memory_is_folded_anew_at_each_opening_and_follows_the_log() {
    let storage = MemoryStorage::new();
    for round in 1..=3 {
        let store = small().open_memory(&storage).unwrap();
        let view = store.project(Tally::<1>).unwrap();
        view.wait_for(append(&store, 50), FOR_EVER).unwrap();
        assert_eq!(rows(&view), fold(&store, 1));
        assert_eq!(view.checkpoint().get(), 50 * round);
    }
    let crashed = small().open_memory(&storage.crash(0)).unwrap();
    let view = crashed.project(Tally::<1>).unwrap();
    view.wait_for(Position::new(150), FOR_EVER).unwrap();
    assert_eq!(rows(&view), fold(&crashed, 1));
}

#[test]
fn whoever_waits_for_what_a_failed_sync_keeps_from_coming_is_told() {
    let storage = MemoryStorage::new();
    let store = Options::new().segment_size(64 << 10).open_memory(&storage).unwrap();
    let view = store.project(Tally::<1>).unwrap();
    let waiting = {
        let view = view.clone();
        std::thread::spawn(move || block_on(view.wait_for_async(Position::new(1))))
    };
    storage.fail_at(storage.operations() + 2, Fault::from_then_on(std::io::ErrorKind::Other));
    store.append("s", Expected::Any, [Event::raw("t", "x")]).unwrap_err();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(view.wait_for(Position::new(1), FOR_EVER).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(view.len(), 0, "the view can still be read");
    assert!(view.get(&("s".into(), "t".into())).unwrap().is_none());
}

#[test]
fn many_events_on_many_rows_are_written_in_batches_that_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(1 << 20).open(dir.path()).unwrap();
    for batch in 0..60_u64 {
        let events = (0..500_u64).map(|n| (format!("s{}", n * batch % 997), Event::raw("t", "x")));
        let batch = events.fold(everfold::Batch::new(), |batch, (stream, event)| batch.event(stream, event));
        store.append_batch(batch).unwrap();
    }
    let view = store.project(Tally::<1>).unwrap();
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    assert_eq!(rows(&view), fold(&store, 1));
    assert_eq!(view.len(), count(rows(&view).len()));
    let of_s5 = count(store.read_stream("s5", Version::NONE).count());
    assert_eq!(view.get(&("s5".into(), "t".into())).unwrap(), Some(of_s5));
}
