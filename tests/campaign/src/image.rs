//! Files with two states: as programs see them, and as a disk has them. A loss of power leaves something between.
//!
//! - Data: any subset of the sectors written since the file's last sync is there, and the size is the old or the new one.
//! - Names: changes of names reach the disk in order; a sync of a folder takes all of them up to the last that concerns
//!   it. The sync of a file does not make its name durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use crate::chance::Chance;

pub(crate) type Id = u64;
pub(crate) const ROOT: Id = 1;
const SECTOR: usize = 512;

type Names = BTreeMap<Id, BTreeMap<String, Id>>;

#[derive(Clone, Debug)]
pub(crate) struct Image {
    files: BTreeMap<Id, File>,
    /// The names in each folder.
    names: Names,
    durable_names: Names,
    /// Changes of names that are not durable, in order.
    changes: Vec<Change>,
    next: Id,
}

#[derive(Clone, Debug, Default)]
struct File {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// Numbers of sectors in which they may differ.
    unsynced: BTreeSet<usize>,
}

/// Names that change together: each gets this file or folder, or goes.
#[derive(Clone, Debug)]
struct Change(Vec<(Id, String, Option<Id>)>);

impl Change {
    fn apply(&self, names: &mut Names) {
        for (folder, name, id) in &self.0 {
            let names = names.entry(*folder).or_default();
            match id {
                Some(id) => names.insert(name.clone(), *id),
                None => names.remove(name),
            };
        }
    }
}

/// What a loss of power leaves of what is unsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Everything,
    /// Some blocks of so many sectors.
    Some(usize),
}

impl Left {
    pub(crate) fn any(chance: &mut Chance) -> Left {
        match chance.below(6) {
            0 => Left::Nothing,
            1 => Left::Everything,
            2 | 3 => Left::Some(1),
            _ => Left::Some(8),
        }
    }
}

impl File {
    fn resize(&mut self, size: usize) {
        let (smaller, larger) = (size.min(self.data.len()), size.max(self.data.len()));
        self.unsynced.extend(smaller / SECTOR..larger.div_ceil(SECTOR));
        self.data.resize(size, 0);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.data.len() {
            self.resize(end);
        }
        self.unsynced.extend(offset / SECTOR..end.div_ceil(SECTOR));
        self.data[offset..end].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        let sectors = std::mem::take(&mut self.unsynced);
        self.durable.resize(self.data.len(), 0);
        sectors.into_iter().for_each(|sector| self.keep(sector));
    }

    /// A sector gets to the disk.
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.data.len()).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.data[start..end]);
        }
    }

    fn crash(&mut self, left: Left, chance: &mut Chance) {
        let all = match left {
            Left::Nothing => false,
            Left::Everything => true,
            Left::Some(_) => chance.once_in(2),
        };
        if all {
            self.durable.resize(self.data.len(), 0);
        }
        let sectors = std::mem::take(&mut self.unsynced);
        let (mut block, mut kept) = (usize::MAX, all);
        for sector in sectors {
            if let Left::Some(block_sectors) = left
                && block != sector / block_sectors
            {
                block = sector / block_sectors;
                kept = chance.once_in(2);
            }
            if kept {
                self.keep(sector);
            }
        }
        self.data.clone_from(&self.durable);
    }
}

impl Image {
    /// An empty folder.
    pub(crate) fn new() -> Image {
        let names = Names::from([(ROOT, BTreeMap::new())]);
        Image {
            files: BTreeMap::new(),
            durable_names: names.clone(),
            names,
            changes: Vec::new(),
            next: ROOT + 1,
        }
    }

    pub(crate) fn find(&self, folder: Id, name: &str) -> Option<Id> {
        self.names.get(&folder)?.get(name).copied()
    }

    /// The data of a file; `None` for a folder.
    pub(crate) fn data(&self, id: Id) -> Option<&[u8]> {
        self.files.get(&id).map(|file| file.data.as_slice())
    }

    /// A name of a file or folder.
    pub(crate) fn name(&self, id: Id) -> Option<&str> {
        let mut names = self.names.values().flatten();
        names.find(|(_, named)| **named == id).map(|(name, _)| name.as_str())
    }

    /// The names in a folder; `None` for a file.
    pub(crate) fn folder(&self, id: Id) -> Option<&BTreeMap<String, Id>> {
        self.names.get(&id)
    }

