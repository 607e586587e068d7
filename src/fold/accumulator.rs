//! What a fold makes of the events of one key, and how two halves of them are put together.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::projection::ApplyError;

/// What the events of one key come to, built event by event, or from two parts that were built apart.
///
/// The law: for events `a` followed by events `b`, folding all of them is the same as folding `a`, folding `b`, and
/// [`merge`](Accumulator::merge)ing the two, with that of `a` as the `earlier` one. It is the same in failing, too: if
/// folding all of them fails, so does a part or the merge, and the other way round. That is what lets everfold fold the
/// parts of a log on several threads, and keep what a part came to.
///
/// Tuples of up to six accumulators are accumulators. One of your own is a matter of three functions:
///
/// ```
/// use everfold::ApplyError;
/// use everfold::fold::Accumulator;
///
/// /// Whether any purchase was returned.
/// struct AnyReturned;
///
/// impl Accumulator<i64> for AnyReturned {
///     type State = bool;
///     fn start(&self, quantity: &i64) -> Result<bool, ApplyError> {
///         Ok(*quantity < 0)
///     }
///     fn add(&self, state: &mut bool, quantity: &i64) -> Result<(), ApplyError> {
///         *state |= *quantity < 0;
///         Ok(())
///     }
///     fn merge(&self, earlier: &mut bool, later: bool) -> Result<(), ApplyError> {
///         *earlier |= later;
///         Ok(())
///     }
/// }
/// ```
pub trait Accumulator<E>: Send + Sync + 'static {
    /// What a row of the view holds.
    type State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// What a key's first event comes to.
    ///
    /// # Errors
    /// When the event cannot be taken in.
    fn start(&self, event: &E) -> Result<Self::State, ApplyError>;

    /// Takes in one more event.
    ///
    /// # Errors
    /// As [`start`](Accumulator::start).
    fn add(&self, state: &mut Self::State, event: &E) -> Result<(), ApplyError>;

    /// Puts what later events came to behind what the `earlier` ones did.
    ///
    /// # Errors
    /// When adding the later events one by one would have failed.
    fn merge(&self, earlier: &mut Self::State, later: Self::State) -> Result<(), ApplyError>;
}

/// Why an accumulator could not take an event in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccumulatorError {
    /// A sum, or what was to be added to it, is larger than its type can hold.
    #[error("a sum is too large for its type")]
    Overflow,
    /// There are more distinct values than the fold allows.
    #[error("there are more than {limit} distinct values; allow more, or leave some out with a filter")]
    TooMany {
        /// How many are allowed.
        limit: usize,
    },
}

macro_rules! tuple {
    ($($A:ident $n:tt),+) => {
        impl<Ev, $($A: Accumulator<Ev>),+> Accumulator<Ev> for ($($A,)+) {
            type State = ($($A::State,)+);

            fn start(&self, event: &Ev) -> Result<Self::State, ApplyError> {
                Ok(($(self.$n.start(event)?,)+))
            }

            fn add(&self, state: &mut Self::State, event: &Ev) -> Result<(), ApplyError> {
                $(self.$n.add(&mut state.$n, event)?;)+
                Ok(())
            }

            fn merge(&self, earlier: &mut Self::State, later: Self::State) -> Result<(), ApplyError> {
                $(self.$n.merge(&mut earlier.$n, later.$n)?;)+
                Ok(())
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;
    use crate::fold::{average, count, distinct, first, last, max, min, sum, top};

    pub(in crate::fold) fn fold<E, A: Accumulator<E>>(
        accumulator: &A,
        events: &[E],
    ) -> Result<Option<A::State>, ApplyError> {
        let Some((one, more)) = events.split_first() else { return Ok(None) };
        let mut state = accumulator.start(one)?;
        for event in more {
            accumulator.add(&mut state, event)?;
        }
        Ok(Some(state))
    }

    /// The law, for events that are cut in two or three.
    fn keeps_the_law<E: Clone, A: Accumulator<E>>(
        accumulator: &A,
        parts: &[Vec<E>; 3],
    ) -> Result<(), TestCaseError>
    where
        A::State: PartialEq + Debug,
    {
        let whole = fold(accumulator, &parts.concat());
        let merged = parts.iter().map(|part| fold(accumulator, part)).try_fold(None, |earlier, later| {
            Ok::<_, ApplyError>(match (earlier, later?) {
                (Some(mut earlier), Some(later)) => {
                    accumulator.merge(&mut earlier, later)?;
                    Some(earlier)
                }
                (earlier, later) => earlier.or(later),
            })
        });
        match (whole, merged) {
            (Ok(whole), Ok(merged)) => prop_assert_eq!(whole, merged),
            (whole, merged) => prop_assert_eq!(whole.is_err(), merged.is_err()),
        }
        Ok(())
    }

    /// Few and extreme numbers, so that ties and overflows are common.
    fn parts() -> impl Strategy<Value = [Vec<i128>; 3]> {
        let limit = 1i128 << 95;
        let one = prop_oneof![
            8 => -3..4i128,
            1 => prop_oneof![Just(limit), Just(-limit), Just(limit + 1), any::<i128>()],
        ];
        let part = proptest::collection::vec(one, 0..6);
        [part.clone(), part.clone(), part]
    }

    fn small(n: &i128) -> i32 {
        i32::try_from(*n).unwrap_or(if *n < 0 { i32::MIN } else { i32::MAX })
    }

    fn wide(n: &i128) -> i64 {
        i64::try_from(*n).unwrap_or(if *n < 0 { i64::MIN } else { i64::MAX })
    }

    proptest! {
        #[test]
        fn what_is_folded_in_parts_and_merged_is_what_is_folded_at_once(parts in parts()) {
            keeps_the_law(&count(), &parts)?;
            keeps_the_law(&sum(small), &parts)?;
            keeps_the_law(&sum(wide), &parts)?;
            keeps_the_law(&sum(|n: &i128| *n), &parts)?;
            keeps_the_law(&average(wide), &parts)?;
            keeps_the_law(&average(|n: &i128| *n), &parts)?;
            keeps_the_law(&min(|n: &i128| *n), &parts)?;
            keeps_the_law(&max(small), &parts)?;
            keeps_the_law(&first(|n: &i128| *n), &parts)?;
            keeps_the_law(&last(|n: &i128| *n), &parts)?;
            for limit in 0..4 {
                keeps_the_law(&distinct(limit, |n: &i128| n % 3), &parts)?;
                keeps_the_law(&top(limit, |n: &i128| (n % 2, *n)), &parts)?;
            }
            keeps_the_law(&(count(), sum(|n: &i128| *n), distinct(3, small)), &parts)?;
            let six = (count(), sum(small), min(small), max(wide), (first(small), last(small)), top(2, |n: &i128| (*n, ())));
            keeps_the_law(&six, &parts)?;
        }
    }
}
