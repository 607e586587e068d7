//! Counts, sums and averages: exact, or an error.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

use super::accumulator::{Accumulator, AccumulatorError};
use super::decimal::Decimal;
use crate::projection::ApplyError;

/// Counts the events. The rows hold a `u64`.
pub fn count<E: 'static>() -> impl Accumulator<E, State = u64> {
    Count
}

/// Adds up a number of each event. The rows hold an `i64` for numbers of up to 32 bits, an `i128` for wider ones, and a
/// [`Decimal`] for decimals: so wide that whether a sum fails does not hang on the order of what is added, for the first
/// 4 billion events of a key.
///
/// ```
/// use everfold::fold::{Accumulator, sum};
///
/// let total = sum(|line: &(&str, i32)| line.1);
/// let mut state = total.start(&("hats", 2))?;
/// total.add(&mut state, &("pants", -1))?;
/// assert_eq!(state, 1i64);
/// # Ok::<(), everfold::ApplyError>(())
/// ```
pub fn sum<E: 'static, N: Summable>(
    of: impl Fn(&E) -> N + Send + Sync + 'static,
) -> impl Accumulator<E, State = N::Sum> {
    Sum { of, event: PhantomData }
}

/// The average of a number of each event: its sum, and how many there are.
pub fn average<E: 'static, N: Summable>(
    of: impl Fn(&E) -> N + Send + Sync + 'static,
) -> impl Accumulator<E, State = Average<N::Sum>> {
    Mean(Sum { of, event: PhantomData })
}

/// What can be added up: integers and [`Decimal`]s. Not floats, whose sum hangs on the order of what is added.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be summed exactly",
    note = "integers of fixed width can, and `everfold::fold::Decimal`"
)]
pub trait Summable: Copy + Send + Sync + 'static {
    /// What a sum of them is kept in.
    type Sum: Total;

    /// The number as a part of a sum.
    ///
    /// # Errors
    /// [`AccumulatorError::Overflow`] for an `i128` or [`Decimal`] beyond 2^95: a sum of such numbers could leave its type
    /// and come back.
    fn addend(self) -> Result<Self::Sum, AccumulatorError>;
}

/// What a sum is kept in.
pub trait Total: Copy + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// As a number of units.
    fn units(self) -> i128;

    /// Of so many units, if they fit.
    fn from_units(units: i128) -> Option<Self>;
}

/// A sum, and of how many numbers it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Average<T> {
    /// The sum of the numbers.
    pub sum: T,
    /// How many there are.
    pub count: u64,
}

impl<T: Total> Average<T> {
    /// The average, rounded to the nearest integer or last digit of a [`Decimal`]; halves are rounded away from zero.
    #[must_use]
    pub fn value(&self) -> T {
        let (sum, count) = (self.sum.units(), i128::from(self.count.max(1)));
        let (whole, rest) = (sum / count, sum % count);
        let up = if rest.abs() >= count - rest.abs() { sum.signum() } else { 0 };
        // Never farther from zero than the sum, which fits.
        T::from_units(whole + up).unwrap_or(self.sum)
    }
}

struct Count;

struct Sum<E, F> {
    of: F,
    event: PhantomData<fn(&E)>,
}

struct Mean<E, F>(Sum<E, F>);

impl<E: 'static> Accumulator<E> for Count {
    type State = u64;

    fn start(&self, _: &E) -> Result<u64, ApplyError> {
        Ok(1)
    }

    fn add(&self, state: &mut u64, _: &E) -> Result<(), ApplyError> {
        Accumulator::<E>::merge(self, state, 1)
    }

    fn merge(&self, earlier: &mut u64, later: u64) -> Result<(), ApplyError> {
        *earlier = earlier.checked_add(later).ok_or(AccumulatorError::Overflow)?;
        Ok(())
    }
}

fn plus<T: Total>(sum: &mut T, more: T) -> Result<(), ApplyError> {
    let units = sum.units().checked_add(more.units());
    *sum = units.and_then(T::from_units).ok_or(AccumulatorError::Overflow)?;
    Ok(())
}

impl<E: 'static, N: Summable, F: Fn(&E) -> N + Send + Sync + 'static> Accumulator<E> for Sum<E, F> {
    type State = N::Sum;

    fn start(&self, event: &E) -> Result<N::Sum, ApplyError> {
        Ok((self.of)(event).addend()?)
    }

    fn add(&self, state: &mut N::Sum, event: &E) -> Result<(), ApplyError> {
        plus(state, (self.of)(event).addend()?)
    }

