//! What a view says of itself, in a row that is written together with the others. A pure codec.
//!
//! ```text
//!  0 format u8 (3)   1 zero (3)   4 turns u32   8 store id (16)   24 checkpoint u64   32 rows u64   40 generation u32
//! 44 fingerprint u32: the checksum of the event at the checkpoint   48 sum of the rows' hashes u128
//! 64 set aside u64   72 redriven u64: how many rows there are about such events   80 name length u16
//! 82 name …   crc u32 of all before
//! ```

use uuid::Uuid;

use crate::event::Position;
use crate::log::layout::{bytes_at, u16_at, u32_at, u64_at};
use crate::view::digest::Digest;

/// The key of the row, before those of all others.
pub(crate) const META_KEY: [u8; 1] = [0];

const FORMAT: u8 = 3;
const NAME: usize = 82;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ViewMeta {
    pub(crate) store_id: Uuid,
    pub(crate) name: String,
    pub(crate) generation: u32,
    /// The last event applied.
    pub(crate) checkpoint: Position,
    /// How often rows were written without another event: when events that had been set aside were tried again.
    pub(crate) turns: u32,
    /// The checksum of that event: tells a log that is another one up to there.
    pub(crate) fingerprint: u32,
    /// All other rows.
    pub(crate) digest: Digest,
    /// Those of them that are about events which were set aside.
    pub(crate) beside: Beside,
}

/// How many rows there are about events that were set aside, and about those that were applied later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) listed: u64,
    pub(crate) redriven: u64,
}

impl Beside {
    pub(crate) fn rows(self) -> u64 {
        self.listed.saturating_add(self.redriven)
    }
}

/// How far rows are. Of two sets of rows of a view, the one that is further has all that the other has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) checkpoint: Position,
    pub(crate) turns: u32,
}

/// Where a change is among all of a set of rows: what an event changed in its turn is at the event, and what a redrive
/// changed is after the event that the view was at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) checkpoint: Position,
    /// How many events had been redriven.
    pub(crate) redriven: u64,
}

impl ViewMeta {
    pub(crate) fn moment(&self) -> Moment {
        Moment { checkpoint: self.checkpoint, redriven: self.beside.redriven }
    }

    pub(crate) fn place(&self) -> Place {
        Place { checkpoint: self.checkpoint, turns: self.turns }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, 0, 0, 0];
        bytes.extend_from_slice(&self.turns.to_le_bytes());
        bytes.extend_from_slice(self.store_id.as_bytes());
        bytes.extend_from_slice(&self.checkpoint.get().to_le_bytes());
        bytes.extend_from_slice(&self.digest.rows.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.fingerprint.to_le_bytes());
        bytes.extend_from_slice(&self.digest.sum.to_le_bytes());
        bytes.extend_from_slice(&self.beside.listed.to_le_bytes());
        bytes.extend_from_slice(&self.beside.redriven.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.name.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None`: these are not the bytes of one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.len().checked_sub(4)?;
        if crc32fast::hash(bytes.get(..end)?) != u32_at(bytes, end)? || bytes.first() != Some(&FORMAT) {
            return None;
        }
        let name = bytes.get(NAME..end)?;
        (name.len() == usize::from(u16_at(bytes, 80)?)).then_some(())?;
        Some(ViewMeta {
            store_id: Uuid::from_bytes(bytes_at(bytes, 8)?),
            name: String::from_utf8(name.to_vec()).ok()?,
            generation: u32_at(bytes, 40)?,
            checkpoint: Position::new(u64_at(bytes, 24)?),
            turns: u32_at(bytes, 4)?,
            fingerprint: u32_at(bytes, 44)?,
            digest: Digest { rows: u64_at(bytes, 32)?, sum: u128::from_le_bytes(bytes_at(bytes, 48)?) },
            beside: Beside { listed: u64_at(bytes, 64)?, redriven: u64_at(bytes, 72)? },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_every_flipped_bit_is_found() {
        let meta = ViewMeta {
            store_id: Uuid::from_u128(7),
            name: "totals".into(),
            generation: 3,
            checkpoint: Position::new(41),
            turns: 6,
            fingerprint: 0xabcd,
            digest: Digest { rows: 12, sum: 1 << 100 | 5 },
            beside: Beside { listed: 3, redriven: 4 },
        };
        let good = meta.encode();
        assert_eq!(ViewMeta::decode(&good), Some(meta));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ViewMeta::decode(&bad), None, "bit {bit}");
        }
    }
}
