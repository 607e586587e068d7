//! Retention, as a deed.

use everfold::{ErrorKind, Position, Retention};

use super::life::Life;
use super::opening::disk_error;
use super::{Held, ensure};

impl Life<'_> {
    pub(crate) fn retain(&mut self) -> Held {
        let (old, last) = (self.store().log_start().get(), self.store().watermark().get());
        let before = self.dice.below(last + 3);
        let policy = match self.dice.below(3) {
            0 => Retention::new().max_bytes(self.dice.below(8) * self.setting.segment_size),
            _ => Retention::new().before(Position::new(before)),
        };
        let dry = self.store().retain(&policy.clone().dry_run(true));
        let target = match dry {
            Ok(retained) => retained.first.get(),
            Err(error) => return self.retain_failed(&error, vec![old]),
        };
        let most = self.needs().unwrap_or(u64::MAX).min(last + 1);
        ensure!(
            (old..=most.max(old)).contains(&target),
            "the log would start at {target}, from {old}, and {most} is needed"
        );
        self.starts = if target == old { vec![old] } else { vec![old, target] };
        match self.store().retain(&policy) {
            Ok(retained) => {
                let first = retained.first.get();
                ensure!(first == target, "the log starts at {first}, and {target} was foretold");
                let told = self.store().log_start();
                ensure!(told.get() == target, "the log starts at {told}, and {target} was told");
                self.tally.dropped += target - old;
                self.starts = vec![target];
                Ok(())
            }
            Err(error) => self.retain_failed(&error, vec![old]),
        }
    }

    /// Nothing was dropped, unless the mark could not be written: that the next opening tells.
    fn retain_failed(&mut self, error: &everfold::Error, starts: Vec<u64>) -> Held {
        ensure!(self.setting.faults && disk_error(error), "retention failed: {error:?}");
        self.tally.failed += 1;
        match error.kind() {
            ErrorKind::Poisoned => self.poisoned = true,
            _ => self.starts = starts,
        }
        Ok(())
    }
}
