//! Views that a projection keeps besides its own.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::key::Key;

/// A view that a projection keeps besides its own: both are changed in one step, and read at one checkpoint.
///
/// A projection declares it in [`views`](crate::Projection::views), changes it in `apply` through
/// [`ViewBatch::of`](crate::ViewBatch::of), and it is read through [`View::of`](crate::View::of).
///
/// ```
/// use everfold::{ApplyError, NamedView, Projection, RecordedEvent, ViewBatch, Views};
///
/// /// How much each customer bought.
/// struct ByCustomer;
///
/// impl NamedView for ByCustomer {
///     const NAME: &'static str = "by-customer";
///     type Key = String;
///     type Value = u64;
/// }
///
/// /// How much of each item was sold, and how much each customer bought.
/// struct Sold;
///
/// impl Projection for Sold {
///     const NAME: &'static str = "sold";
///     const GENERATION: u32 = 1;
///     type Key = String;
///     type Value = u64;
///
///     fn views() -> Views<String, u64> {
///         Views::new().view::<ByCustomer>()
///     }
///
///     fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
///         let (item, quantity): (String, u64) = event.decode()?;
///         view.update(item, |sold| Some(sold.unwrap_or(0) + quantity))?;
///         let customer = event.stream().to_owned();
///         view.of::<ByCustomer>()?.update(customer, |bought| Some(bought.unwrap_or(0) + quantity))
///     }
/// }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use everfold::{Event, Expected, MemoryStorage, Options};
/// # let store = Options::new().open_memory(&MemoryStorage::new())?;
///
/// let sold = store.project(Sold)?;
/// let done = store.append("jsmith", Expected::Any, [Event::json("sold", &("hats", 2))?])?;
/// sold.wait_for(done.position, std::time::Duration::from_secs(10))?;
/// assert_eq!(sold.get(&"hats".into())?, Some(2));
/// assert_eq!(sold.of::<ByCustomer>()?.get(&"jsmith".into())?, Some(2));
/// # Ok(()) }
/// ```
pub trait NamedView: 'static {
    /// Its name among the views and indexes of the projection: 1 to 64 of `a-z`, `0-9`, `-` and `_`.
    const NAME: &'static str;
    /// What rows are found by. At most 1,022 bytes when encoded.
    type Key: Key;
    /// What a row holds. Less than 1 MiB when encoded.
    type Value: Serialize + DeserializeOwned + Send + 'static;
}
