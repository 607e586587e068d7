//! Stores that this format's first version wrote, and what is to be read from them for ever.

use std::path::{Path, PathBuf};

use everfold::dump::{Found, Inspector};
use everfold::{
    Damage, Encoding, Error, ErrorKind, Event, Expected, Options, Position, Query, Store, Version,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1").join(name)
}

/// A copy that may be written to.
fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden(name), dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn open(dir: &tempfile::TempDir) -> Result<Store, Error> {
    Options::new().create(false).open(dir.path())
}

fn assert_all_kinds(store: &Store) {
    let events: Vec<_> = store.read(Position::START).map(Result::unwrap).collect();
    let types: Vec<_> = events.iter().map(everfold::RecordedEvent::event_type).collect();
    assert_eq!(types, ["opened", "sold", "sold", "taken", "counted", "note"]);
    assert_eq!(events[1].decode::<(String, u32)>().unwrap(), ("pants".into(), 2));
    assert_eq!(events[2].decode::<(&str, u32)>().unwrap(), ("hats", 1));
    assert_eq!(events[2].tags().collect::<Vec<_>>(), ["customer:jsmith", "vip"]);
    assert_eq!((events[3].encoding(), events[3].payload()), (Encoding::Raw, &[0, 0xff, 7][..]));
    assert_eq!((events[3].metadata(), events[4].metadata()), (Some(&b"by the robot"[..]), Some(&[][..])));
    assert_eq!(events[1].metadata(), None);
    assert_eq!(events[5].stream(), "caf\u{e9} \u{1b}[31m");
    let cart: Vec<u64> =
        store.read_stream("cart-7", Version::NONE).map(|e| e.unwrap().position().get()).collect();
    assert_eq!(cart, [1, 2, 3]);
}

#[test]
fn the_clean_store_opens_as_closed_and_goes_on() {
    let dir = copy_of("clean");
    let store = open(&dir).unwrap();
    assert!(store.recovery().clean, "{}", store.recovery());
    assert_all_kinds(&store);
    let done = store.append("cart-7", Version::new(3), [Event::raw("t", [])]).unwrap();
    assert_eq!((done.position.get(), done.version.get()), (7, 4));
}

#[test]
fn the_rolled_store_reads_across_its_segments() {
    let dir = copy_of("rolled");
    let store = open(&dir).unwrap();
    assert_eq!((store.recovery().segments, store.watermark().get()), (3, 60));
    let numbers: Vec<u64> = store.read(Position::START).map(|e| e.unwrap().decode().unwrap()).collect();
    assert_eq!(numbers, (0..60).collect::<Vec<_>>());
}

#[test]
fn the_unclean_store_is_recovered_with_everything_in_it() {
    let store = open(&copy_of("unclean")).unwrap();
    assert!(!store.recovery().clean && store.recovery().removed.is_none());
    assert!(store.recovery().rewritten_bytes > 0, "what the mark does not prove is written once more");
    assert_all_kinds(&store);
}

#[test]
fn the_torn_tail_is_set_aside_and_kept() {
    let dir = copy_of("torn_tail");
    let store = open(&dir).unwrap();
    let removed = store.recovery().removed.clone().unwrap();
    assert_all_kinds(&store);
    let kept = std::fs::read(dir.path().join(&removed.kept_in)).unwrap();
    let was = std::fs::read(golden("torn_tail").join(&removed.file)).unwrap();
    let (from, len) = (usize::try_from(removed.offset).unwrap(), usize::try_from(removed.bytes).unwrap());
    assert_eq!(kept, was[from..from + len]);
    store.append("cart-7", Expected::Any, [Event::raw("t", [])]).unwrap();
    drop(store);
    assert_eq!(open(&dir).unwrap().watermark().get(), 7);
}

#[test]
fn the_flipped_bit_refuses_to_open_for_writing_and_names_the_place() {
    let dir = copy_of("flipped_bit");
    let error = open(&dir).unwrap_err();
    let found = error.corruption().unwrap();
    assert_eq!((found.damage, found.offset), (Damage::CorruptAcknowledged, 4096));
    assert_eq!(found.file, "log/00000000000000000001.seg");
    assert_eq!(found.position, Some(Position::new(2)));
    assert!(error.to_string().contains("everfold repair"), "says what to do: {error}");

    let store = Options::new().read_only(true).open(dir.path()).unwrap();
    let read: Vec<_> = store.read(Position::START).collect();
    assert_eq!(read.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_scan_of_the_flipped_bit_still_gives_every_other_event() {
    let mut positions = Vec::new();
    let inspector = Inspector::open(golden("flipped_bit")).unwrap();
    inspector
        .scan(Position::START, |found| {
            let (Found::Frame { events, .. } | Found::Damage { events, .. }) = found else { unreachable!() };
            positions.extend(events.iter().map(|event| event.position().get()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(positions, [1, 3, 4, 5, 6]);
}

#[test]
fn the_retained_store_is_read_by_its_index_files_and_knows_the_versions_of_streams_that_are_gone() {
    let dir = copy_of("retained");
    let files = || {
        let log = std::fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
        let derived = log.filter(|path| path.extension().is_some_and(|kind| kind != "seg"));
        derived.map(|path| (std::fs::read(&path).unwrap(), path)).collect::<std::collections::BTreeSet<_>>()
    };
    let before = files();
    for kind in ["idx", "keys", "base"] {
        assert!(before.iter().any(|(_, path)| path.extension().is_some_and(|is| is == kind)), "{kind}");
    }
    let store = Options::new().read_only(true).open(dir.path()).unwrap();
    let first = store.log_start();
    assert!(first.get() > 41 && store.read(Position::START).next().unwrap().is_err());
    let query = Query::all().tags(["customer:3"]).types(["sold"]);
    let found: Vec<u64> =
        store.read_query(&query, first.previous()).map(|e| e.unwrap().position().get()).collect();
    assert_eq!(found, (first.get()..=200).filter(|n| (n - 1) % 7 == 3).collect::<Vec<_>>());
    let store = open(&dir).unwrap();
    let done = store.append("cart-early", Version::new(40), [Event::raw("t", [])]).unwrap();
    assert_eq!((done.position.get(), done.version.get()), (201, 41));
    assert_eq!(files(), before, "nothing of it had to be made again");
}
