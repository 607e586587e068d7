//! What a fold comes to: asked for by a reader, or built for a view.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cells::{Choice, Parts};
use super::declared::Fold;
use super::gather::Gather;
use crate::error::Error;
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::projection::threads;
use crate::view::folder::check_name;
use crate::view::key::Key;
use crate::view::prefix::KeyPrefix;
use crate::view::rows::prefix_end;

/// Fewer events are not shared among threads.
pub(super) const LEAST_CUT: u64 = 4096;

/// A question to a fold: what its rows are, now or as of an earlier position. From [`Store::fold`](crate::Store::fold).
///
/// It folds the log, on several threads. What each sealed segment comes to is kept in a file, and serves the next
/// question: then only the segments without such a file are read, and the part of the last one before the position. Such
/// a file is verified whenever it is read; one that is damaged or missing is made anew. None is kept that would be larger
/// than its segment, nor in a store that was opened read-only.
///
/// What is kept outlives [`retain`](crate::Store::retain): when all the segments that it dropped had such files, the fold
/// still knows what came before.
#[must_use = "it folds nothing until it is asked for rows"]
pub struct Folding<K, S> {
    fold: Fold<K, S>,
    catalog: Arc<Catalog>,
    as_of: Option<Position>,
    threads: usize,
}

impl<K, S> fmt::Debug for Folding<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folding")
            .field("fold", &self.fold)
            .field("as_of", &self.as_of)
            .finish_non_exhaustive()
    }
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Folding<K, S> {
    pub(crate) fn new(fold: Fold<K, S>, catalog: Arc<Catalog>) -> Self {
        Folding { fold, catalog, as_of: None, threads: threads::all() }
    }

    /// As of a position: of the events up to it, and it. Without this, of all that are durable when it is asked.
    pub fn as_of(self, position: Position) -> Self {
        Folding { as_of: Some(position), ..self }
    }

    /// On so many threads, in place of as many as the machine runs at once.
    pub fn threads(self, threads: usize) -> Self {
        Folding { threads: threads.clamp(1, 64), ..self }
    }

    /// All rows, by their keys.
    ///
    /// # Errors
    /// [`Stopped`](crate::ErrorKind::Stopped) when the fold fails on an event, which is the one that a projector would stop at;
    /// [`Truncated`](crate::ErrorKind::Truncated) when events are gone and it is not known what they came to;
    /// [`Invalid`](crate::ErrorKind::Invalid) when the log does not reach the position, or the fold's name cannot name a folder;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`Io`](crate::ErrorKind::Io) when events cannot be read;
    /// [`Closed`](crate::ErrorKind::Closed).
    pub fn rows(&self) -> Result<BTreeMap<K, S>, Error>
    where
        K: Ord,
    {
        self.chosen(Choice::All)
    }

    /// The row of a key.
    ///
    /// # Errors
    /// As [`rows`](Folding::rows); but the fold may fail on events of other keys only.
    pub fn get(&self, key: &K) -> Result<Option<S>, Error> {
        let rows = self.gather(Choice::Key(encoded(key)))?;
        Ok(rows.parts.into_iter().flatten().next().map(|(_, state)| state))
    }

    /// The rows whose keys are in a range.
    ///
    /// # Errors
    /// As [`get`](Folding::get).
    pub fn range(&self, range: impl RangeBounds<K>) -> Result<BTreeMap<K, S>, Error>
    where
        K: Ord,
    {
        let bound = |bound: Bound<&K>| bound.map(encoded);
        self.chosen(Choice::Range(bound(range.start_bound()), bound(range.end_bound())))
    }

    /// The rows whose keys start with a prefix: the first parts of a tuple, or the start of a string.
    ///
    /// # Errors
    /// As [`get`](Folding::get).
    pub fn prefix<P: KeyPrefix<K> + ?Sized>(&self, prefix: &P) -> Result<BTreeMap<K, S>, Error>
    where
        K: Ord,
    {
        let mut bytes = Vec::new();
        prefix.encode_prefix(&mut bytes);
        let end = prefix_end(&bytes);
        self.chosen(Choice::Range(Bound::Included(bytes), end))
    }

    fn chosen(&self, choice: Choice) -> Result<BTreeMap<K, S>, Error>
    where
        K: Ord,
    {
        let rows = self.gather(choice)?;
        let decode = |(key, state): (Box<[u8]>, S)| Ok((K::decode(&mut &*key)?, state));
        rows.parts.into_iter().flatten().map(decode).collect()
    }

    fn gather(&self, choice: Choice) -> Result<Parts<S>, Error> {
        check_name(self.fold.name())?;
        let last = self.catalog.watermark.get();
        let to = self.as_of.unwrap_or(last);
        if to > last {
            return Err(Error::invalid(format!("there is no position {to} yet: the log ends at {last}")));
        }
        if self.as_of.is_none()
            && let Some(error) = self.catalog.damaged_end()
        {
            return Err(error);
        }
        let gather = Gather {
            fold: &self.fold,
            catalog: &self.catalog,
            threads: self.threads,
            choice,
            keep: true,
            least_cut: LEAST_CUT,
        };
        gather.gather(Position::START, to)
    }
}

fn encoded<K: Key>(key: &K) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes);
    bytes
}
