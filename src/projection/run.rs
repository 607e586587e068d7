//! The thread of a projection: it follows the log, and is the only one who writes the view's rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::folding::{Current, Fold, Folding, Halt, Turn};
use super::opened::{OpenedRows, ViewHome};
use super::projector::Setting;
use super::runs::Runs;
use super::views::Views;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::view::control::{Asked, Request};
use crate::view::folder::{ViewFolder, ViewNote};
use crate::view::state::ViewState;
use crate::view::status::ProjectionState;
use crate::watermark::{TaskSlot, Waited};

/// Events are applied for so long before a write, if there are enough.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// The same while the rows are so far behind that nobody waits for the next of them: more that change the same row are
/// written once.
const WRITE_EVERY_BEHIND: Duration = Duration::from_secs(1);
/// The same while other rows are built beside those that are served, so that neither waits long for the other.
const WRITE_EVERY_BESIDE: Duration = Duration::from_millis(20);
/// How often a view is made anew while it gets no further.
const REBUILDS: u32 = 3;
/// So long rows that were built wait for those served, at the most.
const WAIT: Duration = Duration::from_secs(10);
/// How often the note beside the view is written while events are applied.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// How often the rows are made durable while events are applied: so a loss of power costs no more than that.
const DURABLE_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Run<R: Runs> {
    fold: Fold<R>,
    home: ViewHome,
    state: Arc<ViewState>,
    stop: Arc<AtomicBool>,
    /// The rows of this generation. `None` only while others are put in their place.
    own: Option<Folding<R>>,
    /// Whether they are served: not while an earlier generation is.
    serves_own: bool,
    /// The same generation, being built anew.
    next: Option<Next<R>>,
    paused: bool,
    /// It had caught up since it began with these rows.
    live: bool,
    last_note: Option<Instant>,
    /// When the rows were made durable last, and how far they were.
    last_durable: (Instant, Position),
    /// How often the view was made anew since it last got further than ever before.
    rebuilds: u32,
    /// How far it ever got.
    furthest: Position,
}

/// Rows being built beside those that are served.
struct Next<R: Runs> {
    home: ViewHome,
    folding: Folding<R>,
    /// Since when those served are waited for, to get to the same place.
    waits_since: Option<Instant>,
}

impl<R: Runs> Run<R> {
    /// Opens the rows, and serves them.
    pub(super) fn open(
        projection: Arc<R>,
        views: Arc<Views<R::Key, R::Value>>,
        setting: Setting,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let Setting { home, options, state, chunks } = setting;
        let opened = home.open(&state.catalog)?;
        let earlier = projection.serves_earlier().then(|| home.open_earlier(&state.catalog)).flatten();
        let mut run = Run {
            fold: Fold { projection, views, options, state: state.clone(), chunks, stop: stop.clone() },
            home,
            state,
            stop,
            own: None,
            serves_own: true,
            next: None,
            paused: false,
            live: false,
            last_note: None,
            last_durable: (Instant::now(), Position::START),
            rebuilds: 0,
            furthest: Position::START,
        };
        match earlier {
            Some((generation, earlier)) => run.serve_earlier(generation, earlier, opened)?,
            None => run.serve(opened)?,
        }
        Ok(run)
    }

    fn serve(&mut self, mut opened: OpenedRows) -> Result<(), Error> {
        if let Some(why) = opened.rebuilt_because.take() {
            self.state.set_rebuilt_because(why);
        }
        let mut own = Folding::new(self.fold.clone(), opened)?;
        own.serve();
        (self.serves_own, self.live) = (true, false);
        self.own = Some(own);
        Ok(())
    }

    fn serve_earlier(
        &mut self,
        generation: u32,
        earlier: OpenedRows,
        mut opened: OpenedRows,
    ) -> Result<(), Error> {
        if let Some(why) = opened.rebuilt_because.take() {
            self.state.set_rebuilt_because(why);
        }
        let earlier = Current::new(earlier.levels, self.fold.views.layout())?;
        let own = Folding::new(self.fold.clone(), opened)?;
        self.state.set_earlier(generation, earlier.levels, own.current.levels.clone(), earlier.rows);
        self.state.set_building(own.checkpoint());
        self.serves_own = false;
        self.own = Some(own);
        Ok(())
    }

