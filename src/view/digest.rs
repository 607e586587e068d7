//! What tells the rows of a view from any others: how many there are, and the sum of a hash of each. Pure.
//!
//! The sum does not depend on the order of the rows, so a write brings it up to date from the rows it changes: the
//! hashes of the old ones go, those of the new ones come. It is a multiset hash (Clarke and others, 2003) of 128 bits.
//! It finds damage: a row that is missing, stale, changed, or there twice. It does not authenticate.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// The hash of one row, as bytes: many are kept, beside what needs no alignment of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowHash([u8; 16]);

impl RowHash {
    pub(crate) fn of(key: &[u8], value: &[u8]) -> Self {
        RowHash(xxh3_128_with_seed(value, xxh3_64(key)).to_le_bytes())
    }

    fn number(self) -> u128 {
        u128::from_le_bytes(self.0)
    }
}

/// A number of rows, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    pub(crate) sum: u128,
}

impl Digest {
    /// Wraps around, as the sum does: what was taken away and never there shows as a wrong number.
    pub(crate) fn add(&mut self, row: RowHash) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(row.number());
    }

    pub(crate) fn remove(&mut self, row: RowHash) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(row.number());
    }

    /// The same with all of some rows.
    pub(crate) fn add_all(&mut self, rows: Digest) {
        self.rows = self.rows.wrapping_add(rows.rows);
        self.sum = self.sum.wrapping_add(rows.sum);
    }

    pub(crate) fn remove_all(&mut self, rows: Digest) {
        self.rows = self.rows.wrapping_sub(rows.rows);
        self.sum = self.sum.wrapping_sub(rows.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Digest {
        let mut digest = Digest::default();
        rows.into_iter().for_each(|(key, value)| digest.add(RowHash::of(key, value)));
        digest
    }

    #[test]
    fn it_depends_on_the_rows_and_not_on_their_order() {
        let rows: [(&[u8], &[u8]); 4] = [(b"a", b"1"), (b"b", b""), (b"", b"c"), (b"\0\0", b"\0")];
        let whole = digest(rows);
        assert_eq!(whole, digest(rows.into_iter().rev()));
        for left_out in 0..rows.len() {
            let mut others = rows.to_vec();
            let (key, value) = others.remove(left_out);
            assert_ne!(whole, digest(others.clone()));
            let stale = [value, b"!"].concat();
            assert_ne!(whole, digest(others.clone().into_iter().chain([(key, stale.as_slice())])));
            let elsewhere = [key, b"!"].concat();
            assert_ne!(whole, digest(others.clone().into_iter().chain([(elsewhere.as_slice(), value)])));
            let mut back = digest(others);
            back.add(RowHash::of(key, value));
            assert_eq!(back, whole);
            back.remove(RowHash::of(key, value));
            assert_ne!(back, whole);
        }
        assert_ne!(
            digest([(b"ab".as_slice(), b"c".as_slice())]),
            digest([(b"a".as_slice(), b"bc".as_slice())])
        );
    }

    #[test]
    fn the_hash_of_a_row_never_changes() {
        let hashes = [RowHash::of(b"key", b"value"), RowHash::of(b"", &[7; 5000])].map(RowHash::number);
        assert_eq!(hashes, [0xe84582f5c8fe2c1351ad8f295ea71283, 0x13677e4afe9f4e98825f3b6d72306141]);
    }
}
