//! What a projection keeps besides its own view: other views, and indexes on all of them.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::{AnyTable, IndexOf, Table};
use crate::error::Error;
use crate::view::index::{Index, entry_keys};
use crate::view::key::Key;
use crate::view::layout::{Layout, Part};
use crate::view::named::NamedView;

/// The named views and the indexes of a projection, as [`Projection::views`](crate::Projection::views) declares them.
///
/// They are kept in the order of declaration. When they change, the projection's view is made anew from the log at the
/// next opening, also if its `GENERATION` is the same.
///
/// ```
/// use everfold::{Index, NamedView, Views};
///
/// struct ByCustomer;
/// impl NamedView for ByCustomer {
///     const NAME: &'static str = "by-customer";
///     type Key = String;
///     type Value = u64;
/// }
///
/// struct BySpent;
/// impl Index<String, u64> for BySpent {
///     const NAME: &'static str = "by-spent";
///     type Key = u64;
///     fn keys(_customer: &String, spent: &u64) -> impl IntoIterator<Item = u64> {
///         Some(*spent).filter(|spent| *spent > 0)
///     }
/// }
///
/// let views: Views<(String, u32), u64> = Views::new().view::<ByCustomer>().index_of::<ByCustomer, BySpent>();
/// ```
#[must_use = "views do nothing until a projection returns them"]
pub struct Views<K, V> {
    layout: Arc<Layout>,
    own: Arc<[IndexOf<K, V>]>,
    named: Vec<Box<dyn Tables>>,
    refused: Option<Error>,
}

/// Makes the tables of one named view.
trait Tables: Send + Sync {
    fn as_any(&mut self) -> &mut dyn Any;
    fn make(&self, part: Part) -> Box<dyn AnyTable>;
}

struct TablesOf<N: NamedView>(Arc<[IndexOf<N::Key, N::Value>]>);

impl<N: NamedView> Tables for TablesOf<N> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn make(&self, part: Part) -> Box<dyn AnyTable> {
        Box::new(Table::new(part, self.0.clone()))
    }
}

impl<K, V> Default for Views<K, V> {
    fn default() -> Self {
        Views { layout: Arc::default(), own: Arc::new([]), named: Vec::new(), refused: None }
    }
}

impl<K, V> fmt::Debug for Views<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned + 'static> Views<K, V> {
    /// The projection's own view only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a named view; up to [`MAX_NAMED_VIEWS`](crate::MAX_NAMED_VIEWS).
    pub fn view<N: NamedView>(mut self) -> Self {
        match Arc::make_mut(&mut self.layout).add_view(N::NAME, TypeId::of::<N>()) {
            Ok(_) => self.named.push(Box::new(TablesOf::<N>(Arc::new([])))),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Adds an index on the projection's own view; as many indexes as views, in all.
    pub fn index<I: Index<K, V>>(mut self) -> Self {
        match Arc::make_mut(&mut self.layout).add_index(I::NAME, TypeId::of::<I>(), Part::OWN) {
            Ok(number) => self.own = with(&self.own, IndexOf { number, keys: entry_keys::<K, V, I> }),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Adds an index on a named view, which was added before.
    pub fn index_of<N: NamedView, I: Index<N::Key, N::Value>>(mut self) -> Self {
        let part = self.layout.view(TypeId::of::<N>(), N::NAME);
        let added = part.and_then(|part| {
            let layout = Arc::make_mut(&mut self.layout);
            Ok((part, layout.add_index(I::NAME, TypeId::of::<I>(), part)?))
        });
        match added {
            Ok((part, number)) => {
                let tables = place(part).and_then(|place| self.named.get_mut(place));
                if let Some(of) = tables.and_then(|tables| tables.as_any().downcast_mut::<TablesOf<N>>()) {
                    of.0 = with(&of.0, IndexOf { number, keys: entry_keys::<N::Key, N::Value, I> });
                }
            }
            Err(error) => self.refuse(error),
        }
        self
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }

    /// They, if they can be.
    pub(crate) fn checked(mut self) -> Result<Arc<Self>, Error> {
        match self.refused.take() {
            None => Ok(Arc::new(self)),
            Some(error) => Err(error),
        }
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub(super) fn own_table(&self) -> Table<K, V> {
        Table::new(Part::OWN, self.own.clone())
    }

    /// The table of the named view of this part.
    pub(super) fn table(&self, part: Part) -> Option<Box<dyn AnyTable>> {
        Some(self.named.get(place(part)?)?.make(part))
    }
}

/// Where the named view of this part is among the named.
pub(super) fn place(part: Part) -> Option<usize> {
    usize::from(part.number()).checked_sub(1)
}

fn with<T: Copy>(some: &[T], one: T) -> Arc<[T]> {
    some.iter().copied().chain([one]).collect()
}
