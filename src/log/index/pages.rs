//! Index files are made of pages, each with a checksum of its own, so that one is checked when it is first looked at
//! and nothing is read that is not needed.
//!
//! ```text
//!    0                                                                          4092      4096
//!   ┌──────────────────────────────────────────────────────────────────────────┬─────────┐
//!   │ payload                                                                  │ crc     │
//!   └──────────────────────────────────────────────────────────────────────────┴─────────┘
//!   crc over tag u64 ‖ number of the page u32 ‖ payload; the tag is the file's own, that of page 0 is 0
//! ```

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use bytes::Bytes;
use crc32fast::Hasher;

use crate::log::layout::{disk_len, memory_len, put, u32_at};
use crate::storage::{Access, File, Storage};

pub(crate) const PAGE: usize = 4096;
/// Bytes of a page that are its user's.
pub(crate) const PAYLOAD: usize = PAGE - 4;
/// Pages are handed to the file in pieces of so many bytes.
const PIECE: usize = 256 * PAGE;

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexFault {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is derived: it is thrown away and made anew.
    #[error("page {0} does not verify")]
    Damaged(u32),
}

/// The checksum of a page.
fn page_crc(tag: u64, number: u32, payload: &[u8]) -> u32 {
    let mut place = [0; 12];
    put(&mut place, 0, &tag.to_le_bytes());
    put(&mut place, 8, &number.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&place);
    hasher.update(payload);
    hasher.finalize()
}

/// Takes pages in order, and keeps them or writes them to a file.
pub(crate) struct PageSink {
    buffer: Vec<u8>,
    /// The file, and how much of it is written.
    file: Option<(Arc<dyn File>, u64)>,
    tag: u64,
    pub(crate) pages: u32,
}

impl PageSink {
    /// Keeps the pages.
    pub(crate) fn in_memory(tag: u64) -> Self {
        PageSink { buffer: Vec::new(), file: None, tag, pages: 0 }
    }

    /// Writes the pages to a file, from its start on.
    pub(crate) fn to_file(file: Arc<dyn File>, tag: u64) -> Self {
        PageSink { buffer: Vec::with_capacity(PIECE), file: Some((file, 0)), tag, pages: 0 }
    }

    /// Adds a page with this payload, which must fit in it; the rest is zeros.
    pub(crate) fn page(&mut self, payload: &[u8]) -> io::Result<()> {
        debug_assert!(payload.len() <= PAYLOAD, "a payload fits in its page");
        let start = self.buffer.len();
        self.buffer.extend_from_slice(payload);
        self.buffer.resize(start + PAYLOAD, 0);
        let tag = if self.pages == 0 { 0 } else { self.tag };
        let crc = page_crc(tag, self.pages, self.buffer.get(start..).unwrap_or_default());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.pages = self.pages.saturating_add(1);
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some((file, written)) = &mut self.file {
            file.write_at(&self.buffer, *written)?;
            *written += disk_len(self.buffer.len());
            self.buffer.clear();
        }
        Ok(())
    }

    /// Adds bytes as pages of their own, so many on each. Returns the first page's number.
    pub(crate) fn bytes(&mut self, bytes: &[u8], per_page: usize) -> io::Result<u32> {
        let first = self.pages;
        bytes.chunks(per_page).try_for_each(|payload| self.page(payload))?;
        Ok(first)
    }

    /// The pages, when they were kept; to the file whatever is left otherwise.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush()?;
        Ok(self.buffer)
    }
}

/// Where pages are read from.
pub(crate) enum Source {
    /// A map, or what was never written to a file.
    Lent(Bytes),
    /// Each look at a page opens and reads the file: one kept open for each segment would use up all handles.
    Named { storage: Arc<dyn Storage>, name: String },
}

impl Source {
    /// A file, mapped or by its name.
    pub(crate) fn open(storage: &Arc<dyn Storage>, name: &str, map: bool) -> io::Result<Self> {
        match map {
            true => {
                let file = storage.open(name, Access::Read)?;
                Ok(Source::Lent(file.map(file.len()?)?))
            }
            false => Ok(Source::Named { storage: storage.clone(), name: name.to_owned() }),
        }
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            Source::Lent(bytes) => {
                let rest = bytes.get(memory_len(at)..).unwrap_or_default();
                Ok(rest.get(..len).unwrap_or(rest).to_vec())
            }
            Source::Named { storage, name } => {
                let mut bytes = vec![0; len];
                let read = storage.open(name, Access::Read)?.read_at(&mut bytes, at)?;
                bytes.truncate(read);
                Ok(bytes)
            }
        }
    }
}

