//! Keys of views as text: `jsmith,7` for a `string,u64`. Pure.
//!
//! Components have commas between. One that a comma, a quotation mark or a blank at an end is in stands between quotation
//! marks, with `\"`, `\\`, `\n`, `\t` and `\u{…}` for what cannot be written otherwise. Where no types are given, a key is
//! its bytes, with `\xNN` for those that are no plain characters.

use std::str::Chars;

use everfold::{Key, Uuid};
use jiff::Timestamp;

use crate::datum::Datum;
use crate::render::unhex;
use crate::shape::{Kind, Shape, by_int};

/// A component as it was given.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    text: String,
    quoted: bool,
}

/// A key, whole: as many components as there are types. Without types: bytes.
pub(crate) fn encode(text: &str, shape: Option<&Shape>) -> Result<Vec<u8>, String> {
    let Some(shape) = shape else { return unescape(text) };
    let parts = parts(text)?;
    if parts.len() != shape.0.len() {
        return Err(format!(
            "the key {text:?} has {} components, and its type has {}",
            parts.len(),
            shape.0.len()
        ));
    }
    let mut out = Vec::new();
    for (part, kind) in parts.iter().zip(&shape.0) {
        put(part, kind, &mut out)?;
    }
    Ok(out)
}

/// The start of keys: the first of their components, or all. The last one, if it is text or bytes, is itself only a start,
/// unless a comma follows it.
pub(crate) fn encode_start(text: &str, shape: Option<&Shape>, open: bool) -> Result<Vec<u8>, String> {
    let Some(shape) = shape else { return unescape(text) };
    let mut parts = parts(text)?;
    let closed = parts.len() > 1 && parts.last().is_some_and(|part| part.text.is_empty() && !part.quoted);
    if closed {
        parts.pop();
    }
    if parts.len() > shape.0.len() {
        return Err(format!("{text:?} has more components than the type of the key"));
    }
    let mut out = Vec::new();
    let last = parts.len() - 1;
    for (at, (part, kind)) in parts.iter().zip(&shape.0).enumerate() {
        put(part, kind, &mut out)?;
        // Without the mark that ends it.
        if open && !closed && at == last && matches!(kind, Kind::Text | Kind::Bytes) {
            out.truncate(out.len().saturating_sub(2));
        }
    }
    Ok(out)
}

/// The components of an encoded key, and what follows it.
pub(crate) fn decode<'a>(mut bytes: &'a [u8], shape: &Shape) -> Result<(Vec<Datum>, &'a [u8]), String> {
    let key = shape.0.iter().map(|kind| take(&mut bytes, kind)).collect::<Result<_, _>>();
    key.map(|key| (key, bytes))
}

/// The same of a key that nothing follows.
pub(crate) fn decode_whole(bytes: &[u8], shape: &Shape) -> Result<Vec<Datum>, String> {
    match decode(bytes, shape) {
        Ok((key, [])) => Ok(key),
        Ok((_, rest)) => Err(format!(
            "a key is not of the type that was given: {} bytes are left over; the key is {}",
            rest.len(),
            bytes.escape_ascii()
        )),
        Err(error) => Err(format!(
            "a key is not of the type that was given: {error}; the key is {}",
            bytes.escape_ascii()
        )),
    }
}

