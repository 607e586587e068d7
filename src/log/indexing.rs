//! Makes the indexes of sealed segments, and the directories over them: from their files, or from the segments.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::catalog::Catalog;
use super::frame::{FRAME_HEADER, FrameHeader};
use super::index::directory::{Directory, FAN_IN, MAX_SEGMENTS, Part, Plan, Span};
use super::index::encode::encode;
use super::index::file::{Identity, IndexFile};
use super::index::memory::{Hidden, MemoryIndex};
use super::index::pages::{IndexFault, Source};
use super::index::{Lookup as _, Place, SegmentIndex};
use super::layout::{disk_len, memory_len};
use super::record;
use super::scan::{Scanned, SegmentScan};
use super::segment::{LOG_FOLDER, Segment, index_name};
use super::walk::Walk;
use super::window::{SEQUENTIAL, Window};
use crate::error::{Corruption, Error};
use crate::event::Position;
use crate::storage::{File, Storage};

impl Catalog {
    /// The index of a segment: as it is, from its file, or made from the segment.
    pub(crate) fn index(&self, segment: &Segment) -> Result<Arc<SegmentIndex>, Error> {
        if let Some(index) = segment.index() {
            return Ok(index);
        }
        let _made_once = segment.making_index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = segment.index() {
            return Ok(index);
        }
        let index = match self.open_index(segment) {
            Some(index) => index,
            None => {
                let (index, _) = build(self, segment)?;
                segment.note_read_for_index();
                Arc::new(SegmentIndex::Memory(RwLock::new(index)))
            }
        };
        segment.set_index(index.clone());
        self.keep_index(segment);
        Ok(segment.index().unwrap_or(index))
    }

