//! What becomes of the rows of a view, change by change: first from the log, then as the projector goes on, without a gap.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use serde::de::DeserializeOwned;

use super::feed::{EventChanges, RowChange, Taken};
use super::key::{self, Key};
use super::layout::Part;
use super::levels::Version;
use super::meta::Moment;
use super::refold::Refold;
use super::set_aside::redriven_before;
use super::state::ViewState;
use super::succession::Succession;
use super::value;
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::watermark::TaskSlot;

/// How many events are folded before a task lets others have its thread.
const STEPS_PER_POLL: u32 = 256;

/// What one event made of one row of a view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Change<K, V> {
    /// The row's key.
    pub key: K,
    /// Its value before the event; none when there was no row.
    pub old: Option<V>,
    /// Its value after the event; none when the row was removed.
    pub new: Option<V>,
    /// The event. One that was set aside and [redriven](crate::View::redrive) is not in its turn: its position is lower than
    /// that of changes before.
    pub position: Position,
}

/// An endless iterator over the changes of a view, in the order of the events that made them: one for each row that an event
/// has left with another value than it found. [`View::changes`](crate::View::changes) and
/// [`View::follow`](crate::View::follow) make it. It sleeps while there are none.
///
/// A change is given once it can be read in the view. What an event that was set aside changes is given when it is
/// [redriven](crate::View::redrive). While the view is made anew, nothing is given twice and nothing is left out. If it comes to
/// other rows than before, by another generation or because events that failed no longer do, the error is
/// [`Replaced`](crate::ErrorKind::Replaced): begin again with `follow`. Who goes on from a position that was kept cannot be told
/// of that: keep the view's [`digest`](crate::View::digest) or generation with it where that matters.
///
/// Recent changes are kept in memory, within
/// [`change_buffer_bytes`](crate::Options::change_buffer_bytes), from when somebody begins to follow. Earlier ones are found by
/// folding the log once more, in memory: from the position where the view is, or else from the log's start, which takes
/// memory for all rows, and is [`Truncated`](crate::ErrorKind::Truncated) when retention has removed that.
///
/// The projector never waits for who follows. Who is so slow that what comes next is not kept any more gets the error
/// [`Lagged`](crate::ErrorKind::Lagged), and goes on with `changes(from)`.
///
/// It ends when the store is closed, after what is kept in memory of what was applied then; and after it has given an
/// error: that of an event that cannot be read, [`Stopped`](crate::ErrorKind::Stopped) when the projection has stopped
/// or cannot apply an event of the log once more, or [`Poisoned`](crate::ErrorKind::Poisoned) when no more events will
/// come. [`into_stream`](Changes::into_stream) is its form for async code.
///
/// ```
/// use std::time::Duration;
/// # use everfold::{ApplyError, Event, Expected, MemoryStorage, Options, Projection, RecordedEvent, ViewBatch};
/// # struct Counts;
/// # impl Projection for Counts {
/// #     const NAME: &'static str = "counts";
/// #     const GENERATION: u32 = 1;
/// #     type Key = String;
/// #     type Value = u64;
/// #     fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
/// #         view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Options::new().open_memory(&MemoryStorage::new())?;
/// # let counts = store.project(Counts)?;
/// let first = store.append("hats", Expected::Any, [Event::raw("sold", "")])?.position;
/// store.append("hats", Expected::Any, [Event::raw("sold", "")])?;
///
/// let mut changes = counts.changes(first);
/// let change = changes.next().expect("the store is open")?;
/// assert_eq!((change.key.as_str(), change.old, change.new), ("hats", Some(1), Some(2)));
/// assert!(changes.next_timeout(Duration::from_millis(1)).is_none());
/// assert_eq!(changes.checkpoint(), change.position);
/// # Ok(()) }
/// ```
#[must_use = "changes do nothing until they are iterated"]
pub struct Changes<K, V> {
    state: Arc<ViewState>,
    part: Part,
    /// All up to here was given, or is at hand.
    seen: Moment,
    /// Events in their turn up to here are passed by.
    after: Position,
    /// Tells the rows from others.
    set: u64,
    at_hand: Option<AtHand>,
    source: Source,
    ended: bool,
    types: PhantomData<fn() -> (K, V)>,
}

