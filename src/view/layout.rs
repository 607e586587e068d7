//! Where the rows of the views of one projection lie in the one key space they share, and which views those are. Pure.
//!
//! ```text
//! 00 01               the names of the other views and of the indexes, in order    (where there are any)
//! 00 02               how many rows each of the views has, as u64 LE, its own first (where there are any)
//! 00 03, 00 04        events that were set aside: see `set_aside`
//! 01 key              the rows of the projection's own view
//! 02 n key            the rows of its n-th named view, from 1
//! 03 n entry key      an entry of its n-th index, from 1: the index's key, then that of the row; no value
//!
//! 00 01 →  0 format u8 (1)   1 views u8   2 indexes u8
//!          3 for each view, then for each index: the view it is of u8, length u8, name    …   crc u32 of all before
//! ```
//!
//! The names are written before any other row, and the number of rows together with the rows: so rows are never taken
//! for those of another view, when what a projection declares has changed and its generation has not.

use std::any::TypeId;

use super::digest::{Digest, RowHash};
use super::key::Key;
use super::levels::Version;
use super::rows::Change;
use crate::error::{Error, ErrorKind};
use crate::log::layout::u32_at;

/// How many named views a projection may have, and how many indexes.
pub const MAX_NAMED_VIEWS: usize = 64;

const NAMES_KEY: [u8; 2] = [0, 1];
const COUNTS_KEY: [u8; 2] = [0, 2];
const NAMES_FORMAT: u8 = 1;
const OWN: u8 = 1;
const NAMED: u8 = 2;
const INDEX: u8 = 3;

/// One of the views of a projection: its own, or a named one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part(u8);

impl Part {
    /// The projection's own view.
    pub(crate) const OWN: Part = Part(0);

    /// The n-th of the named views, from 1.
    pub(crate) const fn named(number: u8) -> Self {
        Part(number)
    }

    pub(crate) const fn number(self) -> u8 {
        self.0
    }

    /// Puts the first bytes of its rows' keys in place of what is there.
    pub(crate) fn start(self, key: &mut Vec<u8>) {
        key.clear();
        match self.0 {
            0 => key.push(OWN),
            number => key.extend_from_slice(&[NAMED, number]),
        }
    }

    /// The key of a row, with its first bytes.
    pub(crate) fn row_key<K: Key>(self, key: &K) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.start(&mut bytes);
        key.encode(&mut bytes);
        bytes
    }

    /// A row's key without its first bytes.
    pub(crate) fn strip(self, key: &[u8]) -> Option<&[u8]> {
        match self.0 {
            0 => key.strip_prefix(&[OWN]),
            number => key.strip_prefix(&[NAMED, number]),
        }
    }
}

/// One of the indexes of a projection, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexNumber(u8);

impl IndexNumber {
    /// The first bytes of its entries' keys.
    pub(crate) const fn start(self) -> [u8; 2] {
        [INDEX, self.0]
    }
}

#[derive(Clone, Debug)]
struct Declared {
    name: &'static str,
    kind: TypeId,
    /// Of an index: the view it is of.
    of: Part,
}

/// The views and indexes that a projection declares besides its own view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    views: Vec<Declared>,
    indexes: Vec<Declared>,
}

impl Layout {
    pub(crate) fn add_view(&mut self, name: &'static str, kind: TypeId) -> Result<Part, Error> {
        self.check(name, self.views.len(), "named views")?;
        self.views.push(Declared { name, kind, of: Part::OWN });
        Ok(Part::named(number(self.views.len())))
    }

    pub(crate) fn add_index(
        &mut self,
        name: &'static str,
        kind: TypeId,
        of: Part,
    ) -> Result<IndexNumber, Error> {
        self.check(name, self.indexes.len(), "indexes")?;
        self.indexes.push(Declared { name, kind, of });
        Ok(IndexNumber(number(self.indexes.len())))
    }

