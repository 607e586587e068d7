//! Declared folds: what events to take, what to file them under, and what they come to.
//!
//! For the common case a [`Fold`] says in a few lines what a [`Projection`](crate::Projection) would say in many. And
//! because it is made of [`Accumulator`]s, whose halves can be put together, everfold folds the parts of a log on several
//! threads, and keeps what each part came to: so it tells what the rows were as of any earlier position without reading
//! the log from its start.
//!
//! A stream of purchases, and the quantities sold by customer and item:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use everfold::{Event, Expected, Fold, Position};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Purchase {
//!     customer: String,
//!     item: String,
//!     quantity: i32,
//! }
//!
//! fn sold() -> Fold<(String, String), i64> {
//!     Fold::new("sold", 1)
//!         .types(["purchased"])
//!         .decode::<Purchase>()
//!         .key_by(|purchase| (purchase.customer.clone(), purchase.item.clone()))
//!         .sum(|purchase| purchase.quantity)
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
//! for (item, quantity) in [("hats", 1), ("hats", 1), ("pants", 1), ("sweaters", 1), ("pants", 1), ("pants", -1)] {
//!     let purchase = Purchase { customer: "jsmith".into(), item: item.into(), quantity };
//!     store.append("purchases", Expected::Any, [Event::json("purchased", &purchase)?])?;
//! }
//!
//! let jsmith = |item: &str| ("jsmith".to_owned(), item.to_owned());
//! let rows = store.fold(&sold()).rows()?;
//! assert_eq!(rows, BTreeMap::from([(jsmith("hats"), 2), (jsmith("pants"), 1), (jsmith("sweaters"), 1)]));
//!
//! let before = store.fold(&sold()).as_of(Position::new(5)).get(&jsmith("pants"))?;
//! assert_eq!(before, Some(2));
//! # Ok(()) }
//! ```
//!
//! Several accumulators make a tuple. Their closures are told the type of the event:
//!
//! ```
//! use everfold::Fold;
//! use everfold::fold::{Average, TopK, average, count, top};
//!
//! type Line = (String, u32);
//! let sizes: Fold<String, (u64, Average<i64>, TopK<u32, String>)> = Fold::new("sizes", 1)
//!     .decode::<Line>()
//!     .filter(|line| line.1 > 0)
//!     .key_by(|line| line.0.clone())
//!     .accumulate((count(), average(|line: &Line| line.1), top(3, |line: &Line| (line.1, line.0.clone()))));
//! ```

mod accumulator;
mod build;
#[cfg(test)]
mod build_tests;
mod builder;
mod cells;
mod choice;
mod decimal;
mod declared;
mod folding;
mod gather;
#[cfg(test)]
mod gather_tests;
mod merging;
mod partial;
mod partial_files;
mod piece_rows;
mod pieces;
mod projected;
mod sum;

pub use accumulator::{Accumulator, AccumulatorError};
#[cfg(test)]
pub(crate) use build::Most;
pub use builder::{FoldBy, FoldEvents, FoldOf};
pub use choice::{TopK, Value, distinct, first, last, max, min, top};
pub use decimal::Decimal;
pub use declared::Fold;
pub use folding::Folding;
pub(crate) use projected::Projected;
pub use sum::{Average, Summable, Total, average, count, sum};
