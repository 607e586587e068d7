//! What a handle asks of its projector, and what it says of events that were left out.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::Request;
use super::handle::View;
use super::key::Key;
use super::set_aside::{SetAside, listed};
use super::status::ViewDigest;
use super::verify::{Verified, compare};
use crate::error::Error;
use crate::event::Position;

impl<K: Key, V: Serialize + DeserializeOwned> View<K, V> {
    /// Applies no more events until it is [resumed](View::resume); on return none is being applied. The rows can be read
    /// meanwhile, and [`wait_for`](View::wait_for) waits. What was not applied is kept from
    /// [`retain`](crate::Store::retain). A projection that is registered anew is not paused.
    ///
    /// # Errors
    /// `Stopped` when the projection has stopped; `NotFound` when the view was dropped; `Closed`, `Poisoned`; `Invalid`
    /// when `apply` calls this.
    ///
    /// ```
    /// use std::time::Duration;
    /// use everfold::{Event, Expected};
    /// # use everfold::{ApplyError, Projection, RecordedEvent, ViewBatch};
    /// # struct Count;
    /// # impl Projection for Count {
    /// #     const NAME: &'static str = "count";
    /// #     const GENERATION: u32 = 1;
    /// #     type Key = String;
    /// #     type Value = u64;
    /// #     fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
    /// #         v.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let counts = store.project(Count)?;
    /// counts.pause()?;
    /// let done = store.append("cart-7", Expected::Any, [Event::raw("sold", *b"hats")])?;
    /// assert!(counts.wait_for(done.position, Duration::from_millis(1)).is_err());
    /// counts.resume()?;
    /// counts.wait_for(done.position, Duration::from_secs(10))?;
    /// # Ok(()) }
    /// ```
    pub fn pause(&self) -> Result<(), Error> {
        self.state.ask(Request::Pause).map(drop)
    }

