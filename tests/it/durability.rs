//! The levels of durability: what has been promised on return, and when events become readable.

use std::time::Duration;

use everfold::{
    AppendError, Batch, Durability, ErrorKind, Event, Fault, MemoryStorage, Options, Position, Store, Version,
};

const FOR_EVER: Duration = Duration::from_secs(3600);

fn store_that_never_syncs_by_itself(storage: &MemoryStorage) -> Store {
    Options::new().segment_size(64 << 10).sync_after(FOR_EVER).open_memory(storage).unwrap()
}

fn append(store: &Store, durability: Durability) -> Position {
    let batch = Batch::new().event("s", Event::raw("t", "x")).durability(durability);
    store.append_batch(batch).unwrap().position
}

fn readable(store: &Store) -> u64 {
    store.read(Position::START).map(|event| event.unwrap().position().get()).last().unwrap_or(0)
}

/// The last position in what a crash leaves: the end of the process alone, or a loss of power that keeps only what
/// was synced.
fn after_crash(storage: &MemoryStorage, seed: u64) -> u64 {
    readable(&Options::new().open_memory(&storage.crash(seed)).unwrap())
}

const POWER_LOSS: u64 = 0;
const PROCESS_CRASH: u64 = u64::MAX;

#[test]
fn each_level_survives_what_it_says() {
    let storage = MemoryStorage::new();
    let store = Options::new().segment_size(64 << 10).sync_after(FOR_EVER).open_memory(&storage).unwrap();
    assert_eq!(append(&store, Durability::Durable).get(), 1);
    assert_eq!((after_crash(&storage, POWER_LOSS), after_crash(&storage, PROCESS_CRASH)), (1, 1));
    append(&store, Durability::Written);
    assert_eq!(after_crash(&storage, PROCESS_CRASH), 2);
    append(&store, Durability::Deferred);
    assert_eq!(append(&store, Durability::Durable).get(), 4);
    assert_eq!((after_crash(&storage, POWER_LOSS), after_crash(&storage, PROCESS_CRASH)), (4, 4));
}

#[test]
fn events_that_are_not_durable_yet_cannot_be_read_but_count_for_guards() {
    for durability in [Durability::Written, Durability::Deferred] {
        let storage = MemoryStorage::new();
        let store = store_that_never_syncs_by_itself(&storage);
        append(&store, durability);
        let seen = readable(&store);
        assert!(seen <= after_crash(&storage, POWER_LOSS), "what was read could be lost");
        let conflict = store.append("s", everfold::Expected::NoStream, [Event::raw("t", "y")]).unwrap_err();
        assert_eq!(conflict.conflict().unwrap().actual, Some(Version::new(1)));
        assert_eq!(store.sync().unwrap().get(), 1);
        assert_eq!((readable(&store), store.watermark().get()), (1, 1));
        assert_eq!(after_crash(&storage, POWER_LOSS), 1);
    }
}

#[test]
fn a_durable_append_makes_the_ones_before_it_readable() {
    let store = store_that_never_syncs_by_itself(&MemoryStorage::new());
    append(&store, Durability::Deferred);
    append(&store, Durability::Written);
    append(&store, Durability::Durable);
    assert_eq!(readable(&store), 3);
}

#[test]
fn events_become_readable_by_themselves_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().sync_after(Duration::from_millis(1)).open(dir.path()).unwrap();
    let mut subscription = store.subscribe(Position::START);
    for (n, durability) in (1..).zip([Durability::Written, Durability::Deferred, Durability::Deferred]) {
        let position = append(&store, durability);
        assert_eq!(position.get(), n);
        assert_eq!(subscription.next().unwrap().unwrap().position(), position);
    }
}

#[test]
fn closing_makes_everything_durable() {
    let storage = MemoryStorage::new();
    let store = store_that_never_syncs_by_itself(&storage);
    append(&store, Durability::Deferred);
    append(&store, Durability::Written);
    append(&store, Durability::Deferred);
    store.close().unwrap();
    assert_eq!(after_crash(&storage, POWER_LOSS), 3);
}

