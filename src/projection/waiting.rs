//! Values that wait to be merged into their rows: until these are fetched from memory many at once, or to the end of the
//! batch.

use std::mem;
use std::ptr;

use crate::view::key_order::FETCHED;
use crate::view::keyed::Ordered;
use crate::view::short_key::ShortKey;

/// So many wait at the most.
const MOST: usize = 32;

/// Merges a value into that of a row.
pub(super) type Merge<V> = fn(&mut V, V);

/// Values in the order in which they came.
pub(super) struct Waiting<V> {
    values: Vec<(ShortKey, V, Merge<V>)>,
    /// Those of their keys.
    hashes: Vec<u32>,
}

impl<V> Default for Waiting<V> {
    fn default() -> Self {
        Waiting { values: Vec::new(), hashes: Vec::new() }
    }
}

impl<V> Waiting<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.values.len() >= MOST
    }

    pub(super) fn push(&mut self, hash: u32, key: ShortKey, value: V, merge: Merge<V>) {
        self.values.push((key, value, merge));
        self.hashes.push(hash);
    }

    /// The hashes of their keys.
    pub(super) fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    /// Leaves none.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u32, (ShortKey, V, Merge<V>))> {
        self.hashes.drain(..).zip(self.values.drain(..))
    }
}

/// Values that wait for the end of the batch, in the order in which they came. All are merged alike.
pub(super) struct Listed<V> {
    values: Vec<(ShortKey, Option<V>)>,
    keys_elsewhere: usize,
    merge: Merge<V>,
}

impl<V> Listed<V> {
    pub(super) fn new(merge: Merge<V>) -> Self {
        Listed { values: Vec::new(), keys_elsewhere: 0, merge }
    }

    /// Whether it merges values so.
    pub(super) fn merges_by(&self, merge: Merge<V>) -> bool {
        ptr::fn_addr_eq(self.merge, merge)
    }

    pub(super) fn push(&mut self, key: ShortKey, value: V) {
        self.keys_elsewhere += key.elsewhere();
        self.values.push((key, Some(value)));
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Bytes of memory.
    pub(super) fn size(&self) -> usize {
        mem::size_of_val(self.values.as_slice()) + self.keys_elsewhere
    }

    /// The values, and how they are merged.
    pub(super) fn into_values(self) -> (impl Iterator<Item = (ShortKey, V)>, Merge<V>) {
        (self.values.into_iter().filter_map(|(key, value)| Some((key, value?))), self.merge)
    }

    /// The values in the order of their keys, those of the same key as they came.
    pub(super) fn into_order(self) -> ListedInOrder<V> {
        ListedInOrder { values: Ordered::of(self.values), at: 0, merge: self.merge }
    }
}

/// Values that are merged, one key after the other.
pub(super) struct ListedInOrder<V> {
    values: Ordered<Option<V>>,
    /// The first value of the key that is next.
    at: usize,
    merge: Merge<V>,
}

impl<V> ListedInOrder<V> {
    pub(super) fn key(&self) -> Option<&ShortKey> {
        self.values.get(self.at).map(|(key, _)| key)
    }

    /// Merges all values of the key that is next into what there is of it. The next key follows.
    pub(super) fn merge_next(&mut self, row: &mut Option<V>) {
        let first = self.at;
        while let Some((key, _)) = self.values.get(self.at)
            && self.values.get(first).is_some_and(|(first, _)| first == key)
        {
            if self.at.is_multiple_of(FETCHED) {
                self.values.fetch(self.at);
            }
            let value = self.values.get_mut(self.at).and_then(Option::take);
            self.at += 1;
            match (row.as_mut(), value) {
                (Some(row), Some(value)) => (self.merge)(row, value),
                (None, value) => *row = value,
                (Some(_), None) => {}
            }
        }
    }

    /// Merges all values of the key that is next, of which there is nothing. The next key follows.
    pub(super) fn merge_new(&mut self) -> (Option<&ShortKey>, Option<V>) {
        let (first, mut row) = (self.at, None);
        self.merge_next(&mut row);
        (self.values.get(first).map(|(key, _)| key), row)
    }
}
