//! Where the log ends after a crash, and the only code that removes bytes.
//!
//! The active segment is read frame by frame. At the first place where no good frame stands, evidence decides
//! between an end, a write that a crash cut short, and damage; when in doubt it is damage, and the store is not
//! opened for writing. The rules are numbered as in DESIGN.md.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::files::{Files, read_mark, read_up_to};
use super::frame::{CLEAN, FrameFault, FrameHeader, SEAL};
use super::layout::{ALIGN, disk_len, memory_len};
use super::mark::Mark;
use super::segment::{Segment, segment_name};
use super::walk::{Beyond, Place, Step, Walk};
use crate::error::{Corruption, Damage, Error};
use crate::event::{Position, RecordedEvent};
use crate::storage::{Access, File, Storage};

/// The folder that removed bytes are kept in.
pub(crate) const QUARANTINE_FOLDER: &str = "quarantine";

/// What the end of the active segment turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Zeros up to the end of the file.
    Clean,
    /// Bytes up to this offset that were never acknowledged: a torn write, or leftovers of an earlier life.
    Unfinished { until: u64, detail: String },
    /// Bytes that may have been acknowledged.
    Damaged(Corruption),
}

/// What is called with each frame of good events: offset, header, events.
pub(crate) type FrameVisitor<'a> = dyn FnMut(u64, &FrameHeader, &[RecordedEvent]) -> ControlFlow<()> + 'a;

/// Goes through the active segment, hands every frame of good events to `visit`, and judges its end. A visitor that
/// breaks off ends it as if the log were good from there.
pub(crate) fn find_end(
    files: &Files,
    walk: &mut Walk,
    visit: &mut FrameVisitor<'_>,
) -> Result<Ending, Error> {
    find_end_by(files.mark, files, walk, visit)
}

/// The same, when another process may be writing: what was read half may be whole when it is looked at again, and
/// the mark a newer one.
pub(crate) fn find_end_beside_a_writer(
    storage: &dyn Storage,
    files: &Files,
    walk: &mut Walk,
    visit: &mut FrameVisitor<'_>,
) -> Result<Ending, Error> {
    let mut ending = find_end(files, walk, visit)?;
    let mut seen = None;
    while ending != Ending::Clean && seen.as_ref() != Some(&(walk.place(), ending.clone())) {
        seen = Some((walk.place(), ending));
        // In memory no other process is writing, and nobody's write is seen half.
        if storage.root().is_some() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mark = read_mark(storage, files.store.store_id)?.mark;
        walk.refresh();
        ending = find_end_by(mark, files, walk, visit)?;
    }
    Ok(ending)
}

fn find_end_by(
    mark: Option<Mark>,
    files: &Files,
    walk: &mut Walk,
    visit: &mut FrameVisitor<'_>,
) -> Result<Ending, Error> {
    let (active, _) = files.active_and_sealed()?;
    let name = segment_name(active.header.first);
    let judge = Judge { name: &name, first: active.header.first, mark };
    let fault = |e| Error::io(format_args!("read {name}"), e);
    let found = loop {
        if let Some(ending) = judge.against_mark(walk.place()) {
            return Ok(ending);
        }
        match walk.step().map_err(fault)? {
            Step::Frame { offset, header } => {
                if visit(offset, &header, walk.events()).is_break() {
                    return Ok(Ending::Clean);
                }
            }
            Step::Bad(found) => break Some(found),
            Step::End => break None,
        }
    };
    // Rule 1: a file that is not as long as it was made lost something, or was written by somebody else.
    match &active.damage {
        Some(damage) => Ok(Ending::Damaged(damage.clone())),
        None => judge.ending(walk, found).map_err(fault),
    }
}

struct Judge<'a> {
    name: &'a str,
    first: Position,
    mark: Option<Mark>,
}

