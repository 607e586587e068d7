//! The projections of an open store: registering them, what they keep from being dropped, what they are doing.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;

use super::Store;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::closed;
use crate::log::read_only;
use crate::log::retaining::Needed;
use crate::projection::{
    Projection, ProjectionOptions, Projector, Runs, Setting, ViewHome, Views, fold_in_memory,
};
use crate::retention::{KeptBy, Retained, Retention};
use crate::view::feed::Feed;
use crate::view::folder::{self, ViewFolder, check_name};
use crate::view::handle::View;
use crate::view::layout::Part;
use crate::view::levels::Version as RowsAt;
use crate::view::state::ViewState;
use crate::view::status::{ProjectionState, ViewStatus};
use crate::view::verify::{Comparison, compare};

/// The projections registered with a store.
#[derive(Debug, Default)]
pub(super) struct Projectors {
    closed: bool,
    by_name: HashMap<Arc<str>, Registered>,
}

/// A projection that was registered.
#[derive(Debug)]
pub(super) struct Registered {
    kind: TypeId,
    generation: u32,
    pub(super) projector: Projector,
}

impl Projectors {
    /// Takes no more projections. Returns those there are.
    pub(super) fn close(&mut self) -> Vec<Registered> {
        self.closed = true;
        self.by_name.drain().map(|(_, registered)| registered).collect()
    }
}

impl Store {
    /// Starts a projection in the background, from where its view is, and returns the view. Registering the same
    /// projection again returns the same view; if it has stopped, what is given now is started instead, with a new view
    /// handle on the rows there are. Handles from before then only tell that it stopped.
    ///
    /// A view that is damaged, belongs to another store, or is ahead of the log is set aside in `quarantine/` and
    /// made anew from the log; [`status`](View::status) and [`recovery`](Store::recovery) say so. All rows that are found
    /// are read for that, unless [`verify_views`](crate::Options::verify_views) says not to.
    ///
    /// # Errors
    /// `Invalid` when the name cannot name a folder or is taken by another projection; `ReadOnly`; `Closed`; and
    /// `DiskFull`, `Io` or `Locked` when the view's files cannot be opened for reasons that are not theirs. (An iterator
    /// over an old view keeps its files locked.)
    pub fn project<P: Projection>(&self, projection: P) -> Result<View<P::Key, P::Value>, Error> {
        self.project_with(projection, ProjectionOptions::new())
    }

    /// [`project`](Store::project), with what is to become of events that the projection cannot apply. Of a projection
    /// that runs already, the options stay those it was started with.
    ///
    /// # Errors
    /// As [`project`](Store::project).
    ///
    /// ```
    /// use std::time::Duration;
    /// use everfold::{ApplyError, Event, Expected, OnError, Projection, ProjectionOptions, RecordedEvent, ViewBatch};
    ///
    /// struct Sum;
    ///
    /// impl Projection for Sum {
    ///     const NAME: &'static str = "sum";
    ///     const GENERATION: u32 = 1;
    ///     type Key = String;
    ///     type Value = i64;
    ///
    ///     fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, i64>) -> Result<(), ApplyError> {
    ///         let by: i64 = e.decode()?;
    ///         v.update(e.stream().to_owned(), |sum| Some(sum.unwrap_or(0) + by))
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let options = ProjectionOptions::new().retry(2, Duration::from_millis(1)).on_error(OnError::SetAside);
    /// let sums = store.project_with(Sum, options)?;
    /// let done = store.append("a", Expected::Any, [Event::raw("added", *b"?"), Event::json("added", &3)?])?;
    /// sums.wait_for(done.position, Duration::from_secs(10))?;
    /// assert_eq!((sums.get(&"a".into())?, sums.set_aside()?.len()), (Some(3), 1));
    /// # Ok(()) }
    /// ```
    pub fn project_with<P: Projection>(
        &self,
        projection: P,
        options: ProjectionOptions,
    ) -> Result<View<P::Key, P::Value>, Error> {
        self.start_projection(projection, TypeId::of::<P>(), options)
    }

