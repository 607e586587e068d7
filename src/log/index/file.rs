//! The index of a sealed segment, in a file beside it.
//!
//! ```text
//!   page 0, the header:
//!     0 "EVFOLIDX"   8 format major u16 · minor u16   12 hash id u32    16 store id (16)
//!    32 first position u64      40 salt u64           48 sealed length u64
//!    56 events u32 · keys u32   64 earliest time ns u64                 72 latest time ns u64
//!    80 lowest event id (16)    96 highest event id (16)
//!   112 pages u32 · places u32  120 names u32 · postings u32            128 key table: first u32 · buckets u32 · pages u32
//!   140 id table: first u32 · buckets u32 · pages u32        152 chain value after the seal u32
//!   places:    frame u32 · record u32, for each event, offsets / 8
//!   names:     the names of all keys, end to end
//!   postings:  numbers of events u32, ascending, of each key that has more than two
//!   key table: hash u64 · kind u8 · length of name u8 · 0 u16 · name u32 · count u32 · first u32 · last u32 ·
//!              postings u64 · version before u64
//!   id table:  hash u64 · number of the event u32
//! ```
//!
//! Postings are not packed: any one can be had without those before it, and they are few bytes beside the events.

use uuid::Uuid;

use super::key::{Key, Kind};
use super::pages::{IndexFault, PAGE, Pages, Source, check};
use super::table::Table;
use super::{Found, Lookup, Place, Sealed};
use crate::event::{Position, Version};
use crate::log::layout::{
    ALIGN, FORMAT_MAJOR, FORMAT_MINOR, bytes_at, disk_len, memory_len, put, u16_at, u32_at, u64_at,
};

pub(crate) const KEY_ENTRY: usize = 44;
pub(crate) const ID_ENTRY: usize = 12;
const MAGIC: [u8; 8] = *b"EVFOLIDX";
/// XXH3-64, the only hash of format 1.
pub(crate) const XXH3: u32 = 1;
/// Two offsets.
pub(crate) const PLACES_PER_PAGE: usize = 511;
const HEADER: usize = 160;

/// The segment that an index is of, sealed as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store_id: Uuid,
    pub(crate) first: Position,
    pub(crate) salt: u64,
    pub(crate) sealed: Sealed,
}

impl Identity {
    /// What ties a page to this segment's index.
    pub(crate) fn tag(&self) -> u64 {
        page_tag(self.salt, self.sealed)
    }
}

/// The segment that an index is of, as page 0 of its file says; `None` when that does not verify.
pub(crate) fn identity_of(page: &[u8]) -> Option<Identity> {
    let page = check(page, 0, 0)?;
    let is_index = bytes_at(page, 0) == Some(MAGIC) && u16_at(page, 8) == Some(FORMAT_MAJOR);
    is_index.then_some(())?;
    Some(Identity {
        store_id: Uuid::from_bytes(bytes_at(page, 16)?),
        first: Position::new(u64_at(page, 32)?),
        salt: u64_at(page, 40)?,
        sealed: Sealed { len: u64_at(page, 48)?, chain: u32_at(page, 152)? },
    })
}

/// What ties the pages of a file to the segment that was sealed with this.
pub(super) fn page_tag(salt: u64, sealed: Sealed) -> u64 {
    salt ^ sealed.len ^ (u64::from(sealed.chain) << 32)
}

/// What page 0 tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) events: u32,
    pub(crate) keys: u32,
    /// Earliest and latest time of recording.
    pub(crate) times: (u64, u64),
    /// Lowest and highest event id.
    pub(crate) ids: (Option<Uuid>, Option<Uuid>),
    pub(crate) pages: u32,
    pub(crate) places: u32,
    pub(crate) names: u32,
    pub(crate) postings: u32,
    pub(crate) key_table: Table,
    pub(crate) id_table: Table,
}

