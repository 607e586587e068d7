//! Handles commands: loads, decides, appends with a guard, and decides again when somebody else was faster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Decider;
use super::boundary::Boundary;
use super::cache::StateCache;
use super::fold::{Folding, Loaded};
use super::outcome::{HandleError, Handled};
use crate::batch::{Appended, Batch, Durability};
use crate::error::{AppendError, Error, ErrorKind};
use crate::event::Position;
use crate::store::Store;
use crate::typed::{Schema, TypedEvent as _};

/// So often is decided again after a conflict, unless said otherwise.
const RETRIES: u32 = 16;

type HandledBy<D> = Handled<<D as Decider>::State, <D as Decider>::Event>;

/// Handles commands with a decider; see [`Store::decider`]. A cheap handle: clone it, and share it between threads.
pub struct CommandHandler<D: Decider> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Decider> {
    store: Store,
    decider: D,
    schema: Schema<D::Event>,
    cache: StateCache<D::State>,
    /// The last position that this handler recorded and that was not durable then.
    behind: AtomicU64,
}

impl Store {
    /// Makes a handler of commands, which decide as a [`Decider`] says. States are cached in memory.
    ///
    /// # Errors
    /// `Invalid` when the decider's events have no right [`Schema`].
    pub fn decider<D: Decider>(&self, decider: D) -> Result<CommandHandler<D>, Error> {
        self.decider_with_cache(decider, StateCache::new())
    }

    /// The same with a cache of one's own: smaller, larger, or shared.
    ///
    /// ```
    /// # use everfold::{Decider, StateCache, TypedEvent};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Counted { Up(u64) }
    /// # impl TypedEvent for Counted {}
    /// # struct Counter;
    /// # impl Decider for Counter {
    /// #     type State = u64;
    /// #     type Event = Counted;
    /// #     type Command = u64;
    /// #     type Rejection = std::convert::Infallible;
    /// #     fn evolve(&self, count: &mut u64, Counted::Up(more): &Counted) { *count += more; }
    /// #     fn decide(&self, _: &u64, more: &u64) -> Result<Vec<Counted>, Self::Rejection> { Ok(vec![Counted::Up(*more)]) }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let counter = store.decider_with_cache(Counter, StateCache::new().max_states(100_000))?;
    /// counter.handle("clicks", &2)?;
    /// assert_eq!(counter.load("clicks")?.state, 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`decider`](Store::decider).
    pub fn decider_with_cache<D: Decider>(
        &self,
        decider: D,
        cache: StateCache<D::State>,
    ) -> Result<CommandHandler<D>, Error> {
        let (store, schema) = (self.clone(), Schema::new()?);
        let shared = Shared { store, decider, schema, cache, behind: AtomicU64::new(0) };
        Ok(CommandHandler { shared: Arc::new(shared) })
    }
}

impl<D: Decider> CommandHandler<D> {
    /// Handles a command: loads the state of a boundary (a stream's name will do), decides, and appends what was decided,
    /// if nothing that matters was appended meanwhile; if something was, begins again. The events are durable on return.
    ///
    /// What is rejected is rejected in the state as it was loaded: no guard tells that it is still so.
    ///
    /// # Errors
    /// [`HandleError::Rejected`] when the decider rejects the command; [`HandleError::Conflict`] after 16 conflicts more
    /// than one; [`HandleError::Indeterminate`] when the write failed; [`HandleError::Failed`] when loading failed or the
    /// append was refused.
    pub fn handle(
        &self,
        boundary: impl Into<Boundary>,
        command: &D::Command,
    ) -> Result<HandledBy<D>, HandleError<D::Rejection>> {
        self.at(boundary).handle(command)
    }

    /// Begins to handle a command in a way of its own: with metadata, another durability, more or fewer retries.
    ///
    /// ```no_run
    /// # use everfold::{CommandHandler, Decider, Durability};
    /// # fn f<D: Decider>(bank: CommandHandler<D>, command: D::Command) {
    /// let done = bank
    ///     .at("account-1")
    ///     .metadata(b"from the counter")
    ///     .durability(Durability::Written)
    ///     .retries(100)
    ///     .handle(&command);
    /// # let _ = done;
    /// # }
    /// ```
    pub fn at(&self, boundary: impl Into<Boundary>) -> Handling<'_, D> {
        Handling {
            handler: self,
            boundary: boundary.into(),
            metadata: None,
            durability: Durability::default(),
            retries: RETRIES,
        }
    }

    /// The state of a boundary, with everything that is durable, and everything that this handler recorded.
    ///
    /// # Errors
    /// [`UnknownEventType`](ErrorKind::UnknownEventType) and [`Codec`](ErrorKind::Codec) when an event of the boundary
    /// cannot be read as the decider's; [`Truncated`](ErrorKind::Truncated) when retention has dropped one; else as a read.
    pub fn load(&self, boundary: impl Into<Boundary>) -> Result<Loaded<D::State>, Error> {
        self.catch_up()?;
        let loaded = self.folding(&boundary.into()).load()?;
        let Loaded { state, version, position } = loaded;
        Ok(Loaded { state: Arc::unwrap_or_clone(state), version, position })
    }

    /// The states that are kept.
    #[must_use]
    pub fn cache(&self) -> &StateCache<D::State> {
        &self.shared.cache
    }

    /// The schema of the decider's events.
    #[must_use]
    pub fn schema(&self) -> &Schema<D::Event> {
        &self.shared.schema
    }

    pub(super) fn store(&self) -> &Store {
        &self.shared.store
    }

    pub(super) fn decider(&self) -> &D {
        &self.shared.decider
    }

    fn folding<'a>(&'a self, boundary: &'a Boundary) -> Folding<'a, D> {
        let Shared { store, decider, schema, cache, .. } = &*self.shared;
        Folding { store, decider, schema, cache, boundary }
    }

    /// Makes readable what this handler recorded. Returns whether there was something.
    fn catch_up(&self) -> Result<bool, Error> {
        let behind = self.shared.behind.load(Ordering::Acquire);
        let is_behind = behind > self.shared.store.watermark().get();
        if is_behind {
            self.shared.store.sync()?;
        }
        Ok(is_behind)
    }
}

