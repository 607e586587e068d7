//! A [`Storage`] in memory that can lose its power and fail on demand.
//!
//! The idea is that of pebble's in-memory file system and its `CrashClone`.

mod chance;
mod content;
mod fault;
mod names;

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

pub use fault::Fault;

use self::chance::Chance;
use self::content::Content;
use self::fault::{Failure, Faults};
use self::names::{Change, Directory, Names, SharedContent};
use super::{Access, File, Lock, LockError, Storage};

/// Files in memory, for tests: of a program's own events and projections, and of what a crash does to them.
///
/// It keeps two images, the *live* one that the program sees and the *durable* one that a disk is sure to hold,
/// and moves one to the other only where the program syncs. [`crash`](Self::crash) makes what a loss of power may
/// leave; [`fail_at`](Self::fail_at) makes an operation fail; [`flip_bit`](Self::flip_bit) and others damage files.
///
/// The unit of loss is a sector of 512 bytes: after a loss of power each one that was written and not synced holds
/// the new bytes or the old ones. Changes of names are lost from the last one backwards, for each folder by itself.
/// A sync that fails leaves its sectors in doubt, as on Linux: reads return the new bytes, the disk may hold the old
/// ones, a second sync succeeds and changes nothing; only writing the bytes again and syncing does. A sync of a
/// folder that fails leaves its changes pending.
///
/// A clone is another handle to the same files.
///
/// ```
/// use everfold::{Event, Expected, MemoryStorage, Options};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let storage = MemoryStorage::new();
/// let store = Options::new().segment_size(8192).open_memory(&storage)?;
/// let done = store.append("cart-7", Expected::NoStream, [Event::raw("sold", *b"hats")])?;
/// for seed in 0..100 {
///     let recovered = Options::new().open_memory(&storage.crash(seed))?;
///     assert_eq!(recovered.watermark(), done.position, "what was acknowledged is there");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
}

/// Held for the whole of an operation that changes something, so that a crash falls between two of them.
#[derive(Default)]
struct State {
    directory: Directory,
    faults: Faults,
    locked: bool,
}

impl State {
    fn change(&mut self, change: Change) -> io::Result<()> {
        self.faults.count()?;
        self.directory.change(change)
    }
}