    /// The index in the segment's file, unless there is none that is good.
    fn open_index(&self, segment: &Segment) -> Option<Arc<SegmentIndex>> {
        let identity = self.identity(segment).filter(|_| !segment.distrusts_index())?;
        let name = index_name(segment.header.first);
        let opened = Source::open(&self.storage, &name, self.reading.map_segments)
            .and_then(|source| IndexFile::open(source, &identity));
        match opened {
            Ok(index) => index.map(|index| Arc::new(SegmentIndex::File(index))),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(name, %error, "could not open an index; it is made anew");
                }
                None
            }
        }
    }

    /// Which index is that of a segment; none of one that is active or has no header.
    fn identity(&self, segment: &Segment) -> Option<Identity> {
        let sealed = segment.sealed().filter(|_| segment.header.salt != 0)?;
        let (first, salt) = (segment.header.first, segment.header.salt);
        Some(Identity { store_id: self.reading.store_id, first, salt, sealed })
    }

    /// Moves the index of a sealed segment from memory into its file. What fails is tried again at the next opening;
    /// until then it stays in memory.
    pub(crate) fn keep_index(&self, segment: &Segment) {
        let (Some(identity), Some(index)) = (self.identity(segment), segment.index()) else { return };
        let Some(memory) = index.memory().filter(|_| self.reading.writable) else { return };
        let written = {
            let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
            // Of what damage hides nothing is kept: an undamaged copy of the segment has the same identity.
            match memory.hidden().is_empty() {
                true => encode(&memory, &identity, self.hasher)
                    .and_then(|bytes| self.write_index(segment, &bytes)),
                false => return,
            }
        };
        let name = index_name(segment.header.first);
        let opened = written
            .and_then(|()| Source::open(&self.storage, &name, self.reading.map_segments))
            .and_then(|source| IndexFile::open(source, &identity));
        match opened {
            Ok(Some(file)) => segment.set_index(Arc::new(SegmentIndex::File(file))),
            Ok(None) => tracing::warn!(name, "an index that was just written does not verify"),
            Err(error) => tracing::warn!(name, %error, "could not write an index; it stays in memory"),
        }
    }

    fn write_index(&self, segment: &Segment, bytes: &[u8]) -> io::Result<()> {
        let name = index_name(segment.header.first);
        replace(self.storage.as_ref(), &name, disk_len(bytes.len()), |file| file.write_at(bytes, 0))
    }

    /// Opens the directories that there are files of, the largest first.
    pub(crate) fn open_directories(&self) -> Result<(), Error> {
        let names =
            self.storage.list(LOG_FOLDER).map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?;
        let spans = names.iter().filter_map(|name| directory_span(name));
        let mut spans: Vec<(u64, u64)> = spans.filter(|span| is_merged(*span)).collect();
        spans.sort_unstable_by_key(|(start, segments)| (std::cmp::Reverse(*segments), *start));
        for (start, segments) in spans {
            if self.directory_of(start).is_some() {
                continue;
            }
            match self.open_directory(start, segments) {
                Ok(Some(directory)) => self.add_directory(Arc::new(directory)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(start, segments, %error, "could not open a directory of the index")
                }
            }
        }
        Ok(())
    }

    /// Removes what earlier openings left of index files that nobody uses. Nothing depends on it.
    pub(crate) fn tidy_indexes(&self) {
        let Ok(names) = self.storage.list(LOG_FOLDER) else { return };
        for name in names {
            let unfinished = name.ends_with(".idx.tmp") || name.ends_with(".keys.tmp");
            let merged = directory_span(&name).is_some_and(|(start, segments)| {
                self.directory_of(start).is_some_and(|directory| directory.span.segments > segments)
            });
            if (unfinished || merged)
                && let Err(error) = self.storage.remove(&format!("{LOG_FOLDER}/{name}"))
            {
                tracing::warn!(name, %error, "could not remove a file of the index");
            }
        }
    }

    fn open_directory(&self, start: u64, segments: u64) -> io::Result<Option<Directory>> {
        let Some(span) = self.span(start, segments) else { return Ok(None) };
        let name = directory_name(start, segments);
        Directory::open(Source::open(&self.storage, &name, self.reading.map_segments)?, span)
    }

    /// The span of these segments, if the last of them is sealed.
    fn span(&self, start: u64, segments: u64) -> Option<Span> {
        let end = start.checked_add(segments)?;
        let last = self.segment(end.checked_sub(1)?)?;
        let last = self.identity(&last)?;
        // Where segments are missing beside a header that cannot be read, nobody knows the numbers before it.
        let is_its_own = |number: &u64| {
            let segment = self.segment(*number);
            segment.is_none_or(|segment| segment.header.salt == 0 || segment.header.index == *number)
        };
        (start..end).all(|number| is_its_own(&number)).then_some(())?;
        let store_id = self.reading.store_id;
        Some(Span { store_id, start, segments, last_salt: last.salt, last_sealed: last.sealed })
    }

    /// Merges four indexes or directories that belong together, if there are such. Returns whether there were.
    pub(crate) fn merge_directories(&self) -> Result<bool, Error> {
        let Some((start, segments)) = self.next_merge() else { return Ok(false) };
        let Some(span) = self.span(start, segments) else { return Ok(false) };
        let step = segments / FAN_IN;
        let (first, _) = self.numbers();
        let mut parts = Vec::new();
        for at in (start..start.saturating_add(segments)).step_by(memory_len(step)) {
            match self.directory_of(at) {
                Some(directory) => parts.push(Part::Directory(directory)),
                None if at < first => {}
                None => {
                    let Some(segment) = self.segment(at) else { return Ok(false) };
                    let index = self.index(&segment)?;
                    // It may have been found damaged a moment ago. One in memory cannot be merged.
                    if index.memory().is_some() {
                        return Ok(false);
                    }
                    parts.push(Part::Segment { number: at, index });
                }
            }
        }
        let name = directory_name(start, segments);
        let merged = Plan::new(&parts, span).and_then(|plan| {
            replace(self.storage.as_ref(), &name, plan.file_len(), |file| match plan.write(file) {
                Ok(()) => Ok(()),
                Err(IndexFault::Io(e)) => Err(e),
                Err(damaged) => Err(io::Error::new(io::ErrorKind::InvalidData, damaged)),
            })?;
            Ok(self.open_directory(start, segments)?)
        });
        match merged {
            Ok(Some(directory)) => self.add_directory(Arc::new(directory)),
            Ok(None) => {
                return Err(Error::invalid(format!("{name} does not verify right after it was written")));
            }
            Err(fault) => {
                self.distrust_parts(&parts, &fault);
                return Err(Error::io(format_args!("merge indexes into {name}"), io::Error::other(fault)));
            }
        }
        for part in parts {
            if let Part::Directory(old) = part {
                let old_name = directory_name(old.span.start, old.span.segments);
                if let Err(error) = self.storage.remove(&old_name) {
                    tracing::warn!(old_name, %error, "could not remove a directory of the index that is merged");
                }
            }
        }
        Ok(true)
    }

    /// After a merge met a page that does not verify: whichever part it was of, each is checked again, and made anew, when
    /// it is next looked at. A full disk says nothing about the parts.
    fn distrust_parts(&self, parts: &[Part], fault: &IndexFault) {
        let damaged = match fault {
            IndexFault::Damaged(_) => true,
            IndexFault::Io(e) => e.kind() == io::ErrorKind::InvalidData,
        };
        for part in parts.iter().filter(|_| damaged) {
            match part {
                Part::Directory(directory) => self.drop_directory(directory),
                Part::Segment { number, index } => {
                    if let Some(segment) = self.segment(*number) {
                        segment.distrust_index(index);
                    }
                }
            }
        }
    }

    /// The first segment and the number of segments of a directory that can be made of parts that there are.
    fn next_merge(&self) -> Option<(u64, u64)> {
        let (first, active) = self.numbers();
        let mut segments = FAN_IN;
        while segments <= MAX_SEGMENTS && segments <= active {
            let step = segments / FAN_IN;
            let mut start = first / segments * segments;
            while start.saturating_add(segments) <= active {
                let end = start + segments;
                let merged = self.directory_of(start).filter(|directory| directory.span.segments >= segments);
                if merged.is_none()
                    && (start..end).step_by(memory_len(step)).all(|at| self.is_part(at, step, first))
                {
                    return Some((start, segments));
                }
                start = merged.map_or(end, |merged| merged.span.end().max(end));
            }
            segments *= FAN_IN;
        }
        None
    }

    /// Whether there is a part of so many segments, from this one on.
    fn is_part(&self, at: u64, segments: u64, first: u64) -> bool {
        match self.directory_of(at) {
            Some(directory) => directory.span.start == at && directory.span.segments == segments,
            // What was removed has no part any more, and needs none.
            None if at.saturating_add(segments) <= first => true,
            None => {
                let index =
                    (segments == 1).then(|| self.segment(at)).flatten().and_then(|segment| segment.index());
                index.is_some_and(|index| index.memory().is_none())
            }
        }
    }
}

