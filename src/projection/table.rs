//! The rows of one view that a batch has read or changed, in memory, as values.

use std::any::Any;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApplyError;
use super::hashing::KeyHashes;
use crate::error::Error;
use crate::view::digest::{Digest, RowHash};
use crate::view::feed::RowChange;
use crate::view::index::EntryKeys;
use crate::view::key::{self, Key};
use crate::view::layout::{IndexNumber, Part};
use crate::view::levels::Version;
use crate::view::rows::Change;
use crate::view::value;

/// The rows under a batch, and why they could not be read.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) rows: Arc<Version>,
    /// The view's fault, not the event's.
    pub(super) failure: Option<Error>,
}

impl Base {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.rows.get(key).inspect_err(|error| self.failure = Some(error.clone()))
    }
}

/// What a batch writes.
#[derive(Debug)]
pub(super) struct Writes {
    pub(super) changes: Vec<Change>,
    pub(super) digest: Digest,
}

impl Writes {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.digest.add(RowHash::of(&key, &value));
        self.changes.push((key, Some(value)));
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

pub(super) struct Table<K, V> {
    part: Part,
    indexes: Arc<[IndexOf<K, V>]>,
    /// Where in `held` the row of a key is.
    places: HashMap<Vec<u8>, usize, KeyHashes>,
    held: Vec<Held<V>>,
    /// Room for the key that is asked for.
    key: Vec<u8>,
    changed: usize,
    /// The rows that the event at hand has changed, when changes are told.
    touched: Option<Vec<Touched>>,
    types: PhantomData<fn() -> K>,
}

/// A row in memory.
struct Held<V> {
    value: Option<V>,
    stored: Stored,
    changed: bool,
    /// The value before the event at hand, encoded, where that is known.
    before: Option<Option<Bytes>>,
    /// It is among the touched.
    touched: bool,
}

/// The row that the key-value store has.
enum Stored {
    /// Not asked yet.
    Unknown,
    /// With the value itself where indexes need it.
    Known { hash: Option<RowHash>, value: Option<Vec<u8>> },
}

struct Touched {
    place: usize,
    key: Bytes,
    before: Option<Bytes>,
}

/// What has to be known of a row before it is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Value,
    Nothing,
}

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    pub(super) fn new(part: Part, indexes: Arc<[IndexOf<K, V>]>) -> Self {
        Table {
            part,
            indexes,
            places: HashMap::default(),
            held: Vec::new(),
            key: Vec::new(),
            changed: 0,
            touched: None,
            types: PhantomData,
        }
    }

    pub(super) fn get(&mut self, base: &mut Base, key: &K) -> Result<Option<&V>, ApplyError> {
        let place = self.find(base, key, Need::Value)?;
        Ok(self.held.get(place).and_then(|held| held.value.as_ref()))
    }

    /// A base that cannot be read is remembered there.
    pub(super) fn set(&mut self, base: &mut Base, key: &K, value: Option<V>) {
        if let Ok(held) = self.find(base, key, Need::Nothing).and_then(|place| self.change(place)) {
            held.value = value;
        }
    }

    pub(super) fn update(
        &mut self,
        base: &mut Base,
        key: &K,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<(), ApplyError> {
        let place = self.find(base, key, Need::Value)?;
        let held = self.change(place)?;
        held.value = change(held.value.take());
        Ok(())
    }

    /// Where the row is held, from now on if not before.
    fn find(&mut self, base: &mut Base, key: &K, need: Need) -> Result<usize, ApplyError> {
        self.part.start(&mut self.key);
        key.encode(&mut self.key);
        if let Some(place) = self.places.get(self.key.as_slice()) {
            return Ok(*place);
        }
        let mut held =
            Held { value: None, stored: Stored::Unknown, changed: false, before: None, touched: false };
        if need == Need::Value || self.touched.is_some() {
            let stored = base.get(&self.key)?;
            if need == Need::Value {
                held.value = stored.as_deref().map(value::decode).transpose()?;
            }
            if self.touched.is_some() {
                held.before = Some(stored.as_deref().map(Bytes::copy_from_slice));
            }
            held.stored = self.known(&self.key, stored);
        }
        let place = self.held.len();
        self.places.insert(self.key.clone(), place);
        self.held.push(held);
        Ok(place)
    }

    fn known(&self, key: &[u8], stored: Option<Vec<u8>>) -> Stored {
        let hash = stored.as_deref().map(|value| RowHash::of(key, value));
        Stored::Known { hash, value: stored.filter(|_| !self.indexes.is_empty()) }
    }

    /// The row that was just found is about to be changed.
    fn change(&mut self, place: usize) -> Result<&mut Held<V>, ApplyError> {
        let held =
            self.held.get_mut(place).ok_or_else(|| ApplyError::new("a row that was found is not there"))?;
        if let Some(touched) = &mut self.touched
            && !held.touched
        {
            let before = match held.before.take() {
                Some(before) => before,
                None => encoded(&held.value)?,
            };
            held.touched = true;
            touched.push(Touched { place, key: Bytes::copy_from_slice(&self.key), before });
        }
        self.changed += usize::from(!mem::replace(&mut held.changed, true));
        Ok(held)
    }

    fn finish_row(
        &self,
        rows: &Version,
        key: Vec<u8>,
        held: Held<V>,
        out: &mut Writes,
    ) -> Result<Net, Error> {
        let stored = match held.stored {
            Stored::Unknown => self.known(&key, rows.get(&key)?),
            known => known,
        };
        let Stored::Known { hash, value: before } = stored else { return Ok(Net::default()) };
        let net = Net { added: u64::from(held.value.is_some()), removed: u64::from(hash.is_some()) };
        if net == Net::default() {
            return Ok(net);
        }
        self.finish_entries(&key, before.as_deref(), held.value.as_ref(), out)?;
        if let Some(hash) = hash {
            out.digest.remove(hash);
        }
        match &held.value {
            Some(value) => out.put(key, value::encode(value)?),
            None => out.changes.push((key, None)),
        }
        Ok(net)
    }

    /// The entries that the row has no more, and those that it has now.
    fn finish_entries(
        &self,
        row_key: &[u8],
        before: Option<&[u8]>,
        after: Option<&V>,
        out: &mut Writes,
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
                out.changes.push((entry, None));
            }
            for come in new.iter().filter(|found_by| old.binary_search(found_by).is_err()) {
                out.put(entry(come), Vec::new());
            }
        }
        Ok(())
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

