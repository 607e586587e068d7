//! Creating, opening, locking, closing; and opening read-only, which changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use everfold::dump::{Found, Inspector};
use everfold::{
    AppendError, ApplyError, Error, ErrorKind, Event, Expected, MAX_BATCH_BYTES, MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES, MemoryStorage, Options, Position, Projection, RecordedEvent, Store, Version,
    ViewBatch,
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

fn append(store: &Store, events: u64) {
    for n in 0..events {
        store.append("s", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
}

fn failure(outcome: Result<impl Sized, AppendError>) -> ErrorKind {
    match outcome {
        Err(AppendError::Failed(error)) => error.kind(),
        Err(other) => panic!("{other} should be a failure"),
        Ok(_) => panic!("the append succeeded"),
    }
}

fn kind(outcome: Result<impl Sized, Error>) -> ErrorKind {
    outcome.err().unwrap().kind()
}

/// Everything below a directory: names, permissions where there are such, and bytes.
fn contents(dir: &Path) -> BTreeMap<String, (bool, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let read_only = entry.metadata().unwrap().permissions().readonly();
        if entry.file_type().unwrap().is_dir() {
            let below = contents(&entry.path()).into_iter();
            found.extend(below.map(|(path, content)| (format!("{name}/{path}"), content)));
            found.insert(name, (read_only, None));
        } else {
            found.insert(name, (read_only, Some(fs::read(entry.path()).unwrap())));
        }
    }
    found
}

#[test]
fn creating_can_be_told_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop");
    let existing = Options::new().create(false);
    assert_eq!(kind(existing.open(&path)), ErrorKind::NotFound);
    assert!(!path.exists());
    fs::create_dir(&path).unwrap();
    assert_eq!(kind(existing.open(&path)), ErrorKind::NotFound);
    assert_eq!(kind(existing.open_memory(&MemoryStorage::new())), ErrorKind::NotFound);
    let store = Store::open(&path).unwrap();
    assert!(store.recovery().created);
    let id = store.store_id();
    store.close().unwrap();
    let store = existing.open(&path).unwrap();
    assert!(!store.recovery().created && store.recovery().clean);
    assert_eq!(store.store_id(), id);
    let other = Store::open(dir.path().join("other")).unwrap();
    assert_ne!(other.store_id(), id);
}

#[test]
fn a_directory_that_holds_anything_else_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("photos")).unwrap();
    fs::write(dir.path().join("photos/cat"), "meow").unwrap();
    fs::write(dir.path().join("LOCK"), "of another program").unwrap();
    let before = contents(dir.path());
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.to_string().contains("photos"), "{error}");
    assert_eq!(contents(dir.path()), before);
    let file = dir.path().join("photos/cat");
    assert!(Store::open(&file).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"meow");
}

#[test]
fn sizes_out_of_range_are_invalid_and_create_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for size in [0, 4096, MIN_SEGMENT_BYTES - 1, MIN_SEGMENT_BYTES + 1, MAX_SEGMENT_BYTES + 4096, u64::MAX] {
        assert_eq!(kind(Options::new().segment_size(size).open(&path)), ErrorKind::Invalid, "{size}");
    }
    for size in [0, MAX_BATCH_BYTES + 1, usize::MAX] {
        assert_eq!(kind(Options::new().max_batch_bytes(size).open(&path)), ErrorKind::Invalid, "{size}");
    }
    assert_eq!(fs::read_dir(&path).map_or(0, Iterator::count), 0);
}

#[test]
fn an_existing_store_keeps_its_segment_size() {
    let storage = MemoryStorage::new();
    append(&Options::new().segment_size(MIN_SEGMENT_BYTES).open_memory(&storage).unwrap(), 100);
    append(&Options::new().segment_size(1 << 20).open_memory(&storage).unwrap(), 100);
    let segments: Vec<_> = storage.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    assert!(segments.len() > 3);
    let size = usize::try_from(MIN_SEGMENT_BYTES).unwrap();
    assert!(segments.iter().all(|name| storage.file(name).unwrap().len() == size));
}