/// Writes a file and syncs it: under another name first, so that whoever has the old one open keeps it.
pub(crate) fn replace(
    storage: &dyn Storage,
    name: &str,
    len: u64,
    write: impl FnOnce(Arc<dyn File>) -> io::Result<()>,
) -> io::Result<()> {
    let made = format!("{name}.tmp");
    match storage.remove(&made) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = storage.create(&made, len)?;
    let written = write(file.clone()).and_then(|()| file.sync()).and_then(|()| storage.rename(&made, name));
    if written.is_err()
        && let Err(error) = storage.remove(&made)
    {
        tracing::warn!(made, %error, "could not remove what was written of a file of the index");
    }
    written
}

/// Whether segments are such as are merged: a power of the fan-in, and a multiple of it from the start.
fn is_merged((start, segments): (u64, u64)) -> bool {
    let powers = std::iter::successors(Some(FAN_IN), |power| power.checked_mul(FAN_IN));
    powers.take_while(|power| *power <= MAX_SEGMENTS).any(|power| power == segments)
        && start.is_multiple_of(segments)
}

fn directory_name(start: u64, segments: u64) -> String {
    format!("{LOG_FOLDER}/{start:012}-{segments}.keys")
}

/// What a directory's name says: the number of its first segment, and how many there are.
pub(super) fn directory_span(name: &str) -> Option<(u64, u64)> {
    let (start, segments) = name.strip_suffix(".keys")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(start) && digits(segments)).then_some(())?;
    Some((start.parse().ok()?, segments.parse().ok()?))
}

