//! Which segments have a name or an id, for many segments at once: hashes of four segments are merged into one
//! directory, four such directories into one of sixteen, and so on. A look-up touches a page in each of few
//! directories instead of one in each segment's index, also for a name that no segment has.
//!
//! ```text
//!   page 0, the header:
//!     0 "EVFOLKEY"   8 format major u16 · minor u16   12 hash id u32    16 store id (16)
//!    32 number of the first segment u64               40 segments u32 · pages u32
//!    48 salt of the last segment u64                  56 its sealed length u64
//!    64 lowest event id (16)    80 highest event id (16)
//!    96 names: entries u64 · first u32 · buckets u32 · pages u32
//!   116 ids:   entries u64 · first u32 · buckets u32 · pages u32             136 its chain value after the seal u32
//!   names, ids: tables of hash u64 · segment u32, counted from the first; of one hash the latest segment first
//! ```

use std::cmp::Reverse;
use std::sync::Arc;

use uuid::Uuid;

use super::Sealed;
use super::file::{IndexFile, XXH3, id_entry, page_tag, put_table, table_at};
use super::pages::{IndexFault, PAGE, PageSink, Pages, Source};
use super::table::{Placement, Table, TableCursor, TableWriter};
use crate::log::layout::{FORMAT_MAJOR, FORMAT_MINOR, bytes_at, disk_len, put, u16_at, u32_at, u64_at};
use crate::storage::File;

/// So many are merged into one.
pub(crate) const FAN_IN: u64 = 4;
/// The most segments in a directory: a name that all of them have still fills few pages.
pub(crate) const MAX_SEGMENTS: u64 = 4096;
pub(crate) const ENTRY: usize = 12;
const MAGIC: [u8; 8] = *b"EVFOLKEY";
const HEADER: usize = 144;

/// The segments that a directory is of. The last one's header follows from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) store_id: Uuid,
    /// Number of the first segment, a multiple of how many there are.
    pub(crate) start: u64,
    pub(crate) segments: u64,
    pub(crate) last_salt: u64,
    pub(crate) last_sealed: Sealed,
}

impl Span {
    /// One after the last segment's number.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.segments)
    }

    pub(crate) fn tag(&self) -> u64 {
        page_tag(self.last_salt, self.last_sealed) ^ self.segments.rotate_left(48)
    }
}

/// A table and how many entries it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    entries: u64,
    table: Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    pages: u32,
    /// Lowest and highest event id.
    range: (Uuid, Uuid),
    names: Counted,
    ids: Counted,
}

impl Header {
    fn encode(&self, span: &Span) -> Vec<u8> {
        let mut page = vec![0; HEADER];
        put(&mut page, 0, &MAGIC);
        put(&mut page, 8, &FORMAT_MAJOR.to_le_bytes());
        put(&mut page, 10, &FORMAT_MINOR.to_le_bytes());
        put(&mut page, 12, &XXH3.to_le_bytes());
        put(&mut page, 16, span.store_id.as_bytes());
        put(&mut page, 32, &span.start.to_le_bytes());
        put(&mut page, 40, &u32::try_from(span.segments).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut page, 44, &self.pages.to_le_bytes());
        put(&mut page, 48, &span.last_salt.to_le_bytes());
        put(&mut page, 56, &span.last_sealed.len.to_le_bytes());
        put(&mut page, 136, &span.last_sealed.chain.to_le_bytes());
        put(&mut page, 64, self.range.0.as_bytes());
        put(&mut page, 80, self.range.1.as_bytes());
        for (at, counted) in [(96, &self.names), (116, &self.ids)] {
            put(&mut page, at, &counted.entries.to_le_bytes());
            put_table(&mut page, at + 8, &counted.table);
        }
        page
    }

