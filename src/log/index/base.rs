//! The versions of streams that had events before the log's start: a file that retention leaves in place of the
//! segments it removes, `log/<log start>.base`.
//!
//! ```text
//!   page 0, the header:
//!     0 "EVFOLBAS"   8 format major u16 · minor u16   12 hash id u32    16 store id (16)
//!    32 log start u64          40 streams u64         48 pages u32 · names u32
//!    56 table: first u32 · buckets u32 · pages u32
//!   names:     the names of all streams, end to end
//!   table:     hash u64 · name u64 · version u64 · position of the last event u64 · length of name u8 · 0 (3)
//! ```
//!
//! It is not derived: what it was made of is gone. It is merged from the base before it and the indexes of the removed
//! segments, stream by stream in the order of hashes, so that memory is needed for one page of each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::file::{KEY_ENTRY, XXH3, put_table, table_at};
use super::key::{Key, Kind};
use super::pages::{IndexFault, PAGE, PAYLOAD, PageSink, Pages, Source, check};
use super::table::{Placement, Table, TableCursor, TableWriter};
use super::{SegmentIndex, file};
use crate::event::{Position, Version};
use crate::log::layout::{
    FORMAT_MAJOR, FORMAT_MINOR, bytes_at, disk_len, memory_len, put, u16_at, u32_at, u64_at,
};
use crate::storage::File;

const MAGIC: [u8; 8] = *b"EVFOLBAS";
const HEADER: usize = 68;
const ENTRY: usize = 36;

/// The base that is meant: of a store, at a start of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store_id: Uuid,
    pub(crate) log_start: Position,
}

impl Identity {
    pub(crate) fn tag(&self) -> u64 {
        let (high, low) = self.store_id.as_u64_pair();
        high ^ low ^ self.log_start.get().rotate_left(32)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    streams: u64,
    pages: u32,
    names: u32,
    table: Table,
}

impl Header {
    fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut page = vec![0; HEADER];
        put(&mut page, 0, &MAGIC);
        put(&mut page, 8, &FORMAT_MAJOR.to_le_bytes());
        put(&mut page, 10, &FORMAT_MINOR.to_le_bytes());
        put(&mut page, 12, &XXH3.to_le_bytes());
        put(&mut page, 16, identity.store_id.as_bytes());
        put(&mut page, 32, &identity.log_start.get().to_le_bytes());
        put(&mut page, 40, &self.streams.to_le_bytes());
        put(&mut page, 48, &self.pages.to_le_bytes());
        put(&mut page, 52, &self.names.to_le_bytes());
        put_table(&mut page, 56, &self.table);
        page
    }

    fn decode(page: &[u8], identity: &Identity) -> Option<Self> {
        let is_ours = bytes_at(page, 0) == Some(MAGIC)
            && u16_at(page, 8) == Some(FORMAT_MAJOR)
            && u32_at(page, 12) == Some(XXH3)
            && bytes_at(page, 16) == Some(*identity.store_id.as_bytes())
            && u64_at(page, 32) == Some(identity.log_start.get());
        is_ours.then_some(())?;
        Some(Header {
            streams: u64_at(page, 40)?,
            pages: u32_at(page, 48)?,
            names: u32_at(page, 52)?,
            table: table_at(page, 56, ENTRY)?,
        })
    }
}

/// A base, in its file. Pages are checked as they are looked at.
#[derive(Debug)]
pub(crate) struct BaseFile {
    pub(crate) identity: Identity,
    header: Header,
    pages: Pages,
}

impl BaseFile {
    /// `None` when the file is not that base, or not whole.
    pub(crate) fn open(source: Source, identity: &Identity) -> io::Result<Option<Self>> {
        let Some(page) = Pages::first(&source)? else { return Ok(None) };
        let Some(header) = Header::decode(&page, identity) else { return Ok(None) };
        if Pages::len(&source)? != u64::from(header.pages) * disk_len(PAGE) {
            return Ok(None);
        }
        let pages = Pages::new(source, identity.tag(), header.pages);
        Ok(Some(BaseFile { identity: *identity, header, pages }))
    }

