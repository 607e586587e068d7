//! What is in a store's directory: `STORE`, `MARK` and the segments' headers, read and held against each other.

use std::sync::Arc;

use uuid::Uuid;

use super::base;
use super::frame::{CONTROL_FRAME, FRAME_HEADER, FrameHeader, SEAL};
use super::layout::{BlockFault, Features, disk_len, memory_len};
use super::mark::{MARK_FILE, MARK_LEN, Mark};
use super::segment::{LOG_FOLDER, segment_first, segment_name};
use super::segment_header::{SEGMENT_HEADER, SegmentHeader};
use super::store_file::{STORE_FILE, STORE_LEN, StoreFile};
use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::Position;
use crate::storage::{Access, File, Storage};

/// How often the files are read again when they change meanwhile.
const TRIES: usize = 3;

/// The files of a store, without the frames.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) store: StoreFile,
    pub(crate) mark: Option<Mark>,
    /// The first position that retention has left.
    pub(crate) log_start: Position,
    /// In order; at least one. Those below the log's start, whose removal a crash cut short, are passed over.
    pub(crate) segments: Vec<SegmentFile>,
    /// Headers of which one copy is damaged and the other stands in.
    pub(crate) copies: Vec<Corruption>,
    /// What is worth a word and may be no damage at all.
    pub(crate) notes: Vec<String>,
}

/// A segment's file, as its header and its size tell.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) header: SegmentHeader,
    /// Where the frames end, as the segment after it says.
    pub(crate) sealed_len: Option<u64>,
    /// The size of the file.
    pub(crate) len: u64,
    /// What is wrong with the file as a whole. Its frames are looked at all the same.
    pub(crate) damage: Option<Corruption>,
}

impl Files {
    /// Reads them. What is wrong with a segment is told in its place, so that the others can be looked at;
    /// [`check_order`](Files::check_order) says whether the log as a whole can be opened.
    ///
    /// The mark is read first: what it proves must then be found in segments that are read later, also while
    /// another process appends.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, Error> {
        let mut files = Self::read_once(storage);
        for _ in 0..TRIES {
            // A folder listed while another process names a segment in it may show the next one without it, and one
            // that another process removes may be gone when it is read.
            let again = match &files {
                Ok(files) => files.order_damage().is_some_and(|order| order.damage == Damage::SegmentMissing),
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if !again {
                break;
            }
            files = Self::read_once(storage);
        }
        files
    }

    fn read_once(storage: &dyn Storage) -> Result<Self, Error> {
        let mut copies = Vec::new();
        let store = read_store(storage, &mut copies)?;
        check_features(STORE_FILE, store.features)?;
        let MarkFile { mark, note } = read_mark(storage, store.store_id)?;
        let names = storage.list(LOG_FOLDER).map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?;
        let mut firsts: Vec<Position> = names.iter().filter_map(|name| segment_first(name)).collect();
        firsts.sort_unstable();
        let log_start = match mark {
            Some(mark) => mark.log_start,
            None => base::log_start(storage, store.store_id, &names, &firsts)?,
        };
        firsts.retain(|first| *first >= log_start);
        let segments = read_segments(storage, &store, firsts, &mut copies)?;
        Ok(Files { store, mark, log_start, segments, copies, notes: note.into_iter().collect() })
    }

    /// Whether all features allow writing.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        let words = self.segments.iter().map(|segment| segment.header.features.ro_compat);
        match words.fold(self.store.features.ro_compat, |all, word| all | word) {
            0 => Ok(()),
            unknown => Err(unsupported(format!(
                "the store uses features {unknown:#x}, which this version can read but not write: open it read-only, or with a newer everfold"
            ))),
        }
    }

    /// The segment being appended to, and those before it.
    pub(crate) fn active_and_sealed(&self) -> Result<(&SegmentFile, &[SegmentFile]), Error> {
        self.segments
            .split_last()
            .ok_or_else(|| missing(self.log_start, "the log folder holds no segment".into()).into())
    }

    /// Whether the segments are one log: none missing, none from elsewhere, and the active one with a header.
    pub(crate) fn check_order(&self) -> Result<(), Error> {
        self.order_damage().map_or(Ok(()), |corruption| Err(corruption.into()))
    }

    /// What keeps the segments from being one log.
    pub(crate) fn order_damage(&self) -> Option<Corruption> {
        let log_start = self.log_start;
        let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) else {
            return Some(missing(log_start, "the log folder holds no segment".into()));
        };
        if first.header.first > log_start {
            return Some(missing(log_start, format!("the log starts at position {}", first.header.first)));
        }
        let fatal = |damage: &&Corruption| damage.damage == Damage::SegmentForeign;
        if let Some(foreign) = self.segments.iter().filter_map(|s| s.damage.as_ref()).find(fatal) {
            return Some(foreign.clone());
        }
        if let Some(damage) = last.damage.as_ref().filter(|damage| damage.damage == Damage::Header) {
            return Some(damage.clone());
        }
        self.segments.windows(2).find_map(gap).or_else(|| {
            let mark = self.mark.filter(|mark| mark.segment > last.header.first)?;
            Some(missing(mark.segment, "the mark proves that it was written".into()))
        })
    }
}

