//! The one file that maps memory, and so the one with `unsafe`.
#![expect(unsafe_code, reason = "a memory map can only be made by an unsafe call; argued at the call")]

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps the first bytes of a file for reading.
///
/// The caller promises that these bytes are there and are never written or cut off by everfold again: those of a sealed
/// segment or an index, or those of the active segment up to its settled offset. What remains is a stranger who shortens
/// the file while it is mapped: touching the missing pages then ends the process with SIGBUS.
/// `Options::map_segments(false)` avoids it.
pub(super) fn map(file: &File, len: usize) -> io::Result<Bytes> {
    // SAFETY: the map is read-only and private to this process's reading; nothing in everfold writes to or
    // shortens the bytes that are mapped, so those behind the slice do not change while it lives. Bytes of the same
    // page beyond the slice may. `Bytes` owns the map and unmaps it with its last clone.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
    Ok(Bytes::from_owner(map))
}
