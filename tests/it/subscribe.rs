//! Subscriptions: what is there, then what comes, without a gap; blocking and async.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use everfold::{
    Batch, ErrorKind, Event, EventStream, Expected, Fault, MIN_SEGMENT_BYTES, MemoryStorage, Options,
    Position, RecordedEvent, Store, Subscription, Version,
};
use futures_core::Stream;
use futures_core::stream::FusedStream;

use crate::block_on::block_on;

fn store() -> Store {
    Options::new().segment_size(MIN_SEGMENT_BYTES).open_memory(&MemoryStorage::new()).unwrap()
}

fn append(store: &Store, stream: &str) -> Position {
    store.append(stream, Expected::Any, [Event::raw("t", "x")]).unwrap().position
}

fn append_times(times: usize, store: &Store, stream: &str) {
    for _ in 0..times {
        append(store, stream);
    }
}

fn next(events: &mut EventStream) -> Option<RecordedEvent> {
    block_on(poll_fn(|cx| Pin::new(&mut *events).poll_next(cx))).transpose().unwrap()
}

fn take(subscription: &mut Subscription, events: usize) -> Vec<u64> {
    subscription.take(events).map(|event| event.unwrap().position().get()).collect()
}

#[test]
fn a_subscription_catches_up_and_goes_on_without_a_gap_while_others_append() {
    const EACH: usize = 300;
    let store = store();
    append_times(100, &store, "before");
    std::thread::scope(|scope| {
        let follow = |after: u64| {
            let mut subscription = store.subscribe(Position::new(after));
            move || take(&mut subscription, 100 + 3 * EACH - usize::try_from(after).unwrap())
        };
        let early: Vec<_> = [0, 1, 99, 100].map(|n| (n, scope.spawn(follow(n)))).into();
        let appenders = ["a", "b", "c"].map(|stream| {
            let store = &store;
            scope.spawn(move || append_times(EACH, store, stream))
        });
        let late: Vec<_> = [0, 200, 500].map(|n| (n, scope.spawn(follow(n)))).into();
        for (after, follower) in early.into_iter().chain(late) {
            assert!(follower.join().unwrap().into_iter().eq(after + 1..=1000));
        }
        appenders.into_iter().for_each(|appender| appender.join().unwrap());
    });
}

#[test]
fn a_stream_is_followed_past_the_events_of_others() {
    let store = store();
    std::thread::scope(|scope| {
        append(&store, "mine");
        let mut subscription = store.subscribe_stream("mine", Version::new(1));
        let mut not_there_yet = store.subscribe_stream("later", Version::NONE);
        let follower = scope.spawn(move || {
            let found: Vec<u64> =
                subscription.by_ref().take(50).map(|e| e.unwrap().version().get()).collect();
            (found, not_there_yet.next().unwrap().unwrap().stream().to_owned())
        });
        for n in 0..400 {
            append(&store, if n % 8 == 0 { "mine" } else { "other" });
        }
        let both = Batch::new().event("other", Event::raw("t", "")).event("later", Event::raw("t", ""));
        store.append_batch(both).unwrap();
        let (found, later) = follower.join().unwrap();
        assert!(found.into_iter().eq(2..=51));
        assert_eq!(later, "later");
    });
}

#[test]
fn a_timeout_gives_nothing_and_the_subscription_goes_on() {
    let store = store();
    let mut subscription = store.subscribe(Position::START);
    assert!(subscription.next_timeout(Duration::ZERO).is_none());
    assert!(subscription.next_timeout(Duration::from_millis(1)).is_none());
    append(&store, "s");
    let mut got = || subscription.next_timeout(Duration::ZERO).map(|event| event.unwrap().position().get());
    assert_eq!((got(), got()), (Some(1), None));
    append(&store, "s");
    assert_eq!(got(), Some(2));
    append(&store, "s");
    let got = subscription.next_timeout(Duration::MAX).unwrap().unwrap();
    assert_eq!(got.position().get(), 3);
    let mut future = store.subscribe(Position::new(10));
    append_times(12, &store, "s");
    assert_eq!(take(&mut future, 5), [11, 12, 13, 14, 15]);
}

#[test]
fn a_waiting_subscription_is_woken_by_an_append_from_another_thread() {
    let store = store();
    for n in 1..=50 {
        let mut subscription = store.subscribe(Position::new(n - 1));
        let mut events = store.subscribe(Position::new(n - 1)).into_stream();
        std::thread::scope(|scope| {
            let blocking = scope.spawn(move || subscription.next().unwrap().unwrap().position());
            let tasks = scope.spawn(move || next(&mut events).unwrap().position());
            assert_eq!(append(&store, "s").get(), n);
            assert_eq!(blocking.join().unwrap().get(), n);
            assert_eq!(tasks.join().unwrap().get(), n);
        });
    }
}

