//! The typed handle of a view.

use std::fmt;
use std::future::Future;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::key::Key;
use super::prefix::KeyPrefix;
use super::rows::{RowsIter, prefix_end};
use super::state::{ProjectionState, ViewState, ViewStatus};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::watermark::TaskSlot;

/// In front of every row's key; the row about the view itself has the key `[0]` ([`META_KEY`](super::meta::META_KEY)).
pub(super) const ROW: u8 = 1;
/// In front of every value: which codec wrote it.
const VALUE_FORMAT: u8 = 1;

pub(crate) fn row_key<K: Key>(key: &K) -> Vec<u8> {
    let mut bytes = vec![ROW];
    key.encode(&mut bytes);
    bytes
}

pub(crate) fn encode_value<V: Serialize>(value: &V) -> Result<Vec<u8>, Error> {
    let mut bytes = codec::to_vec(value)?;
    bytes.insert(0, VALUE_FORMAT);
    Ok(bytes)
}

pub(crate) fn decode_value<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, Error> {
    match bytes.split_first() {
        Some((&VALUE_FORMAT, value)) => codec::from_slice(value),
        _ => {
            Err(Error::new(ErrorKind::Codec, "a view's value is of a format that this version does not know"))
        }
    }
}

/// What a projection keeps: rows that are read while the projector goes on writing them.
///
/// A read sees the rows as of some checkpoint: a batch of the projector appears whole or not at all to [`get`](View::get).
/// An iterator that runs while batches are written may see some rows from before and some from after one.
/// Cheap to clone.
pub struct View<K, V> {
    pub(super) state: Arc<ViewState>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for View<K, V> {
    fn clone(&self) -> Self {
        View { state: self.state.clone(), types: PhantomData }
    }
}

impl<K, V> fmt::Debug for View<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("status", &self.state.status()).finish()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> View<K, V> {
    pub(crate) fn new(state: Arc<ViewState>) -> Self {
        View { state, types: PhantomData }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ErrorKind::View`] when the key-value store failed, or while the view is being set up anew,
    /// [`ErrorKind::Codec`] when the row is not a `V`, [`ErrorKind::Stopped`] when the projection stopped and its rows
    /// are gone, [`ErrorKind::Closed`] after the store was closed.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.state.rows()?.get(&row_key(key)).map_err(|e| self.state.met(e))? {
            Some(value) => decode_value(&value).map(Some),
            None => Ok(None),
        }
    }

    /// Whether there is a row of this key.
    ///
    /// # Errors
    /// As [`get`](View::get).
    pub fn contains_key(&self, key: &K) -> Result<bool, Error> {
        self.state.rows()?.contains(&row_key(key)).map_err(|e| self.state.met(e))
    }

    /// The rows whose keys are in a range, in the order of the keys; from the other end with `rev()`.
    pub fn range(&self, range: impl RangeBounds<K>) -> Rows<K, V> {
        let from = match range.start_bound() {
            Bound::Included(key) => Bound::Included(row_key(key)),
            Bound::Excluded(key) => Bound::Excluded(row_key(key)),
            Bound::Unbounded => Bound::Included(vec![ROW]),
        };
        let to = match range.end_bound() {
            Bound::Included(key) => Bound::Included(row_key(key)),
            Bound::Excluded(key) => Bound::Excluded(row_key(key)),
            Bound::Unbounded => Bound::Excluded(vec![ROW + 1]),
        };
        self.scan(from, to)
    }

    /// The rows whose keys start with a prefix: the first parts of a tuple, or the start of a string.
    pub fn prefix<P: KeyPrefix<K> + ?Sized>(&self, prefix: &P) -> Rows<K, V> {
        let mut bytes = vec![ROW];
        prefix.encode_prefix(&mut bytes);
        let end = prefix_end(&bytes);
        self.scan(Bound::Included(bytes), end)
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> Rows<K, V> {
        self.range(..)
    }

    fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> Rows<K, V> {
        let rows = match self.state.rows() {
            Ok(rows) => rows.scan(from, to),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        Rows { rows, state: self.state.clone(), types: PhantomData }
    }

    /// How many rows there are, as of the checkpoint. Costs nothing.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.state.row_count()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last event applied.
    #[must_use]
    pub fn checkpoint(&self) -> Position {
        self.state.checkpoint.get()
    }

    /// What the projection is doing.
    #[must_use]
    pub fn state(&self) -> ProjectionState {
        self.state.state()
    }

    /// State, checkpoint, lag and size in one.
    #[must_use]
    pub fn status(&self) -> ViewStatus {
        self.state.status()
    }

    /// Waits until the event at a position has been applied: give it the position an append returned, and read
    /// your own writes.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`], [`ErrorKind::Stopped`] when the projection has stopped before, or
    /// [`ErrorKind::Closed`] or [`ErrorKind::Poisoned`] when it will not come.
    pub fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), Error> {
        self.state.wait_for(position, Instant::now().checked_add(timeout))
    }

    /// [`wait_for`](View::wait_for) for async code, without a timeout of its own.
    ///
    /// # Errors
    /// As [`wait_for`](View::wait_for), but for the timeout.
    pub fn wait_for_async(
        &self,
        position: Position,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<K, V> {
        WaitFor { state: self.state.clone(), position, slot: TaskSlot::default() }
    }
}

struct WaitFor {
    state: Arc<ViewState>,
    position: Position,
    slot: TaskSlot,
}

impl Future for WaitFor {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let WaitFor { state, position, slot } = &mut *self;
        state.poll_wait_for(*position, slot, cx)
    }
}

impl Drop for WaitFor {
    fn drop(&mut self) {
        self.state.checkpoint.forget(&mut self.slot);
    }
}

/// Rows of a view, in the order of their keys, from either end.
#[must_use = "iterators are lazy"]
pub struct Rows<K, V> {
    rows: RowsIter,
    state: Arc<ViewState>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> fmt::Debug for Rows<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

fn decode_row<K: Key, V: DeserializeOwned>((key, value): (Vec<u8>, Vec<u8>)) -> Result<(K, V), Error> {
    let mut rest = key.get(1..).unwrap_or_default();
    let key = K::decode(&mut rest)?;
    if !rest.is_empty() {
        return Err(Error::new(
            ErrorKind::Codec,
            "a view's key is longer than its type: raise the projection's GENERATION when its types change",
        ));
    }
    Ok((key, decode_value(&value)?))
}

impl<K: Key, V: DeserializeOwned> Iterator for Rows<K, V> {
    type Item = Result<(K, V), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.rows.next()?.map_err(|e| self.state.met(e)).and_then(decode_row))
    }
}

impl<K: Key, V: DeserializeOwned> DoubleEndedIterator for Rows<K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some(self.rows.next_back()?.map_err(|e| self.state.met(e)).and_then(decode_row))
    }
}

impl<K: Key, V: DeserializeOwned> FusedIterator for Rows<K, V> {}
