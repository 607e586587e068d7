//! What a view's handles and its projector share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use super::control::{Inbox, Reply, Request};
use super::feed::Feed;
use super::layout::Layout;
use super::levels::{Levels, Version};
use super::meta::{Moment, ViewMeta};
use super::refold::Refolder;
use super::status::{ProjectionState, ViewDigest, ViewStatus};
use super::succession::{Predecessor, Succession};
use super::verify::Prove;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::{Catalog, closed};
use crate::log::reader::Reader;
use crate::log::report::RebuiltView;
use crate::log::window::RANDOM;
use crate::watermark::{TaskSlot, Waited, Watermark};

#[derive(Debug)]
pub(crate) struct ViewState {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u32,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) checkpoint: Watermark,
    /// Counts what became of the rows, for those who follow: also what is redriven, which leaves the checkpoint where it is.
    pub(crate) published: Watermark,
    /// The views and indexes there are.
    pub(crate) layout: Arc<Layout>,
    /// What the last events changed, for those who follow.
    pub(crate) feed: Feed,
    /// Folds the log once more for them; none after the store was closed.
    refolder: Mutex<Option<Arc<dyn Refolder>>>,
    /// The same for those who hold the rows against the log.
    prover: Mutex<Option<Arc<dyn Prove>>>,
    row_count: AtomicU64,
    /// Whose place the rows have taken.
    predecessor: Mutex<Predecessor>,
    /// None between the end of one set of rows and the start of the next, and after the store was closed.
    levels: RwLock<Option<Sets>>,
    /// What handles ask of the projector.
    pub(crate) inbox: Inbox,
    condition: Mutex<Condition>,
    /// Rows that were being built are built, or given up.
    built: Condvar,
    /// The store's list of all that were made anew.
    rebuilt: Arc<RebuiltViews>,
    /// What a reader found to be wrong with the rows, until the projector sees to it.
    damage: Mutex<Option<Error>>,
    /// The projector's thread, to be woken for that.
    projector: OnceLock<Thread>,
}

/// Sets of rows of a view.
#[derive(Clone, Debug)]
struct Sets {
    /// Those that are read.
    served: Arc<Levels>,
    /// Those of the projection's generation, which it goes on from after a crash: the same, unless an earlier generation is
    /// served.
    own: Arc<Levels>,
}

/// The views that were made anew since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct RebuiltViews(Mutex<Vec<RebuiltView>>);

impl RebuiltViews {
    fn add(&self, view: RebuiltView) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(view);
    }

    pub(crate) fn list(&self) -> Vec<RebuiltView> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Condition {
    state: ProjectionState,
    serves: u32,
    set_aside: u64,
    /// Whether rows are built beside those that are served, and how far they are.
    building: Option<Position>,
    rebuild_failed: Option<Error>,
    rebuilt_because: Option<String>,
}

impl ViewState {
    pub(crate) fn new(
        name: Arc<str>,
        generation: u32,
        catalog: Arc<Catalog>,
        rebuilt: Arc<RebuiltViews>,
        layout: Arc<Layout>,
        feed: Feed,
    ) -> Self {
        let condition = Condition {
            state: ProjectionState::NeverRun,
            serves: generation,
            set_aside: 0,
            building: None,
            rebuild_failed: None,
            rebuilt_because: None,
        };
        ViewState {
            name,
            generation,
            catalog,
            checkpoint: Watermark::default(),
            published: Watermark::default(),
            layout,
            feed,
            refolder: Mutex::default(),
            prover: Mutex::default(),
            row_count: AtomicU64::new(0),
            predecessor: Mutex::default(),
            levels: RwLock::default(),
            inbox: Inbox::default(),
            condition: Mutex::new(condition),
            built: Condvar::new(),
            rebuilt,
            damage: Mutex::default(),
            projector: OnceLock::new(),
        }
    }

    /// Rows to read, as of their checkpoint.
    pub(crate) fn rows(&self) -> Result<Arc<Version>, Error> {
        self.sets().map(|sets| sets.served.version())
    }

