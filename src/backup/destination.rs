//! The directory of a backup.
//!
//! The order of things: segments, one after the other, each written under another name, synced, read back and named;
//! the base; `MARK`, which says how far the backup reaches and where its log starts; `STORE`, which says that there is
//! one; what is before the log's start is removed. So an interruption leaves what there was, or more of the same log.

use std::io;

use super::source::{Part, Source};
use super::{BackedUp, other_history};
use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::Position;
use crate::log::base;
use crate::log::create::write_file;
use crate::log::files::{read_mark, read_up_to};
use crate::log::frame::{CONTROL_FRAME, FRAME_HEADER, FrameHeader};
use crate::log::index::base::Identity;
use crate::log::indexing::replace;
use crate::log::layout::{disk_len, is_zero, memory_len};
use crate::log::mark::{MARK_FILE, MARK_LEN, Mark};
use crate::log::open::lock_error;
use crate::log::recovery::copy;
use crate::log::segment::{LOG_FOLDER, base_name, index_name, position_in, segment_first, segment_name};
use crate::log::segment_header::{SEGMENT_HEADER, SegmentHeader};
use crate::log::store_file::{STORE_FILE, STORE_LEN};
use crate::log::walk::{Place, Step, Walk};
use crate::log::window::{SEQUENTIAL, Window};
use crate::storage::{Access, File, Lock, Storage};

/// A segment that is being copied. An opening for writing removes what is left of it.
const COPYING: &str = "log/next.tmp";
/// Bytes are compared by so many.
const PIECE: u64 = 1 << 20;

pub(super) struct Destination<'a> {
    storage: &'a dyn Storage,
    /// Held for its drop.
    _lock: Lock,
}

/// What the backup has of a segment.
enum Has {
    Nothing,
    /// Its beginning, up to an offset.
    Beginning(u64),
    /// All of it, with its seal.
    Sealed,
}

impl<'a> Destination<'a> {
    /// Takes the lock: nobody opens the backup for writing meanwhile.
    pub(super) fn open(storage: &'a dyn Storage) -> Result<Self, Error> {
        let lock = storage.lock().map_err(lock_error)?;
        Ok(Destination { storage, _lock: lock })
    }

    /// Brings everything here that is not here yet.
    pub(super) fn take(&self, source: &Source<'_>) -> Result<BackedUp, Error> {
        let mark = self.check(source)?;
        self.storage
            .create_folder(LOG_FOLDER)
            .map_err(|e| Error::io(format_args!("make the folder {LOG_FOLDER}"), e))?;
        let mut done = BackedUp {
            position: Position::START,
            log_start: source.log_start,
            segments: source.parts.len(),
            copied_segments: 0,
            copied_bytes: 0,
        };
        let mut last = None;
        for part in &source.parts {
            let (has, is_last) = (self.has(source, part)?, part.sealed.is_none());
            match has {
                Has::Sealed => {}
                Has::Beginning(end) if end == part.end => {}
                Has::Nothing | Has::Beginning(_) => {
                    self.copy(source, part)?;
                    done.copied_segments += 1;
                    done.copied_bytes += part.end;
                }
            }
            if is_last || source.parts.last().is_some_and(|last| last.segment.name == part.segment.name) {
                let file = self.open_file(&part.segment.name)?;
                last = Some((part.segment.header.first, verify(file, part)?));
            }
        }
        let Some((segment, place)) = last else {
            return Err(Error::invalid("there is nothing to back up: the log has no segment"));
        };
        self.take_base(source)?;
        self.say(source, mark, segment, place)?;
        self.remove_dropped(source.log_start)?;
        done.position = place.next.previous();
        Ok(done)
    }