    /// Version and position of the last event that a stream had before the log's start.
    pub(crate) fn find(&self, stream: &Key<'_>) -> Result<Option<(Version, Position)>, IndexFault> {
        let (mut found, mut fault) = (None, None);
        self.header.table.find(&self.pages, stream.hash, |entry| {
            let Some(known) = Stream::in_base(entry).filter(|known| known.len == stream.name.len()) else {
                return true;
            };
            match self.pages.has(self.header.names, known.name, stream.name) {
                Ok(true) => found = Some((known.version, known.position)),
                Ok(false) => {}
                Err(error) => fault = Some(error),
            }
            found.is_none() && fault.is_none()
        })?;
        fault.map_or(Ok(found), Err)
    }
}

/// Reads all of a base. Returns the page that does not verify, if there is one.
pub(crate) fn verify(file: &dyn File, identity: &Identity) -> io::Result<Option<u32>> {
    let mut page = vec![0; PAGE];
    let mut read = |number: u32, tag: u64| -> io::Result<Option<Vec<u8>>> {
        let read = file.read_at(&mut page, u64::from(number) * disk_len(PAGE))?;
        let page = page.get(..read).unwrap_or_default();
        Ok(check(page, tag, number).map(<[u8]>::to_vec))
    };
    let header = read(0, 0)?.and_then(|page| Header::decode(&page, identity));
    let len = file.len()?;
    let Some(header) = header.filter(|header| u64::from(header.pages) * disk_len(PAGE) == len) else {
        return Ok(Some(0));
    };
    for number in 1..header.pages {
        if read(number, identity.tag())?.is_none() {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// A stream that had events before the log's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) version: Version,
    /// Of its last event there.
    pub(crate) position: Position,
}

/// What a base is made of, the oldest first.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Base(Arc<BaseFile>),
    /// Streams with their hashes, in the order of these.
    Listed(Arc<[(u64, Ended)]>),
    /// The index of a removed segment, in a file, and the segment's first position.
    Segment(Arc<SegmentIndex>, Position),
}

/// Why a base could not be made.
#[derive(Debug)]
pub(crate) enum MergeFault {
    /// The part with this number cannot be read.
    Part(usize, IndexFault),
    /// The file cannot be written.
    Write(io::Error),
}

impl From<io::Error> for MergeFault {
    fn from(error: io::Error) -> Self {
        MergeFault::Write(error)
    }
}

/// A stream, as a part knows it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    hash: u64,
    /// Where its name is among the names of the part.
    name: u64,
    len: usize,
    version: Version,
    position: Position,
}

impl Stream {
    fn in_base(entry: &[u8]) -> Option<Self> {
        Some(Stream {
            hash: u64_at(entry, 0)?,
            name: u64_at(entry, 8)?,
            len: usize::from(*entry.get(32)?),
            version: Version::new(u64_at(entry, 16)?),
            position: Position::new(u64_at(entry, 24)?),
        })
    }

    /// `None` for a name that is none of a stream.
    fn in_segment(entry: &[u8], first: Position) -> Option<Self> {
        let [kind, len] = bytes_at(entry, 8)?;
        (kind == Kind::Stream.code()).then_some(())?;
        let found = file::found(entry, u32::MAX)?;
        Some(Stream {
            hash: u64_at(entry, 0)?,
            name: u32_at(entry, 12)?.into(),
            len: usize::from(len),
            version: found.version,
            position: first.plus(found.last.into()),
        })
    }

    fn entry(&self, name: u64) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        put(&mut entry, 0, &self.hash.to_le_bytes());
        put(&mut entry, 8, &name.to_le_bytes());
        put(&mut entry, 16, &self.version.get().to_le_bytes());
        put(&mut entry, 24, &self.position.get().to_le_bytes());
        put(&mut entry, 32, &[u8::try_from(self.len).unwrap_or(u8::MAX)]);
        entry
    }
}

