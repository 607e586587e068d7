//! The same table in other engines: rows that each are read, added to and written, together with the offset in one durable
//! transaction. An application can hand each event to its engine, or sum a batch in a map first, as everfold does.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use everfold::{Options, Position, Store};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::{Purchase, sums, tally};
use crate::peer::Outcome;
use crate::workload::{Contender, Kind, Setting};

/// A table of one engine.
trait Table: Sized {
    fn open(dir: &Path) -> Outcome<Self>;
    /// Adds each of these to its row, and writes how many events there were, durably and in one step. Only SQLite and redb
    /// can have several for a row.
    fn add(&mut self, purchases: &[Purchase], offset: u64) -> Outcome<()>;
    fn rows(&self) -> Outcome<Vec<Purchase>>;
}

/// At the end of the name of one to whom each event is handed.
pub(crate) const EACH: &str = ", each event";
/// At the end of the name of one who reads everfold's log.
pub(crate) const OF_LOG: &str = " of the log";
/// In the name of one who gets the sums of so many events.
pub(crate) const SUMS_OF_100_000: &str = ", sums of 100 k";
const SUMS_OF_1_000_000: &str = ", sums of 1 M";

/// What becomes of the events before they are handed to the engine.
#[derive(Clone)]
pub(super) enum Events {
    /// Nothing. They are in memory, decoded.
    Each(Rc<Vec<Purchase>>),
    /// They are in memory, decoded, and are summed in a map; the sums are put in the order of their keys.
    Summed(Rc<Vec<Purchase>>),
    /// The same, but they are read from everfold's log in this directory, as everfold has to read them.
    OfLog(Rc<TempDir>),
}

/// What is brought into a table, how many events at a time, and what they come to.
#[derive(Clone)]
pub(super) struct Replay {
    pub(super) events: Events,
    pub(super) batch: usize,
    pub(super) wanted: (u64, u64),
}

fn contender<T: Table>(setting: &Setting, name: &str, replay: Replay) -> Contender {
    let setting = setting.clone();
    let sums_of = if replay.batch == 100_000 { SUMS_OF_100_000 } else { SUMS_OF_1_000_000 };
    let way = match replay.events {
        Events::Each(_) => EACH.to_owned(),
        Events::Summed(_) => sums_of.to_owned(),
        Events::OfLog(_) => format!("{sums_of}{OF_LOG}"),
    };
    Contender::new(format!("{name}{way}"), Kind::Peer, move || {
        let dir = setting.directory()?;
        let mut table = T::open(dir.path())?;
        let (start, count) = match &replay.events {
            Events::Each(purchases) => {
                (Instant::now(), decoded(&mut table, purchases, replay.batch, T::add)?)
            }
            Events::Summed(purchases) => {
                let summed = |table: &mut T, batch: &[Purchase], offset| add(table, sums(batch), offset);
                (Instant::now(), decoded(&mut table, purchases, replay.batch, summed)?)
            }
            Events::OfLog(log) => {
                let store = Options::new().read_only(true).open(log.path())?;
                (Instant::now(), read(&mut table, &store, replay.batch)?)
            }
        };
        let rate = count as f64 / start.elapsed().as_secs_f64();
        if tally(table.rows()?.into_iter().map(cell_of)) != replay.wanted {
            return Err("the rows are wrong".into());
        }
        Ok(rate)
    })
}

fn decoded<T>(
    table: &mut T,
    purchases: &[Purchase],
    batch: usize,
    add: impl Fn(&mut T, &[Purchase], u64) -> Outcome<()>,
) -> Outcome<u64> {
    let mut offset = 0;
    for batch in purchases.chunks(batch) {
        offset += batch.len() as u64;
        add(table, batch, offset)?;
    }
    Ok(offset)
}

fn read(table: &mut impl Table, store: &Store, batch: usize) -> Outcome<u64> {
    let (mut offset, mut sums) = (0, HashMap::new());
    for event in store.read(Position::START) {
        let (customer, item, quantity): Purchase = event?.decode()?;
        *sums.entry((customer, item)).or_insert(0) += quantity;
        offset += 1;
        if offset % batch as u64 == 0 {
            add(table, std::mem::take(&mut sums), offset)?;
        }
    }
    if !sums.is_empty() {
        add(table, sums, offset)?;
    }
    Ok(offset)
}

fn add(table: &mut impl Table, sums: HashMap<(u32, u32), i64>, offset: u64) -> Outcome<()> {
    let mut added: Vec<Purchase> =
        sums.into_iter().map(|((customer, item), quantity)| (customer, item, quantity)).collect();
    added.sort_unstable();
    table.add(&added, offset)
}

fn cell_of((customer, item, quantity): Purchase) -> ((u32, u32), i64) {
    ((customer, item), quantity)
}

pub(super) fn sqlite(setting: &Setting, replay: Replay) -> Contender {
    contender::<Sqlite>(setting, "SQLite", replay)
}

pub(super) fn redb(setting: &Setting, replay: Replay) -> Contender {
    contender::<Redb>(setting, "redb", replay)
}

pub(super) fn fjall(setting: &Setting, replay: Replay) -> Contender {
    contender::<Fjall>(setting, "fjall", replay)
}

pub(super) fn sled(setting: &Setting, replay: Replay) -> Contender {
    contender::<Sled>(setting, "sled", replay)
}

struct Sqlite(Connection);

