//! The order of keys that lie anywhere in memory. Pure.

use std::hint::black_box;
use std::ops::Range;

/// So many things are fetched at once.
pub(crate) const FETCHED: usize = 32;

/// So many bytes of a key are compared before others are looked at.
const FIRST: usize = size_of::<u64>();
/// Fewer places are sorted by comparing them.
const RADIX_SORTED: usize = 1 << 10;

/// Places of keys, in the order of the keys.
#[derive(Debug)]
pub(crate) struct KeyOrder(Vec<Place>);

/// Where a key is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Its first bytes after those that all keys have alike.
    first: u64,
    at: u32,
}

impl Place {
    fn at(&self) -> usize {
        usize::try_from(self.at).unwrap_or_default()
    }
}

impl KeyOrder {
    /// Of the keys at these places, which ascend. Of those that are equal the last place stays.
    pub(crate) fn of<'a>(places: impl Iterator<Item = u32> + Clone, key: impl Fn(usize) -> &'a [u8]) -> Self {
        let KeyOrder(mut places) = KeyOrder::of_all(places, &key);
        places.dedup_by(|later, place| {
            let is_equal = later.first == place.first && key(later.at()) == key(place.at());
            if is_equal {
                place.at = later.at;
            }
            is_equal
        });
        KeyOrder(places)
    }

    /// Of the keys at these places, which ascend: so do those of keys that are equal.
    pub(crate) fn of_all<'a>(
        places: impl Iterator<Item = u32> + Clone,
        key: impl Fn(usize) -> &'a [u8],
    ) -> Self {
        let places = places.map(|at| Place { first: 0, at });
        let Alike { prefix, is_all } = Alike::of(places.clone().map(|place| key(place.at())));
        let first = |key: &[u8]| {
            let mut first = [0; FIRST];
            first.iter_mut().zip(key.iter().skip(prefix)).for_each(|(to, from)| *to = *from);
            u64::from_be_bytes(first)
        };
        let mut places: Vec<_> =
            places.map(|place| Place { first: first(key(place.at())), ..place }).collect();
        if places.len() < RADIX_SORTED {
            places.sort_by_key(|place| place.first);
        } else {
            radsort::sort_by_key(&mut places, |place| place.first);
        }
        if !is_all {
            for alike in places.chunk_by_mut(|a, b| a.first == b.first).filter(|alike| alike.len() > 1) {
                alike.sort_by(|a, b| key(a.at()).cmp(key(b.at())));
            }
        }
        KeyOrder(places)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Of some numbers in the order, the first whose place `is_before` does not hold of. It holds of those at the beginning.
    pub(crate) fn partition_point(&self, numbers: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
        let start = numbers.start;
        start + self.0.get(numbers).unwrap_or_default().partition_point(|place| is_before(place.at()))
    }

    /// A place, by its number in the order.
    pub(crate) fn at(&self, number: usize) -> Option<usize> {
        self.0.get(number).map(Place::at)
    }

    /// Some places at a time: so many as it is good to [`fetch`] at once.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = impl Iterator<Item = usize> + Clone> {
        self.0.chunks(FETCHED).map(|places| places.iter().map(Place::at))
    }
}

/// Reads a byte of each of some things that lie anywhere and are about to be used. The processor waits for all of them at
/// once, where it would wait for one after the other when they are used.
pub(crate) fn fetch(bytes: impl Iterator<Item = u8>) {
    black_box(bytes.fold(0, |all, byte| all ^ byte));
}

/// What keys have alike.
struct Alike {
    /// How many bytes all begin with.
    prefix: usize,
    /// Those that have the same [`FIRST`] bytes after it are equal.
    is_all: bool,
}

impl Alike {
    fn of<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let first = keys.next().unwrap_or_default();
        let (mut prefix, mut one_length) = (first.len(), true);
        for key in keys {
            one_length &= key.len() == first.len();
            prefix = first.iter().zip(key).take(prefix).take_while(|(a, b)| a == b).count();
        }
        Alike { prefix, is_all: one_length && first.len() - prefix <= FIRST }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn many_keys_are_sorted_as_few_are_and_equal_ones_stay_as_they_came(
            prefix in vec(any::<u8>(), 0..4),
            keys in prop_oneof![
                vec(vec(any::<u8>(), 2), 0..2 * RADIX_SORTED),
                vec(vec(prop_oneof![Just(0), Just(1)], 0..12), 0..2 * RADIX_SORTED),
            ],
        ) {
            let keys: Vec<_> = keys.into_iter().map(|key| [prefix.as_slice(), &key].concat()).collect();
            let order = KeyOrder::of_all((0..).take(keys.len()), |at| &keys[at]);
            let mut expected: Vec<_> = (0..keys.len()).collect();
            expected.sort_by_key(|at| &keys[*at]);
            prop_assert!(order.chunks().flatten().eq(expected));
        }
    }

    proptest! {
        #[test]
        fn it_is_the_order_of_the_keys_each_at_its_last_place(
            prefix in vec(any::<u8>(), 0..12),
            keys in vec(vec(prop_oneof![Just(0), Just(1), Just(0xFF)], 0..12), 0..100),
        ) {
            let keys: Vec<_> = keys.into_iter().map(|key| [prefix.as_slice(), &key].concat()).collect();
            let order = KeyOrder::of((0..).take(keys.len()), |at| &keys[at]);
            let expected: BTreeMap<_, _> = keys.iter().zip(0..).collect();
            prop_assert!(order.chunks().flatten().eq(expected.into_values()));
        }
    }
}
