//! bincode behind one door: typed payloads and view values.
//!
//! Always with a limit (without one a damaged length makes bincode allocate until the process aborts), always
//! comparing what was consumed with what was there (bincode ignores what follows a value).

use std::marker::PhantomData;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

const LIMIT: usize = 64 << 20;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<LIMIT>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<LIMIT>();

pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    append(value, &mut bytes)?;
    Ok(bytes)
}

/// Adds the encoded value to `out`.
pub(crate) fn append<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    bincode::serde::encode_into_std_write(value, out, CONFIG)
        .map(drop)
        .map_err(|e| Error::new(ErrorKind::Codec, "the value does not serialise to bincode").because(e))
}

pub(crate) fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    seed_from_slice(PhantomData, bytes)
}

/// The value that a seed makes of the bytes.
pub(crate) fn seed_from_slice<'a, S: DeserializeSeed<'a>>(
    seed: S,
    bytes: &'a [u8],
) -> Result<S::Value, Error> {
    let (value, consumed) = bincode::serde::seed_decode_from_slice(seed, bytes, CONFIG).map_err(|e| {
        Error::new(ErrorKind::Codec, "the bytes are not the expected bincode value").because(e)
    })?;
    if consumed != bytes.len() {
        return Err(Error::new(
            ErrorKind::Codec,
            format!("a bincode value of {consumed} bytes is followed by {} more", bytes.len() - consumed),
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_value_never_change() {
        assert_eq!(
            to_vec(&(7u32, "ab", -1i64)).unwrap(),
            b"\x07\0\0\0\x02\0\0\0\0\0\0\0ab\xff\xff\xff\xff\xff\xff\xff\xff"
        );
    }

    #[test]
    fn a_value_followed_by_more_bytes_is_refused() {
        assert!(from_slice::<u32>(&[1, 0, 0, 0]).is_ok());
        assert!(from_slice::<u32>(&[1, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_hostile_length_is_an_error_and_allocates_nothing() {
        assert!(from_slice::<Vec<u64>>(&[0xff; 8]).is_err());
        assert!(from_slice::<String>(&[0xff; 16]).is_err());
    }
}
