//! Where views are on disk: `views/<name>/<generation>/`, with `<generation>.json` beside it to tell of its state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::directory;
use super::status::{ProjectionState, ViewStatus};
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::create::VIEWS_FOLDER;
use crate::log::recovery::QUARANTINE_FOLDER;

/// In the folder of a view that was set aside: why.
const REASON_FILE: &str = "set-aside.txt";

/// The longest name of a projection, which names a folder.
const MAX_NAME: usize = 64;

/// After the name of a view that was dropped: no view has such a name.
const DROPPED: &str = ".dropped";

/// A larger file is no note.
const LARGEST_NOTE: u64 = 64 << 10;

/// The folder of one generation of a view.
#[derive(Clone, Debug)]
pub(crate) struct ViewFolder {
    root: PathBuf,
    name: Arc<str>,
    generation: u32,
    /// How often the rows were built anew beside those that served, up to these.
    build: u32,
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
    /// What it was doing: `rebuilding`, `live`, `paused`, `retrying`, `stopped`, or `closed`.
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
    /// How many events were set aside.
    #[serde(default)]
    pub set_aside: u64,
    /// The generation that is served: an earlier one while this one is built beside it.
    #[serde(default)]
    pub serves: Option<u32>,
    /// How far the rows were that are built beside those that are served, if there are any.
    #[serde(default)]
    pub building: Option<Position>,
    /// The [digest](crate::ViewDigest) of the rows.
    #[serde(default)]
    pub digest: Option<String>,
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
            let view = view.map_err(fault)?;
            if !is_name(&view.file_name().to_string_lossy()) {
                continue;
            }
            let Ok(files) = fs::read_dir(view.path()) else { continue };
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
            set_aside: status.set_aside,
            serves: Some(status.serves),
            building: status.building,
            digest: Some(status.digest.to_string()),
            as_of_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// A name of a folder or file, on every file system.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the name {name:?} is to name files in the store: give 1 to {MAX_NAME} of a-z, 0-9, - and _"
    )))
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits)
}

/// Names in the folder of a view: `7` and `7.2` are rows of generation 7, the second kind built later; `7.2.serves` says
/// that these are the rows that count; `7.2.new` are rows that do not say yet what they are; `7.json` is the note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Rows { generation: u32, build: u32 },
    Unmade { generation: u32, build: u32 },
    Serves { generation: u32, build: u32 },
    Note { generation: u32 },
}

impl Entry {
    fn parse(name: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
        let numbers = |text: &str| match text.split_once('.') {
            None => Some((number(text)?, 0)),
            Some((generation, build)) => {
                Some((number(generation)?, number(build).filter(|build| *build > 0)?))
            }
        };
        if let Some(note) = name.strip_suffix(".json").or(name.strip_suffix(".json.tmp")) {
            return Some(Entry::Note { generation: number(note)? });
        }
        if let Some(rows) = name.strip_suffix(".new") {
            let (generation, build) = numbers(rows)?;
            return Some(Entry::Unmade { generation, build });
        }
        if let Some(rows) = name.strip_suffix(".serves") {
            let (generation, build) = numbers(rows)?;
            return Some(Entry::Serves { generation, build });
        }
        let (generation, build) = numbers(name)?;
        Some(Entry::Rows { generation, build })
    }

    fn generation(self) -> u32 {
        match self {
            Entry::Rows { generation, .. }
            | Entry::Unmade { generation, .. }
            | Entry::Serves { generation, .. }
            | Entry::Note { generation } => generation,
        }
    }
}

/// What is in the folder of a view that is of everfold's.
fn entries(of_view: &Path) -> io::Result<Vec<(Entry, PathBuf)>> {
    let found = match fs::read_dir(of_view) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut entries = Vec::new();
    for entry in found {
        let entry = entry?;
        if let Some(parsed) = Entry::parse(&entry.file_name().to_string_lossy()) {
            entries.push((parsed, entry.path()));
        }
    }
    Ok(entries)
}

