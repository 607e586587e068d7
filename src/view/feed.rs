//! What the last events have changed in a view, kept for those who follow it, and no longer than there is room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::layout::Part;
use super::meta::Moment;
use super::succession::Succession;
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

/// What one event changed.
#[derive(Debug)]
pub(crate) struct EventChanges {
    pub(crate) at: Moment,
    /// The event's own position: one that was redriven was before.
    pub(crate) position: Position,
    pub(crate) redriven: bool,
    pub(crate) rows: Vec<RowChange>,
}

impl EventChanges {
    fn bytes(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let row = |row: &RowChange| OVERHEAD + row.key.len() + len(&row.old) + len(&row.new);
        OVERHEAD + self.rows.iter().map(row).sum::<usize>()
    }
}

/// All that was changed after one moment and up to another. Room is limited: the oldest goes first.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Everything after this is here.
    from: Moment,
    to: Moment,
    /// None of them is empty.
    events: VecDeque<Arc<EventChanges>>,
    bytes: usize,
    limit: usize,
}

impl Recent {
    pub(crate) fn new(at: Moment, limit: usize) -> Self {
        Recent { from: at, to: at, events: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds what the event after the last one changed.
    pub(crate) fn push(&mut self, position: Position, rows: Vec<RowChange>) {
        self.to.checkpoint = position;
        self.push_at(position, false, rows);
    }

    /// Adds what an event changed that was set aside.
    pub(crate) fn push_redriven(&mut self, position: Position, rows: Vec<RowChange>) {
        self.to.redriven += 1;
        self.push_at(position, true, rows);
    }

    fn push_at(&mut self, position: Position, redriven: bool, rows: Vec<RowChange>) {
        if !rows.is_empty() {
            self.add(Arc::new(EventChanges { at: self.to, position, redriven, rows }));
        }
    }

    fn add(&mut self, event: Arc<EventChanges>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.bytes > self.limit
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.from = oldest.at;
        }
    }

    /// Of what came so far, nothing is known.
    pub(crate) fn forget(&mut self) {
        *self = Recent::new(self.to, self.limit);
    }

    fn extend(&mut self, later: Recent) {
        if later.from != self.to {
            *self = later;
            return;
        }
        later.events.into_iter().for_each(|event| self.add(event));
        self.to = later.to;
    }

    fn after(&self, seen: Moment) -> Taken {
        if seen < self.from {
            return Taken::Gone;
        }
        let next = self.events.partition_point(|event| event.at <= seen);
        match self.events.get(next) {
            Some(event) => Taken::Event(event.clone()),
            None => Taken::Nothing { to: self.to },
        }
    }
}

/// What there is after a moment.
#[derive(Debug)]
pub(crate) enum Taken {
    Event(Arc<EventChanges>),
    /// Up to here nothing has changed.
    Nothing {
        to: Moment,
    },
    /// It is not kept any more, or was not at all.
    Gone,
    /// Other rows have taken the place of those that were followed.
    Replaced,
    /// Some have, of which it is not known yet whether they are the same.
    Open,
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
    /// Counts the sets of rows that are not the same.
    set: u64,
    /// It is not known yet whether the set is another one: nothing is told.
    open: bool,
    recent: Recent,
}

impl Feed {
    /// A feed that keeps so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let recent = Recent::new(Moment::default(), limit);
        Feed { inner: Mutex::new(Inner { followers: 0, untold: false, set: 0, open: false, recent }) }
    }

    /// One more follows, until it [leaves](Self::leave).
    pub(crate) fn join(&self) {
        self.lock().followers += 1;
    }

    pub(crate) fn leave(&self) {
        let mut inner = self.lock();
        inner.followers = inner.followers.saturating_sub(1);
        if inner.followers == 0 {
            inner.recent.forget();
        }
    }

    /// The projector begins a batch: where to put what it changes, if anybody follows.
    pub(crate) fn begin(&self, at: Moment) -> Option<Recent> {
        let mut inner = self.lock();
        inner.untold = inner.followers == 0;
        (!inner.untold).then(|| Recent::new(at, inner.recent.limit))
    }

    /// The batch is in the view.
    pub(crate) fn publish(&self, told: Option<Recent>, to: Moment) {
        let mut inner = self.lock();
        inner.untold = false;
        match told {
            Some(told) if inner.followers > 0 => inner.recent.extend(told),
            _ => inner.restart(to),
        }
    }

