//! A [`Storage`] in memory that can lose its power and fail on demand.
//!
//! The idea is that of pebble's in-memory file system and its `CrashClone`.

mod chance;
mod content;
mod fault;
mod file;
mod names;
mod outage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use fault::Fault;
pub use outage::Outage;

use self::chance::Chance;
use self::content::Content;
use self::fault::Faults;
use self::file::MemoryFile;
use self::names::{Change, Directory, SharedContent};
use self::outage::Outages;
use super::{Access, File, Lock, LockError, Storage};
use crate::storage;

/// Files in memory, for tests: of a program's own events and projections, and of what a crash does to them.
///
/// It keeps two images, the *live* one that the program sees and the *durable* one that a disk is sure to hold,
/// and moves one to the other only where the program syncs. [`crash`](Self::crash) makes what a loss of power may
/// leave; [`fail_at`](Self::fail_at) makes an operation fail; [`flip_bit`](Self::flip_bit) and others damage files.
///
/// The unit of loss is a sector: after a loss of power each one that was written and not synced holds the durable bytes
/// or those that any of the writes since then left, whatever its neighbours hold; so writes arrive in part and in any
/// order. By the seed, sectors have 512 bytes or 4,096. A sector is never torn: disks do not do that, and a checksum of
/// theirs would tell. (What [`Fault::after`] leaves of a write can end anywhere.) Of a file that was never synced the size
/// can be lost, by pages. Changes of names are lost from the last one backwards, for each folder by itself, as where a
/// journal keeps them in order; or, by the seed, any of them are, but for those that others of the same name need.
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
    read_faults: Faults,
    outages: Outages,
    /// Where random numbers and the time come from; the system, if it is not there.
    seeded: Option<Seeded>,
    locked: bool,
}

/// Random numbers and the time, from a seed.
#[derive(Clone, Copy)]
struct Seeded {
    state: u64,
    milliseconds: u64,
}

impl Seeded {
    fn new(seed: u64) -> Self {
        // Any time will do, if it is one that programs expect: of the year 2001, say.
        Seeded { state: seed, milliseconds: 1_000_000_000_000 }
    }

    fn random(&mut self) -> u128 {
        let [high, low] = [(); 2].map(|()| chance::splitmix64(&mut self.state));
        u128::from(high) << 64 | u128::from(low)
    }

    fn now(&mut self) -> SystemTime {
        self.milliseconds += 1;
        UNIX_EPOCH + Duration::from_millis(self.milliseconds)
    }
}

impl State {
    fn change(&mut self, change: Change) -> io::Result<()> {
        let failed = self.faults.count();
        let changed = failed.map_err(io::Error::from).and_then(|()| self.directory.change(change));
        self.lose_power();
        changed
    }

    /// What a loss of power now leaves.
    fn crash(&self, seed: u64) -> MemoryStorage {
        let chance = &mut Chance::new(seed);
        let names = self.directory.crash(chance).map(|content| lock(content).crash(chance));
        let mut seeded = self.seeded;
        seeded.iter_mut().for_each(|seeded| seeded.state ^= seed.rotate_left(32));
        let state = State { directory: Directory::new(names), seeded, ..State::default() };
        MemoryStorage { state: Arc::new(Mutex::new(state)) }
    }

    /// Takes the crashes that are planned for the operation that was just done.
    fn lose_power(&mut self) {
        let operation = self.faults.done();
        for seed in self.outages.due(operation) {
            let left = self.crash(seed);
            self.outages.keep(Outage { operation, seed, left });
        }
    }
}

impl MemoryStorage {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one, in which stores take no random numbers and no time but what follows from the seed: so the same calls
    /// of one thread write the same bytes.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let state = State { seeded: Some(Seeded::new(seed)), ..State::default() };
        MemoryStorage { state: Arc::new(Mutex::new(state)) }
    }

    /// What a loss of power now may leave, as a new storage with no fault planned, nothing counted and no lock held;
    /// all that is in it is durable.
    ///
    /// What was synced is there. Of the rest, the seed decides. Nothing survives with 0. Everything does with
    /// `u64::MAX`, which is what the end of the process alone leaves.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemoryStorage {
        self.state().crash(seed)
    }

    /// Keeps what a loss of power during an operation leaves, while life goes on: the one that
    /// [`operations`](Self::operations) will count as this number. Of a write, any first part was done by then; a sync was
    /// not. [`outages`](Self::outages) has what was left.
    pub fn crash_at(&self, operation: u64, seed: u64) {
        self.state().outages.plan(operation, seed);
    }

    /// The planned losses of power that there were since this was asked last, in order.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.state().outages.take()
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

    /// How many operations there were that change nothing: list, open, the size of a file, read, map; those that failed
    /// too.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state().read_faults.done()
    }

    /// Makes one of these fail: the one that [`reads`](Self::reads) will count as this number.
    pub fn fail_read_at(&self, read: u64, fault: Fault) {
        self.state().read_faults.add(read, fault);
    }

    /// Forgets every planned fault: the disk works again. What a failed sync left in doubt stays so.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.read_faults.clear();
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
        content.sync();
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

    /// Counts something that changes nothing, and tells when it has to fail.
    fn read(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.read_faults.count()?;
        Ok(state)
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
        self.read()?.directory.live.list(folder)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.state().change(Change::CreateFolder(folder.to_owned()))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let content = self.read()?.directory.live.file(name).map(Arc::clone)?;
        Ok(Arc::new(MemoryFile { name: name.to_owned(), storage: self.clone(), content, access }))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        let content = Arc::new(Mutex::new(Content::new(len)?));
        self.state().change(Change::Create(name.to_owned(), Arc::clone(&content)))?;
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
        let failed = state.faults.count();
        state.lose_power();
        failed?;
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

    fn random(&self) -> u128 {
        self.state().seeded.as_mut().map_or_else(storage::random, Seeded::random)
    }

    fn now(&self) -> SystemTime {
        self.state().seeded.as_mut().map_or_else(SystemTime::now, Seeded::now)
    }
}

#[derive(Debug)]
struct Held(MemoryStorage);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
