//! The file of the next segment, made before it is needed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layout::memory_len;
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
    /// The writer waits for the file: there is no time to write zeros to it.
    hurry: AtomicBool,
}

/// So many zeros are written and synced at a time.
const STEP: u64 = 2 << 20;

/// A file for the writer.
#[derive(Clone, Debug)]
pub(crate) struct Blank {
    pub(crate) file: Arc<dyn File>,
    /// Zeros were written to it up to here: see [`ahead`](super::ahead).
    pub(crate) zeroed: u64,
}

#[derive(Debug, Default)]
struct Slot {
    blank: Option<Blank>,
    /// The file under the spare's name is the writer's, until it has its own.
    taken: bool,
}

impl Spare {
    pub(crate) fn new(storage: Arc<dyn Storage>, size: u64) -> Self {
        Spare { storage, size, slot: Mutex::default(), hurry: AtomicBool::new(false) }
    }

    /// Makes the file, unless it is there, or the name is in use. Zeros are written to it where that pays, as far as
    /// there is time and no error.
    pub(crate) fn prepare(&self, zeros_pay: bool) -> io::Result<()> {
        let mut slot = self.slot();
        if slot.blank.is_none() && !slot.taken {
            let mut blank = self.create()?;
            if zeros_pay && let Err(error) = self.write_zeros(&mut blank) {
                tracing::debug!(%error, "could not write zeros to the next segment");
            }
            slot.blank = Some(blank);
        }
        Ok(())
    }

    /// The file under its own name, for [`give_name`](Self::give_name); made now if it was not.
    pub(crate) fn take(&self) -> io::Result<Blank> {
        self.hurry.store(true, Ordering::Release);
        let mut slot = self.slot();
        self.hurry.store(false, Ordering::Release);
        let blank = slot.blank.take().map_or_else(|| self.create(), Ok)?;
        slot.taken = true;
        Ok(blank)
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

    fn create(&self) -> io::Result<Blank> {
        self.clear()?;
        Ok(Blank { file: self.storage.create(SPARE_NAME, self.size)?, zeroed: 0 })
    }

    fn write_zeros(&self, blank: &mut Blank) -> io::Result<()> {
        while blank.zeroed < self.size && !self.hurry.load(Ordering::Acquire) {
            let end = self.size.min(blank.zeroed + STEP);
            blank.file.write_at(&vec![0; memory_len(end - blank.zeroed)], blank.zeroed)?;
            blank.file.sync()?;
            blank.zeroed = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::{Fault, MemoryStorage};

    #[test]
    fn a_file_that_the_writer_has_taken_is_not_replaced_by_one_made_ahead() {
        let storage = MemoryStorage::new();
        storage.create_folder(LOG_FOLDER).unwrap();
        let spare = Spare::new(Arc::new(storage.clone()), 16);
        let _taken = spare.take().unwrap();
        let done = storage.operations();
        spare.prepare(false).unwrap();
        assert_eq!(storage.operations(), done, "the name is the writer's");
        spare.give_name("log/a").unwrap();
        spare.prepare(false).unwrap();
        assert_eq!(storage.files().iter().filter(|name| name.ends_with("next.tmp")).count(), 1);
        assert!(spare.take().is_ok() && spare.give_name("log/b").is_ok());
    }

    #[test]
    fn a_file_made_ahead_is_filled_with_zeros_where_that_pays_and_is_good_without() {
        let storage = MemoryStorage::new();
        storage.create_folder(LOG_FOLDER).unwrap();
        let spare = Spare::new(Arc::new(storage.clone()), 2 * STEP);
        spare.prepare(true).unwrap();
        assert_eq!(spare.take().unwrap().zeroed, 2 * STEP);
        spare.give_name("log/a").unwrap();
        // Clear the way and create, write and sync, then the second write.
        storage.fail_at(storage.operations() + 5, Fault::once(io::ErrorKind::StorageFull));
        spare.prepare(true).unwrap();
        assert_eq!(spare.take().unwrap().zeroed, STEP);
    }
}
