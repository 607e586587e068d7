//! Typed events: an enum whose cases are types of events, with the versions of their schemas.

mod name;
mod read;
mod schema;
mod upcast;
mod write;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use name::schema_version;
pub use schema::Schema;
pub use upcast::Upcasters;

use crate::error::{Error, ErrorKind};
use crate::event::{Encoding, Event};
use crate::log::event_types::EventTypes;
use crate::store::Store;
use upcast::raw;
use write::{Fields, case_of};

/// An enum of the events that belong together: each case is an event type.
///
/// The type's name is the name that serde gives to the case, so `#[serde(rename = "…")]` says it, or `rename_all`. The
/// payload is what is in the case: `{"owner":"jsmith"}` of `Opened { owner }`, `100` of `Deposited(100)`.
///
/// When the payload of a type changes in a way that serde's `default` does not cover, the schema gets a new version, which
/// is a part of the name: `deposited` is version 1, `deposited@2` version 2. The enum has the newest version only, and
/// [`upcasters`](TypedEvent::upcasters) make it of the older ones. [`Schema::check`] tells what is missing for the events
/// that a log really holds.
///
/// ```
/// use everfold::{TypedEvent, Upcasters};
/// use serde::{Deserialize, Serialize};
/// use serde_json::{Value, json};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum Account {
///     Opened { owner: String },
///     #[serde(rename = "deposited@2")]
///     Deposited { cents: u64, account: u32 },
/// }
///
/// impl TypedEvent for Account {
///     fn tags(&self) -> Vec<String> {
///         match self {
///             Account::Opened { .. } => Vec::new(),
///             Account::Deposited { account, .. } => vec![format!("account:{account}")],
///         }
///     }
///
///     fn upcasters() -> Upcasters {
///         Upcasters::new().upcast("deposited", "deposited@2", |old: Value| {
///             Ok(json!({ "cents": old["euros"].as_u64().ok_or("no euros")? * 100, "account": 0 }))
///         })
///     }
/// }
///
/// # fn main() -> Result<(), everfold::Error> {
/// let deposited = Account::Deposited { cents: 100, account: 7 }.to_event()?;
/// assert_eq!(deposited.event_type(), "deposited@2");
/// assert_eq!(deposited.payload(), br#"{"cents":100,"account":7}"#);
/// assert_eq!(deposited.tags().next(), Some("account:7"));
/// # Ok(()) }
/// ```
pub trait TypedEvent: Serialize + DeserializeOwned {
    /// How payloads are encoded: JSON, or bincode, which is smaller and has no room for fields that come and go. Events
    /// are read as they were encoded, so this can be changed.
    const ENCODING: Encoding = Encoding::Json;

    /// The tags of an event: what queries and guards find it by.
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    /// How events of earlier types and schema versions are read as these.
    fn upcasters() -> Upcasters {
        Upcasters::new()
    }

    /// The event to append, with an id of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when it does not serialise, or is not a case of an enum.
    fn to_event(&self) -> Result<Event, Error> {
        let Some(event_type) = case_of(self) else {
            return Err(Error::new(
                ErrorKind::Codec,
                format!(
                    "{} does not serialise as a case of an enum in serde's default form",
                    std::any::type_name::<Self>()
                ),
            ));
        };
        let event = match Self::ENCODING {
            Encoding::Json => Event::json(event_type, &Fields(self))?,
            Encoding::Bincode => Event::bincode(event_type, &Fields(self))?,
            Encoding::Raw => return Err(raw()),
        };
        Ok(self.tags().iter().fold(event, Event::tag))
    }
}

impl Store {
    /// Counts the durable events of each type. The indexes tell: no event is read, except in a segment whose index is
    /// missing or damaged, which is [read whole](crate::SegmentTypes::read_whole) to make it anew. What
    /// [`retain`](Store::retain) has dropped is not counted.
    ///
    /// All names in the indexes are gone through, also those of streams and tags: some tens of bytes for each name in each
    /// segment.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when damage hides events, whose types nobody knows then; `Io`; `Closed`.
    ///
    /// ```
    /// use everfold::{Event, Expected};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
    /// let sold = || Event::raw("sold", *b"hats");
    /// store.append("cart-7", Expected::Any, [sold(), sold(), Event::raw("paid", *b"")])?;
    /// let types = store.event_types()?;
    /// let counts: Vec<_> = types.iter().map(|found| (found.event_type.as_str(), found.count)).collect();
    /// assert_eq!(counts, [("paid", 1), ("sold", 2)]);
    /// # Ok(()) }
    /// ```
    pub fn event_types(&self) -> Result<EventTypes, Error> {
        self.log().catalog.event_types()
    }
}
