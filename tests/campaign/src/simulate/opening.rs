//! Opening, closing, crashing, and opening again after a failure.

use everfold::{Error, ErrorKind, Fault, Store};

use super::dice::Dice;
use super::life::Life;
use super::oracle::{Found, Promise};
use super::setting::Setting;
use super::{Held, ensure};

/// Whether an error may come from an operation that failed on purpose.
pub(crate) fn disk_error(error: &Error) -> bool {
    use ErrorKind::{DiskFull, Indeterminate, Io, Poisoned};
    matches!(error.kind(), Io | DiskFull | Poisoned | Indeterminate)
}

/// Whether it is for want of room: then what was to be written waits, and appends go on when there is some.
pub(crate) fn is_full(error: &everfold::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<everfold::Error>());
    error.kind() == ErrorKind::DiskFull || cause.is_some_and(|cause| cause.kind() == ErrorKind::DiskFull)
}

/// No opening is tried more often.
const TRIES: usize = 100;

impl Life<'_> {
    pub(crate) fn open_first(&mut self) -> Held {
        if self.setting.faults && self.dice.one_in(2) {
            let fault =
                Fault::once(self.dice.pick(&[std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull]));
            self.storage.fail_at(1 + self.dice.below(24), fault);
        }
        let store = self.open()?;
        ensure!(store.recovery().last.get() == 0, "a new store has events: {}", store.recovery());
        self.store = Some(store);
        Ok(())
    }

    /// Opens what is there, again if the disk fails it.
    fn open(&mut self) -> Result<Store, String> {
        for _ in 0..TRIES {
            let options = self.setting.options(Setting::opening(&mut self.dice));
            match options.open_memory(&self.storage) {
                Ok(store) => return Ok(store),
                Err(error) => {
                    ensure!(self.setting.faults && disk_error(&error), "opening fails: {error:?}");
                    self.tally.recoveries_failed += 1;
                    if self.dice.one_in(3) {
                        self.storage.clear_faults();
                    }
                }
            }
        }
        Err("opening fails again and again".into())
    }

    fn check_found(&mut self, store: &Store, promise: &Promise) -> Result<Found, String> {
        let report = store.recovery();
        ensure!(report.damage.is_empty(), "{report}");
        let found = self.oracle.check(store, promise)?;
        ensure!(report.last.get() == found.last, "{report}");
        if self.dice.one_in(4) {
            self.oracle.check_answers(store, found, self.dice.next())?;
        }
        Ok(found)
    }

    /// Takes what was found for what there is.
    fn take_over(&mut self, store: Store, found: Found) {
        self.oracle.keep(found.last);
        (self.durable, self.written, self.seen) = (found.last, found.last, found.last);
        self.starts = vec![found.start];
        self.poisoned = false;
        self.store = Some(store);
    }

    pub(crate) fn reopen(&mut self) -> Held {
        let closed = self.leave().unwrap();
        if let Err(error) = closed.close() {
            self.take_failure(&error)?;
            self.poisoned = true;
            self.store = Some(closed);
            return Ok(());
        }
        drop(closed);
        let most = self.oracle.len();
        (self.durable, self.written) = (most, most);
        let store = self.open()?;
        let found = self.check_found(&store, &self.promise())?;
        ensure!(found.last == most, "{} of {most} events are there after closing", found.last);
        let clean = self.setting.faults || store.recovery().clean;
        ensure!(clean, "it was closed: {}", store.recovery());
        self.take_over(store, found);
        Ok(())
    }

    /// After a failure: the same files in the same system, which may believe more than its disk holds.
    pub(crate) fn open_again(&mut self) -> Held {
        let left = self.leave().unwrap();
        self.seen = self.seen.max(left.watermark().get());
        let before = self.promise();
        let refused = left.append_batch(everfold::Batch::new().event("s0", everfold::Event::raw("t0", "x")));
        ensure!(refused.is_err(), "a poisoned store takes an append");
        drop(left);
        if self.dice.one_in(2) {
            self.storage.clear_faults();
        }
        let store = self.open()?;
        // What was written is with the system, which goes on.
        let found = self.check_found(&store, &before.after(u64::MAX))?;
        self.examine()?;
        self.take_over(store, found);
        Ok(())
    }

    /// Goes on with what a loss of power leaves, or the end of the process.
    pub(crate) fn lose_power(&mut self) -> Held {
        let (seed, before) = (self.dice.crash(), self.promise());
        self.examine()?;
        let left = self.storage.crash(seed);
        drop(self.leave());
        // Whatever the old process still did was done in the old files.
        let _gone = self.storage.outages();
        self.go_on_with(left);
        if self.setting.faults && self.dice.one_in(3) {
            let fault =
                Fault::once(self.dice.pick(&[std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull]));
            self.storage.fail_at(1 + self.dice.below(12), fault);
        }
        self.tally.crashes += 1;
        let store = self.open()?;
        let found = self.check_found(&store, &before.after(seed))?;
        self.take_over(store, found);
        Ok(())
    }
}

/// Which operations of a recovery are tried: there are hardly more.
pub(crate) fn operation_of_recovery(dice: &mut Dice) -> u64 {
    let most = dice.pick(&[12, 12, 12, 40]);
    1 + dice.below(most)
}