/// A segment that is missing between two. A header that cannot be read cannot tell.
fn gap(pair: &[SegmentFile]) -> Option<Corruption> {
    let [before, after] = pair else { return None };
    let readable = before.header.salt != 0 && after.header.salt != 0;
    if !readable || before.header.index.checked_add(1) == Some(after.header.index) {
        return None;
    }
    let detail = format!(
        "segment {} of the store is not there: {} is number {}",
        before.header.index.saturating_add(1),
        segment_name(after.header.first),
        after.header.index
    );
    Some(missing(before.header.first.next(), detail))
}

fn missing(first: Position, detail: String) -> Corruption {
    let (file, position) = (segment_name(first), Some(first));
    Corruption { file, offset: 0, position, damage: Damage::SegmentMissing, detail }
}

/// What `STORE` says. One of its two copies that is damaged is told in `copies`.
pub(crate) fn read_store(storage: &dyn Storage, copies: &mut Vec<Corruption>) -> Result<StoreFile, Error> {
    let file = storage
        .open(STORE_FILE, Access::Read)
        .map_err(|e| Error::io(format_args!("open {STORE_FILE}"), e))?;
    let bytes = read_up_to(file.as_ref(), 0, STORE_LEN)
        .map_err(|e| Error::io(format_args!("read {STORE_FILE}"), e))?;
    let store = StoreFile::decode(&bytes).map_err(|fault| header_error(STORE_FILE, fault))?;
    if !store.is_intact(&bytes) {
        copies.push(damaged_copy(STORE_FILE, None));
    }
    Ok(store)
}

/// The mark, and what is to be said of its file.
pub(crate) struct MarkFile {
    pub(crate) mark: Option<Mark>,
    note: Option<String>,
}

pub(crate) fn read_mark(storage: &dyn Storage, store_id: Uuid) -> Result<MarkFile, Error> {
    let judged_without = |why: &str| {
        let note = Some(format!("{MARK_FILE}: {why}; the log is judged without it"));
        Ok(MarkFile { mark: None, note })
    };
    let file = match storage.open(MARK_FILE, Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return judged_without("not there"),
        Err(e) => return Err(Error::io(format_args!("open {MARK_FILE}"), e)),
    };
    let bytes =
        read_up_to(file.as_ref(), 0, MARK_LEN).map_err(|e| Error::io(format_args!("read {MARK_FILE}"), e))?;
    match Mark::decode(&bytes, store_id) {
        (None, _) => judged_without("neither slot verifies"),
        (mark, 0) => Ok(MarkFile { mark, note: None }),
        (Some(mark), _) => {
            // The slot that does not verify may be the newer one, which said that the store was opened again.
            let mark = Some(Mark { clean: false, ..mark });
            let note =
                format!("{MARK_FILE}: one slot does not verify (a crash while it was written does that)");
            Ok(MarkFile { mark, note: Some(note) })
        }
    }
}

/// A file of the log folder, to read.
pub(crate) fn open_segment(storage: &dyn Storage, segment: &SegmentFile) -> Result<Arc<dyn File>, Error> {
    let name = segment_name(segment.header.first);
    storage.open(&name, Access::Read).map_err(|e| Error::io(format_args!("open {name}"), e))
}

fn damaged_copy(file: &str, position: Option<Position>) -> Corruption {
    let detail = "one of its two copies is damaged, and the other stands in for it".into();
    Corruption { file: file.into(), offset: 0, position, damage: Damage::Header, detail }
}

