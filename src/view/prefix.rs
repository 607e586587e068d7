//! The first bytes of keys, to find all the keys that start alike. See `key` for the encoding.

use crate::view::key::{self, Key};

/// What the first bytes of a key can be given as, to find all the keys that start with it.
///
/// For a tuple that is every shorter leading tuple: `(A,)` and `(A, B)` for `(A, B, C)`, with a `&str` or a reference
/// for a component where that is handy ([`KeyPart`]). For `String` it is a `str`, for `Vec<u8>` it is a `[u8]`.
pub trait KeyPrefix<K: Key> {
    /// Adds the bytes with which the encodings of the keys in question start, and of no others.
    fn encode_prefix(&self, out: &mut Vec<u8>);
}

/// A component of a [`KeyPrefix`] tuple: a key `K` itself, a reference to one, a `&str` for `String`, or bytes for
/// `Vec<u8>`.
pub trait KeyPart<K: Key> {
    /// Adds the encoding of the `K` that this stands for.
    fn encode_part(&self, out: &mut Vec<u8>);
}

/// `leading!(A P 0, B Q 1; C)`: parts `(P, Q)` are a prefix of keys `(A, B, C)`.
macro_rules! leading {
    ($($K:ident $P:ident $n:tt),+; $($Rest:ident)+) => {
        impl<$($K: Key, $P: KeyPart<$K>,)+ $($Rest: Key),+> KeyPrefix<($($K,)+ $($Rest,)+)> for ($($P,)+) {
            fn encode_prefix(&self, out: &mut Vec<u8>) {
                $(self.$n.encode_part(out);)+
            }
        }
    };
}

leading!(A P 0; B);
leading!(A P 0; B C);
leading!(A P 0; B C D);
leading!(A P 0; B C D E);
leading!(A P 0; B C D E F);
leading!(A P 0, B Q 1; C);
leading!(A P 0, B Q 1; C D);
leading!(A P 0, B Q 1; C D E);
leading!(A P 0, B Q 1; C D E F);
leading!(A P 0, B Q 1, C R 2; D);
leading!(A P 0, B Q 1, C R 2; D E);
leading!(A P 0, B Q 1, C R 2; D E F);
leading!(A P 0, B Q 1, C R 2, D S 3; E);
leading!(A P 0, B Q 1, C R 2, D S 3; E F);
leading!(A P 0, B Q 1, C R 2, D S 3, E T 4; F);

impl KeyPrefix<String> for str {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        key::escape(self.as_bytes(), out);
    }
}

impl KeyPrefix<Vec<u8>> for [u8] {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        key::escape(self, out);
    }
}

impl<const N: usize> KeyPrefix<Vec<u8>> for [u8; N] {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        key::escape(self, out);
    }
}

impl<K: Key> KeyPart<K> for K {
    fn encode_part(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl<K: Key> KeyPart<K> for &K {
    fn encode_part(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl KeyPart<String> for &str {
    fn encode_part(&self, out: &mut Vec<u8>) {
        key::encode_bytes(self.as_bytes(), out);
    }
}

impl KeyPart<Vec<u8>> for &[u8] {
    fn encode_part(&self, out: &mut Vec<u8>) {
        key::encode_bytes(self, out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::key::tests::{bytes, encoded, text};

    fn prefix_of<K: Key>(prefix: &(impl KeyPrefix<K> + ?Sized)) -> Vec<u8> {
        let mut bytes = Vec::new();
        prefix.encode_prefix(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn a_prefix_finds_the_keys_that_start_with_it_and_no_others(a in (text(), bytes()), b in (text(), bytes())) {
            let (key, other) = ((a.0.clone(), a.1.clone(), 7u8), (b.0.clone(), b.1.clone(), 7u8));
            let whole = encoded(&other);
            prop_assert!(encoded(&key).starts_with(&prefix_of::<(String, Vec<u8>, u8)>(&(a.0.as_str(),))));
            let one = prefix_of::<(String, Vec<u8>, u8)>(&(&a.0,));
            prop_assert_eq!(whole.starts_with(&one), a.0 == b.0);
            let two = prefix_of::<(String, Vec<u8>, u8)>(&(a.0.as_str(), a.1.as_slice()));
            prop_assert_eq!(whole.starts_with(&two), (&a.0, &a.1) == (&b.0, &b.1));
            let text = prefix_of::<String>(a.0.as_str());
            prop_assert_eq!(encoded(&b.0).starts_with(&text), b.0.starts_with(&a.0));
            let bytes = prefix_of::<Vec<u8>>(a.1.as_slice());
            prop_assert_eq!(encoded(&b.1).starts_with(&bytes), b.1.starts_with(&a.1));
        }
    }

    #[test]
    fn parts_of_a_prefix_may_be_literals() {
        assert_eq!(prefix_of::<(String, u32)>(&("jsmith",)), b"jsmith\0\x01");
        assert_eq!(prefix_of::<(u32, String)>(&(5,)), b"\0\0\0\x05");
        assert_eq!(prefix_of::<Vec<u8>>(b"a\0"), b"a\0\xFF");
    }
}
