//! Losses of power and failing disks at every operation of a retention, and of the opening that finishes one.

use std::collections::{BTreeMap, HashSet};
use std::io;

use everfold::{
    AppendError, ErrorKind, Event, Expected, Fault, MemoryStorage, Position, Retention, Store, Version,
};

use crate::ledger::small;

const SEEDS: [u64; 9] = [0, u64::MAX, 1, 2, 3, 5, 8, 13, 21];

/// What a life is made of: appends of so many events, retention before a position, closing and opening again.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Append(u64),
    Retain(u64),
    Reopen,
}

use Deed::{Append, Reopen, Retain};

const LIFE: &[Deed] =
    &[Append(90), Retain(70), Append(20), Retain(90), Reopen, Append(60), Retain(160), Append(1), Reopen];
/// Appended before the life: no operation of these fails.
const FIRST: u64 = 40;

/// A store and what it was asked and has acknowledged.
struct Life {
    storage: MemoryStorage,
    store: Option<Store>,
    /// Stream and version of each event appended, or that may have been.
    events: Vec<(String, u64)>,
    /// So many of them are acknowledged.
    durable: usize,
    /// Where the log may start: as it did, or as the retention that was under way would have it.
    starts: Vec<u64>,
}

impl Life {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let mut life =
            Life { storage: storage.clone(), store: None, events: Vec::new(), durable: 0, starts: vec![1] };
        life.open().unwrap();
        life.act(Append(FIRST)).unwrap();
        life.act(Reopen).unwrap();
        life
    }

    /// The same store with files of its own, all of them durable.
    fn copy(&mut self) -> Self {
        if let Some(store) = self.store.take() {
            store.close().unwrap();
        }
        let (events, starts) = (self.events.clone(), self.starts.clone());
        Life { storage: self.storage.crash(u64::MAX), store: None, events, durable: self.durable, starts }
    }

    fn open(&mut self) -> Result<(), ErrorKind> {
        self.store = Some(small().open_memory(&self.storage).map_err(|e| e.kind())?);
        Ok(())
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn version(&self, stream: &str) -> u64 {
        self.events.iter().rev().find(|(own, _)| own == stream).map_or(0, |(_, version)| *version)
    }

    fn append(&mut self) -> Result<(), ErrorKind> {
        let n = self.events.len();
        // Most streams have their only events in a segment or two.
        let stream = format!("stream-{}", if n.is_multiple_of(3) { 0 } else { n / 8 });
        let version = self.version(&stream) + 1;
        let event = Event::raw("kind", n.to_string().repeat(20));
        let appended = self.store().append(&stream, Version::new(version - 1), [event]);
        match appended {
            Ok(done) => {
                assert_eq!(done.position.get(), u64::try_from(n).unwrap() + 1);
                self.events.push((stream, version));
                self.durable = self.events.len();
                Ok(())
            }
            Err(AppendError::Failed(error)) => {
                if error.kind() == ErrorKind::Indeterminate {
                    self.events.push((stream, version));
                }
                Err(error.kind())
            }
            Err(other) => unreachable!("{other}"),
        }
    }

    fn act(&mut self, deed: Deed) -> Result<(), ErrorKind> {
        match deed {
            Append(events) => (0..events).try_for_each(|_| self.append()),
            Retain(before) => {
                let policy = Retention::new().before(Position::new(before));
                let operations = self.storage.operations();
                let target = self.store().retain(&policy.clone().dry_run(true)).map_err(|e| e.kind())?.first;
                assert_eq!(self.storage.operations(), operations, "a dry run changes nothing");
                self.starts.push(target.get());
                let retained = self.store().retain(&policy).map_err(|e| e.kind())?;
                assert_eq!(retained.first, target);
                self.starts = vec![target.get()];
                Ok(())
            }
            Reopen => {
                if let Some(store) = self.store.take() {
                    store.close().map_err(|e| e.kind())?;
                }
                self.open()
            }
        }
    }

    fn live(&mut self) -> Result<(), ErrorKind> {
        self.open()?;
        LIFE.iter().try_for_each(|deed| self.act(*deed))
    }

    /// Checks what a store has, and that each stream goes on where it was.
    fn check(&self, store: &Store, what: &str) {
        assert!(store.recovery().damage.is_empty(), "{what}: {}", store.recovery());
        let start = store.log_start();
        assert!(self.starts.contains(&start.get()), "{what}: {start} is none of {:?}", self.starts);
        let mut next = usize::try_from(start.get()).unwrap() - 1;
        for event in store.read(start.previous()) {
            let event = event.unwrap_or_else(|error| unreachable!("{what}: {error}"));
            let (stream, version) = &self.events[next];
            assert_eq!((event.stream(), event.version().get()), (stream.as_str(), *version), "{what}");
            next += 1;
        }
        assert!(next >= self.durable, "{what}: {next} events of {} are there", self.durable);
        let mut versions = BTreeMap::new();
        for (stream, version) in &self.events[..next] {
            versions.insert(stream, *version);
        }
        if store.recovery().read_only {
            return;
        }
        for (stream, version) in versions {
            let done = store.append(stream, Expected::Any, [Event::raw("kind", "")]).unwrap();
            assert_eq!(done.version, Version::new(version + 1), "{what}: {stream}");
        }
    }

    /// Checks what is left by a loss of power: it opens, for reading and for writing, and again after another.
    fn check_image(&self, image: &MemoryStorage, what: &str) {
        let read_only = small().read_only(true).open_memory(image);
        let read_only = read_only.unwrap_or_else(|error| unreachable!("{what}: read-only: {error}"));
        self.check(&read_only, what);
        let opened = small().open_memory(image);
        let store = opened.unwrap_or_else(|error| unreachable!("{what}: {error}"));
        assert_eq!(store.log_start(), read_only.log_start(), "{what}");
        let start = store.log_start();
        let again = small().open_memory(&image.crash(0)).unwrap();
        assert_eq!(again.log_start(), start, "{what}: what was served is durable");
        self.check(&again, what);
        self.check(&store, what);
        let left = |suffix: &str| -> Vec<String> {
            let files = image.files().into_iter();
            files
                .filter_map(|name| Some(name.strip_prefix("log/")?.strip_suffix(suffix)?.to_owned()))
                .collect()
        };
        let own = format!("{:020}", start.get());
        assert_eq!(left(".seg")[0], own, "{what}: what is below is removed");
        assert!(left(".idx").iter().all(|name| *name >= own), "{what}");
        assert_eq!(left(".base"), if start.get() == 1 { vec![] } else { vec![own] }, "{what}");
        assert_eq!(left(".tmp"), [""; 0], "{what}");
    }
}

