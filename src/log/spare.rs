//! The file of the next segment, made before it is needed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::segment::LOG_FOLDER;
use crate::storage::{File, Storage};

/// Its name until it has a first position. It never holds a frame; opening the store for writing removes it.
const SPARE_NAME: &str = "log/next.tmp";

/// A file of zeros whose space is allocated.
#[derive(Debug)]
pub(crate) struct Spare {
    storage: Arc<dyn Storage>,
    size: u64,
    file: Mutex<Option<Arc<dyn File>>>,
}

impl Spare {
    pub(crate) fn new(storage: Arc<dyn Storage>, size: u64) -> Self {
        Spare { storage, size, file: Mutex::default() }
    }

    /// Makes the file, unless it is there.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.create()?);
        }
        Ok(())
    }

    /// The file under its own name, for [`give_name`](Self::give_name); made now if it was not.
    pub(crate) fn take(&self) -> io::Result<Arc<dyn File>> {
        let prepared = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        prepared.map_or_else(|| self.create(), Ok)
    }

    /// Gives the file that was taken a segment's name, durably.
    pub(crate) fn give_name(&self, name: &str) -> io::Result<()> {
        self.storage.rename(SPARE_NAME, name)?;
        self.storage.sync_folder(LOG_FOLDER)
    }

    /// Removes what a crash may have left.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match self.storage.remove(SPARE_NAME) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn create(&self) -> io::Result<Arc<dyn File>> {
        self.clear()?;
        self.storage.create(SPARE_NAME, self.size)
    }
}