impl Header {
    pub(crate) fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut page = vec![0; HEADER];
        put(&mut page, 0, &MAGIC);
        put(&mut page, 8, &FORMAT_MAJOR.to_le_bytes());
        put(&mut page, 10, &FORMAT_MINOR.to_le_bytes());
        put(&mut page, 12, &XXH3.to_le_bytes());
        put(&mut page, 16, identity.store_id.as_bytes());
        put(&mut page, 32, &identity.first.get().to_le_bytes());
        put(&mut page, 40, &identity.salt.to_le_bytes());
        put(&mut page, 48, &identity.sealed.len.to_le_bytes());
        put(&mut page, 56, &self.events.to_le_bytes());
        put(&mut page, 60, &self.keys.to_le_bytes());
        put(&mut page, 64, &self.times.0.to_le_bytes());
        put(&mut page, 72, &self.times.1.to_le_bytes());
        put(&mut page, 80, self.ids.0.unwrap_or_default().as_bytes());
        put(&mut page, 96, self.ids.1.unwrap_or_default().as_bytes());
        put(&mut page, 112, &self.pages.to_le_bytes());
        put(&mut page, 116, &self.places.to_le_bytes());
        put(&mut page, 120, &self.names.to_le_bytes());
        put(&mut page, 124, &self.postings.to_le_bytes());
        put_table(&mut page, 128, &self.key_table);
        put_table(&mut page, 140, &self.id_table);
        put(&mut page, 152, &identity.sealed.chain.to_le_bytes());
        page
    }

    /// Reads page 0; `None` when it is that of another segment, or of no index.
    fn decode(page: &[u8], identity: &Identity) -> Option<Self> {
        let is_ours = bytes_at(page, 0) == Some(MAGIC)
            && u16_at(page, 8) == Some(FORMAT_MAJOR)
            && u32_at(page, 12) == Some(XXH3)
            && bytes_at(page, 16) == Some(*identity.store_id.as_bytes())
            && u64_at(page, 32) == Some(identity.first.get())
            && u64_at(page, 40) == Some(identity.salt)
            && u64_at(page, 48) == Some(identity.sealed.len)
            && u32_at(page, 152) == Some(identity.sealed.chain);
        is_ours.then_some(())?;
        Some(Header {
            events: u32_at(page, 56)?,
            keys: u32_at(page, 60)?,
            times: (u64_at(page, 64)?, u64_at(page, 72)?),
            ids: (bytes_at(page, 80).map(Uuid::from_bytes), bytes_at(page, 96).map(Uuid::from_bytes)),
            pages: u32_at(page, 112)?,
            places: u32_at(page, 116)?,
            names: u32_at(page, 120)?,
            postings: u32_at(page, 124)?,
            key_table: table_at(page, 128, KEY_ENTRY)?,
            id_table: table_at(page, 140, ID_ENTRY)?,
        })
    }
}

impl Header {
    /// Whether the parts lie in the file and have room for what they are said to hold.
    fn is_sound(&self) -> bool {
        let places = self.events.div_ceil(u32::try_from(PLACES_PER_PAGE).unwrap_or(1));
        self.key_table.fits(self.pages, self.keys.into())
            && self.id_table.fits(self.pages, self.events.into())
            && self.places.checked_add(places).is_some_and(|end| end <= self.pages)
    }
}

pub(crate) fn put_table(page: &mut [u8], at: usize, table: &Table) {
    put(page, at, &table.first.to_le_bytes());
    put(page, at + 4, &table.buckets.to_le_bytes());
    put(page, at + 8, &table.pages.to_le_bytes());
}

pub(crate) fn table_at(page: &[u8], at: usize, entry_len: usize) -> Option<Table> {
    Some(Table {
        first: u32_at(page, at)?,
        buckets: u32_at(page, at + 4)?,
        pages: u32_at(page, at + 8)?,
        entry_len,
    })
}

/// A hash, and the number of what has it.
pub(crate) fn id_entry(hash: u64, number: u32) -> [u8; ID_ENTRY] {
    let mut entry = [0; ID_ENTRY];
    put(&mut entry, 0, &hash.to_le_bytes());
    put(&mut entry, 8, &number.to_le_bytes());
    entry
}

/// An index in a file. Pages are checked as they are looked at.
#[derive(Debug)]
pub(crate) struct IndexFile {
    pub(crate) header: Header,
    pub(crate) pages: Pages,
}

impl IndexFile {
    /// The index of a segment; `None` when the file is not that.
    pub(crate) fn open(source: Source, identity: &Identity) -> std::io::Result<Option<Self>> {
        let Some(page) = Pages::first(&source)? else { return Ok(None) };
        let Some(header) = Header::decode(&page, identity) else { return Ok(None) };
        if Pages::len(&source)? != u64::from(header.pages) * disk_len(PAGE) {
            return Ok(None);
        }
        if !header.is_sound() {
            return Ok(None);
        }
        let pages = Pages::new(source, identity.tag(), header.pages);
        Ok(Some(IndexFile { header, pages }))
    }

