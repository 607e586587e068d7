//! raft-engine: TiKV's log of many Raft groups, used as one log; where threads append, each has a group of its own.
//!
//! A group for each stream would make it look worse than it is: it reads a whole batch for each entry.

use std::path::Path;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::fact::{Fact, payload_of};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// An engine without compression, which the payloads would not yield to.
pub(crate) struct RaftEngine {
    engine: Engine,
    sync: bool,
    /// Whether each stream is a group, with versions as indexes; else positions are.
    groups: bool,
}

/// Entries that a scan fetches at a time.
const PAGE: u64 = 10_000;

/// An entry is a record; its index is the version in it.
struct Record;

impl MessageExt for Record {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.get(16..24).and_then(|version| version.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

impl RaftEngine {
    fn read_group(&self, group: u64, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let (Some(first), Some(last)) = (self.engine.first_index(group), self.engine.last_index(group))
        else {
            return Ok(());
        };
        let mut entries = Vec::new();
        let mut next = first;
        while next <= last {
            let end = (next + PAGE).min(last + 1);
            self.engine.fetch_entries_to::<Record>(group, next, end, None, &mut entries)?;
            for entry in entries.drain(..) {
                each(payload_of(&entry.value));
            }
            next = end;
        }
        Ok(())
    }
}

impl Peer for RaftEngine {
    type Batch = LogBatch;

    const ABOUT: About = About {
        name: "raft-engine",
        crate_name: "raft-engine",
        durable: "write(sync = true): fdatasync before it returns, one for a group of writes",
        deferred: "write(sync = false): with the operating system",
        index: "group and index in it, in memory; here one group, with the position as index",
        checks: "of each block read",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let config = Config {
            dir: dir.to_str().ok_or("a directory whose name is not UTF-8")?.to_owned(),
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        let sync = usage.level == Level::Durable;
        Ok(RaftEngine { engine: Engine::open(config)?, sync, groups: usage.threads > 1 })
    }

    /// Encodes: a batch of this engine is encoded as it is built.
    fn prepare(&self, facts: &[Fact]) -> Outcome<LogBatch> {
        let mut batch = LogBatch::with_capacity(1);
        for facts in facts.chunk_by(|one, next| !self.groups || one.stream == next.stream) {
            let entry = |fact: &Fact| {
                let version = if self.groups { fact.version } else { fact.number };
                let mut entry = BytesValue::new();
                entry.set_value(Fact { version, ..*fact }.record());
                entry
            };
            let group = if self.groups { facts[0].stream + 1 } else { 1 };
            batch.add_entries::<Record>(group, &facts.iter().map(entry).collect::<Vec<_>>())?;
        }
        Ok(batch)
    }

    fn append(&self, batch: &mut LogBatch) -> Outcome<()> {
        self.engine.write(batch, self.sync)?;
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        for group in self.engine.raft_groups() {
            self.read_group(group, each)?;
        }
        Ok(())
    }
}
