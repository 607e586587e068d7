//! The bytes of one file: what its readers see, and what the disk is sure to hold.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use super::chance::{Chance, UNITS};

const SECTOR: usize = UNITS[0];

/// The live bytes, and for each sector that a loss of power may undo, those it had before.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Shared with the storages made by a crash until one of them writes.
    live: Arc<Vec<u8>>,
    /// Whether the disk knows how long the file is.
    sized: bool,
    /// Counts the writes.
    writes: u64,
    unsynced: BTreeMap<usize, Unsynced>,
}

/// A sector with writes that are not durable.
#[derive(Clone, Debug)]
struct Unsynced {
    /// The durable bytes first.
    past: Vec<Past>,
    /// A sync failed with this sector in it. The system believes the sector clean now: the next sync skips it,
    /// and only writing the bytes again puts them on the disk.
    doubtful: bool,
}

/// What a sector held, and the write that replaced it.
#[derive(Clone, Debug)]
struct Past {
    bytes: Vec<u8>,
    until: u64,
}

impl Unsynced {
    /// The bytes after the writes up to this one; `None` when those are the live ones.
    fn after(&self, write: u64) -> Option<&[u8]> {
        self.past.iter().find(|past| past.until > write).map(|past| past.bytes.as_slice())
    }
}

impl Content {
    /// Zeros, of which a disk is sure: a block that was never written reads as zeros.
    pub(super) fn new(len: u64) -> io::Result<Self> {
        let len = size(len)?;
        // The trial is dropped: zeros asked for as such cost nothing until they are touched.
        Vec::<u8>::new().try_reserve_exact(len).map_err(|_| io::Error::from(ErrorKind::StorageFull))?;
        Ok(Content { live: Arc::new(vec![0; len]), ..Content::default() })
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    /// The bytes from an offset on.
    pub(super) fn from(&self, offset: u64) -> &[u8] {
        usize::try_from(offset).ok().and_then(|offset| self.live.get(offset..)).unwrap_or_default()
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let range = self.range(offset, bytes.len())?;
        self.writes += 1;
        for sector in sectors(&range) {
            let live = self.live.get(span(sector, self.live.len())).unwrap_or_default();
            let unsynced = self.unsynced.entry(sector);
            let unsynced = unsynced.or_insert_with(|| Unsynced { past: Vec::new(), doubtful: false });
            unsynced.past.push(Past { bytes: live.to_vec(), until: self.writes });
            unsynced.doubtful = false;
        }
        put(Arc::make_mut(&mut self.live).as_mut_slice(), range.start, bytes);
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        self.sized = true;
        self.unsynced.retain(|_, unsynced| unsynced.doubtful);
    }

    pub(super) fn fail_sync(&mut self) {
        for unsynced in self.unsynced.values_mut() {
            unsynced.doubtful = true;
        }
    }

    /// What a loss of power leaves.
    pub(super) fn crash(&self, chance: &mut Chance) -> Self {
        let mut left = Content { live: Arc::clone(&self.live), sized: true, ..Content::default() };
        let per_unit = (chance.unit() / SECTOR).max(1);
        let mut rest = self.unsynced.iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let unit = **first / per_unit;
            let mut own = Vec::new();
            while let Some(sector) = rest.next_if(|(sector, _)| **sector / per_unit == unit) {
                own.push(sector);
            }
            left.undo(&own, chance);
        }
        if !self.sized {
            let pages = disk_len(self.live.len().div_ceil(PAGE));
            let kept = size(chance.stage(pages)).unwrap_or(0).saturating_mul(PAGE);
            if kept < self.live.len() {
                Arc::make_mut(&mut left.live).truncate(kept);
            }
        }
        left
    }

