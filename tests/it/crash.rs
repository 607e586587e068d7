//! Losses of power and failing disks, at every operation of a store's life. The oracle is the ledger: what the
//! test asked for and what it was told, nothing else.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use everfold::{Durability, ErrorKind, Fault, MemoryStorage, Store};

use crate::ask::Ask;
use crate::ledger::{Ledger, facts, small};

/// What a life is made of.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Append(Durability, &'static [usize]),
    Sync,
    Reopen,
}

use Deed::{Append, Reopen, Sync};
use Durability::{Deferred, Durable, Written};

/// All durabilities before all others, batches of one and of many, frames over sector borders, four rolls (one in
/// the middle of unsynced frames), closing with and without unsynced frames.
const LIFE: &[Deed] = &[
    Append(Durable, &[30]),
    Append(Written, &[700]),
    Append(Deferred, &[10, 20, 30]),
    Append(Durable, &[600]),
    Append(Deferred, &[900]),
    Append(Written, &[40]),
    Append(Deferred, &[1]),
    Append(Durable, &[1300, 900]),
    Sync,
    Append(Written, &[450]),
    Append(Written, &[450]),
    Sync,
    Append(Deferred, &[100]),
    Reopen,
    Append(Deferred, &[0]),
    Append(Written, &[800, 800, 800]),
    Append(Written, &[600, 10]),
    Append(Durable, &[5]),
    Reopen,
    Append(Durable, &[2500]),
    Append(Deferred, &[300]),
    Append(Written, &[1500]),
];

const SEEDS: [u64; 9] = [0, u64::MAX, 1, 2, 3, 5, 8, 13, 21];

/// A store, its files, and what it was asked and has acknowledged.
struct Life {
    storage: MemoryStorage,
    store: Option<Store>,
    ledger: Ledger,
    /// What fails is a write without room on the disk: then appends go on when there is.
    full: bool,
}

impl Life {
    fn new(storage: MemoryStorage) -> Self {
        Life { storage, store: None, ledger: Ledger::default(), full: false }
    }

    fn open(&mut self) -> Result<(), ErrorKind> {
        self.store = Some(small().open_memory(&self.storage).map_err(|e| e.kind())?);
        Ok(())
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn act(&mut self, deed: Deed) -> Result<(), ErrorKind> {
        match deed {
            Append(durability, sizes) => {
                let batch = self.ledger.make(sizes);
                let store = self.store.as_ref().unwrap();
                self.ledger.append(store, batch, durability)
            }
            Sync => {
                self.store().sync().map_err(|e| e.kind())?;
                self.ledger.acknowledge(Durable);
                Ok(())
            }
            Reopen => {
                let store = self.store.take().unwrap();
                store.close().map_err(|e| e.kind())?;
                drop(store);
                self.ledger.acknowledge(Durable);
                self.open()?;
                assert_eq!(facts(self.store()), self.ledger.facts());
                Ok(())
            }
        }
    }

    /// Lives until something fails.
    fn live(&mut self) -> Result<(), ErrorKind> {
        self.open()?;
        LIFE.iter().try_for_each(|deed| self.act(*deed))
    }

    /// What may be lost no more: what was acknowledged, or could be read.
    fn safe(&self) -> usize {
        let read =
            self.store.as_ref().map_or(0, |store| self.ledger.check(&facts(store), 0, "before the crash"));
        read.max(self.ledger.durable)
    }
}

/// What is in the files, as a number.
fn fingerprint(storage: &MemoryStorage) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in storage.files() {
        (storage.file(&name), name).hash(&mut hasher);
    }
    hasher.finish()
}

/// The images that a loss of power may leave, each once.
fn crashes(storage: &MemoryStorage) -> Vec<(u64, MemoryStorage)> {
    let mut seen = HashSet::new();
    let images = SEEDS.map(|seed| (seed, storage.crash(seed)));
    images.into_iter().filter(|(seed, image)| *seed == u64::MAX || seen.insert(fingerprint(image))).collect()
}

/// A storage of its own with the same files, all of them durable.
fn copy(storage: &MemoryStorage) -> MemoryStorage {
    storage.crash(u64::MAX)
}

