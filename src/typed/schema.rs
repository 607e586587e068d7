//! Which event types are read as which cases of an enum, and how.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeSeed as _;

use super::TypedEvent;
use super::name::{is_misspelt, schema_version};
use super::read::{Cases, OfCase, cases_of};
use super::upcast::{Upcasters, raw};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::event::{Encoding, RecordedEvent};
use crate::log::event_types::EventTypeCount;
use crate::store::Store;

/// Reads recorded events as an enum of typed events: by the names of its cases, and through its upcasters.
///
/// Made once, and kept: by a projection, say.
///
/// ```
/// use everfold::{Expected, Position, Schema, TypedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// enum Account {
///     #[serde(rename = "opened")]
///     Opened { owner: String },
///     #[serde(rename = "deposited")]
///     Deposited(u64),
/// }
/// impl TypedEvent for Account {}
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
/// let events = [Account::Opened { owner: "jsmith".into() }, Account::Deposited(100)];
/// store.append("account-1", Expected::NoStream, [events[0].to_event()?, events[1].to_event()?])?;
///
/// let schema = Schema::<Account>::new()?;
/// for (event, expected) in store.read(Position::START).zip(events) {
///     assert_eq!(schema.read(&event?)?, Some(expected));
/// }
/// # Ok(()) }
/// ```
pub struct Schema<E> {
    cases: Cases,
    routes: BTreeMap<String, Route>,
    upcasters: Upcasters,
    of: PhantomData<fn() -> E>,
}

/// How events of a type are read.
#[derive(Debug)]
enum Route {
    /// As the case of the same name.
    Case,
    /// By these upcasters, in turn: at least one.
    Upcast(Vec<usize>),
    Ignored,
}

impl<E: TypedEvent> Schema<E> {
    /// The schema of an enum.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the type is no enum in serde's default form, a case has a name that no event can have,
    /// or the upcasters do not fit: two are of the same type, or one leads to nowhere or in a circle.
    pub fn new() -> Result<Self, Error> {
        let cases = cases_of::<E>().ok_or_else(|| {
            Error::invalid(format!(
                "{} is not an enum in serde's default form: leave out `tag`, `content` and `untagged`",
                std::any::type_name::<E>()
            ))
        })?;
        let upcasters = E::upcasters();
        let mut routes = BTreeMap::new();
        for name in cases.names {
            if is_misspelt(name) {
                return Err(Error::invalid(format!(
                    "{name:?} in {}: schema version 1 is the name alone, and others are `name@2`, `name@3` and so on",
                    cases.set
                )));
            }
            routes.insert((*name).to_owned(), Route::Case);
        }
        for step in &upcasters.steps {
            let route = route(&upcasters, &step.from, &cases)?;
            add(&mut routes, &step.from, Route::Upcast(route), &cases)?;
        }
        for ignored in &upcasters.ignored {
            add(&mut routes, ignored, Route::Ignored, &cases)?;
        }
        Ok(Schema { cases, routes, upcasters, of: PhantomData })
    }

    /// The event as a case of the enum; `None` when events of its type are [ignored](Upcasters::ignore).
    ///
    /// # Errors
    /// [`ErrorKind::UnknownEventType`] when neither a case nor an upcaster is for its type; [`ErrorKind::Codec`] when its
    /// payload is not what they take.
    pub fn read(&self, event: &RecordedEvent) -> Result<Option<E>, Error> {
        let steps = match self.routes.get(event.event_type()) {
            None => return Err(self.unknown(event)),
            Some(Route::Ignored) => return Ok(None),
            Some(Route::Case) => &[][..],
            Some(Route::Upcast(steps)) => steps,
        };
        let mut payload = Cow::Borrowed(event.payload());
        let mut case = event.event_type();
        for step in steps.iter().filter_map(|at| self.upcasters.steps.get(*at)) {
            let changed = step.apply(event.encoding(), &payload).map_err(|fault| {
                Error::new(
                    ErrorKind::Codec,
                    format!(
                        "the upcaster from {:?} to {:?} cannot take the event at position {}: {fault}",
                        step.from,
                        step.to,
                        event.position()
                    ),
                )
            })?;
            payload = changed.map_or(payload, Cow::Owned);
            case = &step.to;
        }
        let read = match event.encoding() {
            Encoding::Json => {
                let mut json = serde_json::Deserializer::from_slice(&payload);
                let value = OfCase::new(case).deserialize(&mut json);
                value
                    .and_then(|value| json.end().map(|()| value))
                    .map_err(|e| self.unfit(event, case).because(e))
            }
            Encoding::Bincode => codec::seed_from_slice(OfCase::new(case), &payload)
                .map_err(|e| self.unfit(event, case).because(e)),
            Encoding::Raw => Err(self.unfit(event, case).because(raw())),
        };
        read.map(Some)
    }

    /// Whether events of a type can be read, or are ignored.
    #[must_use]
    pub fn handles(&self, event_type: &str) -> bool {
        self.routes.contains_key(event_type)
    }

