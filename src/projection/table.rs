//! The rows of one view that a batch has read or changed, in memory, as values.

use std::any::Any;
use std::marker::PhantomData;
use std::mem;
use std::ops::AddAssign;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApplyError;
use super::held::{Held, HeldRows, Stored};
use super::listed::Listed;
use super::waiting::Waiting;
use crate::error::Error;
use crate::view::digest::{Digest, RowHash};
use crate::view::feed::RowChange;
use crate::view::index::EntryKeys;
use crate::view::key::{self, Key};
use crate::view::key_order::KeyOrder;
use crate::view::layout::{IndexNumber, Layout, Part};
use crate::view::levels::{Version, Writes};
use crate::view::short_key::ShortKey;
use crate::view::value;

/// The rows under a batch, and why they could not be read.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) rows: Arc<Version>,
    /// There are no rows but those that are there before any other.
    pub(super) is_empty: bool,
    /// The view's fault, not the event's.
    pub(super) failure: Option<Error>,
    /// How many bytes were read.
    pub(super) read: usize,
    /// Whether values may wait to be merged: more than one event is applied.
    pub(super) merges_later: bool,
    /// How many threads may put together what waits for the end of the batch.
    pub(super) threads: usize,
    /// Set while values that waited are merged, and for good when that failed: the rows are not what the events come to.
    pub(super) is_torn: bool,
}

impl Base {
    pub(super) fn new(rows: Arc<Version>, layout: &Layout) -> Self {
        let is_empty = !rows.may_have_any() || rows.meta().digest == layout.first_rows().1;
        Base { rows, is_empty, failure: None, read: 0, merges_later: false, threads: 1, is_torn: false }
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if self.is_empty {
            return Ok(None);
        }
        let found = self.rows.get(key).inspect_err(|error| self.failure = Some(error.clone()))?;
        self.read += found.as_ref().map_or(0, Vec::len);
        Ok(found)
    }
}

/// What a batch writes, and what tells the rows after it.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) writes: Writes,
    pub(super) digest: Digest,
}

impl Out {
    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let value = self.writes.put_with(key, value)?;
        self.digest.add(RowHash::of(key, value));
        Ok(())
    }
}

/// An index, and what it finds a row by.
pub(super) struct IndexOf<K, V> {
    pub(super) number: IndexNumber,
    pub(super) keys: EntryKeys<K, V>,
}

impl<K, V> Clone for IndexOf<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for IndexOf<K, V> {}

/// What is written beside the rows of a view: their entries in its indexes.
pub(super) struct Entries<K, V> {
    part: Part,
    indexes: Arc<[IndexOf<K, V>]>,
}

impl<K: Key, V: DeserializeOwned> Entries<K, V> {
    /// The entries that the row has no more, and those that it has now.
    pub(super) fn change(
        &self,
        row_key: &[u8],
        before: Option<&[u8]>,
        after: Option<&V>,
        out: &mut Out,
    ) -> Result<(), Error> {
        if self.indexes.is_empty() {
            return Ok(());
        }
        let row_key = self.part.strip(row_key).unwrap_or_default();
        let key: K = key::decode_whole(row_key)?;
        let before: Option<V> = before.map(value::decode).transpose()?;
        for index in &*self.indexes {
            let entries = |value: Option<&V>| {
                let mut found_by = Vec::new();
                if let Some(value) = value {
                    (index.keys)(&key, value, &mut found_by);
                }
                found_by.sort_unstable();
                found_by.dedup();
                found_by
            };
            let (old, new) = (entries(before.as_ref()), entries(after));
            let entry = |found_by: &Vec<u8>| [&index.number.start(), found_by.as_slice(), row_key].concat();
            for gone in old.iter().filter(|found_by| new.binary_search(found_by).is_err()) {
                let entry = entry(gone);
                out.digest.remove(RowHash::of(&entry, &[]));
                out.writes.remove(&entry)?;
            }
            for come in new.iter().filter(|found_by| old.binary_search(found_by).is_err()) {
                out.put(&entry(come), |_| Ok(()))?;
            }
        }
        Ok(())
    }
}

pub(super) struct Table<K, V> {
    entries: Entries<K, V>,
    pub(super) held: HeldRows<V>,
    pub(super) waiting: Waiting<V>,
    /// What waits for the end of the batch.
    pub(super) listed: Option<Listed<V>>,
    /// Where there are indexes: the value that the key-value store has of each row held, if that was asked for.
    pub(super) stored_values: Vec<Option<Vec<u8>>>,
    /// Room for the key that is asked for.
    pub(super) key: Vec<u8>,
    pub(super) changed: usize,
    /// How many values were merged into rows.
    pub(super) merged: usize,
    /// It was seen how often rows repeat.
    pub(super) is_seen: bool,
    /// When changes are told.
    pub(super) telling: Option<Telling>,
    types: PhantomData<fn() -> K>,
}

/// What each event changes.
#[derive(Default)]
pub(super) struct Telling {
    rows: Vec<Told>,
    /// The rows that the event at hand has changed, and their values before it.
    touched: Vec<(usize, Option<Bytes>)>,
    /// How many events came before.
    events: u64,
}

