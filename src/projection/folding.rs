//! The fold of one set of rows: which events it applies together, and what it does about those that fail.
//!
//! Each write holds the rows that some events changed and the checkpoint after them, so that whatever crashes, each event
//! has its effect exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::batch::{Finished, ViewBatch};
use super::chunks::Chunks;
use super::feed::Feed;
use super::opened::OpenedRows;
use super::pace::Pace;
use super::policy::{OnError, ProjectionOptions};
use super::runs::Runs;
use super::stretch::Pause;
use super::views::Views;
use crate::error::{Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::view::layout::{Layout, Part};
use crate::view::levels::{Levels, Writes};
use crate::view::meta::{Moment, Place, ViewMeta};
use crate::view::set_aside::{Redriven, SetAside, listed};
use crate::view::state::ViewState;

/// So many changed rows are written together, at the most.
const ROWS_PER_WRITE: usize = 1 << 20;
/// Rows being changed may take so many bytes, however few changed rows a view may have in memory.
const LEAST_BYTES_PER_WRITE: usize = 1 << 20;
/// After so many events it is looked at the time, and at whether somebody waits.
const EVENTS_PER_LOOK: u64 = 64;

/// The rows being written, and what they say of themselves.
pub(super) struct Current {
    pub(super) levels: Arc<Levels>,
    pub(super) meta: ViewMeta,
    /// How many rows the projection's own view has.
    pub(super) rows: u64,
}

impl Current {
    pub(super) fn new(levels: Levels, layout: &Layout) -> Result<Self, Error> {
        let version = levels.version();
        let rows = layout.counts(&version)?.of(Part::OWN);
        Ok(Current { levels: Arc::new(levels), meta: version.meta().clone(), rows })
    }

    fn place(&self) -> Applied {
        Applied { position: self.meta.checkpoint, fingerprint: self.meta.fingerprint, bytes: 0 }
    }

    pub(super) fn publish(&mut self, writes: Writes, meta: ViewMeta) -> Result<(), Error> {
        self.levels.publish(writes, meta.clone())?;
        self.meta = meta;
        Ok(())
    }
}

/// The last event applied.
#[derive(Clone, Copy)]
struct Applied {
    position: Position,
    fingerprint: u32,
    bytes: usize,
}

/// Why a fold does not go on with the next event.
#[derive(Debug)]
pub(super) enum Halt {
    /// `apply` failed on the event at this position, or what it made cannot be kept.
    Event(Position, Error),
    /// The log could not be read at this position.
    Log(Position, Error),
    /// The rows could not be read or written.
    View(Error),
}

impl Halt {
    pub(super) fn into_error(self) -> Error {
        match self {
            Halt::Event(_, error) | Halt::Log(_, error) | Halt::View(error) => error,
        }
    }
}

/// An event that failed and is tried again.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) position: Position,
    pub(super) attempts: u32,
    pub(super) cause: Error,
    due: Instant,
}

/// What there is to do next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    /// More events.
    More,
    /// Nothing until this time.
    Later(Instant),
    /// Nothing until there are more events.
    Idle,
}

/// A projection, and what it folds for.
pub(super) struct Fold<R: Runs> {
    pub(super) projection: Arc<R>,
    pub(super) views: Arc<Views<R::Key, R::Value>>,
    pub(super) options: ProjectionOptions,
    pub(super) state: Arc<ViewState>,
    /// The log as projections of the same store read it.
    pub(super) chunks: Arc<Chunks>,
    /// The projector is to end.
    pub(super) stop: Arc<AtomicBool>,
}

impl<R: Runs> Clone for Fold<R> {
    fn clone(&self) -> Self {
        Fold {
            projection: self.projection.clone(),
            views: self.views.clone(),
            options: self.options.clone(),
            state: self.state.clone(),
            chunks: self.chunks.clone(),
            stop: self.stop.clone(),
        }
    }
}

pub(super) struct Folding<R: Runs> {
    pub(super) current: Current,
    pub(super) trouble: Option<Trouble>,
    /// Whether the rows are served: those who follow them are told what changes.
    pub(super) is_served: bool,
    /// What handles were told of last.
    announced: Place,
    pub(super) fold: Fold<R>,
    feed: Option<Feed>,
    pace: Pace,
    /// How long nothing is folded in stretches.
    pub(super) pause: Pause,
}

