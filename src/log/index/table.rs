//! A sorted table of hashes in pages: an entry is on the page that its hash points to, or on one of the next when
//! that is full. So a look-up touches one page, or two.
//!
//! ```text
//!   page: entries u16 · entry · entry · …        entry: hash u64 · value
//!   the entry with hash h is put on page ⌊h · buckets / 2⁶⁴⌋, or on the first after it with room, in order of hashes
//! ```

use std::io;

use super::pages::{IndexFault, PAYLOAD, PageSink, Pages};
use crate::log::layout::{u16_at, u64_at};

/// Before a page's entries: how many there are.
const COUNT: usize = 2;

/// How many entries of a length fit in a page.
const fn per_page(entry_len: usize) -> usize {
    (PAYLOAD - COUNT) / entry_len
}

/// Finds the pages of entries that come in order of their hashes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    per_page: usize,
    buckets: u32,
    page: u32,
    on_page: usize,
}

impl Placement {
    /// For so many entries of a length. Pages are four fifths full on average: then few entries do not find room.
    pub(crate) fn new(entries: u64, entry_len: usize) -> Self {
        let per_page = per_page(entry_len);
        let wanted = entries.div_ceil(u64::try_from(per_page * 4 / 5).unwrap_or(1).max(1));
        Placement { per_page, buckets: u32::try_from(wanted).unwrap_or(u32::MAX).max(1), page: 0, on_page: 0 }
    }

    /// The page of the next entry, and whether it is the first entry there.
    fn place(&mut self, hash: u64) -> u32 {
        let wanted = bucket(hash, self.buckets);
        if wanted > self.page {
            (self.page, self.on_page) = (wanted, 0);
        } else if self.on_page == self.per_page {
            (self.page, self.on_page) = (self.page.saturating_add(1), 0);
        }
        self.on_page += 1;
        self.page
    }

    /// Takes the next entry without writing it.
    pub(crate) fn count(&mut self, hash: u64) {
        self.place(hash);
    }

    pub(crate) fn buckets(&self) -> u32 {
        self.buckets
    }

    /// How many pages the entries so far need.
    pub(crate) fn pages(&self) -> u32 {
        self.buckets.max(self.page.saturating_add(1))
    }
}

/// The place for a hash: hashes are even, so buckets are.
fn bucket(hash: u64, buckets: u32) -> u32 {
    let bucket = (u128::from(hash) * u128::from(buckets)) >> 64;
    u32::try_from(bucket).unwrap_or(u32::MAX)
}

/// Writes a table's pages.
pub(crate) struct TableWriter<'a> {
    sink: &'a mut PageSink,
    placement: Placement,
    shape: Table,
    page: Vec<u8>,
    on_page: u16,
    at: u32,
}

impl<'a> TableWriter<'a> {
    /// Starts a table of so many entries. They must come in order of their hashes.
    pub(crate) fn new(sink: &'a mut PageSink, entries: u64, entry_len: usize) -> Self {
        let placement = Placement::new(entries, entry_len);
        let first = sink.pages;
        let shape = Table { first, buckets: placement.buckets, pages: 0, entry_len };
        TableWriter { sink, placement, shape, page: vec![0; COUNT], on_page: 0, at: 0 }
    }

    /// Adds an entry, which starts with its hash.
    pub(crate) fn push(&mut self, hash: u64, entry: &[u8]) -> io::Result<()> {
        debug_assert_eq!(entry.len(), self.shape.entry_len, "entries are of one length");
        let page = self.placement.place(hash);
        while self.at < page {
            self.next_page()?;
        }
        self.page.extend_from_slice(entry);
        self.on_page += 1;
        Ok(())
    }

    fn next_page(&mut self) -> io::Result<()> {
        for (to, from) in self.page.iter_mut().zip(self.on_page.to_le_bytes()) {
            *to = from;
        }
        self.sink.page(&self.page)?;
        self.page.truncate(COUNT);
        self.on_page = 0;
        self.at += 1;
        Ok(())
    }

    /// Writes what is left. Returns where the table is.
    pub(crate) fn finish(mut self) -> io::Result<Table> {
        let pages = self.placement.pages();
        while self.at < pages {
            self.next_page()?;
        }
        Ok(Table { pages, ..self.shape })
    }
}

/// Where a table is in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) first: u32,
    pub(crate) buckets: u32,
    pub(crate) pages: u32,
    pub(crate) entry_len: usize,
}

impl Table {
    /// Whether it lies in a file of so many pages, after the first, and has room for so many entries.
    pub(crate) fn fits(&self, pages: u32, entries: u64) -> bool {
        let end = u64::from(self.first) + u64::from(self.pages);
        let room = u64::from(self.pages) * u64::try_from(per_page(self.entry_len)).unwrap_or_default();
        self.first > 0 && end <= u64::from(pages) && entries <= room
    }

