//! Retention: what it drops, what keeps it from dropping, and what is told of what was dropped.

use std::time::Duration;

use everfold::{
    AppendError, ApplyError, Batch, Cursor, Damage, ErrorKind, Event, Expected, Guard, KeptBy, MemoryStorage,
    Options, Position, Projection, ProjectionState, Query, RecordedEvent, Retention, Store, Uuid, Version,
    ViewBatch,
};

use crate::ledger::small;

const EVENTS: u64 = 400;

/// A store of many small segments: `early` has the first five events, `even` and `odd` share the others by turns.
fn fill(store: &Store) {
    for n in 1..=EVENTS {
        let stream = match n {
            1..=5 => "early",
            n if n.is_multiple_of(2) => "even",
            _ => "odd",
        };
        store
            .append(stream, Expected::Any, [Event::raw("t", n.to_string()).tag(format!("of:{stream}"))])
            .unwrap();
    }
}

fn filled() -> (MemoryStorage, Store) {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    fill(&store);
    (storage, store)
}

fn at(position: u64) -> Position {
    Position::new(position)
}

/// Positions read, and the kind of the error at the end if there was one.
fn read(cursor: Cursor) -> (Vec<u64>, Option<ErrorKind>) {
    let (mut positions, mut error) = (Vec::new(), None);
    for event in cursor {
        match event {
            Ok(event) => positions.push(event.position().get()),
            Err(met) => error = Some(met.kind()),
        }
    }
    (positions, error)
}

