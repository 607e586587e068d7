//! A fast hash for the keys of rows in memory.

use std::hash::{BuildHasher, Hasher, RandomState};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Makes hashers that start with a seed. It is drawn at random: keys often come from outside, and whoever knew it could
/// choose keys that all fall together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHashes(u64);

impl Default for KeyHashes {
    fn default() -> Self {
        KeyHashes(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for KeyHashes {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The length of what follows, which the hash of that covers.
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_have_equal_hashes_and_others_do_not() {
        let hashes = KeyHashes::default();
        assert_eq!(hashes.hash_one(b"key".as_slice()), hashes.hash_one(vec![b'k', b'e', b'y']));
        assert_ne!(hashes.hash_one(b"key".as_slice()), hashes.hash_one(b"kez".as_slice()));
        assert_ne!(hashes.hash_one(b"".as_slice()), hashes.hash_one(b"\0".as_slice()));
    }
}
