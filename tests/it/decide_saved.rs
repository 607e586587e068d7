//! States of deciders that outlive the process: they save folding, and whatever becomes of the file changes no result.

use std::io;
use std::sync::atomic::Ordering;

use everfold::{Boundary, CommandHandler, ErrorKind, Fault, MemoryStorage, Options, StateCache, Store};

use crate::bank::{Balances, Bank, Deposit, both, long};

const FILE: &str = "states/bank.states";

/// A handler, and how many events it folds to load a boundary.
fn folds(bank: &CommandHandler<Bank>, folded: &std::sync::atomic::AtomicU64, boundary: &Boundary) -> u64 {
    let before = folded.load(Ordering::Relaxed);
    bank.load(boundary.clone()).unwrap();
    folded.load(Ordering::Relaxed) - before
}

fn opened(store: &Store) -> (CommandHandler<Bank>, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    let decider = Bank::default();
    let folded = decider.folded.clone();
    (store.decider(decider).unwrap(), folded)
}

/// A store with streams of 200 events, whose states are saved.
fn saved(storage: &MemoryStorage, streams: &[&str]) -> Store {
    let store = Options::new().open_memory(storage).unwrap();
    let (bank, _) = opened(&store);
    for stream in streams {
        long(&bank, &Boundary::stream(*stream), 200);
        bank.load(*stream).unwrap();
    }
    assert_eq!(bank.save_states("bank").unwrap(), streams.len());
    store
}