    fn decode(page: &[u8], span: &Span) -> Option<Self> {
        let is_ours = bytes_at(page, 0) == Some(MAGIC)
            && u16_at(page, 8) == Some(FORMAT_MAJOR)
            && u32_at(page, 12) == Some(XXH3)
            && bytes_at(page, 16) == Some(*span.store_id.as_bytes())
            && u64_at(page, 32) == Some(span.start)
            && u32_at(page, 40).map(u64::from) == Some(span.segments)
            && u64_at(page, 48) == Some(span.last_salt)
            && u64_at(page, 56) == Some(span.last_sealed.len)
            && u32_at(page, 136) == Some(span.last_sealed.chain);
        is_ours.then_some(())?;
        let counted =
            |at: usize| Some(Counted { entries: u64_at(page, at)?, table: table_at(page, at + 8, ENTRY)? });
        Some(Header {
            pages: u32_at(page, 44)?,
            range: (Uuid::from_bytes(bytes_at(page, 64)?), Uuid::from_bytes(bytes_at(page, 80)?)),
            names: counted(96)?,
            ids: counted(116)?,
        })
    }
}

/// What is looked for in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// A stream, type or tag, by its hash.
    Name(u64),
    /// An event id and its hash.
    Id(Uuid, u64),
}

/// A directory in a file.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) span: Span,
    header: Header,
    pages: Pages,
}

impl Directory {
    /// The directory of these segments; `None` when the file is not that.
    pub(crate) fn open(source: Source, span: Span) -> std::io::Result<Option<Self>> {
        let Some(page) = Pages::first(&source)? else { return Ok(None) };
        let Some(header) = Header::decode(&page, &span) else { return Ok(None) };
        if Pages::len(&source)? != u64::from(header.pages) * disk_len(PAGE) {
            return Ok(None);
        }
        if ![header.names, header.ids].iter().all(|c| c.table.fits(header.pages, c.entries)) {
            return Ok(None);
        }
        let pages = Pages::new(source, span.tag(), header.pages);
        Ok(Some(Directory { span, header, pages }))
    }

    /// The lowest and the highest event id.
    pub(crate) fn ids(&self) -> (Uuid, Uuid) {
        self.header.range
    }

    /// Numbers of the segments that may have what is wanted, the latest first.
    pub(crate) fn find(&self, wanted: Wanted) -> Result<Vec<u64>, IndexFault> {
        let (low, high) = self.header.range;
        let (table, hash) = match wanted {
            Wanted::Name(hash) => (&self.header.names.table, hash),
            Wanted::Id(id, _) if !(low..=high).contains(&id) => return Ok(Vec::new()),
            Wanted::Id(_, hash) => (&self.header.ids.table, hash),
        };
        let mut found: Vec<u64> = Vec::new();
        table.find(&self.pages, hash, |entry| {
            let segment = u32_at(entry, 8).map(|delta| self.span.start.saturating_add(delta.into()));
            found.extend(segment.filter(|segment| found.last() != Some(segment)));
            true
        })?;
        Ok(found)
    }
}

/// What is merged: the index of one segment, or a directory of some.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Segment { number: u64, index: Arc<super::SegmentIndex> },
    Directory(Arc<Directory>),
}

/// Which table of the parts.
#[derive(Clone, Copy, Debug)]
enum Which {
    Names,
    Ids,
}

impl Part {
    fn file(&self) -> Option<&IndexFile> {
        match self {
            Part::Segment { index, .. } => match index.as_ref() {
                super::SegmentIndex::File(file) => Some(file),
                super::SegmentIndex::Memory(_) => None,
            },
            Part::Directory(_) => None,
        }
    }

    fn counted(&self, which: Which) -> Counted {
        match (self, which) {
            (Part::Directory(directory), Which::Names) => directory.header.names,
            (Part::Directory(directory), Which::Ids) => directory.header.ids,
            (part, which) => part.file().map_or_else(Counted::default, |file| match which {
                Which::Names => Counted { entries: file.header.keys.into(), table: file.header.key_table },
                Which::Ids => Counted { entries: file.header.events.into(), table: file.header.id_table },
            }),
        }
    }

    fn pages(&self) -> Option<&Pages> {
        match self {
            Part::Directory(directory) => Some(&directory.pages),
            part => part.file().map(|file| &file.pages),
        }
    }

    fn range(&self) -> Option<(Uuid, Uuid)> {
        match self {
            Part::Directory(directory) => Some(directory.header.range),
            part => part.file().and_then(|file| file.header.ids.0.zip(file.header.ids.1)),
        }
    }
}