impl Judge<'_> {
    /// Whether the mark is of this segment, and of a place further on in it.
    fn reaches_beyond(&self, place: Place) -> bool {
        self.mark.is_some_and(|mark| mark.segment == self.first && mark.end > place.offset)
    }

    /// Whether the mark was written at this place, after other frames than these.
    fn against_mark(&self, place: Place) -> Option<Ending> {
        let mark = self.mark.filter(|mark| mark.segment == self.first && mark.end == place.offset)?;
        let detail = "the frames up to here are not those that the mark was written after";
        (mark.chain != place.chain).then(|| self.damaged(place, None, Damage::CorruptAcknowledged, detail))
    }

    fn ending(&self, walk: &mut Walk, fault: Option<FrameFault>) -> io::Result<Ending> {
        let place = walk.place();
        let beyond = walk.beyond()?;
        // Rule 2: nothing is written after the end of a sealed segment or of a closed store.
        let ended = place.flags & SEAL != 0
            || place.flags & CLEAN != 0
                && self.mark.is_some_and(|mark| mark.clean && mark.end == place.offset);
        if let (true, Some(_)) = (ended, beyond.written_end) {
            return Ok(self.damaged(
                place,
                None,
                Damage::BytesAfterEnd,
                "there are bytes after it was sealed or closed",
            ));
        }
        // Rule 3: a later frame tells that this position had been acknowledged when it was written.
        if let Some((offset, durable)) = beyond.witness.filter(|(_, durable)| *durable >= place.next) {
            let what = describe(fault);
            let detail = format!(
                "{what}, and the frame at offset {offset} proves that position {durable} was durable"
            );
            return Ok(self.damaged(place, fault, Damage::CorruptAcknowledged, detail));
        }
        // Rule 4: the mark tells the same.
        // One of a later segment was read after the list of segments was: this one has been sealed meanwhile.
        let of_this = |mark: &Mark| mark.segment <= self.first;
        if let Some(mark) =
            self.mark.filter(of_this).filter(|mark| mark.durable >= place.next || self.reaches_beyond(place))
        {
            let damage = if fault.is_some() { Damage::CorruptAcknowledged } else { Damage::TailLost };
            let detail = format!(
                "{}, and the mark proves that position {} was durable",
                describe(fault),
                mark.durable
            );
            return Ok(self.damaged(place, fault, damage, detail));
        }
        match (beyond, fault) {
            // Rule 5: zeros to the end of the file.
            (Beyond { written_end: None, .. }, _) => Ok(Ending::Clean),
            (Beyond { written_end: Some(until), .. }, fault) => self.unfinished(walk, fault, until),
        }
    }

    fn unfinished(&self, walk: &mut Walk, fault: Option<FrameFault>, until: u64) -> io::Result<Ending> {
        let detail = match fault {
            // Rule 6: a good frame header that does not belong here is left over from before.
            Some(FrameFault::Stale(what)) => Some(format!("bytes of an earlier life of the file: {what}")),
            // Rule 7: a crash leaves zeros where it cut a write short.
            _ => torn(walk)?.map(|evidence| format!("a write that a crash cut short: {evidence}")),
        };
        Ok(match detail {
            Some(detail) => Ending::Unfinished { until, detail },
            // Rule 8: neither.
            None => {
                let detail = format!("{}; it may have been acknowledged", describe(fault));
                self.damaged(walk.place(), fault, Damage::SuspectTail, detail)
            }
        })
    }

    fn damaged(
        &self,
        place: Place,
        fault: Option<FrameFault>,
        damage: Damage,
        detail: impl Into<String>,
    ) -> Ending {
        let position = Some(fault.map_or(place.next, |fault| fault.position(place.next)));
        let (file, detail) = (self.name.to_owned(), detail.into());
        Ending::Damaged(Corruption { file, offset: place.offset, position, damage, detail })
    }
}

fn describe(fault: Option<FrameFault>) -> String {
    fault.map_or_else(|| "the log ends here".into(), |fault| fault.to_string())
}

/// What shows that the frame at the walk's place was only partly written: a frame never starts or ends with a
/// zero byte, and a disk writes whole sectors.
fn torn(walk: &mut Walk) -> io::Result<Option<&'static str>> {
    let start = walk.place().offset;
    let Some(header) = walk.bytes(start, super::frame::FRAME_HEADER)? else {
        return Ok(None);
    };
    if header.first() == Some(&0) || header.last() == Some(&0) {
        return Ok(Some("its header is not whole"));
    }
    let Ok(header) = walk.header_at(start)? else {
        return Ok(None);
    };
    let end = start + header.frame_len();
    if walk.bytes(end - 1, 1)?.is_none_or(|last| last.first() == Some(&0)) {
        return Ok(Some("its end was not written"));
    }
    Ok(walk.has_zero_sector(start, end)?.then_some("a sector of it was not written"))
}

/// What recovery did to the end of the active segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The file they were in.
    pub file: String,
    /// Where they started.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The file that keeps a copy of them.
    pub kept_in: String,
    /// Why they were taken for a write that was never acknowledged.
    pub reason: String,
}

/// Sets unfinished bytes aside: copies them to quarantine, then writes zeros over them. The size does not change.
pub(crate) fn remove_unfinished(
    storage: &dyn Storage,
    segment: &Segment,
    place: Place,
    until: u64,
    reason: String,
) -> Result<Removed, Error> {
    let file = open_for_writing(storage, segment)?;
    let bytes = until - place.offset;
    let kept_in = quarantine(storage, segment, file.as_ref(), place.offset, bytes)?;
    // The first byte of the frame goes first, and for good: while the rest is taken away, whatever a loss of power leaves
    // of it is a frame without a start, which is torn. Half a header, with both its ends, would be suspect.
    for until in [until.min(place.offset + disk_len(ALIGN)), until] {
        zero(file.as_ref(), place.offset, until).map_err(|e| segment.fault("write", e))?;
        file.sync().map_err(|e| segment.fault("sync", e))?;
    }
    Ok(Removed { file: segment.name.clone(), offset: place.offset, bytes, kept_in, reason })
}