/// The images that a loss of power may leave, each once.
fn crashes(storage: &MemoryStorage) -> Vec<(u64, MemoryStorage)> {
    let mut seen = HashSet::new();
    let content = |image: &MemoryStorage| -> Vec<_> {
        image.files().into_iter().map(|name| (image.file(&name), name)).collect()
    };
    let images = SEEDS.map(|seed| (seed, storage.crash(seed)));
    images.into_iter().filter(|(_, image)| seen.insert(content(image))).collect()
}

fn dead() -> Fault {
    Fault::from_then_on(io::ErrorKind::Other)
}

/// Lives until operation `n` fails and all after it; `None` when nothing failed.
fn life_until(first: &mut Life, n: u64, fault: Fault) -> Option<Life> {
    let mut life = first.copy();
    life.storage.fail_at(n, fault);
    let ended = life.live();
    (ended.is_err() || life.storage.operations() >= n).then_some(life)
}

fn crash_everywhere(fault: Fault) -> usize {
    let (mut first, mut simulated) = (Life::new(), 0);
    for n in 1.. {
        let Some(life) = life_until(&mut first, n, fault) else {
            assert!(n > 300, "the life is too short to mean something: {n} operations");
            break;
        };
        // Appends by themselves are checked elsewhere.
        if life.starts == [1] && n % 10 != 0 {
            continue;
        }
        for (seed, image) in crashes(&life.storage) {
            life.check_image(&image, &format!("operation {n}, seed {seed}"));
            simulated += 1;
        }
    }
    simulated
}

#[test]
fn a_loss_of_power_at_any_operation_of_a_retention_loses_nothing_that_is_kept() {
    let simulated = crash_everywhere(dead());
    assert!(simulated > 300, "{simulated}");
}

