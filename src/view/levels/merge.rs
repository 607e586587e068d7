//! Several runs read as one: of two rows of one key that of the earlier run counts. Pure.

use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::sync::Arc;

use super::run::{Run, RunRow};
use crate::error::Error;
use crate::view::rows::End;

/// The rows between two keys of several runs, from one end; those that are removed with them.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    runs: Vec<(&'a Run, Range<usize>)>,
    end: End,
}

impl<'a> Merged<'a> {
    pub(super) fn new(
        runs: impl Iterator<Item = &'a Run>,
        from: &Bound<Vec<u8>>,
        to: &Bound<Vec<u8>>,
        end: End,
    ) -> Self {
        let runs = runs.map(|run| (run, run.between(from, to))).filter(|(_, left)| !left.is_empty());
        Merged { runs: runs.collect(), end }
    }

    /// The row that a run has next.
    fn peek((run, left): &(&'a Run, Range<usize>), end: End) -> Option<RunRow<'a>> {
        match end {
            End::Front => run.row(left.start).filter(|_| !left.is_empty()),
            End::Back => run.row(left.end.checked_sub(1)?).filter(|_| !left.is_empty()),
        }
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = RunRow<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.end;
        let mut next: Option<RunRow<'a>> = None;
        for run in &self.runs {
            let Some(row) = Self::peek(run, end) else { continue };
            let sooner = next.is_none_or(|(key, _)| match end {
                End::Front => row.0 < key,
                End::Back => row.0 > key,
            });
            if sooner {
                next = Some(row);
            }
        }
        let (key, _) = next?;
        for run in &mut self.runs {
            if Self::peek(run, end).is_some_and(|(found, _)| found == key) {
                match end {
                    End::Front => run.1.start += 1,
                    End::Back => run.1.end -= 1,
                }
            }
        }
        next
    }
}

/// One run with the rows of several, of which the first counts most.
pub(super) fn merge(runs: &[Arc<Run>]) -> Result<Arc<Run>, Error> {
    match runs {
        [one] => Ok(one.clone()),
        [newer, older] => merge_two(newer, older).map(Arc::new),
        many => merge_many(many).map(Arc::new),
    }
}

fn merge_many(runs: &[Arc<Run>]) -> Result<Run, Error> {
    let (rows, bytes) =
        runs.iter().fold((0, 0), |(rows, bytes), run| (rows + run.len(), bytes + run.bytes().len()));
    let mut merged = Run::with_room(rows, bytes);
    for (key, value) in
        Merged::new(runs.iter().map(|run| &**run), &Bound::Unbounded, &Bound::Unbounded, End::Front)
    {
        merged.push(key, value)?;
    }
    Ok(merged)
}

/// The same for two: rows are copied as they lie.
fn merge_two(newer: &Run, older: &Run) -> Result<Run, Error> {
    let bytes = newer.bytes().len() + older.bytes().len();
    let mut merged = Run::with_room(newer.len() + older.len(), bytes);
    let (mut left, mut right) = (0, 0);
    loop {
        let order = match (newer.key(left), older.key(right)) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        match order {
            Ordering::Greater => merged.copy(older, right)?,
            Ordering::Less | Ordering::Equal => merged.copy(newer, left)?,
        }
        left += usize::from(order != Ordering::Greater);
        right += usize::from(order != Ordering::Less);
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::view::levels::run::run_of;
    use crate::view::rows::contract;

    proptest! {
        #[test]
        fn of_several_runs_the_first_counts(
            models in vec(btree_map(contract::key(), proptest::option::of(vec(any::<u8>(), 0..3)), 0..20), 0..5),
            from in contract::bound(),
            to in contract::bound(),
        ) {
            let runs: Vec<_> = models
                .iter()
                .map(|model| Arc::new(run_of(model.clone())))
                .collect();
            let mut whole = BTreeMap::new();
            models.iter().rev().for_each(|model| whole.extend(model.clone()));
            let merged = merge(&runs).unwrap();
            let all = (0..merged.len()).map(|number| merged.row(number).unwrap());
            prop_assert!(all.eq(whole.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))));
            let inside: Vec<_> = merged.between(&from, &to).map(|at| merged.row(at).unwrap()).collect();
            let read = |end| Merged::new(runs.iter().map(|run| &**run), &from, &to, end);
            prop_assert_eq!(read(End::Front).collect::<Vec<_>>(), inside.clone());
            prop_assert_eq!(read(End::Back).collect::<Vec<_>>(), inside.into_iter().rev().collect::<Vec<_>>());
        }
    }
}
