//! How long it takes to open a store that was not closed, however large it is: `cargo bench --bench open`.
#![expect(clippy::unwrap_used, reason = "a benchmark that meets the unexpected should stop there")]

mod stage;

use std::cell::LazyCell;
use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use everfold::dump::{Inspector, SegmentFacts};
use everfold::{Durability, Options, Position, Store};

use stage::{batch, fill, sized};

/// A store that is still open: its files, as they are, are what an unclean exit leaves.
struct Unclosed {
    dir: tempfile::TempDir,
    store: Store,
}

impl Unclosed {
    /// Of at least so many events, and with the same number of them in the active segment, whatever the size.
    fn new(events: u64, in_active: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Options::new().segment_size(sized(64 << 20, 64 << 10)).open(&path).unwrap();
        fill(&store, 0..events);
        let (segments, step, mut filled) = (segments(&path).len(), sized(1_000, 50), events);
        while self::segments(&path).len() == segments {
            fill(&store, filled..filled + step);
            filled += step;
        }
        fill(&store, filled..filled + in_active);
        // Indexes of sealed segments are in files then; the next append makes the store an unclosed one again.
        store.close().unwrap();
        let store = Store::open(&path).unwrap();
        store.append_batch(batch(0..1, Durability::Durable)).unwrap();
        Unclosed { dir, store }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The time it takes to open copies of it.
    fn open(&self, times: u64) -> Duration {
        let copy = self.dir.path().join("copy");
        let once = |_| {
            copy_store(&self.path(), &copy);
            let start = Instant::now();
            let store = Options::new().create(false).open(&copy).unwrap();
            let spent = start.elapsed();
            assert_eq!(store.watermark(), self.store.watermark());
            store.close().unwrap();
            fs::remove_dir_all(&copy).unwrap();
            spent
        };
        (0..times).map(once).sum()
    }
}

fn segments(store: &Path) -> Vec<SegmentFacts> {
    Inspector::open(store).unwrap().segments()
}

/// Copies what an opening could write to, and links the sealed segments, which it does not.
fn copy_store(from: &Path, to: &Path) {
    let sealed: Vec<PathBuf> =
        segments(from).iter().rev().skip(1).map(|segment| from.join(&segment.file)).collect();
    fs::create_dir_all(to.join("log")).unwrap();
    for folder in ["", "log"] {
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let copy = to.join(folder).join(entry.file_name());
            if sealed.contains(&entry.path()) {
                fs::hard_link(entry.path(), copy).unwrap();
            } else if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), &copy).unwrap();
                // Else the opening would sync what was copied.
                File::open(copy).unwrap().sync_all().unwrap();
            }
        }
    }
}

fn open(c: &mut Criterion) {
    let in_active = sized(140_000, 100);
    let mut group =
        c.benchmark_group(format!("open after an unclean exit, {in_active} events in the active segment"));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, events) in [("1 M events", sized(1_000_000, 2_000)), ("4 M events", sized(4_000_000, 4_000))] {
        let unclosed = LazyCell::new(|| Unclosed::new(events, in_active));
        group.bench_function(name, |b| b.iter_custom(|iters| unclosed.open(iters)));
    }
    group.throughput(Throughput::Elements(in_active));
    let unclosed = LazyCell::new(|| Unclosed::new(0, in_active));
    group.bench_function("to compare: a scan of the active segment", |b| {
        let store = &unclosed.store;
        let before =
            segments(&unclosed.path()).last().map_or(Position::START, |active| active.first.previous());
        b.iter(|| black_box(store.read(before).map(|event| event.unwrap().payload().len()).sum::<usize>()));
    });
}

criterion_group!(benches, open);
criterion_main!(benches);
