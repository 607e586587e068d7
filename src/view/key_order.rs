//! The order of keys that lie anywhere in memory. Pure.

use std::hint::black_box;

use super::short_key::ShortKey;

/// So many things are fetched at once.
const FETCHED: usize = 32;

/// So many bytes of a key are compared before others are looked at.
const FIRST: usize = 12;

/// Places of keys, in the order of the keys.
#[derive(Debug)]
pub(crate) struct KeyOrder(Vec<Place>);

/// Where a key is. The first bytes of the key after those that all keys have alike, and then its place, as a number: so they
/// are in the order of these bytes, and of places where they are alike. A short key can be here as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u128);

impl Place {
    /// With all of a key; none when it has too many bytes.
    #[inline]
    pub(crate) fn whole(key: &ShortKey, at: u32) -> Option<Self> {
        Some(Place(WholeKey::of(key)?.0 << u32::BITS | u128::from(at)))
    }

    /// The key, which is here as a whole.
    #[inline]
    pub(crate) fn whole_key(self) -> WholeKey {
        WholeKey(self.0 >> u32::BITS)
    }

    fn of(key: &[u8], prefix: usize, at: u32) -> Self {
        let mut first = [0; size_of::<u128>()];
        let rest = key.get(prefix..).unwrap_or_default();
        match (rest.first_chunk::<FIRST>(), first.first_chunk_mut::<FIRST>()) {
            (Some(rest), Some(first)) => *first = *rest,
            _ => first.iter_mut().zip(rest).for_each(|(to, from)| *to = *from),
        }
        Place(u128::from_be_bytes(first) | u128::from(at))
    }

    #[inline]
    pub(crate) fn at(&self) -> usize {
        usize::try_from(self.0 & u128::from(u32::MAX)).unwrap_or_default()
    }

    fn is_like(&self, other: &Self) -> bool {
        self.0 >> u32::BITS == other.0 >> u32::BITS
    }
}

/// All of a short key as a number, which compares as the key does: eleven bytes, with zeros behind the key, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WholeKey(u128);

impl WholeKey {
    const MOST: usize = FIRST - 1;

    #[inline]
    fn of(key: &ShortKey) -> Option<Self> {
        let ShortKey::Short(len, short) = key else { return None };
        let mut bytes = [0; size_of::<u128>()];
        let first = bytes.first_chunk_mut::<{ Self::MOST }>();
        if let (Some(to), Some(from)) = (first, short.first_chunk()) {
            *to = *from;
        }
        let bits = u128::from_be_bytes(bytes) >> u32::BITS | u128::from(*len);
        (usize::from(*len) <= Self::MOST).then_some(WholeKey(bits))
    }

    /// The key.
    #[inline]
    pub(crate) fn bytes(self, room: &mut [u8; size_of::<u128>()]) -> &[u8] {
        *room = (self.0 << u32::BITS).to_be_bytes();
        let len = room.get(Self::MOST).copied().map_or(0, usize::from);
        room.get(..len).unwrap_or_default()
    }
}

impl KeyOrder {
    /// Of these places, which have all of their keys. Those of keys that are equal ascend.
    pub(crate) fn of_whole(mut places: Vec<Place>) -> Self {
        places.sort_unstable();
        KeyOrder(places)
    }

    /// Of the keys at these places. Of those that are equal the last place stays.
    pub(crate) fn of<'a>(places: impl Iterator<Item = u32> + Clone, key: impl Fn(usize) -> &'a [u8]) -> Self {
        let KeyOrder(mut places) = KeyOrder::of_all(places, &key);
        places.dedup_by(|later, place| {
            let is_equal = later.is_like(place) && key(later.at()) == key(place.at());
            if is_equal {
                *place = *later;
            }
            is_equal
        });
        KeyOrder(places)
    }

    /// Of the keys at these places. Those of keys that are equal ascend.
    pub(crate) fn of_all<'a>(
        places: impl Iterator<Item = u32> + Clone,
        key: impl Fn(usize) -> &'a [u8],
    ) -> Self {
        let key_at = |at: u32| key(usize::try_from(at).unwrap_or_default());
        let Alike { prefix, is_all } = Alike::of(places.clone().map(key_at));
        let mut places: Vec<_> = places.map(|at| Place::of(key_at(at), prefix, at)).collect();
        places.sort_unstable();
        if !is_all {
            for alike in places.chunk_by_mut(Place::is_like).filter(|alike| alike.len() > 1) {
                alike.sort_by(|a, b| key(a.at()).cmp(key(b.at())));
            }
        }
        KeyOrder(places)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A place, by its number in the order.
    #[inline]
    pub(crate) fn place(&self, number: usize) -> Option<Place> {
        self.0.get(number).copied()
    }

    /// Some places at a time: so many as it is good to [`fetch`] at once.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = impl Iterator<Item = usize> + Clone> {
        self.places().map(|places| places.iter().map(Place::at))
    }

    /// The same, as they may have their keys.
    pub(crate) fn places(&self) -> impl Iterator<Item = &[Place]> {
        self.0.chunks(FETCHED)
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
        fn it_is_the_order_of_the_keys_each_at_its_last_place(
            prefix in vec(any::<u8>(), 0..12),
            keys in prop_oneof![
                vec(vec(prop_oneof![Just(0), Just(1), Just(0xFF)], 0..16), 0..100),
                vec(vec(0..3u8, 3), 0..100),
                // Alike in the middle.
                (10..15usize).prop_flat_map(|len| {
                    vec((0..2u8, 0..3u8).prop_map(move |(a, b)| [vec![a], vec![0; len], vec![b]].concat()), 0..100)
                }),
            ],
        ) {
            let keys: Vec<_> = keys.into_iter().map(|key| [prefix.as_slice(), &key].concat()).collect();
            let order = KeyOrder::of((0..).take(keys.len()), |at| &keys[at]);
            let expected: BTreeMap<_, _> = keys.iter().zip(0..).collect();
            prop_assert!(order.chunks().flatten().eq(expected.into_values()));
            let order = KeyOrder::of_all((0..).take(keys.len()), |at| &keys[at]);
            let mut expected: Vec<_> = (0..keys.len()).collect();
            expected.sort_by_key(|at| &keys[*at]);
            prop_assert!(order.chunks().flatten().eq(expected), "those of equal keys as they came");
        }
    }
}
