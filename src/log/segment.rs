//! A segment as readers see it: its header, its index, and a window on its bytes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::index::memory::MemoryIndex;
use super::index::{Sealed, SegmentIndex};
use super::layout::disk_len;
use super::segment_header::{SEGMENT_HEADER, SegmentHeader};
use super::window::Window;
use crate::error::Error;
use crate::event::Position;
use crate::storage::{Access, File, Storage};

/// The folder of the segments.
pub(crate) const LOG_FOLDER: &str = "log";

/// The map of the active segment's start is made anew when at least so many bytes more are settled.
const MAP_MORE: u64 = 256 << 10;

/// The name of the index of the segment that starts with a position.
pub(crate) fn index_name(first: Position) -> String {
    format!("{LOG_FOLDER}/{:020}.idx", first.get())
}

/// The name of the segment that starts with a position.
pub(crate) fn segment_name(first: Position) -> String {
    format!("{LOG_FOLDER}/{:020}.seg", first.get())
}

/// The name of what keeps the versions of streams that had events before the log's start.
pub(crate) fn base_name(log_start: Position) -> String {
    format!("{LOG_FOLDER}/{:020}.base", log_start.get())
}

/// The first position of a segment, from its name in the log folder; `None` for other files.
pub(crate) fn segment_first(name: &str) -> Option<Position> {
    position_in(name, ".seg")
}

