//! Retention: what it drops, and what is told of what was dropped.

use std::time::Duration;

use everfold::{
    AppendError, Batch, Cursor, Damage, ErrorKind, Event, Expected, Guard, KeptBy, MemoryStorage, Options,
    Position, Query, Retention, Store, Uuid, Version,
};

use crate::ledger::small;

pub(crate) const EVENTS: u64 = 400;

/// A store of many small segments: `early` has the first five events, `even` and `odd` share the others by turns.
pub(crate) fn fill(store: &Store) {
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

pub(crate) fn filled() -> (MemoryStorage, Store) {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    fill(&store);
    (storage, store)
}

pub(crate) fn at(position: u64) -> Position {
    Position::new(position)
}

/// Positions read, and the kind of the error at the end if there was one.
pub(crate) fn read(cursor: Cursor) -> (Vec<u64>, Option<ErrorKind>) {
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
        let (storage, store) = filled();
        store.retain(&Retention::new().before(at(200))).unwrap();
        let storage = storage.crash(u64::MAX);
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
