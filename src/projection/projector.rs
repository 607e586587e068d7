//! The background runner of one projection: a thread that follows the log and writes the view.
//!
//! It is the only one who writes the view's rows. Each write holds the rows that some events changed and the
//! checkpoint after them, so that whatever crashes, each event has its effect exactly once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::Projection;
use super::applying::apply;
use super::batch::{Finished, ViewBatch};
use super::opened::{OpenedRows, ViewHome};
use super::refold::Source;
use super::views::Views;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::cursor::Cursor;
use crate::view::folder::ViewNote;
use crate::view::layout::Part;
use crate::view::levels::Levels;
use crate::view::meta::ViewMeta;
use crate::view::state::{ProjectionState, ViewState};
use crate::watermark::{TaskSlot, Waited};

/// So many changed rows are written together: sled leaks memory with larger batches.
const ROWS_PER_WRITE: usize = 250;
/// So many events are applied before a write, however few rows they change.
const EVENTS_PER_WRITE: u64 = 20_000;
/// How often a view is made anew while it gets no further.
const REBUILDS: u32 = 3;
/// How often the note beside the view is written while events are applied.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// What a projector is started with.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) home: ViewHome,
    pub(crate) state: Arc<ViewState>,
}

/// A running projection, seen from the store.
#[derive(Debug)]
pub(crate) struct Projector {
    state: Arc<ViewState>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the rows are on disk.
    keeps_rows: bool,
    from_log_start: bool,
}

impl Projector {
    /// Opens the view and starts the thread. The view can be read from then on, as of its checkpoint.
    pub(crate) fn start<P: Projection>(
        projection: P,
        views: Arc<Views<P::Key, P::Value>>,
        setting: Setting,
    ) -> Result<Self, Error> {
        let Setting { home, state } = setting;
        let projection = Arc::new(projection);
        let stop = Arc::new(AtomicBool::new(false));
        let opened = home.open(&state.catalog)?;
        let catalog = state.catalog.clone();
        state.set_refolder(Arc::new(Source {
            projection: projection.clone(),
            views: views.clone(),
            catalog,
        }));
        let mut run = Run {
            projection,
            views,
            home,
            state: state.clone(),
            stop: stop.clone(),
            last_note: None,
            rebuilds: 0,
            furthest: Position::START,
        };
        let (keeps_rows, current) = (run.home.folder.is_some(), run.serve(opened));
        let thread = std::thread::Builder::new()
            .name(format!("everfold-{}", P::NAME))
            .spawn(move || run.follow(current))
            .map_err(|e| Error::io("start a projector's thread", e))?;
        let (thread, from_log_start) = (Mutex::new(Some(thread)), P::FROM_LOG_START);
        Ok(Projector { state, stop, thread, keeps_rows, from_log_start })
    }

    pub(crate) fn state(&self) -> &Arc<ViewState> {
        &self.state
    }

    /// Whether it gave up.
    pub(crate) fn has_stopped(&self) -> bool {
        matches!(self.state.state(), ProjectionState::Stopped { .. })
    }

    /// The checkpoint that the view goes on from after a loss of power, whatever happens: it is made durable. A view in
    /// memory starts anew, from the log's start unless it may do without.
    pub(crate) fn durable_checkpoint(&self) -> Position {
        match (self.keeps_rows, self.from_log_start) {
            (true, _) => self.state.make_durable().unwrap_or_else(|error| {
                tracing::warn!(view = &*self.state.name, %error, "a view is not known to be durable");
                Position::START
            }),
            (false, true) => self.state.checkpoint.get(),
            (false, false) => Position::START,
        }
    }

    /// Takes the rows away, so that nobody reads them after the store was closed.
    pub(crate) fn release(&self) {
        self.state.release();
    }

    /// Ends the thread after the write it is at, and makes the view durable.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            // An `apply` that closes the store cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!(view = &*self.state.name, "the projector's thread had panicked");
            }
        }
    }
}

/// The rows being written, and what they say of themselves.
struct Current {
    levels: Arc<Levels>,
    meta: ViewMeta,
}

impl Current {
    fn place(&self) -> Applied {
        Applied { position: self.meta.checkpoint, fingerprint: self.meta.fingerprint }
    }
}

/// The last event applied.
#[derive(Clone, Copy)]
struct Applied {
    position: Position,
    fingerprint: u32,
}

/// Why the projector does not go on with the next event.
enum Halt {
    /// `apply` failed on the event at this position.
    Event(Position, Error),
    /// The log could not be read at this position.
    Log(Position, Error),
    /// The rows could not be read or written.
    View(Error),
}

