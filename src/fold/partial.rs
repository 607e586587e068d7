//! What a sealed segment came to, as bytes. A pure codec.
//!
//! ```text
//!  0 "EVFOPART"               8 format u32 (1)      12 generation u32     16 store id (16)
//! 32 first position u64      40 last position u64   48 salt u64           56 chain before u32 · chain after u32
//! 64 rows u32                68 name length u32     72 length of the rows' bytes u64
//! 80 name … · rows, in the order of their keys: key length u32, state length u32, key, state …
//!    · where each row starts, from the first one u32 … · crc u32 of all before
//! ```
//!
//! Salt and chain values are those of the segment: they tell its bytes from any others. The state is bincode. Whatever does
//! not verify is no partial, and what it told is folded from the segment again.

use uuid::Uuid;

use super::cells::Choice;
use crate::event::Position;
use crate::log::layout::{bytes_at, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"EVFOPART";
const FORMAT: u32 = 1;
const NAME: usize = 80;

/// Whose partials they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner<'a> {
    pub(super) store_id: Uuid,
    pub(super) name: &'a str,
    pub(super) generation: u32,
}

/// The segment that a partial is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: Position,
    pub(super) last: Position,
    pub(super) salt: u64,
    /// The chain value at the segment's start, which is that at the end of the one before.
    pub(super) chain_before: u32,
    pub(super) chain_after: u32,
}

/// A verified partial.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) span: Span,
    bytes: Vec<u8>,
    rows: usize,
    starts: usize,
    count: usize,
}