fn from_to(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[test]
fn segments_wholly_before_a_position_are_dropped_and_the_rest_is_read() {
    let (storage, store) = filled();
    let before = storage.files().len();
    let retained = store.retain(&Retention::new().before(at(200))).unwrap();
    let first = retained.first;
    assert!((at(150)..=at(200)).contains(&first) && retained.kept_by.is_none(), "{retained:?}");
    assert_eq!((store.log_start(), retained.segments > 2), (first, true));
    assert_eq!(retained.bytes, u64::try_from(retained.segments).unwrap() * everfold::MIN_SEGMENT_BYTES);
    assert!(storage.files().len() < before);
    assert_eq!(read(store.read(first.previous())), (from_to(first.get(), EVENTS), None));
    let again = store.retain(&Retention::new().before(at(200))).unwrap();
    assert_eq!((again.first, again.segments, again.bytes), (first, 0, 0));
}

#[test]
fn a_policy_drops_what_any_of_its_parts_drops_and_never_the_active_segment() {
    let (storage, store) = filled();
    let segments = |storage: &MemoryStorage| {
        u64::try_from(storage.files().iter().filter(|name| name.ends_with(".seg")).count()).unwrap()
    };
    let size = everfold::MIN_SEGMENT_BYTES;
    let all = segments(&storage);
    let young =
        store.retain(&Retention::new().older_than(Duration::from_secs(60)).max_bytes(all * size)).unwrap();
    assert_eq!((young.segments, young.first), (0, at(1)));
    let some = store.retain(&Retention::new().before(at(1)).max_bytes(5 * size)).unwrap();
    assert_eq!((segments(&storage), u64::try_from(some.segments).unwrap()), (5, all - 5));
    std::thread::sleep(Duration::from_millis(2));
    store.retain(&Retention::new().older_than(Duration::from_millis(1))).unwrap();
    assert_eq!(segments(&storage), 1);
    let none = store.retain(&Retention::new().max_bytes(0)).unwrap();
    assert_eq!((none.segments, none.kept_by), (0, None));
    let last = store.append("odd", Expected::Any, [Event::raw("t", "")]).unwrap();
    assert_eq!((last.position.get(), last.version), (EVENTS + 1, Version::new(EVENTS / 2 - 2)));
}

#[test]
fn a_dry_run_tells_the_same_and_drops_nothing_also_read_only() {
    let (storage, store) = filled();
    let files = storage.files();
    let policy = Retention::new().before(at(200));
    let told = store.retain(&policy.clone().dry_run(true)).unwrap();
    assert_eq!((storage.files(), store.log_start()), (files, at(1)));
    let reader = small().read_only(true).open_memory(&storage).unwrap();
    assert_eq!(reader.retain(&policy.clone().dry_run(true)).unwrap(), told);
    assert_eq!(reader.retain(&policy).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(store.retain(&policy).unwrap(), told);
    store.close().unwrap();
    assert_eq!(store.retain(&policy).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn reads_of_what_was_dropped_say_where_the_log_starts() {
    let (_, store) = filled();
    let first = store.retain(&Retention::new().before(at(200))).unwrap().first;
    let truncated = Some(ErrorKind::Truncated { first });
    let n = first.get();
    assert_eq!(read(store.read(Position::START)), (vec![], truncated.clone()));
    assert_eq!(read(store.read(at(n - 2))), (vec![], truncated.clone()));
    assert_eq!(read(store.read(at(n - 1)).limit(2)), (vec![n, n + 1], None));
    let message = store.read(Position::START).next().unwrap().unwrap_err().to_string();
    assert!(message.contains(&format!("read after position {}", n - 1)), "{message}");

    let back: Vec<u64> = from_to(n, EVENTS).into_iter().rev().collect();
    assert_eq!(read(store.read_backward(Position::END)), (back.clone(), truncated.clone()));
    assert_eq!(read(store.read_backward(Position::END).limit(3)), (back[..3].to_vec(), None));
    assert_eq!(read(store.read_backward(Position::END).limit(EVENTS - n + 1)), (back, None));
    assert_eq!(read(store.read_backward(first)), (vec![], truncated.clone()));
    assert_eq!(read(store.read_backward(at(1))), (vec![], None));

    for query in [Query::all(), Query::all().tags(["of:odd"]), Query::all().tags(["of:nobody"])] {
        assert_eq!(read(store.read_query(&query, Position::START)), (vec![], truncated.clone()));
        let (forward, end) = read(store.read_query(&query, at(n - 1)));
        assert_eq!(end, None);
        let (mut backward, end) = read(store.read_query_backward(&query, Position::END));
        backward.reverse();
        assert_eq!((backward, end), (forward, truncated.clone()), "{query}");
        assert_eq!(read(store.read_query_backward(&query, at(1))), (vec![], None));
    }
    let mut follows = store.subscribe(Position::START);
    assert_eq!(follows.next().unwrap().unwrap_err().kind(), ErrorKind::Truncated { first });
    assert!(follows.next().is_none());
    let mut follows = store.subscribe(at(n - 1));
    assert_eq!(follows.next().unwrap().unwrap().position(), first);
}

#[test]
fn streams_say_which_of_their_events_were_dropped() {
    let (_, store) = filled();
    let first = store.retain(&Retention::new().before(at(200))).unwrap().first;
    let truncated = Some(ErrorKind::Truncated { first });
    for _ in 0..2 {
        assert_eq!(read(store.read_stream("early", Version::NONE)), (vec![], truncated.clone()));
        assert_eq!(read(store.read_stream("early", Version::new(4))), (vec![], truncated.clone()));
        assert_eq!(read(store.read_stream("early", Version::new(5))), (vec![], None));
        assert_eq!(read(store.read_stream_backward("early", Version::END)), (vec![], truncated.clone()));
        assert_eq!(read(store.read_stream_backward("early", Version::new(1))), (vec![], None));
        assert_eq!(read(store.read_stream("nobody", Version::NONE)), (vec![], None));
        assert_eq!(read(store.read_stream_backward("nobody", Version::END)), (vec![], None));
    }
    let odd = if first.get().is_multiple_of(2) { first.get() + 1 } else { first.get() };
    let left: Vec<u64> = (odd..=EVENTS).step_by(2).collect();
    let gone = Version::new((odd - 7) / 2);
    assert_eq!(read(store.read_stream("odd", gone)), (left.clone(), None));
    assert_eq!(read(store.read_stream("odd", Version::new(gone.get() - 1))), (vec![], truncated.clone()));
    let (mut back, end) = read(store.read_stream_backward("odd", Version::END));
    back.reverse();
    assert_eq!((back, end), (left, truncated.clone()));
    let message = store.read_stream("odd", Version::NONE).next().unwrap().unwrap_err().to_string();
    assert!(message.contains(&format!("up to version {gone}")), "{message}");
    let early = store.append("early", Version::new(5), [Event::raw("t", "")]).unwrap();
    assert_eq!(read(store.read_stream("early", Version::new(5))), (vec![early.position.get()], None));
    assert_eq!(
        read(store.read_stream_backward("early", Version::END)),
        (vec![early.position.get()], truncated.clone())
    );
    assert_eq!(read(store.read_stream_backward("early", Version::END).limit(1)).1, None);
    assert_eq!(
        store.subscribe_stream("early", Version::NONE).next().unwrap().unwrap_err().kind(),
        truncated.unwrap()
    );
}

/// Checks the versions of streams of which every event is gone: they go on, and guards know them.
fn check_versions(store: &Store, early: u64) {
    let event = || Event::raw("t", "");
    let conflict = |guard| {
        let refused = store.append_batch(Batch::new().event("other", event()).guard(guard)).unwrap_err();
        refused.conflict().unwrap_or_else(|| panic!("{refused}")).clone()
    };
    let broken = conflict(Guard::version("early", Expected::NoStream));
    assert_eq!(broken.actual, Some(Version::new(early)));
    assert_eq!(conflict(Guard::version("early", Version::new(early + 1))).actual, Some(Version::new(early)));
    assert_eq!(conflict(Guard::version("nobody", Expected::Exists)).actual, Some(Version::NONE));
    let guarded = Batch::new()
        .event("early", event())
        .guard(Guard::version("early", Expected::Exists))
        .guard(Guard::version("early", Version::new(early)))
        .guard(Guard::version("nobody", Expected::NoStream));
    assert_eq!(store.append_batch(guarded).unwrap().version, Version::new(early + 1));
}

#[test]
fn streams_keep_their_versions_when_all_their_events_are_gone() {
    let storage = MemoryStorage::new();
    let open = || small().open_memory(&storage).unwrap();
    let mut store = open();
    fill(&store);
    for early in 5..10 {
        store.retain(&Retention::new().max_bytes(0)).unwrap();
        assert_eq!(read(store.read_stream("early", Version::new(early))), (vec![], None));
        check_versions(&store, early);
        for n in 0..100 {
            store.append("other", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
        }
        store.retain(&Retention::new().max_bytes(0)).unwrap();
        assert_eq!(storage.files().iter().filter(|name| name.ends_with(".base")).count(), 1);
        store.close().unwrap();
        store = open();
        assert!(store.recovery().clean && store.recovery().damage.is_empty(), "{}", store.recovery());
        assert_eq!(store.recovery().log_start, store.log_start());
    }
    let (_, kind) = read(store.read(Position::START));
    assert_eq!(kind, Some(ErrorKind::Truncated { first: store.log_start() }));
}

#[test]
fn many_streams_keep_their_versions_through_several_retentions() {
    let storage = MemoryStorage::new();
    let store = Options::new().segment_size(64 << 10).open_memory(&storage).unwrap();
    for round in 0..4u64 {
        for batch in 0..30 {
            let events = (0..100).map(|n| (format!("{}-{n}", batch * (round + 1)), Event::raw("t", "")));
            let batch = events.fold(Batch::new(), |batch, (stream, event)| batch.event(stream, event));
            store.append_batch(batch).unwrap();
        }
        store.retain(&Retention::new().max_bytes(0)).unwrap();
    }
    // The stream of a number has an event for each round in which some batch times the round's factor is the number.
    for number in 0..117u64 {
        let times = (1..=4).filter(|factor| number.is_multiple_of(*factor) && number / factor < 30).count();
        let times = if number == 0 { 4 } else { u64::try_from(times).unwrap() };
        let stream = format!("{number}-50");
        let done = store.append(&stream, Version::new(times), [Event::raw("t", "")]).unwrap();
        assert_eq!(done.version, Version::new(times + 1), "{stream}");
    }
    assert!(store.log_start() > at(11_000));
}

#[test]
fn a_guard_on_a_query_looks_at_what_is_left_and_ids_that_are_gone_are_new() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    let id = Uuid::new_v4();
    let first = || Event::raw("first", "").id(id);
    store.append("s", Expected::Any, [first()]).unwrap();
    fill(&store);
    let guard = || Guard::no_event(Query::all().types(["first"]), Position::START);
    let guarded = || Batch::new().event("s", Event::raw("t", "")).guard(guard());
    assert!(matches!(store.append_batch(guarded()), Err(AppendError::Conflict(_))));
    assert!(store.append("s", Expected::Any, [first()]).unwrap().repeated);
    store.retain(&Retention::new().before(at(100))).unwrap();
    store.append_batch(guarded()).unwrap();
    let again = store.append("s", Expected::Any, [first()]).unwrap();
    assert_eq!((again.repeated, again.version), (false, Version::new(3)));
}

#[test]
fn an_open_cursor_keeps_what_it_has_not_read() {
    let (_, store) = filled();
    let all = Retention::new().max_bytes(0);
    let kept_at = |position: u64| {
        let retained = store.retain(&all).unwrap();
        assert!(retained.first <= at(position.max(1)), "{retained:?}");
        assert_eq!(retained.kept_by, Some(KeptBy::Cursor { position: at(position) }));
    };
    let mut forward = store.read(Position::START);
    kept_at(1);
    forward.by_ref().take(4).for_each(|event| drop(event.unwrap()));
    kept_at(5);
    let mut tagged = store.read_query(&Query::all().tags(["of:even"]), Position::START);
    assert_eq!(tagged.next().unwrap().unwrap().position(), at(6));
    drop(forward);
    kept_at(8);
    drop(tagged);
    for cursor in [
        store.read_backward(Position::END),
        store.read_stream("odd", Version::NONE),
        store.read_stream_backward("odd", Version::END),
        store.read_query_backward(&Query::all().tags(["of:odd"]), Position::END),
    ] {
        kept_at(1);
        let (positions, error) = read(cursor);
        assert_eq!(error, None);
        assert!(positions.len() > 100);
    }
    let mut stream = store.read_stream("odd", Version::NONE);
    stream.by_ref().take(60).for_each(|event| drop(event.unwrap()));
    kept_at(127);
    assert!(store.log_start() > at(60));
    let last = stream.last().unwrap().unwrap();
    assert_eq!(last.position().get(), EVENTS - 1);
    let limited = store.read(store.log_start()).limit(1);
    assert_eq!(read(limited).0.len(), 1);
    let mut ended = store.read(Position::START);
    assert!(ended.next().unwrap().is_err());
    assert_eq!(store.retain(&all).unwrap().kept_by, None);
}

#[test]
fn a_subscription_goes_on_while_the_log_is_dropped_behind_it() {
    let (_, store) = filled();
    let mut all = store.subscribe(Position::START);
    let mut odd = store.subscribe_stream("odd", Version::NONE);
    let mut none = store.subscribe_query(&Query::all().types(["never"]), Position::START);
    for n in 1..=EVENTS {
        assert_eq!(all.next().unwrap().unwrap().position(), at(n));
        store.retain(&Retention::new().max_bytes(0)).unwrap();
    }
    assert_eq!(store.log_start(), at(1));
    for _ in 0..(EVENTS - 6) / 2 {
        odd.next().unwrap().unwrap();
    }
    assert!(none.next_timeout(Duration::from_millis(1)).is_none());
    assert!(odd.next_timeout(Duration::from_millis(1)).is_none());
    for n in 1..=EVENTS {
        store.append("odd", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
        assert_eq!(all.next().unwrap().unwrap().position(), at(EVENTS + n));
        assert_eq!(odd.next().unwrap().unwrap().position(), at(EVENTS + n));
        assert!(none.next_timeout(Duration::ZERO).is_none());
        assert_eq!(store.retain(&Retention::new().max_bytes(0)).unwrap().kept_by, None);
    }
    assert!(store.log_start() > at(2 * EVENTS - 100));
}

struct Count;

impl Projection for Count {
    const NAME: &'static str = "count";
    const GENERATION: u32 = 1;
    type Key = ();
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<(), u64>) -> Result<(), ApplyError> {
        if event.payload() == b"stop" {
            return Err(ApplyError::new("told to"));
        }
        view.update((), |count| Some(count.unwrap_or(0) + 1))
    }
}

struct CountLeft;

impl Projection for CountLeft {
    const NAME: &'static str = "count-left";
    const GENERATION: u32 = 1;
    const FROM_LOG_START: bool = true;
    type Key = ();
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<(), u64>) -> Result<(), ApplyError> {
        Count.apply(event, view)
    }
}

const WAIT: Duration = Duration::from_secs(30);

#[test]
fn a_view_keeps_what_it_has_not_durably_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    fill(&store);
    store.append("odd", Expected::Any, [Event::raw("t", "stop")]).unwrap();
    for n in 0..200 {
        store.append("odd", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
    let view = store.project(Count).unwrap();
    assert_eq!(
        view.wait_for(at(EVENTS + 1), WAIT).unwrap_err().kind(),
        ErrorKind::Stopped { position: at(EVENTS + 1) }
    );
    let all = Retention::new().max_bytes(0);
    let retained = store.retain(&all).unwrap();
    let by_count = KeptBy::View { name: "count".into(), checkpoint: at(EVENTS) };
    assert_eq!((retained.first <= at(EVENTS), &retained.kept_by), (true, &Some(by_count)), "{retained:?}");
    assert!(retained.segments > 0);
    assert_eq!(view.get(&()).unwrap(), Some(EVENTS));
    store.close().unwrap();

    let store = small().open(dir.path()).unwrap();
    let unregistered = store.retain(&all).unwrap();
    assert_eq!(unregistered.kept_by, Some(KeptBy::UnregisteredView { name: "count".into() }));
    assert_eq!(unregistered.segments, 0);
    // What was found on disk is held against the log, and goes on from where it was.
    let view = store.project(Count).unwrap();
    assert!(view.wait_for(at(EVENTS + 1), WAIT).is_err());
    assert_eq!((view.get(&()).unwrap(), view.status().rebuilt_because), (Some(EVENTS), None));
    let without = store.retain(&all.without_view("count")).unwrap();
    assert_eq!(without.kept_by, None);
    assert!(without.first > at(EVENTS + 1));
    let again = store.project(Count).unwrap();
    assert!(again.wait_for(store.watermark(), WAIT).is_err());
    let state = again.status().state;
    let ProjectionState::Stopped { position, cause } = state else { panic!("{state}") };
    assert_eq!((position, cause.kind()), (at(EVENTS + 1), ErrorKind::Truncated { first: without.first }));
}

#[test]
fn a_view_that_is_up_to_date_keeps_nothing_more_than_the_segment_of_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Count).unwrap();
    for _ in 0..3 {
        fill(&store);
        view.wait_for(store.watermark(), WAIT).unwrap();
        let retained = store.retain(&Retention::new().max_bytes(0)).unwrap();
        assert!(retained.segments > 3, "{retained:?}");
        assert!(retained.first.get() > store.watermark().get() - 100, "{retained:?}");
    }
    assert_eq!(view.get(&()).unwrap(), Some(3 * EVENTS));
    store.close().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project(Count).unwrap();
    assert_eq!((view.get(&()).unwrap(), view.status().rebuilt_because), (Some(3 * EVENTS), None));
}

#[test]
fn a_projection_that_needs_the_log_from_its_start_stops_and_one_that_does_not_is_folded_from_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    fill(&store);
    let first = store.retain(&Retention::new().before(at(200))).unwrap().first;
    let stopped = store.project(Count).unwrap().wait_for(store.watermark(), WAIT).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Stopped { position: at(1) });
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(left.get(&()).unwrap(), Some(EVENTS + 1 - first.get()));
    fill(&store);
    left.wait_for(store.watermark(), WAIT).unwrap();
    store.close().unwrap();
    // A view that what it is at was dropped without is folded anew.
    let store = small().open(dir.path()).unwrap();
    fill(&store);
    let policy = Retention::new().max_bytes(0).without_view("count").without_view("count-left");
    let first = store.retain(&policy).unwrap().first;
    assert!(first > at(2 * EVENTS));
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(left.get(&()).unwrap(), Some(3 * EVENTS + 1 - first.get()));
    let why = left.status().rebuilt_because.unwrap();
    assert!(why.contains(&format!("the log starts at {first}")), "{why}");
}

