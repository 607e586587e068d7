//! Guards: several at once, on streams and on queries, in whichever segment what they are about is.

use std::sync::Barrier;
use std::thread;

use everfold::{
    AppendError, Appended, Batch, Conflict, Durability, ErrorKind, Event, Expected, Guard, MAX_NAME_BYTES,
    MemoryStorage, Options, Position, Query, Store, Uuid, Version,
};

use crate::ledger::small;

fn store() -> Store {
    small().open_memory(&MemoryStorage::new()).unwrap()
}

fn add(store: &Store, stream: &str, kind: &str, tag: &str) -> Appended {
    store.append(stream, Expected::Any, [Event::raw(kind, vec![b'x'; 400]).tag(tag)]).unwrap()
}

fn batch() -> Batch {
    Batch::new().event("decided", Event::raw("decided", "x"))
}

fn conflict(store: &Store, batch: Batch) -> Conflict {
    match store.append_batch(batch) {
        Err(AppendError::Conflict(conflict)) => conflict,
        other => panic!("{other:?} should be a conflict"),
    }
}

fn tagged(tag: &str) -> Query {
    Query::all().tags([tag])
}

fn no_event(tag: &str, after: u64) -> Guard {
    Guard::no_event(tagged(tag), Position::new(after))
}

/// Rolls a store of small segments at least so many times.
fn roll(store: &Store, times: usize) {
    for _ in 0..times * 2 {
        store.append("filler", Expected::Any, [Event::raw("fill", vec![b'f'; 2000])]).unwrap();
    }
}

#[test]
fn a_conflict_tells_which_guard_failed_and_the_event_that_broke_it() {
    let store = store();
    add(&store, "a", "t", "red");
    add(&store, "b", "t", "blue");
    add(&store, "a", "t", "red");
    add(&store, "c", "t", "green");
    for times in [0, 1, 5] {
        roll(&store, times);
        let guards = || {
            let right = batch().guard(Guard::version("a", Version::new(2))).guard(no_event("red", 3));
            right.guard(Guard::version("none", Expected::NoStream)).guard(Guard::version("b", Expected::Any))
        };
        let broken = conflict(&store, guards().guard(no_event("blue", 1)).guard(no_event("red", 0)));
        assert_eq!((broken.guard.clone(), broken.number), (no_event("blue", 1), 4));
        assert_eq!((broken.position.get(), broken.actual), (2, None));
        assert!(broken.to_string().contains("tag blue") && broken.to_string().contains("position 2"));

        let broken = conflict(&store, guards().guard(Guard::version("a", Version::new(1))));
        assert_eq!((broken.number, broken.position.get(), broken.actual), (4, 3, Some(Version::new(2))));
        let broken = conflict(&store, batch().guard(Guard::version("none", Expected::Exists)));
        assert_eq!((broken.position, broken.actual), (Position::START, Some(Version::NONE)));
        let broken = conflict(&store, batch().guard(no_event("red", 0)));
        assert_eq!(broken.position.get(), 3, "the last one that matches");
        assert_eq!(store.read_stream("decided", Version::NONE).count(), 0, "nothing was written");
    }
    let done = store.append_batch(batch().guard(no_event("red", 3)).guard(no_event("never", 0))).unwrap();
    assert_eq!(done.version, Version::new(1));
}

#[test]
fn a_guard_on_a_query_looks_at_what_is_after_its_position_and_at_nothing_else() {
    let store = store();
    let mut last = [0, 0];
    for n in 0..60usize {
        last[n % 2] = add(&store, "s", "t", ["even", "odd"][n % 2]).position.get();
        for after in (0..=store.watermark().get() + 2).step_by(7) {
            for (tag, last) in [("even", last[0]), ("odd", last[1]), ("never", 0)] {
                let twice = batch().guard(no_event(tag, after)).guard(no_event(tag, 0));
                let number = usize::from(after >= last);
                match last {
                    // Refused by the guard that cannot hold, whatever the one before says.
                    1.. => {
                        let broken = conflict(&store, twice);
                        assert_eq!(
                            (broken.number, broken.position.get()),
                            (number, last),
                            "{tag} after {after}"
                        );
                    }
                    0 => assert!(store.append_batch(twice.guard(no_event("even", 0))).is_err()),
                }
            }
        }
    }
    assert!(store.append_batch(batch().guard(no_event("even", last[0]))).is_ok());
    assert!(store.append_batch(batch().guard(no_event("even", u64::MAX))).is_ok(), "above the watermark");
    let any = Guard::no_event(Query::all(), store.watermark());
    let first = store.append_batch(batch().guard(any.clone())).unwrap();
    assert_eq!(conflict(&store, batch().guard(any)).position, first.position);
}

#[test]
fn guards_see_events_that_are_not_durable() {
    for durability in [Durability::Written, Durability::Deferred] {
        let store = store();
        let made = Batch::new().event("s", Event::raw("t", "x").tag("red")).durability(durability);
        store.append_batch(made).unwrap();
        assert_eq!(store.watermark(), Position::START);
        for _ in 0..2 {
            let broken = conflict(&store, batch().guard(no_event("red", 0)));
            assert_eq!(broken.position.get(), 1);
            assert!(store.append_batch(batch().guard(no_event("red", 1)).durability(durability)).is_ok());
            let broken = conflict(&store, batch().guard(Guard::version("s", Expected::NoStream)));
            assert_eq!((broken.position.get(), broken.actual), (1, Some(Version::new(1))));
        }
    }
}

