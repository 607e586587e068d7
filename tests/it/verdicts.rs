//! What the end of the log is taken for: each verdict on a case made for it.

use everfold::{Damage, Error, ErrorKind, Event, Expected, MemoryStorage, Options, Position, Store};

const SEGMENT: &str = "log/00000000000000000001.seg";
/// Where the first frame starts.
const FRAMES: u64 = 4096;

fn open(storage: &MemoryStorage) -> Result<Store, Error> {
    Options::new().segment_size(8192).open_memory(storage)
}

/// A store with two events in two frames, and where the second frame starts and ends.
fn two_frames(storage: &MemoryStorage) -> (Store, u64, u64) {
    let store = open(storage).unwrap();
    let end = || {
        let bytes = storage.file(SEGMENT).unwrap();
        u64::try_from(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).unwrap()
    };
    store.append("s", Expected::Any, [Event::raw("t", [1; 600])]).unwrap();
    let second = end();
    store.append("s", Expected::Any, [Event::raw("t", [2; 600])]).unwrap();
    let end = end();
    (store, second, end)
}

fn zeros(from: u64, to: u64) -> Vec<u8> {
    vec![0; usize::try_from(to - from).unwrap()]
}

fn refused_as(storage: &MemoryStorage, damage: Damage, position: u64) {
    let error = open(storage).unwrap_err();
    let found = error.corruption().unwrap();
    assert_eq!((found.damage, found.position), (damage, Some(Position::new(position))), "{error}");
    assert_eq!(found.file, SEGMENT);
}

#[test]
fn events_that_the_mark_proves_and_that_are_gone_are_a_lost_tail() {
    let storage = MemoryStorage::new();
    let (store, second, _) = two_frames(&storage);
    store.close().unwrap();
    storage.overwrite(SEGMENT, second, &zeros(second, 8192)).unwrap();
    refused_as(&storage, Damage::TailLost, 2);
}

#[test]
fn a_last_frame_that_is_whole_and_does_not_verify_is_suspect_and_refused() {
    let storage = MemoryStorage::new();
    let (_store, second, _) = two_frames(&storage);
    let killed = storage.crash(u64::MAX);
    killed.flip_bit(SEGMENT, second + 200, 3).unwrap();
    refused_as(&killed, Damage::SuspectTail, 2);
    let read_only = Options::new().read_only(true).open_memory(&killed).unwrap();
    let read: Vec<_> = read_only.read(Position::START).collect();
    assert_eq!(read.len(), 2);
    assert!(read[0].is_ok());
    assert_eq!(
        read[1].as_ref().unwrap_err().kind(),
        ErrorKind::Corrupt,
        "it does not end as if all were there"
    );
}

#[test]
fn a_last_frame_whose_end_was_not_written_is_torn_and_removed() {
    let storage = MemoryStorage::new();
    let (_store, second, end) = two_frames(&storage);
    let killed = storage.crash(u64::MAX);
    killed.overwrite(SEGMENT, end - 100, &zeros(end - 100, end)).unwrap();
    let store = open(&killed).unwrap();
    let removed = store.recovery().removed.clone().unwrap();
    assert_eq!((removed.offset, removed.bytes), (second, end - 100 - second));
    assert_eq!(store.watermark(), Position::new(1));
}

#[test]
fn the_same_missing_end_in_a_frame_that_a_later_one_proves_is_damage() {
    let storage = MemoryStorage::new();
    let (_store, second, _) = two_frames(&storage);
    let killed = storage.crash(u64::MAX);
    killed.overwrite(SEGMENT, second - 100, &zeros(second - 100, second)).unwrap();
    let error = open(&killed).unwrap_err();
    assert_eq!(error.corruption().unwrap().damage, Damage::CorruptAcknowledged, "{error}");
    assert_eq!(error.corruption().unwrap().offset, FRAMES);
}

#[test]
fn a_frame_that_follows_from_another_one_is_left_over() {
    let storage = MemoryStorage::new();
    let (_store, ..) = two_frames(&storage);
    // Two copies that go on by themselves: the same salt, the same epoch, frames at the same places.
    let lives = [3, 4].map(|byte| {
        let life = storage.crash(u64::MAX);
        let store = open(&life).unwrap();
        let start = 1 + life.file(SEGMENT).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        store.append("s", Expected::Any, [Event::raw("t", [byte; 600])]).unwrap();
        let end = 1 + life.file(SEGMENT).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        (life, store, end, end - start)
    });
    let [(one, _first, end, len), (other, second, same, _)] = lives;
    assert_eq!(end, same);
    second.append("s", Expected::Any, [Event::raw("t", [4; 600])]).unwrap();
    let fourth = other.file(SEGMENT).unwrap()[end..end + len].to_vec();
    let killed = one.crash(u64::MAX);
    killed.overwrite(SEGMENT, u64::try_from(end).unwrap(), &fourth).unwrap();
    let store = open(&killed).unwrap();
    assert_eq!(store.watermark(), Position::new(3), "{}", store.recovery());
    assert!(store.recovery().removed.clone().unwrap().reason.contains("chain"), "{}", store.recovery());
}

#[test]
fn bytes_after_a_closed_log_are_refused() {
    let storage = MemoryStorage::new();
    let (store, ..) = two_frames(&storage);
    store.close().unwrap();
    storage.overwrite(SEGMENT, 8000, b"stray").unwrap();
    refused_as(&storage, Damage::BytesAfterEnd, 3);
}

#[test]
fn a_torn_write_after_reopening_is_no_damage_although_the_mark_of_the_opening_is_damaged() {
    let storage = MemoryStorage::new();
    let (store, ..) = two_frames(&storage);
    store.close().unwrap();
    let closed = storage.file("MARK").unwrap();
    let store = open(&storage).unwrap();
    let newer = if storage.file("MARK").unwrap()[..4096] == closed[..4096] { 4096 } else { 0 };
    store.append("s", Expected::Any, [Event::raw("t", [3; 600])]).unwrap();
    let killed = storage.crash(u64::MAX);
    let end = 1 + killed.file(SEGMENT).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    let end = u64::try_from(end).unwrap();
    killed.overwrite(SEGMENT, end - 100, &zeros(end - 100, end)).unwrap();
    killed.overwrite("MARK", newer, &[9; 512]).unwrap();
    let store = open(&killed).unwrap();
    assert_eq!(store.watermark(), Position::new(2), "{}", store.recovery());
    assert!(store.recovery().removed.is_some(), "{}", store.recovery());
}