/// The bytes of a partial with these rows, which are in the order of their keys; `None` when there are too many.
pub(super) fn encode<'a>(
    owner: &Owner<'_>,
    span: &Span,
    rows: impl Iterator<Item = (&'a [u8], Vec<u8>)>,
) -> Option<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&owner.generation.to_le_bytes());
    bytes.extend_from_slice(owner.store_id.as_bytes());
    for number in [span.first.get(), span.last.get(), span.salt] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&span.chain_before.to_le_bytes());
    bytes.extend_from_slice(&span.chain_after.to_le_bytes());
    let (mut packed, mut starts, mut count) = (Vec::new(), Vec::new(), 0u32);
    for (key, state) in rows {
        starts.extend_from_slice(&u32::try_from(packed.len()).ok()?.to_le_bytes());
        packed.extend_from_slice(&u32::try_from(key.len()).ok()?.to_le_bytes());
        packed.extend_from_slice(&u32::try_from(state.len()).ok()?.to_le_bytes());
        packed.extend_from_slice(key);
        packed.extend_from_slice(&state);
        count = count.checked_add(1)?;
    }
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(owner.name.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&u64::try_from(packed.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(owner.name.as_bytes());
    bytes.append(&mut packed);
    bytes.append(&mut starts);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

impl Partial {
    /// `None`: these are not the bytes of one, or it is another one's.
    pub(super) fn decode(bytes: Vec<u8>, owner: &Owner<'_>) -> Option<Self> {
        let end = bytes.len().checked_sub(4)?;
        if crc32fast::hash(bytes.get(..end)?) != u32_at(&bytes, end)? {
            return None;
        }
        let found: [u8; 8] = bytes_at(&bytes, 0)?;
        let name_len = usize::try_from(u32_at(&bytes, 68)?).ok()?;
        let rows = NAME.checked_add(name_len)?;
        let own = found == MAGIC
            && u32_at(&bytes, 8)? == FORMAT
            && u32_at(&bytes, 12)? == owner.generation
            && bytes_at(&bytes, 16)? == *owner.store_id.as_bytes()
            && bytes.get(NAME..rows)? == owner.name.as_bytes();
        let count = usize::try_from(u32_at(&bytes, 64)?).ok()?;
        let starts = rows.checked_add(usize::try_from(u64_at(&bytes, 72)?).ok()?)?;
        let fits = starts.checked_add(count.checked_mul(4)?)? == end;
        (own && fits).then_some(())?;
        let span = Span {
            first: Position::new(u64_at(&bytes, 32)?),
            last: Position::new(u64_at(&bytes, 40)?),
            salt: u64_at(&bytes, 48)?,
            chain_before: u32_at(&bytes, 56)?,
            chain_after: u32_at(&bytes, 60)?,
        };
        Some(Partial { span, bytes, rows, starts, count })
    }

    /// A row's key and state.
    fn row(&self, number: usize) -> Option<(&[u8], &[u8])> {
        let start = u32_at(&self.bytes, self.starts.checked_add(number.checked_mul(4)?)?)?;
        let row = self.bytes.get(self.rows..self.starts)?.get(usize::try_from(start).ok()?..)?;
        let key_len = usize::try_from(u32_at(row, 0)?).ok()?;
        let state_len = usize::try_from(u32_at(row, 4)?).ok()?;
        let (key, rest) = row.get(8..)?.split_at_checked(key_len)?;
        Some((key, rest.get(..state_len)?))
    }

    /// The rows that are wanted, in order. `None` in place of one that is not there: no such partial is ever written.
    pub(super) fn rows(&self, choice: &Choice) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.row(middle) {
                Some((key, _)) if choice.starts_behind(key) => low = middle + 1,
                _ => high = middle,
            }
        }
        let rows = (low..self.count).map(|number| self.row(number));
        rows.take_while(|row| row.is_none_or(|(key, _)| choice.takes(key)))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;

    const OWNER: Owner<'static> = Owner { store_id: Uuid::from_u128(7), name: "sold", generation: 3 };
    const SPAN: Span = Span {
        first: Position::new(11),
        last: Position::new(25),
        salt: 0xABCD,
        chain_before: 5,
        chain_after: 6,
    };

    fn encoded(keys: &[&[u8]]) -> Vec<u8> {
        encode(&OWNER, &SPAN, keys.iter().map(|key| (*key, [*key, b"!"].concat()))).unwrap()
    }

    fn keys(partial: &Partial, choice: &Choice) -> Vec<Vec<u8>> {
        partial.rows(choice).map(|row| row.unwrap().0.to_vec()).collect()
    }

    #[test]
    fn it_comes_back_and_every_flipped_bit_is_found() {
        let good = encoded(&[b"", b"a", b"abc"]);
        let partial = Partial::decode(good.clone(), &OWNER).unwrap();
        assert_eq!(partial.span, SPAN);
        let rows: Vec<_> = partial.rows(&Choice::All).map(Option::unwrap).collect();
        assert_eq!(rows, [(&b""[..], &b"!"[..]), (b"a", b"a!"), (b"abc", b"abc!")]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Partial::decode(bad, &OWNER).is_none(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Partial::decode(good[..len].to_vec(), &OWNER).is_none(), "{len} bytes");
        }
        assert!(Partial::decode([good, vec![0]].concat(), &OWNER).is_none());
    }

    #[test]
    fn a_partial_of_another_fold_generation_or_store_is_none() {
        let bytes = encoded(&[b"a"]);
        for other in [
            Owner { name: "solt", ..OWNER },
            Owner { name: "sol", ..OWNER },
            Owner { name: "sold-", ..OWNER },
            Owner { generation: 4, ..OWNER },
            Owner { store_id: Uuid::from_u128(8), ..OWNER },
        ] {
            assert!(Partial::decode(bytes.clone(), &other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn wrong_lengths_under_a_right_checksum_are_no_partial_or_no_row() {
        let good = encoded(&[b"a", b"b"]);
        let body = good.len() - 4;
        for at in (64..80).chain(NAME + OWNER.name.len()..body) {
            let mut bad = good[..body].to_vec();
            bad[at] = bad[at].wrapping_add(101);
            let crc = crc32fast::hash(&bad);
            bad.extend_from_slice(&crc.to_le_bytes());
            if let Some(partial) = Partial::decode(bad, &OWNER) {
                assert!(partial.rows(&Choice::All).count() <= 2);
            }
        }
    }

    #[test]
    fn rows_are_found_by_key_and_by_range() {
        let all: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n / 7, n]).collect();
        let refs: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let partial = Partial::decode(encoded(&refs), &OWNER).unwrap();
        for key in &all {
            assert!(keys(&partial, &Choice::Key(key.clone())).iter().eq([key]));
            assert_eq!(keys(&partial, &Choice::Key(vec![key[0]])), [[0u8; 0]; 0]);
        }
        for from in 0..40usize {
            for to in from..40 {
                let range = |from, to| keys(&partial, &Choice::Range(from, to));
                let (low, high) = (all[from].clone(), all[to].clone());
                assert_eq!(range(Bound::Included(low.clone()), Bound::Excluded(high.clone())), all[from..to]);
                assert_eq!(
                    range(Bound::Excluded(low), Bound::Included(high)),
                    all[(from + 1).min(to + 1)..=to]
                );
            }
            assert_eq!(
                keys(&partial, &Choice::Range(Bound::Unbounded, Bound::Excluded(all[from].clone()))),
                all[..from]
            );
        }
        assert_eq!(keys(&Partial::decode(encoded(&[]), &OWNER).unwrap(), &Choice::All), [[0u8; 0]; 0]);
    }
}
