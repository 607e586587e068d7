//! Rows in memory, as values, and what the key-value store has of each.

use std::mem;

use crate::view::digest::RowHash;
use crate::view::keyed::{Keyed, Vacant};
use crate::view::short_key::ShortKey;

/// Rows in the order in which they came, each with a number.
pub(super) struct HeldRows<V> {
    held: Keyed<Held<V>>,
    /// What the key-value store has of each: apart, because the fold does not look at it again.
    pub(super) stored: Vec<Stored>,
}

/// A row in memory.
pub(super) struct Held<V> {
    pub(super) value: Option<V>,
    pub(super) changed: bool,
}

/// The row that the key-value store has.
#[derive(Clone, Copy)]
pub(super) enum Stored {
    /// Not asked yet.
    Unknown,
    Known(Option<RowHash>),
}

impl<V> HeldRows<V> {
    pub(super) fn new() -> Self {
        HeldRows { held: Keyed::new(), stored: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.stored.len()
    }

    /// The number of the row of a key.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, Vacant> {
        self.held.find(key)
    }

    /// Holds the row of a key that is not held, and returns its number.
    pub(super) fn insert(&mut self, place: Vacant, key: &[u8], value: Option<V>, stored: Stored) -> usize {
        self.stored.push(stored);
        self.held.insert(place, key, Held { value, changed: false })
    }

    /// The row of a number, and its key.
    pub(super) fn get(&self, number: usize) -> Option<(&ShortKey, &Held<V>)> {
        self.held.get(number)
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Held<V>> {
        self.held.get_mut(number)
    }

    /// Bytes of memory, but for what values have elsewhere.
    pub(super) fn size(&self) -> usize {
        self.held.size() + mem::size_of_val(self.stored.as_slice())
    }
}
