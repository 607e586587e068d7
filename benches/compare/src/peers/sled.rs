//! sled: one tree with events and index entries under three prefixes, so that a batch of all is atomic.

use std::path::Path;

use sled::{Batch, Db};

use super::{event_key, index_key};
use crate::fact::{Fact, payload_of};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// A database, and whether it is flushed after each append.
pub(crate) struct Sled {
    database: Db,
    flush: bool,
}

const EVENTS: u8 = b'e';
const STREAMS: u8 = b's';
const TAGS: u8 = b't';

fn under(prefix: u8, key: &[u8]) -> Vec<u8> {
    [&[prefix], key].concat()
}

impl Sled {
    fn read_index(&self, prefix: u8, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let range = under(prefix, &index_key(name, 0))..=under(prefix, &index_key(name, u64::MAX));
        for entry in self.database.range(range) {
            let (_, number) = entry?;
            if let Some(record) = self.database.get(under(EVENTS, &number))? {
                each(payload_of(&record));
            }
        }
        Ok(())
    }
}

impl Peer for Sled {
    type Batch = Batch;

    const ABOUT: About = About {
        name: "sled",
        crate_name: "sled",
        durable: "apply_batch, then flush: sync_file_range on Linux, which may not survive a loss of power",
        deferred: "apply_batch: in memory; written by its own thread",
        index: "position, stream and version, tag: three prefixes, one atomic batch",
        checks: "of pages read from the file, not of those in its cache",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        Ok(Sled { database: sled::open(dir)?, flush: usage.level == Level::Durable })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Batch> {
        let mut batch = Batch::default();
        for fact in facts {
            let number = event_key(fact.number);
            batch.insert(under(EVENTS, &number), fact.record());
            batch.insert(under(STREAMS, &index_key(&fact.stream_name(), fact.version)), &number);
            batch.insert(under(TAGS, &index_key(&fact.tag_name(), fact.number)), &number);
        }
        Ok(batch)
    }

    fn append(&self, batch: &mut Batch) -> Outcome<()> {
        self.database.apply_batch(std::mem::take(batch))?;
        if self.flush {
            self.database.flush()?;
        }
        Ok(())
    }

    fn settle(&self) -> Outcome<()> {
        self.database.flush()?;
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        for entry in self.database.scan_prefix([EVENTS]) {
            each(payload_of(&entry?.1));
        }
        Ok(())
    }

    fn read_stream(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read_index(STREAMS, name, each)
    }

    fn read_tag(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read_index(TAGS, name, each)
    }
}
