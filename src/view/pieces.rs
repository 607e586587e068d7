//! How rows lie in a store that wants small items: a long value goes on in pieces. Pure: bytes in, bytes out.
//!
//! ```text
//! 01 key                  →  00 value                      a value of up to 4 KiB
//! 01 key                  →  01 length: u32 LE, value[..4096]
//! 02 key number: u32 BE   →  value[4096 · number ..]       piece 1, 2, …
//! ```
//!
//! The first byte of the stored key keeps rows and pieces apart, so a scan of rows meets no pieces and rows sort by
//! their keys. A piece belongs to one key only, as the number is the last four bytes whatever the key is.

use std::ops::Bound;

use crate::error::{Error, ErrorKind};
use crate::view::rows::{STORED_VALUE_LIMIT, Unread};

/// The most bytes of a value in one item.
pub(crate) const PIECE: usize = 4096;

/// Where the stored keys of rows begin.
pub(crate) const ROW: u8 = 1;
/// Where the stored keys of pieces begin, and those of rows end.
pub(crate) const PIECES: u8 = 2;

const WHOLE: u8 = 0;
const PIECED: u8 = 1;

pub(crate) fn row_key(key: &[u8]) -> Vec<u8> {
    [&[ROW], key].concat()
}

pub(crate) fn piece_key(key: &[u8], number: u32) -> Vec<u8> {
    [&[PIECES], key, &number.to_be_bytes()].concat()
}

/// The key of the row that is stored under `stored`.
pub(crate) fn key_of(stored: &[u8]) -> Result<&[u8], Error> {
    stored.strip_prefix(&[ROW]).ok_or_else(|| damage("a key that is not a row's is among the rows"))
}

/// A range of rows as one of stored keys.
pub(crate) fn stored_range(rows: &Unread) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let stored = |bound: &Bound<Vec<u8>>| bound.as_ref().map(|key| row_key(key));
    let from = match stored(&rows.from) {
        Bound::Unbounded => Bound::Included(vec![ROW]),
        bounded => bounded,
    };
    let to = match stored(&rows.to) {
        Bound::Unbounded => Bound::Excluded(vec![PIECES]),
        bounded => bounded,
    };
    (from, to)
}

/// Cuts a value into what is stored under its row's key and the pieces after it.
pub(crate) fn cut(value: &[u8]) -> (Vec<u8>, impl Iterator<Item = (u32, &[u8])>) {
    let mut parts = value.chunks(PIECE);
    let start = parts.next().unwrap_or_default();
    let head = match u32::try_from(value.len()) {
        Ok(len) if value.len() > PIECE => [&[PIECED], len.to_le_bytes().as_slice(), start].concat(),
        _ => [&[WHOLE], start].concat(),
    };
    (head, (1u32..).zip(parts))
}

/// What is stored under a row's key: the length of the value and its start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) len: usize,
    pub(crate) start: &'a [u8],
}

impl<'a> Head<'a> {
    pub(crate) fn parse(stored: &'a [u8]) -> Result<Self, Error> {
        let unreadable = || damage("what is stored under a row's key is not a value");
        match stored {
            [WHOLE, start @ ..] if start.len() <= PIECE => Ok(Head { len: start.len(), start }),
            [PIECED, a, b, c, d, start @ ..] if start.len() == PIECE => {
                let len = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).map_err(|_| unreadable())?;
                if len <= PIECE || len > STORED_VALUE_LIMIT {
                    return Err(unreadable());
                }
                Ok(Head { len, start })
            }
            _ => Err(unreadable()),
        }
    }

    /// The numbers of the pieces that follow the head.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = u32> + use<> {
        (1u32..).zip((PIECE..self.len).step_by(PIECE)).map(|(number, _)| number)
    }
}

pub(crate) fn damage(message: &str) -> Error {
    Error::new(ErrorKind::View, format!("the view is damaged: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_row_never_change() {
        assert_eq!(row_key(b"k"), b"\x01k");
        assert_eq!(piece_key(b"k", 258), b"\x02k\0\0\x01\x02");
        assert_eq!(cut(b"v").0, b"\0v");
        assert_eq!(cut(&[7; 5000]).0.get(..7).unwrap(), [1, 0x88, 0x13, 0, 0, 7, 7]);
    }

    #[test]
    fn a_value_of_any_length_comes_back_from_its_pieces() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, STORED_VALUE_LIMIT] {
            let value: Vec<u8> = (0..=250).cycle().take(len).collect();
            let (stored, pieces) = cut(&value);
            let pieces: Vec<_> = pieces.collect();
            let head = Head::parse(&stored).unwrap();
            assert_eq!(head.len, len);
            assert!(head.pieces().eq(pieces.iter().map(|(number, _)| *number)));
            let mut joined = head.start.to_vec();
            pieces.iter().for_each(|(_, piece)| joined.extend_from_slice(piece));
            assert_eq!(joined, value);
        }
    }

    #[test]
    fn a_head_that_no_value_has_is_damage() {
        for stored in [&[][..], &[2], &[1], &[1, 0, 0, 0, 0], &[0; PIECE + 2], &[1; PIECE + 5]] {
            assert_eq!(Head::parse(stored).unwrap_err().kind(), ErrorKind::View);
        }
        assert!(key_of(b"\x02k").is_err() && key_of(b"").is_err());
    }
}
