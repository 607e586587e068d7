//! What every engine is asked to do, under one interface, so that all are asked alike.

use std::path::Path;

use crate::fact::{Fact, Tally};

/// Anything that goes wrong ends the run: a figure of an engine that failed is no figure.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;
/// What a step gives, or why it failed.
pub(crate) type Outcome<T> = Result<T, Fault>;

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Once the events are on the disk.
    Durable,
    /// As early as the engine allows.
    Deferred,
}

/// How a store will be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    /// When appends return.
    pub(crate) level: Level,
    /// How many threads append.
    pub(crate) threads: usize,
    /// About how many events it will hold at the most.
    pub(crate) events: u64,
}

/// What an engine promises, in a few words each; printed under the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// The crate whose version is printed.
    pub(crate) crate_name: &'static str,
    /// How it was made to be on the disk when an append returns.
    pub(crate) durable: &'static str,
    /// What a deferred append was.
    pub(crate) deferred: &'static str,
    /// What it can find an event by.
    pub(crate) index: &'static str,
    /// Which checksums a scan checks.
    pub(crate) checks: &'static str,
}

/// An engine. Opened for one use; inputs are built by [`prepare`](Peer::prepare), outside every timed part.
pub(crate) trait Peer: Sized + Send + Sync {
    /// What one append call is given.
    type Batch: Send;

    /// What it promises.
    const ABOUT: About;

    /// Makes or opens a store in a directory that is there.
    fn open(dir: &Path, usage: Use) -> Outcome<Self>;

    /// Builds what an append of these facts is given.
    fn prepare(&self, facts: &[Fact]) -> Outcome<Self::Batch>;

    /// Appends all of it as one unit, at the level that the store was opened for.
    fn append(&self, batch: &mut Self::Batch) -> Outcome<()>;

    /// Makes everything appended so far readable, and survive the end of this process.
    fn settle(&self) -> Outcome<()> {
        Ok(())
    }

    /// Gives every payload.
    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()>;

    /// Gives the payloads of a stream, in order.
    fn read_stream(&self, _name: &str, _each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        Err("this engine does not find events by stream".into())
    }

    /// Gives the payloads of the events with a tag, in order.
    fn read_tag(&self, _name: &str, _each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        Err("this engine does not find events by tag".into())
    }

    /// Closes the store, where that is more than dropping it.
    fn close(self) -> Outcome<()> {
        Ok(())
    }
}

/// Reads everything back and compares it with what was acknowledged.
pub(crate) fn verify<P: Peer>(peer: &P, expected: Tally) -> Outcome<()> {
    peer.settle()?;
    let mut found = Tally::default();
    peer.scan(&mut |payload| found.add(payload))?;
    same(P::ABOUT.name, found, expected)
}

/// An error that says what was missed, unless the tallies agree.
pub(crate) fn same(name: &str, found: Tally, expected: Tally) -> Outcome<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{name} gave back {found}, but {expected} had been acknowledged").into())
}