/// Recovers and checks, loses the power right then, recovers again and appends, loses the power, and checks again.
fn check_recovery(ledger: &Ledger, image: &MemoryStorage, at_least: usize, what: &str) {
    let open = |image: &MemoryStorage| {
        let opened = small().open_memory(image);
        assert!(opened.is_ok(), "{what}: {}", opened.unwrap_err());
        let store = opened.unwrap();
        assert!(store.recovery().damage.is_empty(), "{what}: {}", store.recovery());
        store
    };
    let peeked = match small().read_only(true).open_memory(image) {
        Ok(store) => facts(&store),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: read-only: {error}");
            Vec::new()
        }
    };
    assert_eq!(image.operations(), 0, "{what}: a read-only open changes nothing");
    let mut ledger = ledger.clone();
    let recovered = open(image);
    let found = facts(&recovered);
    assert_eq!(peeked, found, "{what}: read-only shows what a recovery keeps");
    let whole = ledger.check(&found, at_least, what);
    Ask::check_some(&recovered, &found);
    ledger.keep(whole);
    let again = image.crash(0);
    drop(recovered);
    assert_eq!(facts(&open(image)), found, "{what}: opened again");
    let store = open(&again);
    assert_eq!(facts(&store), found, "{what}: what was served is durable");
    for sizes in [[40, 40], [1200, 1200]] {
        let batch = ledger.make(&sizes);
        ledger.append(&store, batch, Durable).unwrap();
    }
    let last = open(&again.crash(0));
    assert_eq!(facts(&last), ledger.facts(), "{what}: appends after recovery");
    Ask::check_some(&last, &ledger.facts());
}

/// Lives until operation `n` fails and all after it, and returns what is left; `None` when nothing failed.
fn life_until(n: u64, fault: Fault) -> Option<Life> {
    let mut life = Life::new(MemoryStorage::new());
    life.storage.fail_at(n, fault);
    let ended = life.live();
    (ended.is_err() || life.storage.operations() >= n).then_some(life)
}

fn dead() -> Fault {
    Fault::from_then_on(io::ErrorKind::Other)
}

fn crash_everywhere(fault: Fault) -> usize {
    let mut simulated = 0;
    for n in 1.. {
        let Some(life) = life_until(n, fault) else {
            assert!(n > 100, "the life is too short to mean something: {n} operations");
            break;
        };
        let safe = life.safe();
        for (seed, image) in crashes(&life.storage) {
            let at_least = if seed == u64::MAX { safe.max(life.ledger.written) } else { safe };
            check_recovery(&life.ledger, &image, at_least, &format!("operation {n}, seed {seed}"));
            simulated += 1;
        }
    }
    simulated
}

#[test]
fn a_loss_of_power_at_any_operation_keeps_what_was_acknowledged_and_a_whole_prefix() {
    let simulated = crash_everywhere(dead());
    assert!(simulated > 300, "{simulated}");
    println!("{simulated} crashes");
}

#[test]
fn a_loss_of_power_in_the_middle_of_any_write_keeps_what_was_acknowledged_and_a_whole_prefix() {
    let simulated = crash_everywhere(dead().short());
    assert!(simulated > 300, "{simulated}");
    println!("{simulated} crashes");
}

/// Crashes at each operation of the recovery of an image.
fn crash_the_recovery(ledger: &Ledger, image: &MemoryStorage, at_least: usize, what: &str) -> usize {
    let mut simulated = 0;
    for m in 1.. {
        let second = copy(image);
        second.fail_at(m, if m % 2 == 0 { dead() } else { dead().short() });
        if small().open_memory(&second).is_ok() {
            break;
        }
        for (seed, left) in crashes(&second) {
            check_recovery(ledger, &left, at_least, &format!("{what}, then operation {m}, seed {seed}"));
            simulated += 1;
        }
    }
    simulated
}

#[test]
fn a_loss_of_power_during_recovery_loses_nothing_more() {
    let mut simulated = 0;
    for n in (1..).step_by(9) {
        let Some(life) = life_until(n, dead()) else { break };
        let safe = life.safe();
        for seed in [0, u64::MAX, n] {
            let at_least = if seed == u64::MAX { safe.max(life.ledger.written) } else { safe };
            let what = format!("operation {n}, seed {seed}");
            simulated += crash_the_recovery(&life.ledger, &life.storage.crash(seed), at_least, &what);
        }
    }
    assert!(simulated > 300, "{simulated}");
    println!("{simulated} crashes of a recovery");
}