/// A part being merged.
struct Input<'a> {
    number: usize,
    streams: Streams<'a>,
    next: Option<Stream>,
}

/// Where the streams of a part are.
enum Streams<'a> {
    InPages {
        cursor: TableCursor<'a>,
        pages: &'a Pages,
        names: u32,
        /// Of a segment.
        first: Option<Position>,
    },
    Listed {
        list: &'a [(u64, Ended)],
        next: usize,
    },
}

impl<'a> Input<'a> {
    /// `None` for an index that is not in a file, which the caller sees to.
    fn new(number: usize, part: &'a Part) -> Option<Self> {
        let (table, pages, names, first) = match part {
            Part::Listed(list) => {
                return Some(Input { number, streams: Streams::Listed { list, next: 0 }, next: None });
            }
            Part::Base(base) => (base.header.table, &base.pages, base.header.names, None),
            Part::Segment(index, first) => match index.as_ref() {
                SegmentIndex::File(file) => {
                    (file.header.key_table, &file.pages, file.header.names, Some(*first))
                }
                SegmentIndex::Memory(_) => return None,
            },
        };
        let streams = Streams::InPages { cursor: table.entries(pages), pages, names, first };
        Some(Input { number, streams, next: None })
    }

    /// Goes on to the next stream; its hash.
    fn advance(&mut self) -> Result<Option<u64>, MergeFault> {
        let number = self.number;
        self.next = self.streams.next().map_err(|fault| MergeFault::Part(number, fault))?;
        Ok(self.next.map(|stream| stream.hash))
    }

    fn name(&self, stream: &Stream) -> Result<Vec<u8>, MergeFault> {
        match &self.streams {
            Streams::InPages { pages, names, .. } => pages.bytes(*names, stream.name, stream.len),
            Streams::Listed { list, .. } => Ok(listed_name(list, stream).to_vec()),
        }
        .map_err(|fault| MergeFault::Part(self.number, fault))
    }

    fn is_named(&self, stream: &Stream, name: &[u8]) -> Result<bool, MergeFault> {
        match &self.streams {
            Streams::InPages { pages, names, .. } => {
                pages.has(*names, stream.name, name).map(|same| same && stream.len == name.len())
            }
            Streams::Listed { list, .. } => Ok(listed_name(list, stream) == name),
        }
        .map_err(|fault| MergeFault::Part(self.number, fault))
    }
}

impl Streams<'_> {
    fn next(&mut self) -> Result<Option<Stream>, IndexFault> {
        match self {
            Streams::InPages { cursor, first: None, .. } => {
                Ok(cursor.next::<ENTRY>()?.and_then(|entry| Stream::in_base(&entry)))
            }
            Streams::InPages { cursor, first: Some(first), .. } => {
                while let Some(entry) = cursor.next::<KEY_ENTRY>()? {
                    if let Some(stream) = Stream::in_segment(&entry, *first) {
                        return Ok(Some(stream));
                    }
                }
                Ok(None)
            }
            Streams::Listed { list, next } => {
                let (at, Some((hash, ended))) = (*next, list.get(*next)) else { return Ok(None) };
                *next += 1;
                let (name, len) = (disk_len(at), ended.name.len());
                let Ended { version, position, .. } = *ended;
                Ok(Some(Stream { hash: *hash, name, len, version, position }))
            }
        }
    }
}

fn listed_name<'a>(list: &'a [(u64, Ended)], stream: &Stream) -> &'a [u8] {
    list.get(memory_len(stream.name)).map(|(_, ended)| ended.name.as_bytes()).unwrap_or_default()
}

/// The streams of a base.
pub(crate) fn streams(base: &Arc<BaseFile>) -> Result<Vec<Ended>, MergeFault> {
    let mut all = Vec::new();
    merge(&[Part::Base(base.clone())], |stream, input| {
        let name = String::from_utf8_lossy(&input.name(stream)?).into_owned();
        all.push(Ended { name, version: stream.version, position: stream.position });
        Ok(())
    })?;
    Ok(all)
}

