//! Sorted rows packed end to end: what was published and is not in the bottom level yet, what a redo record holds, and
//! what one block of the bottom level holds. Pure: bytes in, rows out.
//!
//! ```text
//! each row: key length u16   value length u32 (2^32 − 1: the row is removed)   key …   value …
//! ```

use std::cmp::Ordering;
use std::num::TryFromIntError;
use std::ops::{Bound, Range};
use std::sync::{Arc, OnceLock};

use super::filter::Filter;
use crate::error::{Error, ErrorKind};
use crate::log::layout::{u16_at, u32_at};
use crate::view::rows::{KEY_LIMIT, VALUE_LIMIT};

/// In place of a value's length: the row is removed.
const REMOVED: u32 = u32::MAX;
/// Key length and value length.
const HEADER: usize = 6;
/// Runs of fewer rows are searched as they are.
const FILTERED_ROWS: usize = 256;

/// Rows in the order of their keys, one for each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    bytes: Vec<u8>,
    /// Where each row starts.
    starts: Vec<u32>,
    /// Made when it is asked for.
    filter: OnceLock<Arc<Filter>>,
}

/// A row of a run: a key and its value, or none where it is removed.
pub(crate) type RunRow<'a> = (&'a [u8], Option<&'a [u8]>);

impl Run {
    /// Rows that were packed in the order of their keys, one for each key, and where each starts.
    pub(super) fn packed(mut bytes: Vec<u8>, mut starts: Vec<u32>) -> Self {
        bytes.shrink_to_fit();
        starts.shrink_to_fit();
        Run { bytes, starts, filter: OnceLock::new() }
    }

    pub(crate) fn with_room(rows: usize, bytes: usize) -> Self {
        Run { bytes: Vec::with_capacity(bytes), starts: Vec::with_capacity(rows), filter: OnceLock::new() }
    }

    /// Adds a row with a key beyond those before.
    pub(crate) fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let start = self.bytes.len();
        begin_row(&mut self.bytes, key, value.map(<[u8]>::len))?;
        self.starts.push(u32::try_from(start).map_err(too_large)?);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    /// Adds a row as it is packed, with a key beyond those before.
    pub(super) fn push_packed(&mut self, row: &[u8]) -> Result<(), Error> {
        self.starts.push(u32::try_from(self.bytes.len()).map_err(too_large)?);
        self.bytes.extend_from_slice(row);
        Ok(())
    }

    /// Adds a row of another run, with a key beyond those before.
    pub(crate) fn copy(&mut self, from: &Run, number: usize) -> Result<(), Error> {
        let row = from
            .start(number)
            .and_then(|at| from.bytes.get(at..from.start(number + 1).unwrap_or(from.bytes.len())));
        self.push_packed(row.unwrap_or_default())
    }

    fn start(&self, number: usize) -> Option<usize> {
        usize::try_from(*self.starts.get(number)?).ok()
    }

