//! The seam to the key-value store under a view: rows of bytes, sorted by key, changed in atomic batches.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::Bound;

use crate::error::{Error, ErrorKind};

/// The longest key of a view's row, in bytes.
pub(crate) const KEY_LIMIT: usize = 1024;
/// The longest value of a view's row, in bytes.
pub(crate) const VALUE_LIMIT: usize = 1 << 20;
/// The longest key that the key-value store takes: a view's, with a byte before it.
pub(crate) const STORED_KEY_LIMIT: usize = KEY_LIMIT + 1;
/// The longest value that the key-value store takes: a view's row, with what is around it in its block.
pub(crate) const STORED_VALUE_LIMIT: usize = VALUE_LIMIT + KEY_LIMIT + 64;

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);
/// A key and its new value, or none to remove the row.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);
/// Rows in the order of their keys, from either end.
pub(crate) type RowsIter = Box<dyn DoubleEndedIterator<Item = Result<Row, Error>> + Send>;

/// Where the rows of a view are kept. Derived data: losing it costs a rebuild, never an event.
///
/// An error of kind [`ErrorKind::View`] says the rows are damaged or their store failed: discard and rebuild them. An
/// error of any other kind is the environment's (a full disk, a missing permission, a held lock): keep the rows, and
/// open them again later. No method panics.
pub(crate) trait Rows: Debug + Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// The last row that is not beyond a bound.
    fn floor(&self, to: Bound<&[u8]>) -> Result<Option<Row>, Error>;

    /// The first key after `key`.
    fn key_after(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Makes all of the changes, or none of them, whatever fails or crashes and whenever; a reader, too, never
    /// meets half of them in one [`get`](Self::get). Of two changes to one key the later counts. A few hundred changes at
    /// a time are best.
    ///
    /// A crash may take away the last writes, down to the last one before [`make_durable`](Self::make_durable); what
    /// is left is always the state after some earlier write.
    ///
    /// [`ErrorKind::TooLarge`], with nothing changed, when a key exceeds [`STORED_KEY_LIMIT`] or a value
    /// [`STORED_VALUE_LIMIT`].
    /// After any other error the rows must be opened again before they can be read or changed.
    fn write(&self, changes: &[Change]) -> Result<(), Error>;

    /// Returns once every write so far would survive a loss of power.
    ///
    /// After an error nothing is known of what is on the disk, and no later success of rows at the same place proves
    /// it: only rows that are written anew do.
    fn make_durable(&self) -> Result<(), Error>;
}

/// Where the keys that start with `prefix` end: the first key beyond them all, if there is one.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// Refuses changes that the key-value store does not take.
pub(crate) fn check_stored(changes: &[Change]) -> Result<(), Error> {
    changes.iter().try_for_each(|(key, value)| {
        check("key", key.len(), STORED_KEY_LIMIT)?;
        check("value", value.as_ref().map_or(0, Vec::len), STORED_VALUE_LIMIT)
    })
}

/// Refuses a row that exceeds a limit of a view's rows.
pub(crate) fn check_limits(key_len: usize, value_len: usize) -> Result<(), Error> {
    check("key", key_len, KEY_LIMIT)?;
    check("value", value_len, VALUE_LIMIT)
}

fn check(what: &str, len: usize, limit: usize) -> Result<(), Error> {
    if len <= limit {
        return Ok(());
    }
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let message = format!("the {what} of a view's row has {len} bytes, and {limit} is the most it may have");
    Err(Error::new(ErrorKind::TooLarge { limit }, message))
}

/// From which end of its range a page is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

const FIRST_PAGE: usize = 16;
const LARGEST_PAGE: usize = 256;

/// The part of a range that was not fetched yet.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) from: Bound<Vec<u8>>,
    pub(crate) to: Bound<Vec<u8>>,
}

impl Unread {
    fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
                from >= to
            }
        }
    }
}

