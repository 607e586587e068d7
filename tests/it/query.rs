//! Reads and subscriptions by query: what they give, in which order, up to where, and what they refuse.

use std::pin::pin;
use std::thread;
use std::time::Duration;

use everfold::{
    Batch, Durability, ErrorKind, Event, Expected, MAX_NAME_BYTES, MAX_QUERY_ITEMS, MAX_QUERY_TYPES,
    MAX_TAGS, MemoryStorage, Position, Query, Store,
};
use futures_core::Stream;

use crate::ask::{Ask, read};
use crate::block_on::block_on;
use crate::ledger::{Fact, Ledger, facts, small};

fn store() -> Store {
    small().open_memory(&MemoryStorage::new()).unwrap()
}

fn event(kind: &str, tags: &[&str]) -> Event {
    tags.iter().fold(Event::raw(kind, "x"), |event, tag| event.tag(*tag))
}

/// Orders and payments of two customers, in streams of their own: positions 1 to 6.
fn shop() -> Store {
    let store = store();
    for (stream, kind, tags) in [
        ("order-1", "ordered", &["customer:a", "hat"][..]),
        ("order-2", "ordered", &["customer:b", "hat"]),
        ("order-1", "paid", &["customer:a"]),
        ("order-3", "ordered", &["customer:a", "shoe"]),
        ("order-2", "paid", &["customer:b"]),
        ("order-3", "cancelled", &["customer:a"]),
    ] {
        store.append(stream, Expected::Any, [event(kind, tags)]).unwrap();
    }
    store
}

fn up(store: &Store, query: &Query) -> Vec<u64> {
    positions(store.read_query(query, Position::START))
}

fn positions(cursor: everfold::Cursor) -> Vec<u64> {
    cursor.map(|event| event.unwrap().position().get()).collect()
}

