//! A life: deeds one after the other, and after each a look at what losses of power during it would have left.

use everfold::{
    AppendError, Appended, Durability, ErrorKind, Fault, MemoryStorage, Position, Store, Subscription,
};

use super::dice::Dice;
use super::image::{Examiner, Image};
use super::make::{Made, Maker};
use super::opening::{disk_error, is_full};
use super::oracle::{Oracle, Promise};
use super::setting::Setting;
use super::tally::Tally;
use super::view::Folded;
use super::{Held, ensure};

pub(crate) struct Life<'a> {
    pub(crate) dice: Dice,
    pub(crate) setting: Setting,
    pub(crate) storage: MemoryStorage,
    pub(crate) store: Option<Store>,
    pub(crate) oracle: Oracle,
    /// Positions up to here were acknowledged as durable; as written or better; were seen.
    pub(crate) durable: u64,
    pub(crate) written: u64,
    pub(crate) seen: u64,
    /// Where the log may start.
    pub(crate) starts: Vec<u64>,
    /// What was promised before this deed.
    promised: Promise,
    /// A write or sync failed: the store has to be opened again.
    pub(crate) poisoned: bool,
    /// Losses of power are planned up to this operation.
    planned: u64,
    follower: Option<(Subscription, u64)>,
    view: Option<Folded>,
    tell: bool,
    pub(crate) tally: &'a mut Tally,
}

impl<'a> Life<'a> {
    pub(crate) fn new(seed: u64, tell: bool, tally: &'a mut Tally) -> Self {
        let mut dice = Dice::new(seed);
        let (setting, storage) = (Setting::draw(&mut dice), MemoryStorage::seeded(dice.next()));
        if tell {
            println!("{setting:?}");
        }
        Life {
            dice,
            setting,
            storage,
            store: None,
            oracle: Oracle::default(),
            durable: 0,
            written: 0,
            seen: 0,
            starts: vec![1],
            promised: Promise::default(),
            poisoned: false,
            planned: 0,
            follower: None,
            view: None,
            tell,
            tally,
        }
    }

    pub(crate) fn live(mut self) -> Held {
        self.deed("open", Self::open_first)?;
        for _ in 0..self.setting.deeds {
            match self.dice.below(25) {
                0..11 => self.deed("append", Self::append),
                11..13 => self.deed("sync", Self::sync),
                13..15 => self.deed("read", Self::read),
                15 => self.deed("follow", Self::follow),
                16..18 => self.deed("append again", Self::append_again),
                18..20 => self.deed("close and open", Self::reopen),
                20 => self.deed("lose power", Self::lose_power),
                21 if self.setting.faults => self.deed("plan a fault", Self::plan_fault),
                22 if self.setting.faults => self.deed("append while reads fail", Self::append_blind),
                23 if self.setting.tickets => self.deed("submit", Self::submit),
                24 if self.setting.retention => self.deed("retain", Self::retain),
                _ => self.deed("append", Self::append),
            }?;
            if self.setting.views && self.dice.one_in(3) {
                self.deed("view", Self::look_at_view)?;
            }
        }
        self.storage.clear_faults();
        self.deed("close and open", Self::reopen)?;
        self.deed("lose power", Self::lose_power)
    }

    /// Does one thing, and checks what losses of power during it left.
    fn deed(&mut self, name: &str, act: fn(&mut Self) -> Held) -> Held {
        self.tally.deeds += 1;
        self.begin().map_err(|message| format!("before {name}: {message}"))?;
        let from = self.storage.operations();
        let done = act(self).and_then(|()| if self.poisoned { self.open_again() } else { Ok(()) });
        let place = || format!("{name}, operations {from} to {}", self.storage.operations());
        self.say(|| format!("{}: {done:?}; {} events, {} durable", place(), self.oracle.len(), self.durable));
        done.map_err(|message| format!("{}: {message}", place()))?;
        self.examine().map_err(|message| format!("{name}: {message}"))?;
        self.look()
    }

