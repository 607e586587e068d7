//! Things in memory, found by encoded keys. Pure.

use std::hash::BuildHasher;
use std::mem;

use super::key_hashes::KeyHashes;
use super::key_order::{KeyOrder, fetch};
use super::numbers::Numbers;
use super::short_key::ShortKey;

/// So many do not stay in the nearest caches of a processor.
const LARGE: usize = 1 << 13;

/// When there are so many, it is seen how often they repeat.
pub(crate) const SEEN: usize = 1 << 15;

/// What is larger is not had twice.
const SMALL: usize = 64;

/// Whether, of so many values that came to so many things, few came to one that was there, and the things are small. To look
/// for a thing that is mostly not there costs more than to have it twice: where they rarely repeat, what comes is better
/// listed, and put together when it is sorted. Which of both is better is seen from the things themselves, as by Müller and
/// others, *Cache-Efficient Aggregation: Hashing Is Sorting* (2015).
pub(crate) fn rarely_repeat<T>(things: usize, values: usize) -> bool {
    !mem::needs_drop::<T>() && size_of::<T>() <= SMALL && (things..=things / 8 * 9).contains(&values)
}

/// Things in the order in which they came, each with a key of its own and a number.
#[derive(Debug)]
pub(crate) struct Keyed<T> {
    things: Vec<(ShortKey, T)>,
    numbers: Numbers,
    hashes: KeyHashes,
    /// Bytes of keys that are not in `things` itself.
    keys_elsewhere: usize,
}

/// A key that is not there yet, by half of its hash.
#[derive(Debug)]
pub(crate) struct Vacant(u32);

impl<T> Keyed<T> {
    pub(crate) fn new() -> Self {
        Keyed { things: Vec::new(), numbers: Numbers::new(), hashes: KeyHashes::default(), keys_elsewhere: 0 }
    }

    /// Whether there are so many that each look waits for memory, unless it was fetched.
    pub(crate) fn is_large(&self) -> bool {
        self.things.len() >= LARGE
    }

    /// What a key is found by.
    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        u32::try_from(self.hashes.hash_one(key) >> 32).unwrap_or_default()
    }

    /// Fetches what is to be looked for next, by the hashes of the keys.
    pub(crate) fn fetch(&self, hashes: &[u32]) {
        // One after the other: each tells where the next is.
        fetch(hashes.iter().map(|hash| u8::from(self.numbers.word(*hash) != 0)));
        let number = |hash: &u32| self.numbers.find(*hash, |_| true);
        let rows = hashes.iter().filter_map(number).filter_map(|number| self.things.get(number));
        fetch(rows.map(|(key, _)| key.ends()));
    }

    /// The number of a key with this hash.
    pub(crate) fn find(&self, hash: u32, key: &[u8]) -> Result<usize, Vacant> {
        let is_it = |number: usize| self.things.get(number).is_some_and(|(found, _)| **found == *key);
        self.numbers.find(hash, is_it).ok_or(Vacant(hash))
    }

    /// Adds what belongs to a key that is not there, and returns its number.
    pub(crate) fn insert(&mut self, place: Vacant, key: ShortKey, thing: T) -> usize {
        let Vacant(hash) = place;
        self.keys_elsewhere += key.elsewhere();
        self.things.push((key, thing));
        self.numbers.add(hash)
    }

    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }

    /// What has this number, and its key.
    pub(crate) fn get(&self, number: usize) -> Option<(&ShortKey, &T)> {
        self.things.get(number).map(|(key, thing)| (key, thing))
    }

    pub(crate) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.things.get_mut(number).map(|(_, thing)| thing)
    }

    /// Bytes of memory of keys that are not in place.
    pub(crate) fn keys_elsewhere(&self) -> usize {
        self.keys_elsewhere
    }

    /// Bytes of memory, but for what the things have elsewhere.
    pub(crate) fn size(&self) -> usize {
        self.things.len() * mem::size_of::<(ShortKey, T)>() + self.numbers.size() + self.keys_elsewhere
    }

    /// The numbers of some of them, in the order of the keys.
    pub(crate) fn order_of(&self, is_one: impl Fn(&T) -> bool) -> KeyOrder {
        let numbers = (0u32..).zip(&self.things).filter(|(_, (_, thing))| is_one(thing));
        KeyOrder::of_all(numbers.map(|(number, _)| number), |number| {
            self.things.get(number).map_or(&[][..], |(key, _)| key)
        })
    }

    /// They, with their keys, in the order in which they came.
    pub(crate) fn into_things(self) -> Vec<(ShortKey, T)> {
        self.things
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(keyed: &mut Keyed<usize>, key: &[u8]) -> usize {
        let next = keyed.len();
        keyed.find(keyed.hash(key), key).unwrap_or_else(|place| keyed.insert(place, ShortKey::of(key), next))
    }

    #[test]
    fn each_key_has_one_number_and_they_come_sorted() {
        let mut keyed = Keyed::new();
        let keys: Vec<Vec<u8>> =
            (0..3000u32).map(|n| n.to_be_bytes().repeat(1 + usize::from(n.to_be_bytes()[3]) % 9)).collect();
        for _ in 0..2 {
            for (expected, key) in keys.iter().enumerate() {
                assert_eq!(number(&mut keyed, key), expected);
                assert_eq!(keyed.get_mut(expected), Some(&mut expected.clone()));
            }
        }
        let mut expected: Vec<_> = keys.iter().cloned().zip(0..).collect();
        expected.sort();
        let order = keyed.order_of(|_| true);
        let found = order.chunks().flatten().map(|number| keyed.get(number).unwrap());
        assert_eq!(found.map(|(key, number)| (key.to_vec(), *number)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn its_size_has_all_of_it_with_the_bytes_of_long_keys() {
        let size = |len: usize| {
            let mut keyed = Keyed::new();
            for n in 0..100u8 {
                number(&mut keyed, &vec![n; len]);
            }
            keyed.size()
        };
        assert_eq!(size(1000) - size(10), 100 * 1000);
        assert!(size(10) >= 100 * (mem::size_of::<ShortKey>() + mem::size_of::<usize>() + 10));
    }
}