impl Table for Sqlite {
    fn open(dir: &Path) -> Outcome<Self> {
        let connection = Connection::open(dir.join("sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE sums (customer INTEGER, item INTEGER, quantity INTEGER NOT NULL,
                 PRIMARY KEY (customer, item)) WITHOUT ROWID;
             CREATE TABLE progress (one INTEGER PRIMARY KEY, events INTEGER NOT NULL);",
        )?;
        Ok(Sqlite(connection))
    }

    fn add(&mut self, purchases: &[Purchase], offset: u64) -> Outcome<()> {
        let writing = self.0.transaction()?;
        {
            let mut upsert = writing.prepare_cached(
                "INSERT INTO sums VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
            )?;
            for (customer, item, quantity) in purchases {
                upsert.execute(params![customer, item, quantity])?;
            }
            writing.execute("REPLACE INTO progress VALUES (1, ?1)", [i64::try_from(offset)?])?;
        }
        writing.commit()?;
        Ok(())
    }

    fn rows(&self) -> Outcome<Vec<Purchase>> {
        let mut statement = self.0.prepare("SELECT customer, item, quantity FROM sums")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

struct Redb(redb::Database);

const SUMS: TableDefinition<'_, (u32, u32), i64> = TableDefinition::new("sums");
const PROGRESS: TableDefinition<'_, u8, u64> = TableDefinition::new("progress");

impl Table for Redb {
    fn open(dir: &Path) -> Outcome<Self> {
        Ok(Redb(redb::Database::create(dir.join("redb"))?))
    }

    fn add(&mut self, purchases: &[Purchase], offset: u64) -> Outcome<()> {
        let writing = self.0.begin_write()?;
        {
            let mut sums = writing.open_table(SUMS)?;
            for (customer, item, quantity) in purchases {
                let key = (*customer, *item);
                let before = sums.get(key)?.map_or(0, |quantity| quantity.value());
                sums.insert(key, before + quantity)?;
            }
            writing.open_table(PROGRESS)?.insert(0, offset)?;
        }
        writing.commit()?;
        Ok(())
    }

    fn rows(&self) -> Outcome<Vec<Purchase>> {
        let reading = self.0.begin_read()?;
        let mut rows = Vec::new();
        for row in reading.open_table(SUMS)?.iter()? {
            let (key, quantity) = row?;
            let (customer, item) = key.value();
            rows.push((customer, item, quantity.value()));
        }
        Ok(rows)
    }
}

fn key(customer: u32, item: u32) -> [u8; 8] {
    (u64::from(customer) << 32 | u64::from(item)).to_be_bytes()
}

fn row(key: &[u8], quantity: &[u8]) -> Outcome<Purchase> {
    let key = u64::from_be_bytes(key.try_into()?);
    Ok(((key >> 32) as u32, key as u32, i64::from_le_bytes(quantity.try_into()?)))
}

struct Fjall {
    database: fjall::Database,
    sums: fjall::Keyspace,
    progress: fjall::Keyspace,
}

impl Table for Fjall {
    fn open(dir: &Path) -> Outcome<Self> {
        let database = fjall::Database::builder(dir).open()?;
        let keyspace = |name| database.keyspace(name, fjall::KeyspaceCreateOptions::default);
        Ok(Fjall { sums: keyspace("sums")?, progress: keyspace("progress")?, database })
    }

    fn add(&mut self, purchases: &[Purchase], offset: u64) -> Outcome<()> {
        let batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), purchases.len() + 1);
        let mut batch = batch.durability(Some(fjall::PersistMode::SyncData));
        for (customer, item, quantity) in purchases {
            let key = key(*customer, *item);
            let before = match self.sums.get(key)? {
                Some(quantity) => i64::from_le_bytes(quantity.as_ref().try_into()?),
                None => 0,
            };
            batch.insert(&self.sums, key, (before + quantity).to_le_bytes());
        }
        batch.insert(&self.progress, [0], offset.to_le_bytes());
        batch.commit()?;
        Ok(())
    }

    fn rows(&self) -> Outcome<Vec<Purchase>> {
        let mut rows = Vec::new();
        for found in self.sums.iter() {
            let (key, quantity) = found.into_inner()?;
            rows.push(row(&key, &quantity)?);
        }
        Ok(rows)
    }
}

struct Sled(sled::Db);

impl Table for Sled {
    fn open(dir: &Path) -> Outcome<Self> {
        Ok(Sled(sled::open(dir)?))
    }

    fn add(&mut self, purchases: &[Purchase], offset: u64) -> Outcome<()> {
        let mut batch = sled::Batch::default();
        for (customer, item, quantity) in purchases {
            let key = key(*customer, *item);
            let before = match self.0.get(key)? {
                Some(quantity) => i64::from_le_bytes(quantity.as_ref().try_into()?),
                None => 0,
            };
            batch.insert(&key, &(before + quantity).to_le_bytes());
        }
        batch.insert(b"progress", &offset.to_le_bytes());
        self.0.apply_batch(batch)?;
        self.0.flush()?;
        Ok(())
    }

    fn rows(&self) -> Outcome<Vec<Purchase>> {
        let mut rows = Vec::new();
        for found in self.0.iter() {
            let (key, quantity) = found?;
            if key.as_ref() != b"progress" {
                rows.push(row(&key, &quantity)?);
            }
        }
        Ok(rows)
    }
}
