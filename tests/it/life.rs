//! The life of a projection: paused, resumed, dropped. What it builds beside is in `beside`, what it proves in `proof`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use everfold::{
    ApplyError, ErrorKind, Event, Expected, MIN_SEGMENT_BYTES, MemoryStorage, Options, Position, Projection,
    ProjectionState, RecordedEvent, Retention, Store, View, ViewBatch, ViewNote,
};

use crate::view_cases::copy;

pub(crate) const FOR_EVER: Duration = Duration::MAX;
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Lets through as many events as it was told to.
#[derive(Default)]
pub(crate) struct Gate {
    open_to: Mutex<u64>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open_to(&self, position: u64) {
        *self.open_to.lock().unwrap() = position;
        self.opened.notify_all();
    }

    fn pass(&self, position: u64) {
        let open_to = self.open_to.lock().unwrap();
        drop(self.opened.wait_while(open_to, |open_to| *open_to < position).unwrap());
    }
}

/// Adds the generation to the count of the event's stream, once the gate lets the event through.
pub(crate) struct Counts<const GENERATION: u32, const BESIDE: bool = false>(pub(crate) Option<Arc<Gate>>);

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

pub(crate) type Rows = BTreeMap<String, u64>;

pub(crate) fn fold(store: &Store, to: Position, weight: u64) -> Rows {
    let mut rows = Rows::new();
    for event in store.read(Position::START).limit(to.get()).map(Result::unwrap) {
        *rows.entry(event.stream().to_owned()).or_default() += weight;
    }
    rows
}

pub(crate) fn rows(view: &View<String, u64>) -> Rows {
    view.iter().map(Result::unwrap).collect()
}

pub(crate) fn small() -> Options {
    Options::new().segment_size(MIN_SEGMENT_BYTES)
}

pub(crate) fn append(store: &Store, events: u64) -> Position {
    let start = store.watermark().get();
    for n in start..start + events {
        store.append(&format!("stream-{}", n % 7), Expected::Any, [Event::raw("t", "x")]).unwrap();
    }
    store.watermark()
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The names in the folder of the view, without the notes.
pub(crate) fn on_disk(store: &Path) -> Vec<String> {
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