    /// Whether the backup is of the same store, and not ahead of it. Returns its mark.
    fn check(&self, source: &Source<'_>) -> Result<Option<Mark>, Error> {
        let names = match self.storage.list(LOG_FOLDER) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?,
        };
        match crate::log::files::read_store(self.storage, &mut Vec::new()) {
            Ok(store) if store.store_id != source.store.store_id => {
                return Err(other_history(STORE_FILE, "names another store"));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let known = |first: &Position| source.parts.iter().any(|part| part.segment.header.first == *first);
        let firsts = names.iter().filter_map(|name| segment_first(name));
        let mut unknown = firsts.filter(|first| *first >= source.log_start && !known(first));
        if let Some(first) = unknown.next() {
            return Err(other_history(&segment_name(first), "is not among the store's segments"));
        }
        let mark = read_mark(self.storage, source.store.store_id)?.mark;
        if mark.is_some_and(|mark| mark.log_start > source.log_start) {
            return Err(other_history(MARK_FILE, "says that its log starts later than the store's"));
        }
        Ok(mark)
    }

    fn has(&self, source: &Source<'_>, part: &Part) -> Result<Has, Error> {
        let name = &part.segment.name;
        let fault = |e| Error::io(format_args!("read {name} of the backup"), e);
        let file = match self.storage.open(name, Access::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Has::Nothing),
            file => file.map_err(fault)?,
        };
        let page = read_up_to(file.as_ref(), 0, SEGMENT_HEADER).map_err(fault)?;
        let is_whole = file.len().map_err(fault)? == part.segment.header.segment_size;
        if SegmentHeader::decode(&page) != Ok(part.segment.header) || !is_whole {
            return Err(other_history(name, "is not the store's"));
        }
        if let Some(sealed) = part.sealed {
            let at = sealed.len.saturating_sub(disk_len(CONTROL_FRAME));
            let seal = read_up_to(file.as_ref(), at, FRAME_HEADER).map_err(fault)?;
            let seal = FrameHeader::decode(&seal, part.segment.header.salt);
            if seal.is_ok_and(|seal| seal.header_crc == sealed.chain) {
                return Ok(Has::Sealed);
            }
        }
        let end = written_end(file.as_ref()).map_err(fault)?;
        let same = end <= part.end
            && is_same(file.as_ref(), part.file(source.storage)?.as_ref(), end).map_err(fault)?;
        match same {
            true => Ok(Has::Beginning(end)),
            false => Err(other_history(name, "has other bytes than the store's")),
        }
    }

    fn copy(&self, source: &Source<'_>, part: &Part) -> Result<(), Error> {
        let name = &part.segment.name;
        let fault = |doing: &str, e| Error::io(format_args!("{doing} {name} of the backup"), e);
        match self.storage.remove(COPYING) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fault("clear the way for", e)),
            _ => {}
        }
        let size = part.segment.header.segment_size;
        let file = self.storage.create(COPYING, size).map_err(|e| fault("make", e))?;
        let copied = self.fill(source, part, file).and_then(|()| {
            self.storage.rename(COPYING, name).map_err(|e| fault("name", e))?;
            self.storage.sync_folder(LOG_FOLDER).map_err(|e| fault("sync the folder of", e))
        });
        if copied.is_err()
            && let Err(error) = self.storage.remove(COPYING)
        {
            tracing::warn!(%error, "could not remove a copy of a segment that was not finished");
        }
        copied?;
        if part.sealed.is_some() {
            self.copy_index(source, part.segment.header.first);
        }
        Ok(())
    }

    /// Copies the frames behind a header made anew, and reads them back.
    fn fill(&self, source: &Source<'_>, part: &Part, file: std::sync::Arc<dyn File>) -> Result<(), Error> {
        let fault = |e| Error::io(format_args!("copy {}", part.segment.name), e);
        let from = part.file(source.storage)?;
        let mut header = part.segment.header;
        let start = disk_len(SEGMENT_HEADER);
        file.write_at(&header.encode(), 0).map_err(fault)?;
        let frames = part.end.saturating_sub(start);
        copy((from.as_ref(), start), (file.as_ref(), start), frames).map_err(fault)?;
        file.sync().map_err(fault)?;
        verify(file, part).map(drop)
    }

    /// An index that is missing or not good is made anew where it is needed.
    fn copy_index(&self, source: &Source<'_>, first: Position) {
        let name = index_name(first);
        let copied = source.storage.open(&name, Access::Read).and_then(|from| {
            let len = from.len()?;
            replace(self.storage, &name, len, |file| copy((from.as_ref(), 0), (file.as_ref(), 0), len))
        });
        if let Err(error) = copied {
            tracing::debug!(name, %error, "the index of a segment was not backed up");
        }
    }

    /// The versions of streams whose events retention has removed.
    fn take_base(&self, source: &Source<'_>) -> Result<(), Error> {
        let log_start = source.log_start;
        if log_start == Position::START.next() {
            return Ok(());
        }
        let identity = Identity { store_id: source.store.store_id, log_start };
        if base::damage(self.storage, identity)?.is_none() {
            return Ok(());
        }
        let name = base_name(log_start);
        let fault = |e| Error::io(format_args!("copy {name}"), e);
        let from = source.storage.open(&name, Access::Read).map_err(fault)?;
        let len = from.len().map_err(fault)?;
        replace(self.storage, &name, len, |file| copy((from.as_ref(), 0), (file.as_ref(), 0), len))
            .and_then(|()| self.storage.sync_folder(LOG_FOLDER))
            .map_err(fault)?;
        base::damage(self.storage, identity)?.map_or(Ok(()), |damage| Err(damage.into()))
    }

    /// Writes what says how far the backup reaches, in both slots, and that there is one.
    fn say(
        &self,
        source: &Source<'_>,
        before: Option<Mark>,
        segment: Position,
        place: Place,
    ) -> Result<(), Error> {
        let mut mark = Mark {
            store_id: source.store.store_id,
            generation: before.map_or(0, |mark| mark.generation),
            durable: place.next.previous(),
            segment,
            end: place.offset,
            log_start: source.log_start,
            chain: place.chain,
            epoch: place.epoch.max(before.map_or(0, |mark| mark.epoch)),
            clean: false,
        };
        let mut file = vec![0; MARK_LEN];
        for _ in 0..2 {
            mark.generation = mark.generation.saturating_add(1);
            let (offset, slot) = mark.encode();
            crate::log::layout::put(&mut file, memory_len(offset), &slot);
        }
        write_file(self.storage, MARK_FILE, "MARK.tmp", disk_len(MARK_LEN), &file, 0)?;
        let sync = || self.storage.sync_folder("").map_err(|e| Error::io("sync the directory", e));
        sync()?;
        let there = self.storage.open(STORE_FILE, Access::Read).is_ok();
        if !there {
            let store = source.store.encode();
            write_file(self.storage, STORE_FILE, "STORE.tmp", disk_len(STORE_LEN), &store, 0)?;
            sync()?;
        }
        Ok(())
    }

    /// Removes what the store has dropped since the last backup.
    fn remove_dropped(&self, log_start: Position) -> Result<(), Error> {
        let fault = |e| Error::io(format_args!("remove what is before the log's start from {LOG_FOLDER}"), e);
        let mut removed = false;
        let mut names = self.storage.list(LOG_FOLDER).map_err(fault)?;
        names.sort_unstable();
        for name in names {
            let is_before = |suffix| position_in(&name, suffix).is_some_and(|first| first < log_start);
            if is_before(".seg") || is_before(".idx") || is_before(".base") {
                self.storage.remove(&format!("{LOG_FOLDER}/{name}")).map_err(fault)?;
                removed = true;
            }
        }
        if removed { self.storage.sync_folder(LOG_FOLDER).map_err(fault) } else { Ok(()) }
    }

    fn open_file(&self, name: &str) -> Result<std::sync::Arc<dyn File>, Error> {
        self.storage
            .open(name, Access::Read)
            .map_err(|e| Error::io(format_args!("read {name} of the backup"), e))
    }
}

