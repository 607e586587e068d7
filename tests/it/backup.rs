//! Backups: a copy of the log as of a position, brought up to date, cut short, refused, restored.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use everfold::dump::Inspector;
use everfold::{
    Damage, Durability, ErrorKind, Event, Expected, Fault, MemoryStorage, Options, Position, Retention,
    Store, Version, restore,
};

use crate::ledger::{Fact, Ledger, facts, small};

fn append(store: &Store, ledger: &mut Ledger, batches: usize) {
    for n in 0..batches {
        let batch = ledger.make(&[n * 53 % 900, 40]);
        let durability = [Durability::Durable, Durability::Written, Durability::Deferred][n % 3];
        ledger.append(store, batch, durability).unwrap();
    }
}

fn after(store: &Store, start: Position) -> Vec<Fact> {
    store.read(start.previous()).map(|event| Fact::from(&event.unwrap())).collect()
}

/// What is in a backup, which is sound in every byte and is read as it is.
fn backed_up(backup: &MemoryStorage) -> (Position, Vec<Fact>) {
    let copy = backup.crash(0);
    let store = small().read_only(true).verify_on_open(true).open_memory(&copy).unwrap();
    let recovery = store.recovery();
    assert!(recovery.damage.is_empty() && recovery.notes.is_empty(), "{recovery}");
    (store.log_start(), after(&store, store.log_start()))
}

fn verify(directory: &Path) {
    let verdict = Inspector::open(directory).unwrap().verify(|_| ()).unwrap();
    assert!(
        verdict.damage.is_empty() && verdict.torn_tail.is_none() && verdict.notes.is_empty(),
        "{verdict:?}"
    );
}

#[test]
fn a_backup_has_everything_appended_before_it_and_takes_only_what_is_new_the_next_time() {
    let (storage, backup) = (MemoryStorage::new(), MemoryStorage::new());
    let (store, mut ledger) = (small().open_memory(&storage).unwrap(), Ledger::default());
    let empty = store.backup_memory(&backup).unwrap();
    assert_eq!((empty.position, empty.segments, empty.copied_segments), (Position::START, 1, 1));
    assert_eq!(backed_up(&backup).1, []);
    for round in 0..6 {
        append(&store, &mut ledger, 7 * round);
        let before = backed_up(&backup).1.len();
        let done = store.backup_memory(&backup).unwrap();
        assert_eq!(done.position.get(), ledger.len(), "round {round}");
        assert_eq!(backed_up(&backup), (Position::new(1), ledger.facts()), "round {round}");
        let new = ledger.facts().len() - before;
        assert!(done.copied_segments <= new / 4 + 2, "round {round}: {done:?}");
        assert_eq!(done.copied_segments == 0, new == 0, "round {round}: {done:?}");
        let again = store.backup_memory(&backup).unwrap();
        assert_eq!((again.copied_segments, again.copied_bytes), (0, 0), "round {round}");
    }
    assert!(store.backup_memory(&backup).unwrap().segments > 8);
    let restored = small().open_memory(&backup.crash(0)).unwrap();
    assert_eq!(restored.store_id(), store.store_id());
    append(&restored, &mut ledger, 5);
    restored.sync().unwrap();
    assert_eq!(facts(&restored), ledger.facts(), "it goes on as a store");
}

#[test]
fn a_backup_is_a_whole_prefix_while_others_append_and_roll() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Options::new().segment_size(64 << 10).open(source.path()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (store, over) = (&store, &over);
            scope.spawn(move || {
                for n in 0_u32.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let events =
                        (0..4).map(|m| Event::json("did", &(n, m)).unwrap().metadata(vec![b'm'; 200]));
                    let before = Version::new(u64::from(n) * 4);
                    store.append(&format!("own-{thread}"), before, events).unwrap();
                }
            });
        }
        let mut last = Position::START;
        for _ in 0..12 {
            let watermark = store.watermark();
            let done = store.backup(target.path()).unwrap();
            assert!(done.position >= watermark && done.position >= last, "{done:?}");
            last = done.position;
            verify(target.path());
            let copy = Options::new().read_only(true).open(target.path()).unwrap();
            assert_eq!(copy.watermark(), last);
            assert_eq!(last.get() % 4, 0, "batches are whole");
        }
        over.store(true, Ordering::Relaxed);
    });
    let done = store.backup(target.path()).unwrap();
    let copy = Options::new().read_only(true).open(target.path()).unwrap();
    assert_eq!((done.position, facts(&copy)), (store.watermark(), facts(&store)));
}

