//! The projections of an open store: registering them, what they keep from being dropped, what they are doing.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;

use super::Store;
use crate::error::Error;
use crate::event::Position;
use crate::log::catalog::closed;
use crate::log::read_only;
use crate::log::retaining::Needed;
use crate::projection::{Projection, Projector, Setting, ViewHome};
use crate::retention::{KeptBy, Retained, Retention};
use crate::view::feed::Feed;
use crate::view::folder::{self, ViewFolder, check_name};
use crate::view::handle::View;
use crate::view::state::{ViewState, ViewStatus};

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
    /// are read for that, unless [`verify_views`](Options::verify_views) says not to.
    ///
    /// # Errors
    /// `Invalid` when the name cannot name a folder or is taken by another projection; `ReadOnly`; `Closed`; and
    /// `DiskFull`, `Io` or `Locked` when the view's files cannot be opened for reasons that are not theirs. (An iterator
    /// over an old view keeps its files locked.)
    pub fn project<P: Projection>(&self, projection: P) -> Result<View<P::Key, P::Value>, Error> {
        check_name(P::NAME)?;
        if !self.shared.log.is_writable() {
            return Err(read_only());
        }
        self.shared.log.check_process()?;
        let mut projectors = self.shared.projectors();
        if projectors.closed {
            return Err(closed());
        }
        let kind = TypeId::of::<P>();
        match projectors.by_name.get(P::NAME) {
            Some(found) if (found.kind, found.generation) == (kind, P::GENERATION) => {
                if !found.projector.has_stopped() {
                    return Ok(View::new(found.projector.state().clone()));
                }
                found.projector.stop();
                found.projector.release();
            }
            Some(_) => {
                return Err(Error::invalid(format!(
                    "another projection is registered under the name {:?}",
                    P::NAME
                )));
            }
            None => {}
        }
        let views = P::views().checked()?;
        let catalog = self.shared.log.catalog.clone();
        let home = ViewHome {
            folder: catalog.storage.root().map(|root| ViewFolder::new(root, P::NAME.into(), P::GENERATION)),
            cache_bytes: self.shared.view_cache_bytes,
            store_id: self.store_id(),
            name: P::NAME.into(),
            generation: P::GENERATION,
            from_log_start: P::FROM_LOG_START,
            memory_bytes: self.shared.view_memory_bytes,
            layout: views.layout().clone(),
            verify: self.shared.verify_views,
        };
        let state = Arc::new(ViewState::new(
            P::NAME.into(),
            P::GENERATION,
            catalog,
            self.shared.rebuilt_views.clone(),
            views.layout().clone(),
            Feed::new(self.shared.change_buffer_bytes),
        ));
        let projector = Projector::start(projection, views, Setting { home, state: state.clone() })?;
        let registered = Registered { kind, generation: P::GENERATION, projector };
        projectors.by_name.insert(P::NAME.into(), registered);
        Ok(View::new(state))
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
