//! What an append records, what it refuses, and that a refusal writes nothing.

use everfold::{
    AppendError, Appended, Batch, Error, ErrorKind, Event, Expected, Guard, MAX_EVENT_BYTES, MAX_NAME_BYTES,
    MAX_TAGS, MIN_SEGMENT_BYTES, MemoryStorage, Options, Position, Store, Uuid, Version,
};

const FIRST_SEGMENT: &str = "log/00000000000000000001.seg";

/// A store in memory, and the bytes of its log.
struct Bench {
    storage: MemoryStorage,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        Self::with(&Options::new().segment_size(64 << 10))
    }

    fn with(options: &Options) -> Self {
        let storage = MemoryStorage::new();
        let store = options.open_memory(&storage).unwrap();
        Bench { storage, store }
    }

    fn log(&self) -> Vec<u8> {
        self.storage.file(FIRST_SEGMENT).unwrap()
    }

    /// Makes an append that must be refused, and checks that it left no trace.
    fn refused(&self, batch: Batch) -> AppendError {
        let before = (self.log(), self.storage.files(), self.store.watermark());
        let error = self.store.append_batch(batch).unwrap_err();
        assert_eq!(self.store.sync().unwrap(), before.2);
        assert!(
            before == (self.log(), self.storage.files(), self.store.watermark()),
            "{error}: left a trace"
        );
        error
    }

    fn failed(&self, batch: Batch) -> Error {
        match self.refused(batch) {
            AppendError::Failed(error) => error,
            other => panic!("{other} should be a failure, not a conflict"),
        }
    }

    fn conflicts(&self, batch: Batch, stream: &str, expected: Expected, actual: u64) {
        let error = self.refused(batch);
        let conflict = error.conflict().unwrap_or_else(|| panic!("{error} should be a conflict"));
        assert_eq!(conflict.guard, Guard::version(stream, expected));
        assert_eq!(conflict.actual, Some(Version::new(actual)));
    }
}

fn event() -> Event {
    Event::raw("t", "x")
}

fn one(stream: &str) -> Batch {
    Batch::new().event(stream, event())
}

fn texts(store: &Store) -> Vec<String> {
    store.read(Position::START).map(|e| String::from_utf8(e.unwrap().payload().to_vec()).unwrap()).collect()
}

fn places(done: Appended) -> (u64, u64, u64) {
    (done.first.get(), done.position.get(), done.version.get())
}

#[test]
fn what_was_appended_is_read_again_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    for n in 0..10 {
        let done =
            store.append("s", Expected::Exact(Version::new(n)), [Event::raw("t", n.to_string())]).unwrap();
        assert_eq!(done.position.get(), n + 1);
    }
    let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(texts(&store), expected);
    store.close().unwrap();
    let store = Options::new().create(false).open(&path).unwrap();
    assert!(store.recovery().clean, "{}", store.recovery());
    assert_eq!(texts(&store), expected);
}