/// The pages of an index file. Each is verified when it is first looked at.
pub(crate) struct Pages {
    source: Source,
    tag: u64,
    count: u32,
    /// A bit for each page that was found good. Only of lent pages: others may be read differently next time.
    verified: Box<[AtomicU64]>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Pages {
    /// The pages of a file whose first page was checked.
    pub(crate) fn new(source: Source, tag: u64, count: u32) -> Self {
        let words = memory_len(u64::from(count.div_ceil(64)));
        Pages { source, tag, count, verified: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Page 0, which tells about the others. `None` when it does not verify.
    pub(crate) fn first(source: &Source) -> io::Result<Option<Vec<u8>>> {
        let page = source.read(0, PAGE)?;
        Ok(check(&page, 0, 0).map(<[u8]>::to_vec))
    }

    /// How many bytes a source has.
    pub(crate) fn len(source: &Source) -> io::Result<u64> {
        match source {
            Source::Lent(bytes) => Ok(disk_len(bytes.len())),
            Source::Named { storage, name } => storage.open(name, Access::Read)?.len(),
        }
    }

    /// The payload of a page.
    pub(crate) fn page(&self, number: u32) -> Result<Cow<'_, [u8]>, IndexFault> {
        let damaged = || IndexFault::Damaged(number);
        if number >= self.count {
            return Err(damaged());
        }
        let at = u64::from(number) * disk_len(PAGE);
        match &self.source {
            Source::Lent(bytes) => {
                let at = memory_len(at);
                let page = bytes.get(at..at.saturating_add(PAGE)).ok_or_else(damaged)?;
                let (word, bit) = (memory_len(u64::from(number / 64)), 1u64 << (number % 64));
                let word = self.verified.get(word).ok_or_else(damaged)?;
                if word.load(Ordering::Relaxed) & bit == 0 {
                    check(page, self.tag, number).ok_or_else(damaged)?;
                    word.fetch_or(bit, Ordering::Relaxed);
                }
                page.get(..PAYLOAD).map(Cow::Borrowed).ok_or_else(damaged)
            }
            Source::Named { .. } => {
                let mut page = self.source.read(at, PAGE)?;
                check(&page, self.tag, number).ok_or_else(damaged)?;
                page.truncate(PAYLOAD);
                Ok(Cow::Owned(page))
            }
        }
    }

    /// Whether these bytes are at a place in a stream of bytes.
    pub(crate) fn has(&self, first: u32, at: u64, bytes: &[u8]) -> Result<bool, IndexFault> {
        let payload = disk_len(PAYLOAD);
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let page = u32::try_from(at / payload).ok().and_then(|page| first.checked_add(page));
            let page = self.page(page.ok_or(IndexFault::Damaged(u32::MAX))?)?;
            let here = page.get(memory_len(at % payload)..).unwrap_or_default();
            let (part, after) = rest.split_at_checked(here.len()).unwrap_or((rest, &[]));
            if !here.starts_with(part) {
                return Ok(false);
            }
            at += disk_len(part.len());
            rest = after;
        }
        Ok(true)
    }

    /// Bytes at a place in a stream of bytes.
    pub(crate) fn bytes(&self, first: u32, at: u64, len: usize) -> Result<Vec<u8>, IndexFault> {
        let payload = disk_len(PAYLOAD);
        let mut bytes = Vec::with_capacity(len.min(PAYLOAD));
        while bytes.len() < len {
            let at = at.saturating_add(disk_len(bytes.len()));
            let page = u32::try_from(at / payload).ok().and_then(|page| first.checked_add(page));
            let page = self.page(page.ok_or(IndexFault::Damaged(u32::MAX))?)?;
            let here = page.get(memory_len(at % payload)..).unwrap_or_default();
            bytes.extend_from_slice(here.get(..len - bytes.len()).unwrap_or(here));
        }
        Ok(bytes)
    }

    /// A number of a list of 32-bit numbers that starts with a page.
    pub(crate) fn number(&self, first: u32, at: u64) -> Result<u32, IndexFault> {
        const PER_PAGE: u64 = 1023;
        let page = u32::try_from(at / PER_PAGE).ok().and_then(|page| first.checked_add(page));
        let number = page.ok_or(IndexFault::Damaged(u32::MAX))?;
        let page = self.page(number)?;
        u32_at(&page, memory_len(at % PER_PAGE) * 4).ok_or(IndexFault::Damaged(number))
    }
}

/// The payload of a page that verifies.
pub(super) fn check(page: &[u8], tag: u64, number: u32) -> Option<&[u8]> {
    let (payload, crc) = page.split_at_checked(PAYLOAD)?;
    (page.len() == PAGE && u32_at(crc, 0) == Some(page_crc(tag, number, payload))).then_some(payload)
}

/// Makes the checksums of all pages right.
#[cfg(test)]
pub(super) fn seal_again(file: &mut [u8], tag: u64) {
    for (number, page) in (0..).zip(file.chunks_exact_mut(PAGE)) {
        let (payload, crc) = page.split_at_mut(PAYLOAD);
        crc.copy_from_slice(&page_crc(if number == 0 { 0 } else { tag }, number, payload).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Vec<u8> {
        let mut sink = PageSink::in_memory(7);
        sink.page(b"first").unwrap();
        assert_eq!(sink.bytes(&[3; 5000], PAYLOAD).unwrap(), 1);
        sink.finish().unwrap()
    }

    #[test]
    fn bytes_come_back_across_pages() {
        let bytes = pages();
        assert_eq!(bytes.len(), 3 * PAGE);
        let source = Source::Lent(bytes.into());
        assert!(Pages::first(&source).unwrap().unwrap().starts_with(b"first"));
        let pages = Pages::new(source, 7, 3);
        assert!(pages.has(1, 4000, &[3; 1000]).unwrap() && !pages.has(1, 4990, &[3; 20]).unwrap());
        assert!(matches!(pages.page(3), Err(IndexFault::Damaged(3))));
        assert!(pages.has(1, 1 << 20, &[3]).is_err() && pages.has(u32::MAX, 1 << 40, &[3]).is_err());
    }

    #[test]
    fn every_flipped_bit_is_found_and_so_is_a_page_of_another_file_or_place() {
        let good = pages();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let number = bit / 8 / PAGE;
            let source = Source::Lent(bad.into());
            match number {
                0 => assert!(Pages::first(&source).unwrap().is_none()),
                _ => assert!(Pages::new(source, 7, 3).page(u32::try_from(number).unwrap()).is_err()),
            }
        }
        assert!(Pages::new(Source::Lent(good.clone().into()), 8, 3).page(1).is_err());
        let mut swapped = good.clone();
        swapped[PAGE..].rotate_left(PAGE);
        assert!(Pages::new(Source::Lent(swapped.into()), 7, 3).page(1).is_err());
        assert!(Pages::new(Source::Lent(good[..PAGE + 9].to_vec().into()), 7, 3).page(1).is_err());
    }
}