#[test]
fn what_retention_has_dropped_is_dropped_from_the_backup_and_versions_stay_known() {
    let (storage, backup) = (MemoryStorage::new(), MemoryStorage::new());
    let store = small().open_memory(&storage).unwrap();
    store.append("gone", Expected::NoStream, [Event::raw("e", *b"")]).unwrap();
    for n in 1..4_u64 {
        for _ in 0..30 {
            store.append(&format!("stream-{n}"), Expected::Any, [Event::raw("e", vec![b'x'; 300])]).unwrap();
        }
        let dropped = store.retain(&Retention::new().before(Position::new(n * 20))).unwrap();
        assert!(dropped.segments > 0);
        let done = store.backup_memory(&backup).unwrap();
        assert_eq!((done.log_start, done.position), (store.log_start(), store.watermark()));
        assert_eq!(backed_up(&backup), (store.log_start(), after(&store, store.log_start())));
        let copy = small().open_memory(&backup.crash(0)).unwrap();
        let refused = copy.append("gone", Expected::NoStream, [Event::raw("e", *b"")]).unwrap_err();
        assert_eq!(refused.conflict().unwrap().actual, Some(Version::new(1)));
        let segments = backup.files().iter().filter(|name| name.ends_with(".seg")).count();
        assert_eq!(segments, done.segments, "what was dropped takes no room: {:?}", backup.files());
    }
}

#[test]
fn a_backup_that_is_cut_short_anywhere_leaves_the_one_there_was_or_a_later_one() {
    let (storage, first) = (MemoryStorage::new(), MemoryStorage::new());
    let (store, mut ledger) = (small().open_memory(&storage).unwrap(), Ledger::default());
    append(&store, &mut ledger, 9);
    store.backup_memory(&first).unwrap();
    let had = backed_up(&first).1.len();
    append(&store, &mut ledger, 17);
    store.sync().unwrap();
    let mut cut = 0;
    for (earlier, had) in [(first, had), (MemoryStorage::new(), 0)] {
        for n in 1.. {
            let backup = earlier.crash(u64::MAX);
            let fault = if n % 2 == 0 {
                Fault::from_then_on(io::ErrorKind::Other).short()
            } else {
                Fault::from_then_on(io::ErrorKind::StorageFull)
            };
            backup.fail_at(n, fault);
            if store.backup_memory(&backup).is_ok() {
                break;
            }
            for seed in [0, u64::MAX, n, n + 1] {
                let image = backup.crash(seed);
                let what = format!("operation {n}, seed {seed}");
                match small().read_only(true).verify_on_open(true).open_memory(&image) {
                    Ok(store) => {
                        assert!(store.recovery().damage.is_empty(), "{what}: {}", store.recovery());
                        let found = facts(&store);
                        assert!(found.len() >= had && ledger.facts().starts_with(&found), "{what}");
                    }
                    Err(error) => {
                        assert_eq!((had, error.kind()), (0, ErrorKind::NotFound), "{what}: {error}")
                    }
                }
                store.backup_memory(&image).unwrap();
                assert_eq!(backed_up(&image).1, ledger.facts(), "{what}: and goes on");
                cut += 1;
            }
        }
    }
    assert!(cut > 100, "{cut}");
}

#[test]
fn a_backup_of_something_else_is_refused_and_left_as_it_is() {
    let storage = MemoryStorage::new();
    let (store, mut ledger) = (small().open_memory(&storage).unwrap(), Ledger::default());
    append(&store, &mut ledger, 12);
    let backup = MemoryStorage::new();
    store.backup_memory(&backup).unwrap();
    let refuse = |backup: &MemoryStorage, kind: ErrorKind, what: &str| {
        let before: Vec<_> = backup.files().into_iter().map(|name| (backup.file(&name), name)).collect();
        let refused = store.backup_memory(backup);
        assert_eq!(refused.map_err(|error| error.kind()), Err(kind), "{what}");
        let after: Vec<_> = backup.files().into_iter().map(|name| (backup.file(&name), name)).collect();
        let kept = before.iter().filter(|(_, name)| name != "LOCK");
        assert!(kept.eq(after.iter().filter(|(_, name)| name != "LOCK")), "{what}");
    };

    let other = MemoryStorage::new();
    small().open_memory(&other).unwrap().close().unwrap();
    refuse(&other, ErrorKind::Invalid, "another store");

    let written = backup.crash(u64::MAX);
    small().open_memory(&written).unwrap().append("s", Expected::Any, [Event::raw("e", *b"")]).unwrap();
    refuse(&written, ErrorKind::Invalid, "a backup that was appended to");

    let (ahead, end) = (MemoryStorage::new(), ledger.len());
    let older = small().open_memory(&backup.crash(u64::MAX)).unwrap();
    append(&store, &mut ledger, 20);
    store.backup_memory(&ahead).unwrap();
    assert_eq!(older.watermark().get(), end);
    let refused = older.backup_memory(&ahead);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "a backup of a later position");

    let open = backup.crash(u64::MAX);
    let _held = small().open_memory(&open).unwrap();
    let refused = store.backup_memory(&open);
    assert!(matches!(refused.unwrap_err().kind(), ErrorKind::Locked { .. }), "one that is open");

    let flipped = backup.crash(u64::MAX);
    let active = flipped.files().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
    flipped.flip_bit(&active, 4200, 0).unwrap();
    refuse(&flipped, ErrorKind::Invalid, "one that is damaged where it goes on");
}

