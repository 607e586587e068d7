//! Appends that are submitted, and the tickets that tell how they ended.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use everfold::{
    AppendError, Appended, Batch, Durability, ErrorKind, Event, Expected, Fault, Guard, MemoryStorage,
    Options, Position, Store, Ticket, Version,
};

use crate::block_on::block_on;

fn store() -> Store {
    Options::new().segment_size(64 << 10).open_memory(&MemoryStorage::new()).unwrap()
}

fn on(stream: &str) -> Batch {
    Batch::new().event(stream, Event::raw("t", "x"))
}

fn kind(outcome: Result<Appended, AppendError>) -> ErrorKind {
    match outcome {
        Err(AppendError::Failed(error)) => error.kind(),
        other => panic!("no failure: {other:?}"),
    }
}

fn poll(ticket: &mut Ticket) -> Poll<Result<Appended, AppendError>> {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
}

/// Versions of a stream's events, as read.
fn versions(store: &Store, stream: &str) -> Vec<u64> {
    store.read_stream(stream, Version::NONE).map(|event| event.unwrap().version().get()).collect()
}

#[test]
fn tickets_are_answered_in_the_order_of_their_submission() {
    let store = store();
    let tickets: Vec<_> = (0..1000).map(|_| store.submit(on("s")).unwrap()).collect();
    for (ticket, position) in tickets.into_iter().zip(1..) {
        let done = ticket.wait().unwrap();
        assert_eq!((done.position.get(), done.version.get()), (position, position));
        assert!(store.watermark() >= done.position, "who is told can read");
    }
}

#[test]
fn a_ticket_can_be_awaited_and_the_awaiting_task_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    block_on(async {
        for position in 1..=50 {
            assert_eq!(store.submit(on("s")).unwrap().await.unwrap().position.get(), position);
        }
        let tickets: Vec<_> = (0..50).map(|_| store.submit(on("s")).unwrap()).collect();
        for (ticket, position) in tickets.into_iter().zip(51..) {
            assert_eq!(ticket.await.unwrap().position.get(), position);
        }
    });
}

#[test]
fn a_ticket_that_was_polled_can_still_be_waited_for() {
    let store = store();
    let mut ticket = store.submit(on("s")).unwrap();
    let _either = poll(&mut ticket);
    assert_eq!(ticket.wait().unwrap().position.get(), 1);
}

#[test]
fn an_append_whose_ticket_was_dropped_happens_all_the_same() {
    let store = store();
    for _ in 0..100 {
        drop(store.submit(on("s")).unwrap());
    }
    assert_eq!(store.submit(on("s")).unwrap().wait().unwrap().position.get(), 101);
    assert_eq!(versions(&store, "s"), (1..=101).collect::<Vec<_>>());
}

#[test]
fn many_threads_with_many_tickets_and_blocking_appends_between_keep_their_own_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(256 << 10).open(dir.path()).unwrap();
    let levels = [Durability::Durable, Durability::Written, Durability::Deferred];
    thread::scope(|scope| {
        for thread in 0..6_u64 {
            let store = &store;
            scope.spawn(move || {
                let stream = format!("stream-{thread}");
                let mut tickets = VecDeque::new();
                let mut version = 0;
                for round in 0..200_u64 {
                    version += 1;
                    let level = levels[usize::try_from((round + thread) % 3).unwrap()];
                    let batch = on(&stream).guard(Guard::version(&stream, Version::new(version - 1)));
                    if (round + thread) % 7 == 0 {
                        let done = store.append_batch(batch.durability(level)).unwrap();
                        assert_eq!(done.version.get(), version, "after what the thread has submitted before");
                    } else {
                        tickets.push_back((version, store.submit(batch.durability(level)).unwrap()));
                    }
                    if tickets.len() > 64 {
                        let (version, ticket) = tickets.pop_front().unwrap();
                        assert_eq!(ticket.wait().unwrap().version.get(), version);
                    }
                }
                for (version, ticket) in tickets {
                    assert_eq!(ticket.wait().unwrap().version.get(), version);
                }
            });
        }
    });
    store.close().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for thread in 0..6 {
        assert_eq!(versions(&store, &format!("stream-{thread}")), (1..=200).collect::<Vec<_>>());
    }
}

#[test]
fn a_guard_that_does_not_hold_is_told_by_its_own_ticket_only() {
    let store = store();
    let first = store.submit(on("s").guard(Guard::version("s", Expected::NoStream))).unwrap();
    let late = store.submit(on("s").guard(Guard::version("s", Expected::NoStream))).unwrap();
    let after = store.submit(on("s").guard(Guard::version("s", Version::new(1)))).unwrap();
    assert_eq!(first.wait().unwrap().version.get(), 1);
    assert_eq!(late.wait().unwrap_err().conflict().unwrap().actual, Some(Version::new(1)));
    assert_eq!(after.wait().unwrap().version.get(), 2);
}

