//! Rows being changed by the fold, until they are written together with the checkpoint.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApplyError;
use crate::error::Error;
use crate::view::digest::{Digest, RowHash};
use crate::view::handle::{decode_value, encode_value, row_key};
use crate::view::key::Key;
use crate::view::levels::Version;
use crate::view::rows::Change;

/// What `apply` changes a view through. It sees the rows as the events before have left them.
pub struct ViewBatch<K, V> {
    rows: Arc<Version>,
    held: HashMap<Vec<u8>, Held<V>>,
    changed: usize,
    /// Why the rows could not be read: the view's fault, not the event's.
    failure: Option<Error>,
    key: PhantomData<fn() -> K>,
}

/// A row in memory.
struct Held<V> {
    value: Option<V>,
    /// The row that the key-value store has, if it has one; unknown until asked.
    stored: Option<Option<RowHash>>,
    changed: bool,
}

impl<K, V> fmt::Debug for ViewBatch<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewBatch").field("changed", &self.changed).finish_non_exhaustive()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> ViewBatch<K, V> {
    pub(super) fn new(rows: Arc<Version>) -> Self {
        ViewBatch { rows, held: HashMap::new(), changed: 0, failure: None, key: PhantomData }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the key-value store fails, or the row is not a `V`. Pass it on with `?`.
    pub fn get(&mut self, key: &K) -> Result<Option<&V>, ApplyError> {
        Ok(self.hold(row_key(key))?.value.as_ref())
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: K, value: V) {
        self.set(row_key(&key), Some(value));
    }

    /// Removes a row; one that is not there is fine.
    pub fn remove(&mut self, key: &K) {
        self.set(row_key(key), None);
    }

    /// Puts in place of a key's value, if there is one, what `change` makes of it; `None` removes the row.
    ///
    /// # Errors
    /// As [`get`](ViewBatch::get).
    pub fn update(&mut self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), ApplyError> {
        let held = self.hold(row_key(&key))?;
        held.value = change(held.value.take());
        let first = !std::mem::replace(&mut held.changed, true);
        self.changed += usize::from(first);
        Ok(())
    }

    fn hold(&mut self, key: Vec<u8>) -> Result<&mut Held<V>, ApplyError> {
        if !self.held.contains_key(&key) {
            let value = match self.rows.get(&key) {
                Ok(value) => value,
                Err(error) => {
                    self.failure = Some(error.clone());
                    return Err(error.into());
                }
            };
            let stored = Some(value.as_ref().map(|value| RowHash::of(&key, value)));
            let value = value.map(|bytes| decode_value(&bytes)).transpose()?;
            self.held.insert(key.clone(), Held { value, stored, changed: false });
        }
        self.held.get_mut(&key).ok_or_else(|| ApplyError::new("a row that was just read is not there"))
    }

    fn set(&mut self, key: Vec<u8>, value: Option<V>) {
        let held = self.held.entry(key).or_insert(Held { value: None, stored: None, changed: false });
        held.value = value;
        let first = !std::mem::replace(&mut held.changed, true);
        self.changed += usize::from(first);
    }

    /// How many rows were changed.
    pub(super) fn changed(&self) -> usize {
        self.changed
    }

    /// Why the rows could not be read, if that is what an `apply` failed of.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// The changes in the order of their keys, and what tells the rows after them.
    pub(super) fn finish(self, before: Digest) -> Result<(Vec<Change>, Digest), Error> {
        let (mut changes, mut digest) = (Vec::with_capacity(self.changed + 1), before);
        for (key, held) in self.held.into_iter().filter(|(_, held)| held.changed) {
            let stored = match held.stored {
                Some(stored) => stored,
                None => self.rows.get(&key)?.map(|value| RowHash::of(&key, &value)),
            };
            let value = held.value.as_ref().map(encode_value).transpose()?;
            if stored.is_none() && value.is_none() {
                continue;
            }
            if let Some(old) = stored {
                digest.remove(old);
            }
            if let Some(value) = &value {
                digest.add(RowHash::of(&key, value));
            }
            changes.push((key, value));
        }
        changes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok((changes, digest))
    }
}