#[test]
fn types_are_alternatives_tags_are_all_asked_for_and_items_are_alternatives() {
    let store = shop();
    let a = || Query::all().tags(["customer:a"]);
    assert_eq!(up(&store, &Query::all()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(up(&store, &a()), [1, 3, 4, 6]);
    assert_eq!(up(&store, &a().tags(["hat"])), [1]);
    assert_eq!(up(&store, &a().types(["paid", "cancelled"])), [3, 6]);
    assert_eq!(up(&store, &a().types(["paid"]).types(["cancelled"])), [3, 6]);
    assert_eq!(up(&store, &Query::all().stream("order-3")), [4, 6]);
    assert_eq!(up(&store, &Query::all().stream("order-1").types(["paid"]).tags(["customer:a"])), [3]);
    assert_eq!(up(&store, &Query::all().stream("order-1").stream("order-2")), [2, 5]);
    let either = Query::all().tags(["shoe"]).or(Query::all().stream("order-2").types(["paid"]));
    assert_eq!(up(&store, &either), [4, 5]);
    assert_eq!(up(&store, &either.or(Query::all())), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_event_that_matches_several_items_is_given_once() {
    let store = shop();
    let twice = Query::all().tags(["hat"]).or(Query::all().types(["ordered"])).or(Query::all().tags(["hat"]));
    assert_eq!(up(&store, &twice), [1, 2, 4]);
    let again = Query::all().types(["paid", "paid"]).tags(["customer:a", "customer:a"]);
    assert_eq!(up(&store, &again), [3]);
}

#[test]
fn a_name_is_what_it_is_the_name_of() {
    let store = shop();
    for query in [
        Query::all().types(["hat"]),
        Query::all().tags(["paid"]),
        Query::all().tags(["order-1"]),
        Query::all().stream("hat"),
        Query::all().types(["Paid"]),
        Query::all().tags(["customer:a", "unknown"]),
        Query::all().types(["paid"]).stream("order-3"),
    ] {
        assert!(up(&store, &query).is_empty(), "{query}");
        assert_eq!(store.read_query_backward(&query, Position::END).count(), 0, "{query}");
    }
    assert_eq!(up(&store, &Query::all().types(["unknown", "paid"])), [3, 5]);
}

#[test]
fn the_limit_counts_events_that_match_and_positions_are_exclusive() {
    let store = shop();
    let a = Query::all().tags(["customer:a"]);
    assert_eq!(positions(store.read_query(&a, Position::START).limit(2)), [1, 3]);
    assert_eq!(positions(store.read_query(&a, Position::new(1)).limit(2)), [3, 4]);
    assert_eq!(positions(store.read_query(&a, Position::new(6))), [0; 0]);
    assert_eq!(positions(store.read_query(&a, Position::END)), [0; 0]);
    assert_eq!(positions(store.read_query_backward(&a, Position::END).limit(3)), [6, 4, 3]);
    assert_eq!(positions(store.read_query_backward(&a, Position::new(4))), [3, 1]);
    assert_eq!(positions(store.read_query_backward(&a, Position::new(1))), [0; 0]);
    assert_eq!(positions(store.read_query_backward(&a, Position::START)), [0; 0]);
    assert_eq!(positions(store.read_query(&a, Position::START).limit(0)), [0; 0]);
}

#[test]
fn a_cursor_sees_what_was_durable_when_it_was_made() {
    let store = shop();
    let a = Query::all().tags(["customer:a"]);
    let deferred = Batch::new().event("order-9", event("ordered", &["customer:a"]));
    store.append_batch(deferred.durability(Durability::Deferred)).unwrap();
    let (early, early_down) =
        (store.read_query(&a, Position::START), store.read_query_backward(&a, Position::END));
    store.append("order-8", Expected::Any, [event("ordered", &["customer:a"])]).unwrap();
    assert_eq!(positions(early), [1, 3, 4, 6]);
    assert_eq!(positions(early_down), [6, 4, 3, 1]);
    assert_eq!(up(&store, &a), [1, 3, 4, 6, 7, 8]);
}

#[test]
fn an_open_cursor_goes_on_over_rolls_and_ends_where_it_was_to_end() {
    let store = store();
    let add = |n: u64| {
        let text = vec![b'x'; 700];
        let event = Event::raw(format!("t{}", n % 2), text).tag("all");
        store.append(&format!("s{}", n % 3), Expected::Any, [event]).unwrap();
    };
    (0..30).for_each(add);
    let odd = Query::all().types(["t1"]).tags(["all"]);
    let (mut cursor, mut down) =
        (store.read_query(&odd, Position::START), store.read_query_backward(&odd, Position::END));
    let (mut seen, mut seen_down) = (Vec::new(), Vec::new());
    for n in 30..60 {
        seen.extend(cursor.next().map(|event| event.unwrap().position().get()));
        seen_down.extend(down.next().map(|event| event.unwrap().position().get()));
        add(n);
    }
    let mut expected: Vec<u64> = (1..=30).filter(|n| n % 2 == 0).collect();
    assert_eq!(seen, expected);
    expected.reverse();
    assert_eq!(seen_down, expected);
}

#[test]
fn many_segments_give_what_a_plain_filter_gives() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    let mut ledger = Ledger::default();
    for n in 0..180 {
        let batch = ledger.make(&[800 + n % 7, 300, 10 * (n % 90)]);
        ledger.append(&store, batch, Durability::Deferred).unwrap();
    }
    store.sync().unwrap();
    let files = storage.files();
    let count = |end: &str| files.iter().filter(|name| name.ends_with(end)).count();
    assert!(count(".seg") > 64 && count(".keys") > 1, "{files:?}");
    let (facts, last) = (ledger.facts(), ledger.len());
    for seed in 0..240 {
        let ask = Ask::number(seed);
        ask.check_all(&store, &facts);
        let at = u64::from(seed) * 37 % last;
        ask.check(&store, &facts, at, usize::from(seed % 9));
    }
}

fn refused(query: &Query) -> ErrorKind {
    let store = shop();
    let mut events = store.read_query(query, Position::START);
    let error = events.next().unwrap().unwrap_err();
    assert!(events.next().is_none());
    let down = store.read_query_backward(query, Position::END).next().unwrap().unwrap_err();
    assert_eq!(down.to_string(), error.to_string());
    let mut followed = store.subscribe_query(query, Position::START);
    assert_eq!(followed.next().unwrap().unwrap_err().kind(), error.kind());
    assert!(followed.next().is_none());
    error.kind()
}

#[test]
fn names_that_no_event_has_and_too_many_of_anything_are_refused() {
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    for query in [
        Query::all().types([""]),
        Query::all().tags([long.clone()]),
        Query::all().stream(""),
        Query::all().or(Query::all().stream(long)),
    ] {
        assert_eq!(refused(&query), ErrorKind::Invalid, "{query}");
    }
    let names = |count: usize| (0..count).map(|n| n.to_string());
    let limit = |limit: usize| ErrorKind::TooLarge { limit: u64::try_from(limit).unwrap() };
    assert_eq!(refused(&Query::all().types(names(MAX_QUERY_TYPES + 1))), limit(MAX_QUERY_TYPES));
    assert_eq!(refused(&Query::all().tags(names(MAX_TAGS + 1))), limit(MAX_TAGS));
    let items = |count| (0..count).map(|n| Query::all().stream(format!("s{n}"))).reduce(Query::or).unwrap();
    assert_eq!(refused(&items(MAX_QUERY_ITEMS + 1)), limit(MAX_QUERY_ITEMS));
    let store = shop();
    assert!(up(&store, &items(MAX_QUERY_ITEMS)).is_empty());
    assert!(up(&store, &Query::all().types(names(MAX_QUERY_TYPES))).is_empty());
    let longest = "n".repeat(MAX_NAME_BYTES);
    store.append(&longest, Expected::Any, [event(&longest, &[&longest])]).unwrap();
    let named = Query::all().stream(&longest).types([&longest]).tags([&longest]);
    assert_eq!(up(&store, &named), [7]);
}

#[test]
fn a_closed_store_gives_an_error_and_no_events() {
    let store = shop();
    store.close().unwrap();
    let mut events = store.read_query(&Query::all().types(["paid"]), Position::START);
    assert_eq!(events.next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn the_checkpoint_of_a_subscription_passes_what_does_not_match() {
    let store = shop();
    let paid = Query::all().types(["paid"]);
    let mut subscription = store.subscribe_query(&paid, Position::START);
    let now = Duration::ZERO;
    assert_eq!(subscription.checkpoint(), Some(Position::START));
    let mut next = || {
        let event = subscription.next_timeout(now);
        (event.map(|e| e.unwrap().position().get()), subscription.checkpoint().unwrap().get())
    };
    let (first, at) = next();
    assert!(first == Some(3) && (3..5).contains(&at), "{at}");
    let (second, at) = next();
    assert!(second == Some(5) && (5..=6).contains(&at), "{at}");
    assert_eq!(next(), (None, 6));
    store.append("order-9", Expected::Any, [event("ordered", &[])]).unwrap();
    assert_eq!(next(), (None, 7));
    store.append("order-9", Expected::Any, [event("paid", &[])]).unwrap();
    assert_eq!(next(), (Some(8), 8));
    let mut later = store.subscribe_query(&paid, Position::new(7));
    assert_eq!(later.next().unwrap().unwrap().position().get(), 8);
    let mut beyond = store.subscribe_query(&paid, Position::new(9));
    store.append("order-9", Expected::Any, [event("paid", &[]), event("paid", &[])]).unwrap();
    assert_eq!(beyond.next().unwrap().unwrap().position().get(), 10);
    assert_eq!(store.subscribe_stream("order-9", everfold::Version::NONE).checkpoint(), None);
}

#[test]
fn a_checkpoint_never_passes_an_event_that_could_not_be_read() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    for n in 0..12 {
        let event = Event::raw(if n % 2 == 0 { "even" } else { "odd" }, vec![b'x'; 1000]);
        store.append("s", Expected::Any, [event]).unwrap();
    }
    store.close().unwrap();
    // In the payload of the third event of the first segment, at position 3.
    let segment = storage.file("log/00000000000000000001.seg").unwrap();
    let third =
        segment.windows(4).enumerate().filter(|(_, w)| w == b"FRM1").map(|(at, _)| at).nth(2).unwrap();
    storage.flip_bit("log/00000000000000000001.seg", u64::try_from(third + 300).unwrap(), 1).unwrap();
    let store = small().open_memory(&storage).unwrap();
    let even = Query::all().types(["even"]);
    for mut subscription in [store.subscribe_query(&even, Position::START), store.subscribe(Position::START)]
    {
        let error = subscription.find_map(Result::err).unwrap();
        assert_eq!(error.corruption().unwrap().position, Some(Position::new(3)));
        assert_eq!(
            subscription.checkpoint(),
            Some(Position::new(2)),
            "whoever goes on from there meets it again"
        );
    }
}

#[test]
fn a_subscription_that_waits_is_woken_by_what_matches_over_rolls() {
    let store = store();
    let rare = Query::all().tags(["rare"]);
    let waiter = {
        let subscription = store.subscribe_query(&rare, Position::START);
        thread::spawn(move || subscription.take(5).map(|e| e.unwrap().position().get()).collect::<Vec<_>>())
    };
    for n in 1..=50u32 {
        let event = Event::raw("t", vec![b'x'; 600]);
        let event = if n.is_multiple_of(10) { event.tag("rare") } else { event };
        store.append("s", Expected::Any, [event]).unwrap();
    }
    assert_eq!(waiter.join().unwrap(), [10, 20, 30, 40, 50]);
    let ended = {
        let subscription = store.subscribe_query(&rare, Position::new(20));
        thread::spawn(move || subscription.count())
    };
    thread::sleep(Duration::from_millis(20));
    store.close().unwrap();
    assert!(ended.join().unwrap() <= 3, "closing ends it");
}

#[test]
fn a_stream_of_a_query_gives_the_same_and_is_woken() {
    let store = shop();
    let a = Query::all().tags(["customer:a"]);
    let mut stream = pin!(store.subscribe_query(&a, Position::new(1)).into_stream());
    let mut next = || block_on(std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)));
    let got: Vec<u64> = (0..3).map(|_| next().unwrap().unwrap().position().get()).collect();
    assert_eq!(got, [3, 4, 6]);
    let other = store.clone();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        other.append("order-7", Expected::Any, [event("ordered", &["customer:b"])]).unwrap();
        other.append("order-7", Expected::Any, [event("paid", &["customer:a"])]).unwrap();
    });
    assert_eq!(next().unwrap().unwrap().position().get(), 8);
    writer.join().unwrap();
    store.close().unwrap();
    assert!(next().is_none());
    assert_eq!(stream.checkpoint(), Some(Position::new(8)));
}

#[test]
fn a_read_only_store_answers_queries_and_its_subscriptions_end() {
    let storage = MemoryStorage::new();
    let writer = small().open_memory(&storage).unwrap();
    let mut ledger = Ledger::default();
    for _ in 0..20 {
        let batch = ledger.make(&[700, 300]);
        ledger.append(&writer, batch, Durability::Durable).unwrap();
    }
    let reader = small().read_only(true).open_memory(&storage).unwrap();
    let now = ledger.facts();
    for _ in 0..20 {
        let batch = ledger.make(&[700, 300]);
        ledger.append(&writer, batch, Durability::Durable).unwrap();
    }
    for seed in 0..80 {
        let ask = Ask::number(seed);
        ask.check_all(&reader, &now);
        let followed: Vec<Fact> =
            reader.subscribe_query(&ask.query(), Position::START).map(|e| Fact::from(&e.unwrap())).collect();
        assert_eq!(followed, ask.of(&now));
    }
    assert_eq!(facts(&writer), ledger.facts());
    assert_eq!(read(reader.read_query(&Query::all(), Position::START)), now);
}
