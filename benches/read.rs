//! How long it takes to read, and to look up what is rare or not there: `cargo bench --bench read`.
#![expect(clippy::unwrap_used, reason = "a benchmark that meets the unexpected should stop there")]

mod stage;

use std::cell::{Cell, LazyCell};
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everfold::dump::Inspector;
use everfold::{Batch, Cursor, Durability, Event, Expected, Guard, Options, Position, Query, Store, Version};

use stage::{event, fill, sized};

/// Of each of these there are 100 events, far from each other: a stream, a tag.
const ONE: &str = "one";

/// A store of so many events.
fn scattered(events: u64, segment_size: u64) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(segment_size).open(dir.path()).unwrap();
    let every = events / 100;
    for first in (0..events).step_by(100) {
        let batch = (first..first + 100).fold(Batch::new().durability(Durability::Deferred), |batch, n| {
            let (stream, event) = event(n);
            match n % every {
                0 => batch.event(ONE, event),
                half if half == every / 2 => batch.event(stream, event.tag(ONE)),
                _ => batch.event(stream, event),
            }
        });
        store.append_batch(batch).unwrap();
    }
    // What is sealed has its indexes in files then.
    store.close().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn bytes(events: Cursor) -> usize {
    events.map(|event| event.unwrap().payload().len()).sum()
}

fn read(c: &mut Criterion) {
    let events = sized(100_000, 1_000);
    for (place, segment_size) in [("active", 64 << 20), ("mostly sealed", sized(4 << 20, 64 << 10))] {
        let opened = LazyCell::new(|| scattered(events, segment_size));
        let mut group = c.benchmark_group(format!("read {events} events of 256 B, {place}"));
        group.throughput(Throughput::Elements(events));
        group.bench_function("all", |b| {
            let (_, store) = &*opened;
            assert_eq!(store.read(Position::START).count(), usize::try_from(events).unwrap());
            b.iter(|| black_box(bytes(store.read(Position::START))));
        });
        group.bench_function("all, lent", |b| {
            let (_, store) = &*opened;
            b.iter(|| {
                let (mut events, mut bytes) = (store.read(Position::START), 0);
                while let Some(event) = events.lend() {
                    bytes += event.unwrap().payload().len();
                }
                black_box(bytes)
            });
        });
        group.throughput(Throughput::Elements(100));
        group.bench_function("a stream of 100", |b| {
            let (_, store) = &*opened;
            assert_eq!(store.read_stream(ONE, Version::NONE).count(), 100);
            b.iter(|| black_box(bytes(store.read_stream(ONE, Version::NONE))));
        });
        let tag = Query::all().tags([ONE]);
        for (name, query) in
            [("a tag of 100", tag.clone()), ("a type and a tag of 100", tag.types(["measured"]))]
        {
            group.bench_function(name, |b| {
                let (_, store) = &*opened;
                assert_eq!(store.read_query(&query, Position::START).count(), 100);
                b.iter(|| black_box(bytes(store.read_query(&query, Position::START))));
            });
        }
    }
}

/// A store with so many sealed segments. Only the first one knows the stream and the tag `one`.
fn segmented(segments: usize) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(64 << 10).open(dir.path()).unwrap();
    store.append(ONE, Expected::NoStream, [Event::raw("measured", [7; 256]).tag(ONE)]).unwrap();
    let mut filled = 0;
    while Inspector::open(dir.path()).unwrap().segments().len() <= segments {
        fill(&store, filled..filled + 1_000);
        filled += 1_000;
    }
    store.close().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn look_up(c: &mut Criterion) {
    let segments = sized(1_000, 20);
    let opened = LazyCell::new(|| segmented(segments));
    let mut group = c.benchmark_group(format!("look up among {segments} sealed segments"));
    let number = Cell::new(0u64);
    // Each time another one, so that nothing can be remembered.
    let never = || format!("never-{}", number.replace(number.get() + 1));
    group.bench_function("a stream never seen", |b| {
        let (_, store) = &*opened;
        b.iter(|| assert!(store.read_stream(&never(), Version::NONE).next().is_none()));
    });
    group.bench_function("a stream never seen, by a guard that fails", |b| {
        let (_, store) = &*opened;
        b.iter(|| {
            let batch =
                Batch::new().event("stream-1", event(1).1).guard(Guard::version(never(), Expected::Exists));
            assert!(store.append_batch(batch.durability(Durability::Deferred)).is_err());
        });
    });
    group.bench_function("the last event of a stream only the first segment has", |b| {
        let (_, store) = &*opened;
        b.iter(|| assert!(store.read_stream_backward(ONE, Version::END).next().is_some()));
    });
    group.bench_function("the last position of a tag only the first segment has", |b| {
        let (_, store) = &*opened;
        let query = Query::all().tags([ONE]);
        b.iter(|| assert!(store.read_query_backward(&query, Position::END).next().is_some()));
    });
    group.bench_function("the last position of a tag that all segments have", |b| {
        let (_, store) = &*opened;
        let query = Query::all().tags(["account:17"]);
        b.iter(|| assert!(store.read_query_backward(&query, Position::END).next().is_some()));
    });
    group.bench_function("a tag never seen", |b| {
        let (_, store) = &*opened;
        b.iter(|| {
            let query = Query::all().tags([never()]);
            assert!(store.read_query_backward(&query, Position::END).next().is_none());
        });
    });
}

criterion_group!(benches, read, look_up);
criterion_main!(benches);
