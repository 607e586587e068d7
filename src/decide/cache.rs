//! States of deciders, kept in memory, so that loading folds only what came after. Disposable: what does not fit is
//! folded anew.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::Decider;
use super::boundary::Boundary;
use crate::event::{Position, RecordedEvent, Version};

const STATES: usize = 1_024;
const BYTES: usize = 64 << 20;

/// States of a decider, kept in memory: at most so many, and so many bytes of them. Those not used for longest go first.
///
/// It is a cache and no more. Each state is kept with the store's id, the boundary, the decider's
/// [`generation`](crate::Decider::generation) and the last event that it was folded from. Loading reads that event again,
/// and folds from the start when it is not the very same, or when the log starts elsewhere by now. So a cache may outlive
/// its store and be given to another one. A clone is the same cache. What is to outlive the process,
/// [`save_states`](crate::CommandHandler::save_states) writes to the store.
///
/// ```
/// use everfold::StateCache;
/// let cache = StateCache::<u64>::new().max_states(10_000).max_bytes(1 << 20);
/// assert!(cache.is_empty());
/// let none = StateCache::<u64>::new().max_states(0);
/// # let _ = none;
/// ```
pub struct StateCache<S> {
    shared: Arc<Mutex<Cached<S>>>,
}

/// Of which events a state is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StateKey {
    pub(super) store_id: Uuid,
    pub(super) fold: FoldKey,
    pub(super) boundary: Boundary,
}

/// Tells a fold from others: the decider's type and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FoldKey(TypeId, u32);

impl FoldKey {
    pub(super) fn of<D: Decider>(decider: &D) -> Self {
        FoldKey(TypeId::of::<D>(), decider.generation())
    }
}

/// The last event that a state was folded from, to be known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastFolded {
    pub(super) position: Position,
    pub(super) version: Version,
    pub(super) id: Uuid,
    pub(super) fingerprint: u32,
}

impl LastFolded {
    pub(super) fn of(event: &RecordedEvent) -> Self {
        LastFolded {
            position: event.position(),
            version: event.version(),
            id: event.event_id(),
            fingerprint: event.fingerprint(),
        }
    }
}

/// A state, and what it was folded from.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) state: Arc<S>,
    pub(super) last: LastFolded,
    /// Where the log started then.
    pub(super) log_start: Position,
}

impl<S> Clone for Entry<S> {
    fn clone(&self) -> Self {
        Entry { state: self.state.clone(), ..*self }
    }
}

struct Cached<S> {
    max_states: usize,
    max_bytes: usize,
    bytes: usize,
    /// Counts uses.
    clock: u64,
    entries: HashMap<Arc<StateKey>, Held<S>>,
    by_use: BTreeMap<u64, Arc<StateKey>>,
}

struct Held<S> {
    entry: Entry<S>,
    bytes: usize,
    used: u64,
}

impl<S> StateCache<S> {
    /// A cache of at most 1,024 states and 64 MiB.
    #[must_use]
    pub fn new() -> Self {
        let cached = Cached {
            max_states: STATES,
            max_bytes: BYTES,
            bytes: 0,
            clock: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
        };
        StateCache { shared: Arc::new(Mutex::new(cached)) }
    }

    /// Sets how many states are kept; 0 keeps none.
    #[must_use]
    pub fn max_states(self, states: usize) -> Self {
        let mut cached = self.cached();
        cached.max_states = states;
        cached.make_room();
        drop(cached);
        self
    }

