//! Keys of views as bytes that sort as the keys do. Pure: bytes in, value or reason out.
//!
//! ```text
//! ()                    nothing
//! bool                  00 | 01
//! u8 … u128, Position   big-endian, fixed width
//! i8 … i128             big-endian, sign bit flipped: the negative ones come first
//! char                  its scalar value as a u32
//! [u8; N], Uuid         the bytes
//! SystemTime            seconds since 1970 as i64, rounded down; nanoseconds after that as u32: see `time_key`
//! Duration              seconds as u64, nanoseconds as u32
//! NonZero<_>            as the number
//! Reverse<K>            K with all bits flipped: what comes last comes first
//! String, Vec<u8>       the bytes with 00 written as 00 FF, then 00 01
//! Option<K>             00 | 01 K
//! (A, B, …)             A B …
//! ```
//!
//! Tuples need no separators because every encoding delimits itself: none is the beginning of another one of the same
//! type. Text gets that from its end mark, as in the tuple layer of FoundationDB, where the technique comes from. Two
//! strings are told apart either at a byte both have, or where the shorter ends. There it has `00 01`, and the longer
//! one has `00 FF` (it goes on with a zero byte) or a byte above 00, both greater: the shorter comes first, as it
//! should. The end mark has a second byte so that whatever the next component starts with, even FF, cannot turn it
//! into an escaped zero.
//!
//! The encoding is part of the on-disk form of views. The golden bytes in the tests never change.

use std::cmp::Reverse;
use std::num::NonZero;

use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::event::{Position, Version};

const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const END: [u8; 2] = [0x00, 0x01];

/// A key of a view: encoded so that the order of the bytes is the order of the keys, which is what makes ranges and
/// prefixes mean what they say.
///
/// Implemented for integers (also [`NonZero`]), `bool`, `char`, [`String`], `Vec<u8>`, `[u8; N]`, [`Uuid`], [`Position`],
/// [`Version`], [`SystemTime`](std::time::SystemTime) (also before 1970), [`Duration`](std::time::Duration), `()`,
/// [`Option`] (`None` first), [`Reverse`] for a descending order, and tuples of up to six keys. There are no floats, as
/// they have no total order, and no `usize`, whose width differs between machines.
///
/// The encoding is part of the on-disk form of views: change what a type encodes to, and its views must be rebuilt.
///
/// A type of your own is best built from these:
///
/// ```
/// use everfold::{Error, Key};
///
/// #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
/// struct Cell { customer: String, item: u32 }
///
/// impl Key for Cell {
///     fn encode(&self, out: &mut Vec<u8>) {
///         self.customer.encode(out);
///         self.item.encode(out);
///     }
///
///     fn decode(input: &mut &[u8]) -> Result<Self, Error> {
///         Ok(Cell { customer: Key::decode(input)?, item: Key::decode(input)? })
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Cell { customer: "jsmith".into(), item: 7 }.encode(&mut bytes);
/// assert_eq!(Cell::decode(&mut bytes.as_slice())?, Cell { customer: "jsmith".into(), item: 7 });
/// # Ok::<(), Error>(())
/// ```
pub trait Key: Sized + Send + Sync + 'static {
    /// Adds the encoded key to `out`.
    ///
    /// For keys `a` and `b`, the encodings must compare as `a` and `b` do, and neither may be the beginning of the
    /// other one unless they are equal.
    fn encode(&self, out: &mut Vec<u8>);

    /// Takes a key from the front of `input`, and leaves what follows it.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when `input` does not start with an encoded key.
    fn decode(input: &mut &[u8]) -> Result<Self, Error>;
}

/// The key that these bytes are, and nothing more.
pub(crate) fn decode_whole<K: Key>(mut bytes: &[u8]) -> Result<K, Error> {
    let key = K::decode(&mut bytes)?;
    match bytes {
        [] => Ok(key),
        _ => Err(fault(
            "a view's key is longer than its type: raise the projection's GENERATION when its types change",
        )),
    }
}

pub(super) fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Codec, message)
}

pub(super) fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Error> {
    let (taken, rest) =
        input.split_first_chunk().ok_or_else(|| fault("the key ends where more bytes were expected"))?;
    *input = rest;
    Ok(*taken)
}

pub(super) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for (n, run) in bytes.split(|byte| *byte == 0).enumerate() {
        if n > 0 {
            out.extend_from_slice(&ESCAPED_ZERO);
        }
        out.extend_from_slice(run);
    }
}

pub(super) fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, out);
    out.extend_from_slice(&END);
}

