//! What declared folds come to.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use crate::fold::{Fold, Folding};
use crate::view::key::Key;

impl Store {
    /// Asks what a declared fold comes to, over the whole log or [as of](Folding::as_of) a position. Nothing is kept up to
    /// date, and no view is made: each question is answered from the log, and from what is kept of its sealed segments.
    /// See [`fold`](crate::fold).
    ///
    /// ```
    /// use everfold::{Event, Expected, Fold, Position};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// store.append("cart-7", Expected::Any, [Event::json("sold", &("hats", 2))?, Event::json("sold", &("hats", 3))?])?;
    /// let sold = Fold::new("sold", 1).decode::<(String, u32)>().key_by(|line| line.0.clone()).sum(|line| line.1);
    /// assert_eq!(store.fold(&sold).get(&"hats".to_owned())?, Some(5));
    /// assert_eq!(store.fold(&sold).as_of(Position::new(1)).get(&"hats".to_owned())?, Some(2));
    /// # Ok(()) }
    /// ```
    pub fn fold<K: Key, S: Serialize + DeserializeOwned + Clone + Send + 'static>(
        &self,
        fold: &Fold<K, S>,
    ) -> Folding<K, S> {
        Folding::new(fold.clone(), self.shared.log.catalog.clone())
    }
}
