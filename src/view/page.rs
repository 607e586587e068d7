//! Where a page of rows ends, to go on there later. Pure.
//!
//! ```text
//! 0 format u8 (1)   1 which view: u32 LE, of a hash of its projection's name, generation and number
//! 5 the row's key …   crc u32 LE of all before
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::layout::Part;
use super::rows::KEY_LIMIT;
use crate::error::Error;
use crate::log::layout::u32_at;

const FORMAT: u8 = 1;
const KEY: usize = 5;

/// Some rows of a view, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<K, V> {
    /// The rows.
    pub rows: Vec<(K, V)>,
    /// Where to go on; none when these were the last.
    pub next: Option<PageKey>,
}

/// Where a [`Page`] ends: opaque, and checked when it is used. As bytes, as hexadecimal text (for a link) or by serde it
/// can be kept or given away. It holds the key of the page's last row, readable for whoever gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct PageKey(Vec<u8>);

fn which(view: &str, generation: u32, part: Part) -> u32 {
    let seed = u64::from(generation) << 8 | u64::from(part.number());
    let [a, b, c, d, ..] = xxh3_64_with_seed(view.as_bytes(), seed).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl PageKey {
    pub(crate) fn new(view: &str, generation: u32, part: Part, row_key: &[u8]) -> Self {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&which(view, generation, part).to_le_bytes());
        bytes.extend_from_slice(row_key);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        PageKey(bytes)
    }

    /// The key of the last row, if it is of this view.
    pub(crate) fn row_key(&self, view: &str, generation: u32, part: Part) -> Result<&[u8], Error> {
        if u32_at(&self.0, 1) != Some(which(view, generation, part)) {
            return Err(Error::invalid(
                "the page key is of another view or generation: start again with the first page",
            ));
        }
        let end = self.0.len().saturating_sub(4);
        self.0.get(KEY..end).ok_or_else(damaged)
    }

    /// It as bytes, for [`from_bytes`](PageKey::from_bytes).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// It again, from its bytes.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when they are not the bytes of one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let end = bytes.len().checked_sub(4).filter(|end| (KEY..=KEY + KEY_LIMIT).contains(end));
        let end = end.ok_or_else(damaged)?;
        let sound =
            bytes.first() == Some(&FORMAT) && bytes.get(..end).map(crc32fast::hash) == u32_at(bytes, end);
        if sound { Ok(PageKey(bytes.to_vec())) } else { Err(damaged()) }
    }
}

fn damaged() -> Error {
    Error::invalid("these are not the bytes of a page key: start again with the first page")
}

impl TryFrom<Vec<u8>> for PageKey {
    type Error = Error;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Error> {
        PageKey::from_bytes(&bytes)
    }
}

impl From<PageKey> for Vec<u8> {
    fn from(key: PageKey) -> Self {
        key.0
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for PageKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits: Option<Vec<u32>> = text.chars().take(4 * KEY_LIMIT).map(|c| c.to_digit(16)).collect();
        let (pairs, rest) = digits.as_deref().unwrap_or_default().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low));
        match (rest, bytes.collect::<Result<Vec<u8>, _>>()) {
            ([], Ok(bytes)) => PageKey::from_bytes(&bytes),
            _ => Err(damaged()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_key_comes_back_from_each_of_its_forms() {
        for row_key in [&b"\x01k"[..], &[2; KEY_LIMIT], b""] {
            let key = PageKey::new("sold", 3, Part::OWN, row_key);
            assert_eq!(key.row_key("sold", 3, Part::OWN).unwrap(), row_key);
            assert_eq!(PageKey::from_bytes(key.as_bytes()).unwrap(), key);
            assert_eq!(key.to_string().parse::<PageKey>().unwrap(), key);
            let json = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<PageKey>(&json).unwrap(), key);
        }
    }

    #[test]
    fn a_page_key_of_another_view_or_with_a_flipped_bit_is_refused() {
        let key = PageKey::new("sold", 3, Part::OWN, b"\x01k");
        for (view, generation, part) in
            [("sole", 3, Part::OWN), ("sold", 4, Part::OWN), ("sold", 3, Part::named(1))]
        {
            assert!(key.row_key(view, generation, part).is_err());
        }
        for bit in 0..key.0.len() * 8 {
            let mut bytes = key.0.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(PageKey::from_bytes(&bytes).is_err(), "bit {bit}");
        }
        for text in ["", "0", "zz", "ä", "0102030405060708"] {
            assert!(text.parse::<PageKey>().is_err(), "{text}");
        }
    }
}