#[test]
fn one_handle_at_a_time_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked { pid: Some(std::process::id()) }, "{error:?}");
    append(&store, 3);
    let clone = store.clone();
    drop(store);
    assert!(matches!(kind(Store::open(dir.path())), ErrorKind::Locked { .. }));
    append(&clone, 1);
    drop(clone);
    assert_eq!(Store::open(dir.path()).unwrap().watermark().get(), 4);

    let storage = MemoryStorage::new();
    let store = Options::new().open_memory(&storage).unwrap();
    assert!(matches!(kind(Options::new().open_memory(&storage)), ErrorKind::Locked { .. }));
    store.close().unwrap();
    Options::new().open_memory(&storage).unwrap();
}

#[test]
fn a_closed_store_says_so_and_can_be_closed_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    append(&store, 3);
    let view = store.project(Count).unwrap();
    view.wait_for(Position::new(3), std::time::Duration::MAX).unwrap();
    let mut cursor = store.read(Position::START);
    let clone = store.clone();
    clone.close().unwrap();
    store.close().unwrap();

    assert_eq!(failure(store.append("s", Expected::Any, [Event::raw("t", "")])), ErrorKind::Closed);
    assert_eq!(kind(store.sync()), ErrorKind::Closed);
    assert_eq!(kind(store.project(Count)), ErrorKind::Closed);
    assert_eq!(kind(view.get(&())), ErrorKind::Closed);
    assert_eq!(kind(view.contains_key(&())), ErrorKind::Closed);
    assert_eq!(view.iter().map(kind).collect::<Vec<_>>(), [ErrorKind::Closed]);
    assert!(view.wait_for(Position::new(3), std::time::Duration::ZERO).is_ok());
    assert_eq!(kind(view.wait_for(Position::new(4), std::time::Duration::MAX)), ErrorKind::Closed);
    let ends = [
        store.read(Position::START),
        store.read_backward(Position::END),
        store.read_stream("s", Version::NONE),
        store.read_stream_backward("s", Version::END),
    ];
    for end in ends {
        assert_eq!(end.map(kind).collect::<Vec<_>>(), [ErrorKind::Closed]);
    }
    assert_eq!(store.subscribe(Position::START).map(kind).collect::<Vec<_>>(), [ErrorKind::Closed]);
    assert!(cursor.all(|event| event.is_ok()), "a cursor from before reads on");
    assert!(store.views().is_empty());
    assert_eq!(store.watermark().get(), 3);
    Store::open(dir.path()).unwrap().close().unwrap();
    store.close().unwrap();
}

#[test]
fn read_only_refuses_what_changes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    append(&Store::open(dir.path()).unwrap(), 3);
    let store = Options::new().read_only(true).open(dir.path()).unwrap();
    assert_eq!(store.read(Position::START).map(Result::unwrap).count(), 3);
    assert_eq!(failure(store.append("s", Expected::Any, [Event::raw("t", "")])), ErrorKind::ReadOnly);
    assert_eq!(kind(store.sync()), ErrorKind::ReadOnly);
    assert_eq!(kind(store.project(Count)), ErrorKind::ReadOnly);
    store.close().unwrap();
    store.close().unwrap();
    assert_eq!(store.read(Position::START).map(kind).collect::<Vec<_>>(), [ErrorKind::Closed]);
}

#[test]
fn read_only_finds_nothing_where_there_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let read_only = Options::new().read_only(true);
    assert_eq!(kind(read_only.open(dir.path().join("nothing"))), ErrorKind::NotFound);
    assert_eq!(kind(read_only.open(dir.path())), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Takes or gives the permission to write, below and including a path.
fn set_read_only(path: &Path, read_only: bool) {
    let metadata = fs::metadata(path).unwrap();
    let mut permissions = metadata.permissions();
    #[cfg(unix)]
    {
        let write = if read_only { 0 } else { 0o200 };
        let search = if metadata.is_dir() { 0o100 } else { 0 };
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o400 | search | write);
    }
    #[cfg(not(unix))]
    permissions.set_readonly(read_only);
    fs::set_permissions(path, permissions).unwrap();
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| set_read_only(&entry.unwrap().path(), read_only));
    }
}

