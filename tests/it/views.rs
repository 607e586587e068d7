//! Views on disk that are damaged, foreign, or ahead of the log: set aside, and made anew from the log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use everfold::{
    ApplyError, Event, Expected, MIN_SEGMENT_BYTES, Options, Position, Projection, RecordedEvent, Store,
    View, ViewBatch,
};

/// Counts the events of each stream; two of them, so that one can be damaged and the other not.
struct Tally<const OTHER: bool>;

impl<const OTHER: bool> Projection for Tally<OTHER> {
    const NAME: &'static str = if OTHER { "other" } else { "tally" };
    const GENERATION: u32 = 4;
    type Key = String;
    type Value = u64;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    }
}

const FOLDER: &str = "views/tally/4";

fn open(path: &Path) -> Store {
    Options::new().segment_size(MIN_SEGMENT_BYTES).open(path).unwrap()
}

fn append(store: &Store, events: u64, streams: u64) {
    for n in 0..events {
        store.append(&format!("stream-{}", n % streams), Expected::Any, [Event::raw("t", "x")]).unwrap();
    }
}

fn catch_up<const OTHER: bool>(store: &Store) -> View<String, u64> {
    let view = store.project(Tally::<OTHER>).unwrap();
    view.wait_for(store.watermark(), Duration::MAX).unwrap();
    let mut expected = BTreeMap::new();
    for event in store.read(Position::START).map(Result::unwrap) {
        *expected.entry(event.stream().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(view.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(usize::try_from(view.len()).unwrap(), expected.len());
    view
}

/// A closed store with some events and both views, caught up.
fn closed_store(path: &Path) {
    let store = open(path);
    append(&store, 60, 7);
    catch_up::<false>(&store);
    catch_up::<true>(&store);
    store.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn replace(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(from, to);
}

/// Opens a store whose view `tally` cannot be served: it must be set aside and made anew, with its reason told, and
/// `other` must not be touched.
fn is_made_anew(path: &Path, reason: &str) {
    let quarantined = || {
        let names = fs::read_dir(path.join("quarantine")).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let before = quarantined().len();
    let store = open(path);
    let view = catch_up::<false>(&store);
    let why = view.status().rebuilt_because.unwrap_or_default();
    assert!(why.contains(reason), "{reason:?} is not in {why:?}");
    let kept = quarantined();
    assert_eq!(kept.len(), before + 1, "{kept:?}");
    assert!(kept.iter().any(|name| why.ends_with(&format!("quarantine/{name}"))), "{kept:?} {why}");
    assert_eq!(catch_up::<true>(&store).status().rebuilt_because, None);
    let report = store.recovery();
    let [rebuilt] = report.rebuilt_views.as_slice() else { panic!("{report}") };
    assert_eq!(
        (rebuilt.name.as_str(), rebuilt.generation, rebuilt.because.as_str()),
        ("tally", 4, why.as_str())
    );
    assert!(report.to_string().contains(&why), "{report}");
    let (reason, place) = why.rsplit_once("; it is kept in ").unwrap();
    let told = fs::read_to_string(path.join(place).join("set-aside.txt")).unwrap();
    assert_eq!(told.trim_end(), reason);
    append(&store, 10, 3);
    catch_up::<false>(&store);
    store.close().unwrap();
    let store = open(path);
    assert_eq!(catch_up::<false>(&store).status().rebuilt_because, None, "it is sound from then on");
    assert_eq!(store.recovery().rebuilt_views, []);
    assert_eq!(quarantined(), kept);
}

#[test]
fn a_view_whose_files_are_garbage_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path());
    for (file, bytes) in [("db", 1 << 20), ("conf", 64)] {
        let garbage: Vec<u8> =
            (0..bytes).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        fs::write(dir.path().join(FOLDER).join(file), garbage).unwrap();
        is_made_anew(dir.path(), "view");
    }
    let data = dir.path().join(FOLDER).join("db");
    fs::write(&data, b"").unwrap();
    is_made_anew(dir.path(), "");
}

#[test]
fn a_view_whose_files_are_gone_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path());
    fs::remove_file(dir.path().join(FOLDER).join("db")).unwrap();
    is_made_anew(dir.path(), "");
    for entry in fs::read_dir(dir.path().join(FOLDER)).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    is_made_anew(dir.path(), "its files do not hold what they should");
}

#[test]
fn a_view_that_never_met_an_event_is_not_taken_for_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let store = open(dir.path());
        assert_eq!(catch_up::<false>(&store).status().rebuilt_because, None);
    }
    closed_store(dir.path());
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 0);
}

