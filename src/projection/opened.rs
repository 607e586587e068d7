//! Opens the rows of a view, and says whether they can be served: a view that is damaged, of another store, or
//! ahead of the log is set aside and made anew.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::log::reader::Reader;
use crate::log::window::RANDOM;
use crate::view::digest::Digest;
use crate::view::folder::ViewFolder;
use crate::view::layout::Layout;
use crate::view::levels::Levels;
use crate::view::memory_rows::MemoryRows;
use crate::view::meta::{Beside, ViewMeta};
use crate::view::rows::Rows;
use crate::view::sled_rows::SledRows;

/// Where the rows of a view are, and whose they are.
#[derive(Clone, Debug)]
pub(crate) struct ViewHome {
    /// None: in memory, gone with the store's handle.
    pub(crate) folder: Option<ViewFolder>,
    pub(crate) cache_bytes: u64,
    /// For rows that are not in the key-value store yet.
    pub(crate) memory_bytes: usize,
    pub(crate) store_id: Uuid,
    pub(crate) name: Arc<str>,
    pub(crate) generation: u32,
    /// Rows may start with what is left of the log.
    pub(crate) from_log_start: bool,
    /// The views and indexes that the rows are of.
    pub(crate) layout: Arc<Layout>,
    /// Rows that are found are read, and held against their digest.
    pub(crate) verify: bool,
}

/// Rows that follow from the log up to their checkpoint.
#[derive(Debug)]
pub(super) struct OpenedRows {
    pub(super) levels: Levels,
    /// Why what was there was set aside.
    pub(super) rebuilt_because: Option<String>,
}

impl ViewHome {
    /// Opens the rows. An error is the environment's: a full disk, a missing permission, a held lock.
    pub(super) fn open(&self, catalog: &Arc<Catalog>) -> Result<OpenedRows, Error> {
        let Some(folder) = &self.folder else {
            return self.in_memory(catalog, None);
        };
        if let Err(error) = folder.remove_others() {
            tracing::warn!(view = &*self.name, %error, "could not remove what is left of rows of a view");
        }
        if !folder.exists() {
            return self.make(folder, catalog);
        }
        match self.open_found(folder, catalog) {
            Err(error) if error.kind() == ErrorKind::View => self.renew(catalog, &error.to_string()),
            opened => opened,
        }
    }

    /// The rows of the highest earlier generation that there is on disk, if they can be served, and the generation.
    pub(super) fn open_earlier(&self, catalog: &Arc<Catalog>) -> Option<(u32, OpenedRows)> {
        let open = || {
            let Some(folder) = self.folder.as_ref().map(ViewFolder::earlier).transpose()?.flatten() else {
                return Ok(None);
            };
            let generation = folder.generation();
            // They are served as they are, wherever the log starts.
            let home = ViewHome { generation, from_log_start: false, folder: None, ..self.clone() };
            home.open_found(&folder, catalog).map(|opened| Some((generation, opened)))
        };
        open().unwrap_or_else(|error: Error| {
            tracing::warn!(view = &*self.name, %error, "the rows of an earlier generation cannot be served");
            None
        })
    }

    /// Where the same generation is built anew beside these rows, and the rows to start with.
    pub(super) fn beside(&self, catalog: &Arc<Catalog>) -> Result<(ViewHome, OpenedRows), Error> {
        let folder = self.folder.as_ref().map(ViewFolder::next);
        let home = ViewHome { folder, ..self.clone() };
        if let Some(folder) = &home.folder {
            folder.remove()?;
        }
        let opened = match &home.folder {
            Some(folder) => home.make(folder, catalog)?,
            None => home.in_memory(catalog, None)?,
        };
        Ok((home, opened))
    }

    /// Rows in memory, with none at first.
    pub(super) fn in_memory(
        &self,
        catalog: &Catalog,
        rebuilt_because: Option<String>,
    ) -> Result<OpenedRows, Error> {
        let (rows, meta): (Arc<dyn Rows>, _) = (Arc::new(MemoryRows::new()), self.first_meta(catalog));
        Levels::create(&rows, &self.layout.first_rows().0, &meta)?;
        Ok(OpenedRows { levels: Levels::in_memory(rows, meta, self.memory_bytes), rebuilt_because })
    }

    /// Sets aside what is there, and starts with no rows. What is there keeps its place until others can take it: without
    /// any, retention would drop what they are to be made of.
    pub(super) fn renew(&self, catalog: &Catalog, reason: &str) -> Result<OpenedRows, Error> {
        let Some(folder) = &self.folder else {
            return self.in_memory(catalog, Some(reason.to_owned()));
        };
        self.make_unnamed(folder, catalog)?;
        let reason = format!("{reason}; it is kept in {}", folder.set_aside(reason)?);
        tracing::warn!(
            view = &*self.name,
            generation = self.generation,
            reason,
            "a view is built anew from the log"
        );
        folder.name_made()?;
        Ok(OpenedRows { levels: self.open_levels(folder)?, rebuilt_because: Some(reason) })
    }