struct AtHand {
    event: Arc<EventChanges>,
    next: usize,
}

enum Source {
    /// Of recent changes, what comes next is there.
    Live,
    /// The log is folded until it is.
    CatchingUp { base: Option<Arc<Version>>, fold: Option<Box<dyn Refold>> },
}

/// What there is to do next.
enum Step {
    Row(Position, RowChange),
    Failed(Error),
    /// Something was done; there may be more.
    Again,
    /// Nothing until so much has become of the rows.
    Wait(Position),
    Ended,
}

impl<K, V> Changes<K, V> {
    pub(super) fn after(state: Arc<ViewState>, part: Part, after: Position) -> Self {
        state.feed.join();
        let Ok((version, set, _)) = state.followed_rows() else {
            let (seen, set) = (Moment { checkpoint: after, redriven: 0 }, state.feed.set().0);
            return Self::starting(state, part, after, (seen, set), None);
        };
        // What keeps it from being made durable, the projector meets, too.
        drop(state.make_known(&version));
        let redriven = redriven_before(&version, after).map_err(|error| state.met(error));
        let seen = Moment { checkpoint: after, redriven: redriven.unwrap_or_default() };
        // Where the view is not there yet, what is redriven on the way is new.
        let seen = seen.min(version.meta().moment());
        let is_own = version.meta().generation == state.generation;
        let base = (is_own && version.meta().moment() <= seen).then_some(version);
        Self::starting(state, part, after, (seen, set), base)
    }

    /// Those after the rows there are now.
    pub(super) fn from_now(state: Arc<ViewState>, part: Part) -> Result<(Arc<Version>, Self), Error> {
        state.feed.join();
        let followed = state.followed_rows();
        match followed.and_then(|followed| state.make_known(&followed.0).map(|()| followed)) {
            Ok((version, set, _)) => {
                let seen = version.meta().moment();
                let changes =
                    Self::starting(state, part, seen.checkpoint, (seen, set), Some(version.clone()));
                Ok((version, changes))
            }
            Err(error) => {
                state.feed.leave();
                Err(error)
            }
        }
    }

    fn starting(
        state: Arc<ViewState>,
        part: Part,
        after: Position,
        (seen, set): (Moment, u64),
        base: Option<Arc<Version>>,
    ) -> Self {
        let source = match state.feed.reaches_back_to(seen) {
            true => Source::Live,
            false => Source::CatchingUp { base, fold: None },
        };
        Changes { state, part, seen, after, set, at_hand: None, source, ended: false, types: PhantomData }
    }

    /// The position to go on after with [`changes`](crate::View::changes): all that became of the rows up to it was given. Keep
    /// it with what is made of the changes, and nothing is missed, whatever crashes. Between two changes of one event it is
    /// that before the event, which is then given whole. Besides that, nothing is repeated but what was
    /// [redriven](crate::View::redrive) while the view was at this very position: it is given again, with the same values.
    #[must_use]
    pub fn checkpoint(&self) -> Position {
        let seen = self.seen.checkpoint.max(self.after);
        let Some(AtHand { event, next }) = &self.at_hand else { return seen };
        let is_in_part = event.rows.iter().skip(*next).any(|row| row.part == self.part);
        if is_in_part && !event.redriven { event.position.previous() } else { seen }
    }

    /// The same changes as a [`Stream`], woken without a thread of its own. Folding happens where it is polled.
    pub fn into_stream(self) -> ChangeStream<K, V> {
        ChangeStream { changes: self, slot: TaskSlot::default() }
    }

