//! The files of a view, copied while their owner may be writing them, into a folder that goes with its handle.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, mem};

use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::storage::disk;

/// Names of folders with copies begin so.
const PREFIX: &str = "everfold-view-copy-";
/// In such a folder: a file that is locked for as long as the folder is in use.
const HELD: &str = "held";
/// In such a folder: the copy.
pub(super) const COPY: &str = "view";
/// So much room is left beside a copy: opening it writes a little.
const SPARE_ROOM: u64 = 2 << 20;
/// So many files a view has at the most.
const MOST_FILES: usize = 10_000;

/// A folder for a copy. It is removed with this.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    held: Option<File>,
}

impl Scratch {
    /// Makes one below the system's folder for temporary files, and removes those that killed processes have left.
    pub(super) fn new() -> Result<Self, Error> {
        let temporary = env::temp_dir();
        remove_abandoned(&temporary);
        loop {
            let dir = temporary.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
            let mut builder = DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            let made = builder.create(&dir).and_then(|()| File::create(dir.join(HELD)));
            let held = made.map_err(|e| {
                Error::io(format_args!("make a folder for a copy of the view in {}", temporary.display()), e)
            })?;
            // Another process may be about to remove it, since it was not held for a moment.
            if held.try_lock().is_ok() {
                return Ok(Scratch { dir, held: Some(held) });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.held.take());
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove the copy of a view");
        }
    }
}

/// Removes the folders that nobody holds any more. What cannot be removed stays: it is somebody else's.
fn remove_abandoned(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let held = entry.path().join(HELD);
        if fs::symlink_metadata(&held).is_ok_and(|found| found.is_file())
            && let Ok(held) = File::open(held)
            && held.try_lock().is_ok()
        {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// A file of a view, as it was at a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    name: String,
    bytes: u64,
    changed: Option<SystemTime>,
}

/// The files of a view, as they were at a moment: what tells whether they were changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing(Vec<Listed>);

impl Listing {
    pub(super) fn of(view: &Path) -> Result<Self, Error> {
        let list = || -> io::Result<Vec<Listed>> {
            let mut files = in_folder(view, "")?;
            if fs::symlink_metadata(view.join("blobs")).is_ok_and(|found| found.is_dir()) {
                files.extend(in_folder(&view.join("blobs"), "blobs/")?);
            }
            files.sort_unstable();
            Ok(files)
        };
        list().map(Listing).map_err(|e| Error::io(format_args!("list {}", view.display()), e))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Redo records first: they are removed when the rows that they hold are in the other files, which are copied later.
    /// The data comes last, after what was derived from it.
    fn in_order(&self) -> impl Iterator<Item = &Listed> {
        let turn = |file: &Listed| match file.name.as_str() {
            "db" => 2,
            name if is_redo(name) => 0,
            _ => 1,
        };
        (0..3).flat_map(move |now| self.0.iter().filter(move |file| turn(file) == now))
    }
}

fn is_redo(name: &str) -> bool {
    name.starts_with("redo-")
}

/// What is a file and belongs to a view, directly in a folder.
fn in_folder(folder: &Path, before: &str) -> io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let known = !before.is_empty() || matches!(&*name, "db" | "conf") || name.starts_with("snap.");
        let found = match fs::symlink_metadata(entry.path()) {
            // Its owner has removed it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if found.is_file() && (known || is_redo(&name)) {
            if files.len() >= MOST_FILES {
                return Err(io::Error::other("there are more files than a view has"));
            }
            let name = format!("{before}{name}");
            files.push(Listed { name, bytes: found.len(), changed: found.modified().ok() });
        }
    }
    Ok(files)
}

/// Copies the files of a view to `scratch`, and returns what they were right before.
pub(super) fn copy(view: &Path, scratch: &Scratch) -> Result<Listing, Error> {
    let listing = Listing::of(view)?;
    check_room(listing.bytes(), scratch.path())?;
    let target = scratch.path().join(COPY);
    let fault = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room(listing.bytes(), scratch.path()),
        _ => Error::io(format_args!("copy {} to {}", view.display(), target.display()), e),
    };
    fs::create_dir(&target).map_err(fault)?;
    if listing.0.iter().any(|file| file.name.starts_with("blobs/")) {
        fs::create_dir(target.join("blobs")).map_err(fault)?;
    }
    for file in listing.in_order() {
        copy_file(&view.join(&file.name), &target.join(&file.name)).map_err(fault)?;
    }
    // Those that were written meanwhile: the data may say already that they are needed.
    for file in Listing::of(view)?.0.iter().filter(|file| is_redo(&file.name)) {
        copy_file(&view.join(&file.name), &target.join(&file.name)).map_err(fault)?;
    }
    Ok(listing)
}

/// Copies what the file has now, not what comes while it is copied.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let source = match File::open(from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        source => source?,
    };
    let bytes = source.metadata()?.len();
    io::copy(&mut source.take(bytes), &mut File::create(to)?).map(mem::drop)
}

fn check_room(bytes: u64, scratch: &Path) -> Result<(), Error> {
    match disk::free_bytes(scratch) {
        Some(free) if free < bytes.saturating_add(SPARE_ROOM) => Err(no_room(bytes, scratch)),
        _ => Ok(()),
    }
}

fn no_room(bytes: u64, scratch: &Path) -> Error {
    let place = scratch.parent().unwrap_or(scratch).display();
    let message = format!(
        "a view is read from a copy of its files, and {place} has no room for the {bytes} bytes of it: set TMPDIR to a \
         folder that has"
    );
    Error::new(ErrorKind::DiskFull, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_held_stays_and_one_that_was_left_is_removed() {
        let held = Scratch::new().unwrap();
        let left = env::temp_dir().join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(HELD), b"").unwrap();
        let other = Scratch::new().unwrap();
        assert!(held.path().exists() && other.path().exists() && !left.exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_copied() {
        let scratch = Scratch::new().unwrap();
        let error = check_room(u64::MAX, scratch.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        assert!(error.to_string().contains("TMPDIR"), "{error}");
        check_room(1, scratch.path()).unwrap();
    }
}