#[test]
fn a_guard_sees_no_event_of_its_own_batch() {
    let store = store();
    let own = || Batch::new().event("s", Event::raw("t", "x").tag("red"));
    store.append_batch(own().guard(no_event("red", 0))).unwrap();
    conflict(&store, own().guard(no_event("red", 0)));
    let query = Query::all().types(["t"]).or(Query::all().stream("decided"));
    store.append_batch(batch().guard(Guard::no_event(query.clone(), Position::new(1)))).unwrap();
    assert_eq!(conflict(&store, batch().guard(Guard::no_event(query, Position::new(1)))).position.get(), 2);
}

#[test]
fn guards_that_can_never_be_right_are_refused_before_anything_is_written() {
    let store = store();
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    let queries = [Query::all().tags([""]), Query::all().stream(&long), Query::all().types([&long])];
    let guards = queries.map(|query| Guard::no_event(query, Position::START)).into_iter();
    for guard in guards.chain(["", &long].map(|stream| Guard::version(stream, Expected::Any))) {
        match store.append_batch(batch().guard(guard)) {
            Err(AppendError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::Invalid),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.sync().unwrap(), Position::START);
}

#[test]
fn the_same_ids_again_give_the_first_result_whatever_the_guards_say() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    // Random ids do not ascend, generated ones do.
    for random in [false, true] {
        let event = |n: u64| {
            let event = Event::raw("t", vec![b'x'; 500]).tag(format!("once:{random}:{n}"));
            if random { event.id(Uuid::new_v4()) } else { event }
        };
        let made: Vec<(Batch, u64)> = (0..60u64)
            .map(|n| {
                let mut made = Batch::new().event(format!("s{}", n % 5), event(n)).event("all", event(n));
                for number in 0..n % 3 {
                    made = made.event(format!("other{number}"), event(n));
                }
                let once = no_event(&format!("once:{random}:{n}"), 0);
                (made.guard(Guard::version("never", Expected::NoStream)).guard(once), n)
            })
            .collect();
        let first: Vec<Appended> =
            made.iter().map(|(made, _)| store.append_batch(made.clone()).unwrap()).collect();
        let again = |store: &Store| {
            for ((made, n), first) in made.iter().zip(&first) {
                let repeated = store.append_batch(made.clone()).unwrap();
                assert!(repeated.repeated && !first.repeated, "{n}");
                assert_eq!(
                    (repeated.first, repeated.position, repeated.version),
                    (first.first, first.position, first.version),
                    "{n}"
                );
            }
        };
        again(&store);
        let (part, _) = &made[0];
        let more = part.clone().event("more", Event::raw("t", "x"));
        match store.append_batch(more) {
            Err(AppendError::Failed(error)) => {
                assert_eq!(error.kind(), ErrorKind::IdTaken { position: first[0].first });
            }
            other => panic!("{other:?}"),
        }
        let reopened = small().open_memory(&storage.crash(u64::MAX)).unwrap();
        again(&reopened);
    }
}

#[test]
fn of_threads_that_race_on_one_boundary_exactly_one_wins() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 60;
    let store = store();
    let barrier = Barrier::new(usize::try_from(THREADS).unwrap());
    let race = |thread: u64| {
        let mut won = 0;
        for round in 0..ROUNDS {
            barrier.wait();
            let tag = format!("seat:{round}");
            let query = Query::all().types(["booked"]).tags([tag.clone()]);
            let booked = Event::raw("booked", vec![b'b'; 900]).tag(tag);
            let request = Batch::new()
                .event(format!("booking-{thread}"), booked)
                .guard(Guard::no_event(query, Position::new(round % 3)))
                .durability(if round % 2 == 0 { Durability::Durable } else { Durability::Deferred });
            match store.append_batch(request) {
                Ok(_) => won += 1,
                Err(AppendError::Conflict(broken)) => assert!(broken.position > Position::START),
                Err(other) => panic!("{other}"),
            }
        }
        won
    };
    let won: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || race(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, ROUNDS);
    assert_eq!(store.sync().unwrap().get(), ROUNDS);
}

/// Segments roll all the time, and what is looked up before the queue is often old when it is used.
#[test]
fn of_threads_that_count_up_one_stream_none_overwrites_another() {
    const THREADS: usize = 4;
    const EACH: u64 = 40;
    for max_index_bytes in [1, usize::MAX] {
        let store = Options::new().segment_size(8192).max_index_bytes(max_index_bytes);
        let store = store.open_memory(&MemoryStorage::new()).unwrap();
        let count = || {
            let mut done = 0;
            while done < EACH {
                let version = store
                    .read_stream_backward("counter", Version::END)
                    .next()
                    .map_or(Version::NONE, |e| e.unwrap().version());
                let own = no_event("counted", store.watermark().get());
                let request = Batch::new()
                    .event("counter", Event::raw("counted", vec![b'c'; 300]).tag("counted"))
                    .guard(Guard::version("counter", version));
                match store.append_batch(if done % 2 == 0 { request } else { request.guard(own) }) {
                    Ok(appended) => {
                        assert_eq!(appended.version, Version::new(version.get() + 1));
                        done += 1;
                    }
                    Err(AppendError::Conflict(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        };
        thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(count))));
        let versions: Vec<u64> =
            store.read_stream("counter", Version::NONE).map(|e| e.unwrap().version().get()).collect();
        assert!(versions.iter().copied().eq(1..=160), "{versions:?}");
    }
}