impl Life {
    /// Does a deed although an operation of it may fail, as a careful application would: tries again where nothing
    /// was written, closes and opens the store where nobody knows.
    fn act_on(&mut self, deed: Deed, what: &str) {
        match (self.act(deed), deed) {
            (Ok(()), _) => {}
            (Err(ErrorKind::DiskFull | ErrorKind::Io), Append(..)) => {
                let tried_again = self.act(deed);
                assert_eq!(tried_again, Ok(()), "{what}: nothing was written, and there is space again");
            }
            (Err(ErrorKind::DiskFull), Sync) => {
                assert_eq!(self.act(deed), Ok(()), "{what}: there is space again")
            }
            (Err(ErrorKind::Indeterminate | ErrorKind::Poisoned), Append(..) | Sync) => {
                let batch = self.ledger.make(&[10]);
                let next = self.ledger.append(self.store.as_ref().unwrap(), batch, Durable);
                if next == Ok(()) && self.full {
                    return;
                }
                assert_eq!(next, Err(ErrorKind::Poisoned), "{what}");
                self.ledger.check(&facts(self.store()), self.ledger.durable, what);
                let closed = self.store.take().unwrap().close();
                assert_eq!(closed.unwrap_err().kind(), ErrorKind::Poisoned, "{what}");
                self.open_again(what);
            }
            (Err(_), Reopen) => {
                self.store = None;
                self.open_again(what);
            }
            (Err(kind), deed) => unreachable!("{what}: {deed:?} failed with {kind:?}"),
        }
    }

    /// Opens the same files in the same system, which may believe more than its disk holds.
    fn open_again(&mut self, what: &str) {
        assert_eq!(self.open(), Ok(()), "{what}: the disk works again");
        let whole = self.ledger.check(&facts(self.store()), self.ledger.written, what);
        self.ledger.keep(whole);
        let after = small().open_memory(&self.storage.crash(0));
        assert_eq!(
            facts(&after.unwrap()),
            self.ledger.facts(),
            "{what}: what is served after a failure is durable"
        );
    }
}

fn fail_once_everywhere(fault: Fault) -> u64 {
    for n in 1.. {
        let mut life = Life::new(MemoryStorage::new());
        life.storage.fail_at(n, fault);
        life.full = fault == Fault::once(io::ErrorKind::StorageFull).short();
        let what = format!("operation {n} fails once");
        if life.open().is_err() {
            life.open_again(&what);
        }
        LIFE.iter().for_each(|deed| life.act_on(*deed, &what));
        if life.storage.operations() < n {
            return n - 1;
        }
        let safe = life.safe();
        for seed in [0, u64::MAX, n] {
            let at_least = if seed == u64::MAX { safe.max(life.ledger.written) } else { safe };
            check_recovery(
                &life.ledger,
                &life.storage.crash(seed),
                at_least,
                &format!("{what}, seed {seed}"),
            );
        }
    }
    0
}

#[test]
fn a_disk_that_fails_once_loses_nothing_that_was_acknowledged() {
    println!("{} operations", fail_once_everywhere(Fault::once(io::ErrorKind::Other)));
}

#[test]
fn a_disk_that_is_full_once_loses_nothing_that_was_acknowledged() {
    println!("{} operations", fail_once_everywhere(Fault::once(io::ErrorKind::StorageFull).short()));
}

#[test]
fn an_interrupted_operation_loses_nothing_that_was_acknowledged() {
    println!("{} operations", fail_once_everywhere(Fault::once(io::ErrorKind::Interrupted)));
}

#[test]
fn a_disk_that_fails_once_during_recovery_brings_back_nothing_that_was_removed() {
    let mut simulated = 0;
    for n in (1..).step_by(5) {
        let Some(life) = life_until(n, dead().short()) else { break };
        let safe = life.safe();
        for (seed, image) in crashes(&life.storage) {
            let removes = small().open_memory(&copy(&image)).unwrap().recovery().removed.is_some();
            for m in (1..).take_while(|_| removes) {
                let what = format!("operation {n}, seed {seed}, then operation {m} fails once");
                let mut next =
                    Life { storage: copy(&image), store: None, ledger: life.ledger.clone(), full: false };
                next.storage.fail_at(m, Fault::once(io::ErrorKind::Other));
                if next.open().is_ok() {
                    break;
                }
                (next.ledger.written, next.ledger.durable) = (safe, safe);
                next.open_again(&what);
                next.act_on(Append(Durable, &[3]), &what);
                check_recovery(&next.ledger, &next.storage.crash(0), next.ledger.durable, &what);
                simulated += 1;
            }
        }
    }
    assert!(simulated > 100, "{simulated}");
    println!("{simulated} recoveries with a failure");
}