    /// Sets how many bytes of states are kept, as the decider [counts](crate::Decider::state_bytes) them.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        let mut cached = self.cached();
        cached.max_bytes = bytes;
        cached.make_room();
        drop(cached);
        self
    }

    /// How many states there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cached().entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all states.
    pub fn clear(&self) {
        let mut cached = self.cached();
        cached.entries.clear();
        cached.by_use.clear();
        cached.bytes = 0;
    }

    fn cached(&self) -> MutexGuard<'_, Cached<S>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &StateKey) -> Option<Entry<S>> {
        let mut cached = self.cached();
        let cached = &mut *cached;
        let held = cached.entries.get_mut(key)?;
        cached.clock += 1;
        if let Some(key) = cached.by_use.remove(&held.used) {
            held.used = cached.clock;
            cached.by_use.insert(held.used, key);
        }
        Some(held.entry.clone())
    }

    /// All states, those used last first.
    pub(super) fn by_use(&self) -> Vec<(Arc<StateKey>, Entry<S>)> {
        let cached = self.cached();
        let keys = cached.by_use.values().rev();
        keys.filter_map(|key| Some((key.clone(), cached.entries.get(key)?.entry.clone()))).collect()
    }

    /// How many bytes of states there may be.
    pub(super) fn limit(&self) -> usize {
        self.cached().max_bytes
    }

    /// Keeps a state, in place of one of fewer events.
    pub(super) fn put(&self, key: StateKey, entry: Entry<S>, bytes: usize) {
        let mut cached = self.cached();
        let is_newer = |held: &Held<S>| held.entry.last.position >= entry.last.position;
        if cached.entries.get(&key).is_some_and(is_newer) {
            return;
        }
        cached.remove(&key);
        cached.clock += 1;
        let (key, used) = (Arc::new(key), cached.clock);
        cached.by_use.insert(used, key.clone());
        cached.bytes = cached.bytes.saturating_add(bytes);
        cached.entries.insert(key, Held { entry, bytes, used });
        cached.make_room();
    }

    /// Drops a state that does not fit.
    pub(super) fn remove(&self, key: &StateKey) {
        self.cached().remove(key);
    }
}

impl<S> Cached<S> {
    fn remove(&mut self, key: &StateKey) {
        if let Some(held) = self.entries.remove(key) {
            self.by_use.remove(&held.used);
            self.bytes = self.bytes.saturating_sub(held.bytes);
        }
    }

    fn make_room(&mut self) {
        while self.entries.len() > self.max_states || self.bytes > self.max_bytes {
            let Some((_, key)) = self.by_use.pop_first() else { return };
            self.remove(&key);
        }
    }
}

impl<S> Default for StateCache<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for StateCache<S> {
    fn clone(&self) -> Self {
        StateCache { shared: self.shared.clone() }
    }
}

impl<S> fmt::Debug for StateCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cached = self.cached();
        f.debug_struct("StateCache")
            .field("states", &cached.entries.len())
            .field("bytes", &cached.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(stream: &str) -> StateKey {
        StateKey { store_id: Uuid::nil(), fold: FoldKey(TypeId::of::<u64>(), 1), boundary: stream.into() }
    }

    fn entry(state: u64, position: u64) -> Entry<u64> {
        let (position, version) = (Position::new(position), Version::new(1));
        let last = LastFolded { position, version, id: Uuid::nil(), fingerprint: 0 };
        Entry { state: Arc::new(state), last, log_start: Position::new(1) }
    }

    fn states(cache: &StateCache<u64>, streams: &str) -> Vec<Option<u64>> {
        streams.split(' ').map(|stream| cache.get(&key(stream)).map(|entry| *entry.state)).collect()
    }

    #[test]
    fn the_state_that_was_not_used_for_longest_goes_first() {
        let cache = StateCache::new().max_states(2);
        cache.put(key("a"), entry(1, 1), 8);
        cache.put(key("b"), entry(2, 2), 8);
        assert_eq!(states(&cache, "a"), [Some(1)]);
        cache.put(key("c"), entry(3, 3), 8);
        assert_eq!(states(&cache, "a b c"), [Some(1), None, Some(3)]);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn the_bytes_of_the_states_are_bounded_and_one_too_large_is_not_kept() {
        let cache = StateCache::new().max_bytes(20);
        cache.put(key("a"), entry(1, 1), 8);
        cache.put(key("b"), entry(2, 2), 8);
        cache.put(key("a"), entry(3, 3), 12);
        assert_eq!(states(&cache, "a b"), [Some(3), Some(2)]);
        cache.put(key("c"), entry(4, 4), 9);
        assert_eq!(states(&cache, "a b c"), [None, Some(2), Some(4)]);
        cache.put(key("d"), entry(5, 5), 21);
        assert!(cache.is_empty());
        cache.put(key("a"), entry(6, 6), 20);
        assert_eq!(states(&cache, "a"), [Some(6)]);
        cache.clear();
        cache.put(key("a"), entry(7, 1), 20);
        assert_eq!(states(&cache, "a"), [Some(7)]);
    }

    #[test]
    fn a_state_of_fewer_events_does_not_replace_one_of_more() {
        let cache = StateCache::new();
        cache.put(key("a"), entry(5, 5), 8);
        cache.put(key("a"), entry(4, 4), 8);
        assert_eq!(states(&cache, "a"), [Some(5)]);
        cache.remove(&key("a"));
        cache.put(key("a"), entry(4, 4), 8);
        assert_eq!(states(&cache, "a"), [Some(4)]);
    }
}
