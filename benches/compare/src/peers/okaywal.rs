//! okaywal: a write-ahead log with group commit.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use okaywal::{Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog};

use crate::fact::{Fact, payload_of};
use crate::peer::{About, Outcome, Peer, Use};

/// A log that is never checkpointed, so that it keeps all it was given.
pub(crate) struct Okaywal {
    log: WriteAheadLog,
    dir: PathBuf,
    events: u64,
}

impl Okaywal {
    fn configuration(dir: &Path, events: u64) -> Configuration {
        let room = u32::try_from(events.saturating_mul(384)).unwrap_or(u32::MAX).next_multiple_of(1 << 20);
        let mut configuration = Configuration::default_for(dir);
        // Filled with zeros when the log is made, which is not timed.
        configuration.preallocate_bytes = room.max(1 << 20);
        configuration.checkpoint_after_bytes = u64::MAX;
        configuration
    }
}

impl Peer for Okaywal {
    type Batch = Vec<Vec<u8>>;

    const ABOUT: About = About {
        name: "okaywal",
        crate_name: "okaywal",
        durable: "fdatasync before it returns, one for a group; file filled with zeros ahead",
        deferred: "there is none: one entry of 1,000 chunks, synced",
        index: "none; an entry by the address it returned",
        checks: "all; reading is only possible by recovery",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let log = Self::configuration(dir, usage.events).open(Recovered::default())?;
        Ok(Okaywal { log, dir: dir.to_owned(), events: usage.events })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Self::Batch> {
        Ok(facts.iter().map(Fact::record).collect())
    }

    fn append(&self, batch: &mut Self::Batch) -> Outcome<()> {
        let mut entry = self.log.begin_entry()?;
        for record in batch {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let recovered = Recovered::default();
        let records = recovered.records.clone();
        let second = Self::configuration(&self.dir, self.events).open(recovered)?;
        for record in records.lock().unwrap_or_else(PoisonError::into_inner).chunks_exact(RECORD) {
            each(payload_of(record));
        }
        drop(second);
        Ok(())
    }
}

/// The length of every record: all names have the same length.
const RECORD: usize = 336;

/// Keeps what recovery reads: it may not borrow anything.
#[derive(Default)]
struct Recovered {
    records: Arc<Mutex<Vec<u8>>>,
    chunk: Vec<u8>,
}

impl fmt::Debug for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recovered")
    }
}

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            self.chunk.clear();
            io::Read::read_to_end(&mut chunk, &mut self.chunk)?;
            if !chunk.check_crc()? {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk with a wrong checksum"));
            }
            records.extend_from_slice(&self.chunk);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}