    /// Notes what is promised from now on. The store's keeper writes and syncs by the clock, also between two deeds: the
    /// power may have been lost during that, before what it made durable was seen. So for what was left until now, what
    /// was promised before counts.
    fn begin(&mut self) -> Held {
        let promised = self.promise();
        self.examine()?;
        self.promised = promised;
        self.plan_outages();
        Ok(())
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{}", what());
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn promise(&self) -> Promise {
        let durable = self.durable.max(self.seen);
        let (written, most) = (self.written.max(durable), self.oracle.len());
        Promise { durable, written, most, starts: self.starts.clone() }
    }

    fn plan_outages(&mut self) {
        let upto = self.storage.operations() + 60;
        while self.planned < upto {
            self.planned += 1;
            if self.dice.one_in(self.setting.outage_every) {
                self.storage.crash_at(self.planned, self.dice.crash());
            }
        }
    }

    /// Recovers what the losses of power during this deed left. What was promised before it holds.
    pub(crate) fn examine(&mut self) -> Held {
        let mut promise = self.promised.clone();
        promise.most = promise.most.max(self.oracle.len());
        promise.starts.extend(&self.starts);
        for outage in self.storage.outages() {
            let what = format!("power lost during operation {}, seed {}", outage.operation, outage.seed);
            let image = Image { storage: outage.left, promise: promise.after(outage.seed), what, depth: 0 };
            self.examine_one(image)?;
        }
        Ok(())
    }

    pub(crate) fn examine_one(&mut self, image: Image) -> Held {
        let mut dice = Dice::new(self.dice.next());
        let mut examiner = Examiner {
            setting: &self.setting,
            oracle: &self.oracle,
            dice: &mut dice,
            tally: &mut *self.tally,
        };
        examiner.examine(image)
    }

    /// What can be read is whole, and does not go away.
    fn look(&mut self) -> Held {
        let Some(store) = &self.store else { return Ok(()) };
        let viewed = self.view.as_ref().map_or(0, Folded::seen);
        let (watermark, most) = (store.watermark().get(), self.oracle.len());
        ensure!(
            watermark <= most && self.oracle.is_whole(watermark),
            "the watermark is {watermark} of {most}"
        );
        ensure!(
            watermark >= self.durable,
            "the watermark is {watermark}, and {} was acknowledged",
            self.durable
        );
        ensure!(watermark >= self.seen, "the watermark is {watermark}, and was {}", self.seen);
        self.seen = self.seen.max(watermark).max(viewed);
        ensure!(self.seen <= watermark, "the view is at {}, and the watermark at {watermark}", self.seen);
        Ok(())
    }

    fn make(&mut self) -> Made {
        let durability = self.dice.pick(&[Durability::Durable, Durability::Written, Durability::Deferred]);
        let mut maker = Maker { dice: &mut self.dice, oracle: &self.oracle };
        let mut made = maker.make(self.setting.room(), durability);
        if maker.dice.one_in(4) {
            maker.guard(&mut made);
        }
        made
    }

    fn append(&mut self) -> Held {
        let made = self.make();
        let outcome = self.store().append_batch(made.batch());
        self.take(made, outcome)
    }

    /// Takes note of how an append ended, and holds it against how it should have.
    fn take(&mut self, made: Made, outcome: Result<Appended, AppendError>) -> Held {
        let broken = made.broken(&self.oracle, self.store().log_start().get());
        match outcome {
            Ok(done) => {
                ensure!(
                    broken.is_none(),
                    "guard {broken:?} did not hold, and the batch was recorded: {done:?}"
                );
                let first = self.oracle.len() + 1;
                self.record(&made);
                let last = self.oracle.facts.last().unwrap();
                let wanted = (first, self.oracle.len(), last.version, false);
                let got = (done.first.get(), done.position.get(), done.version.get(), done.repeated);
                ensure!(got == wanted, "recorded at {got:?}, and not at {wanted:?}");
                self.acknowledge(made.durability);
            }
            Err(AppendError::Conflict(conflict)) => {
                let told = Some((conflict.number, conflict.position.get()));
                ensure!(told == broken, "guard {told:?} is said to be broken, and {broken:?} is");
            }
            Err(AppendError::Failed(error)) => {
                ensure!(self.setting.faults && disk_error(&error), "an append failed: {error:?}");
                self.tally.failed += 1;
                match error.kind() {
                    ErrorKind::Indeterminate => {
                        self.record(&made);
                        self.poisoned = !is_full(&error);
                    }
                    ErrorKind::Poisoned => self.poisoned = true,
                    _ => {}
                }
            }
            Err(other) => return Err(format!("an append failed: {other:?}")),
        }
        Ok(())
    }

    fn record(&mut self, made: &Made) {
        self.tally.appended += made.facts.len() as u64;
        self.oracle.push(made.facts.clone());
    }

    fn acknowledge(&mut self, durability: Durability) {
        if durability >= Durability::Written {
            self.written = self.oracle.len();
        }
        if durability == Durability::Durable {
            self.durable = self.oracle.len();
        }
    }

    fn sync(&mut self) -> Held {
        match self.store().sync() {
            Ok(position) => {
                let most = self.oracle.len();
                ensure!(position.get() == most, "synced up to {position} of {most}");
                self.acknowledge(Durability::Durable);
                Ok(())
            }
            Err(error) => self.take_failure(&error),
        }
    }

    /// A failure that leaves the store to be opened again, unless it is for want of room.
    pub(crate) fn take_failure(&mut self, error: &everfold::Error) -> Held {
        ensure!(self.setting.faults && disk_error(error), "{error:?}");
        self.tally.failed += 1;
        self.poisoned = !is_full(error);
        Ok(())
    }

    fn read(&mut self) -> Held {
        let (last, pick) = (self.store().watermark(), self.dice.next());
        match self.read_all(pick) {
            // The keeper made more of it durable in the middle of that.
            Err(_) if self.store().watermark() != last => self.read_all(pick),
            read => read,
        }
    }

    fn read_all(&self, pick: u64) -> Held {
        let (last, start) = (self.store().watermark().get(), self.store().log_start().get());
        let promise =
            Promise { durable: self.durable.max(self.seen), written: 0, most: last, starts: vec![start] };
        let found = self.oracle.check(self.store(), &promise)?;
        self.oracle.check_answers(self.store(), found, pick)?;
        if start > 1 {
            let first = self.store().read(Position::new(pick % (start - 1))).next();
            let told = first.map(|event| event.map(|event| event.position()).map_err(|error| error.kind()));
            let wanted = Err(ErrorKind::Truncated { first: Position::new(start) });
            ensure!(told.as_ref() == Some(&wanted), "a read of what was dropped gives {told:?}");
        }
        Ok(())
    }

    fn follow(&mut self) -> Held {
        if self.dice.one_in(4) {
            self.follower = None;
        }
        let store = self.store.as_ref().unwrap();
        let start = store.log_start().get();
        let from = start - 1 + self.dice.below(store.watermark().get() + 2 - start);
        let (follower, next) =
            self.follower.get_or_insert_with(|| (store.subscribe(Position::new(from)), from + 1));
        for _ in 0..self.dice.below(8) {
            let watermark = store.watermark().get();
            let Some(event) = follower.next_timeout(std::time::Duration::ZERO) else {
                ensure!(*next == watermark + 1, "a subscription ends before {next}");
                break;
            };
            let event = match event {
                Ok(event) => event,
                // A batch that was there already is answered well, also when the sync that was asked for failed.
                Err(error) => return self.take_failure(&error),
            };
            ensure!(event.position().get() == *next, "a subscription gives {} for {next}", event.position());
            self.oracle.knows(&event)?;
            *next += 1;
            self.seen = self.seen.max(event.position().get());
        }
        Ok(())
    }

    /// The next position that the open subscription will read.
    pub(crate) fn needs(&self) -> Option<u64> {
        self.follower.as_ref().map(|(_, next)| *next)
    }

    /// The same ids give the first positions, whatever the guards say, and record nothing.
    fn append_again(&mut self) -> Held {
        let start = self.store().log_start().get();
        let batches: Vec<_> = self.oracle.batches().filter(|(first, _)| *first >= start).collect();
        if batches.is_empty() {
            return Ok(());
        }
        let (first, last) = self.dice.pick(&batches);
        let range = usize::try_from(first - 1).unwrap()..usize::try_from(last).unwrap();
        let durability = self.dice.pick(&[Durability::Durable, Durability::Deferred]);
        let facts = &self.oracle.facts[range];
        let batch =
            facts.iter().fold(everfold::Batch::new(), |b, fact| b.event(fact.stream.clone(), fact.event()));
        match self.store().append_batch(batch.durability(durability)) {
            Ok(done) => {
                let got = (done.first.get(), done.position.get(), done.repeated);
                ensure!(got == (first, last, true), "{first} to {last} again are {got:?}");
                if durability == Durability::Durable {
                    self.durable = self.durable.max(last);
                    self.written = self.written.max(last);
                }
                Ok(())
            }
            Err(AppendError::Failed(error)) => self.take_failure(&error),
            Err(other) => Err(format!("the same batch again: {other:?}")),
        }
    }

    /// An operation to come will fail: once, or with all after it.
    fn plan_fault(&mut self) -> Held {
        use std::io::ErrorKind::{Interrupted, Other, StorageFull};
        let kind = self.dice.pick(&[Other, Other, StorageFull, StorageFull, Interrupted]);
        let fault = if self.dice.one_in(3) { Fault::from_then_on(kind) } else { Fault::once(kind) };
        let fault = match self.dice.below(4) {
            0 => fault.short(),
            1 => fault.after(self.dice.size(2000)),
            _ => fault,
        };
        let operation = self.storage.operations() + 1 + self.dice.below(24);
        self.say(|| format!("operation {operation}: {fault:?}"));
        self.storage.fail_at(operation, fault);
        Ok(())
    }

    /// An append whose look-ups may fail: then nothing is recorded, and appends go on.
    fn append_blind(&mut self) -> Held {
        if self.view.is_some() {
            return Ok(());
        }
        let made = self.make();
        let read = self.storage.reads() + 1 + self.dice.below(3);
        self.storage.fail_read_at(read, Fault::once(std::io::ErrorKind::Other));
        let outcome = self.store().append_batch(made.batch());
        self.storage.clear_faults();
        self.take(made, outcome)
    }

    /// Several batches at once, in the order of submission. The committer's thread makes groups of them as it comes
    /// to them: so this differs from one run of a life to another.
    fn submit(&mut self) -> Held {
        let mut tickets = Vec::new();
        for _ in 0..2 + self.dice.below(6) {
            let made = self.make();
            let ticket = self.store().submit(made.batch()).map_err(|error| format!("submit: {error:?}"))?;
            tickets.push((made, ticket));
        }
        for (made, ticket) in tickets {
            self.take(made, ticket.wait())?;
        }
        Ok(())
    }

    fn look_at_view(&mut self) -> Held {
        if self.view.is_none() {
            self.view = Some(Folded::start(self.store())?);
        }
        let view = self.view.as_ref().unwrap();
        view.check(self.store(), &self.oracle)
    }

    /// Lets go of the store as it is, and of all that reads from it.
    pub(crate) fn leave(&mut self) -> Option<Store> {
        self.follower = None;
        self.view = None;
        self.store.take()
    }

    pub(crate) fn go_on_with(&mut self, storage: MemoryStorage) {
        self.storage = storage;
        self.planned = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_durable_between_two_deeds_was_not_promised_before() {
        let mut tally = Tally::default();
        let mut life = Life::new(1, false, &mut tally);
        life.setting.faults = false;
        life.setting.outage_every = 1;
        life.deed("open", Life::open_first).unwrap();
        let deferred = |life: &mut Life<'_>| {
            let made = Maker { dice: &mut life.dice, oracle: &life.oracle }.make(500, Durability::Deferred);
            let outcome = life.store().append_batch(made.batch());
            life.take(made, outcome)
        };
        for _ in 0..20 {
            life.deed("append", deferred).unwrap();
            // As the keeper does when a thread has slept for long.
            life.store().sync().unwrap();
            life.look().unwrap();
            assert_eq!(life.seen, life.oracle.len());
            life.deed("nothing", |_| Ok(())).unwrap();
        }
        assert!(life.tally.crashes > 40, "{}", life.tally);
    }
}
