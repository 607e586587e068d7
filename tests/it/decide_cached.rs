//! States of deciders in memory: they save folding, and never change a result.

use std::sync::atomic::Ordering;

use everfold::{
    Boundary, CommandHandler, Decider, Durability, Event, Expected, HandleError, MemoryStorage, Position,
    Retention, StateCache, Store,
};
use proptest::prelude::*;

use crate::bank::{Balances, Bank, Command, Deposit, NotEnough, Withdraw, both, long, memory};
use crate::ledger::small;

#[test]
fn a_cached_state_saves_the_events_before_it() {
    for boundary in [Boundary::stream("a"), both(1, 1)] {
        let store = memory();
        let decider = Bank::default();
        let folded = decider.folded.clone();
        let bank = store.decider(decider).unwrap();
        long(&bank, &boundary, 200);
        bank.load(boundary.clone()).unwrap();
        let folds = |cached: bool| {
            if !cached {
                bank.cache().clear();
            }
            let before = folded.load(Ordering::Relaxed);
            bank.load(boundary.clone()).unwrap();
            folded.load(Ordering::Relaxed) - before
        };
        assert_eq!((folds(true), folds(false), folds(true)), (0, 200, 0));
        bank.handle(boundary.clone(), &Deposit { to: 1, amount: 1 }).unwrap();
        assert_eq!((folds(true), folds(true)), (1, 0));
    }
}

#[test]
fn a_state_of_events_that_were_lost_and_replaced_is_not_used() {
    for boundary in [Boundary::stream("account-1"), both(1, 1)] {
        let storage = MemoryStorage::new();
        let cache = StateCache::new();
        let store = small().open_memory(&storage).unwrap();
        let bank = store.decider_with_cache(Bank::default(), cache.clone()).unwrap();
        long(&bank, &boundary, 3);
        store.sync().unwrap();
        let shorter = storage.crash(u64::MAX);
        bank.handle(boundary.clone(), &Deposit { to: 1, amount: 1_000 }).unwrap();
        assert_eq!(bank.load(boundary.clone()).unwrap().state, Balances::from([(1, 1_003)]));
        // The same store from a copy that is older: its events go on in another way.
        let other = small().open_memory(&shorter).unwrap();
        assert_eq!(other.store_id(), store.store_id());
        let bank = other.decider_with_cache(Bank::default(), cache.clone()).unwrap();
        assert_eq!(bank.load(boundary.clone()).unwrap().state, Balances::from([(1, 3)]));
        cache.clear();
        bank.handle(boundary.clone(), &Deposit { to: 1, amount: 5 }).unwrap();
        assert_eq!(bank.load(boundary.clone()).unwrap().state, Balances::from([(1, 8)]));
        let bank = store.decider_with_cache(Bank::default(), cache.clone()).unwrap();
        assert_eq!(bank.load(boundary.clone()).unwrap().state, Balances::from([(1, 1_003)]));
        // Another store has another id, and another fold another number.
        let bank = memory().decider_with_cache(Bank::default(), cache.clone()).unwrap();
        assert_eq!(bank.load(boundary.clone()).unwrap().state, Balances::new());
        let (decider, states) = (Bank { generation: 2, ..Bank::default() }, cache.len());
        let folded = decider.folded.clone();
        store.decider_with_cache(decider, cache.clone()).unwrap().load(boundary).unwrap();
        assert_eq!((folded.load(Ordering::Relaxed), cache.len()), (4, states + 1));
    }
}

