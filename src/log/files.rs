//! What is in a store's directory: `STORE`, `MARK` and the segments' headers, read and held against each other.

use uuid::Uuid;

use super::frame::{CONTROL_FRAME, FRAME_HEADER, FrameHeader, SEAL};
use super::layout::{BlockFault, Features, disk_len, memory_len};
use super::mark::{MARK_FILE, MARK_LEN, Mark};
use super::segment::{LOG_FOLDER, segment_first, segment_name};
use super::segment_header::{SEGMENT_HEADER, SegmentHeader};
use super::store_file::{STORE_FILE, STORE_LEN, StoreFile};
use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::Position;
use crate::storage::{Access, File, Storage};

/// The files of a store, without the frames.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) store: StoreFile,
    pub(crate) mark: Option<Mark>,
    /// In order; at least one.
    pub(crate) segments: Vec<SegmentFile>,
    /// Damage that something else makes up for: a second copy, an older slot.
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
    /// Reads them. Damage that leaves no way to tell where positions are is an error; the rest is told.
    ///
    /// The mark is read first: what it proves must then be found in segments that are read later, also while
    /// another process appends.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let store = read_store(storage, &mut notes)?;
        check_features(STORE_FILE, store.features)?;
        let mark = read_mark(storage, store.store_id, &mut notes)?;
        let segments = read_segments(storage, &store, &mut notes)?;
        let files = Files { store, mark, segments, notes };
        files.check_order()?;
        Ok(files)
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

    fn check_order(&self) -> Result<(), Error> {
        let log_start = self.mark.map_or(Position::new(1), |mark| mark.log_start);
        let missing = |first: Position, detail: String| -> Error {
            let (file, position) = (segment_name(first), Some(first));
            Corruption { file, offset: 0, position, damage: Damage::SegmentMissing, detail }.into()
        };
        let Some(first) = self.segments.first() else {
            return Err(missing(log_start, "the log folder holds no segment".into()));
        };
        if first.header.first > log_start {
            return Err(missing(log_start, format!("the log starts at position {}", first.header.first)));
        }
        for pair in self.segments.windows(2) {
            if let [before, after] = pair
                && before.header.index + 1 != after.header.index
            {
                let detail = format!(
                    "segment {} of the store is not there: {} is number {}",
                    before.header.index + 1,
                    segment_name(after.header.first),
                    after.header.index
                );
                return Err(missing(before.header.first.next(), detail));
            }
        }
        match (self.mark, self.segments.last()) {
            (Some(mark), Some(last)) if mark.segment > last.header.first => {
                Err(missing(mark.segment, "the mark proves that it was written".into()))
            }
            _ => Ok(()),
        }
    }
}

fn read_store(storage: &dyn Storage, notes: &mut Vec<String>) -> Result<StoreFile, Error> {
    let file = storage
        .open(STORE_FILE, Access::Read)
        .map_err(|e| Error::io(format_args!("open {STORE_FILE}"), e))?;
    let bytes = read_up_to(file.as_ref(), 0, STORE_LEN)
        .map_err(|e| Error::io(format_args!("read {STORE_FILE}"), e))?;
    let store = StoreFile::decode(&bytes).map_err(|fault| header_error(STORE_FILE, None, fault))?;
    if !store.is_intact(&bytes) {
        notes.push(format!("{STORE_FILE}: one of its two copies is damaged"));
    }
    Ok(store)
}

fn read_mark(storage: &dyn Storage, store_id: Uuid, notes: &mut Vec<String>) -> Result<Option<Mark>, Error> {
    let file = match storage.open(MARK_FILE, Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            notes.push(format!("{MARK_FILE}: not there; the log is judged without it"));
            return Ok(None);
        }
        Err(e) => return Err(Error::io(format_args!("open {MARK_FILE}"), e)),
    };
    let bytes =
        read_up_to(file.as_ref(), 0, MARK_LEN).map_err(|e| Error::io(format_args!("read {MARK_FILE}"), e))?;
    let (mark, damaged) = Mark::decode(&bytes, store_id);
    if mark.is_none() {
        notes.push(format!("{MARK_FILE}: neither slot verifies; the log is judged without it"));
    } else if damaged > 0 {
        notes.push(format!("{MARK_FILE}: one slot does not verify (a crash while it was written does that)"));
    }
    Ok(mark)
}

