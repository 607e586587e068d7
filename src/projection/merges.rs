//! Values that are merged into the rows of a view: at once, several together, or all at the end of the batch.

use std::mem;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApplyError;
use super::listed::Listed;
use super::table::{Base, Need, Table};
use super::waiting::Merge;
use crate::view::key::Key;
use crate::view::keyed::{SEEN, rarely_repeat};
use crate::view::short_key::ShortKey;

/// So many values wait for the end of a batch at the most, also when they are of one event.
const MOST_LISTED: usize = 1 << 21;

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    pub(super) fn merge(
        &mut self,
        base: &mut Base,
        key: &K,
        value: V,
        merge: Merge<V>,
    ) -> Result<(), ApplyError> {
        if self.listed.is_none() && (!base.merges_later || self.telling.is_some() || !self.held.is_large()) {
            let number = self.find(base, key, Need::Value)?;
            return self.merge_into(number, value, merge);
        }
        self.encode(key);
        let key = ShortKey::of(&self.key);
        match &mut self.listed {
            Some(listed) if listed.merges_by(merge) && listed.len() < MOST_LISTED => {
                listed.push(key, value);
                return Ok(());
            }
            Some(_) => self.merge_listed(base)?,
            None => {}
        }
        self.wait(key, value, merge);
        if !self.waiting.is_full() {
            return Ok(());
        }
        self.merge_waiting(base)?;
        if self.held.len() >= SEEN && !mem::replace(&mut self.is_seen, true) && self.lists(base) {
            self.list(merge, base.threads);
        }
        Ok(())
    }

    /// Lists values from now on, behind those that the rows have.
    fn list(&mut self, merge: Merge<V>, threads: usize) {
        self.listed = Some(Listed::new(self.held.take(), merge, threads));
        self.stored_values = Vec::new();
        self.changed = 0;
    }

    fn wait(&mut self, key: ShortKey, value: V, merge: Merge<V>) {
        self.waiting.push(self.held.hash(&key), key, value, merge);
    }

    /// Whether values are better merged at the end of the batch: all rows are new, and values that were merged into them
    /// rarely came to the same.
    fn lists(&self, base: &Base) -> bool {
        base.is_empty && self.changed == self.held.len() && rarely_repeat::<V>(self.changed, self.merged)
    }

    /// Merges what waits for other rows, or for the end of the batch.
    pub(super) fn settle_all(&mut self, base: &mut Base) -> Result<(), ApplyError> {
        self.merge_listed(base)?;
        self.merge_waiting(base)
    }

    /// Merges what waits for the end of the batch, before that.
    fn merge_listed(&mut self, base: &mut Base) -> Result<(), ApplyError> {
        let Some(listed) = self.listed.take() else { return Ok(()) };
        let (values, merge) = listed.into_values();
        for (key, value) in values {
            self.wait(key, value, merge);
            if self.waiting.is_full() {
                self.merge_waiting(base)?;
            }
        }
        self.merge_waiting(base)
    }

    /// Merges what waits for other rows.
    pub(super) fn merge_waiting(&mut self, base: &mut Base) -> Result<(), ApplyError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let was_torn = mem::replace(&mut base.is_torn, true);
        self.held.fetch_hashed(self.waiting.hashes());
        let mut waiting = mem::take(&mut self.waiting);
        for (hash, (key, value, merge)) in waiting.drain() {
            let number = self.find_encoded(base, hash, &key, || key.clone(), Need::Value)?;
            self.merge_into(number, value, merge)?;
        }
        self.waiting = waiting;
        base.is_torn = was_torn;
        Ok(())
    }

    fn merge_into(&mut self, number: usize, value: V, merge: Merge<V>) -> Result<(), ApplyError> {
        self.merged += 1;
        match &mut self.change(number)?.value {
            Some(row) => merge(row, value),
            none => *none = Some(value),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::projection::refold::no_rows;
    use crate::projection::table::{AnyTable as _, Out};
    use crate::view::digest::Digest;
    use crate::view::layout::{Layout, Part};
    use crate::view::levels::Writes;

    const MANY: u32 = 1 << 16;

    /// The order of the values is seen.
    fn join(number: &mut u64, more: u64) {
        *number = number.wrapping_mul(31).wrapping_add(more);
    }

    struct Batch<K> {
        table: Table<K, u64>,
        base: Base,
    }

    impl<K: Key> Batch<K> {
        /// Values merged into the rows of these keys, which may wait or not.
        fn of(keys: impl Iterator<Item = K>, merges_later: bool) -> Self {
            Batch::on_threads(1, keys, merges_later)
        }

        fn on_threads(threads: usize, keys: impl Iterator<Item = K>, merges_later: bool) -> Self {
            let (table, base) =
                (Table::new(Part::OWN, Arc::new([])), Base::new(no_rows(), &Layout::default()));
            let mut batch = Batch { table, base };
            (batch.base.merges_later, batch.base.threads) = (merges_later, threads);
            for (key, value) in keys.zip(100..) {
                batch.table.merge(&mut batch.base, &key, value, join).unwrap();
            }
            batch
        }

        /// What tells the rows that are written.
        fn digest(mut self) -> Digest {
            self.table.settle(&mut self.base).unwrap();
            let mut out = Out { writes: Writes::default(), digest: Digest::default() };
            let net = self.table.finish(&no_rows(), &mut out).unwrap();
            assert_eq!((net.added, net.removed), (out.digest.rows, 0));
            assert_eq!(u64::try_from(out.writes.len()).unwrap(), out.digest.rows);
            out.digest
        }
    }

    /// In no order, and one in ten once more.
    fn rarely() -> impl Iterator<Item = u32> {
        (0..MANY).map(|n| if n % 10 == 9 { n / 2 } else { n }).map(|n| n.wrapping_mul(7919) % (1 << 20))
    }

    fn twice() -> impl Iterator<Item = u32> {
        (0..2 * MANY).map(|n| n / 2)
    }

    #[test]
    fn values_of_rows_that_rarely_repeat_are_listed_and_come_to_the_same() {
        let listing = Batch::of(rarely(), true);
        assert!(
            listing.table.listed.as_ref().is_some_and(|listed| listed.len() > SEEN / 2 * 3),
            "more than the rows before"
        );
        assert_eq!(listing.digest(), Batch::of(rarely(), false).digest());
    }

    #[test]
    fn several_threads_come_to_the_same_with_keys_of_any_length() {
        for threads in [2, 3, 64] {
            let listing = Batch::on_threads(threads, rarely(), true);
            assert!(listing.table.listed.is_some());
            assert_eq!(listing.digest(), Batch::of(rarely(), false).digest());
        }
        let long = |number: u32| {
            let long = number.is_multiple_of(3).then_some("the others are kept in another way");
            format!("{number}{}", long.unwrap_or_default())
        };
        let listing = Batch::on_threads(2, rarely().map(long), true);
        assert!(listing.table.listed.is_some());
        assert_eq!(listing.digest(), Batch::of(rarely().map(long), false).digest());
    }

    #[test]
    fn keys_that_ascend_and_rows_that_were_removed_before_come_to_the_same() {
        let finish = |merges_later: bool| {
            let ascending = |range: std::ops::Range<u32>| range.map(|n| n / 10 * 10 + n % 9);
            let mut batch = Batch::on_threads(3, ascending(0..9000), merges_later);
            for key in [7, 77, 777] {
                batch.table.set(&mut batch.base, &key, None);
            }
            for (key, value) in ascending(9000..MANY).chain([77, 77]).zip(9100..) {
                batch.table.merge(&mut batch.base, &key, value, join).unwrap();
            }
            assert_eq!(batch.table.listed.is_some(), merges_later);
            batch.digest()
        };
        assert_eq!(finish(true), finish(false));
    }

    #[test]
    fn values_of_rows_that_repeat_or_are_not_the_first_are_not_listed() {
        let finding = Batch::of(twice(), true);
        assert!(finding.table.listed.is_none() && finding.table.is_seen);
        assert_eq!(finding.digest(), Batch::of(twice(), false).digest());
        let mut later = Batch::of(std::iter::empty(), true);
        later.base.is_empty = false;
        for (key, value) in rarely().zip(100..) {
            later.table.merge(&mut later.base, &key, value, join).unwrap();
        }
        assert!(later.table.listed.is_none() && later.table.is_seen);
    }

    #[test]
    fn whoever_asks_for_a_row_finds_it_with_all_that_was_listed() {
        let last = rarely().last().unwrap();
        let (mut listing, mut finding) = (Batch::of(rarely(), true), Batch::of(rarely(), false));
        let expected = finding.table.get(&mut finding.base, &last).unwrap().copied();
        assert!(expected.is_some());
        assert_eq!(listing.table.get(&mut listing.base, &last).unwrap().copied(), expected);
        assert!(listing.table.listed.is_none());
        for batch in [&mut listing, &mut finding] {
            batch.table.set(&mut batch.base, &last, None);
        }
        assert_eq!(listing.digest(), finding.digest());
    }
}
