//! Rows in memory, for stores without a disk. They last as long as the value does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::error::Error;
use crate::view::rows::{self, Change, End, Row, Rows, RowsIter};

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// Sorted rows behind a lock, with the limits of the rows on disk.
#[derive(Debug, Default)]
pub(crate) struct MemoryRows {
    table: Arc<RwLock<Table>>,
}

impl MemoryRows {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

/// Nothing under the lock panics halfway through a change, so a poisoned lock guards rows that are whole.
fn read(table: &RwLock<Table>) -> RwLockReadGuard<'_, Table> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

impl Rows for MemoryRows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(read(&self.table).get(key).cloned())
    }

    fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(read(&self.table).contains_key(key))
    }

    fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RowsIter {
        let table = Arc::clone(&self.table);
        rows::paged(from, to, move |unread, end, limit| {
            let copy = |(key, value): (&Vec<u8>, &Vec<u8>)| -> Row { (key.clone(), value.clone()) };
            let table = read(&table);
            let range = table.range::<Vec<u8>, _>((unread.from.as_ref(), unread.to.as_ref()));
            Ok(match end {
                End::Front => range.take(limit).map(copy).collect(),
                End::Back => range.rev().take(limit).map(copy).collect(),
            })
        })
    }

    fn write(&self, changes: &[Change]) -> Result<(), Error> {
        rows::check_limits(changes)?;
        let changes = changes.to_vec();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        }
        Ok(())
    }

    fn make_durable(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::view::rows::contract::{self, Model};

    proptest! {
        #[test]
        fn memory_rows_are_a_sorted_map(
            batches in vec(vec(contract::change(), 0..40), 0..6),
            from in contract::bound(),
            to in contract::bound(),
            turns in vec(any::<bool>(), 0..30),
        ) {
            let (rows, mut model) = (MemoryRows::new(), Model::new());
            for batch in &batches {
                contract::write(&rows, &mut model, batch);
            }
            contract::check_all(&rows, &model);
            contract::check_range(&rows, &model, from, to, &turns);
        }
    }

    #[test]
    fn memory_rows_keep_the_limits() {
        contract::check_limits_are_kept(&MemoryRows::new());
    }

    #[test]
    fn a_scan_in_memory_goes_on_across_writes() {
        let rows = MemoryRows::new();
        let row = |n: u8| (vec![n], Some(vec![n]));
        rows.write(&(0..100).map(row).collect::<Vec<_>>()).unwrap();
        let mut scan = rows.scan(Bound::Unbounded, Bound::Unbounded);
        assert_eq!(scan.next().unwrap().unwrap(), (vec![0], vec![0]));
        rows.write(&[row(200), (vec![99], None)]).unwrap();
        let rest: Vec<Row> = scan.map(Result::unwrap).collect();
        assert_eq!(rest.len(), 99);
        assert_eq!(rest.last().unwrap().0, [200]);
    }
}
