//! Projections: code that folds events into a view, and the thread that runs it.

mod applying;
mod batch;
mod chunks;
mod feed;
mod folding;
mod held;
mod left_out;
mod listed;
mod merges;
mod opened;
mod pace;
mod policy;
mod projector;
mod proving;
mod refold;
mod run;
mod runs;
mod stretch;
mod table;
pub(crate) mod threads;
mod views;
mod waiting;

use std::error::Error as StdError;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use batch::{NamedBatch, ViewBatch};
pub(crate) use chunks::Chunks;
pub(crate) use opened::ViewHome;
pub use policy::{OnError, ProjectionOptions};
pub(crate) use projector::{Projector, Setting};
pub(crate) use proving::fold_in_memory;
pub(crate) use runs::Runs;
pub(crate) use stretch::{Built, Extent, Stretch, Stretches};
pub use views::Views;

use crate::event::RecordedEvent;
use crate::view::key::Key;

/// A fold from events to the rows of a view.
///
/// It must be deterministic: the same events give the same rows, now, after a crash, and when the view is rebuilt.
/// So no clocks, no random numbers, no reading of anything but the event and the view; and no side effects, since an
/// event is applied again when the view is rebuilt. It must not hold a [`Store`](crate::Store): a store that its own
/// projection holds is never dropped. Raise `GENERATION` when the fold or its types change: the
/// view is then built anew from the log.
///
/// ```
/// use everfold::{ApplyError, Projection, RecordedEvent, ViewBatch};
///
/// /// How many of each item were sold.
/// struct Sold;
///
/// impl Projection for Sold {
///     const NAME: &'static str = "sold";
///     const GENERATION: u32 = 1;
///     type Key = String;
///     type Value = u64;
///
///     fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
///         let (item, quantity): (String, u64) = event.decode()?;
///         view.merge(item, quantity, |sold, quantity| *sold += quantity)
///     }
/// }
/// ```
pub trait Projection: Send + Sync + 'static {
    /// Names the view; also its folder, so 1 to 64 of `a-z`, `0-9`, `-` and `_`.
    const NAME: &'static str;
    /// Raised whenever the fold or its types change.
    const GENERATION: u32;
    /// Whether the view may be folded from what is left of a log whose first events were removed by
    /// [`retain`](crate::Store::retain). If not, a projection that would have to start before the log does stops with
    /// [`Truncated`](crate::ErrorKind::Truncated).
    const FROM_LOG_START: bool = false;
    /// Whether the rows of the generation before may be served while this one is built beside them. They stay as they are,
    /// until the new ones have caught up and take their place in one step; [`status`](crate::View::status) tells which are
    /// served. `Key` and `Value` have to be able to read them. If not, the new rows are served as they grow.
    const SERVES_EARLIER: bool = false;
    /// What rows are found by. At most 1,023 bytes when encoded.
    type Key: Key;
    /// What a row holds. Less than 1 MiB when encoded; a few KiB is what the key-value store likes.
    type Value: Serialize + DeserializeOwned + Send + 'static;

    /// What it keeps besides its own view: [named views](crate::NamedView), and [indexes](crate::Index) on any of them.
    /// None, if not said otherwise.
    fn views() -> Views<Self::Key, Self::Value> {
        Views::new()
    }

    /// Takes one event into the view. Events it does not care about it leaves alone.
    ///
    /// # Errors
    /// An error (or a panic) stops this projection before the event, with what it changed undone; the view serves
    /// what it has, and whoever waits for more is told. Other projections go on. Registering the projection again
    /// starts it again. With [other options](crate::ProjectionOptions) the event is tried again, or set aside.
    fn apply(
        &self,
        event: &RecordedEvent,
        view: &mut ViewBatch<Self::Key, Self::Value>,
    ) -> Result<(), ApplyError>;
}

/// Why an event could not be applied. Made from any error by `?`, or from text.
pub struct ApplyError(Box<dyn StdError + Send + Sync>);

impl ApplyError {
    /// An error that says this.
    pub fn new(message: impl Into<String>) -> Self {
        ApplyError(message.into().into())
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for ApplyError {
    fn from(error: E) -> Self {
        ApplyError(Box::new(error))
    }
}

impl fmt::Debug for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApplyError({})", self.0)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
