//! Which names there are: as the running program sees them, and as the disk is sure to hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use super::chance::Chance;
use super::content::Content;

pub(super) type SharedContent = Arc<Mutex<Content>>;

/// Folders and files by their full names. The store's own folder, `""`, is not listed: it is always there.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    folders: BTreeSet<String>,
    files: BTreeMap<String, SharedContent>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    CreateFolder(String),
    Create(String, SharedContent),
    Rename(String, String),
    Remove(String),
}

impl Change {
    /// The names that it is about: two for a rename.
    fn names(&self) -> (&str, &str) {
        match self {
            Change::CreateFolder(name) | Change::Create(name, _) | Change::Remove(name) => (name, name),
            Change::Rename(from, to) => (from, to),
        }
    }

    /// The folders that have to be synced for the change to be durable: two for a rename between folders.
    fn folders(&self) -> (&str, &str) {
        let (from, to) = self.names();
        (parent(from), parent(to))
    }

    /// Whether the change can be made: the errors of a file system.
    fn check(&self, names: &Names) -> io::Result<()> {
        let (from, to) = self.folders();
        if !names.has_folder(from) || !names.has_folder(to) {
            return Err(ErrorKind::NotFound.into());
        }
        match self {
            Change::CreateFolder(name) if names.files.contains_key(name) => {
                Err(ErrorKind::AlreadyExists.into())
            }
            Change::Create(name, _) if names.files.contains_key(name) || names.has_folder(name) => {
                Err(ErrorKind::AlreadyExists.into())
            }
            Change::Rename(_, name) if names.has_folder(name) => Err(ErrorKind::IsADirectory.into()),
            Change::Rename(name, _) | Change::Remove(name) => names.file(name).map(drop),
            _ => Ok(()),
        }
    }
}

impl Names {
    pub(super) fn has_folder(&self, folder: &str) -> bool {
        folder.is_empty() || self.folders.contains(folder)
    }

    pub(super) fn file(&self, name: &str) -> io::Result<&SharedContent> {
        self.files.get(name).ok_or_else(|| match self.has_folder(name) {
            true => ErrorKind::IsADirectory.into(),
            false => ErrorKind::NotFound.into(),
        })
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &SharedContent)> {
        self.files.iter()
    }

    pub(super) fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        if !self.has_folder(folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let names = self.folders.iter().chain(self.files.keys());
        Ok(names.filter(|name| parent(name) == folder).map(|name| last(name).to_owned()).collect())
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::CreateFolder(name) => {
                self.folders.insert(name.clone());
            }
            Change::Create(name, content) => {
                self.files.insert(name.clone(), Arc::clone(content));
            }
            Change::Rename(from, to) => {
                if let Some(content) = self.files.remove(from) {
                    self.files.insert(to.clone(), content);
                }
            }
            Change::Remove(name) => {
                self.files.remove(name);
            }
        }
    }

    /// Without what is in a folder that is not there.
    fn reachable(&self) -> Self {
        let mut left = Names::default();
        for folder in &self.folders {
            if left.has_folder(parent(folder)) {
                left.folders.insert(folder.clone());
            }
        }
        for (name, content) in &self.files {
            if left.has_folder(parent(name)) {
                left.files.insert(name.clone(), Arc::clone(content));
            }
        }
        left
    }

    /// The same names, each with another content.
    pub(super) fn map(&self, mut content: impl FnMut(&SharedContent) -> Content) -> Self {
        let files = self.files.iter();
        Names {
            folders: self.folders.clone(),
            files: files.map(|(name, old)| (name.clone(), Arc::new(Mutex::new(content(old))))).collect(),
        }
    }
}

/// Both images of the names, and the changes between them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) live: Names,
    durable: Names,
    pending: Vec<Change>,
}

impl Directory {
    /// All of it durable.
    pub(super) fn new(names: Names) -> Self {
        Directory { live: names.clone(), durable: names, pending: Vec::new() }
    }

    /// Makes a change that a loss of power may undo.
    pub(super) fn change(&mut self, change: Change) -> io::Result<()> {
        change.check(&self.live)?;
        if !matches!(&change, Change::CreateFolder(name) if self.live.has_folder(name)) {
            self.live.apply(&change);
            self.pending.push(change);
        }
        Ok(())
    }

