//! How long it takes to append, to scan, and to read one stream: `cargo bench`.
#![expect(clippy::unwrap_used, reason = "a benchmark that meets the unexpected should stop there")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use everfold::{Batch, Durability, Event, Expected, Options, Position, Store, Version};

const PAYLOAD: [u8; 256] = [7; 256];

fn batch(events: usize, durability: Durability) -> Batch {
    (0..events).fold(Batch::new().durability(durability), |batch, n| {
        batch.event(format!("stream-{}", n % 100), Event::raw("measured", PAYLOAD))
    })
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().open(dir.path()).unwrap();
    (dir, store)
}

fn append(c: &mut Criterion) {
    let levels = [
        ("durable", Durability::Durable),
        ("written", Durability::Written),
        ("deferred", Durability::Deferred),
    ];
    for (name, durability) in levels {
        let mut group = c.benchmark_group(format!("append {name}, 256 B"));
        for events in [1usize, 100, 1000] {
            let (_dir, store) = store();
            group.throughput(Throughput::Elements(events.try_into().unwrap()));
            group.bench_function(format!("batches of {events}"), |b| {
                b.iter_batched(
                    || batch(events, durability),
                    |batch| store.append_batch(batch).unwrap(),
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn read(c: &mut Criterion) {
    const EVENTS: u64 = 100_000;
    let (_dir, store) = store();
    for _ in 0..EVENTS / 1000 {
        store.append_batch(batch(1000, Durability::Deferred)).unwrap();
    }
    store.append("one", Expected::NoStream, (0..100).map(|_| Event::raw("measured", PAYLOAD))).unwrap();
    let mut group = c.benchmark_group("read, 256 B");
    group.throughput(Throughput::Elements(EVENTS + 100));
    group.bench_function("scan", |b| {
        b.iter(|| store.read(Position::START).map(|e| e.unwrap().payload().len()).sum::<usize>());
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("one stream of 100", |b| {
        b.iter(|| black_box(store.read_stream("one", Version::NONE).map(Result::unwrap).count()));
    });
}

criterion_group!(benches, append, read);
criterion_main!(benches);