/// The position that a file of the log folder is named by, if its name ends with this.
pub(crate) fn position_in(name: &str, suffix: &str) -> Option<Position> {
    let digits = name.strip_suffix(suffix)?;
    let number =
        digits.parse().ok().filter(|_| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some(Position::new(number))
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) name: String,
    /// What is where in it. None in a sealed segment until it is asked for.
    index: RwLock<Option<Arc<SegmentIndex>>>,
    /// Held by the one who makes the index.
    pub(crate) making_index: Mutex<()>,
    /// A page of the index's file did not verify.
    distrusted: AtomicBool,
    /// The index was made by reading the segment, since there was no file of it that verified.
    read_for_index: AtomicBool,
    /// Once the segment is sealed.
    sealed: OnceLock<Sealed>,
    /// Where the durable frames end: what lies beyond may change.
    settled: Arc<AtomicU64>,
    /// The writer's handle, while the segment is active. One kept for each sealed segment would use them all up.
    active: RwLock<Option<Arc<dyn File>>>,
    map: OnceLock<Bytes>,
    /// While the segment is active: of its start.
    settled_map: Mutex<Bytes>,
    /// Every frame before this offset was read from the map, and each of its checksums matched.
    verified: AtomicU64,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader) -> Self {
        Segment {
            header,
            name: segment_name(header.first),
            index: RwLock::default(),
            making_index: Mutex::default(),
            distrusted: AtomicBool::new(false),
            read_for_index: AtomicBool::new(false),
            sealed: OnceLock::new(),
            settled: Arc::default(),
            active: RwLock::default(),
            map: OnceLock::new(),
            settled_map: Mutex::default(),
            verified: AtomicU64::new(disk_len(SEGMENT_HEADER)),
        }
    }

    /// The active segment: with the file that the writer has open, and an index to be filled.
    pub(crate) fn active(header: SegmentHeader, file: Arc<dyn File>) -> Self {
        let index = SegmentIndex::Memory(RwLock::new(MemoryIndex::new(header.first)));
        Segment {
            active: RwLock::new(Some(file)),
            index: RwLock::new(Some(Arc::new(index))),
            ..Self::new(header)
        }
    }

    /// The index, if it is at hand.
    pub(crate) fn index(&self) -> Option<Arc<SegmentIndex>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the index in place of the one there was.
    pub(crate) fn set_index(&self, index: Arc<SegmentIndex>) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Some(index);
    }

    /// An index's file cannot be used: the index is to be made anew from the segment, unless that was done meanwhile. One
    /// in memory is all there can be.
    pub(crate) fn distrust_index(&self, bad: &Arc<SegmentIndex>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if bad.memory().is_none() && index.as_ref().is_some_and(|index| Arc::ptr_eq(index, bad)) {
            self.distrusted.store(true, Ordering::Release);
            *index = None;
        }
    }

    /// Whether the index's file did not verify.
    pub(crate) fn distrusts_index(&self) -> bool {
        self.distrusted.load(Ordering::Acquire)
    }

    /// The segment was read to make its index.
    pub(crate) fn note_read_for_index(&self) {
        self.read_for_index.store(true, Ordering::Release);
    }

    /// Whether the segment was read to make its index, since the store was opened.
    pub(crate) fn was_read_for_index(&self) -> bool {
        self.read_for_index.load(Ordering::Acquire)
    }

    /// The number of an event in the segment.
    pub(crate) fn number(&self, position: Position) -> u32 {
        u32::try_from(position.get().saturating_sub(self.header.first.get())).unwrap_or(u32::MAX)
    }

    /// The position of an event of the segment.
    pub(crate) fn position(&self, number: u32) -> Position {
        self.header.first.plus(number.into())
    }

    /// Frames up to this offset are durable. Called before the watermark says so.
    pub(crate) fn settle(&self, end: u64) {
        self.settled.store(end, Ordering::Release);
    }

    /// Where the durable frames end.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// No more frames will come.
    pub(crate) fn seal(&self, sealed: Sealed) {
        self.settle(sealed.len);
        let _first = self.sealed.set(sealed);
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.settled_map.lock().unwrap_or_else(PoisonError::into_inner) = Bytes::new();
    }

    /// How it was sealed, if it was.
    pub(crate) fn sealed(&self) -> Option<Sealed> {
        self.sealed.get().copied()
    }

    /// Whether what lies before an offset in the map was verified since the store was opened.
    pub(crate) fn is_verified(&self, up_to: u64) -> bool {
        up_to <= self.verified.load(Ordering::Acquire)
    }

    /// Takes note of bytes in the map that verify, if everything before them does: one offset is all that is kept.
    pub(crate) fn note_verified(&self, from: u64, to: u64) {
        if self.is_verified(from) && !self.is_verified(to) {
            // A slower reader may put a lower offset over a higher one, which is as true.
            self.verified.store(to, Ordering::Release);
        }
    }

    /// The segment's file: the writer's handle, or one of the caller's own.
    pub(crate) fn file(&self, storage: &dyn Storage) -> Result<Arc<dyn File>, Error> {
        if let Some(file) = &*self.active.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(file.clone());
        }
        storage.open(&self.name, Access::Read).map_err(|e| self.fault("open", e))
    }

    /// A window on the segment: over a map when it is sealed and maps are wanted, else reading `ahead` at a time.
    pub(crate) fn window(&self, storage: &dyn Storage, map: bool, ahead: usize) -> Result<Window, Error> {
        if let Some(bytes) = self.map.get() {
            return Ok(Window::mapped(bytes.clone()));
        }
        let file = self.file(storage)?;
        // A file that lost its end must not be mapped: touching what is missing would end the process.
        let is_whole =
            || Ok(file.len().map_err(|e| self.fault("read the size of", e))? == self.header.segment_size);
        if map && self.sealed().is_some() && is_whole()? {
            let bytes = file.map(self.header.segment_size).map_err(|e| self.fault("map", e))?;
            return Ok(Window::mapped(self.map.get_or_init(|| bytes).clone()));
        }
        let prefix = if map { self.settled_map(file.as_ref(), is_whole)? } else { Bytes::new() };
        let window = Window::reading(file, self.header.segment_size, ahead);
        Ok(window.settled_up_to(self.settled.clone()).with_prefix(prefix))
    }

    /// A map of most of what is settled: it is made anew only when there is much more.
    fn settled_map(
        &self,
        file: &dyn File,
        is_whole: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<Bytes, Error> {
        let mut mapped = self.settled_map.lock().unwrap_or_else(PoisonError::into_inner);
        let (settled, len) = (self.settled.load(Ordering::Acquire), disk_len(mapped.len()));
        if settled >= len.saturating_add((len / 8).max(MAP_MORE)) && is_whole()? {
            *mapped = file.map(settled).map_err(|e| self.fault("map", e))?;
        }
        Ok(mapped.clone())
    }

    pub(crate) fn fault(&self, doing: &str, error: io::Error) -> Error {
        Error::io(format_args!("{doing} {}", self.name), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_segments_are_read_as_such() {
        assert_eq!(segment_first("00000000000000000017.seg"), Some(Position::new(17)));
        assert_eq!(segment_name(Position::new(17)), "log/00000000000000000017.seg");
        for name in
            ["17.seg", "00000000000000000017.idx", "0000000000000000001x.seg", "+0000000000000000017.seg", ""]
        {
            assert_eq!(segment_first(name), None, "{name}");
        }
    }
}
