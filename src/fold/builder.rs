//! How a fold is declared, step by step: each step has a type of its own, so what is left out does not compile.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::DeserializeOwned;

use super::accumulator::Accumulator;
use super::choice::{self, TopK, Value};
use super::declared::{Declared, Fold};
use super::sum::{self, Average, Summable};
use crate::event::RecordedEvent;
use crate::projection::ApplyError;
use crate::view::key::Key;

/// Gives what is made of an event, one by one.
pub(super) type Source<E> = Box<
    dyn Fn(&RecordedEvent, &mut dyn FnMut(E) -> Result<(), ApplyError>) -> Result<(), ApplyError>
        + Send
        + Sync,
>;

/// The first step: which events a fold takes. From [`Fold::new`].
#[derive(Debug)]
#[must_use = "a fold is declared step by step, up to what is to be kept of the events"]
pub struct FoldEvents {
    pub(super) name: &'static str,
    pub(super) generation: u32,
    /// Of any type when empty.
    pub(super) types: Vec<String>,
}

/// The second step: what is made of the events, as values of a type `E`.
#[must_use = "a fold is declared step by step, up to what is to be kept of the events"]
pub struct FoldOf<E> {
    events: FoldEvents,
    source: Source<E>,
}

/// The third step: what the values are filed under, the keys of the rows.
#[must_use = "a fold is declared step by step, up to what is to be kept of the events"]
pub struct FoldBy<E, K> {
    of: FoldOf<E>,
    key: Box<dyn Fn(&E) -> K + Send + Sync>,
}

impl<E> fmt::Debug for FoldOf<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoldOf").field("events", &self.events).finish_non_exhaustive()
    }
}

impl<E, K> fmt::Debug for FoldBy<E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoldBy").field("of", &self.of).finish_non_exhaustive()
    }
}

impl FoldEvents {
    /// Takes only events of these types. The others are passed over without being decoded.
    pub fn types(mut self, types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// Decodes each payload by its encoding, as [`RecordedEvent::decode`] does. One that is not an `E` fails the fold.
    pub fn decode<E: DeserializeOwned + 'static>(self) -> FoldOf<E> {
        FoldOf { events: self, source: Box::new(|event, give| give(event.decode()?)) }
    }

    /// Makes of each event what a function says: nothing or one value (an [`Option`]), or any number (a [`Vec`]).
    ///
    /// ```
    /// use everfold::Fold;
    ///
    /// let events_by_stream: Fold<String, u64> =
    ///     Fold::new("by-stream", 1).map(|event| Ok(Some(event.stream().to_owned()))).key_by(Clone::clone).count();
    /// ```
    pub fn map<E: 'static, I: IntoIterator<Item = E>>(
        self,
        map: impl Fn(&RecordedEvent) -> Result<I, ApplyError> + Send + Sync + 'static,
    ) -> FoldOf<E> {
        let source: Source<E> = Box::new(move |event, give| map(event)?.into_iter().try_for_each(give));
        FoldOf { events: self, source }
    }
}

impl<E: 'static> FoldOf<E> {
    /// Takes only the values of which this is true.
    pub fn filter(self, takes: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        let FoldOf { events, source } = self;
        let source: Source<E> = Box::new(move |event, give| {
            source(event, &mut |value| if takes(&value) { give(value) } else { Ok(()) })
        });
        FoldOf { events, source }
    }

    /// Files each value under a key. `key_by(|_| ())` files all of them under one.
    pub fn key_by<K: Key>(self, key: impl Fn(&E) -> K + Send + Sync + 'static) -> FoldBy<E, K> {
        FoldBy { of: self, key: Box::new(key) }
    }
}

impl<E: 'static, K: Key> FoldBy<E, K> {
    /// Keeps what an [`Accumulator`], or a tuple of them, makes of each key's values.
    pub fn accumulate<A: Accumulator<E>>(self, accumulator: A) -> Fold<K, A::State> {
        let FoldBy { of: FoldOf { events, source }, key } = self;
        Fold::of(events, Declared { source, key, accumulator })
    }

    /// [Counts](sum::count) each key's values.
    pub fn count(self) -> Fold<K, u64> {
        self.accumulate(sum::count())
    }

    /// [Adds up](sum::sum) a number of each key's values.
    pub fn sum<N: Summable>(self, of: impl Fn(&E) -> N + Send + Sync + 'static) -> Fold<K, N::Sum> {
        self.accumulate(sum::sum(of))
    }

    /// The [average](sum::average) of a number of each key's values.
    pub fn average<N: Summable>(
        self,
        of: impl Fn(&E) -> N + Send + Sync + 'static,
    ) -> Fold<K, Average<N::Sum>> {
        self.accumulate(sum::average(of))
    }

    /// The [least](choice::min) of each key.
    pub fn min<V: Value + Ord>(self, of: impl Fn(&E) -> V + Send + Sync + 'static) -> Fold<K, V> {
        self.accumulate(choice::min(of))
    }

    /// The [largest](choice::max) of each key.
    pub fn max<V: Value + Ord>(self, of: impl Fn(&E) -> V + Send + Sync + 'static) -> Fold<K, V> {
        self.accumulate(choice::max(of))
    }

    /// The [first](choice::first) of each key.
    pub fn first<V: Value>(self, of: impl Fn(&E) -> V + Send + Sync + 'static) -> Fold<K, V> {
        self.accumulate(choice::first(of))
    }

    /// The [last](choice::last) of each key.
    pub fn last<V: Value>(self, of: impl Fn(&E) -> V + Send + Sync + 'static) -> Fold<K, V> {
        self.accumulate(choice::last(of))
    }

    /// The [distinct values](choice::distinct) of each key, of which there may be so many.
    pub fn distinct<V: Value + Ord>(
        self,
        limit: usize,
        of: impl Fn(&E) -> V + Send + Sync + 'static,
    ) -> Fold<K, BTreeSet<V>> {
        self.accumulate(choice::distinct(limit, of))
    }

    /// The [`k` with the largest scores](choice::top) of each key.
    pub fn top<S: Value + Ord, T: Value>(
        self,
        k: usize,
        of: impl Fn(&E) -> (S, T) + Send + Sync + 'static,
    ) -> Fold<K, TopK<S, T>> {
        self.accumulate(choice::top(k, of))
    }
}
