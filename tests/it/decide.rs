//! Deciders: what is decided holds against what others append, however many they are.

use std::thread;

use everfold::{
    Batch, Boundary, Decider, Durability, ErrorKind, Event, Expected, Fault, Guard, HandleError,
    MemoryStorage, Position, Query, RecordedEvent, Retention, Store, TypedEvent, Version,
};

use crate::bank::{
    Balances, Deposit, Deposited, Moved, NotEnough, Nothing, Transfer, Withdraw, Withdrawn, balances, bank,
    both, long, memory,
};
use crate::ledger::small;

#[test]
fn the_outcome_tells_what_was_recorded_and_the_state_after() {
    let store = memory();
    let bank = bank(&store);
    bank.handle("a", &Deposit { to: 1, amount: 100 }).unwrap();
    let done = bank
        .at("a")
        .metadata(b"by jsmith")
        .durability(Durability::Written)
        .handle(&Transfer { from: 1, to: 2, amount: 30 })
        .unwrap();
    assert_eq!(done.state, Balances::from([(1, 70), (2, 30)]));
    assert_eq!(done.events, [Withdrawn { account: 1, amount: 30 }, Deposited { account: 2, amount: 30 }]);
    assert_eq!((done.position, done.version, done.conflicts), (Position::new(3), Version::new(3), 0));
    assert!(!done.appended.unwrap().repeated);
    store.sync().unwrap();
    let events: Vec<RecordedEvent> =
        store.read_stream("a", Version::new(1)).map(|event| event.unwrap()).collect();
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!(event.metadata(), Some(&b"by jsmith"[..]));
    }
    let nothing = bank.handle("a", &Nothing).unwrap();
    assert_eq!(
        (nothing.appended, nothing.position, nothing.version),
        (None, Position::new(3), Version::new(3))
    );
    assert_eq!(nothing.state, done.state);
    let loaded = bank.load("a").unwrap();
    assert_eq!((loaded.state, loaded.version, loaded.position), (done.state, done.version, done.position));
    assert_eq!(bank.load("b").unwrap().version, Version::NONE);
}

#[test]
fn a_rejection_is_the_deciders_own_and_records_nothing() {
    let store = memory();
    let refused = bank(&store).handle("a", &Withdraw { from: 1, amount: 1 }).unwrap_err();
    assert!(matches!(refused, HandleError::Rejected(NotEnough { balance: 0 })));
    assert_eq!(store.watermark(), Position::START);
}

#[test]
fn a_rejection_and_a_decision_see_what_the_same_handler_recorded_and_is_not_yet_durable() {
    let store = small().open_memory(&MemoryStorage::new()).unwrap();
    let bank = bank(&store);
    bank.at("a").durability(Durability::Deferred).handle(&Deposit { to: 1, amount: 10 }).unwrap();
    assert_eq!(store.watermark(), Position::START);
    let done = bank.handle("a", &Withdraw { from: 1, amount: 10 }).unwrap();
    assert_eq!((done.version, done.conflicts), (Version::new(2), 0));
    bank.at("a").durability(Durability::Deferred).handle(&Deposit { to: 1, amount: 10 }).unwrap();
    let done = bank.handle("a", &Deposit { to: 1, amount: 10 }).unwrap();
    assert_eq!((done.state, done.conflicts), (Balances::from([(1, 20)]), 1));
    bank.at("a").durability(Durability::Deferred).handle(&Deposit { to: 1, amount: 5 }).unwrap();
    assert_eq!(bank.handle("a", &Nothing).unwrap().state, Balances::from([(1, 25)]));
    bank.at("a").durability(Durability::Deferred).handle(&Deposit { to: 1, amount: 5 }).unwrap();
    assert_eq!(bank.load("a").unwrap().state, Balances::from([(1, 30)]));
}