    /// Makes the changes in a folder durable, and what has to happen before them in other folders.
    pub(super) fn sync(&mut self, folder: &str) -> io::Result<()> {
        if !self.live.has_folder(folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let mut folders = BTreeSet::from([folder.to_owned()]);
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for change in self.pending.drain(..).rev() {
            let (from, to) = change.folders();
            if folders.contains(from) || folders.contains(to) {
                folders.extend([from.to_owned(), to.to_owned()]);
                now.push(change);
            } else {
                later.push(change);
            }
        }
        now.iter().rev().for_each(|change| self.durable.apply(change));
        later.reverse();
        self.pending = later;
        Ok(())
    }

    /// Takes a name out of both images, after making all pending changes durable.
    pub(super) fn delete(&mut self, name: &str) -> io::Result<()> {
        self.live.file(name)?;
        self.live.apply(&Change::Remove(name.to_owned()));
        *self = Directory::new(self.live.clone());
        Ok(())
    }

    /// The names that a loss of power leaves. A rename happened in both folders or in neither, as with a journal.
    pub(super) fn crash(&self, chance: &mut Chance) -> Names {
        if chance.in_order() { self.first_changes(chance) } else { self.some_changes(chance) }
    }

    /// Any of the pending changes happened, but for those that need one which did not: an earlier one of the same name.
    fn some_changes(&self, chance: &mut Chance) -> Names {
        let mut names = self.durable.clone();
        let mut lost = BTreeSet::new();
        for change in &self.pending {
            let (from, to) = change.names();
            if chance.spares() && !lost.contains(from) && !lost.contains(to) {
                names.apply(change);
            } else {
                lost.extend([from, to]);
            }
        }
        names.reachable()
    }

    /// In each folder, some first part of the pending changes happened.
    fn first_changes(&self, chance: &mut Chance) -> Names {
        let mut left: BTreeMap<&str, u64> = BTreeMap::new();
        for (from, to) in self.pending.iter().map(Change::folders) {
            *left.entry(from).or_default() += 1;
            if from != to {
                *left.entry(to).or_default() += 1;
            }
        }
        left.values_mut().for_each(|count| *count = chance.prefix(*count));
        let mut take = |folder| left.get_mut(folder).is_some_and(decrement);
        let mut names = self.durable.clone();
        let mut stopped = BTreeSet::new();
        for change in &self.pending {
            let (from, to) = change.folders();
            let happens = take(from) && (from == to || take(to));
            if happens && !stopped.contains(from) && !stopped.contains(to) {
                names.apply(change);
            } else {
                stopped.extend([from, to]);
            }
        }
        names.reachable()
    }
}

fn decrement(count: &mut u64) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn last(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str) -> Change {
        Change::Create(name.to_owned(), SharedContent::default())
    }

    fn rename(from: &str, to: &str) -> Change {
        Change::Rename(from.to_owned(), to.to_owned())
    }

    fn directory(folders: &[&str], changes: impl IntoIterator<Item = Change>) -> Directory {
        let mut directory = Directory::default();
        for folder in folders {
            directory.change(Change::CreateFolder((*folder).to_owned())).unwrap();
        }
        directory.sync("").unwrap();
        for change in changes {
            directory.change(change).unwrap();
        }
        directory
    }

    fn left(directory: &Directory, seed: u64) -> String {
        told(&directory.crash(&mut Chance::new(seed)))
    }

    fn told(names: &Names) -> String {
        let all: Vec<&str> = names.folders.iter().chain(names.files.keys()).map(String::as_str).collect();
        all.join(" ")
    }

    /// What is left where changes happen in order, and all that may be left.
    fn all_left(directory: &Directory) -> (Vec<String>, Vec<String>) {
        let in_order = |seed: &u64| Chance::new(*seed).in_order();
        let seen = |seeds: &mut dyn Iterator<Item = u64>| -> Vec<String> {
            seeds.map(|seed| left(directory, seed)).collect::<BTreeSet<_>>().into_iter().collect()
        };
        (seen(&mut (0..1000).filter(in_order)), seen(&mut (0..1000)))
    }

    #[test]
    fn pending_changes_of_a_folder_happen_in_order() {
        let directory = directory(&[], [create("a"), rename("a", "b"), create("c")]);
        let (in_order, all) = all_left(&directory);
        assert_eq!(in_order, ["", "a", "b", "b c"]);
        assert_eq!(all, ["", "a", "a c", "b", "b c", "c"]);
    }

    #[test]
    fn folders_lose_their_changes_independently() {
        let directory = directory(&["x", "y"], [create("x/a"), create("y/b")]);
        assert_eq!(all_left(&directory).0, ["x y", "x y x/a", "x y x/a y/b", "x y y/b"]);
    }

    #[test]
    fn syncing_a_folder_keeps_its_names_but_not_the_folder_itself() {
        let mut directory = directory(&[], [Change::CreateFolder("x".to_owned()), create("x/a")]);
        directory.sync("x").unwrap();
        assert_eq!(all_left(&directory).1, ["", "x x/a"]);
        directory.sync("").unwrap();
        assert_eq!(all_left(&directory).1, ["x x/a"]);
    }

    #[test]
    fn a_rename_between_folders_loses_nothing() {
        let mut directory = directory(&["x", "y"], [create("x/a")]);
        directory.sync("x").unwrap();
        directory.change(rename("x/a", "y/a")).unwrap();
        directory.change(create("x/a")).unwrap();
        assert_eq!(all_left(&directory).1, ["x y x/a", "x y x/a y/a", "x y y/a"]);
        directory.sync("x").unwrap();
        assert_eq!(left(&directory, 0), "x y x/a y/a");
    }

    #[test]
    fn the_errors_are_those_of_a_file_system() {
        let mut directory = directory(&["x"], [create("a")]);
        let mut kind = |change| directory.change(change).map_err(|error| error.kind());
        assert_eq!(kind(create("a")), Err(ErrorKind::AlreadyExists));
        assert_eq!(kind(create("x")), Err(ErrorKind::AlreadyExists));
        assert_eq!(kind(create("y/a")), Err(ErrorKind::NotFound));
        assert_eq!(kind(rename("b", "c")), Err(ErrorKind::NotFound));
        assert_eq!(kind(rename("a", "x")), Err(ErrorKind::IsADirectory));
        assert_eq!(kind(rename("a", "y/a")), Err(ErrorKind::NotFound));
        assert_eq!(kind(Change::Remove("x".to_owned())), Err(ErrorKind::IsADirectory));
        assert_eq!(kind(Change::CreateFolder("a".to_owned())), Err(ErrorKind::AlreadyExists));
        assert_eq!(kind(Change::CreateFolder("x".to_owned())), Ok(()));
        assert_eq!(directory.sync("y").map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    }
}
