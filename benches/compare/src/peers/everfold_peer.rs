//! everfold itself.

use std::path::Path;

use everfold::{Batch, Durability, Event, Options, Position, Query, Store, Ticket, Version};

use crate::fact::{EVENT_TYPE, Fact};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// An everfold store with its default options.
pub(crate) struct Everfold {
    store: Store,
    level: Durability,
}

impl Everfold {
    /// The store itself.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

/// Submits a batch without waiting for it.
pub(crate) fn submit(peer: &Everfold, batch: &mut Batch) -> Outcome<Ticket> {
    Ok(peer.store.submit(std::mem::take(batch))?)
}

/// Waits until what was submitted is durable.
pub(crate) fn wait(_: &Everfold, ticket: Ticket) -> Outcome<()> {
    ticket.wait()?;
    Ok(())
}

/// The event that everfold is given for a fact.
pub(crate) fn event(fact: &Fact) -> Event {
    Event::raw(EVENT_TYPE, fact.payload()).tag(fact.tag_name())
}

impl Peer for Everfold {
    type Batch = Batch;

    const ABOUT: About = About {
        name: "everfold",
        crate_name: "everfold",
        durable: "Durability::Durable: fdatasync before it returns, one for a group of appends",
        deferred: "Durability::Deferred: in memory and ordered; written in large pieces, synced every 100 ms",
        index: "position, stream and version, event id, type, tag",
        checks: "all, in a store opened anew for each scan",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let level = match usage.level {
            Level::Durable => Durability::Durable,
            Level::Deferred => Durability::Deferred,
        };
        Ok(Everfold { store: Options::new().open(dir)?, level })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Batch> {
        let empty = Batch::new().durability(self.level);
        Ok(facts.iter().fold(empty, |batch, fact| batch.event(fact.stream_name(), event(fact))))
    }

    fn append(&self, batch: &mut Batch) -> Outcome<()> {
        self.store.append_batch(std::mem::take(batch))?;
        Ok(())
    }

    fn settle(&self) -> Outcome<()> {
        self.store.sync()?;
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let mut events = self.store.read(Position::START);
        while let Some(event) = events.lend() {
            each(event?.payload());
        }
        Ok(())
    }

    fn read_stream(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let mut events = self.store.read_stream(name, Version::NONE);
        while let Some(event) = events.lend() {
            each(event?.payload());
        }
        Ok(())
    }

    fn read_tag(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let mut events = self.store.read_query(&Query::all().tags([name]), Position::START);
        while let Some(event) = events.lend() {
            each(event?.payload());
        }
        Ok(())
    }

    fn close(self) -> Outcome<()> {
        self.store.close()?;
        Ok(())
    }
}
