//! The rows of a piece of the log while its events are folded into them.
//!
//! Each is found by its key, as long as they repeat. Where they rarely do, what each value makes is listed, and put together
//! when all are in the order of their keys.

use std::collections::VecDeque;
use std::mem;

use super::cells::{Cells, Change};
use crate::error::Error;
use crate::projection::ApplyError;
use crate::view::key::Key;
use crate::view::key_list::{KeyList, Sorted};
use crate::view::keyed::{Keyed, SEEN, rarely_repeat};
use crate::view::short_key::ShortKey;

pub(super) struct PieceRows<S> {
    rows: Rows<S>,
    /// How many values were taken in while rows were found.
    values: usize,
    /// Room for an encoded key.
    key: Vec<u8>,
    /// The keys that are expected, with their hashes.
    expected: VecDeque<(u32, ShortKey)>,
    hashes: Vec<u32>,
}

enum Rows<S> {
    Found(Keyed<S>),
    /// Those that were found before, and behind them what each value made.
    Listed(KeyList<S>),
}

impl<S> PieceRows<S> {
    pub(super) fn new() -> Self {
        PieceRows {
            rows: Rows::Found(Keyed::new()),
            values: 0,
            key: Vec::new(),
            expected: VecDeque::new(),
            hashes: Vec::new(),
        }
    }

    /// How many there are, of which some may be for the same key.
    pub(super) fn len(&self) -> usize {
        match &self.rows {
            Rows::Found(rows) => rows.len(),
            Rows::Listed(rows) => rows.len(),
        }
    }

    /// Whether it is better to say which are expected, many at a time.
    pub(super) fn expects(&self) -> bool {
        match &self.rows {
            Rows::Found(rows) => rows.is_large(),
            Rows::Listed(_) => false,
        }
    }

    /// Bytes of memory of keys that are not in place.
    pub(super) fn keys_elsewhere(&self) -> usize {
        match &self.rows {
            Rows::Found(rows) => rows.keys_elsewhere(),
            Rows::Listed(rows) => rows.keys_elsewhere(),
        }
    }

    pub(super) fn into_sorted(self) -> Sorted<S> {
        match self.rows {
            Rows::Found(rows) => KeyList::of(rows.into_things()).into_sorted(),
            Rows::Listed(rows) => rows.into_sorted(),
        }
    }

    /// Finds what was listed from now on: there are fewer rows then, if they have come to repeat.
    pub(super) fn find_listed(
        &mut self,
        merge: impl Fn(&mut S, S) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Rows::Listed(rows) = &mut self.rows else { return Ok(()) };
        let mut found = Keyed::new();
        for (key, state) in mem::replace(rows, KeyList::new()).into_things() {
            match found.find(found.hash(&key), &key) {
                Ok(number) => found.get_mut(number).map_or(Ok(()), |earlier| merge(earlier, state))?,
                Err(place) => drop(found.insert(place, key, state)),
            }
        }
        self.rows = Rows::Found(found);
        Ok(())
    }

    /// From now on rows are listed, if they rarely repeat and are small.
    fn see(&mut self) {
        if let Rows::Found(rows) = &mut self.rows
            && rows.len() == SEEN
            && rarely_repeat::<S>(rows.len(), self.values)
        {
            let rows = mem::replace(rows, Keyed::new()).into_things();
            self.rows = Rows::Listed(KeyList::of(rows));
        }
    }
}

impl<K: Key, S> Cells<K, S> for PieceRows<S> {
    fn expect(&mut self, keys: &mut dyn Iterator<Item = &K>) {
        let Rows::Found(rows) = &self.rows else { return };
        if !rows.is_large() {
            return;
        }
        self.expected.clear();
        self.hashes.clear();
        for key in keys {
            encode(key, &mut self.key);
            let hash = rows.hash(&self.key);
            self.expected.push_back((hash, ShortKey::of(&self.key)));
            self.hashes.push(hash);
        }
        rows.fetch(&self.hashes);
    }

    fn change(&mut self, key: K, change: &dyn Change<S>) -> Result<(), ApplyError> {
        let expected = self.expected.pop_front();
        if expected.is_none() {
            encode(&key, &mut self.key);
        }
        match &mut self.rows {
            Rows::Listed(rows) => {
                let key = expected.map_or_else(|| ShortKey::of(&self.key), |(_, key)| key);
                rows.push(key, change.start()?);
                Ok(())
            }
            Rows::Found(rows) => {
                let (hash, key) = expected.unwrap_or_else(|| (rows.hash(&self.key), ShortKey::of(&self.key)));
                self.values += 1;
                match rows.find(hash, &key) {
                    Ok(number) => {
                        let lost = || ApplyError::new("a row that was found is not there");
                        change.add(rows.get_mut(number).ok_or_else(lost)?)
                    }
                    Err(place) => {
                        rows.insert(place, key, change.start()?);
                        self.see();
                        Ok(())
                    }
                }
            }
        }
    }
}

fn encode<K: Key>(key: &K, bytes: &mut Vec<u8>) {
    bytes.clear();
    key.encode(bytes);
}
