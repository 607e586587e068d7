//! Where the log starts, and what open cursors still have to read.
//!
//! A cursor takes its hold and learns the log's start in one step, and retention looks at the holds and moves the start
//! in one step: so whoever reads a position either holds it or is told that it is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, ErrorKind};
use crate::event::Position;

/// So many holds are listed before those that were let go of are looked for.
const FEW: usize = 64;

#[derive(Debug)]
pub(crate) struct Holds {
    start: AtomicU64,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    holds: Vec<Weak<AtomicU64>>,
    /// Holds that were let go of are taken out when there are so many.
    most: usize,
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

impl Holds {
    /// Of a log that starts at this position.
    pub(crate) fn new(start: Position) -> Self {
        let list = Mutex::new(List { holds: Vec::new(), most: FEW });
        Holds { start: AtomicU64::new(start.get()), list }
    }

    /// The first position there is.
    pub(crate) fn log_start(&self) -> Position {
        Position::new(self.start.load(Ordering::Acquire))
    }

    /// Holds everything from a position on, or all there is. Returns also where the log starts.
    pub(crate) fn hold(&self, from: Option<Position>) -> (Hold, Position) {
        let mut list = self.list();
        if list.holds.len() >= list.most {
            list.holds.retain(|hold| hold.strong_count() > 0);
            list.most = FEW.max(list.holds.len().saturating_mul(2));
        }
        let start = self.log_start();
        let hold = Arc::new(AtomicU64::new(from.unwrap_or(start).get()));
        list.holds.push(Arc::downgrade(&hold));
        (Hold(hold), start)
    }

    /// Lets `decide` on where the log starts from now on, told the lowest position that is held. Until it has, nobody
    /// takes hold of anything.
    pub(crate) fn decide<T>(&self, decide: impl FnOnce(Position) -> (Option<Position>, T)) -> T {
        let list = self.list();
        let held = list.holds.iter().filter_map(Weak::upgrade).map(|hold| hold.load(Ordering::Relaxed)).min();
        let (start, result) = decide(held.map_or(Position::END, Position::new));
        if let Some(start) = start {
            self.set(start);
        }
        drop(list);
        result
    }

    /// Says where the log starts: when it was opened, or when what was decided could not be done.
    pub(crate) fn set(&self, start: Position) {
        self.start.store(start.get(), Ordering::Release);
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
        holds.decide(|held| (None, held.get()))
    }

    #[test]
    fn what_is_held_is_the_lowest_position_of_those_that_are_left() {
        let holds = Holds::new(Position::new(3));
        assert_eq!(lowest(&holds), u64::MAX);
        let (all, start) = holds.hold(None);
        let (some, _) = holds.hold(Some(Position::new(9)));
        assert_eq!((lowest(&holds), start), (3, Position::new(3)));
        drop(all);
        assert_eq!(lowest(&holds), 9);
        some.move_to(Position::new(12));
        assert_eq!(lowest(&holds), 12);
        some.let_go();
        assert_eq!(lowest(&holds), u64::MAX);
    }

    #[test]
    fn holds_that_were_let_go_of_take_no_room() {
        let holds = Holds::new(Position::new(1));
        let (kept, _) = holds.hold(Some(Position::new(7)));
        for _ in 0..10_000 {
            drop(holds.hold(None));
        }
        assert!(holds.list().holds.len() <= FEW);
        assert_eq!(lowest(&holds), 7);
        drop(kept);
    }
}
