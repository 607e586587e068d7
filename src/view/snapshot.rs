//! A view at one checkpoint, and all that can be read of it.

use std::any::TypeId;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::index::{Index, Indexed};
use super::key::{self, Key};
use super::layout::{Counts, Part};
use super::levels::Version;
use super::named::NamedView;
use super::page::{Page, PageKey};
use super::prefix::KeyPrefix;
use super::rows::{Row, RowsIter, prefix_end};
use super::state::ViewState;
use super::value;
use crate::error::Error;
use crate::event::Position;

/// A view as of one checkpoint, whatever is written later: [`View::snapshot`](crate::View::snapshot) makes it.
///
/// All that is read of it, and of [other views](Snapshot::of) of the same projection and its [indexes](Snapshot::by) through
/// it, is as of that checkpoint. It keeps rows in memory that were replaced since: drop it when it has been read. After
/// the view was made anew, or the store was closed, reads may fail.
///
/// ```
/// # use everfold::{ApplyError, Event, Expected, MemoryStorage, Options, Projection, RecordedEvent, ViewBatch};
/// # struct Counts;
/// # impl Projection for Counts {
/// #     const NAME: &'static str = "counts";
/// #     const GENERATION: u32 = 1;
/// #     type Key = String;
/// #     type Value = u64;
/// #     fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
/// #         view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Options::new().open_memory(&MemoryStorage::new())?;
/// # let counts = store.project(Counts)?;
/// # let done = store.append("hats", Expected::Any, [Event::raw("sold", "")])?;
/// counts.wait_for(done.position, std::time::Duration::from_secs(10))?;
/// let snapshot = counts.snapshot()?;
/// let sum = snapshot.iter().map(|row| row.map(|(_, count)| count)).sum::<Result<u64, _>>()?;
/// assert_eq!(sum, snapshot.checkpoint().get());
/// # Ok(()) }
/// ```
pub struct Snapshot<K, V> {
    pub(super) state: Arc<ViewState>,
    pub(super) version: Arc<Version>,
    pub(super) part: Part,
    /// How many rows each view has. Not known, and not asked for, in the reads of a view itself.
    counts: Option<Arc<Counts>>,
    rows: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Snapshot<K, V> {
    fn clone(&self) -> Self {
        let (state, version) = (self.state.clone(), self.version.clone());
        Snapshot { state, version, part: self.part, counts: self.counts.clone(), rows: PhantomData }
    }
}

impl<K, V> fmt::Debug for Snapshot<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (view, checkpoint) = (&self.state.name, self.checkpoint());
        f.debug_struct("Snapshot")
            .field("view", view)
            .field("checkpoint", &checkpoint)
            .finish_non_exhaustive()
    }
}

impl<K, V> Snapshot<K, V> {
    /// The rows, without their number.
    pub(super) fn of_rows(state: Arc<ViewState>, version: Arc<Version>, part: Part) -> Self {
        Snapshot { state, version, part, counts: None, rows: PhantomData }
    }

    pub(super) fn counted(mut self) -> Result<Self, Error> {
        let counts = self.state.layout.counts(&self.version).map_err(|e| self.state.met(e))?;
        self.counts = Some(Arc::new(counts));
        Ok(self)
    }

    /// The last event applied to it.
    #[must_use]
    pub fn checkpoint(&self) -> Position {
        self.version.meta().checkpoint
    }

    /// How many rows there are. Costs nothing.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.as_ref().map_or(0, |counts| counts.of(self.part))
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Another view of the same projection, as of the same checkpoint.
    ///
    /// # Errors
    /// `Invalid` when the projection does not declare it.
    pub fn of<N: NamedView>(&self) -> Result<Snapshot<N::Key, N::Value>, Error> {
        let part = self.state.layout.view(TypeId::of::<N>(), N::NAME)?;
        let rows = Snapshot::of_rows(self.state.clone(), self.version.clone(), part);
        Ok(Snapshot { counts: self.counts.clone(), ..rows })
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> Snapshot<K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// [`View`](crate::ErrorKind::View) when the key-value store failed, [`Codec`](crate::ErrorKind::Codec) when the row is
    /// not a `V`, [`Closed`](crate::ErrorKind::Closed) after the store was closed.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let value = self.version.get(&self.row_key(key)).map_err(|e| self.state.met(e))?;
        value.map(|bytes| value::decode(&bytes)).transpose()
    }

    /// The values of some keys, in the order of these.
    ///
    /// # Errors
    /// As [`get`](Snapshot::get).
    pub fn get_many(&self, keys: &[K]) -> Result<Vec<Option<V>>, Error> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Whether there is a row of this key.
    ///
    /// # Errors
    /// As [`get`](Snapshot::get).
    pub fn contains_key(&self, key: &K) -> Result<bool, Error> {
        self.version.contains(&self.row_key(key)).map_err(|e| self.state.met(e))
    }

    /// The row with the least key.
    ///
    /// # Errors
    /// As [`get`](Snapshot::get).
    pub fn first(&self) -> Result<Option<(K, V)>, Error> {
        self.iter().next().transpose()
    }

