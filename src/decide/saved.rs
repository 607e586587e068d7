//! States of a decider as bytes. A pure codec.
//!
//! ```text
//!  0 "EVFOSTAT"            8 format u32 (1)      12 generation u32      16 store id (16)
//! 32 states u32           36 name length u32     40 name, and the decider's type …
//!    · states, those used last first: length u32, bincode of (head, state) … · crc u32 of all before
//!
//! head: (stream, alternatives of the query, if it is one: (types, tags, stream) …,
//!        last event folded: (position u64, version u64, id u128, fingerprint u32), where the log started then: u64)
//! ```
//!
//! Whatever does not verify is none, and is folded from the log again.

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::boundary::{Boundary, From};
use super::cache::{Entry, LastFolded};
use crate::codec;
use crate::error::Error;
use crate::event::{Position, Version};
use crate::log::layout::{bytes_at, u32_at};
use crate::query::{Query, QueryItem};

const MAGIC: [u8; 8] = *b"EVFOSTAT";
const FORMAT: u32 = 1;
const COUNT: usize = 32;
const NAME: usize = 40;

/// Besides names and states, a file has no more than this.
pub(super) const OVERHEAD: usize = NAME + 4;

/// Whose states they are.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) store_id: Uuid,
    pub(super) name: String,
    pub(super) generation: u32,
}

type Alternatives = Option<Vec<(Vec<String>, Vec<String>, Option<String>)>>;
type Head = (String, Alternatives, (u64, u64, u128, u32), u64);

/// One state, for [`File::push`].
pub(super) fn encode<S: Serialize>(boundary: &Boundary, entry: &Entry<S>) -> Result<Vec<u8>, Error> {
    let alternatives = match &boundary.from {
        From::Stream => None,
        From::Query(query) => {
            Some(query.items().iter().map(|item| (&item.types, &item.tags, &item.stream)).collect::<Vec<_>>())
        }
    };
    let last = &entry.last;
    let last = (last.position.get(), last.version.get(), last.id.as_u128(), last.fingerprint);
    codec::to_vec(&((&boundary.stream, alternatives, last, entry.log_start.get()), &*entry.state))
}

/// The state in some bytes.
pub(super) fn decode<S: DeserializeOwned>(bytes: &[u8]) -> Result<(Boundary, Entry<S>), Error> {
    let (head, state): (Head, S) = codec::from_slice(bytes)?;
    let (stream, alternatives, (position, version, id, fingerprint), log_start) = head;
    let from = match alternatives {
        None => From::Stream,
        Some(items) => {
            let item = |(types, tags, stream)| QueryItem { types, tags, stream };
            let query = Query::of_items(items.into_iter().map(item).collect());
            From::Query(query.ok_or_else(|| Error::invalid("a query without alternatives finds nothing"))?)
        }
    };
    let last = LastFolded {
        position: Position::new(position),
        version: Version::new(version),
        id: Uuid::from_u128(id),
        fingerprint,
    };
    let entry = Entry { state: state.into(), last, log_start: Position::new(log_start) };
    Ok((Boundary { from, stream }, entry))
}

/// A file being made.
#[derive(Debug)]
pub(super) struct File {
    bytes: Vec<u8>,
    count: u32,
}