/// Reads a copy of a segment, checking everything. Returns where its frames end, which is where the store's do.
fn verify(file: std::sync::Arc<dyn File>, part: &Part) -> Result<Place, Error> {
    let header = &part.segment.header;
    let name = &part.segment.name;
    let mut walk = Walk::new(Window::reading(file, part.end, SEQUENTIAL), header);
    let detail = loop {
        match walk.step().map_err(|e| Error::io(format_args!("read {name} of the backup"), e))? {
            Step::Frame { .. } => {}
            Step::Bad(fault) => break Some(fault.to_string()),
            Step::End if walk.place().offset != part.end => {
                break Some("frames are missing before its end".to_owned());
            }
            Step::End => break None,
        }
    };
    let place = walk.place();
    let is_sealed = part.sealed.is_none_or(|sealed| sealed.chain == place.chain);
    let detail = detail.or_else(|| (!is_sealed).then(|| "it ends with another seal".to_owned()));
    match detail {
        None => Ok(place),
        Some(detail) => Err(Corruption {
            file: name.clone(),
            offset: place.offset,
            position: Some(place.next),
            damage: Damage::CorruptAcknowledged,
            detail: format!("the copy does not verify, so the backup is as it was: {detail}"),
        }
        .into()),
    }
}

/// Where the last non-zero byte of a segment ends; after the header at least.
fn written_end(file: &dyn File) -> io::Result<u64> {
    let (mut at, len) = (disk_len(SEGMENT_HEADER), file.len()?);
    let mut end = at;
    while at < len {
        let piece = read_up_to(file, at, memory_len(PIECE.min(len - at)))?;
        if piece.is_empty() {
            break;
        }
        if !is_zero(&piece)
            && let Some(last) = piece.iter().rposition(|byte| *byte != 0)
        {
            end = at + disk_len(last) + 1;
        }
        at += disk_len(piece.len());
    }
    Ok(end)
}

/// Whether two files have the same frames up to an offset.
fn is_same(a: &dyn File, b: &dyn File, end: u64) -> io::Result<bool> {
    let mut at = disk_len(SEGMENT_HEADER);
    while at < end {
        let len = memory_len(PIECE.min(end - at));
        let piece = read_up_to(a, at, len)?;
        if piece.is_empty() || piece != read_up_to(b, at, len)? {
            return Ok(false);
        }
        at += disk_len(piece.len());
    }
    Ok(true)
}
