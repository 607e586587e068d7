//! Little-endian fields at fixed offsets, and the 512-byte blocks that are kept in two copies.

/// Frames, records and everything in them start at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// What a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// Where a block's checksum is.
const BLOCK_CRC: usize = SECTOR - 4;

pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

/// Writes a field into a block that the caller sized for it.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    let slot = bytes.get_mut(at..at.saturating_add(field.len()));
    debug_assert!(slot.is_some(), "a field outside its block");
    if let Some(slot) = slot {
        slot.copy_from_slice(field);
    }
}

/// The next multiple of eight.
pub(crate) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// A length in memory as a length on disk.
pub(crate) fn disk_len(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A length on disk as a length in memory; one that does not fit is larger than any buffer, and is refused as such.
pub(crate) fn memory_len(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// A length as a 32-bit field. Limits are checked before, so the fallback is never met; it would not verify.
pub(crate) fn field_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Compares the bytes with themselves one further: a single call of memcmp, which is as fast in a debug build.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.split_first().is_none_or(|(first, rest)| *first == 0 && bytes.get(..rest.len()) == Some(rest))
}

/// Why a block of a header file is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlockFault {
    #[error("the magic bytes are not there")]
    Magic,
    #[error("it is of format {0}, and this version of everfold reads format {FORMAT_MAJOR}")]
    Format(u16),
    #[error("its checksum does not match its bytes")]
    Crc,
    #[error("a field is out of range: {0}")]
    Field(&'static str),
}

/// The format this version writes, and the only one it reads.
pub(crate) const FORMAT_MAJOR: u16 = 1;
pub(crate) const FORMAT_MINOR: u16 = 0;

/// Starts a block: magic at 0, format major at 8 and minor at 10.
pub(crate) fn block(magic: [u8; 8]) -> [u8; SECTOR] {
    let mut block = [0; SECTOR];
    put(&mut block, 0, &magic);
    put(&mut block, 8, &FORMAT_MAJOR.to_le_bytes());
    put(&mut block, 10, &FORMAT_MINOR.to_le_bytes());
    block
}

/// Ends a block: the checksum of bytes 0..508 at 508.
pub(crate) fn seal_block(block: &mut [u8; SECTOR]) -> u32 {
    let crc = crc32fast::hash(block.get(..BLOCK_CRC).unwrap_or_default());
    put(block, BLOCK_CRC, &crc.to_le_bytes());
    crc
}

/// Checks a block: magic, then format, then checksum. Returns the checksum.
pub(crate) fn check_block(bytes: &[u8], magic: [u8; 8]) -> Result<u32, BlockFault> {
    if bytes_at(bytes, 0) != Some(magic) {
        return Err(BlockFault::Magic);
    }
    match u16_at(bytes, 8) {
        Some(FORMAT_MAJOR) => {}
        other => return Err(BlockFault::Format(other.unwrap_or_default())),
    }
    let stored = u32_at(bytes, BLOCK_CRC).ok_or(BlockFault::Crc)?;
    match bytes.get(..BLOCK_CRC).map(crc32fast::hash) {
        Some(crc) if crc == stored => Ok(crc),
        _ => Err(BlockFault::Crc),
    }
}

/// The feature words of a header: what a reader, and what a writer, must know to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// An unknown bit here: do not open.
    pub(crate) incompat: u64,
    /// An unknown bit here: do not open for writing.
    pub(crate) ro_compat: u64,
    /// An unknown bit here changes nothing.
    pub(crate) compat: u64,
}

impl Features {
    pub(crate) fn put(self, block: &mut [u8], at: usize) {
        put(block, at, &self.incompat.to_le_bytes());
        put(block, at + 8, &self.ro_compat.to_le_bytes());
        put(block, at + 16, &self.compat.to_le_bytes());
    }

    pub(crate) fn at(block: &[u8], at: usize) -> Option<Self> {
        Some(Features {
            incompat: u64_at(block, at)?,
            ro_compat: u64_at(block, at + 8)?,
            compat: u64_at(block, at + 16)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_told_from_not_zero_at_every_length_and_place() {
        for len in 0..70 {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{len} {at}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_found() {
        let mut good = block(*b"TESTTEST");
        seal_block(&mut good);
        assert!(check_block(&good, *b"TESTTEST").is_ok());
        for bit in 0..SECTOR * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check_block(&bad, *b"TESTTEST").is_err(), "bit {bit}");
        }
    }
}
