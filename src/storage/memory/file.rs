//! An open file of a [`MemoryStorage`].

use std::fmt;
use std::io::{self, ErrorKind};

use bytes::Bytes;

use super::names::SharedContent;
use super::outage::Outage;
use super::{MemoryStorage, lock};
use crate::storage::{Access, File};

pub(super) struct MemoryFile {
    /// As it was opened, for people.
    pub(super) name: String,
    pub(super) storage: MemoryStorage,
    /// Locked after the storage's state, where both are.
    pub(super) content: SharedContent,
    pub(super) access: Access,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("name", &self.name).field("access", &self.access).finish()
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        drop(self.storage.read()?);
        u64::try_from(lock(&self.content).live().len()).map_err(io::Error::other)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        drop(self.storage.read()?);
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
            Err(failure) => bytes.get(..failure.written(bytes.len())).unwrap_or_default(),
        };
        let operation = state.faults.done();
        for (seed, part) in state.outages.due_in_write(operation, written.len()) {
            let before = lock(&self.content).clone();
            lock(&self.content).write(written.get(..part).unwrap_or_default(), offset)?;
            let left = state.crash(seed);
            state.outages.keep(Outage { operation, seed, left });
            // A page is not written out while bytes are copied to it: so this part is nothing that life goes on with.
            *lock(&self.content) = before;
        }
        lock(&self.content).write(written, offset)?;
        Ok(failed?)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.storage.state();
        let failed = state.faults.count();
        state.lose_power();
        let mut content = lock(&self.content);
        match failed {
            Ok(()) => content.sync(),
            Err(_) => content.fail_sync(),
        }
        Ok(failed?)
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        drop(self.storage.read()?);
        let content = lock(&self.content);
        let bytes = usize::try_from(len).ok().and_then(|len| content.live().get(..len));
        bytes.map(Bytes::copy_from_slice).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}
