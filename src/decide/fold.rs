//! Loads a state: folds the events of a boundary, from a cached state on where there is one that fits.

use std::sync::Arc;

use super::Decider;
use super::boundary::{Boundary, From};
use super::cache::{Entry, FoldKey, LastFolded, StateCache, StateKey};
use crate::error::{Error, ErrorKind};
use crate::event::{Position, Version};
use crate::guard::Guard;
use crate::log::cursor::Cursor;
use crate::log::index::key::Kind;
use crate::store::Store;
use crate::typed::Schema;

/// A state, and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded<S> {
    /// The state.
    pub state: S,
    /// The version of the boundary's stream; [`Version::NONE`] for a query.
    pub version: Version,
    /// Up to here it has every event of the boundary.
    pub position: Position,
}

/// Folds the events of one boundary.
pub(super) struct Folding<'a, D: Decider> {
    pub(super) store: &'a Store,
    pub(super) decider: &'a D,
    pub(super) schema: &'a Schema<D::Event>,
    pub(super) cache: &'a StateCache<D::State>,
    pub(super) boundary: &'a Boundary,
}

/// What a state was folded to.
struct Fold<S> {
    state: Arc<S>,
    last: Option<LastFolded>,
    /// The stream's version before the first event that is left.
    removed: Version,
}

impl<D: Decider> Folding<'_, D> {
    pub(super) fn load(&self) -> Result<Loaded<Arc<D::State>>, Error> {
        // Before the cursor, which may read beyond: so nothing up to here is missed.
        let position = self.store.watermark();
        let fold = self.fold_anew_if_dropped()?;
        let last = fold.last;
        Ok(Loaded {
            state: fold.state,
            version: match self.boundary.from {
                From::Stream => last.map_or(fold.removed, |last| last.version),
                From::Query(_) => Version::NONE,
            },
            position: last.map_or(position, |last| last.position.max(position)),
        })
    }

    /// The condition that what was loaded is all there is.
    pub(super) fn guard(&self, loaded: &Loaded<Arc<D::State>>) -> Guard {
        match &self.boundary.from {
            From::Stream => Guard::version(&self.boundary.stream, loaded.version),
            From::Query(query) => Guard::no_event(query.clone(), loaded.position),
        }
    }

    /// Folds what is left, when retention has dropped more of it meanwhile, once more.
    fn fold_anew_if_dropped(&self) -> Result<Fold<D::State>, Error> {
        loop {
            let log_start = self.store.log_start();
            let dropped = |error: &Error| {
                D::FROM_LOG_START
                    && matches!(error.kind(), ErrorKind::Truncated { .. })
                    && self.store.log_start() != log_start
            };
            match self.fold(log_start) {
                Err(error) if dropped(&error) => {}
                folded => return folded,
            }
        }
    }

    fn fold(&self, log_start: Position) -> Result<Fold<D::State>, Error> {
        let key = StateKey {
            store_id: self.store.store_id(),
            fold: FoldKey::of(self.decider),
            boundary: self.boundary.clone(),
        };
        let cached = self.cache.get(&key);
        let known = cached.as_ref().map(|cached| cached.last);
        let fold = match cached.map(|cached| self.go_on(cached, log_start)).transpose()?.flatten() {
            Some(fold) => fold,
            None => {
                self.cache.remove(&key);
                self.anew(log_start)?
            }
        };
        if let Some(last) = fold.last.filter(|last| known != Some(*last)) {
            let (state, bytes) = (fold.state.clone(), self.decider.state_bytes(&fold.state));
            self.cache.put(key, Entry { state, last, log_start }, bytes);
        }
        Ok(fold)
    }

    /// Folds what came after a cached state; `None` when that does not fit the log.
    fn go_on(&self, cached: Entry<D::State>, log_start: Position) -> Result<Option<Fold<D::State>>, Error> {
        let last = cached.last;
        if cached.log_start != log_start {
            return Ok(None);
        }
        // From the last event folded on: it has to be the same.
        let mut events = match &self.boundary.from {
            From::Stream => self.store.read_stream(&self.boundary.stream, last.version.previous()),
            From::Query(query) => self.store.read_query(query, last.position.previous()),
        };
        match events.next() {
            Some(Ok(event)) if LastFolded::of(&event) == last => {}
            _ => return Ok(None),
        }
        let fold = Fold { state: cached.state, last: Some(last), removed: Version::NONE };
        self.evolve(fold, events).map(Some)
    }

    fn anew(&self, log_start: Position) -> Result<Fold<D::State>, Error> {
        let (events, removed) = match &self.boundary.from {
            From::Stream => {
                let stream = &self.boundary.stream;
                let removed = if D::FROM_LOG_START { self.removed(stream)? } else { Version::NONE };
                (self.store.read_stream(stream, removed), removed)
            }
            From::Query(query) => {
                let after = if D::FROM_LOG_START { log_start.previous() } else { Position::START };
                (self.store.read_query(query, after), Version::NONE)
            }
        };
        self.evolve(Fold { state: Arc::default(), last: None, removed }, events)
    }

    /// The version of a stream before the first event that is left of it.
    fn removed(&self, stream: &str) -> Result<Version, Error> {
        let catalog = &self.store.log().catalog;
        let end = catalog.end_before_start(&catalog.hasher.key(Kind::Stream, stream))?;
        Ok(end.map_or(Version::NONE, |end| end.version))
    }

    fn evolve(&self, mut fold: Fold<D::State>, events: Cursor) -> Result<Fold<D::State>, Error> {
        for event in events {
            let event = event?;
            if let Some(known) = self.schema.read(&event)? {
                self.decider.evolve(Arc::make_mut(&mut fold.state), &known);
            }
            fold.last = Some(LastFolded::of(&event));
        }
        Ok(fold)
    }
}
