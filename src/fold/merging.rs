//! What pieces of the log came to, put together behind the rows of a view: one range of keys at a time.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::{Bound, Range};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::declared::Fold;
use crate::error::Error;
use crate::view::digest::{Digest, RowHash};
use crate::view::key::Key;
use crate::view::key_list::{OrderedKey, Sorted};
use crate::view::layout::Part;
use crate::view::levels::{Version, Writes};
use crate::view::rows::RowsIter;
use crate::view::value;

/// When a view has so many times the rows that are changed, they are looked up one by one; else all of them are read.
const LOOKED_UP: u64 = 8;

/// Rows of several pieces, of the same range of keys, in the order of the pieces.
pub(super) struct RangeOfKeys<'a, S> {
    pieces: Vec<InOrder<'a, S>>,
    /// The numbers of the pieces whose next key is the smallest.
    smallest: Vec<usize>,
    /// Of how many ranges this is one.
    of: usize,
}

/// Cuts pieces at the same keys, into so many ranges of about the same size.
pub(super) fn split<S>(pieces: &[Sorted<S>], count: usize) -> Vec<RangeOfKeys<'_, S>> {
    let mut bounds = Vec::new();
    if let Some(largest) = pieces.iter().max_by_key(|rows| rows.len()) {
        let at = (1..count).filter_map(|number| largest.key(largest.len() * number / count));
        bounds.extend(at);
    }
    let mut rest: Vec<_> = pieces.iter().map(InOrder::new).collect();
    let mut ranges = Vec::with_capacity(count);
    for bound in bounds {
        let pieces = rest.iter_mut().map(|rows| rows.split_before(bound)).collect();
        ranges.push(RangeOfKeys { pieces, smallest: Vec::new(), of: count });
    }
    ranges.push(RangeOfKeys { pieces: rest, smallest: Vec::new(), of: count });
    ranges
}

/// Some rows of a piece, in the order of their keys.
struct InOrder<'a, S> {
    rows: &'a Sorted<S>,
    /// The numbers of those that are left.
    left: Range<usize>,
    /// The first of them.
    next: Option<(OrderedKey<'a>, &'a S)>,
}

impl<'a, S> InOrder<'a, S> {
    fn new(rows: &'a Sorted<S>) -> Self {
        InOrder::of(rows, 0..rows.len())
    }

    fn of(rows: &'a Sorted<S>, left: Range<usize>) -> Self {
        let mut of = InOrder { rows, left, next: None };
        of.find_next();
        of
    }

    /// Those before a key, which are left no more.
    fn split_before(&mut self, bound: OrderedKey<'_>) -> Self {
        let at = self.rows.first_not_before(self.left.clone(), bound);
        let before = InOrder::of(self.rows, self.left.start..at);
        *self = InOrder::of(self.rows, at..self.left.end);
        before
    }

    fn find_next(&mut self) {
        self.next = if self.left.is_empty() { None } else { self.rows.get(self.left.start) };
    }

    fn last(&self) -> Option<OrderedKey<'a>> {
        self.rows.key(self.left.end.wrapping_sub(1)).filter(|_| !self.left.is_empty())
    }

    /// The next is left no more.
    fn step(&mut self) {
        self.left.next();
        self.find_next();
    }
}

/// What becomes of the rows of a range of keys.
#[derive(Default)]
pub(super) struct RangeRows {
    /// In the order of their keys.
    pub(super) writes: Writes,
    /// The rows that others take the place of.
    pub(super) gone: Digest,
    pub(super) come: Digest,
}

