//! Finding the rows of a view by something else than their keys.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::key::{self, Key};
use super::layout::IndexNumber;
use super::prefix::KeyPrefix;
use super::rows::{Row, RowsIter, prefix_end};
use super::snapshot::Snapshot;
use super::value;
use crate::error::{Error, ErrorKind};
use crate::event::Position;

/// A secondary index on a view: what its rows are found by besides their keys.
///
/// A projection declares it in [`views`](crate::Projection::views), and everfold keeps it: entries are written together with
/// the rows that they are of, so it is never stale. It is read through [`View::by`](crate::View::by).
///
/// Like the fold it must be deterministic: what it makes of a row depends on that row alone. When that changes, the view must
/// be made anew: raise the projection's `GENERATION`.
///
/// ```
/// use everfold::{ApplyError, Index, Projection, RecordedEvent, ViewBatch, Views};
///
/// /// Items by how many of them were sold.
/// struct ByCount;
///
/// impl Index<String, u64> for ByCount {
///     const NAME: &'static str = "by-count";
///     type Key = u64;
///
///     fn keys(_item: &String, sold: &u64) -> impl IntoIterator<Item = u64> {
///         [*sold]
///     }
/// }
///
/// struct Sold;
///
/// impl Projection for Sold {
///     const NAME: &'static str = "sold";
///     const GENERATION: u32 = 1;
///     type Key = String;
///     type Value = u64;
///
///     fn views() -> Views<String, u64> {
///         Views::new().index::<ByCount>()
///     }
///
///     fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
///         view.update(event.stream().to_owned(), |sold| Some(sold.unwrap_or(0) + 1))
///     }
/// }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use everfold::{Event, Expected, MemoryStorage, Options, Position};
/// # let store = Options::new().open_memory(&MemoryStorage::new())?;
///
/// let sold = store.project(Sold)?;
/// for item in ["hats", "pants", "hats", "socks"] {
///     store.append(item, Expected::Any, [Event::raw("sold", "")])?;
/// }
/// sold.wait_for(store.watermark(), std::time::Duration::from_secs(10))?;
/// let once: Vec<_> = sold.by::<ByCount>()?.get(&1).collect::<Result<_, _>>()?;
/// assert_eq!(once, [("pants".into(), 1), ("socks".into(), 1)]);
/// let (count, item, _) = sold.by::<ByCount>()?.iter().next_back().expect("there are some")?;
/// assert_eq!((count, item.as_str()), (2, "hats"));
/// # Ok(()) }
/// ```
pub trait Index<K, V>: 'static {
    /// Its name among the views and indexes of the projection: 1 to 64 of `a-z`, `0-9`, `-` and `_`.
    const NAME: &'static str;
    /// What rows are found by. With the row's own key at most 1,022 bytes when encoded.
    type Key: Key;

    /// What a row is to be found by: nothing, one key or some; of equal ones one counts.
    fn keys(key: &K, value: &V) -> impl IntoIterator<Item = Self::Key>;
}

/// The rows of a view by an [`Index`], as of one checkpoint.
///
/// Rows come in the order of the index's keys, and those of equal ones in the order of their own; from the other end with
/// `rev()`.
pub struct Indexed<K, V, I> {
    snapshot: Snapshot<K, V>,
    index: IndexNumber,
    kind: PhantomData<fn() -> I>,
}

