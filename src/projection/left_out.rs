//! The events that a view did not apply in their turn: what a fold that is to come to the same rows leaves out, and applies
//! later.

use std::collections::{BTreeSet, VecDeque};

use crate::error::Error;
use crate::event::Position;
use crate::view::levels::Version;
use crate::view::set_aside::{Redriven, listed, redriven};

#[derive(Debug, Default)]
pub(super) struct LeftOut {
    positions: BTreeSet<Position>,
    /// When which of them are to be applied, the first one first.
    redriven: VecDeque<Redriven>,
}

impl LeftOut {
    /// What these rows say, without the first events redriven, which the fold has applied already.
    pub(super) fn of(rows: &Version, done: u64) -> Result<Self, Error> {
        if rows.meta().beside.rows() == 0 {
            return Ok(LeftOut::default());
        }
        let (listed, redriven) = (listed(rows)?, redriven(rows)?);
        let aside = listed.iter().map(|event| event.position);
        let positions = aside.chain(redriven.iter().map(|event| event.position)).collect();
        let done = usize::try_from(done).unwrap_or(usize::MAX);
        Ok(LeftOut { positions, redriven: redriven.into_iter().skip(done).collect() })
    }

    /// Whether an event is not to be applied in its turn.
    pub(super) fn has(&self, position: Position) -> bool {
        self.positions.contains(&position)
    }

    /// What is to be applied when the fold has come to a checkpoint.
    pub(super) fn due(&mut self, checkpoint: Position) -> Option<Redriven> {
        let is_due = self.redriven.front().is_some_and(|event| event.checkpoint <= checkpoint);
        is_due.then(|| self.redriven.pop_front()).flatten()
    }

    /// How far to fold before something is due, and no further than this.
    pub(super) fn until(&self, to: Position) -> Position {
        self.redriven.front().map_or(to, |next| next.checkpoint.min(to))
    }
}
