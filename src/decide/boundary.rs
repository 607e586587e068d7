//! What a decision is made from, and guarded by.

use super::Decider;
use crate::query::Query;

/// What a decision is made from, and guarded by: the events of one stream, or those that match a query (the decision model
/// of a Dynamic Consistency Boundary, <https://dcb.events>).
///
/// ```
/// use everfold::{Boundary, Query};
/// let one: Boundary = "account-1".into();
/// let two = Query::all().tags(["account:1"]).or(Query::all().tags(["account:2"]));
/// let both = Boundary::query(two, "transfers");
/// # assert!(one != both);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Boundary {
    pub(super) from: From,
    /// Where events are recorded that the decider names no stream for.
    pub(super) stream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum From {
    Stream,
    Query(Query),
}

impl Boundary {
    /// The events of a stream. What is decided is recorded in it, if it is still at the version that was read.
    pub fn stream(stream: impl Into<String>) -> Self {
        Boundary { from: From::Stream, stream: stream.into() }
    }

    /// The events that match a query. What is decided is recorded if no other event matches it by then: in this stream, or
    /// in the one that the decider [names](crate::Decider::stream).
    pub fn query(query: Query, stream: impl Into<String>) -> Self {
        Boundary { from: From::Query(query), stream: stream.into() }
    }
}

impl Boundary {
    /// Where an event that was decided on is recorded.
    pub(crate) fn stream_of<D: Decider>(&self, decider: &D, event: &D::Event) -> String {
        let named = match self.from {
            From::Stream => None,
            From::Query(_) => decider.stream(event),
        };
        named.unwrap_or_else(|| self.stream.clone())
    }
}

impl<S: Into<String>> std::convert::From<S> for Boundary {
    fn from(stream: S) -> Self {
        Boundary::stream(stream)
    }
}
