//! The engines, one file each.

pub(crate) mod commitlog;
pub(crate) mod everfold_peer;
pub(crate) mod fjall;
pub(crate) mod okaywal;
pub(crate) mod raft_engine;
pub(crate) mod redb;
pub(crate) mod sled;
pub(crate) mod sqlite;
pub(crate) mod umadb;

/// The key of an event in a key-value engine: its position, in order.
fn event_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The key of an index entry in a key-value engine: a name, a zero byte, and a number, in order.
fn index_key(name: &str, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 9);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The first and the last key that an index may have for a name.
fn index_range(name: &str) -> std::ops::RangeInclusive<Vec<u8>> {
    index_key(name, 0)..=index_key(name, u64::MAX)
}
