//! A file read through a buffer that lends slices, or through a map of all of it or of its start.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

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
    /// How much of the buffer was read.
    filled: usize,
    /// The start of the file, as far as it is mapped.
    prefix: Bytes,
}

impl Window {
    /// A window on the first `len` bytes of a file, reading `ahead` bytes or more at a time.
    pub(crate) fn reading(file: Arc<dyn File>, len: u64, ahead: usize) -> Self {
        let (buffer, prefix) = (Bytes::new(), Bytes::new());
        Window { file: Some(file), len, settled: None, ahead, start: 0, buffer, filled: 0, prefix }
    }

    /// Lends what lies in the start of the file from a map of that.
    pub(crate) fn with_prefix(mut self, prefix: Bytes) -> Self {
        self.prefix = counted_apart(prefix);
        self
    }

    /// Reads ahead only up to an offset that moves on as the file is written.
    pub(crate) fn settled_up_to(mut self, settled: Arc<AtomicU64>) -> Self {
        self.settled = Some(settled);
        self
    }

    /// A window on bytes that are all there.
    pub(crate) fn mapped(bytes: Bytes) -> Self {
        let filled = bytes.len();
        let len = disk_len(filled);
        let prefix = Bytes::new();
        Window {
            file: None,
            len,
            settled: None,
            ahead: 0,
            start: 0,
            buffer: counted_apart(bytes),
            filled,
            prefix,
        }
    }

    /// Whether the same bytes are there for as long as anybody has them.
    pub(crate) fn is_mapped(&self) -> bool {
        self.file.is_none()
    }

    /// `len` bytes at an offset; `None` when the file ends before. Nothing is allocated for a length that the
    /// file does not have.
    pub(crate) fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        Ok(self.find(offset, len)?.map(|(buffer, at)| buffer.slice(at..at + len)))
    }

    /// The same as a buffer and where in it the bytes start; it may go on after them, with bytes of no meaning.
    #[inline]
    pub(crate) fn find(&mut self, offset: u64, len: usize) -> io::Result<Option<(&Bytes, usize)>> {
        let Some(end) = offset.checked_add(disk_len(len)).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if end <= disk_len(self.prefix.len()) {
            return Ok(Some((&self.prefix, memory_len(offset))));
        }
        if offset < self.start || end > self.start + disk_len(self.filled) {
            self.fill(offset, len)?;
        }
        let at = memory_len(offset - self.start);
        Ok((at.saturating_add(len) <= self.filled).then_some((&self.buffer, at)))
    }

    /// Reads at least `len` bytes at an offset into the buffer, or into a new one if somebody was lent a slice.
    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let settled = self.settled.as_ref().map_or(self.len, |settled| settled.load(Ordering::Acquire));
        let ahead = self.ahead.min(memory_len(settled.min(self.len).saturating_sub(offset)));
        let wanted = len.max(ahead);
        let from = offset.checked_sub(self.start).map_or(usize::MAX, memory_len).min(self.filled);
        let kept = from..self.filled.min(from.saturating_add(wanted));
        // No more memory than the file has bytes.
        let len = wanted.max(self.ahead.min(memory_len(self.len.saturating_sub(offset))));
        let rest = kept.len();
        let mut buffer = match std::mem::take(&mut self.buffer).try_into_mut() {
            Ok(mut own) if own.len() <= 4 * len => {
                own.copy_within(kept, 0);
                own
            }
            Ok(large) => starting_with(large.get(kept), len),
            Err(lent) => starting_with(lent.get(kept), len),
        };
        (self.start, self.filled) = (offset, 0);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let unread = buffer.get_mut(rest..wanted).unwrap_or_default();
        self.filled = rest + file.read_at(unread, offset + disk_len(rest))?;
        self.buffer = buffer.freeze();
        Ok(())
    }

    /// Forgets what was read, so that the next read asks the file again.
    pub(crate) fn refresh(&mut self) {
        if self.file.is_some() {
            (self.buffer, self.filled) = (Bytes::new(), 0);
        }
    }

    /// How many bytes can be read.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

/// The same bytes, with a count of their own of the slices that are lent: to count each at one place for all readers, threads
/// would wait for each other.
fn counted_apart(bytes: Bytes) -> Bytes {
    if bytes.is_empty() { bytes } else { Bytes::from_owner(bytes) }
}

fn starting_with(bytes: Option<&[u8]>, len: usize) -> BytesMut {
    let mut buffer = BytesMut::zeroed(len);
    buffer.iter_mut().zip(bytes.unwrap_or_default()).for_each(|(to, from)| *to = *from);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 1000;

    #[derive(Debug)]
    struct Content(Vec<u8>);

    impl File for Content {
        fn len(&self) -> io::Result<u64> {
            Ok(disk_len(self.0.len()))
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = &self.0[memory_len(offset)..];
            let read = rest.len().min(buf.len());
            buf[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn map(&self, len: u64) -> io::Result<Bytes> {
            Ok(Bytes::copy_from_slice(&self.0[..memory_len(len)]))
        }
    }

    fn file() -> (Arc<dyn File>, Vec<u8>) {
        let content: Vec<u8> = (0..LEN).map(|n| u8::try_from(n % 251).unwrap()).collect();
        (Arc::new(Content(content.clone())), content)
    }

    #[test]
    fn every_range_is_read_as_it_is_wherever_the_window_was_before() {
        let (file, content) = file();
        for (keep_slices, mapped) in [(false, 0), (true, 0), (true, 400)] {
            let prefix = file.map(mapped).unwrap();
            let mut window = Window::reading(file.clone(), disk_len(LEN), 64).with_prefix(prefix);
            let mut kept = Vec::new();
            for n in 0..5000usize {
                let (at, len) = (n * 37 % LEN, n * 7 % 150);
                let slice = window.get(disk_len(at), len).unwrap();
                assert_eq!(slice.as_deref(), content.get(at..at + len), "{at} {len}");
                kept.extend(slice.filter(|_| keep_slices).map(|slice| (at, slice)));
            }
            assert!(kept.iter().all(|(at, slice)| content[*at..].starts_with(slice)));
        }
    }

    #[test]
    fn going_on_uses_the_same_buffer_again_when_nobody_was_lent_a_part_of_it() {
        let (file, _) = file();
        let mut window = Window::reading(file, disk_len(LEN), 64);
        let mut start_of_buffer = |at: u64| {
            let (buffer, _) = window.find(at, 40).unwrap().unwrap();
            (buffer.as_ptr(), buffer.clone())
        };
        let (first, lent) = start_of_buffer(0);
        assert_ne!(start_of_buffer(100).0, first);
        drop(lent);
        let (second, _) = start_of_buffer(200);
        assert_eq!(start_of_buffer(300).0, second);
    }
}