fn put(part: &Part, kind: &Kind, out: &mut Vec<u8>) -> Result<(), String> {
    let text = part.text.as_str();
    let no = |what: &str| format!("{text:?} is no {what}");
    match kind {
        Kind::Int(int) => by_int!(*int, T => {
            text.parse::<T>().map_err(|_| no(std::any::type_name::<T>()))?.encode(out);
        }),
        Kind::Bool => text.parse::<bool>().map_err(|_| no("bool: give true or false"))?.encode(out),
        Kind::Char => text.parse::<char>().map_err(|_| no("single character"))?.encode(out),
        Kind::Text => part.text.clone().encode(out),
        Kind::Bytes => unhex(text).ok_or_else(|| no("hexadecimal number"))?.encode(out),
        Kind::Array(len) => {
            let bytes = unhex(text).filter(|bytes| bytes.len() == *len);
            out.extend(bytes.ok_or_else(|| no(&format!("hexadecimal number of {len} bytes")))?);
        }
        Kind::Uuid => text.parse::<Uuid>().map_err(|_| no("UUID"))?.encode(out),
        Kind::Time => {
            let time: Timestamp = text.parse().map_err(|_| no("time like 2026-01-31T12:00:00Z"))?;
            let nanos = time.as_nanosecond();
            let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).map_err(|_| no("time"))?;
            seconds.encode(out);
            u32::try_from(nanos.rem_euclid(1_000_000_000)).map_err(|_| no("time"))?.encode(out);
        }
        Kind::Maybe(_) if text == "none" && !part.quoted => out.push(0),
        Kind::Maybe(inner) => {
            out.push(1);
            put(part, inner, out)?;
        }
        Kind::Reverse(inner) => {
            let start = out.len();
            put(part, inner, out)?;
            out.iter_mut().skip(start).for_each(|byte| *byte = !*byte);
        }
        Kind::F32 | Kind::F64 | Kind::List(_) => return Err("no key has floats or lists in it".into()),
    }
    Ok(())
}

fn take(bytes: &mut &[u8], kind: &Kind) -> Result<Datum, String> {
    fn of<K: Key>(bytes: &mut &[u8]) -> Result<K, String> {
        K::decode(bytes).map_err(|e| e.to_string())
    }
    Ok(match kind {
        Kind::Int(int) => Datum::Int(by_int!(*int, T => of::<T>(bytes)?.to_string())),
        Kind::Bool => Datum::Bool(of(bytes)?),
        Kind::Char => Datum::Char(of(bytes)?),
        Kind::Text => Datum::Text(of(bytes)?),
        Kind::Bytes => Datum::Bytes(of(bytes)?),
        Kind::Array(len) => {
            let (taken, rest) = bytes.split_at_checked(*len).ok_or("the key ends before its array does")?;
            *bytes = rest;
            Datum::Bytes(taken.to_vec())
        }
        Kind::Uuid => Datum::Uuid(of::<Uuid>(bytes)?.to_string()),
        Kind::Time => Datum::Time(of(bytes)?, of(bytes)?),
        Kind::Maybe(inner) => match of::<u8>(bytes)? {
            0 => Datum::None,
            1 => take(bytes, inner)?,
            other => return Err(format!("an optional component starts with {other:#04x}")),
        },
        Kind::Reverse(inner) => {
            let flipped: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            let mut rest = flipped.as_slice();
            let datum = take(&mut rest, inner)?;
            *bytes = bytes.get(bytes.len() - rest.len()..).unwrap_or_default();
            datum
        }
        Kind::F32 | Kind::F64 | Kind::List(_) => return Err("no key has floats or lists in it".into()),
    })
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest) = (Vec::new(), text.chars());
    loop {
        let mut part = Part { text: String::new(), quoted: false };
        let mut more = false;
        while let Some(c) = rest.next() {
            match c {
                ',' => {
                    more = true;
                    break;
                }
                '"' if part.text.is_empty() && !part.quoted => {
                    part.quoted = true;
                    quoted(&mut rest, &mut part.text)?;
                }
                _ if part.quoted => {
                    return Err(format!("in {text:?} a comma is missing after a quotation mark"));
                }
                c => part.text.push(c),
            }
        }
        parts.push(part);
        if !more {
            return Ok(parts);
        }
    }
}

/// What is between quotation marks; the first is read.
fn quoted(rest: &mut Chars<'_>, out: &mut String) -> Result<(), String> {
    loop {
        match rest.next() {
            None => return Err("a quotation mark is not closed".into()),
            Some('"') => return Ok(()),
            Some('\\') => out.push(escaped(rest)?),
            Some(c) => out.push(c),
        }
    }
}