/// The names of the views on disk, of whatever generation; also of those that were being made: a crash may have come when
/// the rows they were to stand in for had gone.
pub(crate) fn names(root: &Path) -> Result<Vec<String>, Error> {
    let fault = |e| Error::io(format_args!("list {VIEWS_FOLDER}"), e);
    let mut names = Vec::new();
    for view in of_views(root).map_err(fault)? {
        let name = view.file_name().to_string_lossy().into_owned();
        if !is_name(&name) || !view.file_type().map_err(fault)?.is_dir() {
            continue;
        }
        let entries = entries(&view.path()).map_err(fault)?;
        let is_view = |entry: &Entry| matches!(entry, Entry::Rows { .. } | Entry::Unmade { .. });
        if entries.iter().any(|(entry, path)| is_view(entry) && path.is_dir()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The generations of a view that have rows on disk, in order.
pub(crate) fn generations(root: &Path, name: &str) -> Result<Vec<u32>, Error> {
    let found = entries(&root.join(VIEWS_FOLDER).join(name));
    let found = found.map_err(|e| Error::io(format_args!("list view {name}"), e))?;
    let rows = found.iter().filter(|(entry, path)| matches!(entry, Entry::Rows { .. }) && path.is_dir());
    let mut generations: Vec<u32> = rows.map(|(entry, _)| entry.generation()).collect();
    generations.sort_unstable();
    generations.dedup();
    Ok(generations)
}

fn of_views(root: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(root.join(VIEWS_FOLDER)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        views => views?.collect(),
    }
}

/// Removes a view, of all generations. From the first step on it is none, whatever crashes. Returns whether there was
/// one.
pub(crate) fn drop_view(root: &Path, name: &str) -> Result<bool, Error> {
    let fault = |e| Error::io(format_args!("drop view {name}"), e);
    let views = root.join(VIEWS_FOLDER);
    let (view, dropped) = (views.join(name), views.join(format!("{name}{DROPPED}")));
    remove_dir(&dropped).map_err(fault)?;
    for (entry, path) in entries(&view).map_err(fault)? {
        if matches!(entry, Entry::Rows { .. } | Entry::Unmade { .. }) {
            directory::wait_until_free(&path)?;
        }
    }
    match fs::rename(&view, &dropped) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        renamed => renamed.and_then(|()| directory::sync_dir(&views)).map_err(fault)?,
    }
    // What stays has a name of no view, and is removed at the next opening.
    if let Err(error) = remove_dir(&dropped) {
        tracing::warn!(view = name, %error, "could not remove all files of a view that was dropped");
    }
    Ok(true)
}

/// Removes what is left of views that were dropped.
pub(crate) fn remove_dropped(root: &Path) -> io::Result<()> {
    for view in of_views(root)? {
        let name = view.file_name().to_string_lossy().into_owned();
        if name.strip_suffix(DROPPED).is_some_and(is_name) {
            remove_dir(&view.path())?;
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl ViewFolder {
    /// The rows of a generation that count.
    pub(crate) fn find(root: &Path, name: Arc<str>, generation: u32) -> Result<Self, Error> {
        let mut folder = ViewFolder { root: root.to_owned(), name, generation, build: 0 };
        for (entry, _) in folder.entries()? {
            if let Entry::Serves { generation, build } = entry
                && generation == folder.generation
            {
                folder.build = folder.build.max(build);
            }
        }
        Ok(folder)
    }

    /// The rows of the highest generation before this one that has some.
    pub(crate) fn earlier(&self) -> Result<Option<Self>, Error> {
        let entries = self.entries()?.into_iter().map(|(entry, _)| entry);
        let generations = entries.filter(|entry| matches!(entry, Entry::Rows { .. })).map(Entry::generation);
        let highest = generations.filter(|generation| *generation < self.generation).max();
        let found = highest.map(|generation| Self::find(&self.root, self.name.clone(), generation));
        Ok(found.transpose()?.filter(Self::exists))
    }

    /// Where the same generation is built anew, beside these rows.
    pub(crate) fn next(&self) -> Self {
        ViewFolder { build: self.build.saturating_add(1), ..self.clone() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    fn entries(&self) -> Result<Vec<(Entry, PathBuf)>, Error> {
        entries(&self.of_view()).map_err(|e| Error::io(format_args!("list view {}", self.name), e))
    }

    /// The store's directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the key-value store, in the store's directory.
    pub(crate) fn in_root(&self) -> String {
        match self.build {
            0 => format!("{VIEWS_FOLDER}/{}/{}", self.name, self.generation),
            build => format!("{VIEWS_FOLDER}/{}/{}.{build}", self.name, self.generation),
        }
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

    /// Removes these rows, which nobody needs.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        remove_dir(&self.path()).map_err(|e| Error::io(format_args!("remove rows of view {}", self.name), e))
    }

    /// Says that these rows count, durably, and no others of this generation.
    pub(crate) fn mark_serving(&self) -> Result<(), Error> {
        let mark = self.root.join(format!("{}.serves", self.in_root()));
        fs::write(mark, b"")
            .and_then(|()| directory::sync_dir(&self.of_view()))
            .map_err(|e| Error::io(format_args!("switch view {} to its new rows", self.name), e))
    }

    /// Removes other rows of this generation: those before, and those that were not finished.
    pub(crate) fn remove_others(&self) -> Result<(), Error> {
        self.remove_entries(|entry| match entry {
            Entry::Rows { generation, build } | Entry::Unmade { generation, build } => {
                generation == self.generation && build != self.build
            }
            Entry::Serves { generation, build } => generation == self.generation && build < self.build,
            Entry::Note { .. } => false,
        })
    }

    /// Removes generations before this one: they serve nobody any more.
    pub(crate) fn remove_earlier(&self) -> Result<(), Error> {
        self.remove_entries(|entry| entry.generation() < self.generation)
    }

    /// What somebody still reads stays until the next time.
    fn remove_entries(&self, which: impl Fn(Entry) -> bool) -> Result<(), Error> {
        let fault = |e| Error::io(format_args!("remove earlier rows of view {}", self.name), e);
        for (_, path) in self.entries()?.into_iter().filter(|(entry, _)| which(*entry)) {
            if !path.is_dir() {
                fs::remove_file(path).map_err(fault)?;
            } else if !directory::is_in_use(&path)? {
                remove_dir(&path).map_err(fault)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_folder_of_a_view_say_what_they_are() {
        let rows = |generation, build| Some(Entry::Rows { generation, build });
        assert_eq!(Entry::parse("7"), rows(7, 0));
        assert_eq!(Entry::parse("7.2"), rows(7, 2));
        assert_eq!(Entry::parse("7.new"), Some(Entry::Unmade { generation: 7, build: 0 }));
        assert_eq!(Entry::parse("7.2.new"), Some(Entry::Unmade { generation: 7, build: 2 }));
        assert_eq!(Entry::parse("7.2.serves"), Some(Entry::Serves { generation: 7, build: 2 }));
        assert_eq!(Entry::parse("7.json"), Some(Entry::Note { generation: 7 }));
        assert_eq!(Entry::parse("7.json.tmp"), Some(Entry::Note { generation: 7 }));
        for other in ["", "7.", "07", "+7", "7.0", "7.02", "7.2.3", "x", "7.x", "4294967296", ".json"] {
            assert_eq!(Entry::parse(other), None, "{other:?}");
        }
    }
}