#[test]
fn deciders_that_race_for_one_stream_never_overdraw_it() {
    let store = memory();
    let bank = bank(&store);
    bank.handle("a", &Deposit { to: 1, amount: 50 }).unwrap();
    let withdrawn: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|number| {
                let bank = bank.clone();
                scope.spawn(move || {
                    let mut withdrawn = 0;
                    loop {
                        let command = Withdraw { from: 1, amount: 1 + number };
                        match bank.at("a").retries(10_000).handle(&command) {
                            Ok(_) => withdrawn += 1 + number,
                            Err(HandleError::Rejected(_)) => return withdrawn,
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(balances(&store), Balances::from([(1, 50 - withdrawn)]));
    assert_eq!(50 - withdrawn, 0, "the one who withdraws 1 goes on to the end");
}

#[test]
fn transfers_by_four_threads_between_accounts_keep_the_sum_and_overdraw_none() {
    let store = memory();
    let bank = bank(&store);
    for account in 0..4 {
        bank.handle(both(account, account), &Deposit { to: account, amount: 20 }).unwrap();
    }
    thread::scope(|scope| {
        for number in 0..4u32 {
            let bank = bank.clone();
            scope.spawn(move || {
                for step in 0..40u32 {
                    let (from, to) = ((number + step) % 4, (number + 3 * step + 1) % 4);
                    let command = Transfer { from, to, amount: u64::from(step % 13) };
                    let handled = bank.at(both(from, to)).retries(10_000).handle(&command);
                    assert!(matches!(handled, Ok(_) | Err(HandleError::Rejected(_))), "{handled:?}");
                }
            });
        }
    });
    let balances = balances(&store);
    assert_eq!(balances.values().sum::<u64>(), 80);
    for account in 0..4u32 {
        let loaded = bank.load(both(account, account)).unwrap();
        assert_eq!(loaded.state, Balances::from([(account, balances[&account])]));
        let stream = store.read_stream(&format!("account-{account}"), Version::NONE);
        assert!(stream.count() > 1, "events are in the streams that the decider names");
    }
}

/// Somebody else is always faster: deciding appends an event to the same stream.
struct Overtaken(Store);

impl Decider for Overtaken {
    type State = u64;
    type Event = Moved;
    type Command = ();
    type Rejection = NotEnough;

    fn evolve(&self, events: &mut u64, _: &Moved) {
        *events += 1;
    }

    fn decide(&self, _: &u64, _: &()) -> Result<Vec<Moved>, NotEnough> {
        let event = Deposited { account: 1, amount: 1 };
        let batch = Batch::new().event("a", event.to_event().unwrap()).durability(Durability::Deferred);
        self.0.append_batch(batch).unwrap();
        Ok(vec![event])
    }
}

#[test]
fn it_is_decided_again_as_often_as_was_said_and_then_the_conflict_is_told() {
    let store = memory();
    let overtaken = store.decider(Overtaken(store.clone())).unwrap();
    let tag = Boundary::query(Query::all().tags(["account:1"]), "a");
    for (boundary, retries) in [(Boundary::stream("a"), 0), (Boundary::stream("a"), 3), (tag, 5)] {
        let before = overtaken.load("a").unwrap().state;
        let error = overtaken.at(boundary).retries(retries).handle(&()).unwrap_err();
        let HandleError::Conflict { conflict, conflicts } = error else { panic!("{error:?}") };
        assert_eq!(conflicts, retries + 1);
        store.sync().unwrap();
        assert_eq!(overtaken.load("a").unwrap().state, before + u64::from(conflicts));
        assert_eq!(conflict.position, store.watermark());
    }
}

#[test]
fn the_batch_of_an_unclear_outcome_can_be_appended_again_and_is_recorded_once() {
    let (mut kept, mut lost) = (0, 0);
    for operation in 0..6 {
        let storage = MemoryStorage::new();
        let store = small().open_memory(&storage).unwrap();
        let bank = bank(&store);
        bank.handle("a", &Deposit { to: 1, amount: 10 }).unwrap();
        storage.fail_at(storage.operations() + operation, Fault::once(std::io::ErrorKind::Other));
        let handled = bank.handle("a", &Transfer { from: 1, to: 2, amount: 10 });
        storage.clear_faults();
        let Err(HandleError::Indeterminate { batch, error }) = handled else { continue };
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
        drop((bank, store));
        let store = small().open_memory(&storage).unwrap();
        match store.append_batch(*batch.clone()).unwrap().repeated {
            true => kept += 1,
            false => lost += 1,
        }
        assert!(store.append_batch(*batch).unwrap().repeated);
        assert_eq!(balances(&store), Balances::from([(1, 0), (2, 10)]));
    }
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
}

#[test]
fn an_event_that_the_decider_does_not_know_keeps_it_from_deciding() {
    let store = memory();
    let raw = |event_type| Event::json(event_type, &()).unwrap();
    store.append("a", Expected::Any, [raw("noted"), raw("closed")]).unwrap();
    let failed = bank(&store).handle("a", &Nothing).unwrap_err();
    let HandleError::Failed(error) = failed else { panic!("{failed:?}") };
    let (event_type, position) = ("closed".to_owned(), Position::new(2));
    assert_eq!(error.kind(), ErrorKind::UnknownEventType { event_type, position });
}

/// As [`Bank`], of what retention has left.
struct WhatIsLeft;

impl Decider for WhatIsLeft {
    type State = u64;
    type Event = Moved;
    type Command = ();
    type Rejection = NotEnough;
    const FROM_LOG_START: bool = true;

    fn evolve(&self, events: &mut u64, _: &Moved) {
        *events += 1;
    }

    fn decide(&self, _: &u64, _: &()) -> Result<Vec<Moved>, NotEnough> {
        Ok(vec![Deposited { account: 1, amount: 1 }])
    }
}

#[test]
fn what_retention_has_dropped_is_told_unless_the_decider_takes_what_is_left() {
    for boundary in [Boundary::stream("account-1"), both(1, 1)] {
        let store = small().open_memory(&MemoryStorage::new()).unwrap();
        let whole = bank(&store);
        let left = store.decider(WhatIsLeft).unwrap();
        long(&whole, &boundary, 300);
        assert_eq!(whole.load(boundary.clone()).unwrap().state, Balances::from([(1, 300)]));
        assert_eq!(left.load(boundary.clone()).unwrap().state, 300);
        for position in [100, 200, 300] {
            store.retain(&Retention::new().before(Position::new(position))).unwrap();
            let first = store.log_start();
            assert!(first > Position::new(1));
            // A cached state is no better than none: it would be forgotten some time.
            let error = whole.load(boundary.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated { first });
            assert_eq!(left.load(boundary.clone()).unwrap().state, 301 - first.get());
        }
        let done = left.handle(boundary.clone(), &()).unwrap();
        assert_eq!((done.position, done.conflicts), (Position::new(301), 0));
    }
}

#[test]
fn a_stream_whose_events_are_all_dropped_goes_on_where_it_was() {
    let store = small().open_memory(&MemoryStorage::new()).unwrap();
    let left = store.decider(WhatIsLeft).unwrap();
    left.handle("a", &()).unwrap();
    long(&bank(&store), &Boundary::stream("b"), 100);
    store.sync().unwrap();
    store.retain(&Retention::new().before(store.watermark())).unwrap();
    assert_eq!(left.load("a").unwrap().version, Version::new(1));
    let done = left.handle("a", &()).unwrap();
    assert_eq!((done.state, done.version), (1, Version::new(2)));
}

#[test]
fn a_guard_of_the_deciders_own_boundary_lets_others_pass() {
    let store = memory();
    let bank = bank(&store);
    bank.handle(both(1, 2), &Deposit { to: 1, amount: 5 }).unwrap();
    let loaded = bank.load(both(1, 2)).unwrap();
    bank.handle(both(3, 3), &Deposit { to: 3, amount: 5 }).unwrap();
    let query = Query::all().tags(["account:1"]);
    let event = Withdrawn { account: 1, amount: 5 }.to_event().unwrap();
    let guarded = Batch::new().event("account-1", event).guard(Guard::no_event(query, loaded.position));
    assert!(store.append_batch(guarded).is_ok());
}
