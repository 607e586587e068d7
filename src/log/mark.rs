//! `MARK`: how far the log is known to be good, kept beside it. Two slots of 4 KiB, written in turn. A pure codec.
//!
//! ```text
//!    0 "EVFOLMRK"   8 format major u16 · minor u16   12 zero u32            16 store id (16)
//!   32 generation u64     40 durable position u64     48 segment (its first position) u64     56 end offset u64
//!   64 log start u64      72 chain u32                76 epoch u32          80 clean u32      84 zeros … 508 crc u32
//! ```
//!
//! A mark is a witness, never the log: what it proves to have been durable and is not there is a loss that is
//! refused (`tail-lost`). It is written when a segment is rolled, when the store is created, opened or closed, and after
//! a second without appends; never on the way of an append that does not roll. Retention writes it twice, so that both
//! slots have the log's new start before a segment is removed.

use uuid::Uuid;

use super::layout::{SECTOR, block, bytes_at, check_block, is_zero, put, seal_block, u32_at, u64_at};
use crate::event::Position;

pub(crate) const MARK_FILE: &str = "MARK";
/// Size of the file.
pub(crate) const MARK_LEN: usize = 2 * SLOT;
const SLOT: usize = 4096;
const MAGIC: [u8; 8] = *b"EVFOLMRK";

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) store_id: Uuid,
    /// Counts the marks written; the slot with the higher one holds.
    pub(crate) generation: u64,
    /// Events up to here were durable.
    pub(crate) durable: Position,
    /// The segment that the end offset is in, by its first position.
    pub(crate) segment: Position,
    /// Everything in the segment before this offset was durable.
    pub(crate) end: u64,
    /// The first position that retention has left.
    pub(crate) log_start: Position,
    /// The chain value at the end offset.
    pub(crate) chain: u32,
    pub(crate) epoch: u32,
    /// The store was closed, and nobody has opened it for writing since.
    pub(crate) clean: bool,
}

impl Mark {
    /// Where this mark goes in the file, and the slot's bytes.
    pub(crate) fn encode(&self) -> (u64, Vec<u8>) {
        let mut copy = block(MAGIC);
        put(&mut copy, 16, self.store_id.as_bytes());
        put(&mut copy, 32, &self.generation.to_le_bytes());
        put(&mut copy, 40, &self.durable.get().to_le_bytes());
        put(&mut copy, 48, &self.segment.get().to_le_bytes());
        put(&mut copy, 56, &self.end.to_le_bytes());
        put(&mut copy, 64, &self.log_start.get().to_le_bytes());
        put(&mut copy, 72, &self.chain.to_le_bytes());
        put(&mut copy, 76, &self.epoch.to_le_bytes());
        put(&mut copy, 80, &u32::from(self.clean).to_le_bytes());
        seal_block(&mut copy);
        let mut slot = copy.to_vec();
        slot.resize(SLOT, 0);
        ((self.generation % 2) * 4096, slot)
    }

    /// The newest mark that verifies, and how many slots hold bytes that do not.
    pub(crate) fn decode(bytes: &[u8], store_id: Uuid) -> (Option<Self>, usize) {
        let slots = [0, SLOT].map(|at| bytes.get(at..at + SLOT).unwrap_or_default());
        let marks = slots.map(|slot| Self::decode_slot(slot).filter(|mark| mark.store_id == store_id));
        let damaged =
            slots.iter().zip(&marks).filter(|(slot, mark)| mark.is_none() && !is_zero(slot)).count();
        (marks.into_iter().flatten().max_by_key(|mark| mark.generation), damaged)
    }

    /// Whether these bytes are one slot, of whichever store.
    pub(crate) fn is_slot(bytes: &[u8]) -> bool {
        Self::decode_slot(bytes).is_some()
    }

    fn decode_slot(slot: &[u8]) -> Option<Self> {
        check_block(slot.get(..SECTOR)?, MAGIC).ok()?;
        let clean = match u32_at(slot, 80)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        is_zero(slot.get(SECTOR..)?).then_some(())?;
        Some(Mark {
            store_id: Uuid::from_bytes(bytes_at(slot, 16)?),
            generation: u64_at(slot, 32)?,
            durable: Position::new(u64_at(slot, 40)?),
            segment: Position::new(u64_at(slot, 48)?),
            end: u64_at(slot, 56)?,
            log_start: Position::new(u64_at(slot, 64)?),
            chain: u32_at(slot, 72)?,
            epoch: u32_at(slot, 76)?,
            clean,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(generation: u64) -> Mark {
        Mark {
            store_id: Uuid::from_u128(4),
            generation,
            durable: Position::new(10 + generation),
            segment: Position::new(1),
            end: 4096,
            log_start: Position::new(1),
            chain: 8,
            epoch: 2,
            clean: generation == 3,
        }
    }

    fn file(marks: &[Mark]) -> Vec<u8> {
        let mut file = vec![0; MARK_LEN];
        for mark in marks {
            let (offset, slot) = mark.encode();
            put(&mut file, usize::try_from(offset).unwrap(), &slot);
        }
        file
    }

    #[test]
    fn the_newest_slot_holds_and_the_other_one_stands_in_for_it() {
        let id = Uuid::from_u128(4);
        let good = file(&[mark(2), mark(3)]);
        assert_eq!(Mark::decode(&good, id), (Some(mark(3)), 0));
        for bit in SLOT * 8..MARK_LEN * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&bad, id), (Some(mark(2)), 1), "bit {bit}");
        }
    }

    #[test]
    fn a_mark_of_another_store_or_no_mark_is_none() {
        assert_eq!(Mark::decode(&file(&[mark(1)]), Uuid::nil()), (None, 1));
        assert_eq!(Mark::decode(&[0; MARK_LEN], Uuid::from_u128(4)), (None, 0));
        assert_eq!(Mark::decode(&[], Uuid::from_u128(4)), (None, 0));
    }
}