#[test]
fn removed_bytes_stay_away_although_the_sync_of_their_removal_failed() {
    let mut torn = 0;
    for seed in 1..12 {
        let mut life = Life::new(MemoryStorage::new());
        life.open().unwrap();
        life.act(Append(Durable, &[30])).unwrap();
        life.act(Append(Written, &[1300, 1500])).unwrap();
        let image = life.storage.crash(seed);
        life.ledger.keep(1);
        let trial = copy(&image);
        let opened = small().open_memory(&trial).unwrap();
        if opened.recovery().removed.is_none() {
            continue;
        }
        torn += 1;
        for size in (0..512).step_by(8) {
            let mut next =
                Life { storage: copy(&image), store: None, ledger: life.ledger.clone(), full: false };
            // Six operations for the copy in quarantine, two for the first zeros, then the others and their sync.
            next.storage.fail_at(10, Fault::once(io::ErrorKind::Other));
            assert_eq!(next.open(), Err(ErrorKind::Io));
            let what = format!("seed {seed}, size {size}");
            next.open_again(&what);
            let mut batch = next.ledger.make(&[1]);
            batch[0].payload = vec![b'x'; usize::try_from(size).unwrap()];
            let store = next.store.take().unwrap();
            next.ledger.append(&store, batch, Durable).unwrap();
            let after = small().open_memory(&next.storage.crash(0));
            assert!(after.is_ok(), "{what}: {}", after.unwrap_err());
            assert_eq!(facts(&after.unwrap()), next.ledger.facts(), "{what}");
        }
    }
    assert!(torn > 2, "{torn}");
}

#[test]
fn what_a_failed_sync_left_in_doubt_is_written_again_before_it_is_served() {
    let mut life = Life::new(MemoryStorage::new());
    life.open().unwrap();
    life.act(Append(Durable, &[30])).unwrap();
    // The write, then the sync.
    life.storage.fail_at(life.storage.operations() + 2, Fault::once(io::ErrorKind::Other));
    assert_eq!(life.act(Append(Durable, &[700, 20])), Err(ErrorKind::Indeterminate));
    assert_eq!(life.act(Append(Durable, &[10])), Err(ErrorKind::Poisoned));
    assert_eq!(facts(life.store()), life.ledger.batches[0], "readers go on, with what is durable");
    let closed = life.store.take().unwrap().close();
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Poisoned);
    life.storage.clear_faults();
    let only_synced = facts(&small().open_memory(&life.storage.crash(0)).unwrap());
    assert_eq!(only_synced, life.ledger.batches[0], "the disk does not have the bytes");

    life.open().unwrap();
    assert_eq!(facts(life.store()), life.ledger.facts());
    assert!(life.store().recovery().rewritten_bytes > 700);
    let after = small().open_memory(&life.storage.crash(0)).unwrap();
    assert_eq!(facts(&after), life.ledger.facts(), "now the disk has them");
}

#[test]
fn a_full_disk_at_a_roll_loses_nothing_and_appends_go_on_when_there_is_space() {
    // After the write and sync of what is there: clear the way and make the file; write and sync the seal, in space
    // that is there; write and sync the header, give the name, sync the folder.
    for later in [3, 4, 7, 8, 9, 10] {
        let mut life = Life::new(MemoryStorage::new());
        life.open().unwrap();
        life.act(Append(Durable, &[3000])).unwrap();
        life.act(Append(Deferred, &[200])).unwrap();
        let (what, before) = (format!("operation {later} of the roll"), life.storage.operations());
        life.storage.fail_at(before + later, Fault::once(io::ErrorKind::StorageFull));
        assert_eq!(life.act(Append(Durable, &[900])), Err(ErrorKind::DiskFull), "{what}");
        assert_eq!(facts(life.store()), life.ledger.facts(), "{what}: all that was there is durable");
        check_recovery(&life.ledger, &life.storage.crash(0), life.ledger.batches.len(), &what);
        assert_eq!(life.act(Append(Durable, &[900])), Ok(()), "{what}: there is space");
        check_recovery(&life.ledger, &life.storage.crash(0), life.ledger.batches.len(), &what);
        assert_eq!(life.act(Reopen), Ok(()), "{what}");
    }
}
