//! Values of views, decoded from bincode with fixed integers by types that are given: a struct is its fields in order. Pure.

use everfold::Uuid;

use crate::datum::Datum;
use crate::shape::{Kind, Shape, by_int};

/// The components of a value, and nothing left over.
pub(crate) fn decode(bytes: &[u8], shape: &Shape) -> Result<Vec<Datum>, String> {
    let mut rest = bytes;
    let value: Vec<Datum> = shape.0.iter().map(|kind| take(&mut rest, kind)).collect::<Result<_, _>>()?;
    match rest {
        [] => Ok(value),
        rest => Err(format!("{} of its {} bytes are left over", rest.len(), bytes.len())),
    }
}

fn cut<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let short = || format!("it ends where {len} more bytes were expected");
    let (taken, rest) = bytes.split_at_checked(len).ok_or_else(short)?;
    *bytes = rest;
    Ok(taken)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    cut(bytes, N)?.try_into().map_err(|_| "it is too short".to_owned())
}

fn length(bytes: &mut &[u8]) -> Result<usize, String> {
    let len = u64::from_le_bytes(fixed(bytes)?);
    usize::try_from(len).map_err(|_| format!("it says that {len} bytes follow"))
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "its text is not UTF-8".to_owned())
}

fn take(bytes: &mut &[u8], kind: &Kind) -> Result<Datum, String> {
    Ok(match kind {
        Kind::Int(int) => Datum::Int(by_int!(*int, T => T::from_le_bytes(fixed(bytes)?).to_string())),
        Kind::F32 => Datum::Float(f32::from_le_bytes(fixed(bytes)?).into()),
        Kind::F64 => Datum::Float(f64::from_le_bytes(fixed(bytes)?)),
        Kind::Bool => match fixed(bytes)? {
            [0] => Datum::Bool(false),
            [1] => Datum::Bool(true),
            [other] => return Err(format!("a bool is {other:#04x}")),
        },
        Kind::Char => {
            let len = match bytes.first() {
                Some(0xF0..) => 4,
                Some(0xE0..) => 3,
                Some(0xC0..) => 2,
                _ => 1,
            };
            let c = text(cut(bytes, len)?)?.chars().next();
            Datum::Char(c.ok_or("it has no character")?)
        }
        Kind::Text => {
            let len = length(bytes)?;
            Datum::Text(text(cut(bytes, len)?)?)
        }
        Kind::Bytes => {
            let len = length(bytes)?;
            Datum::Bytes(cut(bytes, len)?.to_vec())
        }
        Kind::Array(len) => Datum::Bytes(cut(bytes, *len)?.to_vec()),
        Kind::Uuid => match length(bytes)? {
            16 => Datum::Uuid(Uuid::from_bytes(fixed(bytes)?).to_string()),
            other => return Err(format!("a UUID of {other} bytes")),
        },
        Kind::Time => {
            let seconds = u64::from_le_bytes(fixed(bytes)?);
            let seconds = i64::try_from(seconds).map_err(|_| "a time beyond all times".to_owned())?;
            Datum::Time(seconds, u32::from_le_bytes(fixed(bytes)?))
        }
        Kind::Maybe(inner) => match fixed(bytes)? {
            [0] => Datum::None,
            [1] => take(bytes, inner)?,
            [other] => return Err(format!("an option starts with {other:#04x}")),
        },
        // The order is of keys only; a value is the same.
        Kind::Reverse(inner) => take(bytes, inner)?,
        Kind::List(inner) => {
            let len = length(bytes)?;
            // Each has a byte at least, but for arrays of none.
            if len > bytes.len() {
                return Err(format!("it says that {len} items follow"));
            }
            Datum::List((0..len).map(|_| take(bytes, inner)).collect::<Result<_, _>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::row;

    fn decoded(bytes: &[u8], types: &str) -> Result<String, String> {
        decode(bytes, &types.parse().unwrap()).map(|value| row(&value))
    }

    #[test]
    fn values_are_decoded_by_their_types() {
        assert_eq!(decoded(&7u64.to_le_bytes(), "u64").unwrap(), "7");
        assert_eq!(decoded(&(-7i64).to_le_bytes(), "i64").unwrap(), "-7");
        assert_eq!(decoded(&1.5f64.to_le_bytes(), "f64").unwrap(), "1.5");
        let mixed = b"\x02\0\0\0\0\0\0\0hi\x01\x01\x05\0";
        assert_eq!(decoded(mixed, "string,bool,option:u16").unwrap(), "hi,true,5");
        assert_eq!(decoded(b"\x02\0\0\0\0\0\0\0\x03\x04", "list:u8").unwrap(), "[3,4]");
        assert_eq!(decoded("é".as_bytes(), "char").unwrap(), "é");
    }

    #[test]
    fn other_types_are_an_error_and_take_no_memory() {
        for (bytes, types) in [
            (&[1u8, 2, 3, 4][..], "u64"),
            (&[0; 8], "i32"),
            (&[9], "bool"),
            (&[0xFF; 8], "string"),
            (&[0xFF; 8], "list:array:0"),
            (&[0xFF; 9], "list:u8"),
            (&[2], "option:u8"),
        ] {
            assert!(decoded(bytes, types).is_err(), "{types}");
        }
    }
}
