//! The one file that maps memory, and so the one with `unsafe`.
#![expect(unsafe_code, reason = "a memory map can only be made by an unsafe call; argued at the call")]

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps a whole file for reading.
///
/// The caller promises that the file is a sealed segment: fsynced, of its final size, and never written or
/// shortened by everfold again, only unlinked. What remains is a stranger who shortens the file while it is
/// mapped: touching the missing pages then ends the process with SIGBUS. `Options::map_segments(false)` avoids it.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the map is read-only and private to this process's reading; nothing in everfold writes to or
    // shortens a sealed segment, so the bytes behind the slice do not change while it lives. `Bytes` owns the
    // map and unmaps it with its last clone.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