    /// The row with the greatest key.
    ///
    /// # Errors
    /// As [`get`](Snapshot::get).
    pub fn last(&self) -> Result<Option<(K, V)>, Error> {
        self.iter().next_back().transpose()
    }

    /// The rows whose keys are in a range, in the order of the keys; from the other end with `rev()`.
    pub fn range(&self, range: impl RangeBounds<K>) -> Rows<K, V> {
        let (from, to) = self.bounds(&range);
        self.scan(from, to)
    }

    /// The rows whose keys start with a prefix: the first parts of a tuple, or the start of a string.
    pub fn prefix<P: KeyPrefix<K> + ?Sized>(&self, prefix: &P) -> Rows<K, V> {
        let mut bytes = self.start();
        prefix.encode_prefix(&mut bytes);
        let end = prefix_end(&bytes);
        self.scan(Bound::Included(bytes), end)
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> Rows<K, V> {
        self.range(..)
    }

    /// Up to `limit` rows of a range, and where to go on: after the key of the page before, if one is given.
    ///
    /// Pages that are read of one snapshot are those of one checkpoint. The key may also be used with a later snapshot:
    /// what then follows are the rows after that key as they are there.
    ///
    /// # Errors
    /// `Invalid` when the limit is zero, or the key is not of this view, of its generation and in the range; else as
    /// [`get`](Snapshot::get).
    pub fn page(
        &self,
        range: impl RangeBounds<K>,
        after: Option<&PageKey>,
        limit: usize,
    ) -> Result<Page<K, V>, Error> {
        if limit == 0 {
            return Err(Error::invalid("a page of no rows: give a limit of at least 1"));
        }
        let (mut from, to) = self.bounds(&range);
        if let Some(after) = after {
            let row_key = after.row_key(&self.state.name, self.state.generation, self.part)?;
            let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
            if !RangeBounds::<[u8]>::contains(&range, row_key) {
                return Err(Error::invalid("the page key is not in the range that is asked for"));
            }
            from = Bound::Excluded(row_key.to_vec());
        }
        let (mut rows, mut last) = (Vec::new(), None);
        for row in self.version.scan(from, to) {
            let (key, value) = row.map_err(|e| self.state.met(e))?;
            if rows.len() == limit {
                let next = last.map(|last: Vec<u8>| {
                    PageKey::new(&self.state.name, self.state.generation, self.part, &last)
                });
                return Ok(Page { rows, next });
            }
            last = Some(key.clone());
            rows.push(decode_row(self.part, (key, value))?);
        }
        Ok(Page { rows, next: None })
    }

    /// The rows by an index that the projection declares on this view.
    ///
    /// # Errors
    /// `Invalid` when it does not declare it.
    pub fn by<I: Index<K, V>>(&self) -> Result<Indexed<K, V, I>, Error> {
        let index = self.state.layout.index(TypeId::of::<I>(), self.part, I::NAME)?;
        Ok(Indexed::new(self.clone(), index))
    }

    fn start(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.part.start(&mut bytes);
        bytes
    }

    fn row_key(&self, key: &K) -> Vec<u8> {
        let mut bytes = self.start();
        key.encode(&mut bytes);
        bytes
    }

    fn bounds(&self, range: &impl RangeBounds<K>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let from = match range.start_bound() {
            Bound::Unbounded => Bound::Included(self.start()),
            bound => bound.map(|key| self.row_key(key)),
        };
        let to = match range.end_bound() {
            Bound::Unbounded => prefix_end(&self.start()),
            bound => bound.map(|key| self.row_key(key)),
        };
        (from, to)
    }

    fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> Rows<K, V> {
        Rows::new(self.version.scan(from, to), self.state.clone(), self.part)
    }
}

/// Rows of a view, in the order of their keys, from either end.
#[must_use = "iterators are lazy"]
pub struct Rows<K, V> {
    rows: RowsIter,
    state: Arc<ViewState>,
    part: Part,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Rows<K, V> {
    fn new(rows: RowsIter, state: Arc<ViewState>, part: Part) -> Self {
        Rows { rows, state, part, types: PhantomData }
    }

    /// No rows, but why.
    pub(super) fn failed(error: Error, state: Arc<ViewState>) -> Self {
        Rows::new(Box::new(std::iter::once(Err(error))), state, Part::OWN)
    }
}

impl<K, V> fmt::Debug for Rows<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

fn decode_row<K: Key, V: DeserializeOwned>(part: Part, (key, bytes): Row) -> Result<(K, V), Error> {
    let key = key::decode_whole(part.strip(&key).unwrap_or_default())?;
    Ok((key, value::decode(&bytes)?))
}

impl<K: Key, V: DeserializeOwned> Iterator for Rows<K, V> {
    type Item = Result<(K, V), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?.map_err(|e| self.state.met(e));
        Some(row.and_then(|row| decode_row(self.part, row)))
    }
}

impl<K: Key, V: DeserializeOwned> DoubleEndedIterator for Rows<K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let row = self.rows.next_back()?.map_err(|e| self.state.met(e));
        Some(row.and_then(|row| decode_row(self.part, row)))
    }
}

impl<K: Key, V: DeserializeOwned> FusedIterator for Rows<K, V> {}