impl MemoryStorage {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a loss of power now may leave, as a new storage with no fault planned, nothing counted and no lock held;
    /// all that is in it is durable.
    ///
    /// What was synced is there. Of the rest, the seed decides. Nothing survives with 0. Everything does with
    /// `u64::MAX`, which is what the end of the process alone leaves.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemoryStorage {
        let chance = &mut Chance::new(seed);
        let state = self.state();
        let names: Names = state.directory.crash(chance).map(|content| lock(content).crash(chance));
        let state = State { directory: Directory::new(names), ..State::default() };
        MemoryStorage { state: Arc::new(Mutex::new(state)) }
    }

    /// How many operations there were that change something: create, create a folder, rename, remove, write, sync,
    /// sync a folder; those that failed too.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().faults.done()
    }

    /// Makes an operation fail: the one that [`operations`](Self::operations) will count as this number, the first
    /// being 1. It changes nothing, except as [`Fault::short`] says.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.state().faults.add(operation, fault);
    }

    /// Forgets every planned fault: the disk works again. What a failed sync left in doubt stays so.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// The names of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.state().directory.live.files().map(|(name, _)| name.clone()).collect()
    }

    /// The bytes of a file as the program sees them.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.content(name).ok().map(|content| lock(&content).live().to_vec())
    }

    /// Inverts a bit (0 to 7) of a byte, live and durable. No operation is counted for this or any other damage.
    ///
    /// # Errors
    /// When there is no such file, byte or bit.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mask = 1_u8.checked_shl(u32::from(bit)).ok_or(ErrorKind::InvalidInput)?;
        self.damage(name, |content| content.damage(offset, 1, |_, byte| *byte ^= mask))
    }

    /// Replaces bytes, live and durable.
    ///
    /// # Errors
    /// When there is no such file, or it ends before the last of the bytes.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let put = |n: usize, byte: &mut u8| *byte = bytes.get(n).copied().unwrap_or(*byte);
        self.damage(name, |content| content.damage(offset, bytes.len(), put))
    }

    /// Cuts a file off, or adds zeros to it, live and durable.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.damage(name, |content| content.resize(len))
    }

    /// Takes a file away, live and durable. Every other change of a name that was pending becomes durable first.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        self.state().directory.delete(name)
    }

    /// Puts a file there, live and durable: a new one, or another in its place, in folders that are made for it. Every
    /// change of a name that was pending becomes durable. So files of a real store can be looked at, and damaged, in memory.
    ///
    /// # Errors
    /// When there is no memory for it, or a folder has the name.
    pub fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut content = Content::new(u64::try_from(bytes.len()).map_err(io::Error::other)?)?;
        content.damage(0, bytes.len(), |n, byte| *byte = bytes.get(n).copied().unwrap_or_default())?;
        let directory = &mut self.state().directory;
        for (end, _) in name.match_indices('/') {
            directory.change(Change::CreateFolder(name.get(..end).unwrap_or_default().to_owned()))?;
        }
        if directory.live.file(name).is_ok() {
            directory.delete(name)?;
        }
        directory.change(Change::Create(name.to_owned(), Arc::new(Mutex::new(content))))?;
        *directory = Directory::new(directory.live.clone());
        Ok(())
    }

    fn damage(&self, name: &str, how: impl FnOnce(&mut Content) -> io::Result<()>) -> io::Result<()> {
        let state = self.state();
        how(&mut lock(state.directory.live.file(name)?))
    }

    fn content(&self, name: &str) -> io::Result<SharedContent> {
        self.state().directory.live.file(name).map(Arc::clone)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, operations) = (self.files(), self.operations());
        f.debug_struct("MemoryStorage").field("files", &files).field("operations", &operations).finish()
    }
}

