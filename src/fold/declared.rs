//! A declared fold, whatever its events and accumulator are.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::accumulator::Accumulator;
use super::builder::{FoldEvents, Source};
use super::cells::{Cells, Change};
use crate::event::{Position, RecordedEvent};
use crate::projection::{ApplyError, ViewBatch};
use crate::view::key::Key;

/// So many values are expected at a time.
const VALUES: usize = 32;

/// A declared fold from events to rows of a key `K` and a state `S`. Declared step by step, from [`Fold::new`]; see
/// [`fold`](crate::fold).
///
/// Like a [`Projection`](crate::Projection) it must be deterministic: its functions see the event and nothing else. Raise
/// the generation when they or the types change, since what parts of the log came to is kept under it.
pub struct Fold<K, S> {
    name: &'static str,
    generation: u32,
    types: Arc<[String]>,
    pub(super) from_log_start: bool,
    pub(super) keeps_partials: bool,
    pub(super) serves_earlier: bool,
    logic: Arc<dyn Logic<K, S>>,
}

impl<K, S> Clone for Fold<K, S> {
    fn clone(&self) -> Self {
        Fold { types: self.types.clone(), logic: self.logic.clone(), ..*self }
    }
}

impl<K, S> fmt::Debug for Fold<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fold")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}

impl Fold<(), ()> {
    /// Starts to declare a fold. The name is that of its view and of its folder, so 1 to 64 of `a-z`, `0-9`, `-` and `_`;
    /// the generation is raised whenever the fold changes.
    #[expect(clippy::new_ret_no_self, reason = "the steps that follow say what it is a fold of")]
    pub fn new(name: &'static str, generation: u32) -> FoldEvents {
        FoldEvents { name, generation, types: Vec::new() }
    }
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Fold<K, S> {
    pub(super) fn of<E: 'static, A: Accumulator<E, State = S>>(
        events: FoldEvents,
        declared: Declared<E, K, A>,
    ) -> Self {
        let FoldEvents { name, generation, types } = events;
        let (types, logic) = (types.into(), Arc::new(declared));
        Fold {
            name,
            generation,
            types,
            from_log_start: false,
            keeps_partials: true,
            serves_earlier: false,
            logic,
        }
    }

    /// Folds what is left of a log whose first events were removed by [`retain`](crate::Store::retain). Without this such
    /// a log is an error, [`Truncated`](crate::ErrorKind::Truncated), unless it is known what the removed segments came
    /// to.
    #[must_use]
    pub fn from_log_start(self) -> Self {
        Fold { from_log_start: true, ..self }
    }

    /// Keeps no files of what segments came to. Those that are there are still made use of.
    #[must_use]
    pub fn without_partials(self) -> Self {
        Fold { keeps_partials: false, ..self }
    }

    /// Serves the rows of an earlier generation, if there are some, until the view of this one has caught up: see
    /// [`SERVES_EARLIER`](crate::Projection::SERVES_EARLIER).
    #[must_use]
    pub fn serves_earlier(self) -> Self {
        Fold { serves_earlier: true, ..self }
    }

    /// The fold's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The fold's generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Tells this declaration from any other: the types of all that was declared, closures with them.
    pub(crate) fn kind(&self) -> TypeId {
        self.logic.kind()
    }

    /// Whether it makes anything of events of this type.
    pub(super) fn takes(&self, event: &RecordedEvent) -> bool {
        self.types.is_empty() || self.types.iter().any(|taken| taken == event.event_type())
    }

    /// Takes an event into the rows.
    pub(super) fn apply(&self, event: &RecordedEvent, rows: &mut dyn Cells<K, S>) -> Result<(), ApplyError> {
        if self.takes(event) { self.logic.apply(event, rows) } else { Ok(()) }
    }

    /// Takes several events that it [`takes`](Self::takes) into the rows, in order.
    pub(super) fn apply_all(
        &self,
        events: &[RecordedEvent],
        rows: &mut dyn Cells<K, S>,
    ) -> Result<(), (Position, ApplyError)> {
        self.logic.apply_all(events, rows)
    }

    /// Puts what later events came to behind what earlier ones did.
    pub(crate) fn merge(&self, earlier: &mut S, later: S) -> Result<(), ApplyError> {
        self.logic.merge(earlier, later)
    }

