//! A copy of a view's files, opened.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, COPY, Listing, Scratch};
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::view::digest::Digest;
use crate::view::folder::ViewFolder;
use crate::view::layout::{Layout, Names, Part};
use crate::view::levels::{Levels, Version};
use crate::view::meta::ViewMeta;
use crate::view::rows::{Row, prefix_end};
use crate::view::set_aside::{self, SetAside};
use crate::view::sled_rows::SledRows;
use crate::view::status::ViewDigest;
use crate::view::value;

/// What the key-value store may keep of the copy in memory.
const CACHE_BYTES: u64 = 16 << 20;

/// The rows of a view as they were on the disk, in a copy that is removed with this. Got from
/// [`ViewInspector::copy`](crate::ViewInspector::copy).
#[derive(Debug)]
pub struct ViewCopy {
    version: Arc<Version>,
    names: Names,
    /// Holds the rows open.
    _levels: Levels,
    pub(super) root: PathBuf,
    source: ViewFolder,
    listing: Listing,
    /// Goes last, when nobody has the rows open.
    _scratch: Scratch,
}

impl ViewCopy {
    pub(super) fn take(root: &Path, source: &ViewFolder) -> Result<Self, Error> {
        let scratch = Scratch::new()?;
        let listing = files::copy(&source.path(), &scratch)?;
        let (levels, version, names) = open(&scratch).map_err(|error| match error.kind() {
            ErrorKind::View => {
                let (copy, path) = (scratch.path().join(COPY), source.path());
                let message = error.to_string().replace(&*copy.to_string_lossy(), &path.to_string_lossy());
                Error::new(ErrorKind::View, format!("{} does not verify: {message}", source.in_root()))
            }
            _ => error,
        })?;
        let (root, source) = (root.to_owned(), source.clone());
        Ok(ViewCopy { version, names, _levels: levels, root, source, listing, _scratch: scratch })
    }

    pub(super) fn meta(&self) -> &ViewMeta {
        self.version.meta()
    }

    pub(super) fn source(&self) -> &ViewFolder {
        &self.source
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.source.generation()
    }

    /// The last event applied.
    #[must_use]
    pub fn checkpoint(&self) -> Position {
        self.meta().checkpoint
    }

    /// What tells the rows from any others. They were read, and it is theirs.
    #[must_use]
    pub fn digest(&self) -> ViewDigest {
        ViewDigest::of(self.meta())
    }

    /// How many rows the view has, or one of the projection's [named views](crate::NamedView).
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such view, [`View`](ErrorKind::View) when it cannot be read.
    pub fn count(&self, view: Option<&str>) -> Result<u64, Error> {
        self.view_start(view)?;
        let meta = self.meta();
        if self.names == Names::default() {
            return Ok(meta.digest.rows.saturating_sub(meta.beside.rows()));
        }
        let place = self.names.views.iter().position(|name| Some(name.as_str()) == view);
        let part = place.and_then(|place| u8::try_from(place + 1).ok()).map_or(Part::OWN, Part::named);
        Ok(self.names.counts(&self.version)?.of(part))
    }

    /// The names of the projection's [named views](crate::NamedView), in the order in which it declares them.
    #[must_use]
    pub fn named_views(&self) -> &[String] {
        &self.names.views
    }

    /// The names of the projection's [indexes](crate::Index), in the order in which it declares them.
    pub fn indexes(&self) -> impl Iterator<Item = &str> {
        self.names.indexes.iter().map(|(name, _)| name.as_str())
    }

    /// The named view that an index is of; `None`: the projection's own.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such index.
    pub fn index_of(&self, index: &str) -> Result<Option<&str>, Error> {
        let found = self.names.indexes.iter().find(|(name, _)| name == index);
        let (_, part) = found.ok_or_else(|| self.no_index(index))?;
        let place = usize::from(part.number()).checked_sub(1);
        Ok(place.and_then(|place| self.names.views.get(place)).map(String::as_str))
    }

    /// The events that were [set aside](crate::View::set_aside).
    ///
    /// # Errors
    /// [`View`](ErrorKind::View) when they cannot be read.
    pub fn set_aside(&self) -> Result<Vec<SetAside>, Error> {
        set_aside::listed(&self.version)
    }