    pub(super) fn follow(mut self) {
        let _ending = AtTheEnd(self.state.clone());
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut slot = TaskSlot::default();
        self.state.set_projector(thread::current());
        while !self.stop.load(Ordering::Acquire) {
            let turn =
                self.answer().and_then(|()| if self.paused { Ok(None) } else { self.turn().map(Some) });
            match turn {
                Ok(None) => thread::park(),
                Ok(Some(Turn::More)) => {}
                Ok(Some(turn)) => {
                    if !self.wait(turn, &mut slot, &mut Context::from_waker(&waker)) {
                        break;
                    }
                }
                Err(Halt::View(error)) => {
                    if !self.renew(error) {
                        return;
                    }
                }
                Err(Halt::Event(position, cause) | Halt::Log(position, cause)) => {
                    self.halt(position, cause);
                    break;
                }
            }
        }
        self.state.catalog.watermark.forget(&mut slot);
        self.finish();
    }

    /// Waits for more events, a request, the stop, or a time. Returns false when no events will come.
    fn wait(&self, turn: Turn, slot: &mut TaskSlot, cx: &mut Context<'_>) -> bool {
        let due = match turn {
            Turn::Later(due) => Some(due),
            _ => (self.checkpoint() > self.last_durable.1).then(|| self.last_durable.0 + DURABLE_EVERY),
        };
        if matches!(turn, Turn::Idle) {
            let next = self.checkpoint().next();
            match self.state.catalog.watermark.poll_wait(next, slot, cx) {
                Poll::Pending => {}
                Poll::Ready(Waited::Reached(_)) => return true,
                Poll::Ready(_) => return false,
            }
        }
        match due {
            None => thread::park(),
            Some(due) => thread::park_timeout(due.saturating_duration_since(Instant::now())),
        }
        true
    }

    fn checkpoint(&self) -> Position {
        self.own.as_ref().map_or(Position::START, Folding::checkpoint)
    }

    /// Applies some events, to the rows that are served and to those that are built beside them.
    fn turn(&mut self) -> Result<Turn, Halt> {
        if let Some(error) = self.state.take_damage() {
            if self.serves_own {
                return Err(Halt::View(error));
            }
            tracing::warn!(view = &*self.state.name, %error, "the rows of an earlier generation are served no more");
            self.switch_to_own();
        }
        let end = self.state.catalog.watermark.get();
        let last = self.state.awaited().map_or(end, |awaited| awaited.min(end));
        if self.checkpoint() < last && !self.live && !self.is_in_trouble() {
            self.enter(ProjectionState::Rebuilding);
        }
        let within = match (&self.next, self.live) {
            (Some(_), _) => WRITE_EVERY_BESIDE,
            (None, true) => WRITE_EVERY,
            (None, false) => WRITE_EVERY_BEHIND,
        };
        let own = self.own.as_mut().map_or(Ok(Turn::Idle), |own| own.turn(last, within));
        // Also when an event failed: those before it were applied.
        self.tell();
        let own = own?;
        self.show(own);
        let beside = self.turn_beside(end);
        self.make_durable()?;
        Ok(match (own, beside) {
            (Turn::More, _) | (_, Turn::More) => Turn::More,
            (Turn::Later(first), Turn::Later(second)) => Turn::Later(first.min(second)),
            (Turn::Later(due), _) | (_, Turn::Later(due)) => Turn::Later(due),
            (Turn::Idle, Turn::Idle) => Turn::Idle,
        })
    }