    /// The same, with what tells them from others, and whether that is known.
    pub(crate) fn followed_rows(&self) -> Result<(Arc<Version>, u64, Succession), Error> {
        // Rows and number change together, under this lock.
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
        let (served, (set, known)) = (levels.as_ref().map(|sets| sets.served.version()), self.feed.set());
        drop(levels);
        served.map(|version| (version, set, known)).ok_or_else(|| self.no_rows())
    }

    /// The rows of the projection's own generation.
    pub(crate) fn own_rows(&self) -> Result<Arc<Version>, Error> {
        self.sets().map(|sets| sets.own.version())
    }

    fn sets(&self) -> Result<Sets, Error> {
        let sets = self.levels.read().unwrap_or_else(PoisonError::into_inner).clone();
        sets.ok_or_else(|| self.no_rows())
    }

    /// Why there is nothing to read.
    fn no_rows(&self) -> Error {
        match self.state() {
            ProjectionState::Stopped { position, cause } => self.stopped(position, &cause),
            ProjectionState::Dropped => self.dropped(),
            _ if self.catalog.is_closed() => closed(),
            _ => Error::new(ErrorKind::View, format!("view {} is being set up anew; try again", self.name)),
        }
    }

    /// Makes the rows durable. Returns their checkpoint: others may be put in place meanwhile.
    pub(crate) fn make_durable(&self) -> Result<Position, Error> {
        self.sets()?.own.make_durable()
    }

    /// Makes durable which events were set aside and redriven, which the log does not say, for who will be told of what comes
    /// after these rows.
    pub(crate) fn make_known(&self, rows: &Version) -> Result<(), Error> {
        match rows.meta().beside.rows() {
            0 => Ok(()),
            _ => self.make_durable().map(drop),
        }
    }

    /// The rows that the log gives up to the checkpoint of others, with what those say was left out.
    pub(crate) fn refold(&self, rows: &Version) -> Result<Arc<Version>, Error> {
        let prover = self.prover.lock().unwrap_or_else(PoisonError::into_inner).clone();
        prover.ok_or_else(|| self.ended())?.refold(rows)
    }

    /// Asks something of the projector, and waits until it is done.
    pub(crate) fn ask(&self, request: Request) -> Reply {
        let asks_itself = self.projector.get().is_some_and(|own| own.id() == std::thread::current().id());
        if asks_itself {
            return Err(Error::invalid("a projection cannot wait for itself: call this from another thread"));
        }
        let answer = self.inbox.ask(request);
        if let Some(projector) = self.projector.get() {
            projector.unpark();
        }
        answer.recv().unwrap_or_else(|_| Err(self.ended()))
    }

    /// A reader met an error: when it is the rows' fault, the projector makes them anew.
    pub(crate) fn met(&self, error: Error) -> Error {
        let serving = self.levels.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if serving && error.kind() == ErrorKind::View {
            self.damage.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
            if let Some(projector) = self.projector.get() {
                projector.unpark();
            }
        }
        error
    }

    /// What readers have met since the rows were put in place.
    pub(crate) fn take_damage(&self) -> Option<Error> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says which thread is the projector's.
    pub(crate) fn set_projector(&self, thread: Thread) {
        let _first = self.projector.set(thread);
    }

    /// Puts other rows in place, which are at this checkpoint.
    pub(crate) fn set_rows(&self, levels: Arc<Levels>, rows: u64, set_aside: u64) {
        let checkpoint = levels.version().meta().checkpoint;
        self.put(Some(Sets { served: levels.clone(), own: levels }), checkpoint, rows);
        let mut condition = self.condition();
        (condition.serves, condition.set_aside) = (self.generation, set_aside);
    }

    /// Puts the rows of an earlier generation in place, beside which the projection's own are built.
    pub(crate) fn set_earlier(&self, generation: u32, served: Arc<Levels>, own: Arc<Levels>, rows: u64) {
        let checkpoint = served.version().meta().checkpoint;
        self.put(Some(Sets { served, own }), checkpoint, rows);
        self.condition().serves = generation;
    }

    /// There are no rows for the moment.
    pub(crate) fn take_rows(&self) {
        self.put(None, Position::START, 0);
    }

