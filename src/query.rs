//! Which events a read, a subscription or a guard is about: the query of a Dynamic Consistency Boundary
//! (<https://dcb.events/specification/>), with streams.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::event::{MAX_NAME_BYTES, MAX_TAGS, RecordedEvent};

/// The most items a query can have.
pub const MAX_QUERY_ITEMS: usize = 1_000;
/// The most types an item of a query can have.
pub const MAX_QUERY_TYPES: usize = 1_000;

/// A choice of events, by type, tags and stream.
///
/// A query is a list of items; an event matches if it matches one of them. It matches an item if its type is one of
/// the item's types, it has all of the item's tags, and it is in the item's stream. What an item does not name, it
/// does not ask for.
///
/// The methods narrow the item begun last; [`or`](Query::or) adds other items.
///
/// ```
/// use everfold::Query;
/// let withdrawn = Query::all().types(["withdrawn"]).tags(["account:1"]);
/// let either = withdrawn.or(Query::all().stream("account-2"));
/// # assert_eq!(either.to_string(), "type withdrawn, tag account:1; or stream account-2");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a query finds nothing until a read, a subscription or a guard is given it"]
pub struct Query {
    /// At least one.
    items: Vec<QueryItem>,
}

/// One alternative of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct QueryItem {
    pub(crate) types: Vec<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) stream: Option<String>,
}

impl Query {
    /// Every event, until it is narrowed.
    pub fn all() -> Self {
        Query { items: vec![QueryItem::default()] }
    }

    /// Only events of one of these types. Called again, it adds types to choose from.
    pub fn types<S: Into<String>>(self, types: impl IntoIterator<Item = S>) -> Self {
        self.narrow(|item| item.types.extend(types.into_iter().map(Into::into)))
    }

    /// Only events that have all of these tags. Called again, it asks for more tags.
    pub fn tags<S: Into<String>>(self, tags: impl IntoIterator<Item = S>) -> Self {
        self.narrow(|item| item.tags.extend(tags.into_iter().map(Into::into)))
    }

    /// Only events of this stream, whichever was asked for before.
    pub fn stream(self, stream: impl Into<String>) -> Self {
        self.narrow(|item| item.stream = Some(stream.into()))
    }

    /// Also the events that the other query matches.
    pub fn or(mut self, other: Query) -> Self {
        self.items.extend(other.items);
        self
    }

    fn narrow(mut self, narrow: impl FnOnce(&mut QueryItem)) -> Self {
        if let Some(item) = self.items.last_mut() {
            narrow(item);
        }
        self
    }

    /// Whether the event is one of those asked for.
    #[must_use]
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        self.items.iter().any(|item| item.matches(event))
    }

    /// A query of these alternatives, if there are any.
    pub(crate) fn of_items(items: Vec<QueryItem>) -> Option<Self> {
        (!items.is_empty()).then_some(Query { items })
    }

    pub(crate) fn items(&self) -> &[QueryItem] {
        &self.items
    }

    /// Whether it matches every event.
    pub(crate) fn is_all(&self) -> bool {
        self.items.iter().any(|item| *item == QueryItem::default())
    }

    /// Refuses names that no event can have, and more of them than is reasonable.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_count("items of the query", self.items.len(), MAX_QUERY_ITEMS)?;
        self.items.iter().try_for_each(QueryItem::check)
    }
}

impl QueryItem {
    fn matches(&self, event: &RecordedEvent) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream == event.stream())
            && (self.types.is_empty() || self.types.iter().any(|name| name == event.event_type()))
            && self.tags.iter().all(|tag| event.tags().any(|has| has == tag))
    }

    fn check(&self) -> Result<(), Error> {
        check_count("types in an item of the query", self.types.len(), MAX_QUERY_TYPES)?;
        check_count("tags in an item of the query", self.tags.len(), MAX_TAGS)?;
        let names = self.types.iter().chain(&self.tags).chain(&self.stream);
        match names.into_iter().find(|name| !(1..=MAX_NAME_BYTES).contains(&name.len())) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "the query asks for a name of {} bytes, which no event has: names have from 1 to {MAX_NAME_BYTES}",
                name.len()
            ))),
        }
    }
}

fn check_count(what: &str, count: usize, limit: usize) -> Result<(), Error> {
    if count <= limit {
        return Ok(());
    }
    let kind = ErrorKind::TooLarge { limit: u64::try_from(limit).unwrap_or(u64::MAX) };
    Err(Error::new(kind, format!("there are {count} {what}, and the limit is {limit}")))
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, item) in self.items.iter().enumerate() {
            if number > 0 {
                f.write_str("; or ")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for QueryItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.types.is_empty() {
            parts.push(format!("type {}", self.types.join(" or ")));
        }
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        parts.extend(self.stream.iter().map(|stream| format!("stream {stream}")));
        if parts.is_empty() {
            parts.push("every event".into());
        }
        f.write_str(&parts.join(", "))
    }
}