#[test]
fn repeating_an_append_with_a_higher_level_raises_the_level_of_the_first() {
    let storage = MemoryStorage::new();
    let store = store_that_never_syncs_by_itself(&storage);
    let event = Event::raw("t", "x");
    let batch = || Batch::new().event("s", event.clone());
    store.append_batch(batch().durability(Durability::Deferred)).unwrap();
    let again = store.append_batch(batch()).unwrap();
    assert_eq!((again.position.get(), again.repeated), (1, true));
    assert_eq!(after_crash(&storage, POWER_LOSS), 1);
}

#[test]
fn many_deferred_appends_in_many_segments_are_all_there_after_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(16 << 10).sync_after(FOR_EVER);
    let store = options.open(dir.path()).unwrap();
    for n in 1..=2000 {
        assert_eq!(append(&store, Durability::Deferred).get(), n);
    }
    assert_eq!(store.sync().unwrap().get(), 2000);
    assert_eq!(readable(&store), 2000);
    drop(store);
    assert_eq!(readable(&options.open(dir.path()).unwrap()), 2000);
}

#[test]
fn mebibytes_that_are_written_behind_the_appenders_back_are_there_when_it_is_promised() {
    let big = |durability| Batch::new().event("s", Event::raw("t", vec![7; 700_000])).durability(durability);
    let storage = MemoryStorage::new();
    let store = Options::new().segment_size(8 << 20).sync_after(FOR_EVER).open_memory(&storage).unwrap();
    for n in 1..=40 {
        let level = if n % 8 == 5 { Durability::Written } else { Durability::Deferred };
        assert_eq!(store.append_batch(big(level)).unwrap().position.get(), n);
        if level == Durability::Written {
            assert_eq!(after_crash(&storage, PROCESS_CRASH), n);
        }
    }
    assert_eq!(store.sync().unwrap().get(), 40);
    assert_eq!(after_crash(&storage, POWER_LOSS), 40);
}

#[test]
fn a_write_that_failed_behind_the_appenders_back_is_told_before_anything_is_promised() {
    let big = |durability| Batch::new().event("s", Event::raw("t", vec![7; 700_000])).durability(durability);
    for then in [Durability::Deferred, Durability::Written, Durability::Durable] {
        let storage = MemoryStorage::new();
        let store = Options::new().segment_size(8 << 20).sync_after(FOR_EVER).open_memory(&storage).unwrap();
        append(&store, Durability::Durable);
        storage.fail_at(storage.operations() + 1, Fault::once(std::io::ErrorKind::Other).short());
        store.append_batch(big(Durability::Deferred)).unwrap();
        // Now more than a mebibyte has come together, and is left to the keeper.
        store.append_batch(big(Durability::Deferred)).unwrap();
        let failed = (0..4).find_map(|_| store.append_batch(big(then)).err()).unwrap();
        assert!(
            matches!(&failed, AppendError::Failed(e) if e.kind() == ErrorKind::Indeterminate),
            "{failed}"
        );
        assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(readable(&store), 1);
        for seed in [POWER_LOSS, PROCESS_CRASH, 7] {
            assert!(after_crash(&storage, seed) >= 1, "what was promised is there");
        }
    }
}

#[test]
fn after_a_failed_sync_the_outcome_is_unclear_and_the_same_ids_settle_it() {
    for survives in [POWER_LOSS, PROCESS_CRASH] {
        let storage = MemoryStorage::new();
        let store = Options::new().segment_size(64 << 10).open_memory(&storage).unwrap();
        append(&store, Durability::Durable);
        store.close().unwrap();
        let store = Options::new().open_memory(&storage).unwrap();
        storage.fail_at(storage.operations() + 2, Fault::from_then_on(std::io::ErrorKind::Other));
        let batch = || Batch::new().event("s", Event::raw("t", "unclear").id(everfold::Uuid::from_u128(7)));
        let Err(AppendError::Failed(error)) = store.append_batch(batch()) else { panic!("no failure") };
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        let Err(AppendError::Failed(error)) = store.append_batch(batch()) else { panic!("no failure") };
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(readable(&store), 1, "readers go on");

        let store = Options::new().open_memory(&storage.crash(survives)).unwrap();
        let there = store.watermark().get() == 2;
        let settled = store.append_batch(batch()).unwrap();
        assert_eq!((settled.position.get(), settled.repeated), (2, there));
        assert_eq!(readable(&store), 2);
    }
}

