//! redb: a B-tree with copy-on-write pages. Events by position, and an index each for streams and tags.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{index_key, index_range};
use crate::fact::{Fact, payload_of};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// A database with three tables.
pub(crate) struct Redb {
    database: Database,
    durability: Durability,
}

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const STREAMS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("streams");
const TAGS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("tags");

/// An event with its keys.
pub(crate) struct Row {
    number: u64,
    record: Vec<u8>,
    stream: Vec<u8>,
    tag: Vec<u8>,
}

impl Redb {
    fn read_index(
        &self,
        index: TableDefinition<'_, &'static [u8], u64>,
        name: &str,
        each: &mut dyn FnMut(&[u8]),
    ) -> Outcome<()> {
        let reading = self.database.begin_read()?;
        let events = reading.open_table(EVENTS)?;
        let range = index_range(name);
        for entry in reading.open_table(index)?.range(range.start().as_slice()..=range.end().as_slice())? {
            if let Some(record) = events.get(entry?.1.value())? {
                each(payload_of(record.value()));
            }
        }
        Ok(())
    }

    fn write(&self, rows: &[Row], durability: Durability) -> Outcome<()> {
        let mut writing = self.database.begin_write()?;
        writing.set_durability(durability)?;
        {
            let mut events = writing.open_table(EVENTS)?;
            let mut streams = writing.open_table(STREAMS)?;
            let mut tags = writing.open_table(TAGS)?;
            for row in rows {
                events.insert(row.number, row.record.as_slice())?;
                streams.insert(row.stream.as_slice(), row.number)?;
                tags.insert(row.tag.as_slice(), row.number)?;
            }
        }
        writing.commit()?;
        Ok(())
    }
}

impl Peer for Redb {
    type Batch = Vec<Row>;

    const ABOUT: About = About {
        name: "redb",
        crate_name: "redb",
        durable: "Durability::Immediate: fdatasync, one for each transaction",
        deferred: "Durability::None: in memory until a later immediate commit",
        index: "position, stream and version, tag: three tables, one transaction",
        checks: "none while reading",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let database = Database::create(dir.join("redb"))?;
        let durability = match usage.level {
            Level::Durable => Durability::Immediate,
            Level::Deferred => Durability::None,
        };
        let redb = Redb { database, durability };
        redb.write(&[], Durability::Immediate)?;
        Ok(redb)
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Vec<Row>> {
        let row = |fact: &Fact| Row {
            number: fact.number,
            record: fact.record(),
            stream: index_key(&fact.stream_name(), fact.version),
            tag: index_key(&fact.tag_name(), fact.number),
        };
        Ok(facts.iter().map(row).collect())
    }

    fn append(&self, batch: &mut Vec<Row>) -> Outcome<()> {
        self.write(batch, self.durability)
    }

    fn settle(&self) -> Outcome<()> {
        self.write(&[], Durability::Immediate)
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let reading = self.database.begin_read()?;
        for entry in reading.open_table(EVENTS)?.iter()? {
            each(payload_of(entry?.1.value()));
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
