//! Syncs of the active segment, one at a time, by whoever holds the writer and by the keeper, who does not.
//!
//! The system tells of a write that failed once, to the next sync of the file, and then of success. So a sync that fails
//! is remembered here, and none succeeds after it: not even one that was waiting meanwhile.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::segment::Segment;
use crate::event::Position;
use crate::storage::File;

#[derive(Debug, Default)]
pub(crate) struct Syncs {
    /// How the first sync that failed did.
    failed: Mutex<Option<(io::ErrorKind, String)>>,
}

impl Syncs {
    /// Makes what was written durable, unless that failed before.
    pub(crate) fn sync(&self, file: &dyn File) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kind, why)) = &*failed {
            return Err(io::Error::new(*kind, why.clone()));
        }
        let result = file.sync();
        if let Err(e) = &result {
            *failed = Some((e.kind(), e.to_string()));
        }
        result
    }
}

/// A sync of what is written, for somebody who does not keep the writer meanwhile.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) syncs: Arc<Syncs>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) segment: Arc<Segment>,
    /// What it makes durable: the frames before this offset, the events up to this position.
    pub(crate) to: u64,
    pub(crate) last: Position,
}

impl Pending {
    pub(crate) fn run(&self) -> io::Result<()> {
        self.syncs.sync(self.file.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage as _;
    use crate::storage::memory::{Fault, MemoryStorage};

    #[test]
    fn after_a_sync_that_failed_none_succeeds() {
        let storage = MemoryStorage::new();
        let file = storage.create("a", 8).unwrap();
        let syncs = Syncs::default();
        syncs.sync(file.as_ref()).unwrap();
        storage.fail_at(storage.operations() + 1, Fault::once(io::ErrorKind::Other));
        assert!(syncs.sync(file.as_ref()).is_err());
        file.sync().unwrap();
        assert!(syncs.sync(file.as_ref()).is_err());
    }
}
