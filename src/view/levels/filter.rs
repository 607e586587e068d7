//! What tells of most keys that are not there that they are not, without looking for them.

use std::sync::{Arc, PoisonError, RwLock};

use xxhash_rust::xxh3::xxh3_64;

/// Filters of many runs may take so much memory; beyond it nothing is told any more.
const MOST_BYTES: usize = 32 << 20;
/// The same for their number: each is asked, and each errs now and then.
const MOST_FILTERS: usize = 32;

/// Of the keys of one run, or of a whole view: a Bloom filter whose bits for a key are all in one word.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    pub(super) fn of<'a>(rows: usize, keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut filter = Filter { words: vec![0; Self::words_of(rows)] };
        keys.for_each(|key| filter.add(key));
        filter
    }

    fn words_of(rows: usize) -> usize {
        rows / 4 + 1
    }

    /// Bytes in memory of a filter of so many keys.
    pub(super) fn size_of(rows: usize) -> usize {
        Self::words_of(rows) * 8
    }

    /// Of no keys yet, with room for so many; none where it would leave no room for others.
    pub(super) fn with_room(rows: u64) -> Option<Self> {
        let words =
            usize::try_from(rows).ok().map(Self::words_of).filter(|words| *words <= MOST_BYTES / 8 / 2)?;
        Some(Filter { words: vec![0; words] })
    }

    pub(super) fn add(&mut self, key: &[u8]) {
        let (word, bits) = self.place(xxh3_64(key));
        if let Some(word) = self.words.get_mut(word) {
            *word |= bits;
        }
    }

    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        self.may_have_hash(xxh3_64(key))
    }

    fn may_have_hash(&self, hash: u64) -> bool {
        let (word, bits) = self.place(hash);
        self.words.get(word).is_none_or(|word| word & bits == bits)
    }

    /// Bytes in memory.
    pub(super) fn size(&self) -> usize {
        self.words.len() * 8
    }

    /// The number of a key's word, and its bits there.
    fn place(&self, hash: u64) -> (usize, u64) {
        let words = u64::try_from(self.words.len()).unwrap_or(u64::MAX);
        // The upper half of the hash chooses the word, the lower bits choose bits in it.
        let word = usize::try_from(((hash >> 32) * words) >> 32).unwrap_or(0);
        let bits = [0, 6, 12, 18].into_iter().fold(0, |bits, shift| bits | 1 << (hash >> shift & 63));
        (word, bits)
    }
}

/// Of all keys that are in a place, if these are known.
#[derive(Debug)]
pub(super) struct Filters(RwLock<Option<Vec<Arc<Filter>>>>);

impl Filters {
    /// Nothing is there yet.
    pub(super) fn of_nothing() -> Self {
        Filters(RwLock::new(Some(Vec::new())))
    }

    /// Nobody knows what is there.
    pub(super) fn of_anything() -> Self {
        Filters(RwLock::new(None))
    }

    /// These are all keys that are to be found there.
    pub(super) fn know(&self, all: Filter) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(vec![Arc::new(all)]);
    }

    /// From now on these keys may be there, too.
    pub(super) fn add(&self, filter: Arc<Filter>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(filters) = &mut *known else { return };
        filters.push(filter);
        let bytes: usize = filters.iter().map(|filter| filter.size()).sum();
        if filters.len() > MOST_FILTERS || bytes > MOST_BYTES {
            *known = None;
        }
    }

    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(filters) = &*known else { return true };
        if filters.is_empty() {
            return false;
        }
        let hash = xxh3_64(key);
        filters.iter().any(|filter| filter.may_have_hash(hash))
    }

    /// Whether there may be any key.
    pub(super) fn may_have_any(&self) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_none_or(|filters| !filters.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(from: u32, count: u32) -> Vec<[u8; 4]> {
        (from..from + count).map(u32::to_be_bytes).collect()
    }

    fn filter(keys: &[[u8; 4]]) -> Arc<Filter> {
        Arc::new(Filter::of(keys.len(), keys.iter().map(<[u8; 4]>::as_slice)))
    }

    #[test]
    fn what_was_put_is_never_denied_and_most_of_the_rest_is() {
        let filters = Filters::of_nothing();
        assert!(!filters.may_have(b"key") && !filters.may_have_any());
        for from in [0, 10_000, 20_000] {
            filters.add(filter(&keys(from, 1000)));
        }
        for from in [0, 10_000, 20_000] {
            assert!(keys(from, 1000).iter().all(|key| filters.may_have(key)));
        }
        let taken_for_there = keys(50_000, 10_000).iter().filter(|key| filters.may_have(*key)).count();
        assert!(taken_for_there < 1500, "{taken_for_there}");
        assert!(Filters::of_anything().may_have(b"key"));
    }

    #[test]
    fn once_all_keys_are_known_others_are_denied_until_they_are_added() {
        let filters = Filters::of_anything();
        let mut all = Filter::with_room(1000).unwrap();
        keys(0, 1000).iter().for_each(|key| all.add(key));
        filters.know(all);
        filters.add(filter(&keys(2000, 1000)));
        let there = keys(0, 1000).into_iter().chain(keys(2000, 1000));
        assert!(there.into_iter().all(|key| filters.may_have(&key)));
        assert!(keys(5000, 1000).iter().filter(|key| filters.may_have(*key)).count() < 200);
        let most = u64::try_from(MOST_BYTES / 4).unwrap();
        filters.know(Filter::with_room(most - 4).unwrap());
        filters.add(filter(&keys(0, 1000)));
        assert!(!filters.may_have(b"key"), "there is room for more");
        assert!(Filter::with_room(most).is_none() && Filter::with_room(u64::MAX).is_none());
    }

    #[test]
    fn filters_that_are_too_many_or_too_large_tell_nothing() {
        let filters = Filters::of_nothing();
        let large = Arc::new(Filter { words: vec![0; MOST_BYTES / 8] });
        filters.add(large.clone());
        assert!(!filters.may_have(b"key"));
        filters.add(large);
        assert!(filters.may_have(b"key"));
        let filters = Filters::of_nothing();
        for number in 0..=MOST_FILTERS {
            assert!(!filters.may_have(b"key"), "{number}");
            filters.add(filter(&[]));
        }
        assert!(filters.may_have(b"key"));
    }
}
