//! Cursors over the log and over streams, and what they give back of an event.

use everfold::{
    Batch, Cursor, Encoding, Error, ErrorKind, Event, Expected, MIN_SEGMENT_BYTES, MemoryStorage, Options,
    Position, Query, RecordedEvent, Store, Uuid, Version,
};
use serde::{Deserialize, Serialize};

/// The streams `a`, `b` and `c` take turns, in batches of `1 + n % 4` events, over many segments.
const STREAMS: [&str; 3] = ["a", "b", "c"];
const EVENTS: u64 = 300;

fn fill(store: &Store) {
    let mut next = 0;
    while next < EVENTS {
        let end = EVENTS.min(next + 1 + next % 4);
        let batch = (next..end).fold(Batch::new(), |batch, n| {
            let stream = STREAMS[usize::try_from(n % 3).unwrap()];
            batch.event(stream, Event::raw("t", format!("event {n}")).tag(format!("n:{n}")))
        });
        store.append_batch(batch).unwrap();
        next = end;
    }
}

fn filled() -> Store {
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open_memory(&MemoryStorage::new()).unwrap();
    fill(&store);
    store
}

fn positions(cursor: Cursor) -> Vec<u64> {
    cursor.map(|event| event.unwrap().position().get()).collect()
}

fn versions(cursor: Cursor) -> Vec<u64> {
    cursor.map(|event| event.unwrap().version().get()).collect()
}

