//! Which rows of a view took the place of which, and whether who followed those before can go on with them. Pure.

use super::meta::ViewMeta;
use crate::event::Position;

/// What is known of rows that take the place of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succession {
    /// They are the same: at the same checkpoint they have the same digest.
    Same,
    Others,
    /// They are behind: it is seen when they have come to that checkpoint.
    Open,
}

/// The rows that were served before those there are now.
#[derive(Debug, Default)]
pub(crate) struct Predecessor {
    said: Option<ViewMeta>,
    open: bool,
}

impl Predecessor {
    /// Rows that said this are served no more.
    pub(crate) fn left(&mut self, rows: ViewMeta) {
        // Of rows that had not come that far, nobody was told.
        if !self.open {
            self.said = Some(rows);
        }
    }

    /// Others are served from now on.
    pub(crate) fn succeeded_by(&mut self, rows: &ViewMeta) -> Succession {
        let succession = match &self.said {
            None => Succession::Same,
            Some(before) if before.generation != rows.generation => Succession::Others,
            Some(before) if rows.checkpoint < before.checkpoint => Succession::Open,
            Some(before) if rows.moment() == before.moment() && rows.digest == before.digest => {
                Succession::Same
            }
            Some(_) => Succession::Others,
        };
        self.open = succession == Succession::Open;
        succession
    }

    /// Where the rows have to be looked at, exactly there.
    pub(crate) fn awaited(&self) -> Option<Position> {
        self.said.as_ref().filter(|_| self.open).map(|before| before.checkpoint)
    }

    /// The rows have come so far: what is known of them now, if it was not before.
    pub(crate) fn reached_by(&mut self, rows: &ViewMeta) -> Option<Succession> {
        let is_there = self.awaited().is_some_and(|awaited| rows.checkpoint >= awaited);
        is_there.then(|| self.succeeded_by(rows))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::view::digest::Digest;
    use crate::view::meta::Beside;

    fn rows(checkpoint: u64, sum: u128) -> ViewMeta {
        ViewMeta {
            store_id: Uuid::nil(),
            name: "n".into(),
            generation: 1,
            checkpoint: Position::new(checkpoint),
            turns: 0,
            fingerprint: 0,
            digest: Digest { rows: 1, sum },
            beside: Beside::default(),
        }
    }

    fn after(before: ViewMeta) -> Predecessor {
        let mut predecessor = Predecessor::default();
        assert_eq!(predecessor.succeeded_by(&before), Succession::Same, "nobody was there before");
        predecessor.left(before);
        predecessor
    }

    #[test]
    fn rows_are_the_same_if_they_have_the_same_digest_at_the_same_place() {
        assert_eq!(after(rows(5, 1)).succeeded_by(&rows(5, 1)), Succession::Same);
        assert_eq!(after(rows(5, 1)).succeeded_by(&rows(5, 2)), Succession::Others);
        assert_eq!(after(rows(5, 1)).succeeded_by(&rows(6, 1)), Succession::Others);
        let next = ViewMeta { generation: 2, ..rows(3, 1) };
        assert_eq!(after(rows(5, 1)).succeeded_by(&next), Succession::Others);
    }

    #[test]
    fn of_rows_that_are_behind_it_is_seen_when_they_have_come_that_far() {
        for (sum, found) in [(1, Succession::Same), (2, Succession::Others)] {
            let mut predecessor = after(rows(5, 1));
            assert_eq!(predecessor.succeeded_by(&rows(0, 0)), Succession::Open);
            assert_eq!(
                (predecessor.awaited(), predecessor.reached_by(&rows(4, 1))),
                (Some(Position::new(5)), None)
            );
            // They are lost, too: what was told last counts.
            predecessor.left(rows(4, 1));
            assert_eq!(predecessor.succeeded_by(&rows(0, 0)), Succession::Open);
            assert_eq!(predecessor.reached_by(&rows(5, sum)), Some(found));
            assert_eq!((predecessor.awaited(), predecessor.reached_by(&rows(6, 3))), (None, None));
        }
    }
}
