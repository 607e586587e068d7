//! Given events, then the rows of a view.

use std::fmt::Debug;
use std::time::Duration;

use super::{fail, lines, sound};
use crate::batch::Batch;
use crate::event::Event;
use crate::options::Options;
use crate::projection::Projection;
use crate::storage::memory::MemoryStorage;
use crate::typed::TypedEvent;

/// For a view that never comes: a projection that is this slow is none to be tested so.
const PATIENCE: Duration = Duration::from_secs(60);

/// Begins a test of a projection.
///
/// ```
/// use everfold::{ApplyError, Event, Projection, RecordedEvent, ViewBatch, kit};
///
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
///
/// # fn main() -> Result<(), everfold::Error> {
/// kit::projection(Sold)
///     .given_events("cart-1", [Event::json("sold", &("pants", 1))?, Event::json("sold", &("hats", 2))?])
///     .given_events("cart-2", [Event::json("sold", &("hats", 3))?])
///     .then_rows([("hats".into(), 5), ("pants".into(), 1)]);
/// # Ok(()) }
/// ```
pub fn projection<P: Projection>(projection: P) -> GivenEvents<P> {
    GivenEvents { projection, given: Batch::new(), said: String::new() }
}

/// The events that a projection is given.
#[derive(Debug)]
#[must_use = "nothing is tested until it is said which rows are expected"]
pub struct GivenEvents<P> {
    projection: P,
    given: Batch,
    said: String,
}

impl<P: Projection> GivenEvents<P> {
    /// These typed events, in this stream, after those that were given before.
    ///
    /// # Panics
    /// When one cannot be serialised: the test fails.
    #[track_caller]
    pub fn given<E: TypedEvent + Debug>(mut self, stream: &str, events: impl IntoIterator<Item = E>) -> Self {
        for event in events {
            self.said += &format!("\n    {event:?} in {stream}");
            self.given = self.given.event(stream, sound(event.to_event(), "make a given event"));
        }
        self
    }

    /// These events, in this stream, after those that were given before.
    pub fn given_events(mut self, stream: &str, events: impl IntoIterator<Item = Event>) -> Self {
        for event in events {
            self.said += &format!("\n    {} in {stream}", event.event_type());
            self.given = self.given.event(stream, event);
        }
        self
    }

    /// The view has these rows, in the order of their keys, and no others.
    ///
    /// # Panics
    /// When it has not, or an event could not be applied: the test fails.
    #[track_caller]
    pub fn then_rows(self, rows: impl IntoIterator<Item = (P::Key, P::Value)>)
    where
        P::Key: Debug + PartialEq,
        P::Value: Debug + PartialEq,
    {
        let said = if self.said.is_empty() { "\n    nothing" } else { &self.said };
        let store = sound(Options::new().open_memory(&MemoryStorage::new()), "open a store in memory");
        if !self.said.is_empty() {
            sound(store.append_batch(self.given), "append the given events");
        }
        let view = sound(store.project(self.projection), "start the projection");
        if let Err(error) = view.wait_for(store.watermark(), PATIENCE) {
            fail(format_args!("given{said}\nthe view does not come: {error:?}"));
        }
        let found: Result<Vec<_>, _> = view.iter().collect();
        let (found, expected) = (sound(found, "read the view"), rows.into_iter().collect::<Vec<_>>());
        if found != expected {
            fail(format_args!(
                "given{said}\nthen the rows{}\nwere expected, but there are{}",
                lines(&expected),
                lines(&found)
            ));
        }
    }
}
