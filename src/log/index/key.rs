//! What the indexes are asked for, and its hash.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a name is the name of. The number is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Type,
    Tag,
}

impl Kind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Kind::Stream => 1,
            Kind::Type => 2,
            Kind::Tag => 3,
        }
    }
}

/// XXH3-64, seeded with the store's id: nobody can choose names that collide in a store they do not know. A hash is
/// the way to a name, never taken for it: whoever looks one up compares the names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHasher(u64);

impl KeyHasher {
    pub(crate) fn new(store_id: Uuid) -> Self {
        let (high, low) = store_id.as_u64_pair();
        KeyHasher(high ^ low.rotate_left(32))
    }

    pub(crate) fn name(self, kind: Kind, name: &str) -> u64 {
        xxh3_64_with_seed(name.as_bytes(), self.0.wrapping_add(u64::from(kind.code())))
    }

    pub(crate) fn id(self, id: Uuid) -> u64 {
        xxh3_64_with_seed(id.as_bytes(), self.0)
    }

    pub(crate) fn key(self, kind: Kind, name: &str) -> Key<'_> {
        Key { kind, name: name.as_bytes(), hash: self.name(kind, name) }
    }
}

/// A name to look up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a [u8],
    pub(crate) hash: u64,
}
