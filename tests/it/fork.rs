//! A process that is forked from one with an open store: it writes nothing, waits for nobody, and says why.
#![expect(unsafe_code, reason = "only the hook of a command runs code of this process in a forked one")]

use std::collections::BTreeMap;
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everfold::{
    AppendError, ApplyError, Batch, Durability, ErrorKind, Event, Options, Position, Projection,
    RecordedEvent, Store, ViewBatch,
};

struct Count;

impl Projection for Count {
    const NAME: &'static str = "count";
    const GENERATION: u32 = 1;
    type Key = ();
    type Value = u64;

    fn apply(&self, _: &RecordedEvent, view: &mut ViewBatch<(), u64>) -> Result<(), ApplyError> {
        view.update((), |n| Some(n.unwrap_or(0) + 1))
    }
}

struct Other;

impl Projection for Other {
    const NAME: &'static str = "other";
    const GENERATION: u32 = 1;
    type Key = ();
    type Value = u64;

    fn apply(&self, _: &RecordedEvent, _: &mut ViewBatch<(), u64>) -> Result<(), ApplyError> {
        Ok(())
    }
}

fn batch(durability: Durability) -> Batch {
    Batch::new().event("s", Event::raw("t", "x")).durability(durability)
}

fn is_closed(result: Result<impl Sized, AppendError>) -> bool {
    matches!(result, Err(AppendError::Failed(error)) if error.kind() == ErrorKind::Closed)
}

/// What the forked process tries; the number of what went wrong, or 0.
fn try_everything(store: Store) -> i32 {
    let closed = |result: Result<(), everfold::Error>| {
        result.is_err_and(|error| error.kind() == ErrorKind::Closed && error.to_string().contains("fork"))
    };
    let tried = [
        is_closed(store.append_batch(batch(Durability::Durable))),
        is_closed(store.append_batch(batch(Durability::Written))),
        is_closed(store.append_batch(batch(Durability::Durable))),
        closed(store.sync().map(drop)),
        closed(store.project(Other).map(drop)),
        closed(store.retain(&everfold::Retention::new().max_bytes(0)).map(drop)),
        store.read(Position::START).filter(Result::is_ok).count() > 0,
        closed(store.close()),
    ];
    // The last handle of this process: what its end would write, and whom it would wait for.
    drop(store);
    tried.iter().position(|well| !well).map_or(0, |at| i32::try_from(at).unwrap() + 1)
}

/// Forks; what the forked process tried and got wrong, as the error of a command that is never started.
fn fork(store: &Arc<Mutex<Option<Store>>>) -> i32 {
    const WELL: i32 = 4000;
    let store = store.clone();
    let mut command = Command::new("true");
    let child = move || {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(60));
            std::process::abort();
        });
        // This process's own copy: the one that forked it keeps its handle.
        let store = store.lock().unwrap().take().unwrap();
        Err(Error::from_raw_os_error(WELL + try_everything(store)))
    };
    // SAFETY: the closure runs in the forked process before another program is started, which it never is. It takes a lock
    // that no other thread uses, and otherwise only what this test is about.
    unsafe { command.pre_exec(child) };
    let error = command.spawn().and_then(|mut child| child.wait()).unwrap_err();
    error.raw_os_error().unwrap() - WELL
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(contents(&entry.path())),
            false => drop(found.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    found
}

#[test]
fn a_forked_process_writes_nothing_waits_for_nobody_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(8192).sync_after(Duration::from_secs(1 << 20));
    // The only handle: in the forked process it is the last one that is dropped.
    let cell = Arc::new(Mutex::new(Some(options.open(dir.path()).unwrap())));
    let append = |durability| {
        let cell = cell.lock().unwrap();
        cell.as_ref().unwrap().append_batch(batch(durability)).unwrap().position
    };
    append(Durability::Durable);
    let view = cell.lock().unwrap().as_ref().unwrap().project(Count).unwrap();
    view.wait_for(Position::new(1), Duration::MAX).unwrap();
    // The process that forks may itself write between two looks, now and then; one that is forked would do so always.
    let left_alone = (0..20).any(|_| {
        // In memory, and in that of the forked process, which must not write it.
        append(Durability::Deferred);
        let before = contents(dir.path());
        assert_eq!(fork(&cell), 0);
        contents(dir.path()) == before
    });
    assert!(left_alone, "the files changed each time");
    let last = append(Durability::Durable);
    view.wait_for(last, Duration::MAX).unwrap();
    drop(view);
    cell.lock().unwrap().take().unwrap().close().unwrap();
    let store = Options::new().create(false).open(dir.path()).unwrap();
    assert!(store.recovery().clean && store.watermark() == last, "{}", store.recovery());
}
