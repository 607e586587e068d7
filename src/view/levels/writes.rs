//! Rows that are changed together, packed in the order in which they come, until they are sorted into a run. Pure.

use super::run::{Run, begin_row, key_at, row_at, set_value_len, too_large};
use crate::error::Error;
use crate::view::key_order::{KeyOrder, fetch};
use crate::view::rows::{Change, check_limits};

/// Changed rows. Of two for one key the later counts.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    bytes: Vec<u8>,
    /// Where each row starts.
    starts: Vec<u32>,
    /// They are not in the order of their keys, or two have the same.
    is_unordered: bool,
}

impl Writes {
    pub(crate) fn of(changes: impl IntoIterator<Item = Change>) -> Result<Self, Error> {
        let mut writes = Writes::default();
        writes.extend(changes)?;
        Ok(writes)
    }

    pub(crate) fn extend(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), Error> {
        changes.into_iter().try_for_each(|(key, value)| match value {
            Some(value) => self.put(&key, &value),
            None => self.remove(&key),
        })
    }

    /// How many rows were added.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Adds rows that were changed later.
    pub(crate) fn append(&mut self, later: Writes) -> Result<(), Error> {
        if self.starts.is_empty() {
            *self = later;
            return Ok(());
        }
        let shift = u32::try_from(self.bytes.len()).map_err(too_large)?;
        u32::try_from(self.bytes.len() + later.bytes.len()).map_err(too_large)?;
        let joins = later.key_of(0).is_none_or(|key| self.is_last_before(key));
        self.is_unordered |= later.is_unordered || !joins;
        self.bytes.extend_from_slice(&later.bytes);
        self.starts.extend(later.starts.iter().map(|start| start + shift));
        Ok(())
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let write = |bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(value);
            Ok(())
        };
        self.put_with(key, write).map(drop)
    }

    /// Adds a row whose value is what `write` appends, and returns that. After an error it was not added.
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) when the key or the value exceeds a limit of a view's rows.
    pub(crate) fn put_with(
        &mut self,
        key: &[u8],
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<&[u8], Error> {
        let start = self.begin(key, Some(0))?;
        let value_at = self.bytes.len();
        let added = write(&mut self.bytes).and_then(|()| {
            let len = self.bytes.len() - value_at;
            check_limits(key.len(), len)?;
            set_value_len(&mut self.bytes, start, len)
        });
        if let Err(error) = added {
            self.bytes.truncate(start);
            self.starts.pop();
            return Err(error);
        }
        Ok(self.bytes.get(value_at..).unwrap_or_default())
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<(), Error> {
        self.begin(key, None).map(drop)
    }

    /// Starts a row, and returns where.
    fn begin(&mut self, key: &[u8], value_len: Option<usize>) -> Result<usize, Error> {
        check_limits(key.len(), 0)?;
        let start = self.bytes.len();
        let number = u32::try_from(start).map_err(too_large)?;
        self.is_unordered |= !self.is_last_before(key);
        begin_row(&mut self.bytes, key, value_len)?;
        self.starts.push(number);
        Ok(start)
    }

    /// The key of the row that starts here.
    fn key_at(&self, at: usize) -> &[u8] {
        key_at(&self.bytes, at).unwrap_or_default()
    }

    /// The key of the row of this number.
    fn key_of(&self, number: usize) -> Option<&[u8]> {
        key_at(&self.bytes, usize::try_from(*self.starts.get(number)?).ok()?)
    }

    /// Whether a key is beyond that of the last row.
    fn is_last_before(&self, key: &[u8]) -> bool {
        self.key_of(self.starts.len().wrapping_sub(1)).is_none_or(|last| last < key)
    }

    pub(super) fn into_run(self) -> Result<Run, Error> {
        if !self.is_unordered {
            return Ok(Run::packed(self.bytes, self.starts));
        }
        let mut run = Run::with_room(self.starts.len(), self.bytes.len());
        let order = KeyOrder::of(self.starts.iter().copied(), |at| self.key_at(at));
        for mut places in order.chunks() {
            fetch(places.clone().filter_map(|at| self.bytes.get(at).copied()));
            places.try_for_each(|at| run.push_packed(row_at(&self.bytes, at).unwrap_or_default()))?;
        }
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::view::rows::contract;
    use crate::view::rows::{KEY_LIMIT, VALUE_LIMIT};

    proptest! {
        #[test]
        fn rows_in_any_order_are_a_sorted_run_and_of_two_for_one_key_the_later_counts(
            prefix in vec(any::<u8>(), 0..12),
            changes in vec((contract::key(), proptest::option::of(vec(any::<u8>(), 0..3))), 0..60),
        ) {
            let changes = changes.into_iter().map(|(key, value)| ([prefix.as_slice(), &key].concat(), value));
            let model: BTreeMap<_, _> = changes.clone().collect();
            let run = Writes::of(changes).unwrap().into_run().unwrap();
            let found: Vec<_> = (0..run.len()).map(|number| run.row(number).unwrap()).collect();
            let expected: Vec<_> = model.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
            prop_assert_eq!(found, expected);
            model.keys().for_each(|key| assert!(run.get(key).is_some()));
        }
    }

    #[test]
    fn a_row_beyond_a_limit_is_refused_and_was_not_added() {
        let mut writes = Writes::default();
        let refused = |done: Result<(), Error>| {
            let error = done.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
        };
        writes.put(b"b", b"1").unwrap();
        refused(writes.put(&[0; KEY_LIMIT + 1], b""));
        refused(writes.remove(&[0; KEY_LIMIT + 1]));
        refused(writes.put(b"a", &vec![0; VALUE_LIMIT + 1]));
        let failed = writes.put_with(b"c", |bytes| {
            bytes.push(0);
            Err(Error::invalid("no"))
        });
        assert!(failed.is_err());
        writes.put(b"a", &vec![0; VALUE_LIMIT]).unwrap();
        let run = writes.into_run().unwrap();
        assert_eq!((run.len(), run.key(0), run.key(1)), (2, Some(&b"a"[..]), Some(&b"b"[..])));
    }
}