    /// Hands over the stream, the version there and the number of every event, stream by stream.
    pub(crate) fn each_stream(&self, mut visit: impl FnMut(&str, Version, u32)) -> Result<(), IndexFault> {
        self.each_name(Kind::Stream, |name, found| {
            let mut version = found.base;
            for at in 0..found.count {
                version = version.next();
                visit(name, version, self.posting(&found, at)?);
            }
            Ok(())
        })
    }

    /// Hands over every name of a kind, with what is known of it.
    pub(crate) fn each_name(
        &self,
        of: Kind,
        mut visit: impl FnMut(&str, Found) -> Result<(), IndexFault>,
    ) -> Result<(), IndexFault> {
        let mut entries = self.header.key_table.entries(&self.pages);
        while let Some(entry) = entries.next::<KEY_ENTRY>()? {
            let ([kind, len], Some(name)) = (bytes_at(&entry, 8).unwrap_or_default(), u32_at(&entry, 12))
            else {
                continue;
            };
            if kind != of.code() {
                continue;
            }
            let name = self.pages.bytes(self.header.names, name.into(), len.into())?;
            let damaged = IndexFault::Damaged(self.header.key_table.first);
            let (Ok(name), Some(found)) = (str::from_utf8(&name), found(&entry, self.header.events)) else {
                return Err(damaged);
            };
            visit(name, found)?;
        }
        Ok(())
    }

    /// Whether an id is outside of those that the segment has.
    pub(crate) fn excludes(&self, id: Uuid) -> bool {
        !matches!(self.header.ids, (Some(low), Some(high)) if (low..=high).contains(&id))
    }
}

/// What an entry of the key table tells of its name; `None` when it makes no sense in an index of so many events.
pub(super) fn found(entry: &[u8], events: u32) -> Option<Found> {
    let (count, first, last) = (u32_at(entry, 16)?, u32_at(entry, 20)?, u32_at(entry, 24)?);
    let base = Version::new(u64_at(entry, 36)?);
    let is_sound = count > 0 && first <= last && last < events && count <= events;
    is_sound.then_some(Found {
        count,
        first,
        last,
        at: u64_at(entry, 28)?,
        base,
        version: Version::new(base.get().saturating_add(u64::from(count))),
    })
}

impl Lookup for IndexFile {
    fn events(&self) -> u32 {
        self.header.events
    }

    fn find(&self, key: &Key<'_>) -> Result<Option<Found>, IndexFault> {
        let (mut found, mut fault) = (None, None);
        let head = [key.kind.code(), u8::try_from(key.name.len()).unwrap_or_default()];
        self.header.key_table.find(&self.pages, key.hash, |entry| {
            let Some(name) = u32_at(entry, 12).filter(|_| bytes_at(entry, 8) == Some(head)) else {
                return true;
            };
            match self.pages.has(self.header.names, name.into(), key.name) {
                Ok(true) => match self::found(entry, self.header.events) {
                    Some(sound) => found = Some(sound),
                    None => fault = Some(IndexFault::Damaged(self.header.key_table.first)),
                },
                Ok(false) => {}
                Err(error) => fault = Some(error),
            }
            found.is_none() && fault.is_none()
        })?;
        fault.map_or(Ok(found), Err)
    }

    fn posting(&self, found: &Found, at: u32) -> Result<u32, IndexFault> {
        match at {
            0 => Ok(found.first),
            at if at == found.count - 1 => Ok(found.last),
            at => {
                let number = self.pages.number(self.header.postings, found.at.saturating_add(at.into()))?;
                let is_sound = (found.first..=found.last).contains(&number);
                is_sound.then_some(number).ok_or(IndexFault::Damaged(self.header.postings))
            }
        }
    }

    fn place(&self, number: u32) -> Result<Option<Place>, IndexFault> {
        let index = memory_len(number.into());
        let page = u32::try_from(index / PLACES_PER_PAGE).unwrap_or(u32::MAX);
        let bytes = self.pages.page(self.header.places.saturating_add(page))?;
        let at = index % PLACES_PER_PAGE * 8;
        let unit = |at: usize| u32_at(&bytes, at).map(|units| u64::from(units) * disk_len(ALIGN));
        let place = unit(at).zip(unit(at + 4)).filter(|_| number < self.header.events);
        Ok(place.map(|(frame, record)| Place { frame, record }))
    }

    fn with_id(&self, id: Uuid, hash: u64) -> Result<Vec<u32>, IndexFault> {
        let mut found = Vec::new();
        if !self.excludes(id) {
            self.header.id_table.find(&self.pages, hash, |entry| {
                found.extend(u32_at(entry, 8));
                true
            })?;
        }
        Ok(found)
    }
}