#[test]
fn a_view_in_memory_keeps_the_log_that_it_is_folded_from_at_each_opening() {
    let (storage, store) = filled();
    store.project(Count).unwrap().wait_for(store.watermark(), WAIT).unwrap();
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    let all = Retention::new().max_bytes(0);
    let kept_by = store.retain(&all).unwrap().kept_by;
    assert_eq!(kept_by, Some(KeptBy::View { name: "count".into(), checkpoint: Position::START }));
    let retained = store.retain(&all.without_view("count")).unwrap();
    assert!(retained.segments > 0, "{retained:?}");
    drop((left, store));
    let store = small().open_memory(&storage).unwrap();
    let left = store.project(CountLeft).unwrap();
    left.wait_for(store.watermark(), WAIT).unwrap();
    assert_eq!(left.get(&()).unwrap(), Some(EVENTS + 1 - retained.first.get()));
}

#[test]
fn a_store_opened_read_only_knows_where_the_log_starts() {
    let (storage, store) = filled();
    let first = store.retain(&Retention::new().before(at(200))).unwrap().first;
    let reader = small().read_only(true).open_memory(&storage).unwrap();
    assert_eq!((reader.log_start(), reader.recovery().damage.len()), (first, 0));
    assert_eq!(read(reader.read(first.previous())), (from_to(first.get(), EVENTS), None));
    assert_eq!(read(reader.read_stream("early", Version::NONE)).1, Some(ErrorKind::Truncated { first }));
}

