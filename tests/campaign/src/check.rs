//! Whether a store still has all it acknowledged, and nothing else: the checks after every fault.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everfold::{Durability, ErrorKind, Position, Projection, RecordedEvent, Store, View};

use crate::claims::Claims;
use crate::figure::Figures;
use crate::lookups;
use crate::workload::{CountByStream, Did, SumByTag, fold, options, said};

/// The life of what the checks append.
const OWN_LIFE: u32 = u32::MAX;

/// What a fault may take, and what is checked after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Acknowledged batches of this durability and higher ones stay.
    pub(crate) keeps: Durability,
    /// Look without recovering anything, so that the next life has to recover it.
    pub(crate) only_look: bool,
}

/// What is known of one store over all its lives. What was once served is never to change.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    dir: PathBuf,
    /// The batch and number in it of each event since position 1, also of those that retention has dropped.
    served: Vec<(Did, u64)>,
    created: bool,
    log_start: u64,
    /// What the store was ever asked to drop: everything before this.
    retain: u64,
    appended: u64,
    /// Whether the processes have views: then nothing may be dropped that they need.
    views: bool,
    pub(crate) counts: Counts,
    /// Views had been made durably before the life that is checked.
    pub(crate) has_views: bool,
    /// Why views were set aside and made anew.
    pub(crate) rebuilt: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) events: u64,
    /// Batches that were acknowledged without having been synced, and that the fault has taken.
    pub(crate) lost: u64,
    /// Ends of logs that were torn or left over.
    pub(crate) removed: u64,
    /// Views that were being made at the fault, and were then taken for damaged.
    pub(crate) unfinished: u64,
    /// Views that had been whole, and were then taken for damaged.
    pub(crate) rebuilt: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.acknowledged += other.acknowledged;
        self.events += other.events;
        self.lost += other.lost;
        self.removed += other.removed;
        self.unfinished += other.unfinished;
        self.rebuilt += other.rebuilt;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acknowledged, events, lost, removed, .. } = self;
        write!(
            f,
            "{acknowledged} batches acknowledged, {lost} of them unsynced and lost, {events} events, {removed} torn ends"
        )
    }
}

impl Counts {
    /// What every campaign with views tells.
    pub(crate) fn tell(&self, name: &str, figures: &mut Figures) {
        figures.count(&format!("{name}_acknowledged_batches"), self.acknowledged, 1);
        figures.none(&format!("{name}_unfinished_views_taken_for_damaged"), self.unfinished);
        figures.none(&format!("{name}_views_taken_for_damaged"), self.rebuilt);
    }
}

impl Checker {
    pub(crate) fn new(dir: &Path, views: bool) -> Checker {
        let dir = dir.to_owned();
        Checker {
            dir,
            served: Vec::new(),
            created: false,
            log_start: 1,
            retain: 0,
            appended: 0,
            views,
            counts: Counts::default(),
            has_views: false,
            rebuilt: Vec::new(),
        }
    }

    /// The last position that was served: retention may be asked to drop what is before it.
    pub(crate) fn last(&self) -> u64 {
        self.served.len() as u64
    }

    /// Checks the store after a life of the process that ended with a fault.
    pub(crate) fn check(&mut self, claims: &Claims, fault: Fault) -> Result<(), String> {
        self.created |= claims.opened;
        self.retain = self.retain.max(claims.retain);
        self.counts.acknowledged += claims.acks.len() as u64;
        let store = match self.open(fault.only_look) {
            Err(error) if error.kind() == ErrorKind::NotFound && fault.only_look && !self.created => {
                return Ok(());
            }
            opened => opened.map_err(|e| format!("the store is refused: {e:?}"))?,
        };
        self.look(&store)?;
        self.hold_against(claims, fault)?;
        if fault.only_look { Ok(()) } else { self.use_again(store) }
    }

    fn open(&self, read_only: bool) -> Result<Store, everfold::Error> {
        options().read_only(read_only).create(!self.created && !read_only).open(&self.dir)
    }

    /// Reads the whole log; what was served before must still be what it was.
    fn look(&mut self, store: &Store) -> Result<(), String> {
        let report = store.recovery();
        if !report.damage.is_empty() {
            return Err(format!("damage is reported: {report}"));
        }
        // A read-only opening notes what a recovery would remove.
        let removed = report.removed.is_some() || report.notes.iter().any(|note| note.contains("torn"));
        self.counts.removed += u64::from(removed);
        self.log_start = self.log_start(store.log_start().get())?;
        let mut reading = Reading::default();
        for (event, position) in store.read(store.log_start().previous()).zip(self.log_start..) {
            let event = event.map_err(|e| format!("position {position} cannot be read: {e:?}"))?;
            let this = reading.event(&event, position)?;
            match self.served.get(index(position)) {
                None => self.served.push(this),
                Some(before) if *before == this => {}
                Some(before) => return Err(format!("position {position} was {before:?} and is {this:?}")),
            }
        }
        reading.end()?;
        let (last, known) = (report.last.get(), self.last());
        self.counts.events = known;
        if last != known {
            return Err(format!("the log ends with position {last}, and {known} was served"));
        }
        Ok(())
    }

