//! Things with encoded keys, listed as they come, and then gone through in the order of their keys. Pure.
//!
//! A key of up to eleven bytes is kept in the number that is sorted: what then lies anywhere in memory, and is waited for, is
//! the thing alone.

use std::cmp::Ordering;
use std::mem;
use std::ops::Range;

use super::key_order::{KeyOrder, Place, WholeKey, fetch};
use super::short_key::ShortKey;

/// Larger ones stay where they came to lie.
const SMALL: usize = 64;

/// Things in the order in which they came. Several may have the same key.
#[derive(Debug)]
pub(crate) struct KeyList<T> {
    keys: Keys,
    /// All are there, until they are taken out in the order of the keys.
    things: Vec<Option<T>>,
}

#[derive(Debug)]
enum Keys {
    Whole(Vec<Place>),
    /// Some are longer.
    Apart {
        keys: Vec<ShortKey>,
        /// Bytes of memory that they have elsewhere.
        elsewhere: usize,
    },
}

impl Keys {
    fn push(&mut self, key: ShortKey) {
        match self {
            Keys::Whole(places) => {
                let number = u32::try_from(places.len()).ok();
                match number.and_then(|number| Place::whole(&key, number)) {
                    Some(place) => places.push(place),
                    None => self.push_apart(key),
                }
            }
            Keys::Apart { .. } => self.push_apart(key),
        }
    }

    fn push_apart(&mut self, key: ShortKey) {
        let (mut keys, mut elsewhere) = match self {
            Keys::Whole(places) => (apart(places), 0),
            Keys::Apart { keys, elsewhere } => (mem::take(keys), *elsewhere),
        };
        elsewhere += key.elsewhere();
        keys.push(key);
        *self = Keys::Apart { keys, elsewhere };
    }
}

fn apart(places: &[Place]) -> Vec<ShortKey> {
    places.iter().map(|place| ShortKey::of(place.whole_key().bytes(&mut [0; 16]))).collect()
}

impl<T> KeyList<T> {
    pub(crate) fn new() -> Self {
        KeyList { keys: Keys::Whole(Vec::new()), things: Vec::new() }
    }

    pub(crate) fn of(things: Vec<(ShortKey, T)>) -> Self {
        let mut list = KeyList { keys: Keys::Whole(Vec::with_capacity(things.len())), things: Vec::new() };
        list.things.reserve_exact(things.len());
        things.into_iter().for_each(|(key, thing)| list.push(key, thing));
        list
    }

    #[inline]
    pub(crate) fn push(&mut self, key: ShortKey, thing: T) {
        self.keys.push(key);
        self.things.push(Some(thing));
    }

    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }

    /// Bytes of memory of keys that are not in place.
    pub(crate) fn keys_elsewhere(&self) -> usize {
        match &self.keys {
            Keys::Whole(_) => 0,
            Keys::Apart { elsewhere, .. } => *elsewhere,
        }
    }

    /// Bytes of memory, but for what the things have elsewhere.
    pub(crate) fn size(&self) -> usize {
        let keys = match &self.keys {
            Keys::Whole(places) => mem::size_of_val(places.as_slice()),
            Keys::Apart { keys, elsewhere } => mem::size_of_val(keys.as_slice()) + elsewhere,
        };
        mem::size_of_val(self.things.as_slice()) + keys
    }

    /// They, with their keys, in the order in which they came.
    pub(crate) fn into_things(self) -> impl Iterator<Item = (ShortKey, T)> {
        let keys = match self.keys {
            Keys::Apart { keys, .. } => keys,
            Keys::Whole(places) => apart(&places),
        };
        keys.into_iter().zip(self.things).filter_map(|(key, thing)| Some((key, thing?)))
    }

    /// They, to be taken in the order of the keys. Those with the same key stay in the order in which they came.
    pub(crate) fn into_ordered(self) -> Ordered<T> {
        let things = self.things;
        let (order, keys) = match self.keys {
            Keys::Whole(places) => (KeyOrder::of_whole(places), None),
            Keys::Apart { keys, .. } => {
                let numbers = (0u32..).zip(&keys).map(|(number, _)| number);
                let order = KeyOrder::of_all(numbers, |at| keys.get(at).map_or(&[], |key| key));
                (order, Some(keys))
            }
        };
        Ordered { things, keys, order }
    }

    /// The same, for who goes through several at once.
    pub(crate) fn into_sorted(self) -> Sorted<T> {
        let Ordered { mut things, keys, order } = self.into_ordered();
        let is_laid_out = size_of::<T>() <= SMALL;
        if is_laid_out {
            things = laid_out(&order, |at| things.get_mut(at).and_then(Option::take));
        }
        let keys =
            keys.map(|mut keys| laid_out(&order, |at| keys.get_mut(at).map(mem::take).unwrap_or_default()));
        Sorted { things, is_laid_out, keys, order }
    }
}