    /// Takes an event into a view: for a [`Projection`](crate::Projection) that does this and something else.
    ///
    /// # Errors
    /// When the fold fails on the event, or the view cannot be read. Pass it on with `?`.
    pub fn apply_to(&self, event: &RecordedEvent, batch: &mut ViewBatch<K, S>) -> Result<(), ApplyError> {
        self.apply(event, &mut InView(batch))
    }
}

struct InView<'a, K, S>(&'a mut ViewBatch<K, S>);

impl<K: Key, S: Serialize + DeserializeOwned + Send + 'static> Cells<K, S> for InView<'_, K, S> {
    fn change(&mut self, key: K, change: &dyn Change<S>) -> Result<(), ApplyError> {
        let mut changed = Ok(());
        let updated = self.0.update(key, |row| match row {
            Some(mut state) => {
                changed = change.add(&mut state);
                Some(state)
            }
            None => change.start().map_err(|error| changed = Err(error)).ok(),
        });
        updated.and(changed)
    }
}

/// What a fold does, without the type of its events.
trait Logic<K, S>: Send + Sync {
    fn kind(&self) -> TypeId;

    fn apply(&self, event: &RecordedEvent, rows: &mut dyn Cells<K, S>) -> Result<(), ApplyError>;

    /// The same as each of the events after the other. The rows are told what to expect. An error is that of the event at
    /// a position.
    fn apply_all(
        &self,
        events: &[RecordedEvent],
        rows: &mut dyn Cells<K, S>,
    ) -> Result<(), (Position, ApplyError)>;

    fn merge(&self, earlier: &mut S, later: S) -> Result<(), ApplyError>;
}

/// All that was declared.
pub(super) struct Declared<E, K, A> {
    pub(super) source: Source<E>,
    pub(super) key: Box<dyn Fn(&E) -> K + Send + Sync>,
    pub(super) accumulator: A,
}

impl<E: 'static, K: 'static, A: Accumulator<E>> Logic<K, A::State> for Declared<E, K, A> {
    fn kind(&self) -> TypeId {
        TypeId::of::<Self>()
    }

    fn apply(&self, event: &RecordedEvent, rows: &mut dyn Cells<K, A::State>) -> Result<(), ApplyError> {
        (self.source)(event, &mut |value| {
            let one = One { accumulator: &self.accumulator, value: &value };
            rows.change((self.key)(&value), &one)
        })
    }

    fn apply_all(
        &self,
        events: &[RecordedEvent],
        rows: &mut dyn Cells<K, A::State>,
    ) -> Result<(), (Position, ApplyError)> {
        let mut values = Vec::with_capacity(VALUES);
        for event in events {
            let position = event.position();
            let mut failed = None;
            let taken = (self.source)(event, &mut |value| {
                values.push((position, (self.key)(&value), value));
                if values.len() < VALUES {
                    return Ok(());
                }
                self.take_in(&mut values, rows).map_err(|(position, error)| {
                    failed = Some(position);
                    error
                })
            });
            taken.map_err(|error| (failed.unwrap_or(position), error))?;
        }
        self.take_in(&mut values, rows)
    }

    fn merge(&self, earlier: &mut A::State, later: A::State) -> Result<(), ApplyError> {
        self.accumulator.merge(earlier, later)
    }
}

impl<E, K, A: Accumulator<E>> Declared<E, K, A> {
    /// Takes values into the rows of their keys, and leaves none.
    fn take_in(
        &self,
        values: &mut Vec<(Position, K, E)>,
        rows: &mut dyn Cells<K, A::State>,
    ) -> Result<(), (Position, ApplyError)> {
        rows.expect(&mut values.iter().map(|(_, key, _)| key));
        values.drain(..).try_for_each(|(position, key, value)| {
            let one = One { accumulator: &self.accumulator, value: &value };
            rows.change(key, &one).map_err(|error| (position, error))
        })
    }
}

/// One value to be taken in.
struct One<'a, E, A> {
    accumulator: &'a A,
    value: &'a E,
}

impl<E, A: Accumulator<E>> Change<A::State> for One<'_, E, A> {
    fn start(&self) -> Result<A::State, ApplyError> {
        self.accumulator.start(self.value)
    }

    fn add(&self, state: &mut A::State) -> Result<(), ApplyError> {
        self.accumulator.add(state, self.value)
    }
}
