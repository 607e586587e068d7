//! Values that wait to be merged into their rows, until these are fetched from memory many at once.

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