    fn step(&mut self) -> Step {
        if self.ended {
            return Step::Ended;
        }
        if let Some(step) = self.next_at_hand() {
            return step;
        }
        // Before anything is looked for: what comes after that is waited for.
        let next = self.state.published.get().next();
        if !matches!(self.source, Source::Live) {
            return self.catch_up(next);
        }
        match self.state.feed.after(self.set, self.seen) {
            Taken::Event(event) => self.take(event),
            Taken::Nothing { to } => {
                self.seen = self.seen.max(to);
                Step::Wait(next)
            }
            Taken::Open => Step::Wait(next),
            Taken::Gone => Step::Failed(lagged(&self.state.name, self.checkpoint())),
            Taken::Replaced => Step::Failed(replaced(&self.state.name)),
        }
    }

    fn next_at_hand(&mut self) -> Option<Step> {
        let at_hand = self.at_hand.as_mut()?;
        while let Some(row) = at_hand.event.rows.get(at_hand.next) {
            at_hand.next += 1;
            if row.part == self.part {
                return Some(Step::Row(at_hand.event.position, row.clone()));
            }
        }
        self.at_hand = None;
        None
    }

    fn take(&mut self, event: Arc<EventChanges>) -> Step {
        self.seen = event.at;
        if event.redriven || event.position > self.after {
            self.at_hand = Some(AtHand { event, next: 0 });
        }
        Step::Again
    }

    fn catch_up(&mut self, next: Position) -> Step {
        if self.state.feed.reaches_back_to(self.seen) {
            self.source = Source::Live;
            return Step::Again;
        }
        let Source::CatchingUp { base, fold } = &mut self.source else { return Step::Again };
        let fold = match fold {
            Some(fold) => fold,
            none => match self.state.refolder() {
                Some(refolder) => none.insert(refolder.start(base.clone())),
                None => return Step::Failed(self.state.ended()),
            },
        };
        match fold.step() {
            Ok(Some(event)) if event.at > self.seen => self.take(Arc::new(event)),
            Ok(Some(_)) => Step::Again,
            Ok(None) => match go_further(&self.state, self.set, fold.as_mut(), next) {
                Ok(step) => step,
                Err(error) => self.begin_anew(error),
            },
            Err(error) => self.begin_anew(error),
        }
    }

    /// The rows that a fold began with may not be to be read any more: the log has them all.
    fn begin_anew(&mut self, error: Error) -> Step {
        let has_base = matches!(self.source, Source::CatchingUp { base: Some(_), .. });
        let error = self.state.met(error);
        if error.kind() != ErrorKind::View || !has_base {
            return Step::Failed(error);
        }
        self.source = Source::CatchingUp { base: None, fold: None };
        Step::Again
    }

    /// No more will come. What is at hand stays, for the checkpoint.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.source = Source::Live;
            self.state.feed.leave();
        }
    }

    /// What a wait that brought nothing means.
    fn unreached(&mut self, error: Error) -> Option<Result<Change<K, V>, Error>> {
        match error.kind() {
            ErrorKind::TimedOut => None,
            ErrorKind::Closed => {
                self.end();
                None
            }
            _ => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) -> Option<Result<Change<K, V>, Error>> {
        self.end();
        Some(Err(error))
    }
}

/// A fold that has come to its end may go on to where the rows are now.
fn go_further(state: &ViewState, set: u64, fold: &mut dyn Refold, next: Position) -> Result<Step, Error> {
    // There are none for the moment, or no more: whoever waits is told.
    let Ok((rows, now, known)) = state.followed_rows() else { return Ok(Step::Wait(next)) };
    let meta = rows.meta();
    if now != set {
        return Ok(Step::Failed(replaced(&state.name)));
    }
    let is_further = meta.generation == state.generation && meta.moment() > fold.moment();
    if known == Succession::Open || !is_further {
        return Ok(Step::Wait(next));
    }
    fold.extend(&rows).map(|()| Step::Again)
}

fn replaced(view: &str) -> Error {
    let message = format!(
        "other rows have taken the place of those of view {view} that were followed, and which events changed what is not \
         known: begin again with `follow`"
    );
    Error::new(ErrorKind::Replaced, message)
}