    fn put(&self, sets: Option<Sets>, checkpoint: Position, rows: u64) {
        drop(self.take_damage());
        let rows_now = sets.as_ref().map(|sets| sets.served.version().meta().clone());
        let mut levels = self.levels.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *levels, sets);
        let mut predecessor = self.predecessor();
        if let Some(before) = &before {
            predecessor.left(before.served.version().meta().clone());
        }
        match &rows_now {
            Some(rows) => self.feed.restart(rows.moment(), predecessor.succeeded_by(rows)),
            None => self.feed.restart(Moment::default(), Succession::Open),
        }
        drop((predecessor, levels));
        self.row_count.store(rows, Ordering::Release);
        self.checkpoint.reset(checkpoint);
        self.published.raise();
        // Closing what was served takes a while, in which nobody is to wait, nor to read one thing here and another there.
        drop(before);
    }

    /// Rows that have taken the place of others are to be looked at, before any event after this is applied.
    pub(crate) fn awaited(&self) -> Option<Position> {
        self.predecessor().awaited()
    }

    /// The rows that are served have come so far.
    pub(crate) fn reached(&self, rows: &ViewMeta) {
        if let Some(succession) = self.predecessor().reached_by(rows) {
            self.feed.find(succession);
            self.published.raise();
        }
    }

    fn predecessor(&self) -> MutexGuard<'_, Predecessor> {
        self.predecessor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_refolder(&self, refolder: Arc<dyn Refolder>) {
        *self.refolder.lock().unwrap_or_else(PoisonError::into_inner) = Some(refolder);
    }

    pub(crate) fn set_prover(&self, prover: Arc<dyn Prove>) {
        *self.prover.lock().unwrap_or_else(PoisonError::into_inner) = Some(prover);
    }

    pub(crate) fn refolder(&self) -> Option<Arc<dyn Refolder>> {
        self.refolder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the rows are that are built beside those that are served.
    pub(crate) fn set_building(&self, checkpoint: Position) {
        self.condition().building = Some(checkpoint);
    }

    /// Nothing is built beside any more: what was is served, unless it failed.
    pub(crate) fn set_built(&self, failed: Option<Error>) {
        let mut condition = self.condition();
        (condition.building, condition.rebuild_failed) = (None, failed);
        drop(condition);
        self.built.notify_all();
    }

    /// Waits until nothing is being built beside what is served.
    pub(crate) fn wait_built(&self, deadline: Option<Instant>) -> Result<(), Error> {
        let mut condition = self.condition();
        loop {
            let Some(at) = condition.building else {
                return condition.rebuild_failed.clone().map_or(Ok(()), Err);
            };
            if matches!(condition.state, ProjectionState::Stopped { .. } | ProjectionState::Dropped) {
                drop(condition);
                return Err(self.ended());
            }
            condition = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.built.wait(condition).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => {
                    let message = format!("view {} is still being built, and is at position {at}", self.name);
                    return Err(Error::new(ErrorKind::TimedOut, message));
                }
                Some(left) => {
                    self.built.wait_timeout(condition, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The store is closed: wakes whoever waits, and lets go of the rows.
    pub(crate) fn release(&self) {
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.refolder.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.prover.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.end();
    }

    /// Nobody waits any longer.
    pub(crate) fn end(&self) {
        self.checkpoint.end();
        self.published.end();
    }

    /// The projector has written rows up to this checkpoint.
    pub(crate) fn advance(&self, checkpoint: Position, count: u64, set_aside: u64) {
        self.row_count.store(count, Ordering::Release);
        self.condition().set_aside = set_aside;
        self.checkpoint.advance(checkpoint);
        self.published.raise();
    }

    pub(crate) fn row_count(&self) -> u64 {
        self.row_count.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> ProjectionState {
        self.condition().state.clone()
    }

    /// A view that was dropped stays so.
    pub(crate) fn set_state(&self, state: ProjectionState) {
        let ends = matches!(state, ProjectionState::Stopped { .. } | ProjectionState::Dropped);
        let mut condition = self.condition();
        if !matches!(condition.state, ProjectionState::Dropped) {
            condition.state = state;
        }
        drop(condition);
        if ends {
            self.end();
            self.built.notify_all();
        }
    }

    pub(crate) fn set_rebuilt_because(&self, why: String) {
        self.rebuilt.add(RebuiltView::new(&self.name, self.generation, &why));
        self.condition().rebuilt_because = Some(why);
    }

    pub(crate) fn status(&self) -> ViewStatus {
        let sets = self.sets().ok();
        let digest =
            sets.as_ref().map(|sets| ViewDigest::of(sets.served.version().meta())).unwrap_or_default();
        let durable = sets.map_or(Position::START, |sets| sets.own.durable());
        let checkpoint = self.checkpoint.get();
        let lag_time = self.lag_time(checkpoint);
        let condition = self.condition();
        ViewStatus {
            name: self.name.to_string(),
            generation: self.generation,
            state: condition.state.clone(),
            checkpoint,
            durable,
            lag: self.catalog.watermark.get().get().saturating_sub(checkpoint.get()),
            lag_time,
            rows: self.row_count(),
            digest,
            set_aside: condition.set_aside,
            serves: condition.serves,
            building: condition.building,
            rebuild_failed: condition.rebuild_failed.clone(),
            rebuilt_because: condition.rebuilt_because.clone(),
        }
    }

    fn lag_time(&self, checkpoint: Position) -> Duration {
        if checkpoint >= self.catalog.watermark.get() {
            return Duration::ZERO;
        }
        let next = Reader::new(self.catalog.clone(), RANDOM).event(checkpoint.next()).ok();
        let age = next.and_then(|event| SystemTime::now().duration_since(event.recorded_at()).ok());
        age.unwrap_or_default()
    }

    pub(crate) fn wait_for(&self, position: Position, deadline: Option<Instant>) -> Result<(), Error> {
        self.waited(position, self.checkpoint.wait(position, deadline))
    }

    pub(crate) fn poll_wait_for(
        &self,
        position: Position,
        slot: &mut TaskSlot,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.checkpoint.poll_wait(position, slot, cx).map(|waited| self.waited(position, waited))
    }

    /// Waits until so much has become of the rows.
    pub(crate) fn wait_published(&self, count: Position, deadline: Option<Instant>) -> Result<(), Error> {
        self.waited(self.checkpoint.get().next(), self.published.wait(count, deadline))
    }

    pub(crate) fn poll_wait_published(
        &self,
        count: Position,
        slot: &mut TaskSlot,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let waited = self.published.poll_wait(count, slot, cx);
        waited.map(|waited| self.waited(self.checkpoint.get().next(), waited))
    }

    fn waited(&self, position: Position, waited: Waited) -> Result<(), Error> {
        match (waited, self.state()) {
            (Waited::Reached(_), _) => Ok(()),
            (_, ProjectionState::Stopped { position, cause }) => Err(self.stopped(position, &cause)),
            (_, ProjectionState::Dropped) => Err(self.dropped()),
            (Waited::Ended, _) => Err(self.catalog.end_reason()),
            (Waited::TimedOut, _) => {
                let at = self.checkpoint.get();
                let message =
                    format!("view {} has not reached position {position} yet; it is at {at}", self.name);
                Err(Error::new(ErrorKind::TimedOut, message))
            }
        }
    }

    /// Why the projector answers no more.
    pub(crate) fn ended(&self) -> Error {
        match self.state() {
            ProjectionState::Stopped { position, cause } => self.stopped(position, &cause),
            ProjectionState::Dropped => self.dropped(),
            _ => self.catalog.end_reason(),
        }
    }

    fn dropped(&self) -> Error {
        let message = format!("view {} was dropped; register its projection to make it anew", self.name);
        Error::new(ErrorKind::NotFound, message)
    }

    fn stopped(&self, position: Position, cause: &Error) -> Error {
        let message = format!("projection {} stopped at position {position}: {cause}", self.name);
        Error::new(ErrorKind::Stopped { position }, message).because(cause.clone())
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