    /// Rows that were packed before; none when these are not the bytes of any.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (mut starts, mut at) = (Vec::new(), 0);
        let mut last: Option<Range<usize>> = None;
        while at < bytes.len() {
            let key_len = usize::from(u16_at(&bytes, at)?);
            let value_len = match u32_at(&bytes, at + 2)? {
                REMOVED => 0,
                len => usize::try_from(len).ok()?,
            };
            if key_len > KEY_LIMIT || value_len > VALUE_LIMIT {
                return None;
            }
            let key = at + HEADER..at + HEADER + key_len;
            let found = bytes.get(key.clone())?;
            if last.is_some_and(|last| bytes.get(last).is_none_or(|last| last >= found)) {
                return None;
            }
            starts.push(u32::try_from(at).ok()?);
            at = key.end + value_len;
            last = Some(key);
        }
        (at == bytes.len()).then_some(())?;
        Some(Run { bytes, starts, filter: OnceLock::new() })
    }

    /// What tells that a key is none of these. No row may be added any more.
    pub(super) fn filter(&self) -> &Arc<Filter> {
        let keys = (0..self.len()).filter_map(|number| self.key(number));
        self.filter.get_or_init(|| Arc::new(Filter::of(self.len(), keys)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many rows there are, those that are removed with them.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes in memory, with those of a filter.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.starts.len() * 4 + Filter::size_of(self.len())
    }

    /// The key of the row of this number.
    pub(crate) fn key(&self, number: usize) -> Option<&[u8]> {
        key_at(&self.bytes, self.start(number)?)
    }

    /// The row of this number.
    pub(crate) fn row(&self, number: usize) -> Option<RunRow<'_>> {
        let at = usize::try_from(*self.starts.get(number)?).ok()?;
        let key_end = at + HEADER + usize::from(u16_at(&self.bytes, at)?);
        let key = self.bytes.get(at + HEADER..key_end)?;
        let value = match u32_at(&self.bytes, at + 2)? {
            REMOVED => None,
            len => Some(self.bytes.get(key_end..key_end + usize::try_from(len).ok()?)?),
        };
        Some((key, value))
    }

    /// What is said of a key: nothing, that it is removed, or its value.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        if self.len() >= FILTERED_ROWS && !self.filter().may_have(key) {
            return None;
        }
        let number = self.first_not_before(key);
        self.row(number).filter(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// The value of a key among packed rows that are looked at once; nothing when these are not the bytes of rows.
    pub(crate) fn find<'a>(bytes: &'a [u8], key: &[u8]) -> Option<Option<&'a [u8]>> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let key_end = HEADER + usize::from(u16_at(rest, 0)?);
            let value_len = u32_at(rest, 2)?;
            let kept = if value_len == REMOVED { 0 } else { usize::try_from(value_len).ok()? };
            match rest.get(HEADER..key_end)?.cmp(key) {
                Ordering::Less => rest = rest.get(key_end + kept..)?,
                Ordering::Equal if value_len != REMOVED => {
                    return Some(Some(rest.get(key_end..key_end + kept)?));
                }
                _ => return Some(None),
            }
        }
        Some(None)
    }

    /// The numbers of the rows between two keys.
    pub(crate) fn between(&self, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> Range<usize> {
        let start = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.first_not_before(key),
            Bound::Excluded(key) => self.first_after(key),
        };
        let end = match to {
            Bound::Unbounded => self.len(),
            Bound::Included(key) => self.first_after(key),
            Bound::Excluded(key) => self.first_not_before(key),
        };
        start..end.max(start)
    }

    fn first_not_before(&self, key: &[u8]) -> usize {
        self.first_where(|found| found.cmp(key) == Ordering::Less)
    }

    fn first_after(&self, key: &[u8]) -> usize {
        self.first_where(|found| found.cmp(key) != Ordering::Greater)
    }

    /// The number of the first row that is not `before`.
    fn first_where(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle).is_some_and(&before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Packs the beginning of a row: all but its value, of so many bytes if there is one.
pub(super) fn begin_row(bytes: &mut Vec<u8>, key: &[u8], value_len: Option<usize>) -> Result<(), Error> {
    let key_len = u16::try_from(key.len()).map_err(too_large)?;
    let value_len = value_len.map_or(Ok(REMOVED), u32::try_from).map_err(too_large)?;
    bytes.extend_from_slice(&key_len.to_le_bytes());
    bytes.extend_from_slice(&value_len.to_le_bytes());
    bytes.extend_from_slice(key);
    Ok(())
}

/// Corrects how many bytes the value of the row has that is packed here.
pub(super) fn set_value_len(bytes: &mut [u8], at: usize, len: usize) -> Result<(), Error> {
    let len = u32::try_from(len).map_err(too_large)?;
    if let Some(place) = bytes.get_mut(at + 2..at + HEADER) {
        place.copy_from_slice(&len.to_le_bytes());
    }
    Ok(())
}

/// The key of the row that is packed here.
pub(super) fn key_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at + HEADER..at + HEADER + usize::from(u16_at(bytes, at)?))
}

