//! fjall: a log-structured merge tree. Events by position, and an index each for streams and tags.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::{event_key, index_key, index_range};
use crate::fact::{Fact, payload_of};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// A database with three keyspaces.
pub(crate) struct Fjall {
    database: Database,
    events: Keyspace,
    streams: Keyspace,
    tags: Keyspace,
    mode: PersistMode,
}

impl Fjall {
    fn read_index(&self, index: &Keyspace, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        for entry in index.range(index_range(name)) {
            let number = entry.value()?;
            if let Some(record) = self.events.get(&number)? {
                each(payload_of(&record));
            }
        }
        Ok(())
    }
}

impl Peer for Fjall {
    type Batch = Option<OwnedWriteBatch>;

    const ABOUT: About = About {
        name: "fjall",
        crate_name: "fjall",
        durable: "batch with PersistMode::SyncData: fdatasync of its journal, one for each batch",
        deferred: "batch with PersistMode::Buffer: with the operating system",
        index: "position, stream and version, tag: three keyspaces, one atomic batch",
        checks: "of blocks read from files, not of those in its cache or memtable",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let database = Database::builder(dir).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        Ok(Fjall {
            events: keyspace("events")?,
            streams: keyspace("streams")?,
            tags: keyspace("tags")?,
            mode: match usage.level {
                Level::Durable => PersistMode::SyncData,
                Level::Deferred => PersistMode::Buffer,
            },
            database,
        })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Self::Batch> {
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), facts.len() * 3)
            .durability(Some(self.mode));
        for fact in facts {
            let number = event_key(fact.number);
            batch.insert(&self.events, number, fact.record());
            batch.insert(&self.streams, index_key(&fact.stream_name(), fact.version), number);
            batch.insert(&self.tags, index_key(&fact.tag_name(), fact.number), number);
        }
        Ok(Some(batch))
    }

    fn append(&self, batch: &mut Self::Batch) -> Outcome<()> {
        batch.take().ok_or("a batch is appended once")?.commit()?;
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        for entry in self.events.iter() {
            each(payload_of(&entry.value()?));
        }
        Ok(())
    }

    fn read_stream(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read_index(&self.streams, name, each)
    }

    fn read_tag(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read_index(&self.tags, name, each)
    }
}
