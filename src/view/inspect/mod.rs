//! The views of a store that another process may have open.
//!
//! The key-value store under a view lets in one process. So the files of a view are [copied](files), and the copy is opened
//! and held against its digest: a [`ViewCopy`](copy). Nothing of the store is locked or written.

mod check;
mod copy;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use copy::{RawRow, ViewCopy};
use files::Listing;

use super::folder::{self, ViewFolder, ViewNote};
use crate::dump::Inspector;
use crate::error::{Error, ErrorKind};

/// So often a copy is taken that does not verify, while its files change.
const ATTEMPTS: u32 = 8;
/// The pause after the first of them; each is longer than the one before.
const PAUSE: Duration = Duration::from_millis(40);

/// Looks at the views in a store's directory, from copies of their files: also while an application has the store open.
/// Takes no lock, and writes nothing to the directory.
///
/// A copy has what its view had on the disk: a checkpoint that is some seconds old while events are applied. Keys and
/// values are bytes here; what they mean is known to the program whose projection the view is of.
///
/// ```
/// use everfold::ViewInspector;
/// # use everfold::{ApplyError, Event, Expected, Key, Projection, RecordedEvent, Store, ViewBatch};
/// # struct Sold;
/// # impl Projection for Sold {
/// #     const NAME: &'static str = "sold";
/// #     const GENERATION: u32 = 1;
/// #     type Key = String;
/// #     type Value = u64;
/// #     fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
/// #         view.update(event.stream().to_owned(), |sold| Some(sold.unwrap_or(0) + 1))
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// # let store = Store::open(path)?;
/// # let sold = store.project(Sold)?;
/// # let done = store.append("hats", Expected::Any, [Event::raw("sold", "")])?;
/// # sold.wait_for(done.position, std::time::Duration::from_secs(10))?;
/// # store.close()?;
///
/// let copy = ViewInspector::open(path)?.copy("sold", None)?;
/// let mut key = Vec::new();
/// String::from("hats").encode(&mut key);
/// assert_eq!(copy.get(None, &key)?, Some(1u64.to_le_bytes().to_vec()));
/// println!("as of position {}", copy.checkpoint());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ViewInspector {
    root: PathBuf,
}

/// The rows of one generation of a view, on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewFiles {
    /// The projection's name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// Whether these are the rows that the projection serves: those of its latest generation, or of the one before while
    /// that is [being built](crate::Projection::SERVES_EARLIER).
    pub serves: bool,
    /// How many bytes the files have.
    pub bytes: u64,
}

impl ViewInspector {
    /// Looks whether there is a store.
    ///
    /// # Errors
    /// As [`Inspector::open`](crate::dump::Inspector::open).
    pub fn open(store: impl AsRef<Path>) -> Result<Self, Error> {
        Inspector::open(&store)?;
        Ok(ViewInspector { root: store.as_ref().to_owned() })
    }

    /// The rows there are, by name and generation.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn views(&self) -> Result<Vec<ViewFiles>, Error> {
        let mut views = Vec::new();
        for name in folder::names(&self.root)? {
            let generations = folder::generations(&self.root, &name)?;
            let serving = self.serving(&name, &generations)?;
            for generation in generations {
                let folder = ViewFolder::find(&self.root, name.as_str().into(), generation)?;
                let serves = serving == Some(generation);
                let bytes = Listing::of(&folder.path())?.bytes();
                views.push(ViewFiles { name: name.clone(), generation, serves, bytes });
            }
        }
        Ok(views)
    }

    /// A copy of the rows that a projection serves, or of those of one generation, held against their digest. While an
    /// application writes them, a copy may have to be taken more than once.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such view, [`View`](ErrorKind::View) when its rows are damaged,
    /// and [`DiskFull`](ErrorKind::DiskFull) when the system's folder for temporary files has no room for them.
    pub fn copy(&self, name: &str, generation: Option<u32>) -> Result<ViewCopy, Error> {
        folder::check_name(name)?;
        let mut before = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let folder = self.find(name, generation)?;
            // What was moved or removed since it was listed is looked for again.
            let listing = Listing::of(&folder.path()).ok();
            let failure = match ViewCopy::take(&self.root, &folder) {
                Err(error) if matches!(error.kind(), ErrorKind::View | ErrorKind::NotFound) => error,
                taken => return taken,
            };
            // What nobody writes does not change by being copied again.
            if attempt >= ATTEMPTS || (listing.is_some() && listing == before) {
                return Err(failure);
            }
            before = listing;
            thread::sleep(PAUSE.saturating_mul(attempt));
        }
    }

    fn find(&self, name: &str, generation: Option<u32>) -> Result<ViewFolder, Error> {
        let generations = folder::generations(&self.root, name)?;
        let found = match generation {
            None => self.serving(name, &generations)?,
            Some(generation) => Some(generation).filter(|generation| generations.contains(generation)),
        };
        let Some(found) = found else { return Err(self.missing(name, &generations)?) };
        ViewFolder::find(&self.root, Arc::from(name), found)
    }

    /// The generation that is served: as the latest note says, if there is it.
    fn serving(&self, name: &str, generations: &[u32]) -> Result<Option<u32>, Error> {
        let notes = ViewNote::read_all(&self.root)?.into_iter().filter(|note| note.name == name);
        let said = notes.max_by_key(|note| note.generation).and_then(|note| note.serves);
        let said = said.filter(|generation| generations.contains(generation));
        Ok(said.or(generations.last().copied()))
    }

    fn missing(&self, name: &str, generations: &[u32]) -> Result<Error, Error> {
        let store = self.root.display();
        let message = match (generations.last(), folder::names(&self.root)?.as_slice()) {
            (Some(latest), _) => format!("view {name} of {store} has generation {latest}, and not that one"),
            (None, []) => format!(
                "{store} has no views: a backup has none, as it holds the log only, and in a store they are made when the \
                 program registers its projections"
            ),
            (None, names) => format!("{store} has no view {name}; it has {}", names.join(", ")),
        };
        Ok(Error::new(ErrorKind::NotFound, message))
    }
}