    /// Starts whatever a projector runs. What is registered under a name is the same projection if its kind and its
    /// generation are the same.
    pub(crate) fn start_projection<R: Runs>(
        &self,
        projection: R,
        kind: TypeId,
        options: ProjectionOptions,
    ) -> Result<View<R::Key, R::Value>, Error> {
        check_name(projection.name())?;
        if !self.shared.log.is_writable() {
            return Err(read_only());
        }
        self.shared.log.check_process()?;
        let (name, generation): (Arc<str>, u32) = (projection.name().into(), projection.generation());
        let mut projectors = self.shared.projectors();
        if projectors.closed {
            return Err(closed());
        }
        match projectors.by_name.get(&name) {
            Some(found) if (found.kind, found.generation) == (kind, generation) => {
                if !found.projector.has_stopped() {
                    return Ok(View::new(found.projector.state().clone()));
                }
                found.projector.stop();
                found.projector.release();
            }
            Some(_) => {
                return Err(Error::invalid(format!(
                    "another projection is registered under the name {name:?}"
                )));
            }
            None => {}
        }
        let views = projection.views().checked()?;
        let home = self.home_of(&projection, &views)?;
        let state = Arc::new(ViewState::new(
            name.clone(),
            generation,
            self.shared.log.catalog.clone(),
            self.shared.rebuilt_views.clone(),
            views.layout().clone(),
            Feed::new(self.shared.change_buffer_bytes),
        ));
        let setting = Setting { home, options, state: state.clone(), chunks: self.shared.chunks.clone() };
        let projector = Projector::start(Arc::new(projection), views, setting)?;
        projectors.by_name.insert(name, Registered { kind, generation, projector });
        Ok(View::new(state))
    }

    fn home_of<R: Runs>(&self, projection: &R, views: &Views<R::Key, R::Value>) -> Result<ViewHome, Error> {
        let (name, generation): (Arc<str>, u32) = (projection.name().into(), projection.generation());
        let root = self.shared.log.catalog.storage.root();
        let folder = root.map(|root| ViewFolder::find(root, name.clone(), generation)).transpose()?;
        Ok(ViewHome {
            folder,
            cache_bytes: self.shared.view_cache_bytes,
            store_id: self.store_id(),
            name,
            generation,
            from_log_start: projection.takes_what_is_left(),
            memory_bytes: self.shared.view_memory_bytes,
            layout: views.layout().clone(),
            verify: self.shared.verify_views,
        })
    }

    /// Folds two projections over the same events, from the log's start up to a position, in memory, and holds their rows
    /// against each other: two generations, or two versions of the code. Nothing is registered or written.
    ///
    /// # Errors
    /// `Invalid` when the position is not in the log yet; `Stopped` when an event cannot be applied; `Truncated` when
    /// retention has removed events, unless the projection may start with
    /// [what is left](Projection::FROM_LOG_START); else as [`read`](Store::read).
    ///
    /// ```
    /// # use everfold::{ApplyError, Event, Expected, Projection, RecordedEvent, ViewBatch};
    /// /// The second version counts by type, and not by stream.
    /// struct Count<const VERSION: u32>;
    ///
    /// impl<const VERSION: u32> Projection for Count<VERSION> {
    ///     const NAME: &'static str = "count";
    ///     const GENERATION: u32 = VERSION;
    ///     type Key = String;
    ///     type Value = u64;
    ///
    ///     fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
    ///         let key = if VERSION == 1 { e.stream() } else { e.event_type() };
    ///         v.update(key.to_owned(), |count| Some(count.unwrap_or(0) + 1))
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// store.append("cart-7", Expected::Any, [Event::raw("sold", *b"hats")])?;
    /// let compared = store.compare(&Count::<1>, &Count::<2>, store.watermark())?;
    /// let keys: Vec<_> = compared.differing.iter().filter_map(|row| row.key.as_deref()).collect();
    /// assert_eq!((compared.is_equal(), keys), (false, vec!["cart-7", "sold"]));
    /// # Ok(()) }
    /// ```
    pub fn compare<A: Projection, B: Projection<Key = A::Key, Value = A::Value>>(
        &self,
        a: &A,
        b: &B,
        to: Position,
    ) -> Result<Comparison<A::Key>, Error> {
        self.shared.log.check_process()?;
        let last = self.watermark();
        if to > last {
            return Err(Error::invalid(format!(
                "position {to} is not in the log yet, which ends at {last}: compare up to there"
            )));
        }
        compare(Part::OWN, &*self.fold_to(a, to)?, &*self.fold_to(b, to)?)
    }

    fn fold_to<R: Runs>(&self, projection: &R, to: Position) -> Result<Arc<RowsAt>, Error> {
        let views = projection.views().checked()?;
        let home = self.home_of(projection, &views)?;
        let log = (&self.shared.log.catalog, &self.shared.chunks);
        fold_in_memory(projection, &views, &home, log, to)
    }

