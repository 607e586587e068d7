//! The file of the next segment, made before it is needed.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::segment::LOG_FOLDER;
use crate::storage::{File, Storage};

/// Its name until it has a first position. It never holds a frame; opening the store for writing removes it.
const SPARE_NAME: &str = "log/next.tmp";

/// A file of zeros whose space is allocated.
#[derive(Debug)]
pub(crate) struct Spare {
    storage: Arc<dyn Storage>,
    size: u64,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    file: Option<Arc<dyn File>>,
    /// The file under the spare's name is the writer's, until it has its own.
    taken: bool,
}

impl Spare {
    pub(crate) fn new(storage: Arc<dyn Storage>, size: u64) -> Self {
        Spare { storage, size, slot: Mutex::default() }
    }

    /// Makes the file, unless it is there, or the name is in use.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let mut slot = self.slot();
        if slot.file.is_none() && !slot.taken {
            slot.file = Some(self.create()?);
        }
        Ok(())
    }

    /// The file under its own name, for [`give_name`](Self::give_name); made now if it was not.
    pub(crate) fn take(&self) -> io::Result<Arc<dyn File>> {
        let mut slot = self.slot();
        let file = slot.file.take().map_or_else(|| self.create(), Ok)?;
        slot.taken = true;
        Ok(file)
    }

    /// Gives the file that was taken a segment's name, durably.
    pub(crate) fn give_name(&self, name: &str) -> io::Result<()> {
        self.storage.rename(SPARE_NAME, name)?;
        self.slot().taken = false;
        self.storage.sync_folder(LOG_FOLDER)
    }

    /// Removes what a crash may have left.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match self.storage.remove(SPARE_NAME) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self) -> io::Result<Arc<dyn File>> {
        self.clear()?;
        self.storage.create(SPARE_NAME, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn a_file_that_the_writer_has_taken_is_not_replaced_by_one_made_ahead() {
        let storage = MemoryStorage::new();
        storage.create_folder(LOG_FOLDER).unwrap();
        let spare = Spare::new(Arc::new(storage.clone()), 16);
        let _taken = spare.take().unwrap();
        let done = storage.operations();
        spare.prepare().unwrap();
        assert_eq!(storage.operations(), done, "the name is the writer's");
        spare.give_name("log/a").unwrap();
        spare.prepare().unwrap();
        assert_eq!(storage.files().iter().filter(|name| name.ends_with("next.tmp")).count(), 1);
        assert!(spare.take().is_ok() && spare.give_name("log/b").is_ok());
    }
}
