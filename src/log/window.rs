//! A file read through a buffer that lends slices, or through a map of all of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::layout::{disk_len, memory_len};
use crate::storage::File;

/// Reads ahead by so much when going through a file.
pub(crate) const SEQUENTIAL: usize = 256 << 10;
/// Reads so much around one event.
pub(crate) const RANDOM: usize = 4 << 10;

/// A window on a file. Slices lent out keep their buffer alive and are never overwritten.
#[derive(Debug)]
pub(crate) struct Window {
    file: Option<Arc<dyn File>>,
    len: u64,
    /// Up to where the file may be read ahead: what lies beyond may change.
    settled: Option<Arc<AtomicU64>>,
    ahead: usize,
    start: u64,
    buffer: Bytes,
}

impl Window {
    /// A window on the first `len` bytes of a file, reading `ahead` bytes or more at a time.
    pub(crate) fn reading(file: Arc<dyn File>, len: u64, ahead: usize) -> Self {
        Window { file: Some(file), len, settled: None, ahead, start: 0, buffer: Bytes::new() }
    }

    /// Reads ahead only up to an offset that moves on as the file is written.
    pub(crate) fn settled_up_to(mut self, settled: Arc<AtomicU64>) -> Self {
        self.settled = Some(settled);
        self
    }

    /// A window on bytes that are all there.
    pub(crate) fn mapped(bytes: Bytes) -> Self {
        Window { file: None, len: disk_len(bytes.len()), settled: None, ahead: 0, start: 0, buffer: bytes }
    }

    /// `len` bytes at an offset; `None` when the file ends before. Nothing is allocated for a length that the
    /// file does not have.
    pub(crate) fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        let Some(end) = offset.checked_add(disk_len(len)).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + disk_len(self.buffer.len()) {
            let Some(file) = &self.file else { return Ok(None) };
            let settled = self.settled.as_ref().map_or(self.len, |settled| settled.load(Ordering::Acquire));
            let ahead = self.ahead.min(memory_len(settled.min(self.len).saturating_sub(offset)));
            let wanted = len.max(ahead);
            let mut buffer = vec![0; wanted];
            let read = file.read_at(&mut buffer, offset)?;
            buffer.truncate(read);
            (self.start, self.buffer) = (offset, Bytes::from(buffer));
        }
        let at = memory_len(offset - self.start);
        Ok((at + len <= self.buffer.len()).then(|| self.buffer.slice(at..at + len)))
    }

    /// Forgets what was read, so that the next read asks the file again.
    pub(crate) fn refresh(&mut self) {
        if self.file.is_some() {
            self.buffer = Bytes::new();
        }
    }

    /// How many bytes can be read.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}