/// One of the tables being merged, and its next entry.
struct Input<'a> {
    cursor: TableCursor<'a>,
    /// Of a segment its own number, of a directory that of its first, both counted from the span's first.
    base: u32,
    of_segment: bool,
    next: Option<(u64, u32)>,
}

impl Input<'_> {
    fn advance(&mut self) -> Result<(), IndexFault> {
        self.next = match self.of_segment {
            true => self.cursor.next::<8>()?.map(|entry| (u64::from_le_bytes(entry), self.base)),
            false => self
                .cursor
                .next::<ENTRY>()?
                .and_then(|entry| Some((u64_at(&entry, 0)?, self.base.saturating_add(u32_at(&entry, 8)?)))),
        };
        Ok(())
    }
}

/// Hands the entries of all parts to `take`: by hash, and of one hash the latest segment first.
fn merge(
    parts: &[Part],
    span: &Span,
    which: Which,
    mut take: impl FnMut(u64, u32) -> Result<(), IndexFault>,
) -> Result<(), IndexFault> {
    let mut inputs = Vec::with_capacity(parts.len());
    for part in parts {
        let Some(pages) = part.pages() else { continue };
        let (number, of_segment) = match part {
            Part::Segment { number, .. } => (*number, true),
            Part::Directory(directory) => (directory.span.start, false),
        };
        let base = u32::try_from(number.saturating_sub(span.start)).unwrap_or(u32::MAX);
        let mut input =
            Input { cursor: part.counted(which).table.entries(pages), base, of_segment, next: None };
        input.advance()?;
        inputs.push(input);
    }
    loop {
        let lowest = inputs.iter_mut().filter(|input| input.next.is_some());
        let Some(input) =
            lowest.min_by_key(|input| input.next.map(|(hash, segment)| (hash, Reverse(segment))))
        else {
            return Ok(());
        };
        if let Some((hash, segment)) = input.next {
            take(hash, segment)?;
        }
        input.advance()?;
    }
}

/// How a directory is made of parts, which are read twice: for its size, and for its content.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    parts: &'a [Part],
    span: Span,
    header: Header,
}

impl<'a> Plan<'a> {
    /// Measures the directory of these parts, which are of the span's segments.
    pub(crate) fn new(parts: &'a [Part], span: Span) -> Result<Self, IndexFault> {
        let mut first = 1;
        let mut measure = |which: Which| -> Result<Counted, IndexFault> {
            let entries = parts.iter().map(|part| part.counted(which).entries).fold(0, u64::saturating_add);
            let mut placement = Placement::new(entries, ENTRY);
            merge(parts, &span, which, |hash, _| {
                placement.count(hash);
                Ok(())
            })?;
            let table =
                Table { first, buckets: placement.buckets(), pages: placement.pages(), entry_len: ENTRY };
            first = first.saturating_add(table.pages);
            Ok(Counted { entries, table })
        };
        let (names, ids) = (measure(Which::Names)?, measure(Which::Ids)?);
        let ranges = || parts.iter().filter_map(Part::range);
        // Of no ids: a range that holds none.
        let low = ranges().map(|(low, _)| low).min().unwrap_or(Uuid::max());
        let high = ranges().map(|(_, high)| high).max().unwrap_or(Uuid::nil());
        Ok(Plan { parts, span, header: Header { pages: first, range: (low, high), names, ids } })
    }

    /// How long the file will be.
    pub(crate) fn file_len(&self) -> u64 {
        u64::from(self.header.pages) * disk_len(PAGE)
    }

    /// Writes the file.
    pub(crate) fn write(&self, file: Arc<dyn File>) -> Result<(), IndexFault> {
        let mut sink = PageSink::to_file(file, self.span.tag());
        sink.page(&self.header.encode(&self.span))?;
        for (which, counted) in [(Which::Names, &self.header.names), (Which::Ids, &self.header.ids)] {
            let mut table = TableWriter::new(&mut sink, counted.entries, ENTRY);
            merge(self.parts, &self.span, which, |hash, segment| {
                Ok(table.push(hash, &id_entry(hash, segment))?)
            })?;
            table.finish()?;
        }
        sink.finish()?;
        Ok(())
    }
}