#[test]
fn damage_in_an_old_segment_keeps_it_as_it_hides_versions() {
    let (storage, store) = filled();
    store.close().unwrap();
    let name = storage.files().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    storage.flip_bit(&name, 4096 + 200, 0).unwrap();
    for index in storage.files().iter().filter(|name| name.ends_with(".idx") || name.ends_with(".keys")) {
        storage.delete(index).unwrap();
    }
    let store = small().open_memory(&storage).unwrap();
    let retained = store.retain(&Retention::new().max_bytes(0)).unwrap();
    assert_eq!((retained.segments, retained.kept_by), (0, Some(KeptBy::Damage { file: name })));
}

#[test]
fn a_damaged_index_is_made_anew_before_its_segment_goes() {
    let (storage, store) = filled();
    store.close().unwrap();
    for index in storage.files().iter().filter(|name| name.ends_with(".idx")) {
        let last = u64::try_from(storage.file(index).unwrap().len()).unwrap() - 1;
        for page in (4096..last).step_by(4096) {
            storage.flip_bit(index, page + 9, 3).unwrap();
        }
    }
    let store = small().open_memory(&storage).unwrap();
    let retained = store.retain(&Retention::new().max_bytes(0)).unwrap();
    assert!(retained.segments > 3);
    check_versions(&store, 5);
}

