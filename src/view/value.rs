//! Values of a view as bytes: a format byte, then bincode. Pure.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{Error, ErrorKind};

/// In front of every value: which codec wrote it.
const FORMAT: u8 = 1;

pub(crate) fn encode<V: Serialize>(value: &V) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    append(value, &mut bytes)?;
    Ok(bytes)
}

/// Adds the encoded value to `out`.
pub(crate) fn append<V: Serialize>(value: &V, out: &mut Vec<u8>) -> Result<(), Error> {
    out.push(FORMAT);
    codec::append(value, out)
}

pub(crate) fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, Error> {
    codec::from_slice(bare(bytes)?)
}

/// The encoded value, without what says which codec wrote it.
pub(crate) fn bare(bytes: &[u8]) -> Result<&[u8], Error> {
    match bytes.split_first() {
        Some((&FORMAT, value)) => Ok(value),
        _ => {
            Err(Error::new(ErrorKind::Codec, "a view's value is of a format that this version does not know"))
        }
    }
}