/// A [`Table`] of whatever key and value.
pub(super) trait AnyTable: Send {
    fn as_any(&mut self) -> &mut dyn Any;
    fn part(&self) -> Part;
    /// How many rows and entries will be written, at the most.
    fn changed(&self) -> usize;
    /// From now on, what each event changes is to be told.
    fn tell(&mut self);
    /// Adds what the event at hand changed. An error is that of a value that cannot be encoded.
    fn end_event(&mut self, told: &mut Vec<RowChange>) -> Result<(), Error>;
    /// Takes back what the event at hand changed, when changes are told.
    fn undo_event(&mut self) -> Result<(), Error>;
    fn finish(&mut self, rows: &Version, out: &mut Writes) -> Result<Net, Error>;
}

impl<K: Key, V: Serialize + DeserializeOwned + Send + 'static> AnyTable for Table<K, V> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn part(&self) -> Part {
        self.part
    }

    fn changed(&self) -> usize {
        self.changed * (1 + self.indexes.len())
    }

    fn tell(&mut self) {
        self.touched.get_or_insert_default();
    }

    fn end_event(&mut self, told: &mut Vec<RowChange>) -> Result<(), Error> {
        for Touched { place, key, before } in self.touched.iter_mut().flat_map(mem::take) {
            let Some(held) = self.held.get_mut(place) else { continue };
            let after = encoded(&held.value)?;
            held.touched = false;
            held.before = Some(after.clone());
            if before != after {
                told.push(RowChange { part: self.part, key, old: before, new: after });
            }
        }
        Ok(())
    }

    fn undo_event(&mut self) -> Result<(), Error> {
        for Touched { place, before, .. } in self.touched.iter_mut().flat_map(mem::take) {
            let Some(held) = self.held.get_mut(place) else { continue };
            held.value = before.as_deref().map(value::decode).transpose()?;
            held.touched = false;
            held.before = Some(before);
        }
        Ok(())
    }

    fn finish(&mut self, rows: &Version, out: &mut Writes) -> Result<Net, Error> {
        let (mut net, places) = (Net::default(), mem::take(&mut self.places));
        let mut held: Vec<Option<Held<V>>> = mem::take(&mut self.held).into_iter().map(Some).collect();
        out.changes.reserve(self.changed);
        for (key, place) in places {
            let Some(held) = held.get_mut(place).and_then(Option::take).filter(|held| held.changed) else {
                continue;
            };
            let Net { added, removed } = self.finish_row(rows, key, held, out)?;
            net = Net { added: net.added + added, removed: net.removed + removed };
        }
        Ok(net)
    }
}
