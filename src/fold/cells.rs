//! The rows of a fold in memory, by their encoded keys, in parts that threads can put together side by side.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Bound;

use crate::projection::ApplyError;
use crate::view::key::Key;
use crate::view::key_hashes::KeyHashes;

/// Where a fold keeps its rows.
pub(super) trait Cells<K, S> {
    /// These are the keys of the rows that will be changed next, in this order.
    fn expect(&mut self, _keys: &mut dyn Iterator<Item = &K>) {}

    /// Takes a value into the row of a key.
    fn change(&mut self, key: K, change: &dyn Change<S>) -> Result<(), ApplyError>;
}

/// A value to be taken into a row.
pub(super) trait Change<S> {
    /// What a new row holds.
    fn start(&self) -> Result<S, ApplyError>;

    fn add(&self, state: &mut S) -> Result<(), ApplyError>;
}

pub(super) type Part<S> = HashMap<Box<[u8]>, S, KeyHashes>;

/// Rows by their encoded keys. A key is in the part that its hash says.
#[derive(Debug)]
pub(super) struct Parts<S> {
    seed: KeyHashes,
    pub(super) parts: Vec<Part<S>>,
}

impl<S> Parts<S> {
    pub(super) fn new(seed: KeyHashes, count: usize) -> Self {
        let parts = (0..count.max(1)).map(|_| HashMap::with_hasher(seed)).collect();
        Parts { seed, parts }
    }

    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashMap::len).sum()
    }

    /// The part that a key is in.
    pub(super) fn part_of(&mut self, key: &[u8]) -> Option<&mut Part<S>> {
        let count = u64::try_from(self.parts.len()).unwrap_or(1);
        if count == 1 {
            return self.parts.first_mut();
        }
        // Another hash than the map's own, of which the map needs all bits.
        let hash = self.seed.hash_one(key).rotate_left(32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let number = (u128::from(hash) * u128::from(count)) >> 64;
        self.parts.get_mut(usize::try_from(number).unwrap_or_default())
    }

    pub(super) fn insert(&mut self, key: &[u8], state: S) {
        if let Some(part) = self.part_of(key) {
            part.insert(key.into(), state);
        }
    }

    /// Lets go of the rows that were not chosen.
    pub(super) fn choose(&mut self, choice: &Choice) {
        if !matches!(choice, Choice::All) {
            self.parts.iter_mut().for_each(|part| part.retain(|key, _| choice.takes(key)));
        }
    }
}

/// Which rows are wanted.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    All,
    Key(Vec<u8>),
    Range(Bound<Vec<u8>>, Bound<Vec<u8>>),
}

impl Choice {
    pub(super) fn takes(&self, key: &[u8]) -> bool {
        match self {
            Choice::All => true,
            Choice::Key(wanted) => wanted == key,
            Choice::Range(from, to) => !Self::is_before(from, key) && !Self::is_behind(to, key),
        }
    }

    /// Whether a range that starts here starts behind the key.
    fn is_before(from: &Bound<Vec<u8>>, key: &[u8]) -> bool {
        match from {
            Bound::Included(from) => key < from.as_slice(),
            Bound::Excluded(from) => key <= from.as_slice(),
            Bound::Unbounded => false,
        }
    }

    fn is_behind(to: &Bound<Vec<u8>>, key: &[u8]) -> bool {
        match to {
            Bound::Included(to) => key > to.as_slice(),
            Bound::Excluded(to) => key >= to.as_slice(),
            Bound::Unbounded => false,
        }
    }

    /// Whether the key comes before all that is wanted.
    pub(super) fn starts_behind(&self, key: &[u8]) -> bool {
        match self {
            Choice::All => false,
            Choice::Key(wanted) => key < wanted.as_slice(),
            Choice::Range(from, _) => Self::is_before(from, key),
        }
    }
}

/// Rows while events are folded into them.
pub(super) struct Chosen<'a, S> {
    pub(super) rows: &'a mut Parts<S>,
    pub(super) choice: &'a Choice,
    /// For the encoded key.
    pub(super) scratch: Vec<u8>,
}

impl<K: Key, S> Cells<K, S> for Chosen<'_, S> {
    fn change(&mut self, key: K, change: &dyn Change<S>) -> Result<(), ApplyError> {
        self.scratch.clear();
        key.encode(&mut self.scratch);
        if !self.choice.takes(&self.scratch) {
            return Ok(());
        }
        let Some(part) = self.rows.part_of(&self.scratch) else { return Ok(()) };
        match part.get_mut(self.scratch.as_slice()) {
            Some(state) => change.add(state),
            None => {
                part.insert(self.scratch.as_slice().into(), change.start()?);
                Ok(())
            }
        }
    }
}
