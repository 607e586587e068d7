//! What a view's handles and its projector share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use super::feed::Feed;
use super::layout::Layout;
use super::levels::{Levels, Version};
use super::refold::Refolder;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::{Catalog, closed};
use crate::log::reader::Reader;
use crate::log::report::RebuiltView;
use crate::log::window::RANDOM;
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
    /// Will apply no more until it is registered again, usually by a program in which the cause is mended.
    Stopped {
        /// The event it could not apply.
        position: Position,
        /// Why.
        cause: Error,
    },
}

impl ProjectionState {
    /// The word used by the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            ProjectionState::NeverRun => "never run",
            ProjectionState::Rebuilding => "rebuilding",
            ProjectionState::Live => "live",
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
    /// How many events it is behind the log.
    pub lag: u64,
    /// How old the oldest event is that was not applied yet; zero when there is none, or it cannot be read.
    pub lag_time: Duration,
    /// How many rows the view has.
    pub rows: u64,
    /// Why the view that was found on disk was set aside and is made anew, if it was.
    pub rebuilt_because: Option<String>,
}

#[derive(Debug)]
pub(crate) struct ViewState {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u32,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) checkpoint: Watermark,
    /// The views and indexes there are.
    pub(crate) layout: Arc<Layout>,
    /// What the last events changed, for those who follow.
    pub(crate) feed: Feed,
    /// Folds the log once more for them; none after the store was closed.
    refolder: Mutex<Option<Arc<dyn Refolder>>>,
    row_count: AtomicU64,
    /// None between the end of one set of rows and the start of the next, and after the store was closed.
    levels: RwLock<Option<Arc<Levels>>>,
    condition: Mutex<Condition>,
    /// The store's list of all that were made anew.
    rebuilt: Arc<RebuiltViews>,
    /// What a reader found to be wrong with the rows, until the projector sees to it.
    damage: Mutex<Option<Error>>,
    /// The projector's thread, to be woken for that.
    projector: OnceLock<Thread>,
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
        ViewState {
            name,
            generation,
            catalog,
            checkpoint: Watermark::default(),
            layout,
            feed,
            refolder: Mutex::default(),
            row_count: AtomicU64::new(0),
            levels: RwLock::default(),
            condition: Mutex::new(Condition { state: ProjectionState::NeverRun, rebuilt_because: None }),
            rebuilt,
            damage: Mutex::default(),
            projector: OnceLock::new(),
        }
    }

    /// Rows to read, as of their checkpoint.
    pub(crate) fn rows(&self) -> Result<Arc<Version>, Error> {
        self.levels().map(|levels| levels.version())
    }

    fn levels(&self) -> Result<Arc<Levels>, Error> {
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner).clone();
        levels.ok_or_else(|| match self.state() {
            ProjectionState::Stopped { position, cause } => self.stopped(position, &cause),
            _ if self.catalog.is_closed() => closed(),
            _ => Error::new(ErrorKind::View, format!("view {} is being set up anew; try again", self.name)),
        })
    }

    /// Makes the rows durable. Returns their checkpoint: others may be put in place meanwhile.
    pub(crate) fn make_durable(&self) -> Result<Position, Error> {
        self.levels()?.make_durable()
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
    pub(crate) fn set_rows(&self, levels: Option<Arc<Levels>>, checkpoint: Position, count: u64) {
        drop(self.take_damage());
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = levels;
        self.row_count.store(count, Ordering::Release);
        self.checkpoint.reset(checkpoint);
        self.feed.restart(checkpoint);
    }

    pub(crate) fn set_refolder(&self, refolder: Arc<dyn Refolder>) {
        *self.refolder.lock().unwrap_or_else(PoisonError::into_inner) = Some(refolder);
    }

    pub(crate) fn refolder(&self) -> Option<Arc<dyn Refolder>> {
        self.refolder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store is closed: wakes whoever waits, and lets go of the rows.
    pub(crate) fn release(&self) {
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.refolder.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.checkpoint.end();
    }

    /// The projector has written rows up to this checkpoint.
    pub(crate) fn advance(&self, checkpoint: Position, count: u64) {
        self.row_count.store(count, Ordering::Release);
        self.checkpoint.advance(checkpoint);
    }

    pub(crate) fn row_count(&self) -> u64 {
        self.row_count.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> ProjectionState {
        self.condition().state.clone()
    }

    pub(crate) fn set_state(&self, state: ProjectionState) {
        let ends = matches!(state, ProjectionState::Stopped { .. });
        self.condition().state = state;
        if ends {
            self.checkpoint.end();
        }
    }

    pub(crate) fn set_rebuilt_because(&self, why: String) {
        self.rebuilt.add(RebuiltView::new(&self.name, self.generation, &why));
        self.condition().rebuilt_because = Some(why);
    }

    pub(crate) fn status(&self) -> ViewStatus {
        let checkpoint = self.checkpoint.get();
        let lag_time = self.lag_time(checkpoint);
        let condition = self.condition();
        ViewStatus {
            name: self.name.to_string(),
            generation: self.generation,
            state: condition.state.clone(),
            checkpoint,
            lag: self.catalog.watermark.get().get().saturating_sub(checkpoint.get()),
            lag_time,
            rows: self.row_count(),
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

    fn waited(&self, position: Position, waited: Waited) -> Result<(), Error> {
        match (waited, self.state()) {
            (Waited::Reached(_), _) => Ok(()),
            (_, ProjectionState::Stopped { position, cause }) => Err(self.stopped(position, &cause)),
            (Waited::Ended, _) => Err(self.catalog.end_reason()),
            (Waited::TimedOut, _) => {
                let at = self.checkpoint.get();
                let message =
                    format!("view {} has not reached position {position} yet; it is at {at}", self.name);
                Err(Error::new(ErrorKind::TimedOut, message))
            }
        }
    }

    fn stopped(&self, position: Position, cause: &Error) -> Error {
        let message = format!("projection {} stopped at position {position}: {cause}", self.name);
        Error::new(ErrorKind::Stopped { position }, message).because(cause.clone())
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