/// Hands each stream to `take` once, as the last part that has it knows it, in the order of hashes.
fn merge<'a>(
    parts: &'a [Part],
    mut take: impl FnMut(&Stream, &Input<'a>) -> Result<(), MergeFault>,
) -> Result<(), MergeFault> {
    let mut inputs: Vec<Input<'a>> = Vec::with_capacity(parts.len());
    let mut next = BinaryHeap::with_capacity(parts.len());
    for (number, part) in parts.iter().enumerate() {
        let Some(mut input) = Input::new(number, part) else { continue };
        if let Some(hash) = input.advance()? {
            next.push(Reverse((hash, Reverse(inputs.len()))));
        }
        inputs.push(input);
    }
    // Streams taken that have the hash at hand: hardly ever more than one.
    let mut taken: Vec<(usize, Stream)> = Vec::new();
    while let Some(Reverse((hash, Reverse(at)))) = next.pop() {
        if taken.first().is_some_and(|(_, stream)| stream.hash != hash) {
            taken.clear();
        }
        let Some(stream) = inputs.get(at).and_then(|input| input.next) else { continue };
        if let Some(input) = inputs.get_mut(at)
            && let Some(hash) = input.advance()?
        {
            next.push(Reverse((hash, Reverse(at))));
        }
        let Some(input) = inputs.get(at) else { continue };
        let mut known = false;
        if !taken.is_empty() {
            let name = input.name(&stream)?;
            for (other, of_same_hash) in &taken {
                let other = inputs.get(*other).map_or(Ok(false), |other| other.is_named(of_same_hash, &name));
                known = known || other?;
            }
        }
        if !known {
            take(&stream, input)?;
            taken.push((at, stream));
        }
    }
    Ok(())
}

/// How a base is made of parts, which are read several times: for its size, and for its content.
#[derive(Debug)]
pub(crate) struct BasePlan<'a> {
    parts: &'a [Part],
    identity: Identity,
    header: Header,
}

impl<'a> BasePlan<'a> {
    pub(crate) fn new(parts: &'a [Part], identity: Identity) -> Result<Self, MergeFault> {
        let (mut streams, mut name_bytes) = (0u64, 0u64);
        merge(parts, |stream, _| {
            streams += 1;
            name_bytes += disk_len(stream.len);
            Ok(())
        })?;
        let mut placement = Placement::new(streams, ENTRY);
        merge(parts, |stream, _| {
            placement.count(stream.hash);
            Ok(())
        })?;
        let names = 1;
        let first =
            u32::try_from(name_bytes.div_ceil(disk_len(PAYLOAD))).unwrap_or(u32::MAX).saturating_add(1);
        let table = Table { first, buckets: placement.buckets(), pages: placement.pages(), entry_len: ENTRY };
        let pages = first.saturating_add(table.pages);
        Ok(BasePlan { parts, identity, header: Header { streams, pages, names, table } })
    }

    /// How long the file will be.
    pub(crate) fn file_len(&self) -> u64 {
        u64::from(self.header.pages) * disk_len(PAGE)
    }

    /// Writes the file.
    pub(crate) fn write(&self, file: Arc<dyn File>) -> Result<(), MergeFault> {
        let mut sink = PageSink::to_file(file, self.identity.tag());
        sink.page(&self.header.encode(&self.identity))?;
        let mut page = Vec::with_capacity(PAYLOAD);
        merge(self.parts, |stream, input| {
            for byte in input.name(stream)? {
                page.push(byte);
                if page.len() == PAYLOAD {
                    sink.page(&page)?;
                    page.clear();
                }
            }
            Ok(())
        })?;
        if !page.is_empty() {
            sink.page(&page)?;
        }
        let mut table = TableWriter::new(&mut sink, self.header.streams, ENTRY);
        let mut name = 0;
        merge(self.parts, |stream, _| {
            table.push(stream.hash, &stream.entry(name))?;
            name += disk_len(stream.len);
            Ok(())
        })?;
        table.finish()?;
        sink.finish()?;
        Ok(())
    }
}