fn up(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

fn down(from: u64, to: u64) -> Vec<u64> {
    (to..=from).rev().collect()
}

/// All there is to an event.
fn whole(event: &RecordedEvent) -> (String, Vec<u8>, Vec<String>, u64) {
    let tags = event.tags().map(str::to_owned).collect();
    (format!("{event:?}"), event.payload().to_vec(), tags, event.recorded_at_ns())
}

#[test]
fn an_event_that_is_lent_is_the_one_that_would_be_given() {
    for mapped in [true, false] {
        let options = Options::new().segment_size(MIN_SEGMENT_BYTES).map_segments(mapped);
        let store = options.open_memory(&MemoryStorage::new()).unwrap();
        fill(&store);
        let query = Query::all().tags(["n:7"]).or(Query::all().stream("b"));
        let reads: [&dyn Fn() -> Cursor; 8] = [
            &|| store.read(Position::START),
            &|| store.read(Position::new(7)).limit(50),
            &|| store.read_backward(Position::END),
            &|| store.read_stream("a", Version::NONE),
            &|| store.read_stream_backward("a", Version::new(40)),
            &|| store.read_query(&query, Position::new(3)),
            &|| store.read_query_backward(&query, Position::END).limit(9),
            &|| store.read(Position::END),
        ];
        for read in reads {
            let given: Vec<_> = read().map(|event| whole(&event.unwrap())).collect();
            let (mut lending, mut lent, mut owned) = (read(), Vec::new(), Vec::new());
            while let Some(event) = lending.lend() {
                let event = event.unwrap();
                lent.push(whole(event));
                owned.push(event.clone());
            }
            assert_eq!(lent, given);
            assert!(owned.iter().map(whole).eq(given), "a clone is the event as long as it is kept");
        }
        let mut one_by_one = store.read(Position::START);
        let turns = (1..=EVENTS).map(|n| match n % 2 {
            0 => one_by_one.next().unwrap().unwrap().position().get(),
            _ => one_by_one.lend().unwrap().unwrap().position().get(),
        });
        assert!(turns.eq(up(1, EVENTS)));
        let mut closed = store.read(Position::START);
        store.close().unwrap();
        while let Some(Ok(_)) = closed.lend() {}
        assert!(closed.lend().is_none());
        let mut refused = store.read(Position::START);
        assert_eq!(refused.lend().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(refused.lend().is_none());
    }
}

#[test]
fn the_log_is_read_after_a_position_or_before_one() {
    let store = filled();
    let (forward, backward) = (|n| positions(store.read(n)), |n| positions(store.read_backward(n)));
    assert_eq!(forward(Position::START), up(1, EVENTS));
    assert_eq!(backward(Position::END), down(EVENTS, 1));
    for at in [1, 2, 3, 57, 150, EVENTS - 1, EVENTS, EVENTS + 1] {
        assert_eq!(forward(Position::new(at)), up(at + 1, EVENTS));
        assert_eq!(backward(Position::new(at)), down(at.min(EVENTS + 1) - 1, 1));
    }
    assert!(forward(Position::END).is_empty() && backward(Position::START).is_empty());
    assert!(forward(Position::new(u64::MAX - 1)).is_empty());
}

#[test]
fn a_stream_is_read_after_a_version_or_before_one() {
    let store = filled();
    let each = EVENTS / 3;
    for stream in STREAMS {
        let forward = |n| versions(store.read_stream(stream, n));
        let backward = |n| versions(store.read_stream_backward(stream, n));
        assert_eq!(forward(Version::NONE), up(1, each));
        assert_eq!(backward(Version::END), down(each, 1));
        for at in [1, 2, 50, each - 1, each, each + 1] {
            assert_eq!(forward(Version::new(at)), up(at + 1, each));
            assert_eq!(backward(Version::new(at)), down(at - 1, 1));
        }
        assert!(forward(Version::END).is_empty() && backward(Version::NONE).is_empty());
    }
    let of_b = store.read_stream("b", Version::NONE).map(Result::unwrap);
    assert!(
        of_b.map(|e| (e.stream().to_owned(), e.position().get()))
            .eq((0..each).map(|n| ("b".into(), 3 * n + 2)))
    );
}

#[test]
fn a_long_stream_is_read_whole_from_either_end() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    for _ in 0..13 {
        let events: Vec<_> = (0..100).map(|_| Event::raw("t", "")).collect();
        store.append("long", Expected::Any, events).unwrap();
    }
    assert_eq!(versions(store.read_stream("long", Version::NONE)), up(1, 1300));
    assert_eq!(versions(store.read_stream_backward("long", Version::END)), down(1300, 1));
    assert_eq!(versions(store.read_stream("long", Version::new(700))), up(701, 1300));
}

#[test]
fn a_limit_ends_a_cursor_early() {
    let store = filled();
    let (after, until) = (Position::new(100), Position::new(201));
    assert_eq!(positions(store.read(after).limit(20)), up(101, 120));
    assert_eq!(positions(store.read_backward(until).limit(20)), down(200, 181));
    assert_eq!(versions(store.read_stream("a", Version::new(10)).limit(5)), up(11, 15));
    assert_eq!(versions(store.read_stream_backward("a", Version::new(10)).limit(5)), down(9, 5));
    assert!(positions(store.read(Position::START).limit(0)).is_empty());
    assert_eq!(positions(store.read(Position::new(EVENTS - 3)).limit(u64::MAX)).len(), 3);
}

#[test]
fn a_stream_without_events_and_a_log_without_events_read_as_empty() {
    let empty = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    for store in [&empty, &filled()] {
        assert_eq!(store.read_stream("nobody", Version::NONE).count(), 0);
        assert_eq!(store.read_stream_backward("nobody", Version::END).count(), 0);
        assert_eq!(store.read_stream("", Version::NONE).count(), 0);
        assert_eq!(store.read_stream(&"long".repeat(1000), Version::NONE).count(), 0);
    }
    assert_eq!(empty.read(Position::START).count() + empty.read_backward(Position::END).count(), 0);
    assert_eq!(empty.watermark(), Position::START);
}

#[test]
fn a_cursor_is_a_snapshot_that_later_appends_do_not_change() {
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open_memory(&MemoryStorage::new()).unwrap();
    let empty = [store.read(Position::START), store.read_stream("a", Version::NONE)];
    fill(&store);
    let made_before = [store.read(Position::START), store.read_backward(Position::END)];
    let streams_before =
        [store.read_stream("a", Version::NONE), store.read_stream_backward("a", Version::END)];
    let mut begun = store.read(Position::START);
    assert_eq!(begun.by_ref().take(10).count(), 10);
    fill(&store);
    empty.into_iter().for_each(|cursor| assert_eq!(cursor.count(), 0));
    let [forward, backward] = made_before.map(positions);
    assert_eq!((forward, backward), (up(1, EVENTS), down(EVENTS, 1)));
    let [forward, backward] = streams_before.map(versions);
    assert_eq!((forward, backward), (up(1, EVENTS / 3), down(EVENTS / 3, 1)));
    assert_eq!(positions(begun), up(11, EVENTS));
    assert_eq!(positions(store.read(Position::START)), up(1, 2 * EVENTS));
}

#[test]
fn a_cursor_that_has_ended_stays_ended_and_goes_to_another_thread() {
    let store = filled();
    let mut cursor = store.read(Position::new(EVENTS - 2));
    assert_eq!(cursor.by_ref().count(), 2);
    fill(&store);
    assert!(cursor.next().is_none());
    let cursor = store.read(Position::START);
    assert_eq!(std::thread::spawn(move || cursor.count()).join().unwrap(), 600);
}

/// All that can be seen of an event.
fn seen(event: Result<RecordedEvent, Error>) -> (u64, String, u64, Uuid, u64, Vec<u8>, Vec<String>) {
    let e = event.unwrap();
    let tags = e.tags().map(str::to_owned).collect();
    let place = (e.position().get(), e.stream().to_owned(), e.version().get());
    (place.0, place.1, place.2, e.event_id(), e.recorded_at_ns(), e.payload().to_vec(), tags)
}

#[test]
fn mapped_and_unmapped_segments_give_the_same_events() {
    let dir = tempfile::tempdir().unwrap();
    fill(&Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir.path()).unwrap());
    let read = |map| {
        let store = Options::new().map_segments(map).open(dir.path()).unwrap();
        assert!(store.recovery().segments > 3);
        let cursors = [
            store.read(Position::START),
            store.read_backward(Position::END),
            store.read_stream("a", Version::NONE),
            store.read_stream_backward("b", Version::END),
        ];
        cursors.map(|cursor| cursor.map(seen).collect::<Vec<_>>())
    };
    let mapped = read(true);
    assert_eq!(mapped[0].len(), 300);
    assert_eq!(mapped, read(false));
    assert!(mapped[1].iter().rev().eq(&mapped[0]));
}