#[test]
fn after_a_restart_saved_states_save_the_events_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let boundaries = [Boundary::stream("a"), both(1, 1)];
    {
        let store = Options::new().open(dir.path()).unwrap();
        let (bank, _) = opened(&store);
        assert_eq!(bank.load_states("bank").unwrap(), 0, "there are none yet");
        for boundary in &boundaries {
            long(&bank, boundary, 100);
            bank.load(boundary.clone()).unwrap();
        }
        bank.load(boundaries[0].clone()).unwrap();
        assert_eq!(bank.save_states("bank").unwrap(), 2);
        bank.handle("a", &Deposit { to: 1, amount: 1 }).unwrap();
        store.close().unwrap();
    }
    let store = Options::new().open(dir.path()).unwrap();
    let (bank, folded) = opened(&store);
    assert_eq!(bank.load_states("bank").unwrap(), 2);
    let events = boundaries.each_ref().map(|boundary| folds(&bank, &folded, boundary));
    assert_eq!(events, [1, 1], "the one that came after it was saved, which has the tag of both");
    assert_eq!(bank.load("a").unwrap().state, Balances::from([(1, 101)]));
    assert_eq!(bank.load(both(1, 1)).unwrap().state, Balances::from([(1, 201)]));

    let store = Options::new().read_only(true).open(dir.path()).unwrap();
    let (bank, folded) = opened(&store);
    assert_eq!(bank.load_states("bank").unwrap(), 2);
    assert_eq!(folds(&bank, &folded, &boundaries[0]), 1);
    assert_eq!(bank.save_states("bank").unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn those_used_last_are_saved_and_no_more_than_the_cache_may_hold() {
    let storage = MemoryStorage::new();
    let store = saved(&storage, &["a", "b", "c", "d"]);
    let all = storage.file(FILE).unwrap().len();
    let small = StateCache::new().max_bytes(all / 2);
    let decider = Bank::default();
    let folded = decider.folded.clone();
    let bank = store.decider_with_cache(decider, small).unwrap();
    assert_eq!(bank.load_states("bank").unwrap(), 0, "a file larger than the cache is not read");
    for stream in ["a", "b", "c", "d", "a"] {
        bank.load(stream).unwrap();
    }
    let count = bank.save_states("bank").unwrap();
    assert!((1..4).contains(&count), "{count}");
    bank.cache().clear();
    assert_eq!(bank.load_states("bank").unwrap(), count);
    assert_eq!((folds(&bank, &folded, &"a".into()), folds(&bank, &folded, &"b".into())), (0, 200));
}

#[test]
fn a_file_that_is_damaged_or_anothers_is_none_and_is_written_anew() {
    let storage = MemoryStorage::new();
    let store = saved(&storage, &["a"]);
    let (bank, folded) = opened(&store);
    let good = storage.file(FILE).unwrap();
    let len = u64::try_from(good.len()).unwrap();
    for at in (0..len).step_by(7) {
        storage.flip_bit(FILE, at, 3).unwrap();
        assert_eq!(bank.load_states("bank").unwrap(), 0, "byte {at}");
        storage.flip_bit(FILE, at, 3).unwrap();
    }
    storage.truncate(FILE, len - 1).unwrap();
    assert_eq!(bank.load_states("bank").unwrap(), 0);
    assert_eq!(folds(&bank, &folded, &"a".into()), 200);
    assert_eq!(bank.save_states("bank").unwrap(), 1);
    assert_eq!(storage.file(FILE).unwrap(), good);

    let next = store.decider(Bank { generation: 1, ..Bank::default() }).unwrap();
    assert_eq!((next.load_states("bank").unwrap(), bank.load_states("bank").unwrap()), (0, 1));
    let other = MemoryStorage::new();
    let (of_other, _) = opened(&saved(&other, &["a"]));
    other.overwrite(FILE, 0, &good).unwrap();
    assert_eq!(of_other.load_states("bank").unwrap(), 0, "it is of another store");
    store.close().unwrap();
    assert_eq!(bank.save_states("bank").unwrap_err().kind(), ErrorKind::Closed);
    for name in ["", "Bank", "a/b", ".."] {
        assert_eq!(bank.save_states(name).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(bank.load_states(name).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_loss_of_power_while_states_are_saved_leaves_those_before_or_after() {
    let first = MemoryStorage::new();
    drop(saved(&first, &["a"]));
    for n in 1.. {
        let storage = first.crash(u64::MAX);
        let store = Options::new().open_memory(&storage).unwrap();
        let (bank, _) = opened(&store);
        long(&bank, &"b".into(), 3);
        store.sync().unwrap();
        ["a", "b"].iter().for_each(|stream| drop(bank.load(*stream).unwrap()));
        let at = storage.operations() + n;
        [0, n, u64::MAX].into_iter().for_each(|seed| storage.crash_at(at, seed));
        assert_eq!(bank.save_states("bank").unwrap(), 2);
        let ended = storage.operations() < at;
        for outage in storage.outages() {
            let (bank, _) = opened(&Options::new().open_memory(&outage.left).unwrap());
            let taken = bank.load_states("bank").unwrap();
            assert!([1, 2].contains(&taken), "operation {n}, seed {}: {taken}", outage.seed);
            assert_eq!(bank.load("a").unwrap().state, Balances::from([(1, 200)]));
        }
        if ended {
            assert!(n > 4, "{n}");
            let (bank, _) = opened(&Options::new().open_memory(&storage.crash(0)).unwrap());
            assert_eq!(bank.load_states("bank").unwrap(), 2, "what was saved is durable");
            return;
        }
    }
}

#[test]
fn when_saving_fails_the_states_before_are_still_there() {
    let storage = MemoryStorage::new();
    let store = saved(&storage, &["a"]);
    let (bank, _) = opened(&store);
    let good = storage.file(FILE).unwrap();
    bank.load("a").unwrap();
    bank.handle("a", &Deposit { to: 1, amount: 1 }).unwrap();
    bank.load("a").unwrap();
    storage.fail_at(storage.operations() + 1, Fault::from_then_on(io::ErrorKind::StorageFull));
    let error = bank.save_states("bank").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(error.to_string().contains(FILE), "{error}");
    storage.clear_faults();
    assert_eq!(storage.file(FILE).unwrap(), good);
    assert_eq!(bank.save_states("bank").unwrap(), 1);
    assert_ne!(storage.file(FILE).unwrap(), good);
}