#[test]
fn small_segments_roll_and_are_read_across() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(8192);
    let store = options.open(dir.path()).unwrap();
    for n in 0..500 {
        store.append(&format!("s{}", n % 7), Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(texts(&store), expected);
    let back: Vec<u64> = store.read_backward(Position::END).map(|e| e.unwrap().position().get()).collect();
    assert_eq!(back, (1..=500).rev().collect::<Vec<_>>());
    drop(store);
    let store = options.open(dir.path()).unwrap();
    assert!(store.recovery().segments > 10);
    assert_eq!(texts(&store), expected);
    let s3: Vec<u64> = store.read_stream("s3", Version::NONE).map(|e| e.unwrap().version().get()).collect();
    assert_eq!(s3, (1..=71).collect::<Vec<_>>());
}

#[test]
fn an_append_tells_the_positions_and_the_version_of_its_events() {
    let bench = Bench::new();
    let done = bench.store.append("a", Expected::Any, [event(), event(), event()]).unwrap();
    assert_eq!((places(done), done.repeated), ((1, 3, 3), false));
    let done = bench.store.append("b", Expected::Any, [event()]).unwrap();
    assert_eq!(places(done), (4, 4, 1));
    let batch = Batch::new().event("b", event()).event("a", event()).event("b", event());
    assert_eq!(places(bench.store.append_batch(batch).unwrap()), (5, 7, 3));
    let versions = |s| bench.store.read_stream(s, Version::NONE).map(|e| e.unwrap().version().get());
    assert!(versions("a").eq([1, 2, 3, 4]) && versions("b").eq([1, 2, 3]));
}

#[test]
fn every_sort_of_expected_version_holds_or_conflicts() {
    let bench = Bench::new();
    let (first, third) = (Version::new(1), Version::new(3));
    let append = |expected: Expected| bench.store.append("s", expected, [event()]).unwrap().version;
    let refuse = |expected: Expected, actual| {
        bench.conflicts(one("s").guard(Guard::version("s", expected)), "s", expected, actual);
    };
    refuse(Expected::Exists, 0);
    refuse(Expected::Exact(first), 0);
    assert_eq!(append(Expected::NoStream), first);
    refuse(Expected::NoStream, 1);
    refuse(Expected::Exact(Version::NONE), 1);
    assert_eq!(append(first.into()).get(), 2);
    refuse(Expected::Exact(first), 2);
    refuse(Expected::Exact(third), 2);
    assert_eq!(append(Expected::Exists).get(), 3);
    assert_eq!(append(Expected::Any).get(), 4);
    refuse(Expected::Exact(Version::END), 4);
    let fresh = bench.store.append("fresh", Version::NONE, [event()]).unwrap();
    assert_eq!((fresh.position.get(), fresh.version), (5, first));
    assert_eq!(bench.store.watermark().get(), 5, "refused appends take no positions");
}

#[test]
fn one_guard_of_several_that_does_not_hold_refuses_the_whole_batch() {
    let bench = Bench::new();
    bench.store.append("paid", Expected::NoStream, [event(), event()]).unwrap();
    bench.store.append("open", Expected::NoStream, [event()]).unwrap();
    let batch = || one("a").event("b", event()).event("paid", event());
    let holds = [
        Guard::version("paid", Version::new(2)),
        Guard::version("open", Expected::Exists),
        Guard::version("a", Expected::NoStream),
        Guard::version("elsewhere", Version::NONE),
    ];
    for at in 0..=holds.len() {
        let mut guards = holds.to_vec();
        guards.insert(at, Guard::version("open", Expected::NoStream));
        let refused = guards.into_iter().fold(batch(), Batch::guard);
        bench.conflicts(refused, "open", Expected::NoStream, 1);
    }
    let done = bench.store.append_batch(holds.into_iter().fold(batch(), Batch::guard)).unwrap();
    assert_eq!(places(done), (4, 6, 3));
}

#[test]
fn guards_look_at_the_streams_as_they_are_before_the_batch() {
    let bench = Bench::new();
    let twice = one("s").event("s", event()).guard(Guard::version("s", Version::new(1)));
    bench.conflicts(twice, "s", Expected::Exact(Version::new(1)), 0);
}

#[test]
fn an_empty_batch_is_refused_before_any_guard_is_looked_at() {
    let bench = Bench::new();
    let unmet = Batch::new().guard(Guard::version("nothing", Expected::Exists));
    assert_eq!(bench.failed(unmet).kind(), ErrorKind::Invalid);
    assert_eq!(bench.failed(Batch::new()).kind(), ErrorKind::Invalid);
    let none = bench.store.append("s", Expected::NoStream, []).unwrap_err();
    assert!(none.conflict().is_none());
}

#[test]
fn names_and_tags_have_limits_that_are_checked_before_a_byte_is_written() {
    let bench = Bench::new();
    let name = |len: usize| "n".repeat(len);
    let longest = TooLong { limit: MAX_NAME_BYTES };
    longest.refuses(&bench, one(&name(MAX_NAME_BYTES + 1)));
    longest.refuses(&bench, Batch::new().event("s", Event::raw(name(MAX_NAME_BYTES + 1), "")));
    longest.refuses(&bench, Batch::new().event("s", event().tag(name(MAX_NAME_BYTES + 1))));
    let tagged = |n: usize| (0..n).fold(event(), |event, n| event.tag(format!("tag:{n}")));
    TooLong { limit: MAX_TAGS }.refuses(&bench, Batch::new().event("s", tagged(MAX_TAGS + 1)));
    let good_first = one("s").event(name(MAX_NAME_BYTES + 1), event());
    longest.refuses(&bench, good_first);
    for empty in [one(""), Batch::new().event("s", Event::raw("", "")), one("s").event("s", event().tag(""))]
    {
        assert_eq!(bench.failed(empty).kind(), ErrorKind::Invalid);
    }
    let largest = Event::raw(name(MAX_NAME_BYTES), "").tag(name(MAX_NAME_BYTES));
    let largest = Batch::new().event(name(MAX_NAME_BYTES), largest).event("s", tagged(MAX_TAGS));
    assert_eq!(places(bench.store.append_batch(largest).unwrap()), (1, 2, 1));
}

struct TooLong {
    limit: usize,
}

impl TooLong {
    fn refuses(&self, bench: &Bench, batch: Batch) {
        let limit = u64::try_from(self.limit).unwrap();
        assert_eq!(bench.failed(batch).kind(), ErrorKind::TooLarge { limit });
    }
}

#[test]
fn an_event_is_limited_whatever_its_size_is_made_of() {
    let bench = Bench::with(&Options::new().segment_size(MIN_SEGMENT_BYTES).max_batch_bytes(64 << 20));
    let large = Event::raw("t", vec![7; MAX_EVENT_BYTES - 20]);
    TooLong { limit: MAX_EVENT_BYTES }.refuses(&bench, Batch::new().event("s", large.clone()));
    let half = Event::raw("t", vec![7; MAX_EVENT_BYTES / 2]).metadata(vec![7; MAX_EVENT_BYTES / 2]);
    TooLong { limit: MAX_EVENT_BYTES }.refuses(&bench, Batch::new().event("s", half));
}

#[test]
fn a_batch_is_limited_by_the_option_and_by_the_size_of_a_segment() {
    let bench = Bench::with(&Options::new().segment_size(64 << 10).max_batch_bytes(10_000));
    let sized = |len| Batch::new().event("s", Event::raw("t", vec![7; len]));
    TooLong { limit: 10_000 }.refuses(&bench, sized(10_000));
    let many = (0..200).fold(Batch::new(), |batch, _| batch.event("s", event()));
    TooLong { limit: 10_000 }.refuses(&bench, many);
    assert_eq!(places(bench.store.append_batch(sized(9_900)).unwrap()), (1, 1, 1));

    let bench = Bench::with(&Options::new().segment_size(MIN_SEGMENT_BYTES));
    let error = bench.failed(sized(MIN_SEGMENT_BYTES.try_into().unwrap()));
    let ErrorKind::TooLarge { limit } = error.kind() else { panic!("{error}") };
    assert!(limit < MIN_SEGMENT_BYTES);
    let fits = usize::try_from(limit).unwrap() - 56;
    for n in 1..=3 {
        assert_eq!(places(bench.store.append_batch(sized(fits)).unwrap()), (n, n, n));
    }
    assert!(bench.storage.files().iter().filter(|name| name.ends_with(".seg")).count() >= 3);
}

/// A batch over two streams, and its ids.
fn transfer(ids: &[u128]) -> Batch {
    ids.iter().fold(Batch::new(), |batch, id| {
        let stream = if id % 2 == 0 { "even" } else { "odd" };
        batch.event(stream, event().id(Uuid::from_u128(*id)))
    })
}

#[test]
fn the_same_ids_again_return_the_first_positions_and_record_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES);
    let store = options.open(dir.path()).unwrap();
    store.append("odd", Expected::NoStream, [event()]).unwrap();
    let none = Guard::version("even", Expected::NoStream);
    let first = store.append_batch(transfer(&[11, 12, 14]).guard(none.clone())).unwrap();
    assert_eq!((places(first), first.repeated), ((2, 4, 2), false));
    for n in 0..100 {
        store.append("even", Version::new(n + 2), [event()]).unwrap();
    }
    let check = |store: &Store| {
        let again = store.append_batch(transfer(&[11, 12, 14]).guard(none.clone())).unwrap();
        assert_eq!((places(again), again.repeated), ((2, 4, 2), true));
        assert_eq!(store.watermark().get(), 104);
    };
    check(&store);
    store.close().unwrap();
    let store = options.open(dir.path()).unwrap();
    assert!(store.recovery().segments > 1);
    check(&store);
    let single = event().id(Uuid::from_u128(77));
    let first = store.append("odd", Version::new(2), [single.clone()]).unwrap();
    let again = store.append("odd", Version::new(2), [single]).unwrap();
    assert_eq!((again.position, again.version, again.repeated), (first.position, Version::new(3), true));
}