    /// Ends a view's projection, if it is registered, and removes the view's rows, of all generations, and its note. Of
    /// views whose projection is not registered as well. From then on it keeps nothing from [`retain`](Store::retain).
    /// Whatever crashes, it is there as it was, or gone; registering the projection again makes it anew. Its handles tell
    /// that it was dropped.
    ///
    /// # Errors
    /// `NotFound` when there is no view of this name; `Locked` when an iterator still reads its rows: nothing was removed
    /// then, but the projection has ended; `Invalid`, `ReadOnly`, `Closed`, `DiskFull`, `Io`.
    ///
    /// ```
    /// # use everfold::{ApplyError, ErrorKind, Projection, RecordedEvent, ViewBatch};
    /// # struct Count;
    /// # impl Projection for Count {
    /// #     const NAME: &'static str = "count";
    /// #     const GENERATION: u32 = 1;
    /// #     type Key = String;
    /// #     type Value = u64;
    /// #     fn apply(&self, _: &RecordedEvent, _: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let counts = store.project(Count)?;
    /// store.drop_view("count")?;
    /// assert!(store.views().is_empty());
    /// assert_eq!(counts.get(&"a".into()).unwrap_err().kind(), ErrorKind::NotFound);
    /// # Ok(()) }
    /// ```
    pub fn drop_view(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        if !self.shared.log.is_writable() {
            return Err(read_only());
        }
        self.shared.log.check_process()?;
        let mut projectors = self.shared.projectors();
        if projectors.closed {
            return Err(closed());
        }
        let registered = projectors.by_name.remove(name);
        if let Some(registered) = &registered {
            registered.projector.state().set_state(ProjectionState::Dropped);
            registered.projector.stop();
            registered.projector.release();
        }
        let was_registered = registered.is_some();
        drop(registered);
        let root = self.shared.log.catalog.storage.root();
        let was_there = root.map_or(Ok(false), |root| folder::drop_view(root, name))?;
        if was_registered || was_there {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("there is no view {name:?}")))
    }

    /// The views of the projections registered with this handle or a clone of it, by name.
    #[must_use]
    pub fn views(&self) -> Vec<ViewStatus> {
        let projectors = self.shared.projectors();
        let mut views: Vec<_> =
            projectors.by_name.values().map(|registered| registered.projector.state().status()).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Drops the oldest segments as a policy says, and tells what it dropped and what kept it from dropping more.
    ///
    /// Kept are the segment being appended to, the last event that each view has durably applied and everything after it,
    /// and what open cursors and subscriptions have still to read. Views are made durable for that. A view on disk whose
    /// projection is not registered keeps everything, unless it is [left out](Retention::without_view); so does a view in
    /// memory, which is folded from the log's start at each opening, unless it may be folded
    /// [from what is left](Projection::FROM_LOG_START).
    ///
    /// Of what is dropped, the streams' versions stay known: they go on where they were, and guards on them hold. A guard
    /// on a query looks at what is left. Event ids are forgotten: appending a dropped event again records it again.
    /// Reading what is not there any more is an error of the kind [`Truncated`](crate::ErrorKind::Truncated); a view that
    /// is made anew needs it as well. A store that another process has open read-only meets missing files.
    ///
    /// Whatever crashes, the log is as it was, or starts later; nothing else is lost.
    ///
    /// # Errors
    /// `ReadOnly`, unless it is a dry run; `Closed`; `Poisoned`; `Corrupt` when the versions of streams that were dropped
    /// before cannot be read; `DiskFull` or `Io` when the system fails a call. Nothing was dropped then, except after an
    /// error in writing `MARK`: that the next opening tells.
    ///
    /// ```
    /// use everfold::{Event, Expected, Options, Retention};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Options::new().segment_size(8192).open_memory(&everfold::MemoryStorage::new())?;
    /// for _ in 0..100 {
    ///     store.append("cart-7", Expected::Any, [Event::raw("sold", *b"hats")])?;
    /// }
    /// let retained = store.retain(&Retention::new().before(store.watermark()))?;
    /// assert!(retained.segments > 0 && retained.first == store.log_start());
    /// let left = store.read(store.log_start().previous());
    /// assert!(left.count() < 100);
    /// # Ok(()) }
    /// ```
    pub fn retain(&self, retention: &Retention) -> Result<Retained, Error> {
        self.shared.log.check_process()?;
        // Held to the end: no projection starts at what is being dropped.
        let projectors = self.shared.projectors();
        if projectors.closed {
            return Err(closed());
        }
        let mut needed = Vec::new();
        let counts = |name: &str| !retention.without_views.iter().any(|without| without == name);
        for (name, registered) in projectors.by_name.iter().filter(|(name, _)| counts(name)) {
            let checkpoint = registered.projector.durable_checkpoint();
            let by = KeptBy::View { name: name.to_string(), checkpoint };
            needed.push(Needed { by, from: checkpoint });
        }
        let on_disk = self.shared.log.catalog.storage.root().map_or(Ok(Vec::new()), folder::names)?;
        for name in on_disk {
            if counts(&name) && !projectors.by_name.contains_key(name.as_str()) {
                needed.push(Needed { by: KeptBy::UnregisteredView { name }, from: Position::START });
            }
        }
        self.shared.log.retain(retention, &needed)
    }
}