#[test]
fn what_is_wrong_with_a_batch_itself_is_told_at_once() {
    let store = store();
    assert_eq!(kind(store.submit(Batch::new()).map(|_| panic!("a ticket"))), ErrorKind::Invalid);
    let huge = Batch::new().event("s", Event::raw("t", vec![0; 64 << 10]));
    let refused = kind(store.submit(huge).map(|_| panic!("a ticket")));
    assert!(matches!(refused, ErrorKind::TooLarge { .. }), "{refused:?}");
    store.close().unwrap();
    assert_eq!(kind(store.submit(on("s")).map(|_| panic!("a ticket"))), ErrorKind::Closed);
}

#[test]
fn no_more_bytes_are_under_way_than_the_bound_and_a_larger_batch_goes_alone() {
    let storage = MemoryStorage::new();
    let options = Options::new().segment_size(64 << 10).max_in_flight_bytes(4000);
    let store = options.open_memory(&storage).unwrap();
    let sized = |len| Batch::new().event("s", Event::raw("t", vec![1; len]));
    let mut under_way = VecDeque::new();
    for n in 0..500 {
        // Of those with 1,500 bytes two fit, and the third waits until the first is answered.
        under_way.push_back(store.submit(sized(if n % 50 == 49 { 9000 } else { 1500 })).unwrap());
        if under_way.len() > 2 {
            let mut oldest = under_way.pop_front().unwrap();
            assert!(poll(&mut oldest).is_ready(), "submit {n} did not wait");
        }
    }
    assert_eq!(store.append_batch(sized(1500)).unwrap().position.get(), 501);
}

#[test]
fn a_large_batch_is_not_passed_over_by_small_ones() {
    let store = Options::new().max_in_flight_bytes(5000).open_memory(&MemoryStorage::new()).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| drop(store.submit(on("small")).unwrap())));
        }
        for _ in 0..20 {
            let large = Batch::new().event("large", Event::raw("t", vec![1; 10_000]));
            store.submit(large).unwrap().wait().unwrap();
        }
    });
    store.sync().unwrap();
    assert_eq!((versions(&store, "small").len(), versions(&store, "large").len()), (2000, 20));
}

#[test]
fn closing_commits_what_was_submitted_and_refuses_what_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let tickets: Vec<_> = (0..2000).map(|_| store.submit(on("s")).unwrap()).collect();
    store.close().unwrap();
    for (mut ticket, position) in tickets.into_iter().zip(1..) {
        let Poll::Ready(done) = poll(&mut ticket) else { panic!("ticket {position} was left") };
        assert_eq!(done.unwrap().position.get(), position);
    }
    assert_eq!(kind(store.append_batch(on("s"))), ErrorKind::Closed);
    assert_eq!(Store::open(dir.path()).unwrap().watermark().get(), 2000);
}

#[test]
fn nobody_hangs_when_the_store_is_closed_while_many_submit_and_append() {
    for _ in 0..20 {
        let store = Options::new().max_in_flight_bytes(2000).open_memory(&MemoryStorage::new()).unwrap();
        let acknowledged: u64 = thread::scope(|scope| {
            let appenders: Vec<_> = (0..6)
                .map(|thread| {
                    let store = &store;
                    scope.spawn(move || {
                        let append = || match thread % 2 {
                            0 => store.append_batch(on("s")),
                            _ => store.submit(on("s")).and_then(Ticket::wait),
                        };
                        let mut acknowledged = 0;
                        loop {
                            match append() {
                                Ok(_) => acknowledged += 1,
                                refused => {
                                    assert_eq!(kind(refused), ErrorKind::Closed);
                                    return acknowledged;
                                }
                            }
                        }
                    })
                })
                .collect();
            while store.watermark() < Position::new(50) {
                thread::yield_now();
            }
            store.close().unwrap();
            appenders.into_iter().map(|appender| appender.join().unwrap()).sum()
        });
        assert_eq!(store.watermark().get(), acknowledged);
    }
}

#[test]
fn after_a_failed_sync_every_ticket_is_told() {
    for blocking in [false, true] {
        let storage = MemoryStorage::new();
        let store = Options::new().segment_size(64 << 10).open_memory(&storage).unwrap();
        store.append_batch(on("s")).unwrap();
        storage.fail_at(storage.operations() + 1, Fault::from_then_on(std::io::ErrorKind::Other));
        let tickets: Vec<_> = (0..200).map(|_| store.submit(on("s")).unwrap()).collect();
        if blocking {
            assert!(matches!(
                kind(store.append_batch(on("s"))),
                ErrorKind::Indeterminate | ErrorKind::Poisoned
            ));
        }
        let kinds: Vec<_> = tickets.into_iter().map(|ticket| kind(ticket.wait())).collect();
        assert_eq!(kinds[0], ErrorKind::Indeterminate);
        let first_refused = kinds.iter().position(|kind| *kind == ErrorKind::Poisoned).unwrap_or(kinds.len());
        assert!(kinds[..first_refused].iter().all(|kind| *kind == ErrorKind::Indeterminate), "{kinds:?}");
        assert!(kinds[first_refused..].iter().all(|kind| *kind == ErrorKind::Poisoned), "{kinds:?}");
        assert_eq!(kind(block_on(store.submit(on("s")).unwrap())), ErrorKind::Poisoned);
        assert_eq!(versions(&store, "s"), [1], "readers go on");
    }
}