fn decode_bytes(input: &mut &[u8]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    loop {
        let plain = input.iter().take_while(|byte| **byte != 0).count();
        let (run, rest) =
            input.split_at_checked(plain).ok_or_else(|| fault("the key is shorter than itself"))?;
        bytes.extend_from_slice(run);
        *input = rest;
        match take(input)? {
            ESCAPED_ZERO => bytes.push(0),
            END => return Ok(bytes),
            [_, other] => {
                return Err(fault(format!("a zero byte in a text or byte key is followed by {other:#04x}")));
            }
        }
    }
}

macro_rules! unsigned {
    ($($int:ty)*) => {$(
        impl Key for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(input: &mut &[u8]) -> Result<Self, Error> {
                take(input).map(<$int>::from_be_bytes)
            }
        }
    )*};
}

macro_rules! signed {
    ($($int:ty)*) => {$(
        impl Key for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self ^ <$int>::MIN).to_be_bytes());
            }

            fn decode(input: &mut &[u8]) -> Result<Self, Error> {
                take(input).map(|bytes| <$int>::from_be_bytes(bytes) ^ <$int>::MIN)
            }
        }
    )*};
}

macro_rules! non_zero {
    ($($int:ty)*) => {$(
        impl Key for NonZero<$int> {
            fn encode(&self, out: &mut Vec<u8>) {
                self.get().encode(out);
            }

            fn decode(input: &mut &[u8]) -> Result<Self, Error> {
                NonZero::new(<$int>::decode(input)?).ok_or_else(|| fault("a key that is not zero is zero"))
            }
        }
    )*};
}

unsigned!(u8 u16 u32 u64 u128);
signed!(i8 i16 i32 i64 i128);
non_zero!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128);

/// Descending: the order of the bytes is turned round by flipping each bit.
impl<K: Key> Key for Reverse<K> {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.0.encode(out);
        out.iter_mut().skip(start).for_each(|byte| *byte = !*byte);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        let flipped: Vec<u8> = input.iter().map(|byte| !byte).collect();
        let mut rest = flipped.as_slice();
        let key = K::decode(&mut rest)?;
        *input = input.get(input.len() - rest.len()..).unwrap_or_default();
        Ok(Reverse(key))
    }
}

impl Key for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        match take(input)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(fault(format!("a bool key of {other:#04x}"))),
        }
    }
}

impl Key for char {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::from(*self).encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        let scalar = u32::decode(input)?;
        char::from_u32(scalar)
            .ok_or_else(|| fault(format!("a char key of {scalar:#x}, which is no character")))
    }
}

impl Key for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        String::from_utf8(decode_bytes(input)?).map_err(|e| fault("a text key is not UTF-8").because(e))
    }
}

impl Key for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self, out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        decode_bytes(input)
    }
}

impl<const N: usize> Key for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        take(input)
    }
}

impl Key for Uuid {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        take(input).map(Uuid::from_bytes)
    }
}

impl Key for Position {
    fn encode(&self, out: &mut Vec<u8>) {
        self.get().encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        u64::decode(input).map(Position::new)
    }
}

impl Key for Version {
    fn encode(&self, out: &mut Vec<u8>) {
        self.get().encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        u64::decode(input).map(Version::new)
    }
}

impl<K: Key> Key for Option<K> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(key) = self {
            key.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        match take(input)? {
            [0] => Ok(None),
            [1] => K::decode(input).map(Some),
            [other] => Err(fault(format!("an optional key that starts with {other:#04x}"))),
        }
    }
}

impl Key for () {
    fn encode(&self, _out: &mut Vec<u8>) {}

    fn decode(_input: &mut &[u8]) -> Result<Self, Error> {
        Ok(())
    }
}