    /// Hands each entry with a hash to `visit`, in the order in which they were added, until it wants no more.
    pub(crate) fn find(
        &self,
        pages: &Pages,
        hash: u64,
        mut visit: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), IndexFault> {
        let mut at = bucket(hash, self.buckets);
        while at < self.pages {
            let page = pages.page(self.first.saturating_add(at))?;
            let entries = Entries::on(&page, self.entry_len);
            for entry in entries.from(hash) {
                if u64_at(entry, 0) != Some(hash) || !visit(entry) {
                    return Ok(());
                }
            }
            if entries.count < per_page(self.entry_len) {
                return Ok(());
            }
            at += 1;
        }
        Ok(())
    }

    /// Goes through all entries, in order.
    pub(crate) fn entries<'a>(&self, pages: &'a Pages) -> TableCursor<'a> {
        TableCursor { pages, table: *self, page: 0, entry: 0 }
    }
}

/// The entries on a page.
#[derive(Clone, Copy, Debug)]
struct Entries<'a> {
    bytes: &'a [u8],
    entry_len: usize,
    count: usize,
}

impl<'a> Entries<'a> {
    fn on(page: &'a [u8], entry_len: usize) -> Self {
        let count = usize::from(u16_at(page, 0).unwrap_or_default()).min(per_page(entry_len));
        let bytes = page.get(COUNT..COUNT + count * entry_len).unwrap_or_default();
        Entries { bytes, entry_len, count }
    }

    fn get(&self, at: usize) -> Option<&'a [u8]> {
        self.bytes.get(at * self.entry_len..(at + 1) * self.entry_len)
    }

    /// Those with a hash, or a higher one.
    fn from(self, hash: u64) -> impl Iterator<Item = &'a [u8]> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).and_then(|entry| u64_at(entry, 0)) {
                Some(found) if found < hash => low = middle + 1,
                _ => high = middle,
            }
        }
        (low..self.count).map_while(move |at| self.get(at))
    }
}

/// All entries of a table, in order.
#[derive(Debug)]
pub(crate) struct TableCursor<'a> {
    pages: &'a Pages,
    table: Table,
    page: u32,
    entry: usize,
}

impl TableCursor<'_> {
    /// The next entry, as its first `N` bytes.
    pub(crate) fn next<const N: usize>(&mut self) -> Result<Option<[u8; N]>, IndexFault> {
        while self.page < self.table.pages {
            let number = self.table.first.saturating_add(self.page);
            let page = self.pages.page(number)?;
            let entries = Entries::on(&page, self.table.entry_len);
            if let Some(entry) = entries.get(self.entry).filter(|_| self.entry < entries.count) {
                self.entry += 1;
                return entry.first_chunk().copied().map(Some).ok_or(IndexFault::Damaged(number));
            }
            (self.page, self.entry) = (self.page + 1, 0);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::index::pages::Source;

    fn table(hashes: &[u64]) -> (Table, Pages) {
        let mut sink = PageSink::in_memory(1);
        sink.page(b"header").unwrap();
        let mut writer = TableWriter::new(&mut sink, u64::try_from(hashes.len()).unwrap(), 12);
        let mut counted = writer.placement;
        for (number, hash) in hashes.iter().enumerate() {
            let mut entry = hash.to_le_bytes().to_vec();
            entry.extend_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
            writer.push(*hash, &entry).unwrap();
            counted.count(*hash);
        }
        let table = writer.finish().unwrap();
        assert_eq!(table.pages, counted.pages(), "counting and writing agree");
        let pages = sink.pages;
        (table, Pages::new(Source::Lent(sink.finish().unwrap().into()), 1, pages))
    }

    fn check(mut hashes: Vec<u64>, absent: &[u64]) {
        hashes.sort_unstable();
        let (table, pages) = table(&hashes);
        let mut cursor = table.entries(&pages);
        for hash in &hashes {
            let entry: [u8; 8] = cursor.next().unwrap().unwrap();
            assert_eq!(u64::from_le_bytes(entry), *hash);
        }
        assert_eq!(cursor.next::<8>().unwrap(), None);
        for hash in hashes.iter().chain(absent) {
            let mut found = Vec::new();
            table
                .find(&pages, *hash, |entry| {
                    found.push(entry[8..12].to_vec());
                    true
                })
                .unwrap();
            let wanted: Vec<_> = (0u32..)
                .zip(&hashes)
                .filter(|(_, h)| *h == hash)
                .map(|(n, _)| n.to_le_bytes().to_vec())
                .collect();
            assert_eq!(found, wanted, "{hash:x}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_entry_is_found_and_no_other(hashes in prop::collection::vec(any::<u64>(), 0..900), absent in prop::collection::vec(any::<u64>(), 20)) {
            check(hashes, &absent);
        }

        #[test]
        fn entries_that_crowd_spill_over_and_are_found(hashes in prop::collection::vec((0u64..4, 0u64..3), 0..1200)) {
            let crowded = hashes.iter().map(|(a, b)| (a << 62) | b).collect();
            check(crowded, &[5, u64::MAX, 1 << 63]);
        }
    }
}
