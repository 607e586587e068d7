//! The header of a segment: a page of its own, with two copies of one 512-byte block. A pure codec.
//!
//! ```text
//!    0 "EVFOLSEG"   8 format major u16 · minor u16   12 header length u32     16 store id (16)
//!   32 segment index u64      40 first position u64      48 salt u64           56 checksum id u32 · max body u32
//!   64 incompat u64           72 ro-compat u64           80 compat u64         88 sealed length of the one before u64
//!   96 segment size u64      104 created ns u64         112 prev chain u32    116 zeros … 508 crc u32
//! ```
//! Copies at 0 and 2048; the rest of the page is zero, and checked to be.

use uuid::Uuid;

use super::layout::{
    BlockFault, Features, SECTOR, block, bytes_at, check_block, disk_len, field_len, put, seal_block, u32_at,
    u64_at,
};
use crate::event::Position;

/// Where the first frame starts.
pub(crate) const SEGMENT_HEADER: usize = 4096;
const SECOND_COPY: usize = 2048;
const MAGIC: [u8; 8] = *b"EVFOLSEG";
/// CRC-32/IEEE, the only checksum of format 1.
const CRC32_IEEE: u32 = 1;

/// What a segment says of itself. Written once, before the segment gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store_id: Uuid,
    /// 0 for the first segment of the store.
    pub(crate) index: u64,
    pub(crate) first: Position,
    /// Random; in every checksum of the segment, so that bytes from elsewhere never verify.
    pub(crate) salt: u64,
    pub(crate) max_body: u32,
    pub(crate) features: Features,
    /// Where the segment before ends: after its seal.
    pub(crate) prev_sealed_len: u64,
    /// The file's size, from its creation on.
    pub(crate) segment_size: u64,
    pub(crate) created_ns: u64,
    /// The chain value after the seal of the segment before.
    pub(crate) prev_chain: u32,
    /// This block's checksum: the chain value that the first frame has.
    pub(crate) chain: u32,
}

impl SegmentHeader {
    /// The header page. Sets `chain`.
    pub(crate) fn encode(&mut self) -> Vec<u8> {
        let mut copy = block(MAGIC);
        put(&mut copy, 12, &field_len(SEGMENT_HEADER).to_le_bytes());
        put(&mut copy, 16, self.store_id.as_bytes());
        put(&mut copy, 32, &self.index.to_le_bytes());
        put(&mut copy, 40, &self.first.get().to_le_bytes());
        put(&mut copy, 48, &self.salt.to_le_bytes());
        put(&mut copy, 56, &CRC32_IEEE.to_le_bytes());
        put(&mut copy, 60, &self.max_body.to_le_bytes());
        self.features.put(&mut copy, 64);
        put(&mut copy, 88, &self.prev_sealed_len.to_le_bytes());
        put(&mut copy, 96, &self.segment_size.to_le_bytes());
        put(&mut copy, 104, &self.created_ns.to_le_bytes());
        put(&mut copy, 112, &self.prev_chain.to_le_bytes());
        self.chain = seal_block(&mut copy);
        let mut page = vec![0; SEGMENT_HEADER];
        put(&mut page, 0, &copy);
        put(&mut page, SECOND_COPY, &copy);
        page
    }

    /// Reads a header page; either copy will do.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, BlockFault> {
        let copy = |at: usize| Self::decode_copy(page.get(at..at + SECTOR).unwrap_or_default());
        copy(0).or_else(|first| copy(SECOND_COPY).map_err(|_| first))
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, BlockFault> {
        let chain = check_block(bytes, MAGIC)?;
        let header = Self::fields(bytes, chain).ok_or(BlockFault::Field("length"))?;
        let smallest = disk_len(SEGMENT_HEADER);
        let checks = [
            (u32_at(bytes, 12) == Some(field_len(SEGMENT_HEADER)), "header length"),
            (u32_at(bytes, 56) == Some(CRC32_IEEE), "checksum algorithm"),
            (header.first > Position::START, "first position"),
            (header.segment_size > smallest, "segment size"),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(BlockFault::Field(what)),
            None => Ok(header),
        }
    }

    fn fields(bytes: &[u8], chain: u32) -> Option<Self> {
        Some(SegmentHeader {
            store_id: Uuid::from_bytes(bytes_at(bytes, 16)?),
            index: u64_at(bytes, 32)?,
            first: Position::new(u64_at(bytes, 40)?),
            salt: u64_at(bytes, 48)?,
            max_body: u32_at(bytes, 60)?,
            features: Features::at(bytes, 64)?,
            prev_sealed_len: u64_at(bytes, 88)?,
            segment_size: u64_at(bytes, 96)?,
            created_ns: u64_at(bytes, 104)?,
            prev_chain: u32_at(bytes, 112)?,
            chain,
        })
    }

    /// Whether the page is exactly what [`encode`](Self::encode) wrote: both copies, and zeros between them.
    pub(crate) fn is_intact(&self, page: &[u8]) -> bool {
        let mut same = *self;
        page == same.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store_id: Uuid::from_u128(1),
            index: 3,
            first: Position::new(17),
            salt: 99,
            max_body: 1 << 20,
            features: Features::default(),
            prev_sealed_len: 8192,
            segment_size: 16384,
            created_ns: 5,
            prev_chain: 77,
            chain: 0,
        }
    }

    #[test]
    fn a_header_comes_back_from_either_copy() {
        let mut header = header();
        let page = header.encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(header));
        for damaged in [0..512, 2048..2560] {
            let mut page = page.clone();
            page[damaged].fill(0xff);
            assert_eq!(SegmentHeader::decode(&page), Ok(header));
            assert!(!header.is_intact(&page));
        }
    }

    #[test]
    fn every_flipped_bit_of_the_page_is_noticed() {
        let mut header = header();
        let good = header.encode();
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!header.is_intact(&bad), "bit {bit}");
            assert_eq!(SegmentHeader::decode(&bad), Ok(header), "one copy is left");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut page = header().encode();
        page[8] = 2;
        page[2048 + 8] = 2;
        assert_eq!(SegmentHeader::decode(&page), Err(BlockFault::Format(2)));
    }
}
