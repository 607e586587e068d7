//! What a view's handles and its projector share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::Instant;

use super::control::{Inbox, Reply, Request};
use super::levels::{Levels, Version};
use super::meta::ViewMeta;
use super::verify::Refold;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::{Catalog, closed};
use crate::log::report::RebuiltView;
use crate::watermark::{TaskSlot, Waited, Watermark};

/// What a projection is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProjectionState {
    /// Registered, and has not looked at the log yet.
    NeverRun,
    /// Applying events that were in the log before.
    Rebuilding,
    /// Has applied everything there was, and waits for more.
    Live,
    /// Applies nothing until it is [resumed](crate::View::resume).
    Paused,
    /// Will try an event again that it could not apply.
    Retrying {
        /// The event.
        position: Position,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        cause: Error,
    },
    /// Will apply no more until it is registered again, usually by a program in which the cause is mended.
    Stopped {
        /// The event it could not apply.
        position: Position,
        /// Why.
        cause: Error,
    },
    /// The view was [dropped](crate::Store::drop_view): it can be read no more.
    Dropped,
}

impl ProjectionState {
    /// The word used by the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            ProjectionState::NeverRun => "never run",
            ProjectionState::Rebuilding => "rebuilding",
            ProjectionState::Live => "live",
            ProjectionState::Paused => "paused",
            ProjectionState::Retrying { .. } => "retrying",
            ProjectionState::Dropped => "dropped",
            ProjectionState::Stopped { .. } => "stopped",
        }
    }
}

impl fmt::Display for ProjectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProjectionState::Stopped { position, cause } => {
                write!(f, "stopped at position {position}: {cause}")
            }
            ProjectionState::Retrying { position, attempts, cause } => {
                write!(f, "retrying position {position} after {attempts} attempts: {cause}")
            }
            other => f.write_str(other.name()),
        }
    }
}

/// A view and its projection, as of now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ViewStatus {
    /// The projection's name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// What it is doing.
    pub state: ProjectionState,
    /// The last event applied.
    pub checkpoint: Position,
    /// The last event applied whose effect would survive a loss of power; the others would be applied again.
    pub durable: Position,
    /// How many events it is behind the log.
    pub lag: u64,
    /// How many rows the view has.
    pub rows: u64,
    /// What tells its rows from any others.
    pub digest: ViewDigest,
    /// How many events were [set aside](crate::View::set_aside).
    pub set_aside: u64,
    /// The generation whose rows are served: an earlier one, while this one is built
    /// [beside it](crate::Projection::SERVES_EARLIER).
    pub serves: u32,
    /// How far the rows are that are being built beside those that are served, if there are any.
    pub building: Option<Position>,
    /// Why the last [rebuild](crate::View::rebuild) was given up, if it was.
    pub rebuild_failed: Option<Error>,
    /// Why the view that was found on disk was set aside and is made anew, if it was.
    pub rebuilt_because: Option<String>,
}

/// What tells the rows of a view from any others: how many there are, and the sum of a hash of each, as of a checkpoint.
/// It counts the list of events that were set aside as well. Two stores with the same log and projection have the same
/// digest at the same checkpoint. It finds damage and folds that are not deterministic; it does not authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ViewDigest {
    /// The last event applied.
    pub checkpoint: Position,
    /// How many rows there are, with those about events that were set aside.
    pub rows: u64,
    /// The sum of their hashes.
    pub sum: u128,
}

impl ViewDigest {
    pub(crate) fn of(meta: &ViewMeta) -> Self {
        ViewDigest { checkpoint: meta.checkpoint, rows: meta.digest.rows, sum: meta.digest.sum }
    }
}

impl fmt::Display for ViewDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:032x}", self.checkpoint, self.rows, self.sum)
    }
}

#[derive(Debug)]
pub(crate) struct ViewState {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u32,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) checkpoint: Watermark,
    row_count: AtomicU64,
    /// None between the end of one set of rows and the start of the next, and after the store was closed.
    levels: RwLock<Option<Sets>>,
    /// What handles ask of the projector.
    pub(crate) inbox: Inbox,
    /// What folds the log once more.
    refold: Box<dyn Refold>,
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
        refold: Box<dyn Refold>,
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
            row_count: AtomicU64::new(0),
            levels: RwLock::default(),
            inbox: Inbox::default(),
            refold,
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

    /// The rows of the projection's own generation.
    pub(crate) fn own_rows(&self) -> Result<Arc<Version>, Error> {
        self.sets().map(|sets| sets.own.version())
    }

    fn sets(&self) -> Result<Sets, Error> {
        let sets = self.levels.read().unwrap_or_else(PoisonError::into_inner).clone();
        sets.ok_or_else(|| match self.state() {
            ProjectionState::Stopped { position, cause } => self.stopped(position, &cause),
            ProjectionState::Dropped => self.dropped(),
            _ if self.catalog.is_closed() => closed(),
            _ => Error::new(ErrorKind::View, format!("view {} is being set up anew; try again", self.name)),
        })
    }

    /// Makes the rows durable. Returns their checkpoint: others may be put in place meanwhile.
    pub(crate) fn make_durable(&self) -> Result<Position, Error> {
        self.sets()?.own.make_durable()
    }

    /// The rows that the log gives up to the checkpoint of others, with what those say was left out.
    pub(crate) fn refold(&self, rows: &Version) -> Result<Arc<Version>, Error> {
        self.refold.refold(rows)
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
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = sets;
        self.row_count.store(rows, Ordering::Release);
        self.checkpoint.reset(checkpoint);
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
        self.checkpoint.end();
    }

    /// The projector has written rows up to this checkpoint.
    pub(crate) fn advance(&self, checkpoint: Position, count: u64, set_aside: u64) {
        self.row_count.store(count, Ordering::Release);
        self.condition().set_aside = set_aside;
        self.checkpoint.advance(checkpoint);
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
            self.checkpoint.end();
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
        let condition = self.condition();
        let checkpoint = self.checkpoint.get();
        ViewStatus {
            name: self.name.to_string(),
            generation: self.generation,
            state: condition.state.clone(),
            checkpoint,
            durable,
            lag: self.catalog.watermark.get().get().saturating_sub(checkpoint.get()),
            rows: self.row_count(),
            digest,
            set_aside: condition.set_aside,
            serves: condition.serves,
            building: condition.building,
            rebuild_failed: condition.rebuild_failed.clone(),
            rebuilt_because: condition.rebuilt_because.clone(),
        }
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
    fn ended(&self) -> Error {
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