impl<R: Runs> Folding<R> {
    pub(super) fn new(fold: Fold<R>, opened: OpenedRows) -> Result<Self, Error> {
        let current = Current::new(opened.levels, fold.views.layout())?;
        Ok(Folding {
            current,
            trouble: None,
            is_served: false,
            announced: Place::default(),
            fold,
            feed: None,
            pace: Pace::default(),
            pause: Pause::default(),
        })
    }

    pub(super) fn checkpoint(&self) -> Position {
        self.current.meta.checkpoint
    }

    pub(super) fn moment(&self) -> Moment {
        self.current.meta.moment()
    }

    /// Puts the rows in the place of those that are served.
    pub(super) fn serve(&mut self) {
        self.is_served = true;
        self.announced = self.current.meta.place();
        self.fold.state.set_rows(
            self.current.levels.clone(),
            self.current.rows,
            self.current.meta.beside.listed,
        );
    }

    /// Says how far the rows are, which are served, if they are further.
    pub(super) fn advance(&mut self) {
        let place = self.current.meta.place();
        if std::mem::replace(&mut self.announced, place) == place {
            return;
        }
        self.fold.state.reached(&self.current.meta);
        self.fold.state.advance(self.checkpoint(), self.current.rows, self.current.meta.beside.listed);
    }

    /// Applies some events up to a position, and writes what they changed.
    pub(super) fn turn(&mut self, last: Position, within: Duration) -> Result<Turn, Halt> {
        if let Some((attempts, due)) = self.trouble.as_ref().map(|trouble| (trouble.attempts, trouble.due)) {
            if due > Instant::now() {
                self.rest();
                return Ok(Turn::Later(due));
            }
            let next = self.checkpoint().next();
            match self.fold(next, Duration::MAX) {
                Err(Halt::Event(position, cause)) => {
                    self.failed(position, attempts.saturating_add(1), cause)?
                }
                folded => {
                    folded?;
                    self.trouble = None;
                }
            }
        } else if self.checkpoint() < last {
            if self.stretch(last)? {
                return Ok(Turn::More);
            }
            match self.fold(last, within) {
                Err(Halt::Event(position, cause)) => self.failed(position, 1, cause)?,
                folded => folded?,
            }
        } else {
            self.rest();
            return Ok(Turn::Idle);
        }
        Ok(Turn::More)
    }

    /// Reads nothing for a while: lets go of what is kept for reading.
    pub(super) fn rest(&mut self) {
        self.feed = None;
    }

    /// Folds what fits in one write. When an event fails, the events before it are written.
    fn fold(&mut self, last: Position, within: Duration) -> Result<(), Halt> {
        let started = Instant::now();
        let mut batch = self.batch();
        let mut at = self.current.place();
        let to = last.min(at.position.plus(self.pace.events()));
        let (mut bytes, most) = (0, self.current.levels.limit().max(LEAST_BYTES_PER_WRITE));
        while at.position < to && batch.changed() < ROWS_PER_WRITE && batch.size(bytes) < most {
            match self.apply_next(at.position.next(), &mut batch) {
                Ok(applied) => (at, bytes) = (applied, bytes + applied.bytes),
                Err(Halt::View(error)) => return Err(Halt::View(error)),
                Err(halt) => {
                    // What the failed event changed is in the batch: fold once more, up to the event before. Where it is
                    // not known which event failed, fewer at a time find it.
                    let is_known = !batch.is_torn();
                    drop(batch);
                    self.pace.shrink();
                    return if is_known && self.refold(at.position)? { Err(halt) } else { Ok(()) };
                }
            }
            let look = at.position.get().is_multiple_of(EVENTS_PER_LOOK);
            if look && (started.elapsed() >= within || self.is_waited_for()) {
                break;
            }
        }
        if self.write(batch, at)? {
            self.pace.grow();
        }
        Ok(())
    }

    /// Whether somebody waits for the end of the turn.
    fn is_waited_for(&self) -> bool {
        self.fold.stop.load(Ordering::Acquire) || !self.fold.state.inbox.is_empty()
    }

    /// Applies the events from the checkpoint up to a position, which were applied before, and writes. Returns whether
    /// they were written: one that fails this time is found by fewer at a time.
    fn refold(&mut self, to: Position) -> Result<bool, Halt> {
        if to == self.checkpoint() {
            return Ok(true);
        }
        let mut batch = self.batch();
        let mut at = self.current.place();
        while at.position < to {
            at = match self.apply_next(at.position.next(), &mut batch) {
                Err(Halt::Event(..)) => return Ok(false),
                applied => applied?,
            };
        }
        self.write(batch, at)
    }

