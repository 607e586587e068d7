//! The typed handle of a view.

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::changes::Changes;
use super::index::{Index, Indexed};
use super::key::Key;
use super::layout::Part;
use super::named::NamedView;
use super::page::{Page, PageKey};
use super::prefix::KeyPrefix;
use super::snapshot::{Rows, Snapshot};
use super::state::ViewState;
use super::status::{ProjectionState, ViewStatus};
use crate::error::Error;
use crate::event::Position;
use crate::watermark::TaskSlot;

/// What a projection keeps: rows that are read while the projector goes on writing them.
///
/// Each read sees the rows as of one checkpoint, a scan from its first row to its last: what the projector writes together
/// appears whole or not at all. Two reads may see two checkpoints; where they must not, take a
/// [`snapshot`](View::snapshot) and read that. Cheap to clone.
///
/// Reads fail with [`ErrorKind::View`](crate::ErrorKind::View) when the key-value store failed or while the view is being set
/// up anew, with [`Codec`](crate::ErrorKind::Codec) when a row is not of the types it is read as, with
/// [`Stopped`](crate::ErrorKind::Stopped) when the projection stopped and its rows are gone, and with
/// [`Closed`](crate::ErrorKind::Closed) after the store was closed.
pub struct View<K, V> {
    pub(super) state: Arc<ViewState>,
    pub(super) part: Part,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for View<K, V> {
    fn clone(&self) -> Self {
        View { state: self.state.clone(), part: self.part, types: PhantomData }
    }
}

impl<K, V> fmt::Debug for View<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("status", &self.state.status()).finish()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> View<K, V> {
    /// A projection's own view.
    pub(crate) fn new(state: Arc<ViewState>) -> Self {
        View { state, part: Part::OWN, types: PhantomData }
    }

    /// Another view that the projection keeps.
    ///
    /// # Errors
    /// `Invalid` when the projection does not declare it.
    pub fn of<N: NamedView>(&self) -> Result<View<N::Key, N::Value>, Error> {
        let part = self.state.layout.view(TypeId::of::<N>(), N::NAME)?;
        Ok(View { state: self.state.clone(), part, types: PhantomData })
    }

    /// The view as of its checkpoint now, to read several things that belong together.
    ///
    /// # Errors
    /// As any read.
    pub fn snapshot(&self) -> Result<Snapshot<K, V>, Error> {
        self.rows()?.counted()
    }

    fn rows(&self) -> Result<Snapshot<K, V>, Error> {
        Ok(Snapshot::of_rows(self.state.clone(), self.state.rows()?, self.part))
    }

