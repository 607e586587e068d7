//! Rows in memory, as values, and what the key-value store has of each.

use std::mem;

use crate::view::digest::RowHash;
use crate::view::key_order::{KeyOrder, fetch};
use crate::view::keyed::{Keyed, Vacant};
use crate::view::short_key::ShortKey;

/// Rows in the order in which they came, each with a number.
pub(super) struct HeldRows<V> {
    held: Keyed<Held<V>>,
    /// What the key-value store has of each: apart, because the fold does not look at it again. Of those beyond the end it
    /// is known that there is nothing.
    stored: Vec<Stored>,
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

const NOTHING: Stored = Stored::Known(None);

impl<V> HeldRows<V> {
    pub(super) fn new() -> Self {
        HeldRows { held: Keyed::new(), stored: Vec::new() }
    }

    /// Whether there are so many that each look waits for memory, unless it was fetched.
    pub(super) fn is_large(&self) -> bool {
        self.held.is_large()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// What the row of a key is found by.
    pub(super) fn hash(&self, key: &[u8]) -> u32 {
        self.held.hash(key)
    }

    /// Fetches rows that are to be looked for next, by the hashes of their keys.
    pub(super) fn fetch_hashed(&self, hashes: &[u32]) {
        self.held.fetch(hashes);
    }

    /// The number of the row of a key with this hash.
    pub(super) fn find(&self, hash: u32, key: &[u8]) -> Result<usize, Vacant> {
        self.held.find(hash, key)
    }

    /// Holds the row of a key that is not held, and returns its number.
    pub(super) fn insert(&mut self, place: Vacant, key: ShortKey, value: Option<V>, stored: Stored) -> usize {
        let number = self.held.insert(place, key, Held { value, changed: false });
        self.set_stored(number, stored);
        number
    }

    /// Whether the key-value store may have any of them.
    pub(super) fn has_stored(&self) -> bool {
        !self.stored.is_empty()
    }

    /// What the key-value store has of the row of a number.
    pub(super) fn stored(&self, number: usize) -> Stored {
        self.stored.get(number).copied().unwrap_or(NOTHING)
    }

    pub(super) fn set_stored(&mut self, number: usize, stored: Stored) {
        if matches!(stored, Stored::Known(None)) && number >= self.stored.len() {
            return;
        }
        if number >= self.stored.len() {
            self.stored.resize(number + 1, NOTHING);
        }
        if let Some(place) = self.stored.get_mut(number) {
            *place = stored;
        }
    }

    /// The rows that were changed, in the order of their keys.
    pub(super) fn changed_in_order(&self) -> KeyOrder {
        self.held.order_of(|held| held.changed)
    }

    /// Fetches rows that are to be looked at next, by their numbers.
    pub(super) fn fetch(&self, numbers: impl Iterator<Item = usize>) {
        let rows = numbers.filter_map(|number| self.held.get(number));
        fetch(rows.map(|(key, held)| u8::from(key.is_empty()) ^ u8::from(held.changed)));
    }

    /// The row of a number, and its key.
    pub(super) fn get(&self, number: usize) -> Option<(&ShortKey, &Held<V>)> {
        self.held.get(number)
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Held<V>> {
        self.held.get_mut(number)
    }

    /// Takes all out: keys and values.
    pub(super) fn take(&mut self) -> Vec<(ShortKey, Option<V>)> {
        let held = mem::replace(self, HeldRows::new()).held.into_things();
        held.into_iter().map(|(key, row)| (key, row.value)).collect()
    }

    /// Bytes of memory, but for what values have elsewhere.
    pub(super) fn size(&self) -> usize {
        self.held.size() + mem::size_of_val(self.stored.as_slice())
    }
}