/// What is told of a row that is held.
#[derive(Clone, Default)]
struct Told {
    /// Its encoded value before the event at hand, where that is known.
    before: Option<Option<Bytes>>,
    /// How many events had come when one changed it last, that one with them.
    touched_by: u64,
}

impl Telling {
    fn row(&mut self, number: usize) -> Option<&mut Told> {
        if self.rows.len() <= number {
            self.rows.resize(number + 1, Told::default());
        }
        self.rows.get_mut(number)
    }

    /// This is what a row is before the next event that changes it.
    fn end(&mut self, number: usize, value: Option<Bytes>) {
        if let Some(told) = self.row(number) {
            told.before = Some(value);
        }
    }

    /// The event at hand has ended: what it changed.
    fn end_event(&mut self) -> Vec<(usize, Option<Bytes>)> {
        self.events += 1;
        mem::take(&mut self.touched)
    }

    /// The row of a number is about to be changed.
    fn touch<V: Serialize>(&mut self, number: usize, value: &Option<V>) -> Result<(), Error> {
        let event = self.events + 1;
        let Some(told) = self.row(number).filter(|told| told.touched_by < event) else { return Ok(()) };
        let before = match told.before.take() {
            Some(before) => before,
            None => encoded(value)?,
        };
        told.touched_by = event;
        self.touched.push((number, before));
        Ok(())
    }
}

/// What has to be known of a row before it is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Value,
    Nothing,
}

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    pub(super) fn new(part: Part, indexes: Arc<[IndexOf<K, V>]>) -> Self {
        Table {
            entries: Entries { part, indexes },
            held: HeldRows::new(),
            waiting: Waiting::default(),
            listed: None,
            stored_values: Vec::new(),
            key: Vec::new(),
            changed: 0,
            merged: 0,
            is_seen: false,
            telling: None,
            types: PhantomData,
        }
    }

    pub(super) fn get(&mut self, base: &mut Base, key: &K) -> Result<Option<&V>, ApplyError> {
        let number = self.find(base, key, Need::Value)?;
        Ok(self.held.get(number).and_then(|(_, held)| held.value.as_ref()))
    }

    /// A base that cannot be read is remembered there.
    pub(super) fn set(&mut self, base: &mut Base, key: &K, value: Option<V>) {
        if let Ok(held) = self.find(base, key, Need::Nothing).and_then(|number| self.change(number)) {
            held.value = value;
        }
    }

    pub(super) fn update(
        &mut self,
        base: &mut Base,
        key: &K,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<(), ApplyError> {
        let number = self.find(base, key, Need::Value)?;
        let held = self.change(number)?;
        held.value = change(held.value.take());
        Ok(())
    }

    pub(super) fn encode(&mut self, key: &K) {
        self.entries.part.start(&mut self.key);
        key.encode(&mut self.key);
    }

    /// The number of the row, which is held from now on if not before. What waits for it is merged.
    pub(super) fn find(&mut self, base: &mut Base, key: &K, need: Need) -> Result<usize, ApplyError> {
        self.settle_all(base)?;
        self.encode(key);
        let key = mem::take(&mut self.key);
        let found = self.find_encoded(base, self.held.hash(&key), &key, || ShortKey::of(&key), need);
        self.key = key;
        found
    }

    /// The number of the row of an encoded key, which has this hash.
    pub(super) fn find_encoded(
        &mut self,
        base: &mut Base,
        hash: u32,
        key: &[u8],
        short: impl FnOnce() -> ShortKey,
        need: Need,
    ) -> Result<usize, ApplyError> {
        let place = match self.held.find(hash, key) {
            Ok(number) => return Ok(number),
            Err(place) => place,
        };
        if need == Need::Nothing && self.telling.is_none() {
            let stored = if base.is_empty { Stored::Known(None) } else { Stored::Unknown };
            return Ok(self.held.insert(place, short(), None, stored));
        }
        let stored = base.get(key)?;
        let value = match need {
            Need::Value => stored.as_deref().map(value::decode).transpose()?,
            Need::Nothing => None,
        };
        let hash = stored.as_deref().map(|value| RowHash::of(key, value));
        let number = self.held.insert(place, short(), value, Stored::Known(hash));
        if let Some(telling) = &mut self.telling {
            telling.end(number, stored.as_deref().map(Bytes::copy_from_slice));
        }
        self.keep_stored(number, stored);
        Ok(number)
    }

    /// Indexes need the value that the key-value store has.
    fn keep_stored(&mut self, number: usize, value: Option<Vec<u8>>) {
        if self.entries.indexes.is_empty() {
            return;
        }
        let len = self.stored_values.len().max(number + 1);
        self.stored_values.resize(len, None);
        if let Some(place) = self.stored_values.get_mut(number) {
            *place = value;
        }
    }

    /// The row that was just found is about to be changed.
    pub(super) fn change(&mut self, number: usize) -> Result<&mut Held<V>, ApplyError> {
        let lost = || ApplyError::new("a row that was found is not there");
        let held = self.held.get_mut(number).ok_or_else(lost)?;
        if let Some(telling) = &mut self.telling {
            telling.touch(number, &held.value)?;
        }
        self.changed += usize::from(!mem::replace(&mut held.changed, true));
        Ok(held)
    }

    /// Asks for the rows that were changed without being read. In the order of their keys, neighbours cost no more than
    /// one of them.
    fn load_unknown(&mut self, rows: &Version, order: &KeyOrder) -> Result<(), Error> {
        let mut lookups = rows.lookups();
        for number in order.chunks().flatten() {
            let unknown = matches!(self.held.stored(number), Stored::Unknown);
            let Some((key, _)) = self.held.get(number).filter(|_| unknown) else { continue };
            let value = lookups.get(key)?;
            let hash = value.as_deref().map(|value| RowHash::of(key, value));
            self.held.set_stored(number, Stored::Known(hash));
            self.keep_stored(number, value);
        }
        Ok(())
    }

    pub(super) fn finish_row(&mut self, number: usize, out: &mut Out) -> Result<Net, Error> {
        let Some((key, held)) = self.held.get(number) else { return Ok(Net::default()) };
        let Stored::Known(hash) = self.held.stored(number) else { return Ok(Net::default()) };
        let stored = self.stored_values.get_mut(number).and_then(Option::take);
        let net = Net { added: u64::from(held.value.is_some()), removed: u64::from(hash.is_some()) };
        if net == Net::default() {
            return Ok(net);
        }
        self.entries.change(key, stored.as_deref(), held.value.as_ref(), out)?;
        if let Some(hash) = hash {
            out.digest.remove(hash);
        }
        match &held.value {
            Some(value) => out.put(key, |bytes| value::append(value, bytes))?,
            None => out.writes.remove(key)?,
        }
        Ok(net)
    }
}

