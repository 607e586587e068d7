//! How long it takes to append events of 256 bytes: `cargo bench --bench append`.
#![expect(clippy::unwrap_used, reason = "a benchmark that meets the unexpected should stop there")]

mod stage;

use std::cell::{Cell, LazyCell};
use std::collections::VecDeque;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use everfold::{Batch, Durability, Guard, Position, Query, Retention, Store, Version};

use stage::{STREAMS, batch, fill, sized};

/// So many tickets are waited for at once.
const IN_FLIGHT: usize = 1024;
/// Batches of so many events are made at a time, before what is measured.
const MADE_AHEAD: u64 = 64 << 10;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// Drops old segments, so that a long run does not fill the disk. Not part of what is measured.
fn trim(store: &Store) {
    store.sync().unwrap();
    store.retain(&Retention::new().max_bytes(512 << 20)).unwrap();
}

/// Each thread appends one event after the other. Making the event is part of it.
fn durable(c: &mut Criterion) {
    let mut group = c.benchmark_group("append durable, 256 B");
    for threads in [1u64, 16, 64] {
        let opened = LazyCell::new(store);
        group.throughput(Throughput::Elements(threads));
        group.bench_function(format!("{threads} threads"), |b| {
            let (_, store) = &*opened;
            b.iter_custom(|iters| {
                let spent = together(threads, |thread| {
                    for n in 0..iters {
                        store.append_batch(batch(n + thread..n + thread + 1, Durability::Durable)).unwrap();
                    }
                });
                trim(store);
                spent
            });
        });
    }
}

fn together(threads: u64, work: impl Fn(u64) + Sync) -> Duration {
    let barrier = Barrier::new(usize::try_from(threads + 1).unwrap());
    let mut start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
            });
        }
        barrier.wait();
        start = Instant::now();
    });
    start.elapsed()
}

/// One thread submits events one by one, durable, and waits for the oldest when 1,024 are under way. Making the event is
/// part of it.
fn tickets(c: &mut Criterion) {
    let mut group = c.benchmark_group("append by tickets, 256 B");
    // Samples are to be long beside the time it takes to wait for the last ones.
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    let opened = LazyCell::new(store);
    group.bench_function("1,024 in flight", |b| {
        let (_, store) = &*opened;
        b.iter_custom(|iters| {
            let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
            let start = Instant::now();
            for n in 0..iters {
                if under_way.len() == IN_FLIGHT {
                    let oldest: everfold::Ticket = under_way.pop_front().unwrap();
                    oldest.wait().unwrap();
                }
                under_way.push_back(store.submit(batch(n..n + 1, Durability::Durable)).unwrap());
            }
            for ticket in under_way {
                ticket.wait().unwrap();
            }
            let spent = start.elapsed();
            trim(store);
            spent
        });
    });
}

fn batched(c: &mut Criterion) {
    let levels = [
        ("durable", Durability::Durable),
        ("written", Durability::Written),
        ("deferred", Durability::Deferred),
    ];
    for (name, durability) in levels {
        let mut group = c.benchmark_group(format!("append {name} in batches, 256 B"));
        for events in [1u64, 100, 1000] {
            let opened = LazyCell::new(store);
            group.throughput(Throughput::Elements(events));
            group.bench_function(events.to_string(), |b| {
                let (_, store) = &*opened;
                b.iter_custom(|iters| {
                    appending(store, iters, MADE_AHEAD / events, |n| batch(n..n + events, durability))
                });
            });
        }
    }
}

/// Appends of so many batches, made some at a time before.
fn appending(store: &Store, batches: u64, ahead: u64, make: impl Fn(u64) -> Batch) -> Duration {
    let (mut spent, mut next) = (Duration::ZERO, 0);
    while next < batches {
        let end = batches.min(next + ahead);
        let made: Vec<Batch> = (next..end).map(&make).collect();
        let start = Instant::now();
        for batch in made {
            store.append_batch(batch).unwrap();
        }
        spent += start.elapsed();
        next = end;
    }
    trim(store);
    spent
}

/// What a guard costs: batches of one event, with and without. As nobody else appends, it is known beforehand what each
/// guard is to expect: event n is at position n + 1, and version n / 100 + 1 of its stream.
fn guarded(c: &mut Criterion) {
    type Guards = fn(u64) -> Option<Guard>;
    let version: Guards =
        |n| Some(Guard::version(format!("stream-{}", n % STREAMS), Version::new(n / STREAMS)));
    let no_event: Guards = |n| {
        let query = Query::all().types(["measured"]).tags([format!("account:{}", n % STREAMS)]);
        Some(Guard::no_event(query, Position::new((n + 1).saturating_sub(STREAMS))))
    };
    let guards: [(&str, Guards); 3] =
        [("without", |_| None), ("on a version", version), ("on a query", no_event)];
    for (level, durability) in [("durable", Durability::Durable), ("deferred", Durability::Deferred)] {
        let mut group = c.benchmark_group(format!("append guarded {level}, 256 B"));
        group.throughput(Throughput::Elements(1));
        for (name, guard) in guards {
            let opened = LazyCell::new(|| {
                let (dir, store) = store();
                fill(&store, 0..sized(100_000, 1_000));
                (dir, store)
            });
            let appended = Cell::new(sized(100_000, 1_000));
            group.bench_function(name, |b| {
                let (_, store) = &*opened;
                b.iter_custom(|iters| {
                    let from = appended.replace(appended.get() + iters);
                    appending(store, iters, MADE_AHEAD, |n| {
                        let plain = batch(from + n..from + n + 1, durability);
                        guard(from + n).into_iter().fold(plain, Batch::guard)
                    })
                });
            });
        }
    }
}

criterion_group!(benches, durable, tickets, batched, guarded);
criterion_main!(benches);