impl Storage for MemoryStorage {
    fn root(&self) -> Option<&Path> {
        None
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.state().directory.live.list(folder)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.state().change(Change::CreateFolder(folder.to_owned()))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let content = self.content(name)?;
        Ok(Arc::new(MemoryFile { name: name.to_owned(), storage: self.clone(), content, access }))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        let content = Content::new(len).map(|content| Arc::new(Mutex::new(content)));
        let mut state = self.state();
        state.faults.count()?;
        let content = content?;
        state.directory.change(Change::Create(name.to_owned(), Arc::clone(&content)))?;
        let (name, storage) = (name.to_owned(), self.clone());
        Ok(Arc::new(MemoryFile { name, storage, content, access: Access::Write }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state().change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().change(Change::Remove(name.to_owned()))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut state = self.state();
        state.faults.count()?;
        state.directory.sync(folder)
    }

    fn lock(&self) -> Result<Lock, LockError> {
        let mut state = self.state();
        if state.locked {
            return Err(LockError::Held { pid: Some(std::process::id()) });
        }
        state.locked = true;
        Ok(Lock::new(Held(self.clone())))
    }
}

#[derive(Debug)]
struct Held(MemoryStorage);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

struct MemoryFile {
    /// As it was opened, for people.
    name: String,
    storage: MemoryStorage,
    /// Locked after the storage's state, where both are.
    content: SharedContent,
    access: Access,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("name", &self.name).field("access", &self.access).finish()
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        u64::try_from(lock(&self.content).live().len()).map_err(io::Error::other)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.content);
        let from = content.from(offset);
        let len = buf.len().min(from.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), from.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        let failed = state.faults.count();
        if self.access != Access::Write {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let written = match &failed {
            Ok(()) => bytes,
            Err(Failure { short: true, .. }) => bytes.get(..bytes.len() / 2).unwrap_or_default(),
            Err(_) => &[],
        };
        lock(&self.content).write(written, offset)?;
        Ok(failed?)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.storage.state();
        let failed = state.faults.count();
        let mut content = lock(&self.content);
        match failed {
            Ok(()) => content.sync(),
            Err(_) => content.fail_sync(),
        }
        Ok(failed?)
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        let content = lock(&self.content);
        let bytes = usize::try_from(len).ok().and_then(|len| content.live().get(..len));
        bytes.map(Bytes::copy_from_slice).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file `a` of 1,024 bytes, its name durable. Two operations.
    fn one_file() -> (MemoryStorage, Arc<dyn File>) {
        let storage = MemoryStorage::new();
        let file = storage.create("a", 1024).unwrap();
        storage.sync_folder("").unwrap();
        (storage, file)
    }

    fn head(storage: &MemoryStorage) -> [u8; 2] {
        storage.file("a").unwrap()[..2].try_into().unwrap()
    }

    #[test]
    fn what_is_written_is_read_at_once_and_durable_after_a_sync() {
        let (storage, file) = one_file();
        file.write_at(b"ab", 0).unwrap();
        assert_eq!((head(&storage), head(&storage.crash(0)), head(&storage.crash(u64::MAX))), {
            (*b"ab", [0, 0], *b"ab")
        });
        file.sync().unwrap();
        assert_eq!(head(&storage.crash(0)), *b"ab");
        assert_eq!(storage.operations(), 4);
    }

    #[test]
    fn a_crash_leaves_an_independent_storage_in_which_all_is_durable() {
        let (storage, file) = one_file();
        let _lock = storage.lock().unwrap();
        storage.fail_at(4, Fault::from_then_on(ErrorKind::Other));
        file.write_at(b"ab", 0).unwrap();
        let after = storage.crash(u64::MAX);
        assert_eq!((head(&after.crash(0)), after.operations()), (*b"ab", 0));
        let other = after.open("a", Access::Write).unwrap();
        other.write_at(b"cd", 0).unwrap();
        other.sync().unwrap();
        assert_eq!((head(&storage), head(&after)), (*b"ab", *b"cd"));
        after.lock().unwrap();
    }

    #[test]
    fn the_same_seed_leaves_the_same_bytes() {
        let (storage, file) = one_file();
        file.write_at(&[7; 1024], 0).unwrap();
        storage.create("b", 600).unwrap().write_at(&[8; 600], 0).unwrap();
        let bytes = |seed| {
            let after = storage.crash(seed);
            after.files().iter().map(|name| after.file(name).unwrap()).collect::<Vec<_>>()
        };
        assert!((0..100).all(|seed| bytes(seed) == bytes(seed)));
        assert!((1..100).any(|seed| bytes(seed) != bytes(seed + 1)));
    }

    #[test]
    fn a_removed_file_can_come_back_and_an_open_one_can_still_be_used() {
        let (storage, file) = one_file();
        storage.remove("a").unwrap();
        file.write_at(b"ab", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(storage.file("a"), None);
        assert_eq!(head(&storage.crash(0)), *b"ab");
        storage.sync_folder("").unwrap();
        assert_eq!(storage.crash(0).files(), [""; 0]);
    }

    #[test]
    fn a_synced_file_without_a_synced_name_is_lost() {
        let storage = MemoryStorage::new();
        let file = storage.create("a", 2).unwrap();
        file.write_at(b"ab", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(storage.crash(0).file("a"), None);
        assert_eq!(storage.crash(u64::MAX).file("a").unwrap(), b"ab");
    }

    #[test]
    fn a_failed_sync_loses_the_bytes_and_a_second_sync_does_not_cure_it() {
        let (storage, file) = one_file();
        storage.fail_at(4, Fault::once(ErrorKind::Other));
        file.write_at(b"ab", 0).unwrap();
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!((head(&storage), head(&storage.crash(0))), (*b"ab", [0, 0]));
        file.write_at(b"ab", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(head(&storage.crash(0)), *b"ab");
    }

    #[test]
    fn a_short_write_writes_the_first_half_and_fails() {
        let (storage, file) = one_file();
        storage.fail_at(3, Fault::once(ErrorKind::StorageFull).short());
        assert_eq!(file.write_at(b"ab", 0).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(head(&storage), *b"a\0");
        file.write_at(b"ab", 0).unwrap();
    }

    #[test]
    fn every_kind_of_operation_fails_on_a_dead_disk_and_changes_nothing() {
        let (storage, file) = one_file();
        storage.fail_at(3, Fault::from_then_on(ErrorKind::Other));
        assert!(file.write_at(b"ab", 0).is_err());
        assert!(file.sync().is_err());
        assert!(storage.create("b", 1).is_err());
        assert!(storage.create_folder("log").is_err());
        assert!(storage.rename("a", "b").is_err());
        assert!(storage.remove("a").is_err());
        assert!(storage.sync_folder("").is_err());
        assert_eq!((storage.operations(), storage.list("").unwrap()), (9, vec!["a".to_owned()]));
        assert_eq!(head(&storage), [0, 0]);
        storage.clear_faults();
        storage.rename("a", "b").unwrap();
    }

    #[test]
    fn damage_reaches_every_image_and_a_miss_is_an_error() {
        let (storage, file) = one_file();
        file.write_at(b"ab", 0).unwrap();
        storage.flip_bit("a", 1, 7).unwrap();
        storage.overwrite("a", 0, b"X").unwrap();
        assert_eq!((head(&storage), head(&storage.crash(0))), ([b'X', b'b' ^ 0x80], [b'X', 0x80]));
        storage.truncate("a", 1).unwrap();
        assert_eq!(
            (storage.file("a").unwrap(), storage.crash(0).file("a").unwrap()),
            (vec![b'X'], vec![b'X'])
        );
        assert!(storage.flip_bit("a", 1, 0).is_err());
        assert!(storage.flip_bit("a", 0, 8).is_err());
        assert!(storage.overwrite("b", 0, b"").is_err());
        storage.delete("a").unwrap();
        assert!(storage.delete("a").is_err());
        assert_eq!(storage.crash(u64::MAX).files(), [""; 0]);
    }

    #[test]
    fn a_file_that_is_put_there_is_durable_and_replaces_another() {
        let (storage, _) = one_file();
        storage.put("a", b"new").unwrap();
        storage.put("log/b", b"").unwrap();
        assert_eq!(storage.crash(0).files(), ["a", "log/b"]);
        assert_eq!(storage.crash(0).file("a").unwrap(), b"new");
        assert!(storage.put("log", b"").is_err() && storage.put("a/b", b"").is_err());
    }

    #[test]
    fn files_are_read_and_written_within_their_size_and_access() {
        let (storage, file) = one_file();
        assert_eq!(file.write_at(b"ab", 1023).unwrap_err().kind(), ErrorKind::InvalidInput);
        file.write_at(b"b", 1023).unwrap();
        let reader = storage.open("a", Access::Read).unwrap();
        assert_eq!(reader.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let mut buf = [9; 3];
        assert_eq!((reader.read_at(&mut buf, 1022).unwrap(), buf), (2, [0, b'b', 9]));
        assert_eq!(reader.read_at(&mut buf, u64::MAX).unwrap(), 0);
        assert_eq!((reader.len().unwrap(), reader.map(1024).unwrap().len()), (1024, 1024));
        assert!(storage.create("huge", u64::MAX).is_err());
    }

    #[test]
    fn one_holder_has_the_lock() {
        let storage = MemoryStorage::new();
        let lock = storage.lock().unwrap();
        let pid = Some(std::process::id());
        assert!(matches!(storage.clone().lock(), Err(LockError::Held { pid: held }) if held == pid));
        drop(lock);
        storage.lock().unwrap();
    }
}