impl<K, V, I> fmt::Debug for Indexed<K, V, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indexed").field("of", &self.snapshot).finish_non_exhaustive()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned, I: Index<K, V>> Indexed<K, V, I> {
    pub(super) fn new(snapshot: Snapshot<K, V>, index: IndexNumber) -> Self {
        Indexed { snapshot, index, kind: PhantomData }
    }

    /// The last event applied.
    #[must_use]
    pub fn checkpoint(&self) -> Position {
        self.snapshot.checkpoint()
    }

    /// The rows of a key of the index.
    pub fn get(
        &self,
        key: &I::Key,
    ) -> impl DoubleEndedIterator<Item = Result<(K, V), Error>> + Send + use<K, V, I> {
        let start = self.start(key);
        let end = prefix_end(&start);
        self.scan(Bound::Included(start), end).map(|row| row.map(|(_, key, value)| (key, value)))
    }

    /// The rows whose keys in the index are in a range, with these.
    pub fn range(&self, range: impl RangeBounds<I::Key>) -> Entries<K, V, I> {
        // Of each key there are entries with all keys that start with it: those up to where that ends.
        let after = |bound: Bound<Vec<u8>>| match bound {
            Bound::Excluded(key) => Bound::Included(key),
            bound => bound,
        };
        let from = match range.start_bound() {
            Bound::Included(key) => Bound::Included(self.start(key)),
            Bound::Excluded(key) => after(prefix_end(&self.start(key))),
            Bound::Unbounded => Bound::Included(self.index.start().to_vec()),
        };
        let to = match range.end_bound() {
            Bound::Included(key) => prefix_end(&self.start(key)),
            Bound::Excluded(key) => Bound::Excluded(self.start(key)),
            Bound::Unbounded => prefix_end(&self.index.start()),
        };
        self.scan(from, to)
    }

    /// The rows whose keys in the index start with a prefix, with these.
    pub fn prefix<P: KeyPrefix<I::Key> + ?Sized>(&self, prefix: &P) -> Entries<K, V, I> {
        let mut start = self.index.start().to_vec();
        prefix.encode_prefix(&mut start);
        let end = prefix_end(&start);
        self.scan(Bound::Included(start), end)
    }

    /// All rows that have a key in the index, with it.
    pub fn iter(&self) -> Entries<K, V, I> {
        let start = self.index.start();
        self.scan(Bound::Included(start.to_vec()), prefix_end(&start))
    }

    fn start(&self, key: &I::Key) -> Vec<u8> {
        let mut start = self.index.start().to_vec();
        key.encode(&mut start);
        start
    }

    fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> Entries<K, V, I> {
        let entries = self.snapshot.version.scan(from, to);
        Entries { entries, snapshot: self.snapshot.clone(), start: self.index.start(), kind: PhantomData }
    }
}

/// Rows of a view in the order of an [`Index`], each with the key it was found by; from either end.
#[must_use = "iterators are lazy"]
pub struct Entries<K, V, I> {
    entries: RowsIter,
    snapshot: Snapshot<K, V>,
    start: [u8; 2],
    kind: PhantomData<fn() -> I>,
}

impl<K, V, I> fmt::Debug for Entries<K, V, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

impl<K: Key, V: DeserializeOwned, I: Index<K, V>> Entries<K, V, I> {
    fn row(&self, entry: Result<Row, Error>) -> Result<(I::Key, K, V), Error> {
        let row = entry.and_then(|entry| row_of(&self.snapshot, self.start, &entry.0));
        row.map_err(|e| self.snapshot.state.met(e))
    }
}

impl<K: Key, V: DeserializeOwned, I: Index<K, V>> Iterator for Entries<K, V, I> {
    type Item = Result<(I::Key, K, V), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(self.row(entry))
    }
}

impl<K: Key, V: DeserializeOwned, I: Index<K, V>> DoubleEndedIterator for Entries<K, V, I> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next_back()?;
        Some(self.row(entry))
    }
}

impl<K: Key, V: DeserializeOwned, I: Index<K, V>> FusedIterator for Entries<K, V, I> {}

/// The row that an entry is of.
fn row_of<J: Key, K: Key, V: DeserializeOwned>(
    snapshot: &Snapshot<K, V>,
    start: [u8; 2],
    entry: &[u8],
) -> Result<(J, K, V), Error> {
    let mut rest = entry.strip_prefix(&start).unwrap_or_default();
    let found_by = J::decode(&mut rest)?;
    let mut row_key = Vec::with_capacity(rest.len() + 2);
    snapshot.part.start(&mut row_key);
    row_key.extend_from_slice(rest);
    let bytes = snapshot.version.get(&row_key)?.ok_or_else(|| {
        Error::new(ErrorKind::View, "the view is damaged: an index has an entry of a row that is not there")
    })?;
    Ok((found_by, key::decode_whole(rest)?, value::decode(&bytes)?))
}

/// The keys of a row in an index, encoded.
pub(crate) type EntryKeys<K, V> = fn(&K, &V, &mut Vec<Vec<u8>>);

/// Encodes the keys of a row in an index.
pub(crate) fn entry_keys<K, V, I: Index<K, V>>(key: &K, value: &V, out: &mut Vec<Vec<u8>>) {
    for found_by in I::keys(key, value) {
        let mut bytes = Vec::new();
        found_by.encode(&mut bytes);
        out.push(bytes);
    }
}