#[test]
fn ids_that_are_taken_in_any_other_way_are_refused() {
    let bench = Bench::new();
    bench.store.append_batch(transfer(&[1, 2, 3])).unwrap();
    bench.store.append_batch(transfer(&[4, 6])).unwrap();
    let taken_at = |batch: Batch, position| {
        assert_eq!(bench.failed(batch).kind(), ErrorKind::IdTaken { position: Position::new(position) });
    };
    taken_at(transfer(&[1, 2, 3, 9]), 1);
    taken_at(transfer(&[9, 2]), 2);
    taken_at(transfer(&[2, 1, 3]), 2);
    taken_at(transfer(&[1, 3]), 1);
    taken_at(transfer(&[3, 6]), 3);
    taken_at(Batch::new().event("elsewhere", event().id(Uuid::from_u128(4))), 4);
}

#[test]
fn an_id_twice_in_a_batch_is_invalid() {
    let bench = Bench::new();
    assert_eq!(bench.failed(transfer(&[5, 6, 5])).kind(), ErrorKind::Invalid);
    let streams = Batch::new().event("a", event().id(Uuid::nil())).event("b", event().id(Uuid::nil()));
    assert_eq!(bench.failed(streams).kind(), ErrorKind::Invalid);
    assert_eq!(places(bench.store.append_batch(transfer(&[5, 6])).unwrap()), (1, 2, 1));
}

