//! The fold of one set of rows: which events it applies together, and what it does about those that fail.
//!
//! Each write holds the rows that some events changed and the checkpoint after them, so that whatever crashes, each event
//! has its effect exactly once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ViewBatch;
use super::chunks::Chunks;
use super::feed::Feed;
use super::opened::OpenedRows;
use super::pace::Pace;
use super::policy::{OnError, ProjectionOptions};
use super::runs::Runs;
use crate::error::{Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::log::catalog::Catalog;
use crate::view::levels::Levels;
use crate::view::meta::ViewMeta;
use crate::view::rows::Change;
use crate::view::set_aside::{Beside, Redriven, SetAside, listed};
use crate::view::state::ViewState;

/// So many changed rows are written together, at the most.
const ROWS_PER_WRITE: usize = 1 << 16;
/// So many bytes of events are applied together, at the most: rows being changed take memory.
const BYTES_PER_WRITE: usize = 16 << 20;
/// After so many events the time is looked at.
const EVENTS_PER_LOOK: u64 = 64;

/// The rows being written, and what they say of themselves.
pub(super) struct Current {
    pub(super) levels: Arc<Levels>,
    pub(super) meta: ViewMeta,
    beside: Beside,
}

impl Current {
    pub(super) fn new(levels: Levels, beside: Beside) -> Self {
        let meta = levels.version().meta().clone();
        Current { levels: Arc::new(levels), meta, beside }
    }

    /// How many rows the view has.
    pub(super) fn rows(&self) -> u64 {
        self.beside.rows(self.meta.digest)
    }

    fn place(&self) -> Applied {
        Applied { position: self.meta.checkpoint, fingerprint: self.meta.fingerprint, bytes: 0 }
    }

    fn publish(&mut self, changes: &[Change], meta: ViewMeta, beside: Beside) -> Result<(), Error> {
        self.levels.publish(changes, meta.clone())?;
        (self.meta, self.beside) = (meta, beside);
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

pub(super) struct Folding<R> {
    pub(super) current: Current,
    pub(super) trouble: Option<Trouble>,
    projection: Arc<R>,
    options: ProjectionOptions,
    catalog: Arc<Catalog>,
    chunks: Arc<Chunks>,
    feed: Option<Feed>,
    pace: Pace,
}

impl<R: Runs> Folding<R> {
    pub(super) fn new(
        projection: Arc<R>,
        options: ProjectionOptions,
        catalog: Arc<Catalog>,
        chunks: Arc<Chunks>,
        opened: OpenedRows,
    ) -> Self {
        let (current, pace) = (Current::new(opened.levels, opened.beside), Pace::default());
        Folding { current, trouble: None, projection, options, catalog, chunks, feed: None, pace }
    }

    pub(super) fn checkpoint(&self) -> Position {
        self.current.meta.checkpoint
    }

    /// Puts the rows in the place of those that are served.
    pub(super) fn serve(&self, state: &ViewState) {
        state.set_rows(self.current.levels.clone(), self.current.rows(), self.current.beside.listed);
    }

    /// Says how far the rows are, which are served.
    pub(super) fn advance(&self, state: &ViewState) {
        state.advance(self.checkpoint(), self.current.rows(), self.current.beside.listed);
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
        let mut batch = ViewBatch::new(self.current.levels.version());
        let mut at = self.current.place();
        let to = last.min(at.position.plus(self.pace.events()));
        let mut bytes = 0;
        while at.position < to && batch.changed() < ROWS_PER_WRITE && bytes < BYTES_PER_WRITE {
            match self.apply_next(at.position.next(), &mut batch) {
                Ok(applied) => (at, bytes) = (applied, bytes + applied.bytes),
                Err(Halt::View(error)) => return Err(Halt::View(error)),
                Err(halt) => {
                    // What the failed event changed is in the batch: fold once more, up to the event before.
                    drop(batch);
                    self.pace.shrink();
                    return if self.refold(at.position)? { Err(halt) } else { Ok(()) };
                }
            }
            let look = at.position.get().is_multiple_of(EVENTS_PER_LOOK);
            if look && started.elapsed() >= within {
                break;
            }
        }
        if self.write(batch, at)? {
            self.pace.grow();
        }
        Ok(())
    }

    /// Applies the events from the checkpoint up to a position, which were applied before, and writes. Returns whether
    /// they were written.
    fn refold(&mut self, to: Position) -> Result<bool, Halt> {
        if to == self.checkpoint() {
            return Ok(true);
        }
        let mut batch = ViewBatch::new(self.current.levels.version());
        let mut at = self.current.place();
        while at.position < to {
            at = self.apply_next(at.position.next(), &mut batch)?;
        }
        self.write(batch, at)
    }

    fn event(&mut self, position: Position) -> Result<RecordedEvent, Halt> {
        let feed = self
            .feed
            .get_or_insert_with(|| Feed::new(self.catalog.clone(), self.chunks.clone(), position.previous()));
        feed.event(position).map_err(|error| Halt::Log(position, error))
    }

    fn apply_next(
        &mut self,
        position: Position,
        batch: &mut ViewBatch<R::Key, R::Value>,
    ) -> Result<Applied, Halt> {
        let event = self.event(position)?;
        apply(&*self.projection, &event, batch)?;
        Ok(Applied { position, fingerprint: event.fingerprint(), bytes: event.record_len() })
    }

    /// Rows and checkpoint in one atomic write. Returns false when some event of several made a row that cannot be kept:
    /// fewer at a time find it.
    fn write(&mut self, batch: ViewBatch<R::Key, R::Value>, at: Applied) -> Result<bool, Halt> {
        let Applied { position: checkpoint, fingerprint, .. } = at;
        let written = batch.finish(self.current.meta.digest).and_then(|(changes, digest)| {
            let meta = ViewMeta { checkpoint, digest, fingerprint, ..self.current.meta.clone() };
            self.current.publish(&changes, meta, self.current.beside)
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
        if attempts <= self.options.retries {
            tracing::warn!(view = &*self.current.meta.name, %position, attempts, %cause, "an event is tried again");
            let now = Instant::now();
            let due = now.checked_add(self.options.pause_after(attempts)).unwrap_or(now);
            self.trouble = Some(Trouble { position, attempts, cause, due });
            return Ok(());
        }
        self.trouble = None;
        match self.options.on_error {
            OnError::Stop => Err(Halt::Event(position, cause)),
            OnError::SetAside if self.current.beside.listed >= self.options.most_set_aside => {
                let message = format!(
                    "{} events are set aside already: redrive them, or allow for more: {cause}",
                    self.current.beside.listed
                );
                Err(Halt::Event(position, Error::new(cause.kind(), message).because(cause)))
            }
            OnError::SetAside => self.set_aside(position, attempts, &cause),
        }
    }

    /// Goes on without an event.
    fn set_aside(&mut self, position: Position, attempts: u32, cause: &Error) -> Result<(), Halt> {
        tracing::warn!(view = &*self.current.meta.name, %position, %cause, "an event is set aside");
        let event = self.event(position)?;
        let (version, mut beside) = (self.current.levels.version(), self.current.beside);
        let mut digest = self.current.meta.digest;
        let aside = SetAside::new(&event, cause, attempts);
        let change = beside.list(&version, &aside, &mut digest).map_err(Halt::View)?;
        let fingerprint = event.fingerprint();
        let meta = ViewMeta { checkpoint: position, digest, fingerprint, ..self.current.meta.clone() };
        self.current.publish(&[change], meta, beside).map_err(Halt::View)
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
            Ok(event) => event,
            Err(halt) => return Ok(Err(halt.into_error())),
        };
        let version = self.current.levels.version();
        let mut batch = ViewBatch::new(version.clone());
        let outcome = match apply(&*self.projection, &event, &mut batch) {
            Ok(()) => self.write_redriven(batch, aside.position),
            Err(halt) => Err(halt),
        };
        let Err(Halt::Event(_, cause)) = outcome else { return outcome.map(Ok) };
        let again = SetAside::new(&event, &cause, aside.attempts.saturating_add(1));
        let (mut beside, mut meta) = (self.current.beside, self.current.meta.clone());
        let change = beside.list(&version, &again, &mut meta.digest).map_err(Halt::View)?;
        meta.turns = meta.turns.saturating_add(1);
        self.current.publish(&[change], meta, beside).map_err(Halt::View)?;
        Ok(Err(cause))
    }

    fn write_redriven(&mut self, batch: ViewBatch<R::Key, R::Value>, position: Position) -> Result<(), Halt> {
        let (mut beside, checkpoint) = (self.current.beside, self.checkpoint());
        let written = batch.finish(self.current.meta.digest).and_then(|(changes, mut digest)| {
            let version = self.current.levels.version();
            let redriven = beside.redriven(&version, Redriven { position, checkpoint }, &mut digest)?;
            let changes: Vec<Change> = redriven.into_iter().chain(changes).collect();
            let turns = self.current.meta.turns.saturating_add(1);
            let meta = ViewMeta { digest, turns, ..self.current.meta.clone() };
            self.current.publish(&changes, meta, beside)
        });
        written.map_err(|error| match is_of_a_row(&error) {
            true => Halt::Event(position, error),
            false => Halt::View(error),
        })
    }
}

/// A row too large or that does not serialise is the fold's fault, at some event of the batch.
pub(super) fn is_of_a_row(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooLarge { .. } | ErrorKind::Codec)
}

/// Applies one event; a panic is an error.
pub(super) fn apply<R: Runs>(
    projection: &R,
    event: &RecordedEvent,
    batch: &mut ViewBatch<R::Key, R::Value>,
) -> Result<(), Halt> {
    let position = event.position();
    let failed = |what: &str, why: &str| {
        let kind = ErrorKind::Stopped { position };
        let (event_type, stream) = (event.event_type(), event.stream());
        Error::new(kind, format!("apply {what} on {event_type:?} of stream {stream:?}: {why}"))
    };
    let applied = match catch_unwind(AssertUnwindSafe(|| projection.apply(event, batch))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed("failed", &error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(failed("panicked", text.as_deref().unwrap_or("with something that is not text")))
        }
    };
    // Also when `apply` made nothing of it: what it went on with were not the rows.
    match (applied, batch.failure()) {
        (_, Some(failure)) => Err(Halt::View(failure)),
        (Err(cause), None) => Err(Halt::Event(position, cause)),
        (Ok(()), None) => Ok(()),
    }
}
