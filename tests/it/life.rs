//! The life of a projection: paused, dropped, rebuilt beside what it serves, verified, compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use everfold::{
    ApplyError, Batch, Difference, ErrorKind, Event, Expected, MIN_SEGMENT_BYTES, MemoryStorage, Options,
    Position, Projection, ProjectionState, RecordedEvent, Retention, Store, View, ViewBatch, ViewNote,
};

use crate::view_cases::copy;

const FOR_EVER: Duration = Duration::MAX;
const LONG: Duration = Duration::from_secs(60);

/// Lets through as many events as it was told to.
#[derive(Default)]
struct Gate {
    open_to: Mutex<u64>,
    opened: Condvar,
}

impl Gate {
    fn open_to(&self, position: u64) {
        *self.open_to.lock().unwrap() = position;
        self.opened.notify_all();
    }

    fn pass(&self, position: u64) {
        let open_to = self.open_to.lock().unwrap();
        drop(self.opened.wait_while(open_to, |open_to| *open_to < position).unwrap());
    }
}

/// Adds the generation to the count of the event's stream, once the gate lets the event through.
struct Counts<const GENERATION: u32, const BESIDE: bool = false>(Option<Arc<Gate>>);

impl<const GENERATION: u32, const BESIDE: bool> Projection for Counts<GENERATION, BESIDE> {
    const NAME: &'static str = "counts";
    const GENERATION: u32 = GENERATION;
    const SERVES_EARLIER: bool = BESIDE;
    type Key = String;
    type Value = u64;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        if let Some(gate) = &self.0 {
            gate.pass(e.position().get());
        }
        view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + u64::from(GENERATION)))
    }
}

type Rows = BTreeMap<String, u64>;

fn fold(store: &Store, to: Position, weight: u64) -> Rows {
    let mut rows = Rows::new();
    for event in store.read(Position::START).limit(to.get()).map(Result::unwrap) {
        *rows.entry(event.stream().to_owned()).or_default() += weight;
    }
    rows
}

fn rows(view: &View<String, u64>) -> Rows {
    view.iter().map(Result::unwrap).collect()
}

fn small() -> Options {
    Options::new().segment_size(MIN_SEGMENT_BYTES)
}

fn append(store: &Store, events: u64) -> Position {
    let start = store.watermark().get();
    for n in start..start + events {
        store.append(&format!("stream-{}", n % 7), Expected::Any, [Event::raw("t", "x")]).unwrap();
    }
    store.watermark()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The names in the folder of the view, without the notes.
fn on_disk(store: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(store.join("views/counts")) else { return Vec::new() };
    let mut names: Vec<_> = found.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.contains(".json"));
    names.sort();
    names
}

#[test]
fn a_paused_view_is_read_and_waited_for_and_goes_on_when_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = small().open(dir.path()).unwrap();
    for store in [small().open_memory(&MemoryStorage::new()).unwrap(), on_disk] {
        let view = store.project(Counts::<1>(None)).unwrap();
        let first = append(&store, 20);
        view.wait_for(first, FOR_EVER).unwrap();
        view.pause().unwrap();
        view.pause().unwrap();
        let last = append(&store, 30);
        let error = view.wait_for(last, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(matches!(view.state(), ProjectionState::Paused), "{:?}", view.state());
        assert_eq!((view.checkpoint(), view.status().lag), (first, 30));
        assert_eq!(rows(&view), fold(&store, first, 1));
        let waiting = {
            let view = view.clone();
            std::thread::spawn(move || view.wait_for(last, FOR_EVER))
        };
        view.resume().unwrap();
        waiting.join().unwrap().unwrap();
        assert_eq!(rows(&view), fold(&store, last, 1));
        view.resume().unwrap();
        view.pause().unwrap();
        store.close().unwrap();
        assert_eq!(view.resume().unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(ViewNote::read_all(dir.path()).unwrap()[0].state, "closed");
}

#[test]
fn retention_leaves_what_a_paused_view_has_still_to_apply() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    let first = append(&store, 100);
    view.wait_for(first, FOR_EVER).unwrap();
    view.pause().unwrap();
    assert_eq!(ViewNote::read_all(dir.path()).unwrap()[0].state, "paused");
    let last = append(&store, 200);
    let all = fold(&store, last, 1);
    store.retain(&Retention::new().before(last)).unwrap();
    assert!(store.log_start() > Position::new(1) && store.log_start() <= first);
    view.resume().unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(rows(&view), all);
    // The view would need the whole log to be built anew, and says so.
    let error = view.rebuild().and_then(|()| view.wait_built(LONG)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Truncated { .. }), "{error}");
    assert_eq!((rows(&view), view.checkpoint()), (all, last));
    assert!(matches!(view.verify().unwrap_err().kind(), ErrorKind::Truncated { .. }));
}

