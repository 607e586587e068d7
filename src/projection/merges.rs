//! Values that are merged into the rows of a view: at once, several together, or all at the end of the batch.

use std::cmp::Ordering;
use std::mem;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApplyError;
use super::table::{Base, Need, Net, Out, Table};
use super::waiting::{Listed, Merge};
use crate::error::Error;
use crate::view::key::Key;
use crate::view::key_order::KeyOrder;
use crate::view::keyed::{SEEN, rarely_repeat};
use crate::view::short_key::ShortKey;
use crate::view::value;

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
        if !base.merges_later || self.telling.is_some() || !self.held.is_large() {
            let number = self.find(base, key, Need::Value)?;
            return self.merge_into(number, value, merge);
        }
        self.encode(key);
        let key = ShortKey::of(&self.key);
        match &mut self.listed {
            Some(listed) if listed.merges_by(merge) && listed.len() < MOST_LISTED => listed.push(key, value),
            Some(_) => {
                self.merge_listed(base)?;
                self.wait(key, value, merge);
            }
            None => self.wait(key, value, merge),
        }
        if !self.waiting.is_full() {
            return Ok(());
        }
        self.merge_waiting(base)?;
        if self.held.len() >= SEEN && !mem::replace(&mut self.is_seen, true) && self.lists(base) {
            self.listed = Some(Listed::new(merge));
        }
        Ok(())
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

    /// Writes the rows of this order, and those of what waits for the end of the batch, all in the order of their keys.
    pub(super) fn finish_listed(
        &mut self,
        listed: Listed<V>,
        order: &KeyOrder,
        out: &mut Out,
    ) -> Result<Net, Error> {
        let (mut net, mut listed) = (Net::default(), listed.into_order());
        let mut numbers = order.chunks().flatten().peekable();
        while let Some(key) = listed.key() {
            let held = numbers.peek().copied();
            let held = held.and_then(|number| Some((number, self.held.get(number)?.0.cmp(key))));
            match held {
                Some((number, Ordering::Less)) => {
                    net += self.finish_row(number, out)?;
                    numbers.next();
                }
                Some((number, Ordering::Equal)) => match self.held.get_mut(number) {
                    Some(row) => listed.merge_next(&mut row.value),
                    None => drop(numbers.next()),
                },
                _ => {
                    let (key, value) = listed.merge_new();
                    let Some((key, value)) = key.zip(value) else { continue };
                    self.finish_entries(key, None, Some(&value), out)?;
                    out.put(key, |bytes| value::append(&value, bytes))?;
                    net += Net { added: 1, removed: 0 };
                }
            }
        }
        for number in numbers {
            net += self.finish_row(number, out)?;
        }
        Ok(net)
    }
}
