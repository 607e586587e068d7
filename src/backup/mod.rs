//! Backups: the log up to a position, copied into a directory of its own, which is a store as well.
//!
//! [`source`] says what there is to copy, fixed at one moment while appends go on; [`destination`] brings it into the
//! directory, in such an order that whatever is cut short leaves the backup there was, or a later one. Views are not
//! copied, and neither is what recovery has set aside: the first are made anew, the second is nobody's any more.

mod destination;
mod source;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::log::create;
use crate::storage::Storage;
use crate::storage::disk::DiskStorage;
use crate::storage::memory::MemoryStorage;
use destination::Destination;
use source::Source;

/// Where a backup goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Directory(&'a Path),
    Memory(&'a MemoryStorage),
}

/// Whether there may be a backup already that is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onto {
    Backup,
    Nothing,
}

/// What a backup holds, and what had to be copied for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackedUp {
    /// The last position in it: everything up to there is, and nothing after.
    pub position: Position,
    /// The first position in it.
    pub log_start: Position,
    /// How many segments it has.
    pub segments: usize,
    /// How many of them were copied now. The others were there already.
    pub copied_segments: usize,
    /// How many bytes of segments were copied now, and read back.
    pub copied_bytes: u64,
}

/// Copies what is durable, and keeps retention from dropping it meanwhile.
pub(crate) fn back_up(catalog: &Arc<Catalog>, target: Target<'_>, onto: Onto) -> Result<BackedUp, Error> {
    let (_hold, start) = catalog.holds.hold(None);
    let source = Source::of(catalog, &start)?;
    let storage: Box<dyn Storage> = match target {
        Target::Directory(path) => {
            Box::new(directory(catalog.storage.root(), path).map_err(|e| match e.kind() {
                std::io::ErrorKind::InvalidInput => Error::invalid(format!(
                    "a backup in the store's own directory is none: give another than {}",
                    path.display()
                )),
                _ => Error::io(format_args!("open the directory {}", path.display()), e),
            })?)
        }
        Target::Memory(storage) => Box::new(storage.clone()),
    };
    let has_store = create::refuse_foreign(storage.as_ref())?.iter().any(|name| name == "STORE");
    if onto == Onto::Nothing && has_store {
        return Err(Error::invalid("there is a store in the directory: give an empty one or a new path"));
    }
    Destination::open(storage.as_ref())?.take(&source)
}

/// The directory of a backup, which must not be the store's own nor in it.
fn directory(own: Option<&Path>, path: &Path) -> std::io::Result<DiskStorage> {
    let storage = DiskStorage::create(path)?;
    match (own, storage.root()) {
        (Some(own), Some(root)) if root.starts_with(own) => Err(std::io::ErrorKind::InvalidInput.into()),
        _ => Ok(storage),
    }
}

/// An error of a backup that holds something else than the store's past.
fn other_history(file: &str, detail: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "{file} of the backup {detail}: it is of another store, was written to, or is damaged; give another directory, or check this one with `everfold verify`"
        ),
    )
}