#[test]
fn events_outlive_the_store_they_were_read_from() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir.path()).unwrap();
    fill(&store);
    let events: Vec<_> = store.read(Position::START).map(Result::unwrap).collect();
    store.close().unwrap();
    drop(store);
    let texts = events.iter().map(|event| String::from_utf8(event.payload().to_vec()).unwrap());
    assert!(texts.eq((0..EVENTS).map(|n| format!("event {n}"))));
}

/// Appends events in a batch, reopens the store, and returns them as recorded.
fn recorded(events: Vec<Event>) -> Vec<RecordedEvent> {
    let storage = MemoryStorage::new();
    let store = Options::new().open_memory(&storage).unwrap();
    store.append("s", Expected::NoStream, events).unwrap();
    store.close().unwrap();
    let store = Options::new().open_memory(&storage).unwrap();
    store.read(Position::START).map(Result::unwrap).collect()
}

#[test]
fn absent_metadata_is_not_empty_metadata_and_empty_payloads_are_kept() {
    let event = || Event::raw("t", "");
    let found =
        recorded(vec![event(), event().metadata(""), event().metadata("who"), Event::raw("t", [0, 0])]);
    let metadata: Vec<Option<&[u8]>> = found.iter().map(RecordedEvent::metadata).collect();
    assert_eq!(metadata, [None, Some(&b""[..]), Some(b"who"), None]);
    let payloads: Vec<&[u8]> = found.iter().map(RecordedEvent::payload).collect();
    assert_eq!(payloads, [&b""[..], b"", b"", &[0, 0]]);
}

#[test]
fn tags_come_back_byte_by_byte_in_their_order() {
    let tags = ["b", "a", "customer:Jörg", "a", " ", "\u{0}", "a\nb"];
    let tagged = tags.iter().fold(Event::raw("t", "x"), |event, tag| event.tag(*tag));
    let found = recorded(vec![tagged.clone(), Event::raw("t", "x")]);
    assert!(found[0].tags().eq(tags) && tagged.tags().eq(tags));
    assert_eq!(found[1].tags().count(), 0);
}