    /// Rows where there are none.
    fn make(&self, folder: &ViewFolder, catalog: &Catalog) -> Result<OpenedRows, Error> {
        self.make_unnamed(folder, catalog)?;
        folder.name_made()?;
        let levels = self.open_levels(folder).or_else(|error| {
            if error.kind() != ErrorKind::View {
                return Err(error);
            }
            // A read that fails is no error to sled. What is lost with it is made again: it says nothing but what it is.
            folder.remove()?;
            Err(Error::new(ErrorKind::Io, format!("what was just made of a view cannot be read: {error}")))
        })?;
        Ok(OpenedRows { levels, rebuilt_because: None })
    }

    /// Makes rows that say what they are, durably, before they get their name: so a view that a crash or a failure kept
    /// from being made is none, and files under the name that say nothing are known to be damaged.
    fn make_unnamed(&self, folder: &ViewFolder, catalog: &Catalog) -> Result<(), Error> {
        folder.remove_unmade()?;
        let made =
            SledRows::open(folder.root(), &folder.unmade_in_root(), self.cache_bytes).and_then(|rows| {
                let rows: Arc<dyn Rows> = Arc::new(rows);
                Levels::create(&rows, &self.layout.first_rows().0, &self.first_meta(catalog))
            });
        if made.is_err() {
            // What stays is removed by the next attempt.
            let _ = folder.remove_unmade();
        }
        made
    }

    fn open_found(&self, folder: &ViewFolder, catalog: &Arc<Catalog>) -> Result<OpenedRows, Error> {
        let levels = self.open_levels(folder)?;
        let unfit = |why: String| Error::new(ErrorKind::View, why);
        let version = levels.version();
        self.check(version.meta(), catalog).map_err(unfit)?;
        self.layout.check_rows(version.get(&Layout::names_key())?.as_deref()).map_err(unfit)?;
        if self.verify {
            check_rows(version.meta(), levels.read_all()?).map_err(unfit)?;
        }
        Ok(OpenedRows { levels, rebuilt_because: None })
    }

    fn open_levels(&self, folder: &ViewFolder) -> Result<Levels, Error> {
        let rows = SledRows::open(folder.root(), &folder.in_root(), self.cache_bytes)?;
        Levels::open(Arc::new(rows), &folder.path(), self.memory_bytes)
    }

    fn check(&self, meta: &ViewMeta, catalog: &Arc<Catalog>) -> Result<(), String> {
        if meta.store_id != self.store_id {
            return Err(format!("it belongs to the store {}", meta.store_id));
        }
        if (meta.name.as_str(), meta.generation) != (&*self.name, self.generation) {
            return Err(format!("it is generation {} of {}", meta.generation, meta.name));
        }
        let last = catalog.watermark.get();
        if meta.checkpoint > last {
            return Err(format!("it is at position {}, and the log ends at {last}", meta.checkpoint));
        }
        let start = catalog.log_start();
        if self.from_log_start && meta.checkpoint < start.previous() {
            return Err(format!("it is at position {}, and the log starts at {start}", meta.checkpoint));
        }
        if meta.checkpoint == Position::START {
            return Ok(());
        }
        // An event that cannot be read cannot tell; the projector will meet it if it needs it.
        match Reader::new(catalog.clone(), RANDOM).event(meta.checkpoint) {
            Ok(event) if event.fingerprint() != meta.fingerprint => Err(format!(
                "it was made from another log: the event at position {} is not the same",
                meta.checkpoint
            )),
            _ => Ok(()),
        }
    }

    /// What rows say of themselves before there are any.
    fn first_meta(&self, catalog: &Catalog) -> ViewMeta {
        let checkpoint = match self.from_log_start {
            true => catalog.log_start().previous(),
            false => Position::START,
        };
        ViewMeta {
            store_id: self.store_id,
            name: self.name.to_string(),
            generation: self.generation,
            checkpoint,
            turns: 0,
            fingerprint: 0,
            digest: self.layout.first_rows().1,
            beside: Beside::default(),
        }
    }
}

/// The key-value store may have lost some rows, or brought back old ones, and not the row about the view.
fn check_rows(meta: &ViewMeta, found: Digest) -> Result<(), String> {
    if found == meta.digest {
        return Ok(());
    }
    let (said, sums) = (meta.digest.rows, if found.rows == meta.digest.rows { ", and others" } else { "" });
    Err(format!(
        "its rows are not those of its checkpoint {}: there are {}{sums}, and it says {said}",
        meta.checkpoint, found.rows
    ))
}