    fn merge(&self, earlier: &mut N::Sum, later: N::Sum) -> Result<(), ApplyError> {
        plus(earlier, later)
    }
}

impl<E: 'static, N: Summable, F: Fn(&E) -> N + Send + Sync + 'static> Accumulator<E> for Mean<E, F> {
    type State = Average<N::Sum>;

    fn start(&self, event: &E) -> Result<Self::State, ApplyError> {
        Ok(Average { sum: self.0.start(event)?, count: 1 })
    }

    fn add(&self, state: &mut Self::State, event: &E) -> Result<(), ApplyError> {
        self.0.add(&mut state.sum, event)?;
        Accumulator::<E>::add(&Count, &mut state.count, event)
    }

    fn merge(&self, earlier: &mut Self::State, later: Self::State) -> Result<(), ApplyError> {
        plus(&mut earlier.sum, later.sum)?;
        Accumulator::<E>::merge(&Count, &mut earlier.count, later.count)
    }
}

macro_rules! summable {
    ($Sum:ident: $($N:ident)+) => {
        $(impl Summable for $N {
            type Sum = $Sum;

            fn addend(self) -> Result<$Sum, AccumulatorError> {
                Ok(self.into())
            }
        })+
    };
}

summable!(i64: i8 i16 i32 u8 u16 u32);
summable!(i128: i64 u64);

/// No sum of 4 billion such numbers leaves an `i128`, in whatever order they are added.
fn check(units: i128) -> Result<(), AccumulatorError> {
    if units.unsigned_abs() <= 1 << 95 { Ok(()) } else { Err(AccumulatorError::Overflow) }
}

impl Summable for i128 {
    type Sum = i128;

    fn addend(self) -> Result<i128, AccumulatorError> {
        check(self).map(|()| self)
    }
}

impl<const SCALE: u32> Summable for Decimal<SCALE> {
    type Sum = Self;

    fn addend(self) -> Result<Self, AccumulatorError> {
        check(self.units()).map(|()| self)
    }
}

impl Total for i64 {
    fn units(self) -> i128 {
        self.into()
    }

    fn from_units(units: i128) -> Option<Self> {
        units.try_into().ok()
    }
}

impl Total for i128 {
    fn units(self) -> i128 {
        self
    }

    fn from_units(units: i128) -> Option<Self> {
        Some(units)
    }
}

impl<const SCALE: u32> Total for Decimal<SCALE> {
    fn units(self) -> i128 {
        self.mantissa()
    }

    fn from_units(units: i128) -> Option<Self> {
        Some(Decimal::from_mantissa(units))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::accumulator::tests::fold;

    #[test]
    fn a_sum_beyond_its_type_is_an_error_and_never_wraps() {
        let limit = 1i128 << 95;
        let total = sum(|n: &i128| *n);
        assert_eq!(fold(&total, &[limit, limit, -limit]).unwrap(), Some(limit));
        assert!(fold(&total, &[limit + 1]).is_err());
        assert!(fold(&total, &[-limit - 1]).is_err());
        let mut state = i128::MAX - 1;
        total.add(&mut state, &1).unwrap();
        assert_eq!(
            total.add(&mut state, &1).unwrap_err().to_string(),
            AccumulatorError::Overflow.to_string()
        );
        assert!(total.merge(&mut state, 1).is_err());
        let small = sum(|n: &i32| *n);
        let mut state = i64::MIN;
        assert!(small.add(&mut state, &-1).is_err());
        assert_eq!(state, i64::MIN);
        assert_eq!(fold(&sum(|n: &u64| *n), &[u64::MAX; 3]).unwrap(), Some(i128::from(u64::MAX) * 3));
    }

    #[test]
    fn an_average_is_rounded_to_the_nearest_and_halves_away_from_zero() {
        let value = |sum: i64, count| Average { sum, count }.value();
        assert_eq!([value(5, 2), value(-5, 2), value(4, 3), value(5, 3), value(-4, 3)], [3, -3, 1, 2, -1]);
        assert_eq!([value(0, 7), value(7, 0), value(i64::MIN, 1), value(1, u64::MAX)], [0, 7, i64::MIN, 0]);
        let price = Average { sum: Decimal::<2>::from_mantissa(100), count: 3 };
        assert_eq!(price.value().to_string(), "0.33");
        assert_eq!(Average { sum: i128::MAX, count: 1 }.value(), i128::MAX);
    }
}
