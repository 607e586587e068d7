//! Where views are on disk: `views/<name>/<generation>/`, with `<generation>.json` beside it to tell of its state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::directory;
use super::state::{ProjectionState, ViewStatus};
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::create::VIEWS_FOLDER;
use crate::log::recovery::QUARANTINE_FOLDER;

/// In the folder of a view that was set aside: why.
const REASON_FILE: &str = "set-aside.txt";

/// The longest name of a projection, which names a folder.
const MAX_NAME: usize = 64;

/// A larger file is no note.
const LARGEST_NOTE: u64 = 64 << 10;

/// The folder of one generation of a view.
#[derive(Clone, Debug)]
pub(crate) struct ViewFolder {
    root: PathBuf,
    name: Arc<str>,
    generation: u32,
}

/// What `<generation>.json` says: for people and `everfold views`, never read by the projector. It is written when
/// the state changes, once a second while events are applied, and at closing; it may be older than the view.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ViewNote {
    /// The projection's name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// What it was doing: `rebuilding`, `live`, `stopped`, or `closed`.
    pub state: String,
    /// The last event applied.
    pub checkpoint: Position,
    /// How many rows the view had.
    pub rows: u64,
    /// The event it stopped at, if it did.
    pub stopped_at: Option<Position>,
    /// Why it stopped.
    pub cause: Option<String>,
    /// Why the view that was there before was set aside, if it was.
    pub rebuilt_because: Option<String>,
    /// When this was written, in nanoseconds since the Unix epoch.
    pub as_of_ns: u64,
}

impl ViewNote {
    /// The notes of all views in a store's directory, by name and generation. Needs no open store and takes no lock.
    /// A note that cannot be read is left out.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn read_all(store: impl AsRef<Path>) -> Result<Vec<Self>, Error> {
        let mut notes = Vec::new();
        let fault = |e| Error::io("list the views", e);
        let views = match fs::read_dir(store.as_ref().join(VIEWS_FOLDER)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(notes),
            views => views.map_err(fault)?,
        };
        for view in views {
            let Ok(files) = fs::read_dir(view.map_err(fault)?.path()) else { continue };
            notes.extend(files.filter_map(|file| Self::read(&file.ok()?.path())));
        }
        notes.sort_by(|a, b| (&a.name, a.generation).cmp(&(&b.name, b.generation)));
        Ok(notes)
    }

    fn read(path: &Path) -> Option<Self> {
        path.extension().filter(|extension| *extension == "json")?;
        fs::metadata(path).ok().filter(|found| found.is_file() && found.len() <= LARGEST_NOTE)?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(crate) fn new(status: &ViewStatus, closed: bool) -> Self {
        let (stopped_at, cause) = match &status.state {
            ProjectionState::Stopped { position, cause } => (Some(*position), Some(cause.to_string())),
            _ => (None, None),
        };
        let state = if closed && stopped_at.is_none() { "closed" } else { status.state.name() };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ViewNote {
            name: status.name.clone(),
            generation: status.generation,
            state: state.into(),
            checkpoint: status.checkpoint,
            rows: status.rows,
            stopped_at,
            cause,
            rebuilt_because: status.rebuilt_because.clone(),
            as_of_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// A projection's name names a folder, on every file system.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the projection's name {name:?} names a folder: give 1 to {MAX_NAME} of a-z, 0-9, - and _"
    )))
}

/// The names of the views on disk, of whatever generation.
pub(crate) fn names(root: &Path) -> Result<Vec<String>, Error> {
    let fault = |e| Error::io(format_args!("list {VIEWS_FOLDER}"), e);
    let views = match fs::read_dir(root.join(VIEWS_FOLDER)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        views => views.map_err(fault)?,
    };
    let mut names = Vec::new();
    for view in views {
        let view = view.map_err(fault)?;
        if !view.file_type().map_err(fault)?.is_dir() {
            continue;
        }
        for generation in fs::read_dir(view.path()).map_err(fault)? {
            let generation = generation.map_err(fault)?;
            let is_number = generation.file_name().to_string_lossy().parse::<u32>().is_ok();
            if is_number && generation.file_type().map_err(fault)?.is_dir() {
                names.push(view.file_name().to_string_lossy().into_owned());
                break;
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl ViewFolder {
    pub(crate) fn new(root: &Path, name: Arc<str>, generation: u32) -> Self {
        ViewFolder { root: root.to_owned(), name, generation }
    }

    /// The store's directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the key-value store, in the store's directory.
    pub(crate) fn in_root(&self) -> String {
        format!("{VIEWS_FOLDER}/{}/{}", self.name, self.generation)
    }

    /// Where a view is made, until it says what it is.
    pub(crate) fn unmade_in_root(&self) -> String {
        format!("{}.new", self.in_root())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(self.in_root())
    }

    /// Whether there is anything there.
    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    fn of_view(&self) -> PathBuf {
        self.root.join(VIEWS_FOLDER).join(&*self.name)
    }

    /// Moves the view to quarantine, where nothing of everfold's looks for it, with a file that says why; returns where
    /// it is.
    pub(crate) fn set_aside(&self, reason: &str) -> Result<String, Error> {
        let fault = |e| Error::io(format_args!("set view {} aside", self.name), e);
        let quarantine = self.root.join(QUARANTINE_FOLDER);
        fs::create_dir_all(&quarantine).map_err(fault)?;
        for copy in 0u32.. {
            let kept = format!("view-{}-{}-{copy}", self.name, self.generation);
            let target = quarantine.join(&kept);
            if !target.exists() {
                fs::rename(self.path(), &target).map_err(fault)?;
                // For people: where there is no room for it, the view is made anew all the same.
                drop(fs::write(target.join(REASON_FILE), format!("{reason}\n")));
                directory::sync_dir(&quarantine)
                    .and_then(|()| directory::sync_dir(&self.of_view()))
                    .map_err(fault)?;
                return Ok(format!("{QUARANTINE_FOLDER}/{kept}"));
            }
        }
        Err(Error::new(ErrorKind::View, "the quarantine is full"))
    }

    /// Removes what an attempt to make the view has left that failed or was cut short.
    pub(crate) fn remove_unmade(&self) -> Result<(), Error> {
        match fs::remove_dir_all(self.root.join(self.unmade_in_root())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format_args!("make view {}", self.name), e))
            }
            _ => Ok(()),
        }
    }

    /// Gives the view that was made its name, durably: from now on what is there is a view, or a damaged one.
    pub(crate) fn name_made(&self) -> Result<(), Error> {
        fs::rename(self.root.join(self.unmade_in_root()), self.path())
            .and_then(|()| directory::sync_dir(&self.of_view()))
            .map_err(|e| Error::io(format_args!("make view {}", self.name), e))
    }

    /// Removes generations before this one: they serve nobody any more.
    pub(crate) fn remove_earlier(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.of_view())? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_suffix(".json").or(name.strip_suffix(".new")).unwrap_or(&name);
            match number.parse::<u32>() {
                Ok(earlier) if earlier < self.generation => {}
                _ => continue,
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?
            } else {
                fs::remove_file(entry.path())?
            }
        }
        Ok(())
    }

    /// Writes the note, replacing the one before in one step.
    pub(crate) fn write_note(&self, note: &ViewNote) -> io::Result<()> {
        let temporary = self.of_view().join(format!("{}.json.tmp", self.generation));
        fs::write(&temporary, serde_json::to_vec_pretty(note)?)?;
        fs::rename(temporary, self.of_view().join(format!("{}.json", self.generation)))
    }
}
