//! The rows of a whole view at once, or of a stretch of the log, as the view's files hold them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::vec;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cells::Choice;
use super::declared::Fold;
use super::folding::LEAST_CUT;
use super::gather::{Gather, Gathered, on_threads};
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::view::key::Key;
use crate::view::layout::Part;
use crate::view::value;

/// How a view is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Building {
    pub(crate) threads: usize,
    /// It stops early when there are so many rows. Up to twice as many are in memory, beside those of partials.
    pub(crate) most_rows: usize,
}

/// What the events of a stretch of the log came to.
#[cfg_attr(not(test), expect(dead_code, reason = "the projector does not build views by it yet"))]
#[derive(Debug)]
pub(crate) struct Built {
    /// The last event that is in the rows: as far as was asked, or before.
    pub(crate) to: Position,
    pub(crate) rows: BuiltRows,
}

type Row = (Vec<u8>, Vec<u8>);

/// Rows as a view keeps them, keys and values encoded, in the order of their keys.
#[derive(Debug)]
pub(crate) struct BuiltRows(vec::IntoIter<Row>);

impl Iterator for BuiltRows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for BuiltRows {}

#[cfg_attr(not(test), expect(dead_code, reason = "the projector does not build views by it yet"))]
impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + 'static> Fold<K, S> {
    /// Folds the events after a position and up to another one on several threads. After the start of the log, the rows
    /// are the view's; after a later position, each is to be [merged](Fold::merge_row) into the view's own. `None` when it
    /// was stopped.
    ///
    /// After an error the projector finds the event that it stops at by applying one event after the other.
    pub(crate) fn build(
        &self,
        catalog: &Arc<Catalog>,
        (after, to): (Position, Position),
        building: Building,
        stop: &AtomicBool,
    ) -> Result<Option<Built>, Error> {
        let gather = Gather {
            fold: self,
            catalog,
            threads: building.threads,
            choice: Choice::All,
            keep: false,
            most_rows: building.most_rows,
            least_cut: LEAST_CUT,
            stop,
        };
        let Some(Gathered { rows, to }) = gather.gather(after, to)? else { return Ok(None) };
        let (count, parts) = (rows.len(), rows.parts.len());
        let todo = Mutex::new(rows.parts);
        let done = Mutex::new(Ok(Vec::with_capacity(count)));
        on_threads(building.threads.min(parts), || {
            loop {
                let part = todo.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(part) = part else { return };
                let encoded = part.into_iter().map(|(key, state)| {
                    let mut row = Vec::with_capacity(key.len() + 1);
                    Part::OWN.start(&mut row);
                    row.extend_from_slice(&key);
                    Ok((row, value::encode(&state)?))
                });
                let sorted = encoded.collect::<Result<Vec<Row>, Error>>().map(|mut rows| {
                    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                    rows
                });
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                match (done.as_mut(), sorted) {
                    (Ok(all), Ok(mut rows)) => all.append(&mut rows),
                    (Ok(_), Err(error)) => *done = Err(error),
                    (Err(_), _) => return,
                }
            }
        });
        let mut rows = done.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        // Of runs that are sorted already, which this sort makes use of.
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(Built { to, rows: BuiltRows(rows.into_iter()) }))
    }

    /// The value of a row when later events, folded apart, came to `later`.
    pub(crate) fn merge_row(&self, earlier: Option<&[u8]>, later: Vec<u8>) -> Result<Vec<u8>, Error> {
        let Some(earlier) = earlier else { return Ok(later) };
        let mut state = value::decode(earlier)?;
        self.merge(&mut state, value::decode(&later)?).map_err(|error| {
            let message = format!("the fold {:?} could not be put together: {error}", self.name());
            Error::new(ErrorKind::View, message)
        })?;
        value::encode(&state)
    }
}