    /// What was written has changed no row.
    pub(crate) fn pass(&self, from: Moment, to: Moment) {
        let told = self.begin(from).map(|mut told| {
            told.to = to;
            told
        });
        self.publish(told, to);
    }

    /// Other rows are in the place of those before.
    pub(crate) fn restart(&self, at: Moment, succession: Succession) {
        let mut inner = self.lock();
        inner.untold = false;
        // The changes kept lead to the same rows at the same place, too.
        if succession != Succession::Same || inner.recent.to != at {
            inner.restart(at);
        }
        inner.find(succession);
    }

    /// Of rows that had been behind, this is known now.
    pub(crate) fn find(&self, succession: Succession) {
        self.lock().find(succession);
    }

    /// Whether anybody is told.
    pub(crate) fn is_followed(&self) -> bool {
        self.lock().followers > 0
    }

    /// What tells the rows from others, and whether that is known.
    pub(crate) fn set(&self) -> (u64, Succession) {
        let inner = self.lock();
        (inner.set, if inner.open { Succession::Open } else { Succession::Same })
    }

    /// What comes after a moment of a set of rows. As long as they are served, who keeps up misses nothing.
    pub(crate) fn after(&self, set: u64, seen: Moment) -> Taken {
        let inner = self.lock();
        match inner.set == set {
            false => Taken::Replaced,
            true if inner.open => Taken::Open,
            true => inner.recent.after(seen),
        }
    }

    /// Whether everything after a moment is here and will be, as long as there is room.
    pub(crate) fn reaches_back_to(&self, seen: Moment) -> bool {
        let inner = self.lock();
        !inner.untold && !inner.open && inner.recent.from <= seen
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn find(&mut self, succession: Succession) {
        self.set += u64::from(succession == Succession::Others);
        self.open = succession == Succession::Open;
    }

    /// Of what came before, nothing is known.
    fn restart(&mut self, at: Moment) {
        self.recent = Recent::new(at, self.recent.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(len: usize) -> Vec<RowChange> {
        let new = Some(Bytes::from(vec![7; len]));
        vec![RowChange { part: Part::OWN, key: Bytes::from_static(b"\x01k"), old: None, new }]
    }

    fn at(n: u64) -> Moment {
        Moment { checkpoint: Position::new(n), redriven: 0 }
    }

    fn next(feed: &Feed, after: u64) -> Result<u64, Option<u64>> {
        match feed.after(0, at(after)) {
            Taken::Event(event) => Ok(event.position.get()),
            Taken::Nothing { to } => Err(Some(to.checkpoint.get())),
            Taken::Gone | Taken::Replaced | Taken::Open => Err(None),
        }
    }

    fn publish(feed: &Feed, from: u64, events: &[(u64, usize)], to: u64) {
        let mut told = feed.begin(at(from));
        if let Some(told) = &mut told {
            events.iter().for_each(|(position, len)| told.push(Position::new(*position), rows(*len)));
            told.push(Position::new(to), Vec::new());
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
        feed.restart(at(4), Succession::Same);
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

    #[test]
    fn what_was_redriven_comes_after_the_event_that_the_view_was_at() {
        let feed = Feed::new(1 << 20);
        feed.join();
        publish(&feed, 0, &[(3, 10)], 4);
        let redriven = Moment { redriven: 1, ..at(4) };
        let mut told = feed.begin(at(4));
        told.iter_mut().for_each(|told| told.push_redriven(Position::new(2), rows(10)));
        feed.publish(told, redriven);
        assert_eq!((next(&feed, 2), next(&feed, 3), next(&feed, 4)), (Ok(3), Ok(2), Ok(2)));
        assert_eq!(next(&feed, 5), Err(Some(4)));
        assert!(matches!(feed.after(0, redriven), Taken::Nothing { to } if to == redriven));
    }

    #[test]
    fn of_other_rows_nothing_is_told_to_who_followed_those_before() {
        let feed = Feed::new(1 << 20);
        feed.join();
        publish(&feed, 0, &[(1, 10)], 1);
        feed.restart(at(0), Succession::Open);
        assert!(matches!(feed.after(0, at(0)), Taken::Open) && !feed.reaches_back_to(at(0)));
        feed.find(Succession::Others);
        publish(&feed, 0, &[(1, 10)], 1);
        assert!(matches!(feed.after(0, at(0)), Taken::Replaced));
        assert!(matches!(feed.after(feed.set().0, at(0)), Taken::Event(_)));
    }
}
