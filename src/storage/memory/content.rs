//! The bytes of one file: what its readers see, and what the disk is sure to hold.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use super::chance::Chance;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The live bytes, and for each sector that a loss of power may undo, the durable bytes under it.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Shared with the storages made by a crash until one of them writes.
    live: Arc<Vec<u8>>,
    unsynced: BTreeMap<usize, Unsynced>,
}

#[derive(Clone, Debug)]
struct Unsynced {
    durable: Vec<u8>,
    /// A sync failed with this sector in it. The system believes the sector clean now: the next sync skips it,
    /// and only writing the bytes again puts them on the disk.
    doubtful: bool,
}

impl Content {
    /// Zeros, of which a disk is sure: a block that was never written reads as zeros.
    pub(super) fn new(len: u64) -> io::Result<Self> {
        let len = size(len)?;
        // The trial is dropped: zeros asked for as such cost nothing until they are touched.
        Vec::<u8>::new().try_reserve_exact(len).map_err(|_| io::Error::from(ErrorKind::StorageFull))?;
        Ok(Content { live: Arc::new(vec![0; len]), unsynced: BTreeMap::new() })
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
        for sector in sectors(&range) {
            let live = self.live.get(span(sector, self.live.len())).unwrap_or_default();
            let unsynced = self.unsynced.entry(sector);
            let unsynced = unsynced.or_insert_with(|| Unsynced { durable: live.to_vec(), doubtful: false });
            unsynced.doubtful = false;
        }
        put(Arc::make_mut(&mut self.live).as_mut_slice(), range.start, bytes);
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.retain(|_, unsynced| unsynced.doubtful);
    }

    pub(super) fn fail_sync(&mut self) {
        for unsynced in self.unsynced.values_mut() {
            unsynced.doubtful = true;
        }
    }

    /// What a loss of power leaves.
    pub(super) fn crash(&self, chance: &mut Chance) -> Self {
        let mut left = Content { live: Arc::clone(&self.live), unsynced: BTreeMap::new() };
        for (sector, unsynced) in &self.unsynced {
            if !chance.spares() {
                put(
                    Arc::make_mut(&mut left.live).as_mut_slice(),
                    sector.saturating_mul(SECTOR),
                    &unsynced.durable,
                );
            }
        }
        left
    }

    /// Changes bytes in both images.
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
            for (at, byte) in (sector.saturating_mul(SECTOR)..).zip(&mut unsynced.durable) {
                if range.contains(&at) {
                    change(at - range.start, byte);
                }
            }
        }
        Ok(())
    }

    /// Cuts off the end of both images, or adds zeros to both.
    pub(super) fn resize(&mut self, len: u64) -> io::Result<()> {
        let len = size(len)?;
        Arc::make_mut(&mut self.live).resize(len, 0);
        self.unsynced.retain(|sector, _| sector.saturating_mul(SECTOR) < len);
        for (sector, unsynced) in &mut self.unsynced {
            unsynced.durable.resize(span(*sector, len).len(), 0);
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
    use super::*;

    fn left(content: &Content, seed: u64) -> Vec<u8> {
        content.crash(&mut Chance::new(seed)).live().to_vec()
    }

    #[test]
    fn each_unsynced_sector_survives_or_not_by_itself() {
        let mut content = Content::new(1200).unwrap();
        content.write(&[1; 1200], 0).unwrap();
        content.sync();
        content.write(&[2; 700], 500).unwrap();
        let mut seen = std::collections::BTreeSet::new();
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
        content.write(b"abcd", 510).unwrap();
        content.damage(511, 2, |n, byte| *byte = b"XY"[n]).unwrap();
        assert_eq!(content.live()[510..514], *b"aXYd");
        assert_eq!(left(&content, 0)[510..514], *b"\0XY\0");
        assert!(content.damage(999, 2, |_, _| ()).is_err());
    }

    #[test]
    fn resizing_reaches_the_live_and_the_durable_image() {
        let mut content = Content::new(1000).unwrap();
        content.write(b"abcd", 510).unwrap();
        content.resize(511).unwrap();
        assert_eq!((content.live().len(), left(&content, 0).len()), (511, 511));
        content.resize(1000).unwrap();
        assert_eq!(content.live()[510..514], *b"a\0\0\0");
        assert_eq!(left(&content, 0), vec![0; 1000]);
    }
}