#[test]
fn an_event_comes_back_as_it_was_given_with_its_id_and_a_time() {
    let id = Uuid::from_u128(0x1234);
    let before = std::time::SystemTime::now();
    let given = Event::raw("sold/🎩", vec![0xff, 0x00]).id(id).metadata("m").tag("x");
    let other = Event::raw("t", "");
    assert_ne!(other.event_id(), Event::raw("t", "").event_id());
    let found = recorded(vec![given.clone(), other.clone()]);
    assert_eq!((found[0].event_id(), found[1].event_id()), (id, other.event_id()));
    assert_eq!((found[0].event_type(), found[0].stream()), ("sold/🎩", "s"));
    assert_eq!((given.event_type(), given.event_id(), given.encoding()), ("sold/🎩", id, Encoding::Raw));
    assert_eq!((found[0].payload(), found[0].metadata()), (given.payload(), given.metadata_bytes()));
    assert!(found[0].recorded_at() >= before, "one clock, read in this order");
    assert_eq!(found[0].recorded_at(), found[1].recorded_at(), "time is per batch");
    let printed = format!("{:?}", found[0]);
    assert!(printed.contains("sold/") && printed.contains("position: 1"), "{printed}");
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Sold<'a> {
    item: &'a str,
    quantity: u32,
    #[serde(with = "serde_bytes_by_hand")]
    photo: &'a [u8],
}

/// Bytes as serde's own bytes, which bincode lends and JSON has no form for.
mod serde_bytes_by_hand {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &&[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<&'a [u8], D::Error> {
        <&[u8]>::deserialize(from)
    }
}

#[test]
fn json_and_bincode_payloads_decode_as_what_they_were_also_borrowed() {
    let sold = Sold { item: "hats", quantity: 2, photo: &[1, 2, 3] };
    let found = recorded(vec![
        Event::bincode("sold", &sold).unwrap(),
        Event::json("sold", &("hats", 2)).unwrap(),
        Event::json("sold", "plain").unwrap(),
        Event::bincode("sold", &()).unwrap(),
    ]);
    let encodings: Vec<_> = found.iter().map(|event| event.encoding().name()).collect();
    assert_eq!(encodings, ["bincode", "json", "json", "bincode"]);
    let borrowed: Sold<'_> = found[0].decode().unwrap();
    assert_eq!(borrowed, sold);
    assert!(found[0].payload().as_ptr_range().contains(&borrowed.item.as_ptr()), "lent, not copied");
    assert_eq!(found[1].decode::<(&str, u32)>().unwrap(), ("hats", 2));
    assert_eq!(found[1].payload(), br#"["hats",2]"#);
    assert_eq!(found[2].decode::<String>().unwrap(), "plain");
    found[3].decode::<()>().unwrap();
    assert!(found[3].payload().is_empty());
}

#[test]
fn a_payload_that_is_not_the_expected_value_is_a_codec_error_that_names_the_position() {
    let found = recorded(vec![
        Event::raw("a raw one", "[1]"),
        Event::json("a json one", &[1]).unwrap(),
        Event::bincode("a bincode one", &1u32).unwrap(),
    ]);
    let errors = [
        found[0].decode::<Vec<u8>>().unwrap_err(),
        found[1].decode::<String>().unwrap_err(),
        found[2].decode::<(u32, u32)>().unwrap_err(),
        found[2].decode::<u16>().unwrap_err(),
    ];
    for (error, (position, event_type)) in
        errors.iter().zip([(1, "a raw one"), (2, "a json one"), (3, "a bincode one"), (3, "a bincode one")])
    {
        assert_eq!(error.kind(), ErrorKind::Codec);
        let text = error.to_string();
        assert!(text.contains(&format!("position {position}")) && text.contains(event_type), "{text}");
    }
    assert!(std::error::Error::source(&errors[1]).is_some());
    let refused = Event::json("t", &std::collections::BTreeMap::from([((1, 2), 3)])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Codec);
}

#[test]
fn a_decoded_value_borrows_from_the_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let events = [Event::json("t", "hats").unwrap(), Event::bincode("t", "hats").unwrap()];
    store.append("s", Expected::NoStream, events).unwrap();
    for event in store.read(Position::START) {
        let event = event.unwrap();
        let value: &str = event.decode().unwrap();
        assert_eq!(value, "hats");
        assert!(event.payload().as_ptr_range().contains(&value.as_ptr()));
    }
}