    fn batch(&self) -> ViewBatch<R::Key, R::Value> {
        let told = self.is_served.then(|| self.fold.state.feed.begin(self.moment())).flatten();
        let batch = ViewBatch::new(self.current.levels.version(), &self.fold.views);
        batch.on_threads(self.fold.options.threads()).telling(told)
    }

    pub(super) fn event(&mut self, position: Position) -> Result<&RecordedEvent, Halt> {
        next_event(&mut self.feed, &self.fold, position)
    }

    fn apply_next(
        &mut self,
        position: Position,
        batch: &mut ViewBatch<R::Key, R::Value>,
    ) -> Result<Applied, Halt> {
        let event = next_event(&mut self.feed, &self.fold, position)?;
        apply(&*self.fold.projection, event, batch)?;
        batch.end_event(position);
        Ok(Applied { position, fingerprint: event.fingerprint(), bytes: event.record_len() })
    }

    /// Rows and checkpoint in one atomic write. Returns false when some event of several made a row that cannot be kept:
    /// fewer at a time find it.
    fn write(&mut self, batch: ViewBatch<R::Key, R::Value>, at: Applied) -> Result<bool, Halt> {
        let Applied { position: checkpoint, fingerprint, .. } = at;
        let written = batch.finish(self.current.meta.digest).and_then(|finished| {
            let Finished { writes, digest, rows, told } = finished;
            let meta = ViewMeta { checkpoint, digest, fingerprint, ..self.current.meta.clone() };
            self.current.publish(writes, meta)?;
            self.current.rows = rows;
            if self.is_served {
                self.fold.state.feed.publish(told, self.moment());
            }
            Ok(())
        });
        match written {
            Ok(()) => Ok(true),
            Err(error) if !is_of_a_row(&error) => Err(Halt::View(error)),
            Err(_) if checkpoint > self.checkpoint().next() => {
                self.pace.shrink();
                Ok(false)
            }
            Err(error) => Err(Halt::Event(checkpoint, error)),
        }
    }

    /// So many attempts to apply the event after the checkpoint have failed.
    fn failed(&mut self, position: Position, attempts: u32, cause: Error) -> Result<(), Halt> {
        if attempts <= self.fold.options.retries {
            tracing::warn!(view = &*self.current.meta.name, %position, attempts, %cause, "an event is tried again");
            let now = Instant::now();
            let due = now.checked_add(self.fold.options.pause_after(attempts)).unwrap_or(now);
            self.trouble = Some(Trouble { position, attempts, cause, due });
            return Ok(());
        }
        self.trouble = None;
        match self.fold.options.on_error {
            OnError::Stop => Err(Halt::Event(position, cause)),
            OnError::SetAside if self.current.meta.beside.listed >= self.fold.options.most_set_aside => {
                let message = format!(
                    "{} events are set aside already: redrive them, or allow for more: {cause}",
                    self.current.meta.beside.listed
                );
                Err(Halt::Event(position, Error::new(cause.kind(), message).because(cause)))
            }
            OnError::SetAside => self.set_aside(position, attempts, &cause),
        }
    }

    /// Goes on without an event.
    fn set_aside(&mut self, position: Position, attempts: u32, cause: &Error) -> Result<(), Halt> {
        tracing::warn!(view = &*self.current.meta.name, %position, %cause, "an event is set aside");
        let event = self.event(position)?.clone();
        let version = self.current.levels.version();
        let (mut beside, mut digest) = (self.current.meta.beside, self.current.meta.digest);
        let aside = SetAside::new(&event, cause, attempts);
        let change = beside.list(&version, &aside, &mut digest).map_err(Halt::View)?;
        let fingerprint = event.fingerprint();
        let meta =
            ViewMeta { checkpoint: position, digest, beside, fingerprint, ..self.current.meta.clone() };
        let (from, listed) = (self.moment(), Writes::of([change]).map_err(Halt::View)?);
        self.current.publish(listed, meta).map_err(Halt::View)?;
        self.pass(from)
    }

    /// What was written changed no row, and is told so: durably, since the log does not say it.
    fn pass(&self, from: Moment) -> Result<(), Halt> {
        if !self.is_served {
            return Ok(());
        }
        if self.fold.state.feed.is_followed() {
            self.current.levels.make_durable().map_err(Halt::View)?;
        }
        self.fold.state.feed.pass(from, self.moment());
        Ok(())
    }

