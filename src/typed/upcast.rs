//! How events of types and schema versions of the past are read as those of today.

use std::error::Error as StdError;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::event::Encoding;

type Fault = Box<dyn StdError + Send + Sync>;
type Change = Box<dyn Fn(Encoding, &[u8]) -> Result<Vec<u8>, Fault> + Send + Sync>;

/// Functions from the payload of an event type to that of the one after it: from `deposited` to `deposited@2`, from there
/// to `deposited@3`. They are chained. The log itself is never changed: an old event is upcast whenever it is read.
///
/// ```
/// use everfold::Upcasters;
/// use serde::{Deserialize, Serialize};
/// use serde_json::{Value, json};
///
/// #[derive(Deserialize)]
/// struct Second { cents: u64 }
/// #[derive(Serialize)]
/// struct Third { cents: u64, currency: String }
///
/// let upcasters = Upcasters::new()
///     .upcast("deposited", "deposited@2", |old: Value| {
///         let euros = old["euros"].as_u64().ok_or("no euros")?;
///         Ok(json!({ "cents": euros * 100 }))
///     })
///     .upcast("deposited@2", "deposited@3", |old: Second| {
///         Ok(Third { cents: old.cents, currency: "EUR".into() })
///     })
///     .rename("paid-out", "withdrawn")
///     .ignore("statement-printed");
/// # let _ = upcasters;
/// ```
#[derive(Default)]
#[must_use = "upcasters do nothing until a schema has them"]
pub struct Upcasters {
    pub(super) steps: Vec<Step>,
    pub(super) ignored: Vec<String>,
}

/// From one type to the next.
pub(super) struct Step {
    pub(super) from: String,
    pub(super) to: String,
    /// None when the payload stays the same.
    change: Option<Change>,
}

impl Upcasters {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function from the payload of one type to that of another. `Old` is decoded, and `New` encoded, as the
    /// payload of the event is; a payload of JSON can be taken as a [`serde_json::Value`]. What the function refuses is an
    /// error of whoever reads the event.
    pub fn upcast<Old, New>(
        mut self,
        from: impl Into<String>,
        to: impl Into<String>,
        change: impl Fn(Old) -> Result<New, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    ) -> Self
    where
        Old: DeserializeOwned,
        New: Serialize,
    {
        let change: Change = Box::new(move |encoding, payload| {
            let old = decode(encoding, payload)?;
            encode(encoding, &change(old)?)
        });
        self.steps.push(Step { from: from.into(), to: to.into(), change: Some(change) });
        self
    }

    /// Events of one type are read as those of another: the payload is the same.
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.steps.push(Step { from: from.into(), to: to.into(), change: None });
        self
    }

    /// Events of a type are passed over: they meant something once.
    pub fn ignore(mut self, event_type: impl Into<String>) -> Self {
        self.ignored.push(event_type.into());
        self
    }
}

impl Step {
    /// The payload after this step; `None` when it stays the same.
    pub(super) fn apply(&self, encoding: Encoding, payload: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.change.as_ref().map(|change| change(encoding, payload)).transpose()
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}

impl fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upcasters").field("steps", &self.steps).field("ignored", &self.ignored).finish()
    }
}

fn decode<T: DeserializeOwned>(encoding: Encoding, payload: &[u8]) -> Result<T, Fault> {
    match encoding {
        Encoding::Json => Ok(serde_json::from_slice(payload)?),
        Encoding::Bincode => Ok(codec::from_slice(payload)?),
        Encoding::Raw => Err(raw().into()),
    }
}

fn encode<T: Serialize>(encoding: Encoding, value: &T) -> Result<Vec<u8>, Fault> {
    match encoding {
        Encoding::Json => Ok(serde_json::to_vec(value)?),
        Encoding::Bincode => Ok(codec::to_vec(value)?),
        Encoding::Raw => Err(raw().into()),
    }
}

/// Bytes of the application's own cannot be read as a type.
pub(super) fn raw() -> Error {
    Error::new(ErrorKind::Codec, "a payload of raw bytes has no type: append typed events as JSON or bincode")
}