#[test]
fn a_view_whose_folder_is_gone_is_built_as_if_it_were_new() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path());
    fs::remove_dir_all(dir.path().join("views/tally")).unwrap();
    let store = open(dir.path());
    assert_eq!(catch_up::<false>(&store).status().rebuilt_because, None);
    drop(store);
    fs::remove_dir_all(dir.path().join("views")).unwrap();
    let store = open(dir.path());
    catch_up::<false>(&store);
    catch_up::<true>(&store);
}

#[test]
fn a_view_of_another_store_is_made_anew() {
    let (dir, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed_store(dir.path());
    closed_store(foreign.path());
    replace(&foreign.path().join(FOLDER), &dir.path().join(FOLDER));
    let theirs = open(foreign.path()).store_id().to_string();
    is_made_anew(dir.path(), &theirs);
}

#[test]
fn a_view_of_another_name_or_generation_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path());
    replace(&dir.path().join("views/other/4"), &dir.path().join(FOLDER));
    is_made_anew(dir.path(), "generation 4 of other");
}

#[test]
fn a_view_that_is_ahead_of_a_log_restored_from_a_copy_is_made_anew() {
    let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed_store(dir.path());
    copy(dir.path(), &backup.path().join("store"));
    let store = open(dir.path());
    append(&store, 40, 5);
    catch_up::<false>(&store);
    store.close().unwrap();
    let restored = backup.path().join("store");
    replace(&dir.path().join(FOLDER), &restored.join(FOLDER));
    is_made_anew(&restored, "it is at position 100, and the log ends at 60");
}

#[test]
fn a_view_of_other_events_at_the_same_positions_is_made_anew() {
    let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let twin = backup.path().join("store");
    closed_store(dir.path());
    copy(dir.path(), &twin);
    for (path, streams) in [(dir.path(), 2), (&twin, 3)] {
        let store = open(path);
        append(&store, 40, streams);
        catch_up::<false>(&store);
        catch_up::<true>(&store);
        store.close().unwrap();
    }
    replace(&dir.path().join(FOLDER), &twin.join(FOLDER));
    is_made_anew(&twin, "the event at position 100 is not the same");
}

#[test]
fn a_view_that_is_behind_the_log_goes_on_from_where_it_is() {
    let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed_store(dir.path());
    copy(&dir.path().join("views"), &backup.path().join("views"));
    let store = open(dir.path());
    append(&store, 40, 5);
    catch_up::<false>(&store);
    store.close().unwrap();
    replace(&backup.path().join("views"), &dir.path().join("views"));
    let store = open(dir.path());
    assert_eq!(catch_up::<false>(&store).status().rebuilt_because, None);
    assert_eq!(catch_up::<true>(&store).status().rebuilt_because, None);
}

#[test]
fn a_damaged_view_of_a_projection_that_is_not_registered_troubles_nobody() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path());
    fs::write(dir.path().join(FOLDER).join("db"), b"garbage").unwrap();
    let store = open(dir.path());
    assert_eq!(store.read(Position::START).map(Result::unwrap).count(), 60);
    assert_eq!(catch_up::<true>(&store).status().rebuilt_because, None);
    let reader = Options::new().read_only(true).open(dir.path()).unwrap();
    assert_eq!(reader.watermark().get(), 60);
}

/// Rows long enough that the cache does not hold them.
struct Long;

impl Projection for Long {
    const NAME: &'static str = "long";
    const GENERATION: u32 = 1;
    type Key = u64;
    type Value = Vec<u8>;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u64, Vec<u8>>) -> Result<(), ApplyError> {
        view.put(event.position().get(), vec![1; 1500]);
        Ok(())
    }
}

#[test]
fn damage_that_a_reader_meets_makes_the_view_anew_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop");
    let options = Options::new().view_cache_bytes(1 << 20).view_memory_bytes(64 << 10);
    let store = options.open(&path).unwrap();
    let view = store.project(Long).unwrap();
    append(&store, 10_000, 1);
    let last = store.watermark();
    view.wait_for(last, Duration::from_secs(60)).unwrap();
    let db = path.join("views/long/1/db");
    let noise: Vec<u8> = (0..fs::metadata(&db).unwrap().len())
        .map(|at| (at.wrapping_mul(167) >> 3).to_le_bytes()[0])
        .collect();
    fs::write(&db, noise).unwrap();
    let error = view.iter().find_map(Result::err).expect("rows are read from the file");
    assert_eq!(error.kind(), everfold::ErrorKind::View, "{error}");

    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while view.status().rebuilt_because.is_none() {
        assert!(std::time::Instant::now() < deadline, "{:?}", view.status());
        std::thread::yield_now();
    }
    view.wait_for(last, Duration::from_secs(60)).unwrap();
    assert_eq!(view.iter().map(Result::unwrap).count(), 10_000);
    assert_eq!(view.len(), 10_000);
}