#[test]
fn read_only_writes_nothing_and_needs_no_permission_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open(&path).unwrap();
    append(&store, 200);
    let view = store.project(Count).unwrap();
    view.wait_for(Position::new(200), std::time::Duration::MAX).unwrap();
    store.close().unwrap();
    set_read_only(&path, true);
    let before = contents(&path);
    for map in [true, false] {
        let store = Options::new().read_only(true).map_segments(map).open(&path).unwrap();
        assert!(store.recovery().clean && store.recovery().segments > 2);
        assert_eq!(store.read(Position::START).map(Result::unwrap).count(), 200);
        assert_eq!(store.read_stream_backward("s", Version::END).limit(9).map(Result::unwrap).count(), 9);
        assert_eq!(contents(&path), before);
        drop(store);
        assert_eq!(contents(&path), before);
    }
    set_read_only(&path, false);
}

#[test]
fn read_only_also_writes_nothing_to_a_store_that_was_not_closed() {
    let storage = MemoryStorage::new();
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open_memory(&storage).unwrap();
    append(&store, 100);
    let crashed = storage.crash(u64::MAX);
    let files = |storage: &MemoryStorage| -> Vec<_> {
        storage.files().into_iter().map(|name| (storage.file(&name), name)).collect()
    };
    let before = files(&crashed);
    let reader = Options::new().read_only(true).open_memory(&crashed).unwrap();
    assert!(!reader.recovery().clean);
    assert_eq!(reader.read(Position::START).map(Result::unwrap).count(), 100);
    drop(reader);
    assert_eq!((crashed.operations(), files(&crashed)), (0, before));
}

#[test]
fn read_only_works_beside_a_handle_that_writes() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir.path()).unwrap();
    let read_only = Options::new().read_only(true);
    let mut readers: Vec<(u64, Store)> = Vec::new();
    for round in 1..=20 {
        append(&writer, 13);
        readers.push((round * 13, read_only.open(dir.path()).unwrap()));
    }
    for (last, reader) in &readers {
        let found = reader.read(Position::START).map(|event| event.unwrap().position().get());
        assert!(found.eq(1..=*last), "what was there when it was opened");
        assert_eq!(reader.watermark().get(), *last);
    }
    drop(readers);
    append(&writer, 1);
    assert!(matches!(kind(Store::open(dir.path())), ErrorKind::Locked { .. }));
    writer.close().unwrap();
}

#[test]
fn read_only_works_while_a_handle_writes() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir.path()).unwrap();
    append(&writer, 1);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| append(&writer, 400));
        let mut before = 1;
        while !writing.is_finished() {
            let reader = Options::new().read_only(true).open(dir.path()).unwrap();
            let last = reader.watermark().get();
            assert!(last >= before && reader.recovery().damage.is_empty(), "{}", reader.recovery());
            let found = reader.read(Position::START).map(|event| event.unwrap().position().get());
            assert!(found.eq(1..=last));
            before = last;
        }
    });
}

#[test]
fn looking_slowly_at_a_log_that_is_written_and_rolled_meanwhile_finds_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(512 << 10).open(dir.path()).unwrap();
    append(&store, 1);
    let mut damage = Vec::new();
    Inspector::open(dir.path())
        .unwrap()
        .scan(Position::START, |found| {
            match found {
                Found::Frame { .. } if store.watermark() == Position::new(1) => {
                    for _ in 0..20 {
                        store.append("s", Expected::Any, [Event::raw("t", vec![7; 100 << 10])]).unwrap();
                    }
                }
                Found::Damage { corruption, .. } => damage.push(corruption),
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(damage, []);
}