    /// Puts the sectors of a unit back to what they were after some of the writes to it.
    fn undo(&mut self, unit: &[(&usize, &Unsynced)], chance: &mut Chance) {
        let mut writes: Vec<u64> =
            unit.iter().flat_map(|(_, unsynced)| &unsynced.past).map(|past| past.until).collect();
        writes.sort_unstable();
        writes.dedup();
        let stage = chance.stage(disk_len(writes.len()));
        let last = size(stage).ok().and_then(|stage| writes.get(stage.checked_sub(1)?)).copied();
        for (sector, unsynced) in unit {
            if let Some(bytes) = unsynced.after(last.unwrap_or(0)) {
                put(Arc::make_mut(&mut self.live).as_mut_slice(), sector.saturating_mul(SECTOR), bytes);
            }
        }
    }

    /// Changes bytes in all images.
    pub(super) fn damage(
        &mut self,
        offset: u64,
        len: usize,
        mut change: impl FnMut(usize, &mut u8),
    ) -> io::Result<()> {
        let range = self.range(offset, len)?;
        for (n, byte) in Arc::make_mut(&mut self.live).iter_mut().skip(range.start).take(len).enumerate() {
            change(n, byte);
        }
        for (sector, unsynced) in &mut self.unsynced {
            for past in &mut unsynced.past {
                for (at, byte) in (sector.saturating_mul(SECTOR)..).zip(&mut past.bytes) {
                    if range.contains(&at) {
                        change(at - range.start, byte);
                    }
                }
            }
        }
        Ok(())
    }

    /// Cuts off the end of all images, or adds zeros to them.
    pub(super) fn resize(&mut self, len: u64) -> io::Result<()> {
        let len = size(len)?;
        Arc::make_mut(&mut self.live).resize(len, 0);
        self.unsynced.retain(|sector, _| sector.saturating_mul(SECTOR) < len);
        for (sector, unsynced) in &mut self.unsynced {
            unsynced.past.iter_mut().for_each(|past| past.bytes.resize(span(*sector, len).len(), 0));
        }
        Ok(())
    }

    fn range(&self, offset: u64, len: usize) -> io::Result<Range<usize>> {
        let range = size(offset).ok().and_then(|start| Some(start..start.checked_add(len)?));
        range
            .filter(|range| range.end <= self.live.len())
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "beyond the end of the file"))
    }
}

/// What space is given to a file by.
const PAGE: usize = UNITS[1];

fn disk_len(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn size(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge.into())
}

fn put(image: &mut [u8], start: usize, bytes: &[u8]) {
    let range = start..start.saturating_add(bytes.len());
    if let Some(place) = image.get_mut(range) {
        place.copy_from_slice(bytes);
    }
}

/// The sectors that a range of bytes touches.
fn sectors(range: &Range<usize>) -> Range<usize> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / SECTOR..range.end.div_ceil(SECTOR),
    }
}