/// Makes the index of a sealed segment by reading it. Damage in it hides what it covers, and is told.
pub(crate) fn build(catalog: &Catalog, segment: &Segment) -> Result<(MemoryIndex, Vec<Corruption>), Error> {
    let mut index = MemoryIndex::new(segment.header.first);
    let mut damage = Vec::new();
    let next = segment.sealed().and_then(|_| catalog.first_after(segment));
    if segment.header.salt == 0 {
        // Without its header no frame of it verifies.
        let cause = unreadable(segment);
        if let Some(next) = next {
            index.hide(Hidden { from: 0, to: segment.number(next.previous()), cause: cause.clone() });
        }
        return Ok((index, vec![cause]));
    }
    let file = segment.file(catalog.storage.as_ref())?;
    let len = file.len().map_err(|e| segment.fault("read the size of", e))?;
    let mut scan = SegmentScan::new(
        Walk::new(Window::reading(file, len, SEQUENTIAL), &segment.header),
        &segment.name,
        next,
    );
    while let Some(found) = scan.next()? {
        let (offset, header) = match &found {
            Scanned::Frame { offset, header } => (*offset, Some(*header)),
            Scanned::Damage { corruption, header, .. } => (corruption.offset, *header),
        };
        if let Scanned::Damage { corruption, hidden_to, .. } = &found {
            // After the last event, at a damaged seal or in the zeros behind it, none is hidden.
            if let Some(from) = corruption.position.filter(|from| next.is_none_or(|next| *from < next)) {
                let (from, to) = (segment.number(from), segment.number(*hidden_to));
                index.hide(Hidden { from, to, cause: corruption.clone() });
            }
            damage.push(corruption.clone());
        }
        let Some(header) = header.filter(|_| !scan.events().is_empty()) else { continue };
        let records = record_offsets(&mut scan, offset, &header).map_err(|e| segment.fault("read", e))?;
        for event in scan.events() {
            let at = event.position().get().saturating_sub(header.first.get());
            if let Some(record) = records.get(memory_len(at))
                && has_its_place(event.position(), *record, segment, &index)
            {
                index.add(catalog.hasher, event, Place { frame: offset, record: *record });
            }
        }
    }
    Ok((index, damage))
}

/// Whether an event can be where it was found: it comes after those that were, and there is room for all before it. What
/// stands in a damaged segment may have right checksums and any position.
fn has_its_place(position: Position, record: u64, segment: &Segment, index: &MemoryIndex) -> bool {
    let number = position.get().saturating_sub(segment.header.first.get());
    number >= disk_len(index.places().len()) && number <= record / disk_len(record::RECORD_HEADER)
}

/// Where the records of a frame start.
fn record_offsets(scan: &mut SegmentScan<'_>, frame: u64, header: &FrameHeader) -> io::Result<Vec<u64>> {
    let (mut at, mut offsets) = (0, Vec::new());
    let start = frame + disk_len(FRAME_HEADER);
    let Some(body) = scan.bytes(start, memory_len(header.body_len.into()))? else { return Ok(offsets) };
    while let Some(Ok((_, padded))) = body.get(at..).map(record::length) {
        offsets.push(start + disk_len(at));
        at += padded;
    }
    Ok(offsets)
}

fn unreadable(segment: &Segment) -> Corruption {
    Corruption {
        file: segment.name.clone(),
        offset: 0,
        position: Some(segment.header.first),
        damage: crate::error::Damage::Header,
        detail: "neither copy of its header verifies".into(),
    }
}

impl Catalog {
    /// The first position of the segment after one.
    fn first_after(&self, segment: &Segment) -> Option<Position> {
        let (number, _) = self.numbered_with(segment.header.first)?;
        self.segment(number.checked_add(1)?).map(|next| next.header.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_directories_are_read_as_such() {
        assert_eq!(directory_span("000000000016-4.keys"), Some((16, 4)));
        assert_eq!(directory_name(16, 4), "log/000000000016-4.keys");
        assert!(is_merged((16, 4)) && is_merged((4096, 4096)) && is_merged((0, 64)));
        assert!(!is_merged((2, 4)) && !is_merged((0, 0)) && !is_merged((0, 8)) && !is_merged((0, 4 * 4096)));
        for name in
            ["16.keys", "00000000000000000017.idx", "a-4.keys", "4-+4.keys", "000000000016-4.keys.tmp"]
        {
            assert_eq!(directory_span(name), None, "{name}");
        }
    }
}
