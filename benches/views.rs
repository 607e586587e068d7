//! How long views take: to be built from a log, to be read, to follow: `cargo bench --bench views`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that meets the unexpected should stop there"
)]

#[path = "stage/sized.rs"]
mod sized;

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use everfold::{
    ApplyError, Batch, Durability, Event, Expected, Fold, Position, Projection, RecordedEvent, Store, View,
    ViewBatch,
};

use sized::sized;

type Purchase = (u32, u32, i32);
type Sold = View<(u32, u32), i64>;

const NAMES: [&str; 16] = [
    "n-0", "n-1", "n-2", "n-3", "n-4", "n-5", "n-6", "n-7", "n-8", "n-9", "n-10", "n-11", "n-12", "n-13",
    "n-14", "n-15",
];

/// The sum of the quantities, by customer and item.
struct Sum<const N: usize>;

impl<const N: usize> Projection for Sum<N> {
    const NAME: &'static str = NAMES[N];
    const GENERATION: u32 = 1;
    type Key = (u32, u32);
    type Value = i64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<(u32, u32), i64>) -> Result<(), ApplyError> {
        let (customer, item, quantity): Purchase = event.decode()?;
        view.merge((customer, item), quantity.into(), |sum, quantity| *sum += quantity)
    }
}

/// The same, declared.
fn sold() -> Fold<(u32, u32), i64> {
    Fold::new("sold", 1).decode::<Purchase>().key_by(|sold| (sold.0, sold.1)).sum(|sold| sold.2)
}

/// A purchase by one of 10,000 customers, of one of 100 items.
fn purchase(number: u32) -> Event {
    let mixed = number.wrapping_mul(2_654_435_761);
    Event::bincode("sold", &(mixed % 10_000, mixed / 10_000 % 100, 1i32)).unwrap()
}

fn filled(events: u32) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for first in (0..events).step_by(1000) {
        let numbers = first..events.min(first + 1000);
        let batch = Batch::new().durability(Durability::Deferred);
        let batch = numbers.fold(batch, |batch, number| batch.event("shop", purchase(number)));
        store.append_batch(batch).unwrap();
    }
    store.sync().unwrap();
    (dir, store)
}

fn caught_up(store: &Store, view: &Sold) {
    view.wait_for(store.watermark(), Duration::MAX).unwrap();
}

fn replay(c: &mut Criterion) {
    let events = sized(300_000, 60_000);
    let (_dir, store) = filled(events);
    let mut group = c.benchmark_group(format!("replay {events} events"));
    group.sample_size(10).throughput(Throughput::Elements(u64::from(events)));
    let dropped = |name| drop(store.drop_view(name));
    group.bench_function("one after the other", |b| {
        let build = |()| caught_up(&store, &store.project(Sum::<0>).unwrap());
        b.iter_batched(|| dropped(NAMES[0]), build, BatchSize::PerIteration);
    });
    group.bench_function("in stretches", |b| {
        let build = |()| caught_up(&store, &store.project_fold(sold()).unwrap());
        b.iter_batched(|| dropped("sold"), build, BatchSize::PerIteration);
    });
    group.bench_function("sixteen projections, each one after the other", |b| {
        let build = |()| {
            macro_rules! all {
                ($($number:literal)*) => { [$(store.project(Sum::<$number>).unwrap()),*] };
            }
            all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15).iter().for_each(|view| caught_up(&store, view));
        };
        b.iter_batched(|| NAMES.into_iter().for_each(dropped), build, BatchSize::PerIteration);
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let (_dir, store) = filled(sized(100_000, 1_000));
    let view = store.project_fold(sold()).unwrap();
    caught_up(&store, &view);
    let keys: Vec<(u32, u32)> = view.range(..).map(|row| row.unwrap().0).collect();
    let next = Cell::new(0);
    c.bench_function("get a row", |b| {
        b.iter(|| {
            next.set((next.get() + 7919) % keys.len());
            black_box(view.get(&keys[next.get()]).unwrap())
        });
    });
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Elements(view.len()));
    group.bench_function("all rows", |b| b.iter(|| view.range(..).map(|row| row.unwrap().1).sum::<i64>()));
    group.finish();
}

fn follow(c: &mut Criterion) {
    let (_dir, store) = filled(1_000);
    let view = store.project(Sum::<0>).unwrap();
    caught_up(&store, &view);
    c.bench_function("append until it is in the view", |b| {
        b.iter_custom(|times| {
            let started = Instant::now();
            for number in 0..times {
                let event = purchase(u32::try_from(number % 1_000_000).unwrap());
                let at = store.append("shop", Expected::Any, [event]).unwrap().position;
                assert!(at > Position::START);
                view.wait_for(at, Duration::MAX).unwrap();
            }
            started.elapsed()
        });
    });
}

criterion_group!(benches, replay, read, follow);
criterion_main!(benches);