    /// The value of an [encoded](crate::Key::encode) key, in bincode with fixed integers; of the projection's own view,
    /// or of a [named one](crate::NamedView).
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such view, [`View`](ErrorKind::View) when it cannot be read.
    pub fn get(&self, view: Option<&str>, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut row = self.view_start(view)?;
        row.extend_from_slice(key);
        self.version.get(&row)?.map(|value| bare(&value)).transpose()
    }

    /// The rows whose encoded keys are in a range, from either end; of the projection's own view or of a named one.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such view.
    pub fn scan(
        &self,
        view: Option<&str>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<impl DoubleEndedIterator<Item = Result<Row, Error>> + Send, Error> {
        let start = self.view_start(view)?;
        let rows = self.rows(&start, from, to);
        Ok(rows.map(move |row| {
            let (key, value) = row?;
            Ok((key.get(start.len()..).unwrap_or_default().to_vec(), bare(&value)?))
        }))
    }

    /// The entries of an [index](crate::Index) in a range, from either end: of each the encoded key in the index, and
    /// directly after it that of the row.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such index.
    pub fn entries(
        &self,
        index: &str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<impl DoubleEndedIterator<Item = Result<Vec<u8>, Error>> + Send, Error> {
        let start = self.names.index_start(index).ok_or_else(|| self.no_index(index))?;
        let entries = self.rows(&start, from, to);
        Ok(entries.map(move |entry| Ok(entry?.0.get(start.len()..).unwrap_or_default().to_vec())))
    }

    /// Whether the files that were copied are still as they were: another copy would be the same.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let now = ViewFolder::find(&self.root, self.meta().name.as_str().into(), self.generation());
        now.and_then(|folder| Listing::of(&folder.path()).map(|listing| (folder.path(), listing)))
            .is_ok_and(|(path, listing)| path == self.source.path() && listing == self.listing)
    }

    fn rows(
        &self,
        start: &[u8],
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = Result<Row, Error>> + Send + use<'_> {
        let whole = |key: &[u8]| [start, key].concat();
        let from = match from {
            Bound::Unbounded => Bound::Included(start.to_vec()),
            bound => bound.map(whole),
        };
        let to = match to {
            Bound::Unbounded => prefix_end(start),
            bound => bound.map(whole),
        };
        self.version.scan(from, to)
    }

    fn view_start(&self, name: Option<&str>) -> Result<Vec<u8>, Error> {
        self.names.view_start(name).ok_or_else(|| {
            let (wanted, views) = (name.unwrap_or_default(), self.names.views.join(", "));
            let message = match views.as_str() {
                "" => format!("the projection has no named view {wanted:?}, nor any other"),
                _ => format!("the projection has no named view {wanted:?}; it has {views}"),
            };
            Error::new(ErrorKind::NotFound, message)
        })
    }

    fn no_index(&self, name: &str) -> Error {
        let indexes = self.indexes().collect::<Vec<_>>().join(", ");
        let message = match indexes.as_str() {
            "" => format!("the projection has no index {name:?}, nor any other"),
            _ => format!("the projection has no index {name:?}; it has {indexes}"),
        };
        Error::new(ErrorKind::NotFound, message)
    }
}

/// A value without what says how it is encoded.
fn bare(value: &[u8]) -> Result<Vec<u8>, Error> {
    value::bare(value).map(<[u8]>::to_vec)
}

/// Opens a copy and reads all of it.
fn open(scratch: &Scratch) -> Result<(Levels, Arc<Version>, Names), Error> {
    let rows = SledRows::open(scratch.path(), COPY, CACHE_BYTES)?;
    let levels = Levels::open(Arc::new(rows), &scratch.path().join(COPY), usize::MAX)?;
    let version = levels.version();
    let (said, found): (Digest, Digest) = (version.meta().digest, version.digest()?);
    if said != found {
        let message = format!(
            "its rows are not those of its checkpoint {}: there are {}, with the digest {:032x}, and it says {} and {:032x}",
            version.meta().checkpoint,
            found.rows,
            found.sum,
            said.rows,
            said.sum
        );
        return Err(Error::new(ErrorKind::View, message));
    }
    let names = version.get(&Layout::names_key())?.map(|bytes| {
        let unreadable = "what it says of its named views does not verify";
        Names::decode(&bytes).ok_or_else(|| Error::new(ErrorKind::View, unreadable))
    });
    let names = names.transpose()?.unwrap_or_default();
    Ok((levels, version, names))
}