#[test]
fn a_backup_in_the_stores_own_directory_is_refused() {
    let source = tempfile::tempdir().unwrap();
    let store = Store::open(source.path()).unwrap();
    for path in [source.path().to_owned(), source.path().join("backup")] {
        assert_eq!(store.backup(&path).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letter.txt"), "dear").unwrap();
    assert_eq!(store.backup(other.path()).unwrap_err().kind(), ErrorKind::NotFound);
    store.close().unwrap();
    assert_eq!(store.backup(other.path()).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn damage_in_the_store_is_told_and_not_copied() {
    let storage = MemoryStorage::new();
    let (store, mut ledger) = (small().open_memory(&storage).unwrap(), Ledger::default());
    append(&store, &mut ledger, 20);
    store.sync().unwrap();
    let backup = MemoryStorage::new();
    storage.flip_bit("log/00000000000000000001.seg", 4300, 3).unwrap();
    let error = store.backup_memory(&backup).unwrap_err();
    let corruption = error.corruption().unwrap();
    assert_eq!((corruption.damage, corruption.offset), (Damage::CorruptAcknowledged, 4096), "{error}");
    let nothing = small().read_only(true).open_memory(&backup);
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_failed_log_can_still_be_backed_up() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    let done = store.append("s", Expected::Any, [Event::raw("e", *b"1")]).unwrap();
    storage.fail_at(storage.operations() + 1, Fault::once(io::ErrorKind::Other));
    store.append("s", Expected::Any, [Event::raw("e", *b"2")]).unwrap_err();
    let backup = MemoryStorage::new();
    assert_eq!(store.backup_memory(&backup).unwrap().position, done.position);
}

#[test]
fn a_store_on_a_full_disk_can_be_backed_up_to_another_one() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    let done = store.append("s", Expected::Any, [Event::raw("e", *b"1")]).unwrap();
    storage.fail_at(storage.operations() + 1, Fault::from_then_on(io::ErrorKind::StorageFull));
    store.append("s", Expected::Any, [Event::raw("e", *b"2")]).unwrap_err();
    let backup = MemoryStorage::new();
    assert_eq!(store.backup_memory(&backup).unwrap().position, done.position);
    storage.clear_faults();
    assert_eq!(store.backup_memory(&backup).unwrap().position.get(), 2);
    assert_eq!(backed_up(&backup).1, facts(&store));
}

#[test]
fn a_backup_keeps_retention_from_dropping_what_it_copies() {
    let source = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(32 << 10).open(source.path()).unwrap();
    for _ in 0..200 {
        store.append("s", Expected::Any, [Event::raw("e", vec![b'x'; 4000])]).unwrap();
    }
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| {
            for _ in 0..8 {
                let target = tempfile::tempdir().unwrap();
                let done = store.backup(target.path()).unwrap();
                verify(target.path());
                assert!(done.log_start <= done.position);
            }
        });
        while !copier.is_finished() {
            store.append("s", Expected::Any, [Event::raw("e", vec![b'x'; 4000])]).unwrap();
            store.retain(&Retention::new().max_bytes(20 * (32 << 10))).unwrap();
        }
    });
}

#[test]
fn a_restored_store_is_what_was_backed_up() {
    let dirs: [tempfile::TempDir; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let [source, backup, restored] = dirs.each_ref().map(tempfile::TempDir::path);
    let store = Options::new().segment_size(8192).open(source).unwrap();
    let mut ledger = Ledger::default();
    append(&store, &mut ledger, 25);
    store.backup(backup).unwrap();
    append(&store, &mut ledger, 3);
    let done = restore(backup, restored).unwrap();
    assert_eq!(done.copied_segments, done.segments);
    let again = Store::open(restored).unwrap();
    assert_eq!((again.watermark(), again.store_id()), (done.position, store.store_id()));
    assert!(ledger.facts().starts_with(&facts(&again)));
    drop(again);
    assert_eq!(restore(backup, restored).unwrap_err().kind(), ErrorKind::Invalid, "there is a store already");
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(restore(nothing.path(), backup.join("x")).unwrap_err().kind(), ErrorKind::NotFound);

    let segment = backup.join("log/00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let refused = restore(backup, nothing.path().join("new")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
}
