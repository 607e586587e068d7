//! Rows in memory, as values, found by their encoded keys.

use std::hash::BuildHasher;
use std::mem;

use hashbrown::HashTable;

use crate::view::digest::RowHash;
use crate::view::key_hashes::KeyHashes;
use crate::view::short_key::ShortKey;

/// Rows in the order in which they came, each with a number.
pub(super) struct HeldRows<V> {
    pub(super) rows: Vec<Held<V>>,
    /// What the key-value store has of each: apart, because the fold does not look at it again.
    pub(super) stored: Vec<Stored>,
    numbers: HashTable<Number>,
    hashes: KeyHashes,
}

/// A row in memory.
pub(super) struct Held<V> {
    pub(super) key: ShortKey,
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

/// Half of the hash of a row's key, so that most rows need not be looked at, and where the row is.
struct Number {
    hash: u32,
    number: u32,
}

impl Number {
    /// All of the hash that the table needs.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl<V> HeldRows<V> {
    pub(super) fn new() -> Self {
        HeldRows {
            rows: Vec::new(),
            stored: Vec::new(),
            numbers: HashTable::new(),
            hashes: KeyHashes::default(),
        }
    }

    /// The number of the row of a key, and whether it is a new one: without a value, and nothing known of it.
    pub(super) fn number(&mut self, key: &[u8]) -> (usize, bool) {
        let hash = self.hash(key);
        let rows = &self.rows;
        let is_it = |number: &Number| {
            number.hash == hash && rows.get(at(number)).is_some_and(|held| *held.key == *key)
        };
        if let Some(found) = self.numbers.find(Number::spread(hash), is_it) {
            return (at(found), false);
        }
        let number = self.rows.len();
        let slot = Number { hash, number: u32::try_from(number).unwrap_or(u32::MAX) };
        self.numbers.insert_unique(Number::spread(hash), slot, |slot| Number::spread(slot.hash));
        let key = ShortKey::of(key);
        self.rows.push(Held { key, value: None, changed: false });
        self.stored.push(Stored::Unknown);
        (number, true)
    }

    /// Lets go of the row that came last.
    pub(super) fn forget_last(&mut self) {
        let Some(held) = self.rows.pop() else { return };
        self.stored.pop();
        let (hash, last) = (self.hash(&held.key), self.rows.len());
        if let Ok(slot) = self.numbers.find_entry(Number::spread(hash), |number| at(number) == last) {
            slot.remove();
        }
    }

    fn hash(&self, key: &[u8]) -> u32 {
        u32::try_from(self.hashes.hash_one(key) >> 32).unwrap_or_default()
    }

    /// Bytes of memory, but for what keys and values have elsewhere.
    pub(super) fn size(&self) -> usize {
        let row = mem::size_of::<Held<V>>() + mem::size_of::<Stored>() + 2 * mem::size_of::<Number>();
        self.rows.len() * row
    }
}

fn at(number: &Number) -> usize {
    usize::try_from(number.number).unwrap_or(usize::MAX)
}