    fn change(&mut self, names: Vec<(Id, String, Option<Id>)>) {
        let change = Change(names);
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn make(&mut self, folder: Id, name: &str) -> Result<Id, ErrorKind> {
        if self.find(folder, name).is_some() {
            return Err(ErrorKind::AlreadyExists);
        }
        let id = self.next;
        self.next += 1;
        self.change(vec![(folder, name.to_owned(), Some(id))]);
        Ok(id)
    }

    pub(crate) fn make_file(&mut self, folder: Id, name: &str) -> Result<Id, ErrorKind> {
        let id = self.make(folder, name)?;
        self.files.insert(id, File::default());
        Ok(id)
    }

    pub(crate) fn make_folder(&mut self, folder: Id, name: &str) -> Result<Id, ErrorKind> {
        let id = self.make(folder, name)?;
        self.names.insert(id, BTreeMap::new());
        Ok(id)
    }

    /// Removes a name. The file stays for those who have it open.
    pub(crate) fn remove(&mut self, folder: Id, name: &str) -> Result<(), ErrorKind> {
        let id = self.find(folder, name).ok_or(ErrorKind::NotFound)?;
        if self.folder(id).is_some_and(|names| !names.is_empty()) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        self.change(vec![(folder, name.to_owned(), None)]);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: (Id, &str), to: (Id, &str)) -> Result<(), ErrorKind> {
        let id = self.find(from.0, from.1).ok_or(ErrorKind::NotFound)?;
        self.change(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(id))]);
        Ok(())
    }

    fn file(&mut self, id: Id) -> Result<&mut File, ErrorKind> {
        self.files.get_mut(&id).ok_or(ErrorKind::IsADirectory)
    }

    pub(crate) fn resize(&mut self, id: Id, size: usize) -> Result<(), ErrorKind> {
        self.file(id).map(|file| file.resize(size))
    }

    pub(crate) fn write(&mut self, id: Id, offset: usize, bytes: &[u8]) -> Result<(), ErrorKind> {
        self.file(id).map(|file| file.write(offset, bytes))
    }

    pub(crate) fn sync(&mut self, id: Id) -> Result<(), ErrorKind> {
        self.file(id).map(File::sync)
    }

    pub(crate) fn sync_folder(&mut self, folder: Id) {
        let concerns = |change: &Change| change.0.iter().any(|(changed, ..)| *changed == folder);
        let durable = self.changes.iter().rposition(concerns).map_or(0, |last| last + 1);
        self.changes.drain(..durable).for_each(|change| change.apply(&mut self.durable_names));
    }

    /// Whether a loss of power would change nothing.
    pub(crate) fn is_durable(&self) -> bool {
        self.changes.is_empty() && self.files.values().all(|file| file.unsynced.is_empty())
    }

    /// Loses power.
    pub(crate) fn crash(&mut self, left: Left, chance: &mut Chance) {
        let kept = match left {
            Left::Nothing => 0,
            Left::Everything => self.changes.len(),
            Left::Some(_) => usize::try_from(chance.below(self.changes.len() as u64 + 1)).unwrap_or_default(),
        };
        self.changes.drain(..kept).for_each(|change| change.apply(&mut self.durable_names));
        self.changes.clear();
        self.files.values_mut().for_each(|file| file.crash(left, chance));
        self.names.clear();
        self.restore(ROOT);
        self.durable_names.clone_from(&self.names);
        let named: BTreeSet<Id> = self.names.values().flat_map(|names| names.values().copied()).collect();
        self.files.retain(|id, _| named.contains(id));
    }

    /// Takes the durable names of a folder, and of those below it, for what they are now.
    fn restore(&mut self, folder: Id) {
        let names = self.durable_names.get(&folder).cloned().unwrap_or_default();
        for id in names.values().filter(|id| !self.files.contains_key(id)).copied().collect::<Vec<_>>() {
            self.restore(id);
        }
        self.names.insert(folder, names);
    }

    /// Takes over the files of a real folder, durable.
    pub(crate) fn read_in(&mut self, folder: Id, from: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                let id = self.make_folder(folder, &name)?;
                self.read_in(id, &entry.path())?;
            } else {
                let id = self.make_file(folder, &name)?;
                self.write(id, 0, &std::fs::read(entry.path())?)?;
                self.sync(id)?;
            }
        }
        self.sync_folder(folder);
        Ok(())
    }

    /// Writes a folder's files to a real one, which is there and empty.
    pub(crate) fn write_out(&self, folder: Id, to: &Path) -> std::io::Result<()> {
        for (name, id) in self.names.get(&folder).into_iter().flatten() {
            let to = to.join(name);
            match self.files.get(id) {
                Some(file) => std::fs::write(&to, &file.data)?,
                None => std::fs::create_dir(&to).and_then(|()| self.write_out(*id, &to))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_survives_and_what_is_not_may_be_lost() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..100 {
            let mut image = Image::new();
            let folder = image.make_folder(ROOT, "log").unwrap();
            let file = image.make_file(folder, "1.seg").unwrap();
            image.resize(file, 4096).unwrap();
            image.write(file, 0, &[1; 512]).unwrap();
            image.sync(file).unwrap();
            image.sync_folder(folder);
            image.write(file, 1000, &[2; 100]).unwrap();
            image.make_file(folder, "2.seg").unwrap();
            let mut chance = Chance::new(seed);
            image.crash(Left::any(&mut chance), &mut chance);
            let data = image.data(file).unwrap();
            assert_eq!((data.len(), &data[..512]), (4096, &[1; 512][..]));
            assert!(data[1000..1024] == [0; 24] || data[1000..1024] == [2; 24]);
            lost += u32::from(data[1050] == 0) + u32::from(image.find(folder, "2.seg").is_none());
            kept += u32::from(data[1000] == 2) + u32::from(image.find(folder, "2.seg").is_some());
        }
        assert!(lost > 20 && kept > 20, "{lost} lost, {kept} kept");
    }

    #[test]
    fn a_file_without_a_durable_name_is_gone() {
        let mut image = Image::new();
        let file = image.make_file(ROOT, "new.tmp").unwrap();
        image.write(file, 0, b"all of it").unwrap();
        image.sync(file).unwrap();
        image.rename((ROOT, "new.tmp"), (ROOT, "new")).unwrap();
        let mut synced = image.clone();
        synced.sync_folder(ROOT);
        let seen = |mut image: Image, seed| {
            let mut chance = Chance::new(seed);
            image.crash(Left::any(&mut chance), &mut chance);
            (image.find(ROOT, "new.tmp").is_some(), image.find(ROOT, "new").is_some())
        };
        let all: BTreeSet<_> = (0..100).map(|seed| seen(image.clone(), seed)).collect();
        assert_eq!(all, [(false, false), (false, true), (true, false)].into());
        assert!((0..100).all(|seed| seen(synced.clone(), seed) == (false, true)));
    }
}