    fn log_start(&self, first: u64) -> Result<u64, String> {
        if first < self.log_start || first > self.retain.max(1) || first > self.last() + 1 {
            return Err(format!(
                "the log starts with position {first}; it started with {}, has {} events, and was asked to drop what is before {}",
                self.log_start,
                self.last(),
                self.retain
            ));
        }
        Ok(first)
    }

    /// Checks that all is there that was acknowledged and that the fault keeps.
    fn hold_against(&mut self, claims: &Claims, fault: Fault) -> Result<(), String> {
        let (last, kept) = (self.last(), claims.kept(fault.keeps));
        if last < kept {
            return Err(format!("position {kept} was acknowledged, and the log ends with {last}"));
        }
        if self.log_start < claims.retained {
            return Err(format!(
                "what is before {} was dropped, and the log starts with {}",
                claims.retained, self.log_start
            ));
        }
        self.counts.lost += claims.acks.iter().filter(|ack| ack.first > last).count() as u64;
        for ack in claims.acks.iter().filter(|ack| ack.first <= last) {
            let found = self.served.get(index(ack.first));
            if found != Some(&(ack.did, 0)) {
                return Err(format!("{ack} was said, and position {} is {found:?}", ack.first));
            }
        }
        Ok(())
    }

    /// Checks views and look-ups, appends, closes, and looks once more.
    fn use_again(&mut self, store: Store) -> Result<(), String> {
        if self.views {
            self.check_views(&store)?;
            self.has_views = true;
        }
        lookups::check(&store, &self.served, self.log_start)?;
        let did = Did { life: OWN_LIFE, thread: 0, n: 8 * self.appended };
        self.appended += 1;
        let batch = did.batch().map_err(|e| e.to_string())?;
        let done = store.append_batch(batch).map_err(|e| format!("the store takes no appends: {e:?}"))?;
        if done.first.get() != self.last() + 1 {
            return Err(format!("the next append came to {} after {}", done.first, self.last()));
        }
        self.served.extend((0..did.len()).map(|i| (did, i)));
        store.close().map_err(|e| format!("the store does not close: {e:?}"))?;
        drop(store);
        let again =
            self.open(true).map_err(|e| format!("the store is refused after it was closed: {e:?}"))?;
        if !again.recovery().clean {
            return Err(format!("the store was closed, and is not found so: {}", again.recovery()));
        }
        self.look(&again)
    }

    fn check_views(&mut self, store: &Store) -> Result<(), String> {
        let [counts, sums] = fold(self.served.iter().copied());
        self.check_view(store, CountByStream, &counts)?;
        self.check_view(store, SumByTag, &sums)
    }

    fn check_view<P>(
        &mut self,
        store: &Store,
        projection: P,
        expected: &BTreeMap<String, u64>,
    ) -> Result<(), String>
    where
        P: Projection<Key = String, Value = u64>,
    {
        let read = |view: &View<String, u64>| {
            view.wait_for(store.watermark(), Duration::from_secs(30))?;
            view.iter().collect::<Result<BTreeMap<_, _>, _>>()
        };
        let view = store.project(projection).map_err(|e| format!("view {}: {e:?}", P::NAME))?;
        let rows = read(&view).map_err(|e| format!("view {}: {e:?}; {:?}", P::NAME, view.status()))?;
        if let Some(why) = view.status().rebuilt_because {
            self.rebuilt.push(format!("view {}: {why}", P::NAME));
            match self.has_views {
                true => self.counts.rebuilt += 1,
                false => self.counts.unfinished += 1,
            }
        }
        if rows != *expected {
            return Err(format!("view {} has {rows:?} for {expected:?}", P::NAME));
        }
        Ok(())
    }
}

/// Reads a log in order: batches must be whole.
#[derive(Debug, Default)]
struct Reading {
    /// The batch that is being read, and its next event.
    open: Option<(Did, u64)>,
}

impl Reading {
    fn event(&mut self, event: &RecordedEvent, position: u64) -> Result<(Did, u64), String> {
        if event.position() != Position::new(position) {
            return Err(format!("position {} follows {}", event.position(), position - 1));
        }
        let this @ (did, i) = said(event).map_err(|e| format!("position {position}: {e:?}"))?;
        let follows = self.open.map_or(i == 0, |open| open == this);
        if !follows || !did.is(i, event) {
            return Err(format!("position {position} is {this:?} after {:?}: {event:?}", self.open));
        }
        self.open = (i + 1 < did.len()).then_some((did, i + 1));
        Ok(this)
    }

    fn end(&self) -> Result<(), String> {
        self.open.map_or(Ok(()), |open| Err(format!("the log ends where {open:?} should be")))
    }
}

/// A position as a place in a list that begins with position 1.
fn index(position: u64) -> usize {
    usize::try_from(position - 1).unwrap_or(usize::MAX)
}