/// A closed store whose log is truncated; the name of its base.
fn truncated() -> (MemoryStorage, String) {
    let (storage, store) = filled();
    store.retain(&Retention::new().before(at(200))).unwrap();
    store.close().unwrap();
    let base = storage.files().into_iter().find(|name| name.ends_with(".base")).unwrap();
    (storage, base)
}

#[test]
fn without_the_base_streams_of_which_nothing_is_left_take_no_appends() {
    for lose in [
        |storage: &MemoryStorage, base: &str| storage.delete(base).unwrap(),
        |storage: &MemoryStorage, base: &str| storage.flip_bit(base, 40, 0).unwrap(),
        |storage: &MemoryStorage, base: &str| storage.truncate(base, 4096).unwrap(),
    ] {
        let (storage, base) = truncated();
        lose(&storage, &base);
        let store = small().open_memory(&storage).unwrap();
        let damage = &store.recovery().damage;
        assert_eq!((damage.len(), &damage[0].file, damage[0].damage), (1, &base, Damage::VersionsLost));
        for stream in ["early", "new"] {
            let refused = store.append(stream, Expected::Any, [Event::raw("t", "")]).unwrap_err();
            let AppendError::Failed(error) = refused else { panic!("{refused}") };
            assert_eq!((error.kind(), &error.corruption().unwrap().file), (ErrorKind::Corrupt, &base));
        }
        store.append("odd", Version::new(EVENTS / 2 - 3), [Event::raw("t", "")]).unwrap();
        let failed = store.retain(&Retention::new().max_bytes(0)).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Corrupt);
        let first = store.log_start();
        assert_eq!(
            read(store.read(first.previous())).0.len(),
            usize::try_from(EVENTS + 2 - first.get()).unwrap()
        );
        assert_eq!(read(store.read_stream("odd", Version::NONE)), (vec![], Some(ErrorKind::Corrupt)));
    }
}

