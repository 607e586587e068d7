//! The rows as of one checkpoint: runs over the bottom level, which goes on being changed.
//!
//! A drain moves runs into the bottom level. Versions made since it began have these runs, and so do not see what it does
//! there. For those made before, it keeps what it overwrites: each version is of an [`Epoch`], the time between two
//! drains, and reads what all drains since have overwritten, the earliest first, before it believes the bottom level.

use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::blocks::{Block, Blocks};
use super::merge::Merged;
use super::run::Run;
use crate::error::Error;
use crate::view::digest::{Digest, RowHash};
use crate::view::meta::ViewMeta;
use crate::view::rows::{self, End, Row, RowsIter, Unread};

/// The most rows in a page of a scan.
const PAGE: usize = 512;

/// The time between two drains.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    /// What the drain at its end has overwritten.
    overwritten: RwLock<Vec<Arc<Run>>>,
    next: OnceLock<Arc<Epoch>>,
}

impl Epoch {
    /// Keeps rows as they are before they are overwritten.
    pub(super) fn keep(&self, rows: Run) {
        self.overwritten.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(rows));
    }

    /// How many rows are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.overwritten.read().unwrap_or_else(PoisonError::into_inner).iter().map(|run| run.len()).sum()
    }

    /// Says which epoch follows.
    pub(super) fn end(&self, next: Arc<Epoch>) {
        let _first = self.next.set(next);
    }
}

/// Several keys being looked up. The block of the last one is kept.
#[derive(Debug)]
pub(crate) struct Lookups<'a> {
    version: &'a Version,
    near: Option<Block>,
}

impl Lookups<'_> {
    /// The value of a key.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.version.in_runs(key) {
            Some(value) => Ok(value),
            None => Ok(self.version.as_it_was(key, self.version.bottom.get_near(key, &mut self.near)?)),
        }
    }
}

/// The rows as of one checkpoint, whatever is written later.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(super) meta: ViewMeta,
    /// What is not in the bottom level yet, or still on its way there; the newest first.
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) epoch: Arc<Epoch>,
    pub(super) bottom: Blocks,
}

impl Version {
    /// What the view says of itself at this checkpoint.
    pub(crate) fn meta(&self) -> &ViewMeta {
        &self.meta
    }

    /// Whether there may be any rows. If not, there never will be.
    pub(crate) fn may_have_any(&self) -> bool {
        !self.runs.is_empty() || self.bottom.may_have_any()
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.in_runs(key) {
            Some(value) => Ok(value),
            None => Ok(self.as_it_was(key, self.bottom.get(key)?)),
        }
    }

    /// Looks up several keys, best in their order.
    pub(crate) fn lookups(&self) -> Lookups<'_> {
        Lookups { version: self, near: None }
    }

    fn in_runs(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.runs.iter().find_map(|run| run.get(key)).map(|value| value.map(<[u8]>::to_vec))
    }

    /// What a key was before drains changed the bottom level, which was read already: what has changed it was kept
    /// before.
    fn as_it_was(&self, key: &[u8], found: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let before = self.overwritten().iter().find_map(|run| Some(run.get(key)?.map(<[u8]>::to_vec)));
        before.unwrap_or(found)
    }

    /// Whether there is a row of a key.
    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        self.get(key).map(|value| value.is_some())
    }

    /// The rows between two keys, from either end.
    pub(crate) fn scan(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RowsIter {
        let version = self.clone();
        rows::paged(from, to, move |unread, end, _| version.page(unread, end))
    }

    /// What tells the rows from any others. Reads them all.
    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        self.digest_with(|_| {})
    }

    /// The same. Each key is told.
    pub(super) fn digest_with(&self, mut key_of: impl FnMut(&[u8])) -> Result<Digest, Error> {
        let mut digest = Digest::default();
        for row in self.scan(Bound::Unbounded, Bound::Unbounded) {
            let (key, value) = row?;
            digest.add(RowHash::of(&key, &value));
            key_of(&key);
        }
        Ok(digest)
    }

    /// What drains have overwritten since; the earliest first.
    fn overwritten(&self) -> Vec<Arc<Run>> {
        let (mut runs, mut epoch) = (Vec::new(), &self.epoch);
        while let Some(next) = epoch.next.get() {
            runs.extend_from_slice(&epoch.overwritten.read().unwrap_or_else(PoisonError::into_inner));
            epoch = next;
        }
        runs
    }

    /// The first rows of a range from one end; none only when there are none.
    fn page(&self, unread: &Unread, end: End) -> Result<Vec<Row>, Error> {
        let (mut from, mut to) = (unread.from.clone(), unread.to.clone());
        loop {
            let bottom = self.bottom.page(&Unread { from: from.clone(), to: to.clone() }, end)?;
            let overwritten = self.overwritten();
            // What is beyond the rows of the bottom level's page comes with the next one.
            let reached = match end {
                End::Front => bottom.row(bottom.len().wrapping_sub(1)),
                End::Back => bottom.row(0),
            };
            let reached = reached.map(|(key, _)| Bound::Included(key.to_vec()));
            let (page_from, page_to) = match (&reached, end) {
                (None, _) => (from.clone(), to.clone()),
                (Some(reached), End::Front) => (from.clone(), reached.clone()),
                (Some(reached), End::Back) => (reached.clone(), to.clone()),
            };
            let above = self.runs.iter().chain(&overwritten).map(|run| &**run);
            let mut merged = Merged::new(above.chain([&bottom]), &page_from, &page_to, end);
            let mut page = Vec::new();
            while page.len() < PAGE
                && let Some((key, value)) = merged.next()
            {
                page.extend(value.map(|value| (key.to_vec(), value.to_vec())));
            }
            if !page.is_empty() {
                return Ok(page);
            }
            // All of them are removed.
            match (reached, end) {
                (None, _) => return Ok(page),
                (Some(Bound::Included(reached)), End::Front) => from = Bound::Excluded(reached),
                (Some(Bound::Included(reached)), End::Back) => to = Bound::Excluded(reached),
                (Some(_), _) => return Ok(page),
            }
        }
    }
}