/// The bytes of a sector in a file of `len` bytes.
fn span(sector: usize, len: usize) -> Range<usize> {
    let start = sector.saturating_mul(SECTOR).min(len);
    start..start.saturating_add(SECTOR).min(len)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn left(content: &Content, seed: u64) -> Vec<u8> {
        content.crash(&mut Chance::new(seed)).live().to_vec()
    }

    /// Of these bytes of what each of many seeds leaves, all that come up.
    fn all_left<const N: usize>(content: &Content, bytes: [usize; N]) -> BTreeSet<[u8; N]> {
        (1..2000)
            .map(|seed| {
                let left = left(content, seed);
                bytes.map(|at| left[at])
            })
            .collect()
    }

    #[test]
    fn a_disk_of_large_sectors_loses_them_whole() {
        let mut content = Content::new(8192).unwrap();
        content.sync();
        content.write(&[2; 8192], 0).unwrap();
        let wholes = (1..300).filter(|seed| Chance::new(*seed).unit() == 4096);
        let seen: BTreeSet<_> = wholes
            .map(|seed| {
                let left = left(&content, seed);
                assert!(left[..4096].iter().all(|byte| *byte == left[0]));
                assert!(left[4096..].iter().all(|byte| *byte == left[4096]));
                (left[0], left[4096])
            })
            .collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_sector_may_hold_what_an_earlier_write_put_there() {
        let mut content = Content::new(1024).unwrap();
        content.sync();
        for byte in 1..=3 {
            content.write(&[byte; 10], 507).unwrap();
        }
        let seen = all_left(&content, [507, 512]);
        assert_eq!(seen.len(), 16, "each of two sectors, after none to three writes: {seen:?}");
    }

    #[test]
    fn the_size_of_a_file_that_was_never_synced_may_be_lost() {
        let mut content = Content::new(10_000).unwrap();
        let sizes = |content: &Content| -> BTreeSet<usize> {
            (0..500).map(|seed| left(content, seed).len()).collect()
        };
        assert_eq!(sizes(&content), BTreeSet::from([0, 4096, 8192, 10_000]));
        content.sync();
        assert_eq!(sizes(&content), BTreeSet::from([10_000]));
    }

    #[test]
    fn each_unsynced_sector_survives_or_not_by_itself() {
        let mut content = Content::new(1200).unwrap();
        content.write(&[1; 1200], 0).unwrap();
        content.sync();
        content.write(&[2; 700], 500).unwrap();
        let mut seen = BTreeSet::new();
        for seed in 1..500 {
            let left = left(&content, seed);
            assert!(left[..500].iter().all(|byte| *byte == 1));
            for sector in [500..512, 512..1024, 1024..1200] {
                assert!(left[sector.clone()].iter().all(|byte| *byte == left[sector.start]));
            }
            seen.insert((left[500], left[512], left[1024]));
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn a_second_write_to_a_sector_keeps_the_durable_bytes_of_the_first() {
        let mut content = Content::new(4).unwrap();
        content.sync();
        content.write(b"ab", 0).unwrap();
        content.write(b"cd", 1).unwrap();
        assert_eq!(content.live(), b"acd\0");
        assert_eq!(left(&content, 0), b"\0\0\0\0");
        content.sync();
        assert_eq!(left(&content, 0), b"acd\0");
    }

    #[test]
    fn a_failed_sync_loses_the_bytes_and_a_second_sync_does_not_cure_it() {
        let mut content = Content::new(600).unwrap();
        content.sync();
        content.write(b"ab", 511).unwrap();
        content.fail_sync();
        content.sync();
        assert_eq!(content.live()[511..513], *b"ab");
        assert_eq!(left(&content, 0), vec![0; 600]);
        content.write(b"a", 511).unwrap();
        content.sync();
        assert_eq!(left(&content, 0)[511..513], *b"a\0", "only the sector that was written again is cured");
        content.write(b"b", 512).unwrap();
        content.sync();
        assert_eq!(left(&content, 0)[511..513], *b"ab");
    }

    #[test]
    fn damage_reaches_the_live_and_the_durable_image() {
        let mut content = Content::new(1000).unwrap();
        content.sync();
        content.write(b"abcd", 510).unwrap();
        content.damage(511, 2, |n, byte| *byte = b"XY"[n]).unwrap();
        assert_eq!(content.live()[510..514], *b"aXYd");
        assert_eq!(left(&content, 0)[510..514], *b"\0XY\0");
        assert!(content.damage(999, 2, |_, _| ()).is_err());
    }

    #[test]
    fn resizing_reaches_the_live_and_the_durable_image() {
        let mut content = Content::new(1000).unwrap();
        content.sync();
        content.write(b"abcd", 510).unwrap();
        content.resize(511).unwrap();
        assert_eq!((content.live().len(), left(&content, 0).len()), (511, 511));
        content.resize(1000).unwrap();
        assert_eq!(content.live()[510..514], *b"a\0\0\0");
        assert_eq!(left(&content, 0), vec![0; 1000]);
    }
}