/// All of the row that is packed here.
pub(super) fn row_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let value_len = match u32_at(bytes, at + 2)? {
        REMOVED => 0,
        len => usize::try_from(len).ok()?,
    };
    bytes.get(at..at + HEADER + usize::from(u16_at(bytes, at)?) + value_len)
}

pub(super) fn too_large(_: TryFromIntError) -> Error {
    let limit = u64::from(u32::MAX);
    Error::new(ErrorKind::TooLarge { limit }, "the rows changed at once have more than 4 GiB")
}

/// Changes, in any order.
#[cfg(test)]
pub(super) fn run_of(changes: impl IntoIterator<Item = crate::view::rows::Change>) -> Run {
    super::writes::Writes::of(changes).and_then(super::writes::Writes::into_run).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::view::rows::contract;

    fn rows() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        let value = proptest::option::weighted(0.8, vec(any::<u8>(), 0..5));
        prop_oneof![
            4 => btree_map(contract::key(), value.clone(), 0..30),
            1 => btree_map(any::<[u8; 2]>().prop_map(Vec::from), value, 250..600),
        ]
    }

    fn rows_of(run: &Run) -> Vec<RunRow<'_>> {
        (0..run.len()).map(|number| run.row(number).unwrap()).collect()
    }

    fn run(rows: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Run {
        run_of(rows.clone())
    }

    proptest! {
        #[test]
        fn a_run_is_a_sorted_map(model in rows(), from in contract::bound(), to in contract::bound(), other: [u8; 2]) {
            let run = run(&model);
            let packed = Run::parse(run.bytes().to_vec()).unwrap();
            for run in [&run, &packed] {
                prop_assert_eq!(run.len(), model.len());
                let expected = model.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
                prop_assert_eq!(rows_of(run), expected.collect::<Vec<_>>());
                for (key, value) in &model {
                    prop_assert_eq!(run.get(key), Some(value.as_deref()));
                    prop_assert_eq!(Run::find(run.bytes(), key), Some(value.as_deref()));
                }
                let found = model.get(other.as_slice()).cloned().flatten();
                prop_assert_eq!(Run::find(run.bytes(), &other), Some(found.as_deref()));
                prop_assert_eq!(run.get(&other).is_some(), model.contains_key(other.as_slice()));
                let inside = |key: &[u8]| (match &from {
                    Bound::Unbounded => true,
                    Bound::Included(from) => key >= from.as_slice(),
                    Bound::Excluded(from) => key > from.as_slice(),
                }) && (match &to {
                    Bound::Unbounded => true,
                    Bound::Included(to) => key <= to.as_slice(),
                    Bound::Excluded(to) => key < to.as_slice(),
                });
                let found: Vec<_> = run.between(&from, &to).map(|at| run.row(at).unwrap().0.to_vec()).collect();
                let expected: Vec<_> = model.keys().filter(|key| inside(key)).cloned().collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn hostile_bytes_are_no_run_or_come_back_as_they_were(bytes in vec(prop_oneof![0..4u8, any::<u8>()], 0..64)) {
            if let Some(run) = Run::parse(bytes.clone()) {
                let changes: Vec<_> =
                    rows_of(&run).into_iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
                let again = run_of(changes);
                prop_assert_eq!(again.bytes(), bytes);
            }
        }
    }

    #[test]
    fn the_bytes_of_a_run_never_change() {
        let run = run_of([(b"k".to_vec(), Some(b"vw".to_vec())), (b"l".to_vec(), None)]);
        assert_eq!(run.bytes(), b"\x01\0\x02\0\0\0kvw\x01\0\xFF\xFF\xFF\xFFl");
    }
}