#[test]
fn closing_the_store_ends_subscriptions_after_the_last_durable_event() {
    let store = store();
    append_times(10, &store, "s");
    let not_begun = store.subscribe(Position::START);
    let mut streams = [store.subscribe(Position::new(4)), store.subscribe_stream("s", Version::new(4))]
        .map(Subscription::into_stream);
    std::thread::scope(|scope| {
        let waiting = [store.subscribe(Position::new(10)), store.subscribe_stream("none", Version::NONE)]
            .map(|subscription| scope.spawn(move || subscription.count()));
        let mut task = store.subscribe(Position::new(10)).into_stream();
        let task = scope.spawn(move || next(&mut task).is_none());
        store.close().unwrap();
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap(), 0));
        assert!(task.join().unwrap());
    });
    assert!(not_begun.map(|event| event.unwrap().position().get()).eq(1..=10));
    for events in &mut streams {
        (5..=10).for_each(|n| assert_eq!(next(events).unwrap().position().get(), n));
        assert!(!events.is_terminated() && next(events).is_none());
        assert!(events.is_terminated() && next(events).is_none());
    }
}

#[test]
fn a_failed_sync_ends_subscriptions_with_why() {
    let storage = MemoryStorage::new();
    let store = Options::new().segment_size(64 << 10).open_memory(&storage).unwrap();
    let mut subscription = store.subscribe(Position::START);
    let mut events = store.subscribe(Position::START).into_stream();
    storage.fail_at(storage.operations() + 2, Fault::from_then_on(std::io::ErrorKind::Other));
    store.append("s", Expected::Any, [Event::raw("t", "x")]).unwrap_err();
    assert_eq!(subscription.next().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(subscription.next().is_none());
    let polled = block_on(poll_fn(|cx| Pin::new(&mut events).poll_next(cx)));
    assert_eq!(polled.unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(next(&mut events).is_none());
}

#[test]
fn an_event_stream_catches_up_and_goes_on_without_a_gap_while_others_append() {
    let store = store();
    append_times(100, &store, "before");
    std::thread::scope(|scope| {
        let mut events = store.subscribe(Position::new(50)).into_stream();
        let follower = scope.spawn(move || -> Vec<u64> {
            (50..500).map(|_| next(&mut events).unwrap().position().get()).collect()
        });
        let appender = scope.spawn(|| append_times(200, &store, "a"));
        append_times(200, &store, "b");
        appender.join().unwrap();
        assert!(follower.join().unwrap().into_iter().eq(51..=500));
    });
}

#[derive(Default)]
struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_polled_stream_is_woken_once_for_what_came_and_never_without_cause() {
    let store = store();
    let mut events = store.subscribe(Position::START).into_stream();
    let wakes = Arc::new(CountWakes::default());
    let waker = Waker::from(wakes.clone());
    let mut poll = || Pin::new(&mut events).poll_next(&mut Context::from_waker(&waker));
    let woken = || wakes.0.load(Ordering::SeqCst);
    assert!(poll().is_pending() && poll().is_pending());
    assert_eq!(woken(), 0);
    append(&store, "s");
    append(&store, "s");
    assert_eq!(woken(), 1, "one registration, one wake");
    for n in 1..=2 {
        assert!(matches!(poll(), Poll::Ready(Some(Ok(event))) if event.position().get() == n));
    }
    assert!(poll().is_pending());
    assert_eq!(woken(), 1);
    store.close().unwrap();
    assert_eq!(woken(), 2);
    assert!(matches!(poll(), Poll::Ready(None)));
}

#[test]
fn a_subscription_dropped_while_others_wait_takes_nothing_with_it() {
    let store = store();
    let mut dropped = store.subscribe(Position::START).into_stream();
    let waker = Waker::noop();
    assert!(Pin::new(&mut dropped).poll_next(&mut Context::from_waker(waker)).is_pending());
    let mut kept = store.subscribe(Position::START);
    drop(dropped);
    append(&store, "s");
    assert_eq!(take(&mut kept, 1), [1]);
}

#[test]
fn a_subscription_of_a_store_opened_read_only_gives_what_there_was() {
    let storage = MemoryStorage::new();
    let writer = Options::new().open_memory(&storage).unwrap();
    append_times(5, &writer, "s");
    let reader = Options::new().read_only(true).open_memory(&storage).unwrap();
    let mut subscription = reader.subscribe(Position::new(2));
    assert_eq!(take(&mut subscription, 3), [3, 4, 5]);
    assert!(subscription.next_timeout(Duration::ZERO).is_none());
    reader.close().unwrap();
    assert!(subscription.next().is_none());
}