/// Puts rows behind those of a view.
pub(super) struct Merge<'a, K, S> {
    pub(super) fold: &'a Fold<K, S>,
    pub(super) rows: &'a Version,
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Merge<'_, K, S> {
    pub(super) fn range(&self, mut range: RangeOfKeys<'_, S>) -> Result<RangeRows, Error> {
        let count = range.pieces.iter().map(|piece| piece.left.len()).max().unwrap_or(0);
        let mut earlier = self.earlier(&range, count);
        let mut rows = RangeRows::default();
        let (mut bytes, mut short) = (Vec::new(), [0; 16]);
        while let Some((key, state)) = self.next(&mut range)? {
            let key = row_key(key.bytes(&mut short), &mut bytes);
            let state = match earlier.value(key)? {
                None => state,
                Some(before) => {
                    rows.gone.add(RowHash::of(key, &before));
                    let mut merged = value::decode(&before)?;
                    self.fold.merge_states(&mut merged, state.into_owned())?;
                    Cow::Owned(merged)
                }
            };
            let value = rows.writes.put_with(key, |bytes| value::append(&*state, bytes))?;
            rows.come.add(RowHash::of(key, value));
        }
        Ok(rows)
    }

    /// The next row of any piece.
    fn next<'a>(
        &self,
        range: &mut RangeOfKeys<'a, S>,
    ) -> Result<Option<(OrderedKey<'a>, Cow<'a, S>)>, Error> {
        let RangeOfKeys { pieces, smallest, .. } = range;
        smallest.clear();
        let mut first: Option<OrderedKey<'_>> = None;
        for (number, piece) in pieces.iter().enumerate() {
            let Some((key, _)) = piece.next else { continue };
            match first.map_or(Ordering::Less, |first| key.cmp(&first)) {
                Ordering::Less => {
                    smallest.clear();
                    first = Some(key);
                }
                Ordering::Equal => {}
                Ordering::Greater => continue,
            }
            smallest.push(number);
        }
        let mut next: Option<(OrderedKey<'_>, Cow<'_, S>)> = None;
        for number in &*smallest {
            let Some(piece) = pieces.get_mut(*number) else { continue };
            while let Some((key, state)) = piece.next
                && first.is_some_and(|first| key == first)
            {
                piece.step();
                match &mut next {
                    None => next = Some((key, Cow::Borrowed(state))),
                    Some((_, earlier)) => self.fold.merge_states(earlier.to_mut(), state.clone())?,
                }
            }
        }
        Ok(next)
    }

    /// How to find the rows that the view has, of so many.
    fn earlier(&self, range: &RangeOfKeys<'_, S>, count: usize) -> Earlier<'_> {
        let ends = range.pieces.iter().flat_map(|rows| [rows.next.map(|(key, _)| key), rows.last()]);
        let keys = ends.flatten();
        let (Some(first), Some(last)) = (keys.clone().min(), keys.max()) else { return Earlier::None };
        let changed = u64::try_from(count.saturating_mul(range.of)).unwrap_or(u64::MAX);
        match self.rows.meta().digest.rows {
            0 => Earlier::None,
            all if all / LOOKED_UP > changed => Earlier::LookedUp(self.rows),
            _ => {
                let bound = |key: OrderedKey<'_>| {
                    Bound::Included(row_key(key.bytes(&mut [0; 16]), &mut Vec::new()).to_vec())
                };
                let (from, to) = (bound(first), bound(last));
                Earlier::Read(self.rows.scan(from, to).peekable())
            }
        }
    }
}

/// A row's key in the view's own part, which is put into `bytes`.
fn row_key<'a>(key: &[u8], bytes: &'a mut Vec<u8>) -> &'a [u8] {
    Part::OWN.start(bytes);
    bytes.extend_from_slice(key);
    bytes
}

/// The rows that a view has.
enum Earlier<'a> {
    None,
    LookedUp(&'a Version),
    /// All of them, in the order of their keys.
    Read(Peekable<RowsIter>),
}

impl Earlier<'_> {
    /// The value of a key, which is beyond those that were asked for before.
    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Earlier::None => Ok(None),
            Earlier::LookedUp(rows) => rows.get(key),
            Earlier::Read(rows) => loop {
                let order = match rows.peek() {
                    None => return Ok(None),
                    Some(Ok((found, _))) => found.as_slice().cmp(key),
                    Some(Err(_)) => Ordering::Equal,
                };
                match order {
                    Ordering::Less => drop(rows.next()),
                    Ordering::Equal => return rows.next().transpose().map(|row| row.map(|(_, value)| value)),
                    Ordering::Greater => return Ok(None),
                }
            },
        }
    }
}
