//! Values that wait to be merged to the end of the batch, since rows rarely repeat: none is looked for, and all are put
//! together when they are in the order of their keys.

use std::ptr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::{Entries, Net, Out};
use super::threads;
use super::waiting::Merge;
use crate::error::Error;
use crate::view::digest::Digest;
use crate::view::key::Key;
use crate::view::key_list::KeyList;
use crate::view::levels::Writes;
use crate::view::short_key::ShortKey;
use crate::view::value;

/// So many keys tell how all are distributed, for each part.
const SAMPLE: usize = 64;
/// No more parts: to find that of each key costs more than they gain.
const MOST_PARTS: usize = 8;

/// Values of rows of which there is nothing but these, all merged alike. In parts, of which each has the keys from one bound up
/// to the next, so that threads can put them together; those of one key are in the order in which they came.
pub(super) struct Listed<V> {
    parts: Vec<KeyList<V>>,
    /// Where parts begin, but for the first.
    bounds: Vec<ShortKey>,
    merge: Merge<V>,
    len: usize,
}

impl<V> Listed<V> {
    /// The values of some rows, in so many parts.
    pub(super) fn new(rows: Vec<(ShortKey, Option<V>)>, merge: Merge<V>, parts: usize) -> Self {
        let parts = parts.clamp(1, MOST_PARTS);
        let step = (rows.len() / (parts * SAMPLE)).max(1);
        let mut sample: Vec<_> = rows.iter().step_by(step).map(|(key, _)| key).collect();
        sample.sort_unstable();
        let bounds = (1..parts).filter_map(|part| sample.get(sample.len() * part / parts));
        let bounds: Vec<_> = bounds.copied().cloned().collect();
        let parts = (0..=bounds.len()).map(|_| KeyList::new()).collect();
        let mut listed = Listed { parts, bounds, merge, len: 0 };
        for (key, value) in rows {
            if let Some(value) = value {
                listed.push(key, value);
            }
        }
        listed
    }

    /// Whether it merges values so.
    pub(super) fn merges_by(&self, merge: Merge<V>) -> bool {
        ptr::fn_addr_eq(self.merge, merge)
    }

    #[inline]
    pub(super) fn push(&mut self, key: ShortKey, value: V) {
        let part = self.bounds.iter().filter(|bound| **bound <= key).count();
        if let Some(part) = self.parts.get_mut(part) {
            part.push(key, value);
            self.len += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory.
    pub(super) fn size(&self) -> usize {
        self.parts.iter().map(KeyList::size).sum()
    }

    /// The values, those of one key in the order in which they came, and how they are merged.
    pub(super) fn into_values(self) -> (impl Iterator<Item = (ShortKey, V)>, Merge<V>) {
        (self.parts.into_iter().flat_map(KeyList::into_things), self.merge)
    }
}

impl<V: Serialize + DeserializeOwned + Send> Listed<V> {
    /// Writes the rows that they come to, in the order of their keys.
    pub(super) fn finish<K: Key>(self, entries: &Entries<K, V>, out: &mut Out) -> Result<Net, Error> {
        let Listed { parts, merge, .. } = self;
        let mut net = Net::default();
        for part in threads::each(parts.len(), parts, |part| finish_part(part, merge, entries)) {
            let (Out { writes, digest }, added) = part?;
            out.writes.append(writes)?;
            out.digest.add_all(digest);
            net += Net { added, removed: 0 };
        }
        Ok(net)
    }
}

/// What the rows of a part come to, and how many there are.
fn finish_part<K: Key, V: Serialize + DeserializeOwned>(
    part: KeyList<V>,
    merge: Merge<V>,
    entries: &Entries<K, V>,
) -> Result<(Out, u64), Error> {
    let mut out = Out { writes: Writes::default(), digest: Digest::default() };
    let (mut added, mut room) = (0, [0; 16]);
    let mut ordered = part.into_ordered();
    let mut values = ordered.take_all().peekable();
    while let Some((key, mut value)) = values.next() {
        while let Some((_, later)) = values.next_if(|(next, _)| *next == key) {
            merge(&mut value, later);
        }
        let key = key.bytes(&mut room);
        entries.change(key, None, Some(&value), &mut out)?;
        out.put(key, |bytes| value::append(&value, bytes))?;
        added += 1;
    }
    Ok((out, added))
}
