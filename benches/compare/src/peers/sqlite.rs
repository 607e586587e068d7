//! SQLite: a table of events, unique in stream and version, and a table of tags.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};

use crate::fact::{EVENT_TYPE, Fact, PAYLOAD};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// A connection, which threads share: only one may write at a time anyway.
pub(crate) struct Sqlite {
    connection: Mutex<Connection>,
}

/// An event's columns.
pub(crate) struct Row {
    number: i64,
    stream: String,
    version: i64,
    payload: [u8; PAYLOAD],
    tag: String,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL,
        payload BLOB NOT NULL, UNIQUE (stream, version));
    CREATE TABLE IF NOT EXISTS tags (
        tag TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (tag, position)) WITHOUT ROWID;";

const INSERT_EVENT: &str = "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5)";
const INSERT_TAG: &str = "INSERT INTO tags VALUES (?1, ?2)";
/// No event with this tag after this position.
const GUARD: &str = "SELECT EXISTS (SELECT 1 FROM tags WHERE tag = ?1 AND position > ?2)";

impl Sqlite {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends if no event has the tag after the position, in one transaction.
    pub(crate) fn append_guarded(&self, rows: &[Row], tag: &str, after: u64) -> Outcome<()> {
        self.write(rows, Some((tag, i64::try_from(after)?)))
    }

    fn write(&self, rows: &[Row], guard: Option<(&str, i64)>) -> Outcome<()> {
        let mut connection = self.connection();
        let writing = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if let Some((tag, after)) = guard {
            let found: bool =
                writing.prepare_cached(GUARD)?.query_row(params![tag, after], |row| row.get(0))?;
            if found {
                return Err("SQLite: a guard did not hold".into());
            }
        }
        {
            let mut events = writing.prepare_cached(INSERT_EVENT)?;
            let mut tags = writing.prepare_cached(INSERT_TAG)?;
            for row in rows {
                events.execute(params![row.number, row.stream, row.version, EVENT_TYPE, row.payload])?;
                tags.execute(params![row.tag, row.number])?;
            }
        }
        writing.commit()?;
        Ok(())
    }

    fn read(&self, query: &str, name: Option<&str>, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(query)?;
        let mut rows = match name {
            Some(name) => statement.query([name])?,
            None => statement.query([])?,
        };
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }
}

impl Peer for Sqlite {
    type Batch = Vec<Row>;

    const ABOUT: About = About {
        name: "SQLite",
        crate_name: "rusqlite",
        durable: "WAL, synchronous = FULL: fdatasync, one for each transaction",
        deferred: "WAL, synchronous = NORMAL: with the operating system",
        index: "position, UNIQUE (stream, version), (tag, position)",
        checks: "none while reading",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let connection = Connection::open(dir.join("sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = if usage.level == Level::Durable { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Sqlite { connection: Mutex::new(connection) })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Vec<Row>> {
        let row = |fact: &Fact| {
            Ok(Row {
                number: i64::try_from(fact.number)?,
                stream: fact.stream_name(),
                version: i64::try_from(fact.version)?,
                payload: fact.payload(),
                tag: fact.tag_name(),
            })
        };
        facts.iter().map(row).collect()
    }

    fn append(&self, batch: &mut Vec<Row>) -> Outcome<()> {
        self.write(batch, None)
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read("SELECT payload FROM events ORDER BY position", None, each)
    }

    fn read_stream(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read("SELECT payload FROM events WHERE stream = ?1 ORDER BY version", Some(name), each)
    }

    fn read_tag(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let query = "SELECT payload FROM tags JOIN events USING (position) WHERE tag = ?1 ORDER BY position";
        self.read(query, Some(name), each)
    }
}