struct Run<P: Projection> {
    projection: Arc<P>,
    views: Arc<Views<P::Key, P::Value>>,
    home: ViewHome,
    state: Arc<ViewState>,
    stop: Arc<AtomicBool>,
    last_note: Option<Instant>,
    /// How often the view was made anew since it last got further than ever before.
    rebuilds: u32,
    /// How far it ever got.
    furthest: Position,
}

impl<P: Projection> Run<P> {
    fn serve(&mut self, opened: OpenedRows) -> Current {
        let OpenedRows { levels, rebuilt_because } = opened;
        let meta = levels.version().meta().clone();
        let levels = Arc::new(levels);
        if let Some(why) = rebuilt_because {
            self.state.set_rebuilt_because(why);
        }
        let counts = self.state.layout.counts(&levels.version());
        let rows = counts.map_or(0, |counts| counts.of(Part::OWN));
        self.state.set_rows(Some(levels.clone()), meta.checkpoint, rows);
        Current { levels, meta }
    }

    fn follow(mut self, mut current: Current) {
        let _waiters = WakeAtTheEnd(self.state.clone());
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        self.state.set_projector(std::thread::current());
        let (mut live, mut slot) = (false, TaskSlot::default());
        while !self.stop.load(Ordering::Acquire) {
            if let Some(error) = self.state.take_damage() {
                match self.renew(current, error) {
                    Some(renewed) => (current, live) = (renewed, false),
                    None => return,
                }
            }
            let last = self.state.catalog.watermark.get();
            if current.meta.checkpoint < last {
                if !live {
                    self.enter(ProjectionState::Rebuilding);
                }
                match self.catch_up(&mut current, last) {
                    Ok(()) => {}
                    Err(Halt::View(error)) => match self.renew(current, error) {
                        Some(renewed) => (current, live) = (renewed, false),
                        None => return,
                    },
                    Err(Halt::Event(position, cause) | Halt::Log(position, cause)) => {
                        self.halt(position, cause);
                        break;
                    }
                }
                continue;
            }
            if !live {
                live = true;
                self.enter(ProjectionState::Live);
                self.drop_earlier_generations();
            }
            let next = current.meta.checkpoint.next();
            match self.state.catalog.watermark.poll_wait(next, &mut slot, &mut Context::from_waker(&waker)) {
                Poll::Pending => std::thread::park(),
                Poll::Ready(Waited::Reached(_)) => {}
                Poll::Ready(_) => break,
            }
        }
        self.state.catalog.watermark.forget(&mut slot);
        self.finish(&current);
    }

    /// Applies events up to a position, and writes what they changed.
    fn catch_up(&mut self, current: &mut Current, last: Position) -> Result<(), Halt> {
        let mut cursor = self.cursor(current);
        let mut events_per_write = EVENTS_PER_WRITE;
        while current.meta.checkpoint < last && !self.stop.load(Ordering::Acquire) {
            let mut batch = self.batch(current);
            let mut at = current.place();
            let to = last.min(at.position.plus(events_per_write));
            let mut failed = None;
            while failed.is_none() && at.position < to && batch.changed() < ROWS_PER_WRITE {
                match self.apply_next(&mut cursor, at.position.next(), &mut batch) {
                    Ok(applied) => at = applied,
                    Err(halt) => failed = Some(halt),
                }
            }
            let written = match &failed {
                None => self.write(current, batch, at),
                Some(_) => {
                    // What the failed event changed is in the batch: fold once more, up to the event before.
                    drop(batch);
                    self.refold(current, at.position)
                }
            };
            match written {
                // Some event of several made a row that cannot be kept: find it.
                Err(Halt::Event(..)) if at.position > current.meta.checkpoint.next() => {
                    events_per_write = 1;
                    cursor = self.cursor(current);
                }
                written => written.and(failed.map_or(Ok(()), Err))?,
            }
            self.note_progress();
        }
        Ok(())
    }

    fn batch(&self, current: &Current) -> ViewBatch<P::Key, P::Value> {
        let told = self.state.feed.begin(current.meta.checkpoint);
        ViewBatch::new(current.levels.version(), &self.views).telling(told)
    }

    fn cursor(&self, current: &Current) -> Cursor {
        Cursor::forward(self.state.catalog.clone(), current.meta.checkpoint)
    }

    /// Applies the events from the checkpoint up to a position, which were applied before, and writes.
    fn refold(&mut self, current: &mut Current, to: Position) -> Result<(), Halt> {
        if to == current.meta.checkpoint {
            return Ok(());
        }
        let mut cursor = self.cursor(current);
        let mut batch = self.batch(current);
        let mut at = current.place();
        while at.position < to {
            at = self.apply_next(&mut cursor, at.position.next(), &mut batch)?;
        }
        self.write(current, batch, at)
    }

