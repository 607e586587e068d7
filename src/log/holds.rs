//! Where the log starts, and what open cursors still have to read.
//!
//! A cursor takes its hold and learns the log's start in one step, and retention moves the start and learns of the holds
//! in one step: so whoever reads a position either holds it or is told that it is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::index::base::BaseFile;
use crate::error::{Corruption, Error, ErrorKind};
use crate::event::Position;

/// So many holds are listed before those that were let go of are looked for.
const FEW: usize = 64;

#[derive(Debug)]
pub(crate) struct Holds {
    /// That of the list, to be had without its lock.
    first: AtomicU64,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    start: Start,
    holds: Vec<Weak<AtomicU64>>,
    /// Holds that were let go of are taken out when there are so many.
    most: usize,
}

/// Where the log starts, and what is known of before.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// The first position there is.
    pub(crate) first: Position,
    pub(crate) base: Base,
}

/// What is known of events before the log's start.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    /// There were none.
    Nothing,
    File(Arc<BaseFile>),
    /// There were some, and the file that tells of them is missing or damaged.
    Lost(Corruption),
}

/// The lowest position that a cursor may still read. Dropped, it holds nothing.
#[derive(Debug)]
pub(crate) struct Hold(Arc<AtomicU64>);

impl Hold {
    /// The cursor has read on.
    pub(crate) fn move_to(&self, position: Position) {
        self.0.store(position.get(), Ordering::Relaxed);
    }

    /// The cursor reads no more.
    pub(crate) fn let_go(&self) {
        self.move_to(Position::END);
    }
}

/// The holds that there were at a time.
#[derive(Debug)]
pub(crate) struct Held(Vec<Weak<AtomicU64>>);

impl Held {
    /// The lowest position that they hold by now.
    pub(crate) fn lowest(&self) -> Position {
        let held = self.0.iter().filter_map(Weak::upgrade).map(|hold| hold.load(Ordering::Relaxed));
        held.min().map_or(Position::END, Position::new)
    }
}

impl Default for Holds {
    fn default() -> Self {
        let start = Start { first: Position::START.next(), base: Base::Nothing };
        let first = AtomicU64::new(start.first.get());
        Holds { first, list: Mutex::new(List { start, holds: Vec::new(), most: FEW }) }
    }
}

impl Holds {
    /// The first position there is.
    pub(crate) fn log_start(&self) -> Position {
        Position::new(self.first.load(Ordering::Acquire))
    }

    pub(crate) fn start(&self) -> Start {
        self.list().start.clone()
    }

    /// Holds everything from a position on, or all there is. Returns also where the log starts.
    pub(crate) fn hold(&self, from: Option<Position>) -> (Hold, Start) {
        let mut list = self.list();
        if list.holds.len() >= list.most {
            list.holds.retain(|hold| hold.strong_count() > 0);
            list.most = FEW.max(list.holds.len().saturating_mul(2));
        }
        let start = list.start.clone();
        let hold = Arc::new(AtomicU64::new(from.unwrap_or(start.first).get()));
        list.holds.push(Arc::downgrade(&hold));
        (Hold(hold), start)
    }

    /// The holds that there are.
    pub(crate) fn held(&self) -> Held {
        Held(self.list().holds.clone())
    }

    /// Says where the log starts from now on. Returns the holds that were taken before.
    pub(crate) fn set(&self, start: Start) -> Held {
        let mut list = self.list();
        self.first.store(start.first.get(), Ordering::Release);
        list.start = start;
        Held(list.holds.clone())
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of who wants to read what is before the log's start.
pub(crate) fn truncated(first: Position) -> Error {
    let message = format!(
        "the log starts at position {first}, because retention has removed what was before: read after position {}",
        first.previous()
    );
    Error::new(ErrorKind::Truncated { first }, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowest(holds: &Holds) -> u64 {
        holds.held().lowest().get()
    }

    #[test]
    fn what_is_held_is_the_lowest_position_of_those_that_are_left() {
        let holds = Holds::default();
        holds.set(Start { first: Position::new(3), base: Base::Nothing });
        assert_eq!(lowest(&holds), u64::MAX);
        let (all, start) = holds.hold(None);
        let (some, _) = holds.hold(Some(Position::new(9)));
        assert_eq!((lowest(&holds), start.first), (3, Position::new(3)));
        drop(all);
        assert_eq!(lowest(&holds), 9);
        some.move_to(Position::new(12));
        assert_eq!(lowest(&holds), 12);
        let before = holds.set(Start { first: Position::new(10), base: Base::Nothing });
        let (_later, _) = holds.hold(None);
        assert_eq!((lowest(&holds), before.lowest()), (10, Position::new(12)));
        some.let_go();
        assert_eq!(before.lowest(), Position::END);
    }

    #[test]
    fn holds_that_were_let_go_of_take_no_room() {
        let holds = Holds::default();
        let (kept, _) = holds.hold(Some(Position::new(7)));
        for _ in 0..10_000 {
            drop(holds.hold(None));
        }
        assert!(holds.list().holds.len() <= FEW);
        assert_eq!(lowest(&holds), 7);
        drop(kept);
    }
}