/// A scan that fetches a page at a time, so that it holds no lock and no resource of the store in between.
///
/// `fetch(unread, end, limit)` returns up to `limit` rows from that end of the range, in the order from that end, and
/// none only when there are none. It is never called with an empty range.
pub(crate) fn paged<F>(from: Bound<Vec<u8>>, to: Bound<Vec<u8>>, fetch: F) -> RowsIter
where
    F: FnMut(&Unread, End, usize) -> Result<Vec<Row>, Error> + Send + 'static,
{
    let (front, back) = (VecDeque::new(), VecDeque::new());
    Box::new(Paged { unread: Some(Unread { from, to }), front, back, page: FIRST_PAGE, fetch })
}

struct Paged<F> {
    /// `None` once all is fetched.
    unread: Option<Unread>,
    /// Rows before the unread ones, ascending.
    front: VecDeque<Row>,
    /// Rows after the unread ones, ascending.
    back: VecDeque<Row>,
    page: usize,
    fetch: F,
}

impl<F> Paged<F>
where
    F: FnMut(&Unread, End, usize) -> Result<Vec<Row>, Error>,
{
    fn refill(&mut self, end: End) -> Result<(), Error> {
        let Some(mut unread) = self.unread.take().filter(|unread| !unread.is_empty()) else { return Ok(()) };
        let rows = (self.fetch)(&unread, end, self.page)?;
        self.page = (self.page * 2).min(LARGEST_PAGE);
        let Some((last, _)) = rows.last() else { return Ok(()) };
        let reached = Bound::Excluded(last.clone());
        match end {
            End::Front => {
                unread.from = reached;
                self.front.extend(rows);
            }
            End::Back => {
                unread.to = reached;
                rows.into_iter().for_each(|row| self.back.push_front(row));
            }
        }
        self.unread = Some(unread);
        Ok(())
    }

    fn fail(&mut self, error: Error) -> Option<Result<Row, Error>> {
        self.unread = None;
        self.front.clear();
        self.back.clear();
        Some(Err(error))
    }
}

impl<F> Iterator for Paged<F>
where
    F: FnMut(&Unread, End, usize) -> Result<Vec<Row>, Error>,
{
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.front.is_empty()
            && let Err(error) = self.refill(End::Front)
        {
            return self.fail(error);
        }
        self.front.pop_front().or_else(|| self.back.pop_front()).map(Ok)
    }
}

impl<F> DoubleEndedIterator for Paged<F>
where
    F: FnMut(&Unread, End, usize) -> Result<Vec<Row>, Error>,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.back.is_empty()
            && let Err(error) = self.refill(End::Back)
        {
            return self.fail(error);
        }
        self.back.pop_back().or_else(|| self.front.pop_back()).map(Ok)
    }
}