#[test]
fn a_wait_for_ever_before_a_sync_is_no_panic() {
    let options = Options::new().sync_after(std::time::Duration::MAX);
    let store = options.open_memory(&MemoryStorage::new()).unwrap();
    append(&store, Durability::Written);
    assert_eq!(readable(&store), 0);
    store.sync().unwrap();
    assert_eq!(readable(&store), 1);
}

#[test]
fn a_sync_that_fails_behind_the_appenders_poisons_the_store_and_ends_what_waits() {
    let storage = MemoryStorage::new();
    let options = Options::new().segment_size(64 << 10).sync_after(Duration::from_millis(20));
    let store = options.open_memory(&storage).unwrap();
    // Its write, and then its sync.
    storage.fail_at(storage.operations() + 2, Fault::once(std::io::ErrorKind::Other));
    let deferred = || Batch::new().durability(Durability::Deferred).event("s", Event::raw("t", "x"));
    store.append_batch(deferred()).unwrap();
    let waited = store.subscribe(Position::START).next().unwrap().unwrap_err();
    assert_eq!((waited.kind(), store.watermark()), (ErrorKind::Poisoned, Position::START));
    let Err(AppendError::Failed(refused)) = store.append_batch(deferred()) else { unreachable!() };
    assert_eq!(refused.kind(), ErrorKind::Poisoned);
}

/// Where the disk is full, an append fails; the next ones are refused; with room again, appends go on, and the first one
/// is found to be there.
fn fill_the_disk(durability: Durability, payload: usize, short: bool) {
    let storage = MemoryStorage::new();
    let store = Options::new().sync_after(FOR_EVER).open_memory(&storage).unwrap();
    append(&store, Durability::Durable);
    let full = Fault::from_then_on(std::io::ErrorKind::StorageFull);
    storage.fail_at(storage.operations() + 1, if short { full.short() } else { full });
    let event = Event::raw("t", vec![b'x'; payload]);
    let again = || Batch::new().event("s", event.clone()).durability(durability);
    let kind = |result: Result<_, AppendError>| match result {
        Err(AppendError::Failed(error)) => error.kind(),
        other => panic!("{other:?}"),
    };
    match durability {
        // It is in memory, which is all that was promised.
        Durability::Deferred => drop(store.append_batch(again()).unwrap()),
        _ => assert_eq!(kind(store.append_batch(again())), ErrorKind::Indeterminate),
    }
    let refused = || kind(store.append_batch(Batch::new().event("s", Event::raw("t", "other"))));
    if durability == Durability::Deferred {
        assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::DiskFull);
    }
    assert_eq!((refused(), refused()), (ErrorKind::DiskFull, ErrorKind::DiskFull));
    assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::DiskFull);
    assert_eq!(readable(&store), 1, "reads go on");
    assert_eq!(after_crash(&storage, POWER_LOSS), 1);
    storage.clear_faults();
    let done = store.append_batch(again()).unwrap();
    assert_eq!((done.position.get(), done.repeated), (2, true), "{durability:?}, {payload}, {short}");
    assert_eq!(append(&store, Durability::Durable).get(), 3);
    assert_eq!((readable(&store), after_crash(&storage, POWER_LOSS)), (3, 3));
    store.close().unwrap();
    assert_eq!(after_crash(&storage, POWER_LOSS), 3);
}

#[test]
fn a_full_disk_refuses_appends_without_forgetting_any_and_they_go_on_when_there_is_room() {
    for short in [false, true] {
        fill_the_disk(Durability::Durable, 10, short);
        fill_the_disk(Durability::Written, 10, short);
        fill_the_disk(Durability::Deferred, 10, short);
        // Large enough to be left to another thread.
        fill_the_disk(Durability::Deferred, 2 << 20, short);
    }
}

#[test]
fn what_waits_for_room_is_written_by_itself_when_there_is_some() {
    let storage = MemoryStorage::new();
    let store = Options::new().sync_after(Duration::from_millis(1)).open_memory(&storage).unwrap();
    append(&store, Durability::Durable);
    storage.fail_at(storage.operations() + 1, Fault::from_then_on(std::io::ErrorKind::QuotaExceeded));
    append(&store, Durability::Deferred);
    let before = storage.operations();
    while storage.operations() < before + 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    storage.clear_faults();
    let mut subscription = store.subscribe(Position::new(1));
    let event = subscription.next_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(event.position().get(), 2);
    assert_eq!(after_crash(&storage, POWER_LOSS), 2);
}