const THREADS: u64 = 8;
const EACH: u64 = 40;

/// Appends batches of 1 to 3 events to a stream of its own and to one that all share. Returns the batches' places.
fn append_many(store: &Store, thread: u64) -> Vec<(u64, u64)> {
    let own = format!("thread-{thread}");
    (0..EACH)
        .map(|n| {
            let text = format!("{thread}/{n}");
            let batch = Batch::new().event(&own, Event::raw("t", text.clone()));
            let batch = (0..n % 3).fold(batch, |batch, _| batch.event("shared", Event::raw("t", &*text)));
            let done = store.append_batch(batch.guard(Guard::version(&own, Version::new(n)))).unwrap();
            assert!(store.watermark() >= done.position, "durable on return is readable on return");
            (done.first.get(), done.position.get())
        })
        .collect()
}

#[test]
fn many_threads_append_at_once_and_no_event_is_lost_or_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES);
    let store = options.open(dir.path()).unwrap();
    let mut batches: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let store = &store;
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || append_many(store, n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    batches.sort_unstable();
    let mut next = 1;
    for (first, last) in &batches {
        assert_eq!(*first, next, "batches follow each other without gap or overlap");
        next = last + 1;
    }
    check_threads_events(&store, &batches);
    drop(store);
    let store = options.open(dir.path()).unwrap();
    assert_eq!(store.watermark().get(), next - 1);
    check_threads_events(&store, &batches);
}

fn check_threads_events(store: &Store, batches: &[(u64, u64)]) {
    for thread in 0..THREADS {
        let own: Vec<_> =
            store.read_stream(&format!("thread-{thread}"), Version::NONE).map(Result::unwrap).collect();
        assert!(own.iter().map(|e| e.version().get()).eq(1..=EACH));
        let texts = own.iter().map(|e| e.payload().to_vec());
        assert!(texts.eq((0..EACH).map(|n| format!("{thread}/{n}").into_bytes())));
    }
    let all: Vec<_> = store.read(Position::START).map(Result::unwrap).collect();
    assert!(all.iter().map(|e| e.position().get()).eq(1..=batches.last().unwrap().1));
    for (first, last) in batches {
        let batch = &all[usize::try_from(first - 1).unwrap()..usize::try_from(*last).unwrap()];
        assert!(batch.iter().all(|e| e.payload() == batch[0].payload()), "a batch is never interleaved");
    }
    let shared = store.read_stream("shared", Version::NONE).map(|e| e.unwrap().version().get());
    assert!(shared.eq(1..=THREADS * (0..EACH).map(|n| n % 3).sum::<u64>()));
}

#[test]
fn of_appends_that_race_for_one_version_exactly_one_wins() {
    let bench = Bench::new();
    for round in 0..50 {
        let version = Version::new(round);
        let won: usize = std::thread::scope(|scope| {
            let append = || bench.store.append("s", version, [event()]);
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(append)).collect();
            let outcomes = racers.into_iter().map(|racer| racer.join().unwrap());
            outcomes
                .map(|outcome| match outcome {
                    Ok(_) => 1,
                    Err(AppendError::Conflict(conflict)) => {
                        assert_eq!(conflict.actual, Some(Version::new(round + 1)));
                        0
                    }
                    Err(other) => panic!("{other}"),
                })
                .sum()
        });
        assert_eq!(won, 1);
    }
    assert_eq!(bench.store.watermark().get(), 50);
}