/// Things that lie in memory as they came, and the order of their keys.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    things: Vec<Option<T>>,
    /// None when the order has all of each.
    keys: Option<Vec<ShortKey>>,
    order: KeyOrder,
}

/// What is at these places, one after the other: the processor waits for many at once.
fn laid_out<T>(order: &KeyOrder, take: impl FnMut(usize) -> T) -> Vec<T> {
    let mut things = Vec::with_capacity(order.len());
    things.extend(order.places().flatten().map(Place::at).map(take));
    things
}

/// Things in the order of their keys.
#[derive(Debug)]
pub(crate) struct Sorted<T> {
    things: Vec<Option<T>>,
    /// The things lie in memory in that order; else, as they are large, as they came.
    is_laid_out: bool,
    /// In that order. None when the order has all of each.
    keys: Option<Vec<ShortKey>>,
    order: KeyOrder,
}

/// The key of a thing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OrderedKey<'a> {
    Whole(WholeKey),
    Apart(&'a ShortKey),
}

impl OrderedKey<'_> {
    /// The bytes of the key; those of a short one are put into `room`.
    #[inline]
    pub(crate) fn bytes<'b>(&'b self, room: &'b mut [u8; size_of::<u128>()]) -> &'b [u8] {
        match self {
            OrderedKey::Whole(key) => key.bytes(room),
            OrderedKey::Apart(key) => key,
        }
    }
}

impl Ord for OrderedKey<'_> {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (OrderedKey::Whole(key), OrderedKey::Whole(other)) => key.cmp(other),
            (OrderedKey::Apart(key), OrderedKey::Apart(other)) => key.cmp(other),
            _ => self.bytes(&mut [0; 16]).cmp(other.bytes(&mut [0; 16])),
        }
    }
}

impl PartialOrd for OrderedKey<'_> {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OrderedKey<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OrderedKey<'_> {}

fn key_of<'a>(place: Place, keys: Option<&'a [ShortKey]>) -> Option<OrderedKey<'a>> {
    match keys {
        None => Some(OrderedKey::Whole(place.whole_key())),
        Some(keys) => keys.get(place.at()).map(OrderedKey::Apart),
    }
}

impl<T> Ordered<T> {
    /// Takes them out, in the order of the keys.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = (OrderedKey<'_>, T)> {
        let Ordered { things, keys, order } = self;
        let keys = keys.as_deref();
        order.places().flat_map(move |places| {
            // Many at a time: so the processor waits for all of them at once.
            fetch(
                keys.into_iter()
                    .flat_map(|keys| places.iter().filter_map(|place| Some(keys.get(place.at())?.ends()))),
            );
            let taken: Vec<_> =
                places.iter().map(|place| things.get_mut(place.at()).and_then(Option::take)).collect();
            places.iter().zip(taken).filter_map(move |(place, thing)| key_of(*place, keys).zip(thing))
        })
    }
}

