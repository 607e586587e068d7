//! A redo record: the rows that were changed between two checkpoints. A pure codec.
//!
//! ```text
//!  0 magic "EFREDO" (6)   6 format u16 (1)   8 before u64: the checkpoint it goes on from   16 rows length u64
//! 24 meta length u32   28 turns u32: those of before   32 crc u32 of all before
//! 36 meta: what the view says of itself after it …   rows: a run …   crc u32 of meta and rows
//! ```

use super::run::Run;
use crate::event::Position;
use crate::log::layout::{u16_at, u32_at, u64_at};
use crate::view::meta::{Place, ViewMeta};

const MAGIC: &[u8; 6] = b"EFREDO";
const FORMAT: u16 = 1;
pub(super) const HEADER: usize = 36;

/// What is read back of a record.
#[derive(Debug)]
pub(super) struct Redo {
    /// How far the rows are that it goes on from.
    pub(super) before: Place,
    /// What the view says of itself after it.
    pub(super) meta: ViewMeta,
    pub(super) rows: Run,
}

/// The parts of a record, to be written one after the other.
pub(super) fn encode(before: Place, meta: &ViewMeta, rows: &Run) -> [Vec<u8>; 2] {
    let meta = meta.encode();
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&before.checkpoint.get().to_le_bytes());
    head.extend_from_slice(&u64::try_from(rows.bytes().len()).unwrap_or(u64::MAX).to_le_bytes());
    head.extend_from_slice(&u32::try_from(meta.len()).unwrap_or(u32::MAX).to_le_bytes());
    head.extend_from_slice(&before.turns.to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&meta);
    crc.update(rows.bytes());
    head.extend_from_slice(&meta);
    [head, crc.finalize().to_le_bytes().to_vec()]
}

/// Where the parts of a record are, as its header tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    rows_at: usize,
    end: usize,
}

impl Extent {
    /// None: these are not the first bytes of a record.
    pub(super) fn of(header: &[u8]) -> Option<Self> {
        let head = header.get(..32)?;
        let known = head.starts_with(MAGIC) && u16_at(head, 6) == Some(FORMAT);
        (known && u32_at(header, 32) == Some(crc32fast::hash(head))).then_some(())?;
        // No run has more.
        let rows_len = u32::try_from(u64_at(header, 16)?).ok()?;
        let rows_at = HEADER.checked_add(usize::try_from(u32_at(header, 24)?).ok()?)?;
        Some(Extent { rows_at, end: rows_at.checked_add(usize::try_from(rows_len).ok()?)? })
    }

    /// How many bytes the record has.
    pub(super) fn len(self) -> Option<usize> {
        self.end.checked_add(4)
    }
}

impl Redo {
    /// None: these are not the bytes of a whole record.
    pub(super) fn decode(mut bytes: Vec<u8>) -> Option<Self> {
        let extent = Extent::of(&bytes)?;
        (extent.len() == Some(bytes.len())).then_some(())?;
        let Extent { rows_at, end } = extent;
        let before = Place { checkpoint: Position::new(u64_at(&bytes, 8)?), turns: u32_at(&bytes, 28)? };
        (u32_at(&bytes, end)? == crc32fast::hash(bytes.get(HEADER..end)?)).then_some(())?;
        let meta = ViewMeta::decode(bytes.get(HEADER..rows_at)?)?;
        bytes.truncate(end);
        Some(Redo { before, meta, rows: Run::parse(bytes.split_off(rows_at))? })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::view::digest::Digest;
    use crate::view::levels::run::run_of;
    use crate::view::meta::Beside;

    #[test]
    fn it_comes_back_and_every_flipped_bit_and_every_cut_is_found() {
        let meta = ViewMeta {
            store_id: Uuid::from_u128(7),
            name: "totals".into(),
            generation: 3,
            checkpoint: Position::new(41),
            turns: 6,
            fingerprint: 0xabcd,
            digest: Digest { rows: 12, sum: 5 },
            beside: Beside::default(),
        };
        let rows = run_of([(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), None)]);
        let before = Place { checkpoint: Position::new(7), turns: 5 };
        let [head, end] = encode(before, &meta, &rows);
        let good = [&head, rows.bytes(), &end].concat();
        let found = Redo::decode(good.clone()).unwrap();
        assert_eq!((found.before, found.meta), (before, meta));
        assert_eq!(found.rows.bytes(), rows.bytes());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Redo::decode(bad).is_none(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Redo::decode(good.get(..len).unwrap().to_vec()).is_none(), "cut to {len}");
        }
        assert!(Redo::decode([&*good, &[0]].concat()).is_none());
    }
}