    fn apply_next(
        &self,
        cursor: &mut Cursor,
        position: Position,
        batch: &mut ViewBatch<P::Key, P::Value>,
    ) -> Result<Applied, Halt> {
        let event = match cursor.next() {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(Halt::Log(position, error)),
            None => {
                let error =
                    Error::new(ErrorKind::Io, format!("the log gave no event at position {position}"));
                return Err(Halt::Log(position, error));
            }
        };
        let applied = apply(&*self.projection, &event, batch);
        // Also when `apply` made nothing of it: what it went on with were not the rows.
        match (applied, batch.failure()) {
            (_, Some(failure)) => Err(Halt::View(failure)),
            (Err(cause), None) => Err(Halt::Event(position, cause)),
            (Ok(()), None) => {
                batch.end_event(position);
                Ok(Applied { position, fingerprint: event.fingerprint() })
            }
        }
    }

    /// Rows and checkpoint in one atomic write.
    fn write(
        &mut self,
        current: &mut Current,
        batch: ViewBatch<P::Key, P::Value>,
        at: Applied,
    ) -> Result<(), Halt> {
        let Applied { position: checkpoint, fingerprint } = at;
        let fail = |error: Error| match error.kind() {
            // A row too large or that does not serialise is the fold's fault, at some event of the batch.
            ErrorKind::TooLarge { .. } | ErrorKind::Codec | ErrorKind::Invalid => {
                Halt::Event(checkpoint, error)
            }
            _ => Halt::View(error),
        };
        let Finished { changes, digest, rows, told } = batch.finish(current.meta.digest).map_err(fail)?;
        let meta = ViewMeta { checkpoint, digest, fingerprint, ..current.meta.clone() };
        current.levels.publish(&changes, meta.clone()).map_err(fail)?;
        current.meta = meta;
        if checkpoint > self.furthest {
            (self.furthest, self.rebuilds) = (checkpoint, 0);
        }
        self.state.feed.publish(told, checkpoint);
        self.state.advance(checkpoint, rows);
        Ok(())
    }

    /// After the rows failed: sets the view aside and starts anew, if that can help; `None` when stopped.
    fn renew(&mut self, current: Current, error: Error) -> Option<Current> {
        let Current { levels, meta } = current;
        let next = meta.checkpoint.next();
        self.state.set_rows(None, Position::START, 0);
        drop(levels);
        if error.kind() != ErrorKind::View || self.rebuilds >= REBUILDS {
            self.halt(next, error);
            return None;
        }
        self.rebuilds += 1;
        let why = error.to_string();
        let renewed = self.home.renew(&self.state.catalog, &why);
        match renewed {
            Ok(opened) => Some(self.serve(opened)),
            Err(error) => {
                self.halt(next, error);
                None
            }
        }
    }

    fn halt(&mut self, position: Position, cause: Error) {
        tracing::error!(view = &*self.state.name, %position, %cause, "a projection stopped");
        self.enter(ProjectionState::Stopped { position, cause });
    }

    fn enter(&mut self, state: ProjectionState) {
        self.state.set_state(state);
        self.write_note(false);
    }

    fn note_progress(&mut self) {
        if self.last_note.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
            self.write_note(false);
        }
    }

    fn write_note(&mut self, closed: bool) {
        self.last_note = Some(Instant::now());
        if let Some(folder) = &self.home.folder
            && let Err(error) = folder.write_note(&ViewNote::new(&self.state.status(), closed))
        {
            tracing::warn!(view = &*self.state.name, %error, "could not write the note about a view");
        }
    }

    fn drop_earlier_generations(&self) {
        if let Some(folder) = &self.home.folder
            && let Err(error) = folder.remove_earlier()
        {
            tracing::warn!(view = &*self.state.name, %error, "could not remove earlier generations of a view");
        }
    }

    /// The store closes, or the projection stopped: what was written is made durable.
    fn finish(mut self, current: &Current) {
        if let Err(error) = current.levels.make_durable() {
            tracing::warn!(view = &*self.state.name, %error, "could not make a view durable; it will be rebuilt");
        }
        if self.stop.load(Ordering::Acquire) {
            self.write_note(true);
        }
    }
}

/// Nobody waits for a projector whose thread has ended, however it did.
struct WakeAtTheEnd(Arc<ViewState>);

impl Drop for WakeAtTheEnd {
    fn drop(&mut self) {
        self.0.checkpoint.end();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