fn lagged(view: &str, from: Position) -> Error {
    Error::new(
        ErrorKind::Lagged { from },
        format!(
            "the changes of view {view} after position {from} are not kept any more, as there were too many since: go on with \
             `changes({from})`, which folds the log for them, or give `Options::change_buffer_bytes` more"
        ),
    )
}

impl<K: Key, V: DeserializeOwned> Changes<K, V> {
    /// The next change, waiting for it at most so long; `None` when none came, or there will be no more.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Change<K, V>, Error>> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<Change<K, V>, Error>> {
        loop {
            match self.step() {
                Step::Row(position, row) => return self.give(position, &row),
                Step::Failed(error) => return self.unreached(error),
                Step::Again if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                Step::Again if matches!(self.source, Source::Live) => {}
                Step::Again | Step::Ended => return None,
                Step::Wait(count) => {
                    if let Err(error) = self.state.wait_published(count, deadline) {
                        return self.unreached(error);
                    }
                }
            }
        }
    }

    fn give(&mut self, position: Position, row: &RowChange) -> Option<Result<Change<K, V>, Error>> {
        let decoded = self.decode(position, row);
        if let (Err(_), Some(at_hand)) = (&decoded, &mut self.at_hand) {
            // It was not given.
            at_hand.next = at_hand.next.saturating_sub(1);
        }
        decoded.map_or_else(|error| self.fail(error), |change| Some(Ok(change)))
    }

    fn decode(&self, position: Position, row: &RowChange) -> Result<Change<K, V>, Error> {
        let value = |bytes: &Option<bytes::Bytes>| bytes.as_deref().map(value::decode).transpose();
        let key = key::decode_whole(self.part.strip(&row.key).unwrap_or_default())?;
        Ok(Change { key, old: value(&row.old)?, new: value(&row.new)?, position })
    }
}

impl<K: Key, V: DeserializeOwned> Iterator for Changes<K, V> {
    type Item = Result<Change<K, V>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)
    }
}

impl<K: Key, V: DeserializeOwned> FusedIterator for Changes<K, V> {}

impl<K, V> Drop for Changes<K, V> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<K, V> fmt::Debug for Changes<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (view, checkpoint) = (&self.state.name, self.checkpoint());
        f.debug_struct("Changes").field("view", view).field("checkpoint", &checkpoint).finish_non_exhaustive()
    }
}

/// [`Changes`] for async code.
#[must_use = "streams do nothing unless polled"]
pub struct ChangeStream<K, V> {
    changes: Changes<K, V>,
    slot: TaskSlot,
}

impl<K, V> ChangeStream<K, V> {
    /// The position to go on after, as that of [`Changes::checkpoint`].
    #[must_use]
    pub fn checkpoint(&self) -> Position {
        self.changes.checkpoint()
    }
}

impl<K, V> fmt::Debug for ChangeStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.fmt(f)
    }
}

impl<K, V> Drop for ChangeStream<K, V> {
    fn drop(&mut self) {
        self.changes.state.published.forget(&mut self.slot);
    }
}

impl<K: Key, V: DeserializeOwned> Stream for ChangeStream<K, V> {
    type Item = Result<Change<K, V>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let ChangeStream { changes, slot } = &mut *self;
        for _ in 0..STEPS_PER_POLL {
            match changes.step() {
                Step::Row(position, row) => return Poll::Ready(changes.give(position, &row)),
                Step::Failed(error) => return Poll::Ready(changes.unreached(error)),
                Step::Again => {}
                Step::Ended => return Poll::Ready(None),
                Step::Wait(count) => match changes.state.poll_wait_published(count, slot, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(changes.unreached(error)),
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<K: Key, V: DeserializeOwned> FusedStream for ChangeStream<K, V> {
    fn is_terminated(&self) -> bool {
        self.changes.ended
    }
}
