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
    /// Bytes of keys that are not in `rows` itself.
    keys_elsewhere: usize,
}

/// A key that is not held yet, by half of its hash.
pub(super) struct Vacant(u32);

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
            keys_elsewhere: 0,
        }
    }

    /// The number of the row of a key.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, Vacant> {
        let hash = u32::try_from(self.hashes.hash_one(key) >> 32).unwrap_or_default();
        let is_it = |number: &Number| {
            number.hash == hash && self.rows.get(at(number)).is_some_and(|held| *held.key == *key)
        };
        self.numbers.find(Number::spread(hash), is_it).map(at).ok_or(Vacant(hash))
    }

    /// Holds the row of a key that is not held, and returns its number.
    pub(super) fn insert(&mut self, place: Vacant, key: &[u8], value: Option<V>, stored: Stored) -> usize {
        let Vacant(hash) = place;
        let number = self.rows.len();
        let slot = Number { hash, number: u32::try_from(number).unwrap_or(u32::MAX) };
        self.numbers.insert_unique(Number::spread(hash), slot, |slot| Number::spread(slot.hash));
        let key = ShortKey::of(key);
        self.keys_elsewhere += key.elsewhere();
        self.rows.push(Held { key, value, changed: false });
        self.stored.push(stored);
        number
    }

    /// Bytes of memory, but for what values have elsewhere.
    pub(super) fn size(&self) -> usize {
        let row = mem::size_of::<Held<V>>() + mem::size_of::<Stored>() + 2 * mem::size_of::<Number>();
        self.rows.len() * row + self.keys_elsewhere
    }
}

fn at(number: &Number) -> usize {
    usize::try_from(number.number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(held: &mut HeldRows<u32>, key: &[u8]) -> usize {
        held.find(key).unwrap_or_else(|place| held.insert(place, key, None, Stored::Unknown))
    }

    #[test]
    fn each_key_has_one_row_with_a_number_of_its_own() {
        let mut held = HeldRows::new();
        let keys: Vec<Vec<u8>> =
            (0..3000u32).map(|n| n.to_be_bytes().repeat(1 + usize::from(n.to_be_bytes()[3]) % 9)).collect();
        for _ in 0..2 {
            for (expected, key) in keys.iter().enumerate() {
                assert_eq!(number(&mut held, key), expected);
            }
        }
        assert_eq!(held.rows.len(), keys.len());
        assert!(held.rows.iter().zip(&keys).all(|(held, key)| *held.key == **key));
    }

    #[test]
    fn its_size_has_the_bytes_of_long_keys() {
        let size = |len: usize| {
            let mut held = HeldRows::new();
            for n in 0..100u8 {
                number(&mut held, &vec![n; len]);
            }
            held.size()
        };
        assert_eq!(size(1000) - size(10), 100 * 1000);
    }
}
