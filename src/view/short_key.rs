//! An encoded key in memory. Most are short: these need no memory of their own.

use std::cmp::Ordering;
use std::ops::Deref;

/// A key of so many bytes is kept in place.
const SHORT: usize = 22;

/// The bytes of a key, in place if they are few. It is compared as they are.
#[derive(Clone, Debug)]
pub(crate) enum ShortKey {
    /// How many bytes, and the bytes, with zeros behind them.
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl ShortKey {
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match (u8::try_from(bytes.len()), short.get_mut(..bytes.len())) {
            (Ok(len), Some(place)) => {
                place.copy_from_slice(bytes);
                ShortKey::Short(len, short)
            }
            _ => ShortKey::Long(bytes.into()),
        }
    }

    /// Reads both ends of its place, which may be in two lines of memory.
    #[inline]
    pub(crate) fn ends(&self) -> u8 {
        match self {
            ShortKey::Short(len, short) => len ^ short.last().copied().unwrap_or_default(),
            ShortKey::Long(_) => 0,
        }
    }

    /// Bytes of memory that it has elsewhere.
    #[inline]
    pub(crate) fn elsewhere(&self) -> usize {
        match self {
            ShortKey::Short(..) => 0,
            ShortKey::Long(long) => long.len(),
        }
    }
}

impl Default for ShortKey {
    /// The empty key.
    fn default() -> Self {
        ShortKey::Short(0, [0; SHORT])
    }
}

impl Deref for ShortKey {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            ShortKey::Short(len, short) => short.get(..usize::from(*len)).unwrap_or_default(),
            ShortKey::Long(long) => long,
        }
    }
}

impl PartialEq for ShortKey {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ShortKey::Short(len, short), ShortKey::Short(other_len, other)) => {
                len == other_len && short == other
            }
            _ => **self == **other,
        }
    }
}

impl Eq for ShortKey {}

impl PartialOrd for ShortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortKey {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            // The zeros behind the shorter one are smaller than what the longer one has there, but for zeros of its own.
            (ShortKey::Short(len, short), ShortKey::Short(other_len, other)) => {
                let at = |at| word(short, at).cmp(&word(other, at));
                at(0).then_with(|| at(8)).then_with(|| at(SHORT - 8)).then(len.cmp(other_len))
            }
            _ => (**self).cmp(&**other),
        }
    }
}

/// Eight of the bytes as a number, which compares as they do.
#[inline]
fn word(short: &[u8; SHORT], at: usize) -> u64 {
    short.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0xFF)], 0..SHORT + 4)
    }

    /// One is the other, shortened or with something behind it, or with another byte.
    fn alike() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let end = proptest::collection::vec(0..2u8, 0..4);
        (bytes(), 0..SHORT + 4, end, any::<(bool, u8)>()).prop_map(|(a, at, end, (cut, byte))| {
            let mut b = a.clone();
            match b.get_mut(at) {
                Some(_) if cut => b.truncate(at),
                Some(place) => *place = byte,
                None => b.extend(end),
            }
            (a, b)
        })
    }

    proptest! {
        #[test]
        fn a_key_is_compared_as_its_bytes_are((a, b) in prop_oneof![(bytes(), bytes()), alike()]) {
            let (left, right) = (ShortKey::of(&a), ShortKey::of(&b));
            prop_assert_eq!((&*left, &*right), (a.as_slice(), b.as_slice()));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            prop_assert_eq!(left == right, a == b);
            prop_assert_eq!(left.elsewhere(), if a.len() > SHORT { a.len() } else { 0 });
        }
    }
}