fn quarantine(
    storage: &dyn Storage,
    segment: &Segment,
    from: &dyn File,
    offset: u64,
    bytes: u64,
) -> Result<String, Error> {
    let fault = |doing: &str, e| Error::io(format_args!("{doing} in {QUARANTINE_FOLDER}"), e);
    storage.create_folder(QUARANTINE_FOLDER).map_err(|e| fault("make the folder", e))?;
    let mut copies = 0u32;
    let (name, file) = loop {
        let name = format!("{QUARANTINE_FOLDER}/{:020}-{offset}-{copies}.bytes", segment.header.first.get());
        match storage.create(&name, bytes) {
            Ok(file) => break (name, file),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && copies < u32::MAX => copies += 1,
            Err(e) => return Err(fault("make a file", e)),
        }
    };
    copy((from, offset), (file.as_ref(), 0), bytes).map_err(|e| fault("write a file", e))?;
    file.sync().map_err(|e| fault("sync a file", e))?;
    storage.sync_folder(QUARANTINE_FOLDER).map_err(|e| fault("sync the folder", e))?;
    storage.sync_folder("").map_err(|e| fault("sync the folder", e))?;
    Ok(name)
}

/// Writes zeros once more where bytes were removed from this segment after an offset; [`rewrite`] syncs them. The
/// sync of a removal may have failed: then the system shows zeros, and the disk has the bytes. What was ever removed
/// is in quarantine, synced before.
pub(crate) fn zero_again(storage: &dyn Storage, segment: &Segment, from: u64) -> Result<(), Error> {
    let fault = |doing: &str, e| Error::io(format_args!("{doing} {QUARANTINE_FOLDER}"), e);
    let names = match storage.list(QUARANTINE_FOLDER) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(|e| fault("list", e))?,
    };
    for name in names {
        let Some(offset) = removed_at(&name, segment.header.first) else { continue };
        let kept = storage.open(&format!("{QUARANTINE_FOLDER}/{name}"), Access::Read);
        let len = kept.and_then(|kept| kept.len()).map_err(|e| fault("open a file in", e))?;
        let until = offset.saturating_add(len).min(segment.header.segment_size);
        let file = open_for_writing(storage, segment)?;
        zero(file.as_ref(), offset.max(from), until).map_err(|e| segment.fault("write", e))?;
    }
    Ok(())
}

/// Where in this segment the bytes were that a file in quarantine keeps.
fn removed_at(name: &str, segment: Position) -> Option<u64> {
    let mut parts = name.strip_suffix(".bytes")?.split('-');
    parts.next().filter(|first| *first == format!("{:020}", segment.get()))?;
    parts.next()?.parse().ok()
}

/// Writes what no mark proves to be on the disk once more, and syncs it (rule 9). After a failed sync the system
/// may show good bytes that the disk does not have; only writing them again brings them there. Returns how many.
pub(crate) fn rewrite(storage: &dyn Storage, segment: &Segment, from: u64, to: u64) -> Result<u64, Error> {
    let file = open_for_writing(storage, segment)?;
    let bytes = to.saturating_sub(from);
    copy((file.as_ref(), from), (file.as_ref(), from), bytes).map_err(|e| segment.fault("write", e))?;
    file.sync().map_err(|e| segment.fault("sync", e))?;
    Ok(bytes)
}

/// Memory is taken for so much at a time.
const PIECE: u64 = 1 << 20;

/// Copies bytes between two files, a piece at a time.
pub(crate) fn copy(from: (&dyn File, u64), to: (&dyn File, u64), bytes: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let piece = read_up_to(from.0, from.1 + done, memory_len(PIECE.min(bytes - done)))?;
        if piece.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before its time"));
        }
        to.0.write_at(&piece, to.1 + done)?;
        done += disk_len(piece.len());
    }
    Ok(())
}

fn zero(file: &dyn File, from: u64, until: u64) -> io::Result<()> {
    let zeros = vec![0; memory_len(PIECE.min(until.saturating_sub(from)))];
    let mut at = from;
    while at < until {
        let piece = zeros.get(..memory_len(until - at)).unwrap_or(&zeros);
        file.write_at(piece, at)?;
        at += disk_len(piece.len());
    }
    Ok(())
}

fn open_for_writing(storage: &dyn Storage, segment: &Segment) -> Result<Arc<dyn File>, Error> {
    storage.open(&segment.name, Access::Write).map_err(|e| segment.fault("open", e))
}