#[test]
fn a_loss_of_power_in_the_middle_of_any_write_of_a_retention_loses_nothing_that_is_kept() {
    let simulated = crash_everywhere(dead().short());
    assert!(simulated > 300, "{simulated}");
}

#[test]
fn a_loss_of_power_while_an_opening_finishes_a_retention_loses_nothing_that_is_kept() {
    let (mut first, mut simulated) = (Life::new(), 0);
    for n in 1.. {
        let Some(life) = life_until(&mut first, n, dead()) else { break };
        if life.starts.len() < 2 {
            continue;
        }
        for seed in [0, u64::MAX, n] {
            let image = life.storage.crash(seed);
            for m in 1.. {
                let second = image.crash(u64::MAX);
                second.fail_at(m, if m % 2 == 0 { dead() } else { dead().short() });
                let opened = small().open_memory(&second);
                if second.operations() < m {
                    break;
                }
                drop(opened);
                for other in [0, u64::MAX, m] {
                    let left = second.crash(other);
                    let what = format!("operation {n}, seed {seed}, then operation {m}, seed {other}");
                    life.check_image(&left, &what);
                    simulated += 1;
                }
            }
        }
    }
    assert!(simulated > 300, "{simulated}");
}

impl Life {
    /// Does a deed although an operation of it may fail: tries again where nothing was changed, closes and opens the
    /// store where nobody knows.
    fn act_on(&mut self, deed: Deed, what: &str) {
        let Err(kind) = self.act(deed) else { return };
        match (kind, deed) {
            (ErrorKind::Io | ErrorKind::DiskFull, Retain(_)) => {
                let start = self.store().log_start();
                assert_eq!(start.get(), self.starts[0], "{what}: nothing was dropped");
                assert!(self.store().read(start.previous()).all(|event| event.is_ok()), "{what}");
                assert_eq!(self.act(deed), Ok(()), "{what}: the disk works again");
            }
            (ErrorKind::Poisoned, Retain(_)) => {
                let start = self.store().log_start();
                assert_eq!(start.get(), self.starts[0], "{what}: what is not known to be dropped is read");
                assert!(self.store().read(start.previous()).all(|event| event.is_ok()), "{what}");
                self.open_again(what);
                self.act_on(deed, what);
            }
            (ErrorKind::Io | ErrorKind::DiskFull, Append(_)) => self.catch_up(what),
            _ => {
                self.open_again(what);
                self.catch_up(what);
            }
        }
    }

    /// What an append that failed had left to do is of no interest here.
    fn catch_up(&mut self, what: &str) {
        assert_eq!(self.append(), Ok(()), "{what}: the disk works again");
    }

    /// Opens the same files in the same system, which may believe more than its disk holds.
    fn open_again(&mut self, what: &str) {
        self.store = None;
        assert_eq!(self.open(), Ok(()), "{what}: the disk works again");
        let start = self.store().log_start().get();
        assert!(self.starts.contains(&start), "{what}");
        let last = usize::try_from(self.store().watermark().get()).unwrap();
        assert!(last >= self.durable, "{what}");
        self.events.truncate(last);
        self.durable = last;
        for seed in [0, 1, 2] {
            self.check_image(&self.storage.crash(seed), &format!("{what}, opened again, seed {seed}"));
        }
        self.starts = vec![start];
    }
}

fn fail_once_everywhere(fault: Fault) {
    let mut first = Life::new();
    for n in 1.. {
        let mut life = first.copy();
        life.storage.fail_at(n, fault);
        let what = format!("operation {n} fails once");
        if life.open().is_err() {
            life.open_again(&what);
        }
        LIFE.iter().for_each(|deed| life.act_on(*deed, &what));
        if life.storage.operations() < n {
            assert!(n > 300, "{n}");
            return;
        }
        for seed in [0, u64::MAX, n] {
            life.check_image(&life.storage.crash(seed), &format!("{what}, seed {seed}"));
        }
    }
}

#[test]
fn a_disk_that_fails_once_during_a_retention_loses_nothing_that_is_kept() {
    fail_once_everywhere(Fault::once(io::ErrorKind::Other));
}

#[test]
fn a_disk_that_is_full_once_during_a_retention_loses_nothing_that_is_kept() {
    fail_once_everywhere(Fault::once(io::ErrorKind::StorageFull).short());
}