    fn scan(&self, scan: impl FnOnce(Snapshot<K, V>) -> Rows<K, V>) -> Rows<K, V> {
        match self.rows() {
            Ok(rows) => scan(rows),
            Err(error) => Rows::failed(error, self.state.clone()),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// As any read.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        self.rows()?.get(key)
    }

    /// The values of some keys, in the order of these.
    ///
    /// # Errors
    /// As any read.
    pub fn get_many(&self, keys: &[K]) -> Result<Vec<Option<V>>, Error> {
        self.rows()?.get_many(keys)
    }

    /// Whether there is a row of this key.
    ///
    /// # Errors
    /// As any read.
    pub fn contains_key(&self, key: &K) -> Result<bool, Error> {
        self.rows()?.contains_key(key)
    }

    /// The row with the least key.
    ///
    /// # Errors
    /// As any read.
    pub fn first(&self) -> Result<Option<(K, V)>, Error> {
        self.rows()?.first()
    }

    /// The row with the greatest key.
    ///
    /// # Errors
    /// As any read.
    pub fn last(&self) -> Result<Option<(K, V)>, Error> {
        self.rows()?.last()
    }

    /// The rows whose keys are in a range, in the order of the keys; from the other end with `rev()`.
    pub fn range(&self, range: impl RangeBounds<K>) -> Rows<K, V> {
        self.scan(|rows| rows.range(range))
    }

    /// The rows whose keys start with a prefix: the first parts of a tuple, or the start of a string.
    pub fn prefix<P: KeyPrefix<K> + ?Sized>(&self, prefix: &P) -> Rows<K, V> {
        self.scan(|rows| rows.prefix(prefix))
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> Rows<K, V> {
        self.scan(|rows| rows.iter())
    }

    /// Up to `limit` rows of a range, and where to go on: after the key of the page before, if one is given. Pages are read
    /// at the checkpoint of the time; those of a [`Snapshot`] are of one.
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
    /// # for item in ["hats", "pants", "socks"] {
    /// #     store.append(item, Expected::Any, [Event::raw("sold", "")])?;
    /// # }
    /// # counts.wait_for(store.watermark(), std::time::Duration::from_secs(10))?;
    /// let first = counts.page(.., None, 2)?;
    /// assert_eq!(first.rows, [("hats".into(), 1), ("pants".into(), 1)]);
    /// let link = first.next.expect("there is more").to_string();
    /// let second = counts.page(.., Some(&link.parse()?), 2)?;
    /// assert_eq!((second.rows, second.next), (vec![("socks".into(), 1)], None));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid` when the limit is zero, or the key is not of this view, of its generation and in the range; else as any
    /// read.
    pub fn page(
        &self,
        range: impl RangeBounds<K>,
        after: Option<&PageKey>,
        limit: usize,
    ) -> Result<Page<K, V>, Error> {
        self.rows()?.page(range, after, limit)
    }

    /// The rows by an index that the projection declares on this view, as of the checkpoint now.
    ///
    /// # Errors
    /// `Invalid` when it does not declare it; else as any read.
    pub fn by<I: Index<K, V>>(&self) -> Result<Indexed<K, V, I>, Error> {
        self.rows()?.by()
    }

    /// What becomes of the rows from now on, after the events up to a position: see [`Changes`].
    /// What was [redriven](View::redrive) while the view was at this very position is given, too. Whether the view was made
    /// anew since with other rows, as after its `GENERATION` was raised, a position does not tell.
    pub fn changes(&self, after: Position) -> Changes<K, V> {
        Changes::after(self.state.clone(), self.part, after)
    }

    /// The view as it is, and all that becomes of its rows after that: no change is missing, and none is in both.
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
    /// # store.append("hats", Expected::Any, [Event::raw("sold", "")])?;
    /// # counts.wait_for(store.watermark(), std::time::Duration::from_secs(10))?;
    /// let (snapshot, mut changes) = counts.follow()?;
    /// assert_eq!(snapshot.get(&"hats".into())?, Some(1));
    /// store.append("hats", Expected::Any, [Event::raw("sold", "")])?;
    /// let change = changes.next().expect("the store is open")?;
    /// assert_eq!((change.key.as_str(), change.old, change.new), ("hats", Some(1), Some(2)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As any read.
    pub fn follow(&self) -> Result<Followed<K, V>, Error> {
        let (version, changes) = Changes::from_now(self.state.clone(), self.part)?;
        let snapshot = Snapshot::of_rows(self.state.clone(), version, self.part).counted()?;
        Ok((snapshot, changes))
    }

    /// How many rows there are, as of the checkpoint: none also while there is nothing to read.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self.part {
            Part::OWN => self.state.row_count(),
            _ => self.snapshot().map_or(0, |snapshot| snapshot.len()),
        }
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

    /// State, checkpoint, lag and size in one, of the projection and its own view.
    #[must_use]
    pub fn status(&self) -> ViewStatus {
        self.state.status()
    }

    /// Makes what was applied so far durable, and returns the checkpoint that survives a loss of power. The projector
    /// does so every two seconds while it applies events, and at closing; what a crash takes is applied again.
    ///
    /// # Errors
    /// [`DiskFull`](crate::ErrorKind::DiskFull), [`Io`](crate::ErrorKind::Io) or [`View`](crate::ErrorKind::View) when the
    /// rows cannot be written; else as [`get`](View::get).
    pub fn sync(&self) -> Result<Position, Error> {
        self.state.make_durable()
    }

    /// Waits until the event at a position has been applied: give it the position an append returned, and read
    /// your own writes.
    ///
    /// # Errors
    /// [`TimedOut`](crate::ErrorKind::TimedOut), [`Stopped`](crate::ErrorKind::Stopped) when the projection has stopped
    /// before, or [`Closed`](crate::ErrorKind::Closed) or [`Poisoned`](crate::ErrorKind::Poisoned) when it will not come.
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

    /// The value of a key as of a position or later: waits for that, and reads.
    ///
    /// # Errors
    /// As [`wait_for`](View::wait_for) and any read.
    pub fn get_at_least(&self, position: Position, key: &K, timeout: Duration) -> Result<Option<V>, Error> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.state.wait_for(position, deadline)?;
            if let Some(rows) = self.rows_at_least(position)? {
                return rows.get(key);
            }
        }
    }

    /// [`get_at_least`](View::get_at_least) for async code, without a timeout of its own.
    ///
    /// # Errors
    /// As [`get_at_least`](View::get_at_least), but for the timeout.
    pub fn get_at_least_async(
        &self,
        position: Position,
        key: K,
    ) -> impl Future<Output = Result<Option<V>, Error>> + Send + use<K, V> {
        let view = self.clone();
        async move {
            loop {
                view.wait_for_async(position).await?;
                if let Some(rows) = view.rows_at_least(position)? {
                    return rows.get(&key);
                }
            }
        }
    }

    /// The rows, unless they are being made anew and not there yet.
    fn rows_at_least(&self, position: Position) -> Result<Option<Snapshot<K, V>>, Error> {
        let rows = self.rows()?;
        Ok((rows.checkpoint() >= position).then_some(rows))
    }
}

/// A view as it is, and what becomes of it.
type Followed<K, V> = (Snapshot<K, V>, Changes<K, V>);

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