fn read_segments(
    storage: &dyn Storage,
    store: &StoreFile,
    firsts: Vec<Position>,
    copies: &mut Vec<Corruption>,
) -> Result<Vec<SegmentFile>, Error> {
    let mut segments: Vec<SegmentFile> = Vec::with_capacity(firsts.len());
    for first in firsts {
        let mut segment = read_segment(storage, first, store, copies)?;
        if let Some(before) = segments.last_mut() {
            if segment.header.salt != 0 {
                before.sealed_len = Some(segment.header.prev_sealed_len);
            }
            check_link(storage, before, &mut segment)?;
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn read_segment(
    storage: &dyn Storage,
    first: Position,
    store: &StoreFile,
    copies: &mut Vec<Corruption>,
) -> Result<SegmentFile, Error> {
    let name = segment_name(first);
    let doing = |what: &str| format!("{what} {name}");
    let file = storage.open(&name, Access::Read).map_err(|e| Error::io(doing("open"), e))?;
    let len = file.len().map_err(|e| Error::io(doing("read the size of"), e))?;
    let page = read_up_to(file.as_ref(), 0, SEGMENT_HEADER).map_err(|e| Error::io(doing("read"), e))?;
    let corruption = |offset, damage, detail: String| Corruption {
        file: name.clone(),
        offset,
        position: Some(first),
        damage,
        detail,
    };
    let header = match SegmentHeader::decode(&page) {
        Ok(header) => header,
        Err(fault @ BlockFault::Format(_)) => return Err(header_error(&name, fault)),
        Err(fault) => {
            let damage = Some(corruption(0, Damage::Header, fault.to_string()));
            return Ok(SegmentFile { header: unreadable(first, store, len), sealed_len: None, len, damage });
        }
    };
    check_features(&name, header.features)?;
    if !header.is_intact(&page) {
        copies.push(damaged_copy(&name, Some(first)));
    }
    let faults = [
        (header.store_id != store.store_id, Damage::SegmentForeign, "it belongs to another store".to_owned()),
        (
            header.first != first,
            Damage::SegmentForeign,
            format!("its header says that it starts at position {}", header.first),
        ),
        (
            header.segment_size != store.segment_size,
            Damage::SegmentForeign,
            format!(
                "it was made with {} bytes, and the store's segments have {}",
                header.segment_size, store.segment_size
            ),
        ),
        (
            len != header.segment_size,
            Damage::SizeChanged,
            format!("the file has {len} bytes and was made with {}", header.segment_size),
        ),
    ];
    let fault = faults.into_iter().find(|(is, ..)| *is);
    let damage = fault.map(|(_, damage, detail)| {
        let offset = if damage == Damage::SizeChanged { len.min(header.segment_size) } else { 0 };
        corruption(offset, damage, detail)
    });
    Ok(SegmentFile { header, sealed_len: None, len, damage })
}

/// Stands in for a header of which neither copy verifies: with no salt, no frame of the segment will verify.
fn unreadable(first: Position, store: &StoreFile, len: u64) -> SegmentHeader {
    SegmentHeader {
        store_id: store.store_id,
        index: 0,
        first,
        salt: 0,
        max_body: 0,
        features: Features::default(),
        prev_sealed_len: 0,
        segment_size: len,
        created_ns: 0,
        prev_chain: 0,
        chain: 0,
    }
}

/// Checks that `after` follows from the seal of `before`.
fn check_link(storage: &dyn Storage, before: &mut SegmentFile, after: &mut SegmentFile) -> Result<(), Error> {
    let (Some(sealed_len), None) = (before.sealed_len, &before.damage) else {
        return Ok(());
    };
    if before.header.index.checked_add(1) != Some(after.header.index) {
        return Ok(());
    }
    let name = segment_name(before.header.first);
    let file = open_segment(storage, before)?;
    let offset = sealed_len.saturating_sub(disk_len(CONTROL_FRAME));
    let bytes = read_up_to(file.as_ref(), offset, FRAME_HEADER)
        .map_err(|e| Error::io(format_args!("read {name}"), e))?;
    let position = Some(after.header.first);
    match FrameHeader::decode(&bytes, before.header.salt) {
        Ok(seal)
            if seal.is(SEAL)
                && seal.header_crc == after.header.prev_chain
                && seal.first == after.header.first => {}
        Ok(_) => {
            let detail = format!("it does not follow from the end of {name}");
            let file = segment_name(after.header.first);
            after.damage.get_or_insert(Corruption {
                file,
                offset: 0,
                position,
                damage: Damage::SegmentForeign,
                detail,
            });
        }
        Err(fault) => {
            let detail = format!("the seal of the segment does not verify: {fault}");
            let damage = Damage::CorruptAcknowledged;
            before.damage = Some(Corruption { file: name, offset, position, damage, detail });
        }
    }
    Ok(())
}

/// Up to `len` bytes at an offset; fewer when the file ends before.
pub(crate) fn read_up_to(file: &dyn File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.min(memory_len(file.len()?.saturating_sub(offset)))];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn header_error(file: &str, fault: BlockFault) -> Error {
    match fault {
        BlockFault::Format(_) => {
            unsupported(format!("{file}: {fault}; use the everfold that wrote it, or a newer one"))
        }
        _ => {
            let (file, detail) = (file.into(), fault.to_string());
            Corruption { file, offset: 0, position: None, damage: Damage::Header, detail }.into()
        }
    }
}

fn check_features(file: &str, features: Features) -> Result<(), Error> {
    match features.incompat {
        0 => Ok(()),
        unknown => Err(unsupported(format!(
            "{file} uses features {unknown:#x}, which this version does not know: use a newer everfold"
        ))),
    }
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}