#[test]
fn the_cache_keeps_no_more_states_than_was_said() {
    let store = memory();
    let bank = store.decider_with_cache(Bank::default(), StateCache::new().max_states(7)).unwrap();
    for number in 0..40 {
        let stream = format!("s{}", number % 20);
        bank.handle(stream.as_str(), &Deposit { to: 1, amount: 1 }).unwrap();
        bank.load(stream.as_str()).unwrap();
        assert!(bank.cache().len() <= 7);
    }
    assert_eq!(bank.cache().len(), 7);
    let none = store.decider_with_cache(Bank::default(), StateCache::new().max_states(0)).unwrap();
    assert_eq!(none.load("s1").unwrap().state, Balances::from([(1, 2)]));
    assert!(none.cache().is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Handle { boundary: u8, amount: u64, durability: u8 },
    AppendBeside { account: u32, version: bool },
    Load(u8),
    Retain(u64),
    Save,
    TakeSaved,
    Reopen,
    Copy,
    GoBackToTheCopy,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let handle = (0..6u8, 0..9u64, 0..3u8);
    let op = prop_oneof![
        8 => handle.prop_map(|(boundary, amount, durability)| Op::Handle { boundary, amount, durability }),
        2 => (0..3u32, any::<bool>()).prop_map(|(account, version)| Op::AppendBeside { account, version }),
        4 => (0..6u8).prop_map(Op::Load),
        1 => (0..100u64).prop_map(Op::Retain),
        2 => Just(Op::Save),
        2 => Just(Op::TakeSaved),
        1 => Just(Op::Reopen),
        1 => Just(Op::Copy),
        2 => Just(Op::GoBackToTheCopy),
    ];
    prop::collection::vec(op, 1..80)
}

fn boundary(number: u8) -> Boundary {
    match u32::from(number) {
        account @ 0..3 => Boundary::stream(format!("account-{account}")),
        account => both(account - 3, account - 2),
    }
}

/// What a handler with a cache does with a command is what follows from the state that one without loads.
fn handle(
    store: &Store,
    (cached, plain): (&CommandHandler<Bank>, &CommandHandler<Bank>),
    (boundary, durability): (Boundary, Durability),
    command: &Command,
) {
    // What is not durable a handler of its own would not see.
    store.sync().unwrap();
    let before = plain.load(boundary.clone()).map_err(|error| error.kind());
    match (before, cached.at(boundary).durability(durability).handle(command)) {
        (Ok(before), Ok(done)) => {
            let mut state = before.state;
            done.events.iter().for_each(|event| Bank::default().evolve(&mut state, event));
            assert_eq!(done.state, state);
        }
        (Ok(before), Err(HandleError::Rejected(NotEnough { balance }))) => {
            let (Deposit { to: account, .. } | Withdraw { from: account, .. }) = command else {
                panic!("{command:?}")
            };
            assert_eq!(before.state.get(account).copied().unwrap_or_default(), balance);
        }
        (Err(kind), Err(HandleError::Failed(error))) => assert_eq!(error.kind(), kind),
        (before, done) => panic!("{before:?} {done:?}"),
    }
}

/// Everything that one handler says with its cache, another says that has none.
fn run(ops: Vec<Op>) {
    let mut storage = MemoryStorage::new();
    let cache = StateCache::new().max_states(4);
    let mut store = small().open_memory(&storage).unwrap();
    let mut older = storage.crash(u64::MAX);
    for op in ops {
        let cached = store.decider_with_cache(Bank::default(), cache.clone()).unwrap();
        let plain = store.decider_with_cache(Bank::default(), StateCache::new().max_states(0)).unwrap();
        match op {
            Op::Handle { boundary: number, amount, durability } => {
                let durability =
                    [Durability::Deferred, Durability::Written, Durability::Durable][usize::from(durability)];
                let to = u32::from(number) % 3;
                let command = match amount % 3 {
                    0 => Deposit { to, amount },
                    _ => Withdraw { from: to, amount },
                };
                handle(&store, (&cached, &plain), (boundary(number), durability), &command);
            }
            Op::AppendBeside { account, version } => {
                let event = match version {
                    true => Event::json("paid-in", &serde_json::json!({ "account": account, "amount": 3 })),
                    false => Event::json("noted", "x"),
                };
                let event = event.unwrap().tag(format!("account:{account}"));
                store.append(&format!("account-{account}"), Expected::Any, [event]).unwrap();
            }
            Op::Load(number) => {
                let (one, other) = (cached.load(boundary(number)), plain.load(boundary(number)));
                match (one, other) {
                    (Ok(one), Ok(other)) => assert_eq!(one, other),
                    (one, other) => assert_eq!(one.unwrap_err().kind(), other.unwrap_err().kind()),
                }
            }
            Op::Retain(percent) => {
                let before = Position::new(store.watermark().get() * percent / 100);
                store.retain(&Retention::new().before(before)).unwrap();
            }
            Op::Save => assert!(cached.save_states("bank").unwrap() <= cache.len()),
            // There may be states from before the log went on in another way.
            Op::TakeSaved => {
                cache.clear();
                cached.load_states("bank").unwrap();
            }
            Op::Reopen => {
                store.close().unwrap();
                store = small().open_memory(&storage).unwrap();
            }
            Op::Copy => {
                store.sync().unwrap();
                older = storage.crash(u64::MAX);
            }
            // The events go on in another way from there.
            Op::GoBackToTheCopy => {
                storage = older.crash(u64::MAX);
                store = small().open_memory(&storage).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loading_with_a_cache_is_loading_from_the_start(ops in ops()) {
        run(ops);
    }
}