#[test]
fn a_dropped_view_is_gone_and_can_be_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = small().open(dir.path()).unwrap();
    for store in [small().open_memory(&MemoryStorage::new()).unwrap(), on_disk] {
        let last = append(&store, 50);
        let view = store.project(Counts::<1>(None)).unwrap();
        view.wait_for(last, FOR_EVER).unwrap();
        store.drop_view("counts").unwrap();
        assert!(store.views().is_empty());
        let kinds = [
            view.get(&"stream-1".into()).unwrap_err(),
            view.wait_for(last.max(Position::new(51)), FOR_EVER).unwrap_err(),
            view.pause().unwrap_err(),
            view.verify().unwrap_err(),
            store.drop_view("counts").unwrap_err(),
        ];
        for error in kinds {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        assert!(matches!(view.state(), ProjectionState::Dropped));
        let again = store.project(Counts::<2>(None)).unwrap();
        again.wait_for(last, FOR_EVER).unwrap();
        assert_eq!(rows(&again), fold(&store, last, 2));
        assert_eq!(again.status().rebuilt_because, None);
    }
    assert_eq!(fs::read_dir(dir.path().join("views")).unwrap().count(), 1);
    let store = small().open(dir.path()).unwrap();
    assert_eq!(store.drop_view("../counts").unwrap_err().kind(), ErrorKind::Invalid);
    let reader = Options::new().read_only(true).open(dir.path()).unwrap();
    assert_eq!(reader.drop_view("counts").unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn a_view_that_is_not_registered_can_be_dropped_and_holds_back_no_retention_then() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    let last = append(&store, 200);
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    store.close().unwrap();
    assert_eq!(on_disk(dir.path()), ["1.1", "1.1.serves"]);
    let store = small().open(dir.path()).unwrap();
    let kept = store.retain(&Retention::new().before(last)).unwrap();
    assert_eq!((kept.segments, store.log_start().get()), (0, 1));
    store.drop_view("counts").unwrap();
    assert_eq!(fs::read_dir(dir.path().join("views")).unwrap().count(), 0);
    assert!(ViewNote::read_all(dir.path()).unwrap().is_empty());
    assert!(store.retain(&Retention::new().before(last)).unwrap().segments > 0);
}

#[test]
fn what_a_crash_leaves_of_a_dropped_view_is_no_view_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let last = append(&store, 50);
    store.project(Counts::<1>(None)).unwrap().wait_for(last, FOR_EVER).unwrap();
    store.close().unwrap();
    let views = dir.path().join("views");
    fs::rename(views.join("counts"), views.join("counts.dropped")).unwrap();
    assert!(ViewNote::read_all(dir.path()).unwrap().is_empty());
    let reader = Options::new().read_only(true).open(dir.path()).unwrap();
    drop(reader);
    assert!(views.join("counts.dropped").exists(), "who reads only removes nothing");
    let store = small().open(dir.path()).unwrap();
    assert!(!views.join("counts.dropped").exists());
    // Also when it comes to be in the way.
    copy(dir.path().join("log").as_path(), &views.join("counts.dropped/1")).unwrap();
    let view = store.project(Counts::<1>(None)).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(rows(&view), fold(&store, last, 1));
    store.drop_view("counts").unwrap();
    assert_eq!(fs::read_dir(&views).unwrap().count(), 0);
}

#[test]
fn a_view_whose_rows_are_being_iterated_is_dropped_when_that_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let last = append(&store, 50);
    let view = store.project(Counts::<1>(None)).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    let mut iterator = view.iter();
    assert!(iterator.next().unwrap().is_ok());
    let error = store.drop_view("counts").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked { pid: None }, "{error}");
    assert_eq!(iterator.count(), 6);
    store.drop_view("counts").unwrap();
    assert_eq!(on_disk(dir.path()), [""; 0]);
}

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
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let first = append(&store, 200);
    store.project(Counts::<1>(None)).unwrap().wait_for(first, FOR_EVER).unwrap();
    store.close().unwrap();
    for crashes in 0..2 {
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
        gate.open_to(u64::MAX);
        if crashes == 0 {
            continue;
        }
        view.wait_for(last, FOR_EVER).unwrap();
        view.wait_built(LONG).unwrap();
        assert_eq!((rows(&view), view.status().serves), (fold(&store, last, 3), 3));
        until("it is live", || matches!(view.state(), ProjectionState::Live));
        store.close().unwrap();
    }
    assert_eq!(on_disk(dir.path()), ["3"]);
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