    /// The types that are read as cases with one of these names, whatever their schema versions: what a
    /// [`Query`](crate::Query) asks for. What serde calls an alias is a name of its own here; a type that is
    /// [renamed](Upcasters::rename) belongs to its case.
    ///
    /// ```
    /// # use everfold::{Query, Schema, TypedEvent, Upcasters};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// enum Account {
    ///     #[serde(rename = "deposited@2")]
    ///     Deposited { cents: u64 },
    ///     #[serde(rename = "withdrawn")]
    ///     Withdrawn { cents: u64 },
    /// }
    /// impl TypedEvent for Account {
    ///     fn upcasters() -> Upcasters {
    ///         Upcasters::new().rename("deposited", "deposited@2").rename("paid-in", "deposited")
    ///     }
    /// }
    /// # fn main() -> Result<(), everfold::Error> {
    /// let schema = Schema::<Account>::new()?;
    /// assert_eq!(schema.types_of(["deposited"]), ["deposited", "deposited@2", "paid-in"]);
    /// let deposits = Query::all().types(schema.types_of(["deposited"])).tags(["account:1"]);
    /// # let _ = deposits;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn types_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let names: Vec<&str> = names.into_iter().map(|name| schema_version(name).0).collect();
        let is_of = |(from, route): &(&String, &Route)| {
            let case = match route {
                Route::Case => Some(from.as_str()),
                Route::Upcast(steps) => self.last(steps),
                Route::Ignored => None,
            };
            case.is_some_and(|case| names.contains(&schema_version(case).0))
        };
        self.routes.iter().filter(is_of).map(|(from, _)| from.clone()).collect()
    }

    /// The types that are in a log and that no case, no upcaster and no [`ignore`](Upcasters::ignore) is for. It asks the
    /// indexes, as [`Store::event_types`] does, and reads no event.
    ///
    /// Where a store has events of several enums, ask [`handles`](Schema::handles) of each:
    /// `store.event_types()?.iter().filter(|found| !accounts.handles(&found.event_type) && …)`.
    ///
    /// # Errors
    /// As [`Store::event_types`].
    pub fn check(&self, store: &Store) -> Result<Vec<EventTypeCount>, Error> {
        let types = store.event_types()?;
        Ok(types.iter().filter(|found| !self.handles(&found.event_type)).cloned().collect())
    }

    fn last(&self, steps: &[usize]) -> Option<&str> {
        let last = self.upcasters.steps.get(*steps.last()?)?;
        Some(&last.to)
    }

    fn unfit(&self, event: &RecordedEvent, case: &str) -> Error {
        let (set, was, position) = (self.cases.set, event.event_type(), event.position());
        let upcast = if was == case { String::new() } else { format!(", upcast to {case:?},") };
        Error::new(
            ErrorKind::Codec,
            format!("the payload of {was:?} at position {position}{upcast} is not that of {set}'s case"),
        )
    }

    fn unknown(&self, event: &RecordedEvent) -> Error {
        let event_type = event.event_type();
        let (name, version) = schema_version(event_type);
        let known = self.types_of([name]).into_iter().map(|known| schema_version(&known).1).max();
        let missing = match known {
            None => format!("{} has no case {name:?}", self.cases.set),
            Some(known) if known < version => {
                format!(
                    "{} knows {name:?} up to schema version {known}: this program is too old",
                    self.cases.set
                )
            }
            Some(_) => format!("{} has no upcaster from {event_type:?}", self.cases.set),
        };
        Error::new(
            ErrorKind::UnknownEventType { event_type: event_type.to_owned(), position: event.position() },
            format!(
                "the event at position {} is a {event_type:?}, and {missing}; add a case or an upcaster, or ignore the type",
                event.position()
            ),
        )
    }
}

/// The upcasters that lead from a type to a case.
fn route(upcasters: &Upcasters, from: &str, cases: &Cases) -> Result<Vec<usize>, Error> {
    let (mut at, mut route) = (from, Vec::new());
    while !cases.names.contains(&at) {
        let Some(next) = upcasters.steps.iter().position(|step| step.from == at) else {
            return Err(Error::invalid(format!(
                "an upcaster leads from {from:?} to {at:?}, which is no case of {} and has no upcaster",
                cases.set
            )));
        };
        if route.contains(&next) {
            return Err(Error::invalid(format!("the upcasters from {from:?} lead in a circle")));
        }
        route.push(next);
        at = upcasters.steps.get(next).map_or(at, |step| &step.to);
    }
    Ok(route)
}

fn add(routes: &mut BTreeMap<String, Route>, name: &str, route: Route, cases: &Cases) -> Result<(), Error> {
    match routes.insert(name.to_owned(), route) {
        None => Ok(()),
        Some(Route::Case) => Err(Error::invalid(format!(
            "{name:?} is a case of {}, and so has no upcaster and is not ignored",
            cases.set
        ))),
        Some(_) => {
            Err(Error::invalid(format!("there are two upcasters for {name:?}, or one and an `ignore`")))
        }
    }
}

impl<E> fmt::Debug for Schema<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("set", &self.cases.set)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}
