//! Two sets of rows held against each other: a view and what the log gives, or the views of two projections.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use super::digest::{Digest, RowHash};
use super::key::Key;
use super::layout::Part;
use super::levels::Version;
use super::meta::META_KEY;
use super::rows::Row;
use super::status::ViewDigest;
use crate::error::Error;

/// So many differing rows are named.
const MOST_NAMED: usize = 20;

/// Folds the log again, with a view's own projection.
pub(crate) trait Prove: fmt::Debug + Send + Sync {
    /// The rows that the log gives up to the checkpoint of these, leaving out what they say was left out.
    fn refold(&self, rows: &Version) -> Result<Arc<Version>, Error>;
}

/// Where two sets of rows differ in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Difference {
    /// Only the first has the row.
    OnlyFirst,
    /// Only the second has the row.
    OnlySecond,
    /// The values differ.
    Value,
}

/// A row in which two sets of rows differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DifferingRow<K> {
    /// The row's key; none for rows of the projection's other views, and for what everfold keeps beside them.
    pub key: Option<K>,
    /// How they differ.
    pub difference: Difference,
}

/// What [`Store::compare`](crate::Store::compare) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison<K> {
    /// The digest of the first projection's rows.
    pub first: ViewDigest,
    /// The digest of the second projection's rows.
    pub second: ViewDigest,
    /// The first rows that differ, by their keys: 20 at the most.
    pub differing: Vec<DifferingRow<K>>,
}

impl<K> Comparison<K> {
    /// Whether all rows are the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differing.is_empty() && self.first == self.second
    }
}

/// What [`View::verify`](crate::View::verify) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified<K> {
    /// What the view says of its rows.
    pub said: ViewDigest,
    /// What its rows are.
    pub found: ViewDigest,
    /// What the log gives.
    pub expected: ViewDigest,
    /// The first rows that differ, by their keys: 20 at the most. The first set is the view's, the second one the log's.
    pub differing: Vec<DifferingRow<K>>,
}

impl<K> Verified<K> {
    /// Whether the rows are those that the log gives.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.differing.is_empty() && self.said == self.found && self.found == self.expected
    }
}

impl<K> fmt::Display for Verified<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verified { said, found, expected, .. } = self;
        match self.is_sound() {
            true => write!(f, "the {} rows at position {} follow from the log", found.rows, said.checkpoint),
            false => write!(
                f,
                "the rows do not follow from the log: {found} found, {said} said, {expected} expected"
            ),
        }
    }
}

/// Goes through both sets of rows in the order of their keys.
pub(crate) fn compare<K: Key>(part: Part, first: &Version, second: &Version) -> Result<Comparison<K>, Error> {
    let (mut digests, mut differing) = ([Digest::default(); 2], Vec::new());
    let all = |version: &Version| version.scan(Bound::Excluded(META_KEY.to_vec()), Bound::Unbounded);
    let (mut left, mut right) = (all(first), all(second));
    let mut rows = [left.next().transpose()?, right.next().transpose()?];
    while let Some((key, found)) = lesser(&rows) {
        let difference = match (found, &rows) {
            ([true, true], [Some((_, a)), Some((_, b))]) if a == b => None,
            ([true, true], _) => Some(Difference::Value),
            ([true, _], _) => Some(Difference::OnlyFirst),
            _ => Some(Difference::OnlySecond),
        };
        if let Some(difference) = difference.filter(|_| differing.len() < MOST_NAMED) {
            differing.push(DifferingRow { key: user_key(part, &key), difference });
        }
        let [of_first, of_second] = &mut rows;
        let [first_digest, second_digest] = &mut digests;
        let [in_first, in_second] = found;
        if in_first {
            count(of_first, first_digest);
            *of_first = left.next().transpose()?;
        }
        if in_second {
            count(of_second, second_digest);
            *of_second = right.next().transpose()?;
        }
    }
    let told = |digest: Digest, version: &Version| ViewDigest {
        checkpoint: version.meta().checkpoint,
        rows: digest.rows,
        sum: digest.sum,
    };
    let [of_first, of_second] = digests;
    Ok(Comparison { first: told(of_first, first), second: told(of_second, second), differing })
}

/// The lowest key of two rows, and which of them have it.
fn lesser(rows: &[Option<Row>; 2]) -> Option<(Vec<u8>, [bool; 2])> {
    let [first, second] = rows.each_ref().map(|row| row.as_ref().map(|(key, _)| key));
    let key = match (first, second) {
        (Some(first), Some(second)) => first.min(second),
        (first, second) => first.or(second)?,
    };
    Some((key.clone(), [first == Some(key), second == Some(key)]))
}

fn count(row: &Option<Row>, digest: &mut Digest) {
    if let Some((key, value)) = row {
        digest.add(RowHash::of(key, value));
    }
}

fn user_key<K: Key>(part: Part, key: &[u8]) -> Option<K> {
    let mut rest = part.strip(key)?;
    K::decode(&mut rest).ok().filter(|_| rest.is_empty())
}
