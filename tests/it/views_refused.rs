//! What is not a view's fault: a held lock, a file that may not grow, no more descriptors. The projection is told, or
//! stops; the view is neither wiped nor set aside, and is right as soon as the cause is gone. Others go on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use everfold::{
    ApplyError, Error, ErrorKind, Event, Expected, MIN_SEGMENT_BYTES, Options, Position, Projection,
    ProjectionState, RecordedEvent, Store, View, ViewBatch,
};

const LONG: Duration = Duration::from_secs(60);
/// Set in the child: the directory of its store, and what it is to meet.
const CHILD: (&str, &str) = ("EVERFOLD_TEST_REFUSED_DIR", "EVERFOLD_TEST_REFUSED_BY");

/// Long rows, so that sled's file grows with the log.
struct Large;

impl Projection for Large {
    const NAME: &'static str = "large";
    const GENERATION: u32 = 1;
    type Key = u64;
    type Value = Vec<u8>;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u64, Vec<u8>>) -> Result<(), ApplyError> {
        view.put(event.position().get(), event.payload().repeat(3000));
        Ok(())
    }
}

/// A single row.
struct Small;

impl Projection for Small {
    const NAME: &'static str = "small";
    const GENERATION: u32 = 1;
    type Key = u8;
    type Value = u64;

    fn apply(&self, _: &RecordedEvent, view: &mut ViewBatch<u8, u64>) -> Result<(), ApplyError> {
        view.update(0, |count| Some(count.unwrap_or(0) + 1))
    }
}

fn open(path: &Path) -> Store {
    Options::new()
        .segment_size(MIN_SEGMENT_BYTES)
        .view_cache_bytes(1 << 20)
        .view_memory_bytes(256 << 10)
        .open(path)
        .unwrap()
}

fn append(store: &Store, events: u8) -> Position {
    for n in 0..events {
        store.append("s", Expected::Any, [Event::raw("t", [n])]).unwrap();
    }
    store.watermark()
}

fn is_right(view: &View<u64, Vec<u8>>, store: &Store) {
    view.wait_for(store.watermark(), LONG).unwrap();
    let events = store.read(Position::START).map(Result::unwrap);
    let expected: BTreeMap<_, _> = events.map(|e| (e.position().get(), e.payload().repeat(3000))).collect();
    assert_eq!(view.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(view.status().rebuilt_because, None);
}

fn goes_on(view: &View<u8, u64>, store: &Store) {
    view.wait_for(store.watermark(), LONG).unwrap();
    assert_eq!(view.get(&0).unwrap(), Some(store.watermark().get()));
    assert_eq!(view.status().rebuilt_because, None);
}

/// Opened without the cause, the store has both views as they were, with nothing set aside.
fn is_right_later(path: &Path) {
    let store = open(path);
    append(&store, 3);
    is_right(&store.project(Large).unwrap(), &store);
    goes_on(&store.project(Small).unwrap(), &store);
    assert_eq!(fs::read_dir(path.join("quarantine")).unwrap().count(), 0);
    store.close().unwrap();
}

#[test]
fn a_view_that_is_locked_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 5);
    is_right(&store.project(Large).unwrap(), &store);
    store.close().unwrap();
    let held = File::open(dir.path().join("views/large/1/db")).unwrap();
    held.lock().unwrap();
    let store = open(dir.path());
    let error = store.project(Large).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked { pid: None }, "{error}");
    append(&store, 5);
    goes_on(&store.project(Small).unwrap(), &store);
    held.unlock().unwrap();
    is_right(&store.project(Large).unwrap(), &store);
    assert_eq!(store.recovery().rebuilt_views, []);
    store.close().unwrap();
    is_right_later(dir.path());
}

/// The life of the child. Without the variables, this is not the child: nothing to do.
#[test]
fn child_entry() {
    let Some(dir) = std::env::var_os(CHILD.0) else { return };
    let store = open(Path::new(&dir));
    match std::env::var(CHILD.1).unwrap().as_str() {
        "size" => files_stop_growing(&store),
        _ => descriptors_run_out(&store),
    }
    store.close().unwrap();
}

/// The system refuses whatever is beyond the first bytes of a file, as a full disk would.
fn files_stop_growing(store: &Store) {
    let small = store.project(Small).unwrap();
    let large = store.project(Large).unwrap();
    let mut stopped: Option<Error> = None;
    while stopped.is_none() {
        assert!(store.watermark().get() < 5000, "sled writes no more than allowed");
        let last = append(store, 200);
        stopped = large.wait_for(last, LONG).err();
    }
    let error = stopped.unwrap();
    let ProjectionState::Stopped { position, cause } = large.state() else { panic!("{:?}", large.status()) };
    assert_eq!(error.kind(), ErrorKind::Stopped { position }, "{error}");
    assert!(matches!(cause.kind(), ErrorKind::Io | ErrorKind::DiskFull), "{cause}");
    append(store, 10);
    goes_on(&small, store);
}

fn descriptors_run_out(store: &Store) {
    append(store, 20);
    goes_on(&store.project(Small).unwrap(), store);
    let mut spare: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let mut refused = 0;
    let view = loop {
        match store.project(Large) {
            Ok(view) => break view,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                refused += 1;
            }
        }
        spare.pop().unwrap();
    };
    assert!(refused > 1, "{refused}");
    drop(spare);
    is_right(&view, store);
}

fn child(dir: &Path, limit: &str, by: &str) {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; {limit}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args(["--exact", "views_refused::child_entry", "--nocapture", "--test-threads", "1"])
        .env(CHILD.0, dir)
        .env(CHILD.1, by)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{by}: {}", told.lines().take(20).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_view_whose_file_may_not_grow_stops_its_projection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    // Half-kibibytes, or kibibytes: about one or two of sled's segments, and far more than a segment of the log.
    child(dir.path(), "ulimit -f 2100", "size");
    is_right_later(dir.path());
}

#[test]
fn a_view_is_refused_while_there_are_no_more_descriptors_and_then_right() {
    let dir = tempfile::tempdir().unwrap();
    child(dir.path(), "ulimit -n 100", "descriptors");
    is_right_later(dir.path());
}