#[test]
fn a_damaged_page_of_the_base_is_met_when_it_is_needed() {
    let (storage, base) = truncated();
    let pages = u64::try_from(storage.file(&base).unwrap().len()).unwrap() / 4096;
    for page in 1..pages {
        storage.flip_bit(&base, page * 4096 + 77, 1).unwrap();
    }
    let store = small().open_memory(&storage).unwrap();
    let refused = store.append("early", Expected::Any, [Event::raw("t", "")]).unwrap_err();
    let AppendError::Failed(error) = refused else { panic!("{refused}") };
    let corruption = error.corruption().unwrap();
    assert_eq!((&corruption.file, corruption.damage), (&base, Damage::VersionsLost));
    assert!(corruption.offset >= 4096);
}

#[test]
fn the_log_is_truncated_although_its_mark_is_lost() {
    for lose in [
        |storage: &MemoryStorage| storage.delete("MARK").unwrap(),
        |storage: &MemoryStorage| storage.overwrite("MARK", 0, &[9; 8192]).unwrap(),
    ] {
        let (storage, base) = truncated();
        lose(&storage);
        let reader = small().read_only(true).open_memory(&storage).unwrap();
        let store = small().open_memory(&storage).unwrap();
        assert!(store.log_start() > at(100));
        assert_eq!(reader.log_start(), store.log_start());
        check_versions(&store, 5);
        assert!(storage.files().contains(&base));
        drop(store);
        lose(&storage);
        storage.delete(&base).unwrap();
        let refused = small().open_memory(&storage).unwrap_err();
        assert_eq!(refused.corruption().unwrap().damage, Damage::SegmentMissing);
    }
}

#[test]
fn one_damaged_slot_of_the_mark_does_not_bring_back_what_was_dropped() {
    for slot in [0, 4096] {
        let (storage, _) = truncated();
        storage.overwrite("MARK", slot, &[9; 4096]).unwrap();
        let store = small().open_memory(&storage).unwrap();
        assert!(store.log_start() > at(100) && store.recovery().damage.is_empty());
    }
}

#[test]
fn a_segment_that_is_missing_is_not_taken_for_one_that_was_dropped() {
    let (storage, _) = truncated();
    let segments: Vec<String> = storage.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    for name in &segments {
        let copy = storage.crash(u64::MAX);
        copy.delete(name).unwrap();
        let damage = small().open_memory(&copy).unwrap_err().corruption().unwrap().damage;
        assert_eq!(damage, Damage::SegmentMissing, "{name}");
    }
}