    fn check(&self, name: &str, declared: usize, what: &str) -> Result<(), Error> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !(1..=64).contains(&name.len()) || !name.chars().all(fits) {
            return Err(Error::invalid(format!(
                "a view or index is declared as {name:?}: give 1 to 64 of a-z, 0-9, - and _"
            )));
        }
        if self.views.iter().chain(&self.indexes).any(|other| other.name == name) {
            return Err(Error::invalid(format!(
                "two views or indexes of one projection are named {name:?}: give each a name of its own"
            )));
        }
        if declared >= MAX_NAMED_VIEWS {
            return Err(Error::invalid(format!(
                "{MAX_NAMED_VIEWS} {what} are the most a projection may have"
            )));
        }
        Ok(())
    }

    /// The named view of this type.
    pub(crate) fn view(&self, kind: TypeId, name: &str) -> Result<Part, Error> {
        let place = self.views.iter().position(|view| view.kind == kind);
        place.map(|place| Part::named(number(place + 1))).ok_or_else(|| {
            Error::invalid(format!(
                "the projection has no view {name:?} of this type: declare it in `Projection::views`"
            ))
        })
    }

    /// The index of this type on a view.
    pub(crate) fn index(&self, kind: TypeId, of: Part, name: &str) -> Result<IndexNumber, Error> {
        let place = self.indexes.iter().position(|index| (index.kind, index.of) == (kind, of));
        place.map(|place| IndexNumber(number(place + 1))).ok_or_else(|| {
            Error::invalid(format!(
                "the view has no index {name:?} of this type: declare it in `Projection::views`"
            ))
        })
    }

    /// Whether the projection has its own view only.
    pub(crate) fn is_plain(&self) -> bool {
        self.views.is_empty() && self.indexes.is_empty()
    }

    pub(crate) fn named_views(&self) -> usize {
        self.views.len()
    }

    /// The rows that are there before any other, and what tells them.
    pub(crate) fn first_rows(&self) -> (Vec<Change>, Digest) {
        let mut digest = Digest::default();
        if self.is_plain() {
            return (Vec::new(), digest);
        }
        let counts = Counts(vec![0; self.views.len() + 1]);
        let rows = [(NAMES_KEY.to_vec(), self.encode()), (COUNTS_KEY.to_vec(), counts.encode())];
        rows.iter().for_each(|(key, value)| digest.add(RowHash::of(key, value)));
        (rows.into_iter().map(|(key, value)| (key, Some(value))).collect(), digest)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![NAMES_FORMAT, number(self.views.len()), number(self.indexes.len())];
        for declared in self.views.iter().chain(&self.indexes) {
            bytes.extend_from_slice(&[declared.of.0, number(declared.name.len())]);
            bytes.extend_from_slice(declared.name.as_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether rows are of these views and indexes: they are not when others were declared when they were written.
    pub(crate) fn check_rows(&self, found: Option<&[u8]>) -> Result<(), String> {
        let expected = if self.is_plain() { None } else { Some(self.encode()) };
        if found == expected.as_deref() {
            return Ok(());
        }
        Err("it was made with other named views or indexes than the projection declares now".into())
    }

    /// The names that rows have, as [`check_rows`](Self::check_rows) wants them.
    pub(crate) const fn names_key() -> [u8; 2] {
        NAMES_KEY
    }

    /// How many rows each view has.
    pub(crate) fn counts(&self, version: &Version) -> Result<Counts, Error> {
        if self.is_plain() {
            let meta = version.meta();
            return Ok(Counts(vec![meta.digest.rows.wrapping_sub(meta.beside.rows())]));
        }
        let found = version.get(&COUNTS_KEY)?;
        found.and_then(|bytes| Counts::decode(&bytes, self.views.len() + 1)).ok_or_else(uncounted)
    }
}

/// The named views and indexes that rows say they have, in order, for who does not know the projection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) views: Vec<String>,
    /// Each with the view it is of.
    pub(crate) indexes: Vec<(String, Part)>,
}

impl Names {
    /// What is under [`names_key`](Layout::names_key); `None`: these are not the bytes of it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.len().checked_sub(4)?;
        let said = bytes.get(..end)?;
        if crc32fast::hash(said) != u32_at(bytes, end)? {
            return None;
        }
        let [NAMES_FORMAT, views, indexes, rest @ ..] = said else { return None };
        let mut rest = rest;
        let mut next = || {
            let [of, len, after @ ..] = rest else { return None };
            let (name, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            Some((String::from_utf8(name.to_vec()).ok()?, Part(*of)))
        };
        let views = (0..*views).map(|_| next().map(|(name, _)| name)).collect::<Option<_>>()?;
        let indexes = (0..*indexes).map(|_| next()).collect::<Option<_>>()?;
        rest.is_empty().then_some(Names { views, indexes })
    }

    /// How many rows each view has.
    pub(crate) fn counts(&self, version: &Version) -> Result<Counts, Error> {
        let found = version.get(&COUNTS_KEY)?;
        found.and_then(|bytes| Counts::decode(&bytes, self.views.len() + 1)).ok_or_else(uncounted)
    }

    /// Where the rows of a view begin; of the projection's own without a name.
    pub(crate) fn view_start(&self, name: Option<&str>) -> Option<Vec<u8>> {
        let mut start = Vec::new();
        let part = match name {
            None => Part::OWN,
            Some(name) => Part::named(number(self.views.iter().position(|view| view == name)? + 1)),
        };
        part.start(&mut start);
        Some(start)
    }

    /// Where the entries of an index begin.
    pub(crate) fn index_start(&self, name: &str) -> Option<Vec<u8>> {
        let place = self.indexes.iter().position(|(index, _)| index == name)?;
        Some(IndexNumber(number(place + 1)).start().to_vec())
    }
}

fn uncounted() -> Error {
    Error::new(ErrorKind::View, "the view is damaged: it does not say how many rows there are")
}

/// A number that is known to be small.
fn number(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// How many rows each view of a projection has, its own first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts(Vec<u64>);

impl Counts {
    pub(crate) fn of(&self, part: Part) -> u64 {
        self.0.get(usize::from(part.0)).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, part: Part, added: u64, removed: u64) {
        if let Some(count) = self.0.get_mut(usize::from(part.0)) {
            *count = count.wrapping_add(added).wrapping_sub(removed);
        }
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|count| count.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8], views: usize) -> Option<Self> {
        let (counts, rest) = bytes.as_chunks::<8>();
        (counts.len() == views && rest.is_empty()).then_some(())?;
        Some(Counts(counts.iter().map(|count| u64::from_le_bytes(*count)).collect()))
    }

    /// What changes in the rows when the counts do, and in what tells them.
    pub(crate) fn change(&self, before: &Counts, digest: &mut Digest) -> Option<Change> {
        if self == before {
            return None;
        }
        let value = self.encode();
        digest.remove(RowHash::of(&COUNTS_KEY, &before.encode()));
        digest.add(RowHash::of(&COUNTS_KEY, &value));
        Some((COUNTS_KEY.to_vec(), Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct First;
    struct Second;

    fn layout(views: &[&'static str], indexes: &[&'static str]) -> Layout {
        let mut layout = Layout::default();
        for name in views {
            layout.add_view(name, TypeId::of::<First>()).unwrap();
        }
        for name in indexes {
            layout.add_index(name, TypeId::of::<Second>(), Part::OWN).unwrap();
        }
        layout
    }

    #[test]
    fn rows_of_other_declarations_are_told() {
        let layouts = [
            layout(&[], &[]),
            layout(&["a"], &[]),
            layout(&["b"], &[]),
            layout(&["a", "b"], &[]),
            layout(&["b", "a"], &[]),
            layout(&["ab"], &[]),
            layout(&["a"], &["b"]),
            layout(&[], &["a"]),
        ];
        for (n, written) in layouts.iter().enumerate() {
            let rows = written.first_rows().0;
            let names = rows.iter().find(|(key, _)| *key == NAMES_KEY).and_then(|(_, value)| value.clone());
            for (m, declared) in layouts.iter().enumerate() {
                assert_eq!(declared.check_rows(names.as_deref()).is_ok(), n == m, "{n} {m}");
            }
        }
    }

    #[test]
    fn names_are_short_plain_and_different_and_there_are_so_many() {
        let kind = TypeId::of::<First>();
        let mut layout = layout(&["a"], &["b"]);
        for name in ["", "a", "b", "A", "ä", "x y"] {
            assert_eq!(layout.add_view(name, kind).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
            assert_eq!(layout.add_index(name, kind, Part::OWN).unwrap_err().kind(), ErrorKind::Invalid);
        }
        let names: Vec<&'static str> =
            (1..=MAX_NAMED_VIEWS).map(|n| &*String::leak(format!("view-{n}"))).collect();
        let (last, fit) = names.split_last().unwrap();
        for name in fit {
            layout.add_view(name, kind).unwrap();
        }
        assert_eq!(layout.add_view(last, kind).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn names_come_back_without_the_projection_and_every_flipped_bit_is_found() {
        let bytes = layout(&["a", "by-item"], &["price"]).encode();
        let names = Names::decode(&bytes).unwrap();
        assert_eq!(names.views, ["a", "by-item"]);
        assert_eq!(names.indexes, [("price".to_owned(), Part::OWN)]);
        assert_eq!(names.view_start(None), Some(vec![OWN]));
        assert_eq!(names.view_start(Some("by-item")), Some(vec![NAMED, 2]));
        assert_eq!(names.index_start("price"), Some(vec![INDEX, 1]));
        assert_eq!((names.view_start(Some("price")), names.index_start("a")), (None, None));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Names::decode(&bad), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Names::decode(bytes.get(..len).unwrap()), None, "cut to {len}");
        }
    }

    #[test]
    fn the_bytes_of_a_layout_never_change() {
        let bytes = layout(&["by-item"], &["price"]).encode();
        assert_eq!(bytes[..bytes.len() - 4], *b"\x01\x01\x01\0\x07by-item\0\x05price");
        let mut key = vec![9];
        Part::OWN.start(&mut key);
        assert_eq!(key, [1]);
        Part::named(3).start(&mut key);
        assert_eq!(key, [2, 3]);
        assert_eq!(Counts(vec![1, 258]).encode(), b"\x01\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0");
    }
}
