//! A projection, and what its view has to have.

use std::collections::BTreeMap;
use std::time::Duration;

use everfold::{ApplyError, Position, Projection, RecordedEvent, Store, View, ViewBatch};

use super::oracle::Oracle;
use super::{Held, ensure};

/// Of each stream: how many events, how many bytes of payload, the last position.
pub(crate) struct Sums;

type Sum = (u64, u64, u64);

impl Projection for Sums {
    const NAME: &'static str = "sums";
    const GENERATION: u32 = 1;
    const FROM_LOG_START: bool = true;
    type Key = String;
    type Value = Sum;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, Sum>) -> Result<(), ApplyError> {
        let bytes = event.payload().len() as u64;
        view.update(event.stream().to_owned(), |sum| {
            let (events, before, _) = sum.unwrap_or_default();
            Some((events + 1, before + bytes, event.position().get()))
        })
    }
}

/// A view, and where the log started when it was.
pub(crate) struct Folded {
    view: View<String, Sum>,
    from: u64,
}

impl Folded {
    pub(crate) fn start(store: &Store) -> Result<Self, String> {
        let from = store.log_start().get();
        let view = store.project(Sums).map_err(|error| format!("starting the projection: {error}"))?;
        let folded = Folded { view, from };
        // Until it has begun, retention may take from under it what it starts with.
        folded.wait(store.watermark())?;
        Ok(folded)
    }

    /// How far the view was seen to be.
    pub(crate) fn seen(&self) -> u64 {
        self.view.checkpoint().get()
    }

    fn wait(&self, position: Position) -> Held {
        let waited = self.view.wait_for(position, Duration::from_secs(60));
        waited.map_err(|error| format!("waiting for the view: {error}"))
    }

    /// The rows are the fold of the list up to the checkpoint.
    pub(crate) fn check(&self, store: &Store, oracle: &Oracle) -> Held {
        self.wait(store.watermark())?;
        let last = self.view.checkpoint().get();
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        let facts = oracle.facts.iter().zip(1..).take(usize::try_from(last).unwrap());
        for (fact, position) in facts.filter(|(_, position)| *position >= self.from) {
            let sum = sums.entry(fact.stream.clone()).or_default();
            *sum = (sum.0 + 1, sum.1 + fact.payload.len() as u64, position);
        }
        let rows: Result<BTreeMap<String, Sum>, _> = self.view.iter().collect();
        let rows = rows.map_err(|error| format!("reading the view: {error}"))?;
        ensure!(rows == sums, "at {last} the view has {rows:?}, and the log gives {sums:?}");
        Ok(())
    }
}