impl<T> Sorted<T> {
    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }

    /// The key of a thing, by the thing's number in the order.
    #[inline]
    pub(crate) fn key(&self, number: usize) -> Option<OrderedKey<'_>> {
        match &self.keys {
            None => Some(OrderedKey::Whole(self.order.place(number)?.whole_key())),
            Some(keys) => keys.get(number).map(OrderedKey::Apart),
        }
    }

    /// A thing and its key, by its number in the order.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<(OrderedKey<'_>, &T)> {
        let at = if self.is_laid_out { number } else { self.order.place(number)?.at() };
        self.key(number).zip(self.things.get(at)?.as_ref())
    }

    /// The number of the first of some that is not before a key.
    pub(crate) fn first_not_before(&self, numbers: Range<usize>, bound: OrderedKey<'_>) -> usize {
        let Range { start: mut low, end: mut high } = numbers;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle).is_some_and(|key| key < bound) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(most: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(0xFF)], 0..=most)
    }

    fn list_of(keys: &[Vec<u8>]) -> KeyList<usize> {
        let mut list = KeyList::new();
        keys.iter().enumerate().for_each(|(number, key)| list.push(ShortKey::of(key), number));
        list
    }

    /// Of things with short keys only, and with some longer ones.
    fn keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop_oneof![vec(key(11), 0..60), vec(prop_oneof![4 => key(11), 1 => key(30)], 0..60)]
    }

    proptest! {
        #[test]
        fn things_come_in_the_order_of_their_keys_and_those_of_one_key_as_they_came(
            keys in keys(),
            bound in key(13),
        ) {
            let mut expected: Vec<_> = keys.iter().cloned().zip(0..).collect();
            expected.sort_by(|(a, _), (b, _)| a.cmp(b));
            let sorted = list_of(&keys).into_sorted();
            let all = (0..sorted.len()).map(|number| sorted.get(number).unwrap());
            let all: Vec<_> = all.map(|(key, number)| (key.bytes(&mut [0; 16]).to_vec(), *number)).collect();
            prop_assert_eq!(&all, &expected);
            let mut large = KeyList::new();
            (0..).zip(&keys).for_each(|(number, key)| large.push(ShortKey::of(key), [number; 1 + SMALL / 8]));
            let large = large.into_sorted();
            prop_assert!(!large.is_laid_out);
            let large = (0..large.len()).map(|number| large.get(number).unwrap());
            let large = large.map(|(key, numbers)| (key.bytes(&mut [0; 16]).to_vec(), numbers[SMALL / 8]));
            prop_assert!(large.eq(all));
            // The bound is of another list, so it may be held in another way.
            for other in [vec![bound.clone()], vec![bound.clone(), vec![2; 12]]] {
                let other = list_of(&other).into_sorted();
                let other = other.key(usize::from(other.len() > 1 && bound > vec![2; 12])).unwrap();
                let found = sorted.first_not_before(0..sorted.len(), other);
                prop_assert_eq!(found, expected.partition_point(|(key, _)| *key < bound));
            }
            let mut ordered = list_of(&keys).into_ordered();
            let taken = ordered.take_all().map(|(key, number)| (key.bytes(&mut [0; 16]).to_vec(), number));
            prop_assert_eq!(taken.collect::<Vec<_>>(), expected);
            prop_assert_eq!(ordered.take_all().count(), 0);
        }

        #[test]
        fn things_come_back_as_they_came_and_their_keys_elsewhere_are_counted(keys in keys()) {
            let list = list_of(&keys);
            let elsewhere = keys.iter().map(|key| ShortKey::of(key).elsewhere()).sum::<usize>();
            prop_assert_eq!((list.len(), list.keys_elsewhere()), (keys.len(), elsewhere));
            prop_assert!(list.size() >= keys.iter().map(Vec::len).sum::<usize>() + elsewhere);
            let things = list.into_things().map(|(key, number)| (key.to_vec(), number));
            prop_assert!(things.eq(keys.into_iter().zip(0..)));
        }
    }
}