impl File {
    pub(super) fn new(owner: &Owner) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&owner.generation.to_le_bytes());
        bytes.extend_from_slice(owner.store_id.as_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&u32::try_from(owner.name.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(owner.name.as_bytes());
        File { bytes, count: 0 }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Adds a state, if the file is then no longer than so many bytes. Returns whether it is.
    pub(super) fn push(&mut self, state: &[u8], most: usize) -> bool {
        let fits = self.bytes.len().saturating_add(state.len()).saturating_add(8) <= most;
        let (Some(count), Ok(len)) = (self.count.checked_add(1), u32::try_from(state.len())) else {
            return false;
        };
        if fits {
            self.count = count;
            self.bytes.extend_from_slice(&len.to_le_bytes());
            self.bytes.extend_from_slice(state);
        }
        fits
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if let Some(count) = self.bytes.get_mut(COUNT..COUNT + 4) {
            count.copy_from_slice(&self.count.to_le_bytes());
        }
        let crc = crc32fast::hash(&self.bytes);
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// The states in a file, in order. `None`: these are not the bytes of one, or it is another one's.
pub(super) fn states<'a>(bytes: &'a [u8], owner: &Owner) -> Option<Vec<&'a [u8]>> {
    let end = bytes.len().checked_sub(4)?;
    if crc32fast::hash(bytes.get(..end)?) != u32_at(bytes, end)? {
        return None;
    }
    let found: [u8; 8] = bytes_at(bytes, 0)?;
    let name_len = usize::try_from(u32_at(bytes, 36)?).ok()?;
    let mut at = NAME.checked_add(name_len)?;
    let own = found == MAGIC
        && u32_at(bytes, 8)? == FORMAT
        && u32_at(bytes, 12)? == owner.generation
        && bytes_at(bytes, 16)? == *owner.store_id.as_bytes()
        && bytes.get(NAME..at)? == owner.name.as_bytes();
    own.then_some(())?;
    let mut states = Vec::new();
    for _ in 0..u32_at(bytes, COUNT)? {
        let start = at.checked_add(4)?;
        at = start.checked_add(usize::try_from(u32_at(bytes, at)?).ok()?)?;
        states.push(bytes.get(..end)?.get(start..at)?);
    }
    (at == end).then_some(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { store_id: Uuid::from_u128(7), name: "bank".into(), generation: 3 }
    }

    fn entry(state: &str) -> Entry<String> {
        let last = LastFolded {
            position: Position::new(9),
            version: Version::new(4),
            id: Uuid::from_u128(11),
            fingerprint: 5,
        };
        Entry { state: state.to_owned().into(), last, log_start: Position::new(2) }
    }

    fn boundaries() -> [Boundary; 2] {
        let query = Query::all().tags(["account:1"]).types(["paid"]).or(Query::all().stream("s"));
        [Boundary::stream("account-1"), Boundary::query(query, "transfers")]
    }

    fn file() -> Vec<u8> {
        let mut file = File::new(&owner());
        for (boundary, state) in boundaries().iter().zip(["one", "two"]) {
            assert!(file.push(&encode(boundary, &entry(state)).unwrap(), 1 << 10));
        }
        file.finish()
    }

    #[test]
    fn states_come_back_with_what_they_are_of() {
        let bytes = file();
        let found = states(&bytes, &owner()).unwrap();
        assert_eq!(found.len(), 2);
        for ((bytes, boundary), state) in found.into_iter().zip(boundaries()).zip(["one", "two"]) {
            let (of, found) = decode::<String>(bytes).unwrap();
            assert_eq!((of, found.last, found.log_start), (boundary, entry("").last, Position::new(2)));
            assert_eq!(*found.state, state);
        }
    }

    #[test]
    fn whatever_is_damaged_cut_short_or_anothers_is_none() {
        let bytes = file();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(states(&bad, &owner()).is_none(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(states(bytes.get(..len).unwrap(), &owner()).is_none(), "{len} bytes");
        }
        for owner in [
            Owner { store_id: Uuid::nil(), ..owner() },
            Owner { name: "ban".into(), ..owner() },
            Owner { name: "banks".into(), ..owner() },
            Owner { generation: 2, ..owner() },
        ] {
            assert!(states(&bytes, &owner).is_none(), "{owner:?}");
        }
    }

    #[test]
    fn lengths_that_verify_and_are_not_those_of_states_are_none() {
        for (at, wrong) in
            [(COUNT, 3u32), (COUNT, 1), (COUNT, u32::MAX), (36, 3), (36, u32::MAX), (NAME + 4, 1)]
        {
            let mut bad = file();
            bad.truncate(bad.len() - 4);
            bad[at..at + 4].copy_from_slice(&wrong.to_le_bytes());
            bad.extend_from_slice(&crc32fast::hash(&bad).to_le_bytes());
            assert!(states(&bad, &owner()).is_none(), "{wrong} at {at}");
        }
    }

    #[test]
    fn a_file_takes_no_more_than_it_may() {
        let mut file = File::new(&owner());
        let most = OVERHEAD + owner().name.len() + 4 + 3;
        assert!(file.push(b"abc", most) && !file.push(b"", most));
        assert_eq!((file.count(), file.finish().len()), (1, most));
    }
}