macro_rules! tuple {
    ($($K:ident $n:tt),+) => {
        impl<$($K: Key),+> Key for ($($K,)+) {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$n.encode(out);)+
            }

            fn decode(input: &mut &[u8]) -> Result<Self, Error> {
                Ok(($($K::decode(input)?,)+))
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Debug;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn encoded<K: Key>(key: &K) -> Vec<u8> {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        bytes
    }

    /// Bytes around the escapes, so that runs of zeros and ends are common.
    pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 0..6)
    }

    pub(crate) fn text() -> impl Strategy<Value = String> {
        let chars = prop_oneof![Just('\0'), Just('\u{1}'), Just('a'), Just('\u{FF}'), Just('\u{10FFFF}')];
        vec(chars, 0..6).prop_map(String::from_iter)
    }

    type Numbers = ((u8, u16, u32, u64, u128), (i8, i16, i32, i64, i128));
    type Texts = (String, Vec<u8>, Option<String>, [u8; 3], String, Vec<u8>);
    type Others = (bool, char, Uuid, Option<Option<i8>>, (Position, Version), ());
    type Turned = (Reverse<String>, Reverse<(Option<Reverse<i16>>, u8)>, NonZero<i32>, Reverse<Vec<u8>>);

    fn few() -> impl Strategy<Value = u64> {
        prop_oneof![0..3u64, any::<u64>(), u64::MAX - 2..=u64::MAX]
    }

    fn others() -> impl Strategy<Value = Others> {
        let uuid = any::<u128>().prop_map(Uuid::from_u128);
        let numbers =
            (few(), few()).prop_map(|(position, version)| (Position::new(position), Version::new(version)));
        (any::<bool>(), any::<char>(), uuid, any::<Option<Option<i8>>>(), numbers, Just(()))
    }

    fn turned() -> impl Strategy<Value = Turned> {
        let pair = (any::<Option<i16>>(), any::<u8>());
        let pair = pair.prop_map(|(number, byte)| Reverse((number.map(Reverse), byte)));
        let number = (any::<i32>(), -2..3i32)
            .prop_map(|(far, near)| NonZero::new(far).or(NonZero::new(near)).unwrap_or(NonZero::<i32>::MIN));
        (text().prop_map(Reverse), pair, number, bytes().prop_map(Reverse))
    }

    fn texts() -> impl Strategy<Value = Texts> {
        (text(), bytes(), proptest::option::of(text()), any::<[u8; 3]>(), text(), bytes())
    }

    pub(crate) fn check<K: Key + Ord + Debug>(a: &K, b: &K) -> Result<(), TestCaseError> {
        let (mut left, right) = (encoded(a), encoded(b));
        prop_assert_eq!(left.cmp(&right), a.cmp(b));
        prop_assert_eq!(a == b, left.starts_with(&right), "no encoding begins with another one");
        left.push(0xFF);
        let mut input = left.as_slice();
        prop_assert_eq!(&K::decode(&mut input).unwrap(), a);
        prop_assert_eq!(input, [0xFF], "decoding takes the key and nothing more");
        Ok(())
    }

    pub(crate) fn hostile<K: Key + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
        let mut input = bytes;
        match K::decode(&mut input) {
            Ok(key) => prop_assert_eq!([&encoded(&key), input].concat(), bytes),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Codec),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn numbers_sort_and_come_back(a: Numbers, b: Numbers) {
            check(&a, &b)?;
            check(&(a.1.0, a.0.0, a.1.3), &(b.1.0, b.0.0, b.1.3))?;
            check(&a.1.3, &b.1.3)?;
        }

        #[test]
        fn texts_sort_and_come_back(a in texts(), b in texts()) {
            check(&a, &b)?;
            check(&(a.0, a.1), &(b.0, b.1))?;
            check(&(a.5, 0xFFu8), &(b.5, 0u8))?;
        }

        #[test]
        fn other_keys_sort_and_come_back(a in others(), b in others()) {
            check(&a, &b)?;
            check(&a.3, &b.3)?;
            check(&a.4, &b.4)?;
        }

        #[test]
        fn keys_turned_round_sort_downwards_and_come_back(a in turned(), b in turned()) {
            check(&a, &b)?;
            check(&a.0, &b.0)?;
            check(&(a.3, a.2), &(b.3, b.2))?;
        }

        #[test]
        fn hostile_bytes_are_an_error_or_the_one_encoding_of_a_key(bytes in bytes(), noise: Vec<u8>) {
            for bytes in [bytes, noise] {
                hostile::<Numbers>(&bytes)?;
                hostile::<Texts>(&bytes)?;
                hostile::<Others>(&bytes)?;
                hostile::<Turned>(&bytes)?;
                hostile::<String>(&bytes)?;
                hostile::<(Vec<u8>, Option<bool>, char)>(&bytes)?;
            }
        }
    }

    #[test]
    fn the_bytes_of_a_key_never_change() {
        assert_eq!(encoded(&("a\0b".to_owned(), 7u16)), b"a\0\xFFb\0\x01\0\x07");
        assert_eq!(encoded(&(-1i32, i8::MIN, 1i16)), b"\x7F\xFF\xFF\xFF\0\x80\x01");
        assert_eq!(encoded(&(None::<u8>, Some(9u8), true, 'é')), b"\0\x01\x09\x01\0\0\0\xE9");
        assert_eq!(encoded(&(Position::new(258), Version::NONE)), b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\0");
        assert_eq!(
            encoded(&(Uuid::from_u128(1), [0u8, 9], vec![0u8])),
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x09\0\xFF\0\x01"
        );
        assert_eq!(encoded(&()), b"");
        assert_eq!(encoded(&Reverse("a".to_owned())), b"\x9E\xFF\xFE");
        assert_eq!(encoded(&NonZero::<u16>::MIN), b"\0\x01");
    }
}
