//! Keys of views and their prefixes; typed payloads.

use std::fmt::Debug;

use uuid::Uuid;

use super::edits::Input;
use crate::codec;
use crate::error::ErrorKind;
use crate::event::{Position, Version};
use crate::view::key::Key;
use crate::view::pieces::{self, Head, PIECE};
use crate::view::prefix::KeyPrefix;
use crate::view::rows::VALUE_LIMIT;

type Texts = (String, Vec<u8>, Option<String>);
type Numbers = (u8, i16, u32, i64, u128, i128);
type Others = (bool, char, Uuid, [u8; 3], Option<Option<i8>>, (Position, Version, ()));

/// A choice of type, and two keys of it, one after the other.
pub(super) fn key(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 6 {
        0 => check_keys::<Texts>(input.rest()),
        1 => check_keys::<Numbers>(input.rest()),
        2 => check_keys::<Others>(input.rest()),
        3 => check_prefixes(input.rest()),
        4 => check_keys::<(String, u16, Vec<u8>, Option<u8>)>(input.rest()),
        _ => check_head(input.rest()),
    }
}

fn encoded<K: Key>(key: &K) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes);
    bytes
}

/// What decodes is the one encoding of its key.
fn decoded<K: Key>(bytes: &mut &[u8]) -> Option<K> {
    let before = *bytes;
    match K::decode(bytes) {
        Ok(key) => {
            assert_eq!([&encoded(&key), *bytes].concat(), before, "what decodes encodes to the same bytes");
            Some(key)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Codec);
            None
        }
    }
}

fn check_keys<K: Key + Ord + Debug>(mut bytes: &[u8]) {
    let Some(first) = decoded::<K>(&mut bytes) else { return };
    let Some(second) = decoded::<K>(&mut bytes) else { return };
    let (left, right) = (encoded(&first), encoded(&second));
    assert_eq!(left.cmp(&right), first.cmp(&second), "the order of the bytes is that of the keys");
    assert_eq!(left.starts_with(&right), first == second, "no encoding begins with another one");
}

fn check_prefixes(mut bytes: &[u8]) {
    type Triple = (String, Vec<u8>, u8);
    let (Some(one), Some(other)) = (decoded::<Triple>(&mut bytes), decoded::<Triple>(&mut bytes)) else {
        return;
    };
    let whole = encoded(&other);
    let starts = |prefix: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        prefix(&mut bytes);
        whole.starts_with(&bytes)
    };
    let first = starts(&|out| KeyPrefix::<Triple>::encode_prefix(&(one.0.as_str(),), out));
    let both = starts(&|out| KeyPrefix::<Triple>::encode_prefix(&(one.0.as_str(), one.1.as_slice()), out));
    assert_eq!(first, one.0 == other.0);
    assert_eq!(both, (&one.0, &one.1) == (&other.0, &other.1));
    let mut prefix = Vec::new();
    KeyPrefix::<String>::encode_prefix(one.0.as_str(), &mut prefix);
    assert_eq!(encoded(&other.0).starts_with(&prefix), other.0.starts_with(&one.0));
}

/// What is stored under a row's key, and the key.
fn check_head(stored: &[u8]) {
    if let Ok(head) = Head::parse(stored) {
        assert!(head.len <= VALUE_LIMIT && head.start.len() == head.len.min(PIECE));
        assert_eq!(head.pieces().count(), head.len.div_ceil(PIECE).saturating_sub(1));
    }
    if let Ok(key) = pieces::key_of(stored) {
        assert_eq!(pieces::row_key(key), stored);
    }
    let (head, rest) = pieces::cut(stored);
    assert!(
        Head::parse(&head).is_ok_and(|head| head.len == stored.len()) && rest.count() < stored.len().max(1)
    );
}

/// A choice of type, and bytes of a value.
pub(super) fn payload(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 5 {
        0 => check_payload::<(String, u64, Option<Vec<u8>>)>(input.rest()),
        1 => check_payload::<Vec<(u32, bool, char)>>(input.rest()),
        2 => check_payload::<std::collections::BTreeMap<String, Vec<i16>>>(input.rest()),
        3 => check_payload::<Result<Uuid, (Position, Version)>>(input.rest()),
        _ => check_payload::<Vec<Vec<u64>>>(input.rest()),
    }
}

fn check_payload<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq>(bytes: &[u8]) {
    match codec::from_slice::<T>(bytes) {
        Ok(value) => {
            let encoded = codec::to_vec(&value).unwrap_or_default();
            assert!(encoded.len() <= bytes.len(), "a value takes no more than it was read from");
            assert!(codec::from_slice::<T>(&encoded).is_ok_and(|same| same == value));
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Codec),
    }
}