/// How a command is to be handled; see [`CommandHandler::at`].
#[must_use = "nothing is handled until it is given a command"]
pub struct Handling<'a, D: Decider> {
    handler: &'a CommandHandler<D>,
    boundary: Boundary,
    metadata: Option<Vec<u8>>,
    durability: Durability,
    retries: u32,
}

impl<D: Decider> Handling<'_, D> {
    /// Sets the metadata of the events that are decided on.
    pub fn metadata(mut self, metadata: impl Into<Vec<u8>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// Sets how safe the events are on return (default: durable). Events are read when they are durable, so what is not
    /// yet is made so when a guard or a rejection depends on it.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how often it is decided again when somebody else was faster (default: 16).
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Handles a command, as [`CommandHandler::handle`] does.
    ///
    /// # Errors
    /// As there.
    pub fn handle(&self, command: &D::Command) -> Result<HandledBy<D>, HandleError<D::Rejection>> {
        let Shared { store, decider, .. } = &*self.handler.shared;
        let folding = self.handler.folding(&self.boundary);
        let mut conflicts = 0;
        loop {
            let loaded = folding.load()?;
            let decided = decider.decide(&loaded.state, command);
            let events = match decided {
                Ok(events) if !events.is_empty() => events,
                // No guard will tell that the state was without what is not durable yet.
                _ if self.handler.catch_up()? => continue,
                Ok(_) => return Ok(unchanged(loaded, conflicts)),
                Err(rejection) => return Err(HandleError::Rejected(rejection)),
            };
            let batch = self.batch(&folding, &loaded, &events)?;
            match store.log().append(&batch) {
                Ok(appended) => return Ok(self.handled(loaded, events, appended, conflicts)),
                Err(AppendError::Conflict(conflict)) => {
                    if conflicts == self.retries {
                        return Err(HandleError::Conflict {
                            conflict,
                            conflicts: conflicts.saturating_add(1),
                        });
                    }
                    conflicts += 1;
                    // What was in the way may not be readable yet.
                    if conflict.position > store.watermark() {
                        store.sync()?;
                    }
                }
                Err(AppendError::Failed(error)) if error.kind() == ErrorKind::Indeterminate => {
                    return Err(HandleError::Indeterminate { batch: Box::new(batch), error });
                }
                Err(AppendError::Failed(error)) => return Err(error.into()),
            }
        }
    }

    fn batch(
        &self,
        folding: &Folding<'_, D>,
        loaded: &Loaded<Arc<D::State>>,
        events: &[D::Event],
    ) -> Result<Batch, Error> {
        let mut batch = Batch::new().durability(self.durability).guard(folding.guard(loaded));
        for event in events {
            let stream = self.boundary.stream_of(folding.decider, event);
            let typed = event.to_event()?;
            let typed = match &self.metadata {
                Some(metadata) => typed.metadata(metadata.clone()),
                None => typed,
            };
            batch = batch.event(stream, typed);
        }
        Ok(batch)
    }

    fn handled(
        &self,
        loaded: Loaded<Arc<D::State>>,
        events: Vec<D::Event>,
        appended: Appended,
        conflicts: u32,
    ) -> HandledBy<D> {
        let shared = &self.handler.shared;
        if self.durability < Durability::Durable {
            shared.behind.fetch_max(appended.position.get(), Ordering::AcqRel);
        }
        let mut state = Arc::unwrap_or_clone(loaded.state);
        events.iter().for_each(|event| shared.decider.evolve(&mut state, event));
        let (position, version) = (appended.position, appended.version);
        Handled { state, events, appended: Some(appended), position, version, conflicts }
    }
}

fn unchanged<S: Clone, E>(loaded: Loaded<Arc<S>>, conflicts: u32) -> Handled<S, E> {
    let Loaded { state, version, position } = loaded;
    let state = Arc::unwrap_or_clone(state);
    Handled { state, events: Vec::new(), appended: None, position, version, conflicts }
}

impl<D: Decider> Clone for CommandHandler<D> {
    fn clone(&self) -> Self {
        CommandHandler { shared: self.shared.clone() }
    }
}

impl<D: Decider> fmt::Debug for CommandHandler<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandHandler")
            .field("decider", &std::any::type_name::<D>())
            .field("schema", &self.shared.schema)
            .field("cache", &self.shared.cache)
            .field("behind", &Position::new(self.shared.behind.load(Ordering::Acquire)))
            .finish_non_exhaustive()
    }
}

impl<D: Decider> fmt::Debug for Handling<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handling")
            .field("boundary", &self.boundary)
            .field("durability", &self.durability)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}
