//! `STORE`: what the store is, written once at its creation. Two copies of one 512-byte block. A pure codec.
//!
//! ```text
//!    0 "EVERFOLD"   8 format major u16 · minor u16   12 block length u32     16 store id (16)
//!   32 segment size u64     40 incompat u64     48 ro-compat u64     56 compat u64     64 created ns u64
//!   72 zeros … 508 crc u32
//! ```

use uuid::Uuid;

use super::layout::{
    BlockFault, Features, SECTOR, block, bytes_at, check_block, field_len, put, seal_block, u16_at, u32_at,
    u64_at,
};

use crate::options::is_segment_size;

pub(crate) const STORE_FILE: &str = "STORE";
/// Size of the file.
pub(crate) const STORE_LEN: usize = 2 * SECTOR;
const MAGIC: [u8; 8] = *b"EVERFOLD";

/// The content of `STORE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreFile {
    pub(crate) store_id: Uuid,
    pub(crate) segment_size: u64,
    pub(crate) features: Features,
    pub(crate) created_ns: u64,
    /// Minor version of the format it was written in.
    pub(crate) minor: u16,
}

impl StoreFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = block(MAGIC);
        put(&mut copy, 12, &field_len(SECTOR).to_le_bytes());
        put(&mut copy, 16, self.store_id.as_bytes());
        put(&mut copy, 32, &self.segment_size.to_le_bytes());
        self.features.put(&mut copy, 40);
        put(&mut copy, 64, &self.created_ns.to_le_bytes());
        seal_block(&mut copy);
        copy.repeat(2)
    }

    /// Reads the file's content; either copy will do.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockFault> {
        let copy = |at: usize| Self::decode_copy(bytes.get(at..at + SECTOR).unwrap_or_default());
        copy(0).or_else(|first| copy(SECTOR).map_err(|_| first))
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, BlockFault> {
        check_block(bytes, MAGIC)?;
        if u32_at(bytes, 12) != Some(field_len(SECTOR)) {
            return Err(BlockFault::Field("block length"));
        }
        let file = Self::fields(bytes).ok_or(BlockFault::Field("length"))?;
        match is_segment_size(file.segment_size) {
            true => Ok(file),
            false => Err(BlockFault::Field("segment size")),
        }
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        Some(StoreFile {
            store_id: Uuid::from_bytes(bytes_at(bytes, 16)?),
            segment_size: u64_at(bytes, 32)?,
            features: Features::at(bytes, 40)?,
            created_ns: u64_at(bytes, 64)?,
            minor: u16_at(bytes, 10)?,
        })
    }

    /// Whether the file is exactly what [`encode`](Self::encode) wrote.
    pub(crate) fn is_intact(&self, bytes: &[u8]) -> bool {
        bytes == self.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_from_either_copy_and_damage_is_noticed() {
        let file = StoreFile {
            store_id: Uuid::from_u128(9),
            segment_size: 1 << 26,
            features: Features::default(),
            created_ns: 1,
            minor: 0,
        };
        let good = file.encode();
        assert!(file.is_intact(&good));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(StoreFile::decode(&bad), Ok(file), "bit {bit}");
            assert!(!file.is_intact(&bad), "bit {bit}");
        }
        assert_eq!(StoreFile::decode(&[0; STORE_LEN]), Err(BlockFault::Magic));
        assert_eq!(StoreFile::decode(&good[..100]), Err(BlockFault::Magic));
    }
}