fn encoded<V: Serialize>(value: &Option<V>) -> Result<Option<Bytes>, Error> {
    Ok(value.as_ref().map(value::encode).transpose()?.map(Bytes::from))
}

/// Rows that a view has more, and fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) added: u64,
    pub(super) removed: u64,
}

impl AddAssign for Net {
    fn add_assign(&mut self, more: Net) {
        self.added += more.added;
        self.removed += more.removed;
    }
}

/// A [`Table`] of whatever key and value.
pub(super) trait AnyTable: Send {
    fn as_any(&mut self) -> &mut dyn Any;
    fn part(&self) -> Part;
    /// How many rows and entries will be written, at the most.
    fn changed(&self) -> usize;
    /// Bytes of memory, but for what keys and values have elsewhere.
    fn size(&self) -> usize;
    /// From now on, what each event changes is to be told.
    fn tell(&mut self);
    /// Adds what the event at hand changed. An error is that of a value that cannot be encoded.
    fn end_event(&mut self, told: &mut Vec<RowChange>) -> Result<(), Error>;
    /// Merges what waits for other rows. An error may be that of a value of any event of the batch.
    fn settle(&mut self, base: &mut Base) -> Result<(), Error>;
    fn finish(&mut self, rows: &Version, out: &mut Out) -> Result<Net, Error>;
}

impl<K: Key, V: Serialize + DeserializeOwned + Send + 'static> AnyTable for Table<K, V> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn part(&self) -> Part {
        self.entries.part
    }

    fn changed(&self) -> usize {
        let listed = self.listed.as_ref().map_or(0, Listed::len);
        (self.changed + listed) * (1 + self.entries.indexes.len())
    }

    fn size(&self) -> usize {
        self.held.size() + self.listed.as_ref().map_or(0, Listed::size)
    }

    fn tell(&mut self) {
        self.telling.get_or_insert_default();
    }

    fn end_event(&mut self, told: &mut Vec<RowChange>) -> Result<(), Error> {
        let Some(telling) = &mut self.telling else { return Ok(()) };
        for (number, old) in telling.end_event() {
            let Some((key, held)) = self.held.get(number) else { continue };
            let new = encoded(&held.value)?;
            telling.end(number, new.clone());
            if old != new {
                told.push(RowChange { part: self.entries.part, key: Bytes::copy_from_slice(key), old, new });
            }
        }
        Ok(())
    }

    fn settle(&mut self, base: &mut Base) -> Result<(), Error> {
        let merged = Table::merge_waiting(self, base);
        merged.map_err(|error| base.failure.take().unwrap_or_else(|| Error::invalid(error.to_string())))
    }

    fn finish(&mut self, rows: &Version, out: &mut Out) -> Result<Net, Error> {
        if let Some(listed) = self.listed.take() {
            return listed.finish(&self.entries, out);
        }
        let order = self.held.changed_in_order();
        if self.held.has_stored() {
            self.load_unknown(rows, &order)?;
        }
        let mut net = Net::default();
        for numbers in order.chunks() {
            self.held.fetch(numbers.clone());
            for number in numbers {
                net += self.finish_row(number, out)?;
            }
        }
        Ok(net)
    }
}
