//! What the last events have changed in a view, kept for those who follow it, and no longer than there is room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::layout::Part;
use crate::event::Position;

/// What an entry takes besides its bytes, about.
const OVERHEAD: usize = 96;

/// What became of a row, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowChange {
    pub(crate) part: Part,
    /// The row's key, with its first bytes.
    pub(crate) key: Bytes,
    pub(crate) old: Option<Bytes>,
    pub(crate) new: Option<Bytes>,
}

/// What one event changed. Never empty.
#[derive(Debug)]
pub(crate) struct EventChanges {
    pub(crate) position: Position,
    pub(crate) rows: Vec<RowChange>,
}

impl EventChanges {
    fn bytes(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let row = |row: &RowChange| OVERHEAD + row.key.len() + len(&row.old) + len(&row.new);
        OVERHEAD + self.rows.iter().map(row).sum::<usize>()
    }
}

/// All that the events after one position and up to another have changed. Room is limited: the oldest goes first.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Everything after this is here.
    from: Position,
    to: Position,
    events: VecDeque<Arc<EventChanges>>,
    bytes: usize,
    limit: usize,
}

impl Recent {
    pub(crate) fn new(at: Position, limit: usize) -> Self {
        Recent { from: at, to: at, events: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds what the event after the last one changed.
    pub(crate) fn push(&mut self, position: Position, rows: Vec<RowChange>) {
        self.to = position;
        if !rows.is_empty() {
            self.add(Arc::new(EventChanges { position, rows }));
        }
    }

    fn add(&mut self, event: Arc<EventChanges>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.bytes > self.limit
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.from = oldest.position;
        }
    }

    /// Of what came before, nothing is known.
    pub(crate) fn forget(&mut self, to: Position) {
        *self = Recent::new(to, self.limit);
    }

    fn extend(&mut self, later: Recent) {
        if later.from != self.to {
            *self = later;
            return;
        }
        later.events.into_iter().for_each(|event| self.add(event));
        self.to = later.to;
    }

    fn after(&self, position: Position) -> Taken {
        if position < self.from {
            return Taken::Gone;
        }
        let next = self.events.partition_point(|event| event.position <= position);
        match self.events.get(next) {
            Some(event) => Taken::Event(event.clone()),
            None => Taken::Nothing { to: self.to },
        }
    }
}

/// What there is after a position.
#[derive(Debug)]
pub(crate) enum Taken {
    Event(Arc<EventChanges>),
    /// Up to here nothing has changed.
    Nothing {
        to: Position,
    },
    /// It is not kept any more, or was not at all.
    Gone,
}

/// What the projector gives to those who follow a view. It writes what it wrote to the view, and waits for nobody.
#[derive(Debug)]
pub(crate) struct Feed {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    followers: usize,
    /// The batch that the projector is at was begun while nobody followed: what it changes will not be told.
    untold: bool,
    recent: Recent,
}

impl Feed {
    /// A feed that keeps so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let recent = Recent::new(Position::START, limit);
        Feed { inner: Mutex::new(Inner { followers: 0, untold: false, recent }) }
    }

    /// One more follows, until it [leaves](Self::leave).
    pub(crate) fn join(&self) {
        self.lock().followers += 1;
    }

    pub(crate) fn leave(&self) {
        let mut inner = self.lock();
        inner.followers = inner.followers.saturating_sub(1);
        if inner.followers == 0 {
            let to = inner.recent.to;
            inner.recent.forget(to);
        }
    }

    /// The projector begins a batch at a checkpoint: where to put what it changes, if anybody follows.
    pub(crate) fn begin(&self, at: Position) -> Option<Recent> {
        let mut inner = self.lock();
        inner.untold = inner.followers == 0;
        (!inner.untold).then(|| Recent::new(at, inner.recent.limit))
    }

    /// The batch is in the view.
    pub(crate) fn publish(&self, told: Option<Recent>, to: Position) {
        let mut inner = self.lock();
        inner.untold = false;
        match told {
            Some(told) if inner.followers > 0 => inner.recent.extend(told),
            _ => inner.recent.forget(to),
        }
    }

    /// The view was put back, or on, to a checkpoint.
    pub(crate) fn restart(&self, at: Position) {
        let mut inner = self.lock();
        inner.untold = false;
        inner.recent.forget(at);
    }

    /// What comes after a position. An answer other than `Gone` lasts: a follower that keeps up misses nothing.
    pub(crate) fn after(&self, position: Position) -> Taken {
        self.lock().recent.after(position)
    }

    /// Whether everything after a position is here and will be, as long as there is room.
    pub(crate) fn reaches_back_to(&self, position: Position) -> bool {
        let inner = self.lock();
        !inner.untold && inner.recent.from <= position
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(len: usize) -> Vec<RowChange> {
        let new = Some(Bytes::from(vec![7; len]));
        vec![RowChange { part: Part::OWN, key: Bytes::from_static(b"\x01k"), old: None, new }]
    }

    fn at(n: u64) -> Position {
        Position::new(n)
    }

    fn next(feed: &Feed, after: u64) -> Result<u64, Option<u64>> {
        match feed.after(at(after)) {
            Taken::Event(event) => Ok(event.position.get()),
            Taken::Nothing { to } => Err(Some(to.get())),
            Taken::Gone => Err(None),
        }
    }

    fn publish(feed: &Feed, from: u64, events: &[(u64, usize)], to: u64) {
        let mut told = feed.begin(at(from));
        if let Some(told) = &mut told {
            events.iter().for_each(|(position, len)| told.push(at(*position), rows(*len)));
            told.push(at(to), Vec::new());
        }
        feed.publish(told, at(to));
    }

    #[test]
    fn who_follows_finds_every_event_that_changed_something() {
        let feed = Feed::new(1 << 20);
        publish(&feed, 0, &[(1, 10)], 2);
        assert_eq!(next(&feed, 0), Err(None), "nobody followed");
        feed.join();
        publish(&feed, 2, &[(3, 10), (5, 10)], 6);
        publish(&feed, 6, &[(7, 10)], 7);
        publish(&feed, 7, &[], 9);
        let found: Vec<_> = (1..=9).map(|after| next(&feed, after)).collect();
        let nothing = Err(Some(9));
        assert_eq!(found, [Err(None), Ok(3), Ok(5), Ok(5), Ok(7), Ok(7), nothing, nothing, nothing]);
        feed.restart(at(4));
        assert_eq!((next(&feed, 3), next(&feed, 9)), (Err(None), Err(Some(4))));
        feed.leave();
        publish(&feed, 4, &[(5, 1)], 5);
        assert_eq!(next(&feed, 4), Err(None));
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let feed = Feed::new(3 * (1000 + 3 * OVERHEAD));
        feed.join();
        for n in 1..=10 {
            publish(&feed, n - 1, &[(n, 1000)], n);
        }
        assert_eq!((next(&feed, 6), next(&feed, 7), next(&feed, 8)), (Err(None), Ok(8), Ok(9)));
        publish(&feed, 10, &[(11, 1 << 20)], 12);
        assert_eq!((next(&feed, 10), next(&feed, 11)), (Err(None), Err(Some(12))));
    }

    #[test]
    fn a_batch_begun_before_anybody_followed_is_waited_for() {
        let feed = Feed::new(1 << 20);
        assert!(feed.begin(at(0)).is_none());
        feed.join();
        assert!(!feed.reaches_back_to(at(0)));
        feed.publish(None, at(4));
        assert!(feed.reaches_back_to(at(4)) && !feed.reaches_back_to(at(3)));
    }
}