fn escaped(rest: &mut Chars<'_>) -> Result<char, String> {
    match rest.next() {
        Some(c @ ('"' | '\\')) => Ok(c),
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('u') => {
            let digits: String = rest.by_ref().skip_while(|c| *c == '{').take_while(|c| *c != '}').collect();
            let c = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
            c.ok_or_else(|| format!("\\u{{{digits}}} is no character"))
        }
        _ => Err(r#"between quotation marks \ stands before ", \, n, t or u{…} only"#.into()),
    }
}

/// Bytes as [`escape_ascii`](slice::escape_ascii) writes them.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let (mut out, mut rest) = (Vec::new(), text.chars());
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        match rest.next() {
            Some(c @ ('"' | '\\' | '\'')) => out.extend(u8::try_from(c).ok()),
            Some('n') => out.push(b'\n'),
            Some('r') => out.push(b'\r'),
            Some('t') => out.push(b'\t'),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let byte = unhex(&digits).and_then(|bytes| bytes.first().copied());
                out.push(byte.ok_or_else(|| format!("\\x{digits} is no byte"))?);
            }
            _ => {
                return Err(
                    r"in a key without a type \ stands before \, n, r, t or xNN only; or give --key".into()
                );
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum;

    fn shape(text: &str) -> Shape {
        text.parse().unwrap()
    }

    fn of<K: Key>(key: &K) -> Vec<u8> {
        let mut out = Vec::new();
        key.encode(&mut out);
        out
    }

    #[test]
    fn keys_are_those_of_the_library_and_come_back_as_they_were_given() {
        let cases: [(&str, &str, Vec<u8>); 8] = [
            ("string,u64", "jsmith,7", of(&("jsmith".to_owned(), 7u64))),
            ("i32,bool,char", "-5,true,é", of(&(-5i32, true, 'é'))),
            ("option:string,u8", "none,1", of(&(None::<String>, 1u8))),
            ("option:string,u8", "\"none\",1", of(&(Some("none".to_owned()), 1u8))),
            ("string", "\"a,\\\"b\\\\ \\n\"", of(&"a,\"b\\ \n".to_owned())),
            ("bytes,u8", "00ff,1", of(&(vec![0u8, 255], 1u8))),
            ("reverse:string,array:2", "b,0102", of(&(std::cmp::Reverse("b".to_owned()), [1u8, 2]))),
            (
                "time,u8",
                "1969-12-31T23:59:59.5Z,1",
                of(&(std::time::UNIX_EPOCH - std::time::Duration::from_millis(500), 1u8)),
            ),
        ];
        for (types, text, bytes) in cases {
            let shape = shape(types);
            assert_eq!(encode(text, Some(&shape)).unwrap(), bytes, "{text}");
            assert_eq!(datum::row(&decode_whole(&bytes, &shape).unwrap()), text);
        }
        let bytes = of(&("a\0".to_owned(), 513u16));
        assert_eq!(encode(&bytes.escape_ascii().to_string(), None).unwrap(), bytes);
    }

    #[test]
    fn the_start_of_a_key_ends_where_a_comma_says_so() {
        let shape = shape("string,u8");
        assert_eq!(encode_start("js", Some(&shape), true).unwrap(), b"js");
        assert_eq!(encode_start("js,", Some(&shape), true).unwrap(), b"js\0\x01");
        assert_eq!(encode_start("js", Some(&shape), false).unwrap(), b"js\0\x01");
        assert_eq!(encode_start("js,3", Some(&shape), true).unwrap(), b"js\0\x01\x03");
        assert!(encode_start("js,3,4", Some(&shape), true).is_err());
    }

    #[test]
    fn what_is_no_key_of_the_type_is_told() {
        for (types, text) in
            [("u8", "256"), ("u8", "a"), ("string,u8", "a"), ("u8", "1,2"), ("string", "\"a"), ("uuid", "7")]
        {
            assert!(encode(text, Some(&shape(types))).is_err(), "{types} {text}");
        }
        for (types, bytes) in
            [("u8", &b"\x01\x02"[..]), ("u16", b"\x01"), ("string", b"a"), ("option:u8", b"\x02")]
        {
            assert!(decode_whole(bytes, &shape(types)).is_err(), "{types}");
        }
        assert!(encode("\\y", None).is_err());
    }
}
