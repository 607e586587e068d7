//! Redo records in files, beside the key-value store: `redo-00000001`, `redo-00000002`, …

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::redo::{Extent, HEADER, Redo, encode};
use super::run::Run;
use crate::error::Error;
use crate::view::directory;
use crate::view::meta::{Place, ViewMeta};

const PREFIX: &str = "redo-";

/// The folder of a view, and the records in it.
#[derive(Debug)]
pub(crate) struct RedoFiles {
    dir: PathBuf,
    files: Vec<RedoFile>,
    next: u64,
}

/// A record that is on disk.
#[derive(Debug)]
struct RedoFile {
    number: u64,
    /// How far the rows are after it.
    place: Place,
    bytes: u64,
}

impl RedoFiles {
    /// Looks for the records in a folder, and returns those that are whole, in the order they were written. Others are of
    /// a write that was cut short, or damaged; they are removed together with those before them.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<Redo>), Error> {
        let fault = |e| Error::io(format_args!("read the redo records in {}", dir.display()), e);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
        }
        numbers.sort_unstable();
        let mut redo = RedoFiles { dir: dir.to_owned(), files: Vec::new(), next: 1 };
        let mut found = Vec::new();
        for number in numbers {
            redo.next = number.saturating_add(1);
            let record = redo.read(number).map_err(fault)?;
            let place = record.as_ref().map_or(Place::default(), |record| record.meta.place());
            let bytes = record.as_ref().map_or(0, |record| record.rows.bytes().len());
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            redo.files.push(RedoFile { number, place, bytes });
            found.extend(record);
        }
        Ok((redo, found))
    }

    fn read(&self, number: u64) -> io::Result<Option<Redo>> {
        let path = self.path(number);
        let found = fs::symlink_metadata(&path)?;
        if !found.is_file() {
            return Ok(None);
        }
        // A file that is no record may be of any size.
        let mut header = Vec::with_capacity(HEADER);
        let limit = u64::try_from(HEADER).unwrap_or(u64::MAX);
        File::open(&path)?.take(limit).read_to_end(&mut header)?;
        let said = Extent::of(&header).and_then(Extent::len).and_then(|len| u64::try_from(len).ok());
        match said == Some(found.len()) {
            true => Ok(Redo::decode(fs::read(path)?)),
            false => Ok(None),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        path(&self.dir, number)
    }

    /// How many records there are, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.files.len(), self.files.iter().map(|file| file.bytes).sum())
    }

    /// Writes a record. When this returns, it survives a loss of power.
    pub(super) fn write(&mut self, before: Place, meta: &ViewMeta, rows: &Run) -> Result<(), Error> {
        let number = self.next;
        self.next = number.saturating_add(1);
        let path = self.path(number);
        let [head, end] = encode(before, meta, rows);
        let written = create(&path).and_then(|mut file| {
            file.write_all(&head)?;
            file.write_all(rows.bytes())?;
            file.write_all(&end)?;
            file.sync_data()?;
            directory::sync_dir(&self.dir)
        });
        let bytes = u64::try_from(rows.bytes().len()).unwrap_or(u64::MAX);
        if let Err(error) = written {
            // Whatever of it is there is not known to be durable, and must not be taken for it.
            drop(fs::remove_file(&path));
            return Err(Error::io(format_args!("write {}", path.display()), error));
        }
        self.files.push(RedoFile { number, place: meta.place(), bytes });
        Ok(())
    }

    /// Removes the records up to a place but the last one written, if `keep_last`: they are in the key-value store,
    /// or in that one.
    pub(super) fn remove_to(&mut self, place: Place, keep_last: bool) {
        let last = self.files.last().map(|file| file.number).filter(|_| keep_last);
        self.retain(|file| file.place > place || Some(file.number) == last);
    }

    /// Removes the records of what is after a place.
    pub(super) fn remove_after(&mut self, place: Place) {
        self.retain(|file| file.place <= place);
    }

    fn retain(&mut self, stays: impl Fn(&RedoFile) -> bool) {
        let dir = &self.dir;
        self.files.retain(|file| {
            stays(file)
                || fs::remove_file(path(dir, file.number)).is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
        });
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:08x}"))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
