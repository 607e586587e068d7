//! A file that is written at increasing offsets, and read through a map.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use crate::peer::Outcome;

/// A file to be written from its start on.
#[derive(Debug)]
pub(crate) struct RawFile {
    file: File,
    end: AtomicU64,
}

impl RawFile {
    /// A file of this many zero bytes, written and synced: writing into it changes no metadata.
    pub(super) fn zero_filled(path: &Path, bytes: u64) -> Outcome<Self> {
        let file = File::options().create_new(true).read(true).write(true).open(path)?;
        let zeros = vec![0; 1 << 20];
        for piece in 0..bytes.div_ceil(1 << 20) {
            file.write_all_at(&zeros, piece << 20)?;
        }
        file.sync_all()?;
        Ok(RawFile { file, end: AtomicU64::new(0) })
    }

    /// An empty file, which grows as it is written.
    pub(super) fn growing(path: &Path) -> Outcome<Self> {
        let file = File::options().create_new(true).read(true).write(true).open(path)?;
        Ok(RawFile { file, end: AtomicU64::new(0) })
    }

    /// One write behind the last one. The caller sees to it that there is one writer.
    pub(super) fn write(&self, bytes: &[u8]) -> Outcome<()> {
        let end = self.end.load(Ordering::Relaxed);
        self.file.write_all_at(bytes, end)?;
        self.end.store(end + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for the disk.
    pub(super) fn sync(&self) -> Outcome<()> {
        self.file.sync_data()?;
        Ok(())
    }

    /// Gives every record written so far, after checking its checksum in a map of the file.
    pub(super) fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        #[expect(unsafe_code, reason = "the limit for a scan is a mapped read")]
        // SAFETY: the file is this process's own, and is neither shortened nor written to while the map is there.
        let map = unsafe { Mmap::map(&self.file)? };
        let end = usize::try_from(self.end.load(Ordering::Relaxed))?;
        records_in(map.get(..end).ok_or("the file is shorter than what was written")?, each)
    }
}

/// Gives every record of these bytes, after checking its checksum.
fn records_in(mut bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (record, next) = bytes.split_at_checked(length).ok_or("a record that is cut short")?;
        let (checksum, summed) = rest.split_first_chunk::<4>().ok_or("a record that is cut short")?;
        let summed = summed.get(..length.saturating_sub(8)).ok_or("a record that is too short")?;
        if crc32fast::hash(summed) != u32::from_le_bytes(*checksum) {
            return Err("a record with a wrong checksum".into());
        }
        each(record);
        bytes = next;
    }
    Ok(())
}
