//! Cursors that wait for more: first what is there, then what comes, without a gap.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use futures_core::stream::FusedStream;

use crate::error::Error;
use crate::event::{Position, RecordedEvent, Version};
use crate::log::catalog::Catalog;
use crate::log::cursor::Cursor;
use crate::query::Query;
use crate::watermark::{TaskSlot, Waited};

/// An endless iterator over events as they become durable. It sleeps while there are none.
///
/// It ends when the store is closed, after the events that were durable then; in a store opened read-only, after those
/// that were there, as no more will come; and after it has given an error: that of an event that cannot be read, or
/// [`Poisoned`](crate::ErrorKind::Poisoned) when no more events will come.
/// [`into_stream`](Subscription::into_stream) is its form for async code. What it has not given yet is kept from
/// [`retain`](crate::Store::retain).
#[derive(Debug)]
#[must_use = "a subscription reads nothing until it is iterated"]
pub struct Subscription {
    catalog: Arc<Catalog>,
    cursor: Cursor,
    /// What has been looked through.
    seen: Position,
    ended: bool,
}

/// What there is to give without waiting.
enum Ready {
    Event(Result<RecordedEvent, Error>),
    /// Nothing until the watermark passes what was seen.
    Nothing,
}

impl Subscription {
    pub(crate) fn all(catalog: Arc<Catalog>, after: Position) -> Self {
        let cursor = Cursor::forward(catalog.clone(), after);
        Self::new(catalog, cursor)
    }

    pub(crate) fn stream(catalog: Arc<Catalog>, stream: &str, after: Version) -> Self {
        let cursor = Cursor::stream(catalog.clone(), stream, after);
        Self::new(catalog, cursor)
    }

    pub(crate) fn query(catalog: Arc<Catalog>, query: &Query, after: Position) -> Self {
        let cursor = Cursor::query(catalog.clone(), query, after);
        Self::new(catalog, cursor)
    }

    fn new(catalog: Arc<Catalog>, cursor: Cursor) -> Self {
        Subscription { catalog, cursor, seen: Position::START, ended: false }
    }

    /// The next event, waiting for it at most so long; `None` when none came, or the subscription has ended.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<RecordedEvent, Error>> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// The position to subscribe after to go on from here: everything up to it was given, or is not asked for. `None` for
    /// a subscription to a stream, which goes by versions.
    ///
    /// When there is nothing to give for a while, as [`next_timeout`](Subscription::next_timeout) tells, it is the last
    /// position that was durable then: so who stores it does not look through the same events again.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Position> {
        self.cursor.looked_to()
    }

    /// The same events as a [`Stream`], woken without a thread of its own. Reading happens where it is polled.
    pub fn into_stream(self) -> EventStream {
        EventStream { subscription: self, slot: TaskSlot::default() }
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<RecordedEvent, Error>> {
        loop {
            if self.ended {
                return None;
            }
            match self.ready() {
                Ready::Event(event) => return Some(event),
                Ready::Nothing => match self.catalog.watermark.wait(self.seen.next(), deadline) {
                    Waited::Reached(_) => {}
                    Waited::TimedOut => return None,
                    Waited::Ended => return self.end(),
                },
            }
        }
    }

    fn ready(&mut self) -> Ready {
        // The watermark is read before the cursor looks, so what comes in between is looked for again.
        let watermark = self.catalog.watermark.get();
        self.cursor.extend();
        match self.cursor.next() {
            Some(event) => {
                self.ended = event.is_err();
                Ready::Event(event)
            }
            None => {
                self.seen = watermark;
                Ready::Nothing
            }
        }
    }

    fn end(&mut self) -> Option<Result<RecordedEvent, Error>> {
        self.ended = true;
        self.catalog.failure().map(Err)
    }
}

impl Iterator for Subscription {
    type Item = Result<RecordedEvent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)
    }
}

/// A [`Subscription`] for async code.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct EventStream {
    subscription: Subscription,
    slot: TaskSlot,
}

impl EventStream {
    /// The position to subscribe after to go on from here, as that of [`Subscription::checkpoint`].
    #[must_use]
    pub fn checkpoint(&self) -> Option<Position> {
        self.subscription.checkpoint()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.subscription.catalog.watermark.forget(&mut self.slot);
    }
}

impl Stream for EventStream {
    type Item = Result<RecordedEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let EventStream { subscription, slot } = &mut *self;
        loop {
            if subscription.ended {
                return Poll::Ready(None);
            }
            if let Ready::Event(event) = subscription.ready() {
                return Poll::Ready(Some(event));
            }
            match subscription.catalog.watermark.poll_wait(subscription.seen.next(), slot, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Waited::Ended | Waited::TimedOut) => return Poll::Ready(subscription.end()),
                Poll::Ready(Waited::Reached(_)) => {}
            }
        }
    }
}

impl FusedStream for EventStream {
    fn is_terminated(&self) -> bool {
        self.subscription.ended
    }
}