fn read_segments(
    storage: &dyn Storage,
    store: &StoreFile,
    notes: &mut Vec<String>,
) -> Result<Vec<SegmentFile>, Error> {
    let names = storage.list(LOG_FOLDER).map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?;
    let mut firsts: Vec<Position> = names.iter().filter_map(|name| segment_first(name)).collect();
    firsts.sort_unstable();
    let mut segments: Vec<SegmentFile> = Vec::with_capacity(firsts.len());
    for (at, first) in firsts.iter().enumerate() {
        let is_last = at + 1 == firsts.len();
        let segment = read_segment(storage, *first, store, is_last, notes)?;
        if let Some(before) = segments.last_mut() {
            if segment.header.salt != 0 {
                before.sealed_len = Some(segment.header.prev_sealed_len);
            }
            check_link(storage, before, &segment)?;
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn read_segment(
    storage: &dyn Storage,
    first: Position,
    store: &StoreFile,
    is_last: bool,
    notes: &mut Vec<String>,
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
        Err(fault @ BlockFault::Format(_)) => return Err(header_error(&name, Some(first), fault)),
        Err(fault) if is_last => return Err(header_error(&name, Some(first), fault)),
        Err(fault) => {
            let damage = corruption(0, Damage::Header, fault.to_string());
            return Ok(SegmentFile {
                header: unreadable(first, store, len),
                sealed_len: None,
                len,
                damage: Some(damage),
            });
        }
    };
    check_features(&name, header.features)?;
    let foreign = [
        (header.store_id != store.store_id, "it belongs to another store".to_owned()),
        (header.first != first, format!("its header says that it starts at position {}", header.first)),
    ];
    if let Some((_, detail)) = foreign.into_iter().find(|(is, _)| *is) {
        return Err(corruption(0, Damage::SegmentForeign, detail).into());
    }
    if !header.is_intact(&page) {
        notes.push(format!("{name}: the header page is damaged, but one of its two copies is good"));
    }
    let damage = (len != header.segment_size).then(|| {
        let detail = format!("the file has {len} bytes and was made with {}", header.segment_size);
        corruption(len.min(header.segment_size), Damage::SizeChanged, detail)
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
fn check_link(storage: &dyn Storage, before: &mut SegmentFile, after: &SegmentFile) -> Result<(), Error> {
    let name = segment_name(before.header.first);
    let (Some(sealed_len), None) = (before.sealed_len, &before.damage) else {
        return Ok(());
    };
    let file = storage.open(&name, Access::Read).map_err(|e| Error::io(format_args!("open {name}"), e))?;
    let offset = sealed_len.saturating_sub(disk_len(CONTROL_FRAME));
    let bytes = read_up_to(file.as_ref(), offset, FRAME_HEADER)
        .map_err(|e| Error::io(format_args!("read {name}"), e))?;
    match FrameHeader::decode(&bytes, before.header.salt) {
        Ok(seal)
            if seal.is(SEAL)
                && seal.header_crc == after.header.prev_chain
                && seal.first == after.header.first =>
        {
            Ok(())
        }
        Ok(_) => {
            let position = Some(after.header.first);
            let detail = format!("it does not follow from the end of {name}");
            let file = segment_name(after.header.first);
            Err(Corruption { file, offset: 0, position, damage: Damage::SegmentForeign, detail }.into())
        }
        Err(fault) => {
            let detail = format!("the seal of the segment does not verify: {fault}");
            let position = Some(after.header.first);
            before.damage = Some(Corruption {
                file: name,
                offset,
                position,
                damage: Damage::CorruptAcknowledged,
                detail,
            });
            Ok(())
        }
    }
}

/// Up to `len` bytes at an offset; fewer when the file ends before.
pub(crate) fn read_up_to(file: &dyn File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.min(memory_len(file.len()?.saturating_sub(offset)))];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn header_error(file: &str, position: Option<Position>, fault: BlockFault) -> Error {
    match fault {
        BlockFault::Format(_) => {
            unsupported(format!("{file}: {fault}; use the everfold that wrote it, or a newer one"))
        }
        _ => {
            let (file, detail) = (file.into(), fault.to_string());
            Corruption { file, offset: 0, position, damage: Damage::Header, detail }.into()
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
