//! What declared folds come to.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use crate::error::Error;
use crate::fold::{Fold, Folding, Projected};
use crate::projection::ProjectionOptions;
use crate::view::handle::View;
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
    pub fn fold<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static>(
        &self,
        fold: &Fold<K, S>,
    ) -> Folding<K, S> {
        Folding::new(fold.clone(), self.shared.log.catalog.clone())
    }

    /// Keeps a view of a declared fold up to date in the background, and returns it. It is a view like that of any
    /// [projection](Store::project). While it is far behind, as a new one often is, parts of the log are folded on several
    /// threads, if nobody follows its changes.
    ///
    /// Registering the fold again returns the same view. A fold declared elsewhere in the code is another one, also if it
    /// says the same: declare it in one function.
    ///
    /// What the rows were as of an earlier position, [`fold`](Store::fold) tells.
    ///
    /// # Errors
    /// As [`project`](Store::project).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use everfold::{Event, Expected, Fold, Position};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Purchase {
    ///     customer: String,
    ///     item: String,
    ///     quantity: i32,
    /// }
    ///
    /// /// `SELECT customer, item, SUM(quantity) FROM purchases GROUP BY customer, item`
    /// fn sold() -> Fold<(String, String), i64> {
    ///     Fold::new("sold", 1)
    ///         .types(["purchased"])
    ///         .decode::<Purchase>()
    ///         .key_by(|purchase| (purchase.customer.clone(), purchase.item.clone()))
    ///         .sum(|purchase| purchase.quantity)
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let table = store.project_fold(sold())?;
    /// for (item, quantity) in [("hats", 1), ("hats", 1), ("pants", 1), ("sweaters", 1), ("pants", 1), ("pants", -1)] {
    ///     let purchase = Purchase { customer: "jsmith".into(), item: item.into(), quantity };
    ///     store.append("purchases", Expected::Any, [Event::json("purchased", &purchase)?])?;
    /// }
    ///
    /// // The table changes with each purchase.
    /// let mut seen = Vec::new();
    /// for change in table.changes(Position::START).take(6) {
    ///     let change = change?;
    ///     seen.push((change.key.1, change.new.unwrap_or_default()));
    /// }
    /// let seen: Vec<_> = seen.iter().map(|(item, sum)| (item.as_str(), *sum)).collect();
    /// assert_eq!(seen, [("hats", 1), ("hats", 2), ("pants", 1), ("sweaters", 1), ("pants", 2), ("pants", 1)]);
    ///
    /// table.wait_for(store.watermark(), Duration::from_secs(10))?;
    /// assert_eq!(table.get(&("jsmith".into(), "pants".into()))?, Some(1));
    /// let before = store.fold(&sold()).as_of(Position::new(5));
    /// assert_eq!(before.get(&("jsmith".into(), "pants".into()))?, Some(2));
    /// # Ok(()) }
    /// ```
    pub fn project_fold<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static>(
        &self,
        fold: Fold<K, S>,
    ) -> Result<View<K, S>, Error> {
        self.project_fold_with(fold, ProjectionOptions::new())
    }

    /// [`project_fold`](Store::project_fold), with what is to become of events that fail, and how many threads may fold. Of
    /// a fold that runs already, the options stay those it was started with.
    ///
    /// # Errors
    /// As [`project`](Store::project).
    pub fn project_fold_with<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static>(
        &self,
        fold: Fold<K, S>,
        options: ProjectionOptions,
    ) -> Result<View<K, S>, Error> {
        let kind = fold.kind();
        self.start_projection(Projected::new(fold), kind, options)
    }
}