#[test]
fn what_a_ticket_acknowledged_survives_a_loss_of_power_at_any_operation() {
    let batches = 60;
    for n in 1.. {
        let storage = MemoryStorage::new();
        let options = Options::new().segment_size(8 << 10).create(true);
        storage.fail_at(n, Fault::from_then_on(std::io::ErrorKind::Other));
        let mut acknowledged = 0;
        if let Ok(store) = options.open_memory(&storage) {
            let submit = |_| store.submit(Batch::new().event("s", Event::raw("t", vec![7; 300])));
            let tickets: Vec<_> = (0..batches).filter_map(|n| submit(n).ok()).collect();
            for done in tickets.into_iter().filter_map(|ticket| ticket.wait().ok()) {
                assert_eq!(done.position.get(), acknowledged + 1, "no gap between acknowledged ones");
                acknowledged += 1;
            }
        }
        for seed in [0, u64::MAX, n] {
            let store = options.open_memory(&storage.crash(seed)).unwrap();
            let found = u64::try_from(store.read(Position::START).map(Result::unwrap).count()).unwrap();
            assert!((acknowledged..=batches).contains(&found), "operation {n}: {acknowledged}, {found}");
        }
        if storage.operations() < n {
            assert_eq!(acknowledged, batches);
            return;
        }
    }
}

/// In segments that are large enough for zeros to be written ahead, by a thread that works at its own pace.
#[test]
fn zeros_written_ahead_never_cost_an_acknowledged_event() {
    let options = Options::new().segment_size(1 << 20);
    let life = |storage: &MemoryStorage| {
        let Ok(store) = options.open_memory(storage) else { return 0 };
        let append = |_: &u64| {
            let batch = Batch::new().event("s", Event::raw("t", vec![7; 5000]));
            store.append_batch(batch).is_ok()
        };
        u64::try_from((0..450).take_while(append).count()).unwrap()
    };
    let storage = MemoryStorage::new();
    assert_eq!(life(&storage), 450, "two rolls");
    let operations = storage.operations();
    assert!(operations > 900 + 6, "zeros were written: {operations}");
    for n in (1..operations).step_by(37) {
        let storage = MemoryStorage::new();
        let fault = Fault::from_then_on(std::io::ErrorKind::Other);
        storage.fail_at(n, if n % 2 == 0 { fault } else { fault.short() });
        let acknowledged = life(&storage);
        for seed in [0, u64::MAX, n] {
            let store = options.open_memory(&storage.crash(seed)).unwrap();
            let found = u64::try_from(store.read(Position::START).map(Result::unwrap).count()).unwrap();
            assert!((acknowledged..=acknowledged + 1).contains(&found), "operation {n}, seed {seed}");
        }
    }
}

#[test]
fn a_waker_that_panics_keeps_nobody_else_from_being_told() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("meant");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let waker = Waker::from(std::sync::Arc::new(Panics));
    let mut tickets: Vec<_> = (0..100).map(|_| store.submit(on("s")).unwrap()).collect();
    for ticket in &mut tickets {
        let _either = Pin::new(ticket).poll(&mut Context::from_waker(&waker));
    }
    tickets.into_iter().zip(1..).for_each(|(ticket, n)| assert_eq!(ticket.wait().unwrap().position.get(), n));
    store.close().unwrap();
}

#[test]
fn a_store_whose_last_handle_is_dropped_by_a_woken_task_closes() {
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    struct Holder(Mutex<Option<Store>>);
    impl Wake for Holder {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let storage = MemoryStorage::new();
    let store = Options::new().open_memory(&storage).unwrap();
    let mut ticket = store.submit(on("s")).unwrap();
    let waker = Waker::from(Arc::new(Holder(Mutex::new(Some(store)))));
    if Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_ready() {
        waker.wake_by_ref();
    }
    drop(waker);
    assert_eq!(ticket.wait().unwrap().position.get(), 1);
    let reopened = loop {
        match Options::new().open_memory(&storage) {
            Ok(store) => break store,
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "{error}"),
        }
        thread::yield_now();
    };
    assert!(reopened.recovery().clean);
    assert_eq!(reopened.watermark().get(), 1);
}