    fn is_in_trouble(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.trouble.is_some())
    }

    /// Says how far the rows are.
    fn tell(&mut self) {
        let Some(own) = &mut self.own else { return };
        let checkpoint = own.checkpoint();
        if checkpoint > self.furthest {
            (self.furthest, self.rebuilds) = (checkpoint, 0);
        }
        match self.serves_own {
            true => own.advance(),
            false => self.state.set_building(checkpoint),
        }
    }

    /// Says what the projection is doing after a turn.
    fn show(&mut self, turn: Turn) {
        if let Some(trouble) = self.own.as_ref().and_then(|own| own.trouble.clone()) {
            let (position, attempts, cause) = (trouble.position, trouble.attempts, trouble.cause);
            return self.enter(ProjectionState::Retrying { position, attempts, cause });
        }
        if !matches!(turn, Turn::Idle) {
            if self.live {
                self.enter(ProjectionState::Live);
            }
            return self.note_progress();
        }
        if !self.serves_own {
            self.switch_to_own();
        }
        let first = !std::mem::replace(&mut self.live, true);
        self.enter(ProjectionState::Live);
        if first {
            self.tidy("earlier generations", ViewFolder::remove_earlier);
        }
    }

    /// The rows of this generation take the place of those of an earlier one.
    fn switch_to_own(&mut self) {
        if let Some(own) = &mut self.own {
            own.serve();
        }
        self.serves_own = true;
        self.state.set_built(None);
    }

    /// Applies some events to rows that are built beside; puts them in place when they have caught up.
    fn turn_beside(&mut self, last: Position) -> Turn {
        let Some(mut next) = self.next.take() else { return Turn::Idle };
        match next.folding.turn(last, WRITE_EVERY_BESIDE) {
            Ok(Turn::Idle) if self.can_catch_up_with(&next) => {
                next.waits_since.get_or_insert_with(Instant::now);
                self.next = Some(next);
            }
            Ok(Turn::Idle) => self.switch_to(next),
            Ok(turn) => {
                self.state.set_building(next.folding.checkpoint());
                self.note_progress();
                self.next = Some(next);
                return turn;
            }
            Err(halt) => self.give_up(next, halt.into_error()),
        }
        Turn::More
    }

    /// Whether who follows the view can go on when those served have come to the same place, which they can for now.
    fn can_catch_up_with(&self, next: &Next<R>) -> bool {
        let is_behind = self.checkpoint() < next.folding.checkpoint();
        let is_early = next.waits_since.is_none_or(|since| since.elapsed() < WAIT);
        is_behind && is_early && self.state.feed.is_followed() && !self.is_in_trouble()
    }

    /// Rows that were built beside take the place of those that are served: in one step on disk, then in memory.
    fn switch_to(&mut self, next: Next<R>) {
        let durable = next.folding.current.levels.make_durable().map(drop);
        let marked =
            durable.and_then(|()| next.home.folder.as_ref().map_or(Ok(()), ViewFolder::mark_serving));
        if let Err(error) = marked {
            return self.give_up(next, error);
        }
        let Next { home, mut folding, .. } = next;
        folding.serve();
        self.home = home;
        self.last_durable = (Instant::now(), folding.checkpoint());
        drop(self.own.replace(folding));
        self.state.set_built(None);
        self.tidy("the rows before", ViewFolder::remove_others);
        self.write_note(false);
    }

    fn give_up(&mut self, next: Next<R>, error: Error) {
        tracing::error!(view = &*self.state.name, %error, "rows that were being built are given up");
        let Next { home, folding, .. } = next;
        drop(folding);
        self.state.set_built(Some(error));
        if let Some(Err(error)) = home.folder.as_ref().map(ViewFolder::remove) {
            tracing::warn!(view = &*self.state.name, %error, "could not remove rows that were given up");
        }
    }

    /// Does what handles have asked for.
    fn answer(&mut self) -> Result<(), Halt> {
        while let Some(asked) = self.state.inbox.take() {
            match asked.request {
                Request::Pause => {
                    self.paused = true;
                    self.own.iter_mut().for_each(Folding::rest);
                    self.enter(ProjectionState::Paused);
                    asked.answer(Ok(0));
                }
                Request::Resume => {
                    if std::mem::take(&mut self.paused) {
                        self.enter(if self.live {
                            ProjectionState::Live
                        } else {
                            ProjectionState::Rebuilding
                        });
                    }
                    asked.answer(Ok(0));
                }
                Request::Rebuild => {
                    let begun = self.begin_beside();
                    asked.answer(begun.map(|()| 0));
                }
                Request::Redrive(which) => self.redrive(which, asked)?,
            }
        }
        Ok(())
    }

    fn begin_beside(&mut self) -> Result<(), Error> {
        if self.next.is_some() || !self.serves_own {
            return Ok(());
        }
        let (home, opened) = self.home.beside(&self.state.catalog)?;
        let folding = Folding::new(self.fold.clone(), opened)?;
        self.state.set_built(None);
        self.state.set_building(folding.checkpoint());
        self.next = Some(Next { home, folding, waits_since: None });
        Ok(())
    }

    fn redrive(&mut self, which: Option<Position>, asked: Asked) -> Result<(), Halt> {
        let Some(own) = &mut self.own else { return Ok(()) };
        match own.redrive(which) {
            Ok(reply) => {
                self.tell();
                // Whatever it was that is not durable now.
                self.last_durable.1 = Position::START;
                asked.answer(reply);
                Ok(())
            }
            Err(halt) => {
                let error = halt.into_error();
                asked.answer(Err(error.clone()));
                Err(Halt::View(error))
            }
        }
    }

    /// Makes the rows durable from time to time.
    fn make_durable(&mut self) -> Result<(), Halt> {
        let (at, checkpoint) = self.last_durable;
        match &self.own {
            Some(own) if own.checkpoint() > checkpoint && at.elapsed() >= DURABLE_EVERY => {
                let durable = own.current.levels.make_durable().map_err(Halt::View)?;
                self.last_durable = (Instant::now(), durable);
            }
            _ => {}
        }
        Ok(())
    }

    /// After the rows failed: sets the view aside and starts anew, if that can help. Returns false when stopped.
    fn renew(&mut self, error: Error) -> bool {
        let next = self.checkpoint().next();
        self.state.take_rows();
        if let Some(next) = self.next.take() {
            self.give_up(next, error.clone());
        }
        drop(self.own.take());
        if error.kind() != ErrorKind::View || self.rebuilds >= REBUILDS {
            self.halt(next, error);
            return false;
        }
        self.rebuilds += 1;
        if !self.serves_own {
            self.state.set_built(None);
        }
        self.last_durable = (Instant::now(), Position::START);
        let renewed = self.home.renew(&self.state.catalog, &error.to_string());
        match renewed.and_then(|opened| self.serve(opened)) {
            Ok(()) => true,
            Err(error) => {
                self.halt(next, error);
                false
            }
        }
    }

    fn halt(&mut self, position: Position, cause: Error) {
        tracing::error!(view = &*self.state.name, %position, %cause, "a projection stopped");
        self.enter(ProjectionState::Stopped { position, cause });
    }

    /// Is in this state from now on, and notes it if it was not before.
    fn enter(&mut self, state: ProjectionState) {
        let before = self.state.state();
        let same = match (&before, &state) {
            (
                ProjectionState::Retrying { position: at, attempts: after, .. },
                ProjectionState::Retrying { position, attempts, .. },
            ) => (at, after) == (position, attempts),
            _ => before.name() == state.name(),
        };
        if same {
            return self.note_progress();
        }
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

    fn tidy(&self, what: &str, remove: fn(&ViewFolder) -> Result<(), Error>) {
        if let Some(Err(error)) = self.home.folder.as_ref().map(remove) {
            tracing::warn!(view = &*self.state.name, %error, what, "could not remove what a view needs no more");
        }
    }

    /// The store closes, or the projection stopped: what was written is made durable.
    fn finish(mut self) {
        if let Some(Next { home, folding, .. }) = self.next.take() {
            drop(folding);
            if let Some(Err(error)) = home.folder.as_ref().map(ViewFolder::remove) {
                tracing::warn!(view = &*self.state.name, %error, "could not remove rows that are not finished");
            }
        }
        if let Some(Err(error)) = self.own.as_ref().map(|own| own.current.levels.make_durable()) {
            tracing::warn!(view = &*self.state.name, %error, "could not make a view durable; it will be rebuilt");
        }
        if self.stop.load(Ordering::Acquire) {
            self.write_note(true);
        }
    }
}

/// Nobody waits for a projector whose thread has ended, however it did.
struct AtTheEnd(Arc<ViewState>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.0.end();
        self.0.inbox.close();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
