//! What a loss of power left: recovers it, with more losses of power and failures on the way, and checks it.

use everfold::{Batch, Durability, Fault, Guard, MemoryStorage, Store, Version};

use super::dice::Dice;
use super::make::Maker;
use super::opening::{disk_error, operation_of_recovery};
use super::oracle::{Found, Oracle, Promise};
use super::setting::Setting;
use super::tally::Tally;
use super::{Held, ensure};

pub(crate) struct Image {
    pub(crate) storage: MemoryStorage,
    pub(crate) promise: Promise,
    pub(crate) what: String,
    /// In how many recoveries the power was lost.
    pub(crate) depth: u64,
}

pub(crate) struct Examiner<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) oracle: &'a Oracle,
    pub(crate) dice: &'a mut Dice,
    pub(crate) tally: &'a mut Tally,
}

impl Examiner<'_> {
    pub(crate) fn examine(&mut self, image: Image) -> Held {
        let what = image.what.clone();
        self.recover(image).map_err(|message| {
            if message.contains("power lost") { message } else { format!("{what}: {message}") }
        })
    }

    fn recover(&mut self, image: Image) -> Held {
        let Image { storage, promise, what, depth } = image;
        self.tally.crashes += 1;
        self.tally.interrupted += u64::from(depth > 0);
        if depth < 4 && self.dice.one_in(8) {
            for _ in 0..1 + self.dice.below(4) {
                storage.crash_at(operation_of_recovery(self.dice), self.dice.crash());
            }
        }
        if self.dice.one_in(12) {
            self.fail_once(&storage)?;
        }
        if self.dice.one_in(300) {
            self.peek(&storage, &promise)?;
        }
        if self.dice.one_in(20) {
            self.damage_before(&storage, &promise)?;
        }
        let before = self.dice.one_in(2).then(|| storage.crash(u64::MAX));
        let store = self.open(&storage)?;
        let report = store.recovery();
        ensure!(report.damage.is_empty(), "{report}");
        let found = self.oracle.check(&store, &promise)?;
        if let Some(before) = before {
            if let Some(removed) = &report.removed {
                check_removed(&before, &storage, removed)?;
            }
            // A second fault beside a torn slot would leave no mark at all.
            if report.notes.is_empty() && self.dice.one_in(6) {
                self.damage_mark(&before, &promise, found)?;
            }
        }
        ensure!(report.last.get() == found.last, "{report}");
        for outage in storage.outages() {
            let what = format!(
                "{what}, then power lost during operation {} of the recovery, seed {}",
                outage.operation, outage.seed
            );
            let promise = promise.after(outage.seed);
            self.examine(Image { storage: outage.left, promise, what, depth: depth + 1 })?;
        }
        self.go_on(store, &storage, found)
            .map_err(|message| format!("{what}: recovered {found:?}: {message}"))
    }

    /// What was served is there for good, and life goes on with it.
    fn go_on(&mut self, store: Store, storage: &MemoryStorage, found: Found) -> Held {
        match self.dice.below(9) {
            8 => self.damage_after(storage, found)?,
            0..3 => {
                // Whoever read it may have told.
                let left = storage.crash(self.dice.crash());
                self.tally.crashes += 1;
                self.found_again(&left, found, "the power lost after it was served")?;
            }
            3 => self.oracle.check_answers(&store, found, self.dice.next())?,
            4 => self.append_to(&store, storage, found)?,
            5 => {
                store.close().map_err(|error| format!("closing: {error:?}"))?;
                let store = self.found_again(storage, found, "closed and opened")?;
                ensure!(store.recovery().clean, "it was closed: {}", store.recovery());
            }
            6 => {
                drop(store);
                self.found_again(&storage.crash(u64::MAX), found, "opened again")?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, storage: &MemoryStorage) -> Result<Store, String> {
        let options = self.setting.options(Setting::opening(self.dice));
        options.open_memory(storage).map_err(|error| format!("opening fails: {error:?}"))
    }

    pub(crate) fn found_again(
        &mut self,
        storage: &MemoryStorage,
        found: Found,
        what: &str,
    ) -> Result<Store, String> {
        let store = self.open(storage).map_err(|message| format!("{what}: {message}"))?;
        let again = self.oracle.check(&store, &Promise::exactly(found));
        again.map_err(|message| format!("{what}: {message}"))?;
        Ok(store)
    }

    /// An opening that one operation or read fails: it fails, or does without.
    fn fail_once(&mut self, storage: &MemoryStorage) -> Held {
        let fault =
            Fault::once(self.dice.pick(&[std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull]));
        let fault = if self.dice.one_in(2) { fault.after(self.dice.size(1500)) } else { fault };
        if self.dice.one_in(2) {
            storage.fail_at(operation_of_recovery(self.dice), fault);
        } else {
            storage.fail_read_at(1 + self.dice.below(60), fault);
        }
        let opened = self.setting.options(Setting::opening(self.dice)).open_memory(storage);
        storage.clear_faults();
        if let Err(error) = opened {
            ensure!(disk_error(&error), "a recovery that an operation fails: {error:?}");
            self.tally.recoveries_failed += 1;
        }
        Ok(())
    }

    /// A read-only opening shows what a recovery will keep, and changes nothing.
    fn peek(&mut self, storage: &MemoryStorage, promise: &Promise) -> Held {
        let operations = storage.operations();
        let options = self.setting.options(Setting::opening(self.dice)).read_only(true);
        match options.open_memory(storage) {
            Ok(store) => {
                self.oracle.check(&store, promise).map(drop).map_err(|m| format!("read-only: {m}"))?
            }
            Err(error) => {
                let none = error.kind() == everfold::ErrorKind::NotFound && promise.durable == 0;
                ensure!(none, "read-only: {error:?}");
            }
        }
        ensure!(storage.operations() == operations, "a read-only opening changes something");
        Ok(())
    }

    /// Streams go on at their versions, also those of which nothing is left, and what is appended is there.
    fn append_to(&mut self, store: &Store, storage: &MemoryStorage, found: Found) -> Held {
        let mut oracle = self.oracle.clone();
        oracle.keep(found.last);
        let batch = oracle.streams().fold(Batch::new(), |batch, (stream, version)| {
            batch.guard(Guard::version(stream, Version::new(version)))
        });
        let mut maker = Maker { dice: self.dice, oracle: &oracle };
        let made = maker.make(self.setting.room().min(2000), Durability::Durable);
        let batch =
            made.facts.iter().fold(batch, |batch, fact| batch.event(fact.stream.clone(), fact.event()));
        let done = store.append_batch(batch).map_err(|error| format!("appending after it: {error:?}"))?;
        oracle.push(made.facts);
        ensure!(done.position.get() == oracle.len(), "appended at {} after {}", done.position, found.last);
        let now = Promise::exactly(Found { start: found.start, last: oracle.len() });
        self.tally.crashes += 1;
        let left = storage.crash(self.dice.crash());
        let store = self.open(&left).map_err(|message| format!("after an append: {message}"))?;
        oracle.check(&store, &now).map(drop).map_err(|message| format!("after an append: {message}"))
    }
}

/// What was removed is in quarantine, durably, and zeros are where it was.
fn check_removed(before: &MemoryStorage, storage: &MemoryStorage, removed: &everfold::Removed) -> Held {
    let after = storage.crash(0);
    let place =
        usize::try_from(removed.offset).unwrap()..usize::try_from(removed.offset + removed.bytes).unwrap();
    let bytes = |storage: &MemoryStorage| storage.file(&removed.file)?.get(place.clone()).map(<[u8]>::to_vec);
    let kept = after.file(&removed.kept_in);
    ensure!(kept.is_some() && kept == bytes(before), "what was removed is not kept: {removed:?}");
    let left = bytes(&after).unwrap_or_default();
    ensure!(left.iter().all(|byte| *byte == 0), "what was removed is still there: {removed:?}");
    Ok(())
}