    /// Goes on applying events.
    ///
    /// # Errors
    /// As [`pause`](View::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.state.ask(Request::Resume).map(drop)
    }

    /// Builds the rows anew from the log, beside those there are, which are served, and brought up to date, until the new
    /// ones have caught up; then those take their place in one step. Handles stay valid. Returns when it has begun:
    /// [`wait_built`](View::wait_built) waits for the end, and [`status`](View::status) tells how far it is. Asking again
    /// meanwhile changes nothing.
    ///
    /// What was [set aside](View::set_aside) is tried again in its place. The new rows are also those that retention has to
    /// leave events for, until they are built. When an event fails, or the store is closed before, the old rows
    /// stay. A crash leaves the old ones or the new ones, whole.
    ///
    /// # Errors
    /// As [`pause`](View::pause); `DiskFull`, `Io`. That retention has removed events that are needed, `Truncated`, is told by
    /// [`wait_built`](View::wait_built).
    ///
    /// ```
    /// use std::time::Duration;
    /// # use everfold::{ApplyError, Event, Expected, Projection, RecordedEvent, ViewBatch};
    /// # struct Count;
    /// # impl Projection for Count {
    /// #     const NAME: &'static str = "count";
    /// #     const GENERATION: u32 = 1;
    /// #     type Key = String;
    /// #     type Value = u64;
    /// #     fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
    /// #         v.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// # store.append("cart-7", Expected::Any, [Event::raw("sold", *b"hats")])?;
    /// let counts = store.project(Count)?;
    /// counts.wait_for(store.watermark(), Duration::from_secs(10))?;
    /// counts.rebuild()?;
    /// assert_eq!(counts.get(&"cart-7".into())?, Some(1));
    /// counts.wait_built(Duration::from_secs(10))?;
    /// # Ok(()) }
    /// ```
    pub fn rebuild(&self) -> Result<(), Error> {
        self.state.ask(Request::Rebuild).map(drop)
    }

    /// Waits until no rows are being built beside those that are served.
    ///
    /// # Errors
    /// `TimedOut`; why the last [`rebuild`](View::rebuild) was given up, if it was; else as [`pause`](View::pause).
    pub fn wait_built(&self, timeout: Duration) -> Result<(), Error> {
        self.state.wait_built(Instant::now().checked_add(timeout))
    }

    /// The events that the projection could not apply and went on without, in the order of their positions: see
    /// [`OnError::SetAside`](crate::OnError::SetAside). The list is kept with the rows, and survives what they survive.
    /// It does not keep the events from [`retain`](crate::Store::retain).
    ///
    /// # Errors
    /// As [`get`](View::get).
    ///
    /// ```
    /// use std::time::Duration;
    /// use everfold::{Event, Expected, OnError, ProjectionOptions};
    /// # use everfold::{ApplyError, Projection, RecordedEvent, ViewBatch};
    /// # struct Sum;
    /// # impl Projection for Sum {
    /// #     const NAME: &'static str = "sum";
    /// #     const GENERATION: u32 = 1;
    /// #     type Key = String;
    /// #     type Value = i64;
    /// #     fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, i64>) -> Result<(), ApplyError> {
    /// #         let by: i64 = e.decode()?;
    /// #         v.update(e.stream().to_owned(), |sum| Some(sum.unwrap_or(0) + by))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let sums = store.project_with(Sum, ProjectionOptions::new().on_error(OnError::SetAside))?;
    /// store.append("a", Expected::Any, [Event::json("added", &2)?, Event::json("added", "two")?])?;
    /// let done = store.append("a", Expected::Any, [Event::json("added", &3)?])?;
    /// sums.wait_for(done.position, Duration::from_secs(10))?;
    /// assert_eq!(sums.get(&"a".into())?, Some(5));
    /// let aside = sums.set_aside()?;
    /// assert_eq!((aside.len(), aside[0].position.get(), aside[0].stream.as_str()), (1, 2, "a"));
    /// # Ok(()) }
    /// ```
    pub fn set_aside(&self) -> Result<Vec<SetAside>, Error> {
        listed(&*self.state.own_rows()?).map_err(|e| self.state.met(e))
    }

    /// Applies an event that was set aside: now, after those that came later, and so only for projections that do not
    /// mind. In the same step it is taken off the list. When it fails again, it stays there, with the new cause.
    /// Whoever follows the view's [`changes`](View::changes) is told then.
    ///
    /// # Errors
    /// `NotFound` when the event is not on the list; `Stopped` with its position when it fails again; `Truncated` when
    /// retention has removed it; else as [`pause`](View::pause).
    pub fn redrive(&self, position: Position) -> Result<(), Error> {
        self.state.ask(Request::Redrive(Some(position))).map(drop)
    }

    /// [`redrive`](View::redrive)s all events that were set aside, in order. Returns how many of them were applied; the
    /// others are still on the list.
    ///
    /// # Errors
    /// As [`pause`](View::pause).
    pub fn redrive_all(&self) -> Result<u64, Error> {
        self.state.ask(Request::Redrive(None))
    }

    /// What tells the rows from any others, with their checkpoint. Costs nothing.
    ///
    /// # Errors
    /// As [`get`](View::get).
    pub fn digest(&self) -> Result<ViewDigest, Error> {
        Ok(ViewDigest::of(self.state.rows()?.meta()))
    }

    /// Folds the log once more, in memory, up to the view's checkpoint, and holds the rows against that: finds a projection
    /// that is not deterministic, and rows that were lost, changed or invented. The projector goes on meanwhile. Events that were set
    /// aside, or redriven, are left out, or applied, where the view says so. While an earlier generation is served, the rows
    /// of the new one are looked at.
    ///
    /// A value that serialises differently each time, such as a `HashMap`, makes a fold not deterministic: keep a
    /// `BTreeMap`.
    ///
    /// # Errors
    /// `Stopped` when an event fails that was applied before; `Truncated` when retention has removed events that are
    /// needed; else as [`get`](View::get) and [`Store::read`](crate::Store::read).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use everfold::{ApplyError, Event, Expected, Projection, RecordedEvent, ViewBatch};
    /// # struct Count;
    /// # impl Projection for Count {
    /// #     const NAME: &'static str = "count";
    /// #     const GENERATION: u32 = 1;
    /// #     type Key = String;
    /// #     type Value = u64;
    /// #     fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
    /// #         v.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// # store.append("cart-7", Expected::Any, [Event::raw("sold", *b"hats")])?;
    /// let counts = store.project(Count)?;
    /// counts.wait_for(store.watermark(), Duration::from_secs(10))?;
    /// let verified = counts.verify()?;
    /// assert!(verified.is_sound(), "{verified}: {:?}", verified.differing);
    /// # Ok(()) }
    /// ```
    pub fn verify(&self) -> Result<Verified<K>, Error> {
        let rows = self.state.own_rows()?;
        let again = self.state.refold(&rows)?;
        let compared = compare(self.part, &rows, &again).map_err(|e| self.state.met(e))?;
        Ok(Verified {
            said: ViewDigest::of(rows.meta()),
            found: compared.first,
            expected: compared.second,
            differing: compared.differing,
        })
    }
}
