//! What the disk and the memory allow: the same bytes, written, synced and read without an engine.

mod commit;
mod file;

use std::path::Path;

use commit::GroupCommit;
pub(crate) use commit::Ticket;
use file::RawFile;

use crate::fact::{Fact, payload_of};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// A file, written in the cheapest way that keeps the promise of its use.
pub(crate) enum Raw {
    /// Deferred: one write, growing.
    Written(RawFile),
    /// Durable, one thread: one write and one sync, in space that was filled with zeros.
    Synced(RawFile),
    /// Durable, many threads: group commit, in space that was filled with zeros.
    Grouped(GroupCommit),
}

impl Raw {
    /// Queues bytes for the next group.
    pub(crate) fn submit(&self, bytes: &mut Vec<u8>) -> Outcome<Ticket> {
        match self {
            Raw::Grouped(log) => Ok(log.submit(bytes)),
            _ => Err("opened for one thread".into()),
        }
    }

    /// Waits for a group.
    pub(crate) fn wait(&self, ticket: Ticket) -> Outcome<()> {
        match self {
            Raw::Grouped(log) => log.wait(ticket),
            _ => return Err("opened for one thread".into()),
        }
        Ok(())
    }
}

impl Peer for Raw {
    type Batch = Vec<u8>;

    const ABOUT: About = About {
        name: "raw",
        crate_name: "",
        durable: "pwrite and fdatasync in zero-filled space; for 64 threads one of each for a group",
        deferred: "one pwrite for 1,000 records",
        index: "none",
        checks: "all (a map of the file)",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let path = dir.join("raw");
        if usage.level == Level::Deferred {
            return Ok(Raw::Written(RawFile::growing(&path)?));
        }
        let file = RawFile::zero_filled(&path, usage.events * 384)?;
        Ok(if usage.threads == 1 { Raw::Synced(file) } else { Raw::Grouped(GroupCommit::start(file)) })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Vec<u8>> {
        Ok(facts.iter().flat_map(Fact::record).collect())
    }

    fn append(&self, batch: &mut Vec<u8>) -> Outcome<()> {
        match self {
            Raw::Written(file) => file.write(batch),
            Raw::Synced(file) => {
                file.write(batch)?;
                file.sync()
            }
            Raw::Grouped(log) => {
                log.wait(log.submit(batch));
                Ok(())
            }
        }
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let file = match self {
            Raw::Written(file) | Raw::Synced(file) => file,
            Raw::Grouped(log) => log.file(),
        };
        file.scan(&mut |record| each(payload_of(record)))
    }
}