    /// Applies an event that was set aside, or all of them; one that fails again stays set aside. Returns how many were
    /// applied. The outer error is the rows'.
    pub(super) fn redrive(&mut self, which: Option<Position>) -> Result<Result<u64, Error>, Halt> {
        let mut aside = listed(&self.current.levels.version()).map_err(Halt::View)?;
        if let Some(position) = which {
            aside.retain(|event| event.position == position);
            if aside.is_empty() {
                let message = format!("the event at position {position} is not set aside");
                return Ok(Err(Error::new(ErrorKind::NotFound, message)));
            }
        }
        let mut applied = 0;
        for event in aside {
            match self.redrive_one(&event)? {
                Ok(()) => applied += 1,
                Err(error) if which.is_some() => return Ok(Err(error)),
                Err(_) => {}
            }
        }
        self.rest();
        Ok(Ok(applied))
    }

    fn redrive_one(&mut self, aside: &SetAside) -> Result<Result<(), Error>, Halt> {
        let event = match self.event(aside.position) {
            Ok(event) => event.clone(),
            Err(halt) => return Ok(Err(halt.into_error())),
        };
        let version = self.current.levels.version();
        let mut batch = self.batch();
        let outcome = match apply(&*self.fold.projection, &event, &mut batch) {
            Ok(()) => self.write_redriven(batch, aside.position),
            Err(halt) => Err(halt),
        };
        let Err(Halt::Event(_, cause)) = outcome else { return outcome.map(Ok) };
        let again = SetAside::new(&event, &cause, aside.attempts.saturating_add(1));
        let (mut beside, mut meta) = (self.current.meta.beside, self.current.meta.clone());
        let change = beside.list(&version, &again, &mut meta.digest).map_err(Halt::View)?;
        (meta.turns, meta.beside) = (meta.turns.saturating_add(1), beside);
        let listed = Writes::of([change]).map_err(Halt::View)?;
        self.current.publish(listed, meta).map_err(Halt::View)?;
        self.pass(self.moment())?;
        Ok(Err(cause))
    }

    fn write_redriven(
        &mut self,
        mut batch: ViewBatch<R::Key, R::Value>,
        position: Position,
    ) -> Result<(), Halt> {
        batch.end_redriven(position);
        let (mut beside, checkpoint) = (self.current.meta.beside, self.checkpoint());
        let written = batch.finish(self.current.meta.digest).and_then(|finished| {
            let Finished { mut writes, mut digest, rows, told } = finished;
            let version = self.current.levels.version();
            writes.extend(beside.redriven(&version, Redriven { position, checkpoint }, &mut digest)?)?;
            let turns = self.current.meta.turns.saturating_add(1);
            let meta = ViewMeta { digest, turns, beside, ..self.current.meta.clone() };
            self.current.publish(writes, meta)?;
            self.current.rows = rows;
            if self.is_served {
                // The log does not say that it was redriven: who is told must not know more than is found after a crash.
                if self.fold.state.feed.is_followed() {
                    self.current.levels.make_durable()?;
                }
                self.fold.state.feed.publish(told, self.moment());
            }
            Ok(())
        });
        written.map_err(|error| match is_of_a_row(&error) {
            true => Halt::Event(position, error),
            false => Halt::View(error),
        })
    }
}

/// The event at a position, as a fold reads it.
fn next_event<'a, R: Runs>(
    feed: &'a mut Option<Feed>,
    fold: &Fold<R>,
    position: Position,
) -> Result<&'a RecordedEvent, Halt> {
    let begin = || Feed::new(fold.state.catalog.clone(), fold.chunks.clone(), position.previous());
    feed.get_or_insert_with(begin).event(position).map_err(|error| Halt::Log(position, error))
}

/// A row too large or that does not serialise is the fold's fault, at some event of the batch.
pub(super) fn is_of_a_row(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooLarge { .. } | ErrorKind::Codec | ErrorKind::Invalid)
}

/// Applies one event; a panic is an error.
pub(super) fn apply<R: Runs>(
    projection: &R,
    event: &RecordedEvent,
    batch: &mut ViewBatch<R::Key, R::Value>,
) -> Result<(), Halt> {
    let position = event.position();
    let applied = super::applying::apply(projection, event, batch);
    // Also when `apply` made nothing of it: what it went on with were not the rows.
    match (applied, batch.failure()) {
        (_, Some(failure)) => Err(Halt::View(failure)),
        (Err(cause), None) => Err(Halt::Event(position, cause)),
        (Ok(()), None) if batch.is_torn() => {
            Err(Halt::Event(position, Error::invalid("values that could not be merged were passed by")))
        }
        (Ok(()), None) => Ok(()),
    }
}