/// What every kind of rows must do, for the tests of each.
#[cfg(test)]
pub(crate) mod contract {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    pub(crate) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// Short keys over few bytes, so that they collide, nest and touch the ends of every range.
    pub(crate) fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(2), Just(0xFF)], 0..4)
    }

    pub(crate) fn change() -> impl Strategy<Value = Change> {
        let len = prop_oneof![8 => 0..40usize, 1 => 4000..4200usize, 1 => 8000..20_000usize];
        let value = (len, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
        (key(), proptest::option::weighted(0.7, value))
    }

    pub(crate) fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
    }

    pub(crate) fn write(rows: &dyn Rows, model: &mut Model, changes: &[Change]) {
        rows.write(changes).unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
        }
    }

    pub(crate) fn all(rows: &dyn Rows) -> Vec<Row> {
        try_all(rows).unwrap()
    }

    pub(crate) fn try_all(rows: &dyn Rows) -> Result<Vec<Row>, Error> {
        let first = rows.get(&[])?.map(|value| (vec![], value));
        let (mut all, mut last) = (Vec::from_iter(first), vec![]);
        while let Some(key) = rows.key_after(&last)? {
            all.push((key.clone(), rows.get(&key)?.expect("nobody removes it")));
            last = key;
        }
        Ok(all)
    }

    pub(crate) fn check_all(rows: &dyn Rows, model: &Model) {
        let expected: Vec<Row> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(all(rows), expected);
        for (key, value) in model {
            assert_eq!(rows.get(key).unwrap().as_ref(), Some(value));
        }
        assert_eq!(rows.get(b"no such row").unwrap(), None);
        for key in model.keys().cloned().chain([vec![], vec![0], vec![1, 1], vec![2, 0xFF], vec![0xFF; 4]]) {
            for to in [Bound::Included(&*key), Bound::Excluded(&*key), Bound::Unbounded] {
                let floor = model.range::<[u8], _>((Bound::Unbounded, to)).next_back();
                let floor = floor.map(|(key, value)| (key.clone(), value.clone()));
                assert_eq!(rows.floor(to).unwrap(), floor);
            }
            let after = model.range((Bound::Excluded(key.clone()), Bound::Unbounded)).next();
            assert_eq!(rows.key_after(&key).unwrap(), after.map(|(key, _)| key.clone()));
        }
    }

    /// Takes the range from both ends, as `turns` say, and compares with the model's.
    pub(crate) fn check_range(
        scan: impl Fn(Bound<Vec<u8>>, Bound<Vec<u8>>) -> RowsIter,
        model: &Model,
        from: Bound<Vec<u8>>,
        to: Bound<Vec<u8>>,
        turns: &[bool],
    ) {
        let range = Unread { from, to };
        let inside = |key: &Vec<u8>| {
            (match &range.from {
                Bound::Unbounded => true,
                Bound::Included(from) => key >= from,
                Bound::Excluded(from) => key > from,
            }) && (match &range.to {
                Bound::Unbounded => true,
                Bound::Included(to) => key <= to,
                Bound::Excluded(to) => key < to,
            })
        };
        let mut expected = model.iter().filter(|(key, _)| inside(key));
        let mut scan = scan(range.from.clone(), range.to.clone());
        for front in turns.iter().copied().chain(std::iter::repeat(true)) {
            let row = if front { scan.next() } else { scan.next_back() }.transpose().unwrap();
            let wanted = if front { expected.next() } else { expected.next_back() };
            assert_eq!(row.as_ref().map(|(key, value)| (key, value)), wanted);
            if wanted.is_none() {
                assert!(scan.next().is_none() && scan.next_back().is_none());
                return;
            }
        }
    }

    /// A change too large for a limit, with the limit.
    pub(crate) fn check_limits_are_kept(rows: &dyn Rows) {
        let before = all(rows);
        for (change, limit) in [
            ((vec![1; STORED_KEY_LIMIT + 1], Some(vec![])), STORED_KEY_LIMIT),
            ((vec![1; STORED_KEY_LIMIT + 1], None), STORED_KEY_LIMIT),
            ((vec![1], Some(vec![0; STORED_VALUE_LIMIT + 1])), STORED_VALUE_LIMIT),
        ] {
            let error = rows.write(&[(b"fine".to_vec(), Some(vec![])), change]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge { limit: u64::try_from(limit).unwrap() });
            assert_eq!(all(rows), before);
        }
        let largest = (vec![0xFF; STORED_KEY_LIMIT], vec![7; STORED_VALUE_LIMIT]);
        rows.write(&[(largest.0.clone(), Some(largest.1.clone()))]).unwrap();
        assert_eq!(rows.floor(Bound::Unbounded).unwrap().unwrap(), largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_first_key_beyond_it() {
        assert_eq!(prefix_end(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xFF\xFF"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xFF"), Bound::Unbounded);
        assert_eq!(prefix_end(b""), Bound::Unbounded);
    }

    #[test]
    fn a_scan_ends_after_the_first_error() {
        let mut calls = 0;
        let mut scan = paged(Bound::Unbounded, Bound::Unbounded, move |_, _, _| {
            calls += 1;
            if calls == 1 {
                Ok(vec![(b"a".to_vec(), vec![])])
            } else {
                Err(Error::new(ErrorKind::View, "damaged"))
            }
        });
        assert!(scan.next().unwrap().is_ok());
        assert_eq!(scan.next().unwrap().unwrap_err().kind(), ErrorKind::View);
        assert!(scan.next().is_none() && scan.next_back().is_none());
    }
}
