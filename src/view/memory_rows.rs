//! Rows in memory, for stores without a disk. They last as long as the value does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::error::Error;
use crate::view::rows::{self, Change, Row, Rows};

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// Sorted rows behind a lock, with the limits of the rows on disk.
#[derive(Debug, Default)]
pub(crate) struct MemoryRows {
    table: RwLock<Table>,
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

    fn floor(&self, to: Bound<&[u8]>) -> Result<Option<Row>, Error> {
        let table = read(&self.table);
        let floor = table.range::<[u8], _>((Bound::Unbounded, to)).next_back();
        Ok(floor.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn key_after(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let table = read(&self.table);
        let after = table.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
        Ok(after.map(|(key, _)| key.clone()))
    }

    fn write(&self, changes: &[Change]) -> Result<(), Error> {
        rows::check_stored(changes)?;
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
        ) {
            let (rows, mut model) = (MemoryRows::new(), Model::new());
            for batch in &batches {
                contract::write(&rows, &mut model, batch);
            }
            contract::check_all(&rows, &model);
        }
    }

    #[test]
    fn memory_rows_keep_the_limits() {
        contract::check_limits_are_kept(&MemoryRows::new());
    }
}
