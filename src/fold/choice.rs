//! Accumulators that keep some of the values they see: the least and largest, the first and last, the distinct ones, the top.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::accumulator::{Accumulator, AccumulatorError};
use crate::projection::ApplyError;

/// What rows can hold.
pub trait Value: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Value for V {}

/// The least of a value of each event; of equal ones the first.
pub fn min<E: 'static, V: Value + Ord>(
    of: impl Fn(&E) -> V + Send + Sync + 'static,
) -> impl Accumulator<E, State = V> {
    One { of, replaces: |kept: &V, new: &V| new < kept, event: PhantomData }
}

/// The largest of a value of each event; of equal ones the first.
pub fn max<E: 'static, V: Value + Ord>(
    of: impl Fn(&E) -> V + Send + Sync + 'static,
) -> impl Accumulator<E, State = V> {
    One { of, replaces: |kept: &V, new: &V| new > kept, event: PhantomData }
}

/// A value of the first event, in the order of the log.
pub fn first<E: 'static, V: Value>(
    of: impl Fn(&E) -> V + Send + Sync + 'static,
) -> impl Accumulator<E, State = V> {
    One { of, replaces: |_: &V, _: &V| false, event: PhantomData }
}

/// A value of the last event, in the order of the log.
pub fn last<E: 'static, V: Value>(
    of: impl Fn(&E) -> V + Send + Sync + 'static,
) -> impl Accumulator<E, State = V> {
    One { of, replaces: |_: &V, _: &V| true, event: PhantomData }
}

/// The distinct ones of a value of each event. A key that comes to more than `limit` of them is an
/// [error](AccumulatorError::TooMany), since a row is kept in memory whole.
pub fn distinct<E: 'static, V: Value + Ord>(
    limit: usize,
    of: impl Fn(&E) -> V + Send + Sync + 'static,
) -> impl Accumulator<E, State = BTreeSet<V>> {
    Distinct { limit, of, event: PhantomData }
}

/// The `k` events with the largest scores, as pairs of a score and an item. Of events with equal scores those that come
/// first in the log are kept; two events with the same item are two.
pub fn top<E: 'static, S: Value + Ord, T: Value>(
    k: usize,
    of: impl Fn(&E) -> (S, T) + Send + Sync + 'static,
) -> impl Accumulator<E, State = TopK<S, T>> {
    Top { k, of, event: PhantomData }
}

/// The events with the largest scores.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopK<S, T> {
    /// Scores and items, the largest score first; equal scores in the order of the log.
    pub entries: Vec<(S, T)>,
}

struct One<E, F, R> {
    of: F,
    /// Whether a later value takes the place of the one that is kept.
    replaces: R,
    event: PhantomData<fn(&E)>,
}

impl<E, V, F, R> Accumulator<E> for One<E, F, R>
where
    E: 'static,
    V: Value,
    F: Fn(&E) -> V + Send + Sync + 'static,
    R: Fn(&V, &V) -> bool + Send + Sync + 'static,
{
    type State = V;

    fn start(&self, event: &E) -> Result<V, ApplyError> {
        Ok((self.of)(event))
    }

    fn add(&self, state: &mut V, event: &E) -> Result<(), ApplyError> {
        self.merge(state, (self.of)(event))
    }

    fn merge(&self, earlier: &mut V, later: V) -> Result<(), ApplyError> {
        if (self.replaces)(earlier, &later) {
            *earlier = later;
        }
        Ok(())
    }
}

struct Distinct<E, F> {
    limit: usize,
    of: F,
    event: PhantomData<fn(&E)>,
}

impl<E, F> Distinct<E, F> {
    fn check<V>(&self, values: &BTreeSet<V>) -> Result<(), ApplyError> {
        match values.len() <= self.limit {
            true => Ok(()),
            false => Err(AccumulatorError::TooMany { limit: self.limit }.into()),
        }
    }
}

impl<E: 'static, V: Value + Ord, F: Fn(&E) -> V + Send + Sync + 'static> Accumulator<E> for Distinct<E, F> {
    type State = BTreeSet<V>;

    fn start(&self, event: &E) -> Result<BTreeSet<V>, ApplyError> {
        let values = BTreeSet::from([(self.of)(event)]);
        self.check(&values).map(|()| values)
    }

    fn add(&self, state: &mut BTreeSet<V>, event: &E) -> Result<(), ApplyError> {
        state.insert((self.of)(event));
        self.check(state)
    }

    fn merge(&self, earlier: &mut BTreeSet<V>, mut later: BTreeSet<V>) -> Result<(), ApplyError> {
        earlier.append(&mut later);
        self.check(earlier)
    }
}

struct Top<E, F> {
    k: usize,
    of: F,
    event: PhantomData<fn(&E)>,
}

impl<E, S, T, F> Accumulator<E> for Top<E, F>
where
    E: 'static,
    S: Value + Ord,
    T: Value,
    F: Fn(&E) -> (S, T) + Send + Sync + 'static,
{
    type State = TopK<S, T>;

    fn start(&self, event: &E) -> Result<TopK<S, T>, ApplyError> {
        let entries = if self.k > 0 { vec![(self.of)(event)] } else { Vec::new() };
        Ok(TopK { entries })
    }

    fn add(&self, state: &mut TopK<S, T>, event: &E) -> Result<(), ApplyError> {
        let new = (self.of)(event);
        let at = state.entries.partition_point(|kept| kept.0 >= new.0);
        if at < self.k {
            state.entries.insert(at, new);
            state.entries.truncate(self.k);
        }
        Ok(())
    }

    fn merge(&self, earlier: &mut TopK<S, T>, later: TopK<S, T>) -> Result<(), ApplyError> {
        earlier.entries.extend(later.entries);
        // Stable: of equal scores the earlier ones stay in front.
        earlier.entries.sort_by(|a, b| Reverse(&a.0).cmp(&Reverse(&b.0)));
        earlier.entries.truncate(self.k);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::accumulator::tests::fold;

    const EVENTS: [(u8, &str); 6] = [(2, "a"), (5, "b"), (2, "c"), (5, "d"), (1, "e"), (1, "f")];

    #[test]
    fn ties_are_decided_by_the_order_of_the_log() {
        let owned = |e: &(u8, &'static str)| (e.0, e.1.to_owned());
        let top = fold(&top(3, owned), &EVENTS).unwrap().unwrap();
        assert_eq!(top.entries, [(5, "b".to_owned()), (5, "d".to_owned()), (2, "a".to_owned())]);
        let item = |e: &(u8, &'static str)| e.1.to_owned();
        assert_eq!(fold(&first(item), &EVENTS).unwrap().unwrap(), "a");
        assert_eq!(fold(&last(item), &EVENTS).unwrap().unwrap(), "f");
        assert_eq!(fold(&min(owned), &EVENTS).unwrap().unwrap(), (1, "e".to_owned()));
        assert_eq!(fold(&max(|e: &(u8, &str)| e.0), &EVENTS).unwrap(), Some(5));
    }

    #[test]
    fn more_distinct_values_than_allowed_are_an_error_that_says_how_many() {
        let score = |e: &(u8, &'static str)| e.0;
        assert_eq!(fold(&distinct(3, score), &EVENTS).unwrap().unwrap(), BTreeSet::from([1, 2, 5]));
        let error = fold(&distinct(2, score), &EVENTS).unwrap_err();
        assert!(error.to_string().contains("more than 2 distinct values"), "{error}");
        assert!(fold(&distinct(0, score), &EVENTS).is_err());
    }
}
