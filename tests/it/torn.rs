//! Writes that end in the middle of a sector, and losses of power when more is written to it: the end that they leave is
//! known for a write that was cut short.

use std::io::ErrorKind::{Other, StorageFull};
use std::time::Duration;

use everfold::{Batch, Durability, Event, Fault, MemoryStorage, Options, Store};

/// Losses of power are planned for so many operations to come.
const OPERATIONS: u64 = 14;

fn options() -> Options {
    // Nobody but the test writes.
    Options::new().segment_size(8192).sync_after(Duration::from_secs(1 << 20))
}

fn append(store: &Store, durability: Durability, sizes: &[usize]) -> Result<u64, everfold::AppendError> {
    let events = sizes.iter().map(|size| Event::raw("t", vec![b'x'; *size]));
    let batch = events.fold(Batch::new(), |batch, event| batch.event("s", event));
    store.append_batch(batch.durability(durability)).map(|done| done.position.get())
}

/// One event that is durable, and where the log ends.
fn store_with_one(storage: &MemoryStorage, size: usize) -> (Store, usize) {
    let store = options().open_memory(storage).unwrap();
    append(&store, Durability::Durable, &[size]).unwrap();
    let segment = storage.file("log/00000000000000000001.seg").unwrap();
    let end = segment.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (store, end)
}

fn plan_outages(storage: &MemoryStorage, seeds: impl Iterator<Item = u64> + Clone) {
    for operation in 1..=OPERATIONS {
        for seed in seeds.clone() {
            storage.crash_at(storage.operations() + operation, seed);
        }
    }
}

/// What every planned loss of power left is opened: it has one of these numbers of events.
fn check_outages(storage: &MemoryStorage, ends: &[u64], what: &str) -> usize {
    let outages = storage.outages();
    for outage in &outages {
        let what = format!("{what}, power lost during operation {}, seed {}", outage.operation, outage.seed);
        let opened = options().open_memory(&outage.left);
        assert!(opened.is_ok(), "{what}: {}", opened.unwrap_err());
        let last = opened.unwrap().watermark().get();
        assert!(ends.contains(&last), "{what}: the log ends at {last}");
    }
    outages.len()
}

#[test]
fn what_a_full_disk_cut_short_is_known_for_that_when_the_power_is_lost_while_it_is_written_again() {
    for after in (1..1500).step_by(122) {
        let storage = MemoryStorage::seeded(5);
        let (store, _) = store_with_one(&storage, 200);
        storage.fail_at(storage.operations() + 1, Fault::once(StorageFull).after(after));
        append(&store, Durability::Deferred, &[900]).unwrap();
        append(&store, Durability::Deferred, &[20, 20]).unwrap();
        store.sync().unwrap_err();
        plan_outages(&storage, 0..40);
        store.sync().unwrap();
        let simulated = check_outages(&storage, &[1, 2, 4], &format!("full after {after} bytes"));
        assert!(simulated > 40, "{simulated}");
        assert_eq!(options().open_memory(&storage.crash(0)).unwrap().watermark().get(), 4);
    }
}

#[test]
fn a_removal_that_a_loss_of_power_cuts_short_is_begun_again() {
    let mut simulated = 0;
    for size in (100..400).step_by(8) {
        let storage = MemoryStorage::seeded(6);
        let (store, end) = store_with_one(&storage, size);
        // The header of the next frame is in two sectors.
        if end % 512 < 456 {
            continue;
        }
        storage.fail_at(storage.operations() + 1, Fault::once(Other).after(100));
        append(&store, Durability::Written, &[1200]).unwrap_err();
        drop(store);
        plan_outages(&storage, 0..200);
        assert!(options().open_memory(&storage).unwrap().recovery().removed.is_some());
        simulated += check_outages(&storage, &[1], &format!("100 bytes at {end}"));
    }
    assert!(simulated > 1000, "{simulated}");
}
