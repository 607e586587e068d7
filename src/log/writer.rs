//! The one who writes the active segment: gives batches their places, writes them in groups, rolls, keeps the mark.
//!
//! Owned by the committer, behind its lock. Every failure of a write or a sync goes through [`Writer::poison`].

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::UNIX_EPOCH;

use uuid::Uuid;

use super::ahead::Ahead;
use super::catalog::{Catalog, Reached};
use super::files::read_up_to;
use super::frame::{CLEAN, CONTROL_FRAME, FrameHeader, SEAL};
use super::guarding::Decision;
use super::index::Sealed;
use super::indexer::Indexer;
use super::keeper::Chores;
use super::layout::{SECTOR, disk_len, memory_len};
use super::mark::{MARK_FILE, Mark};
use super::outflow::{Failed, Outflow};
use super::request::Request;
use super::segment::{Segment, segment_name};
use super::segment_header::{SEGMENT_HEADER, SegmentHeader};
use super::spare::{Blank, Spare};
use super::syncs::{Pending, Syncs};
use super::walk::Place;
use crate::batch::Appended;
use crate::error::{AppendError, Error, ErrorKind};
use crate::event::{Position, Version};
use crate::storage::process::Process;
use crate::storage::{Access, File, Storage};

/// Unwritten bytes are written when there are so many, whatever the durability asked for.
const WRITE_AT: usize = 1 << 20;
/// More memory is not kept for them once it is not needed.
const MOST_KEPT: usize = 4 * WRITE_AT;
/// Smaller segments are made when they are needed, and are not zeroed ahead: that takes no time.
const AHEAD_FROM: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Writer {
    catalog: Arc<Catalog>,
    spare: Arc<Spare>,
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    /// After the last frame, written or not.
    place: Place,
    epoch: u32,
    /// Events up to here are durable.
    durable: Position,
    /// Frames from `written` up to the place. What lies before is written, or under way in `outflow`.
    unwritten: Vec<u8>,
    written: u64,
    outflow: Arc<Outflow>,
    /// There may be a write under way.
    flows: bool,
    outflows: u64,
    /// Frames before this offset are synced.
    synced: u64,
    syncs: Arc<Syncs>,
    ahead: Arc<Ahead>,
    wants_zeros: bool,
    mark_file: Arc<dyn File>,
    mark: Mark,
    failure: Option<Error>,
    /// The disk had no room for the unwritten frames.
    full: bool,
    /// About how much memory the active segment's index takes, and when the segment is sealed for that.
    index_size: usize,
    max_index_bytes: usize,
    indexer: Arc<Indexer>,
    process: Process,
}

/// What recovery hands over.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) segment: Arc<Segment>,
    pub(crate) place: Place,
    pub(crate) epoch: u32,
    pub(crate) mark: Mark,
    pub(crate) max_index_bytes: usize,
    pub(crate) indexer: Arc<Indexer>,
}

impl Writer {
    pub(crate) fn new(catalog: Arc<Catalog>, spare: Arc<Spare>, start: Start) -> Result<Self, Error> {
        let Start { segment, place, epoch, mark, max_index_bytes, indexer } = start;
        let storage = &catalog.storage;
        let file = storage.open(&segment.name, Access::Write).map_err(|e| segment.fault("open", e))?;
        let mark_file = storage
            .open(MARK_FILE, Access::Write)
            .map_err(|e| Error::io(format_args!("open {MARK_FILE}"), e))?;
        let (written, durable) = (place.offset, place.next.previous());
        let (size, unwritten) = (segment.header.segment_size, Vec::new());
        let ahead = Arc::new(Ahead::new(file.clone(), size, written, size >= AHEAD_FROM));
        let mut writer = Writer {
            catalog,
            spare,
            segment,
            file,
            place,
            epoch,
            durable,
            unwritten,
            written,
            outflow: Arc::default(),
            flows: false,
            outflows: 0,
            synced: written,
            syncs: Arc::default(),
            ahead,
            wants_zeros: false,
            mark_file,
            mark,
            failure: None,
            full: false,
            index_size: 0,
            max_index_bytes,
            indexer,
            process: Process::own(),
        };
        writer.write_mark(false)?;
        Ok(writer)
    }

    /// Gives a batch its place, unless a guard does not hold or its events are there already.
    pub(crate) fn sequence(&mut self, request: &mut Request) -> Result<Appended, AppendError> {
        self.check_alive()?;
        if self.full {
            self.write()?;
        }
        let decision = Decision { catalog: &self.catalog, last: self.place.next.previous() };
        if request.recorded_at_ns.is_none()
            && let Some(repeated) = decision.repeated(request)?
        {
            return Ok(repeated);
        }
        decision.check_guards(request)?;
        let mut versions = request.take_versions();
        decision.versions(request, &mut versions)?;
        self.make_room(request.frame_len())?;
        Ok(self.place(request, versions))
    }

    /// `last_versions` are those of the request's streams, by key.
    fn place(&mut self, request: &mut Request, last_versions: Vec<Version>) -> Appended {
        let first = self.place.next;
        let recorded_at_ns = request.recorded_at_ns.unwrap_or_else(|| now_ns(self.catalog.storage.as_ref()));
        if let Some(index) = self.segment.index()
            && let Some(index) = index.memory()
        {
            let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
            index.recorded_at(recorded_at_ns);
            request.index(&mut index, last_versions, self.place.offset);
            self.index_size = index.size();
        }
        let mut header = FrameHeader::control(0, first, self.durable, self.place.chain, self.epoch);
        header.events = request.events();
        header.body_len = request.body_len();
        header.recorded_at_ns = recorded_at_ns;
        let frame = request.place(&mut header, self.segment.header.salt);
        self.unwritten.extend_from_slice(frame);
        self.place = self.place.after(&header);
        let version = request.last_version();
        Appended { first, position: header.last(), version, repeated: false }
    }

    /// Rolls when a frame of this length does not fit before the seal.
    fn make_room(&mut self, frame_len: usize) -> Result<(), Error> {
        let needed = disk_len(frame_len + CONTROL_FRAME);
        let full = self.place.offset + needed > self.segment.header.segment_size;
        // An empty segment is never sealed: the next one would have its name.
        let large_index = self.index_size > 0 && self.index_size >= self.max_index_bytes;
        if self.is_sealed() || full || large_index {
            self.roll()?;
        }
        Ok(())
    }

    fn is_sealed(&self) -> bool {
        self.place.flags & SEAL != 0
    }

    /// Seals the active segment and opens the next. Without space for it, nothing is sealed or lost.
    fn roll(&mut self) -> Result<(), Error> {
        self.sync()?;
        let next = self.spare.take().map_err(|e| Error::io("make the file of the next segment", e))?;
        if !self.is_sealed() {
            self.push_control(SEAL);
            self.sync()?;
        }
        match self.start_segment(next) {
            Err(full) if full.kind() == ErrorKind::DiskFull => return Err(full),
            result => result.map_err(|e| self.poison(e))?,
        }
        self.mark_progress()
    }

    fn start_segment(&mut self, blank: Blank) -> Result<(), Error> {
        let Blank { file, zeroed } = blank;
        let before = self.segment.header;
        let name = segment_name(self.place.next);
        let fault = |doing: &str, e| Error::io(format_args!("{doing} {name}"), e);
        let mut header = SegmentHeader {
            index: before.index.saturating_add(1),
            first: self.place.next,
            salt: new_salt(self.catalog.storage.as_ref()),
            prev_sealed_len: self.place.offset,
            created_ns: now_ns(self.catalog.storage.as_ref()),
            prev_chain: self.place.chain,
            ..before
        };
        let page = header.encode();
        file.write_at(&page, 0).map_err(|e| fault("write the header of", e))?;
        file.sync().map_err(|e| fault("sync", e))?;
        self.spare.give_name(&name).map_err(|e| fault("give its name to", e))?;
        self.segment.seal(Sealed { len: self.place.offset, chain: self.place.chain });
        let active = Arc::new(Segment::active(header, file.clone()));
        let sealed = std::mem::replace(&mut self.segment, active);
        self.catalog.add(self.segment.clone());
        self.index_size = 0;
        self.indexer.sealed(sealed);
        self.file = file;
        self.place = Place { epoch: self.epoch, ..Place::start(&header) };
        self.written = self.place.offset;
        self.synced = self.written;
        self.ahead.turn_to(self.file.clone(), header.segment_size, self.written, zeroed);
        Ok(())
    }

    fn push_control(&mut self, flags: u32) {
        let durable = self.catalog.watermark.get();
        let mut header = FrameHeader::control(flags, self.place.next, durable, self.place.chain, self.epoch);
        let mut frame = [0; CONTROL_FRAME];
        header.seal(&mut frame, self.segment.header.salt);
        self.unwritten.extend_from_slice(&frame);
        self.place = self.place.after(&header);
    }

    /// Hands every frame to the operating system, in one write, after the one that may be under way.
    pub(crate) fn write(&mut self) -> Result<(), Error> {
        if self.flows || !self.unwritten.is_empty() {
            self.process.check()?;
        }
        self.finish_outflow()?;
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.ahead.claim(self.place.offset);
        if self.full {
            self.finish_sector()?;
        }
        if let Err(e) = self.file.write_at(&self.unwritten, self.written) {
            return Err(self.failed_write(e));
        }
        self.full = false;
        self.written = self.place.offset;
        self.unwritten.clear();
        self.unwritten.shrink_to(MOST_KEPT);
        Ok(())
    }

    /// A full disk may have cut the last write short in the middle of a sector. That sector is made whole and durable
    /// before more is written: else a loss of power could leave half of it between sectors that are whole, which looks
    /// like damage, since no crash cuts a sector.
    fn finish_sector(&mut self) -> Result<(), Error> {
        let there = read_up_to(self.file.as_ref(), self.written, self.unwritten.len())
            .map_err(|e| self.poison(self.segment.fault("read", e)))?;
        let same = there.iter().zip(&self.unwritten).take_while(|(there, own)| there == own).count();
        if same == 0 {
            return Ok(());
        }
        let until = (self.written + disk_len(same)).next_multiple_of(disk_len(SECTOR));
        let first = self.unwritten.get(..memory_len(until - self.written)).unwrap_or(&self.unwritten);
        if let Err(e) = self.file.write_at(first, self.written) {
            return Err(self.failed_write(e));
        }
        self.syncs.sync(self.file.as_ref()).map_err(|e| self.poison(self.segment.fault("sync", e)))
    }

    /// Leaves the write to the keeper, when there is much to write, and goes on with another buffer. Frames that are
    /// under way count as written: nothing is written or synced before they are.
    pub(crate) fn write_if_large(&mut self) -> Result<(), Error> {
        if self.unwritten.len() >= WRITE_AT {
            self.process.check()?;
            let buffer = self.finish_outflow()?;
            self.ahead.claim(self.place.offset);
            let bytes = std::mem::replace(&mut self.unwritten, buffer);
            self.outflow.start(self.file.clone(), bytes, self.written);
            self.flows = true;
            self.outflows += 1;
            self.written = self.place.offset;
        }
        Ok(())
    }

    /// Waits for the write that is under way. Returns an empty buffer.
    fn finish_outflow(&mut self) -> Result<Vec<u8>, Error> {
        self.check_alive()?;
        if !std::mem::take(&mut self.flows) {
            return Ok(Vec::new());
        }
        let mut buffer = match self.outflow.finish() {
            Ok(buffer) => buffer.unwrap_or_default(),
            Err(Failed { error, bytes, offset }) => {
                self.unwritten.splice(0..0, bytes);
                self.written = offset;
                return Err(self.failed_write(error));
            }
        };
        buffer.clear();
        buffer.shrink_to(MOST_KEPT);
        Ok(buffer)
    }

    /// A full disk is no failure: the frames stay in memory, and are written when there is room. Until then nothing is
    /// appended.
    fn failed_write(&mut self, error: io::Error) -> Error {
        let error = self.segment.fault("write", error);
        self.full = error.kind() == ErrorKind::DiskFull;
        if self.full { error } else { self.poison(error) }
    }

    /// Makes every frame durable.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.write()?;
        if self.synced < self.written {
            if let Err(e) = self.syncs.sync(self.file.as_ref()) {
                return Err(self.poison(self.segment.fault("sync", e)));
            }
            self.wants_zeros = self.ahead.note_sync(self.written - self.synced);
            self.synced = self.written;
        }
        self.segment.settle(self.place.offset);
        self.durable = self.place.next.previous();
        Ok(())
    }

    /// Hands every frame to the operating system, for a sync without the writer; `None` when all are synced.
    pub(crate) fn begin_sync(&mut self) -> Result<Option<Pending>, Error> {
        self.write()?;
        Ok((self.synced < self.written).then(|| Pending {
            syncs: self.syncs.clone(),
            file: self.file.clone(),
            segment: self.segment.clone(),
            to: self.written,
            last: self.place.next.previous(),
        }))
    }

    /// Takes note of how such a sync ended. Meanwhile there may have been others, and rolls, which sync all before.
    pub(crate) fn end_sync(&mut self, sync: &Pending, ended: io::Result<()>) -> Result<(), Error> {
        ended.map_err(|e| self.poison(sync.segment.fault("sync", e)))?;
        if Arc::ptr_eq(&self.segment, &sync.segment) && self.synced < sync.to {
            self.synced = sync.to;
            self.segment.settle(sync.to);
        }
        self.durable = self.durable.max(sync.last);
        Ok(())
    }

    /// How far it has come: for readers, once the writer is let go.
    pub(crate) fn reached(&self) -> Reached {
        Reached { durable: self.durable, failure: self.failure.clone() }
    }

    /// A thread panicked while it held the writer: nobody knows what state it is in.
    pub(crate) fn abandon(&mut self) {
        self.poison(Error::new(ErrorKind::Indeterminate, "a thread panicked while it appended"));
    }

    /// Whether there are frames that are not durable.
    pub(crate) fn is_behind(&self) -> bool {
        self.synced < self.written || !self.unwritten.is_empty()
    }

    /// Whether the mark could prove more than it does.
    pub(crate) fn mark_is_behind(&self) -> bool {
        self.failure.is_none() && self.mark.end_in(&self.segment) != Some(self.written)
    }

    /// Whether the active segment is half full, and so large that the next one is better made ahead.
    pub(crate) fn wants_spare(&self) -> bool {
        let size = self.segment.header.segment_size;
        size >= AHEAD_FROM && self.place.offset >= size / 2
    }

    /// Whether zeros are to be written ahead.
    pub(crate) fn wants_zeros(&self) -> bool {
        self.wants_zeros
    }

    /// How many writes were left to the keeper.
    pub(crate) fn outflows(&self) -> u64 {
        self.outflows
    }

    /// What the keeper does for the writer.
    pub(crate) fn chores(&self) -> Chores {
        Chores { spare: self.spare.clone(), ahead: self.ahead.clone(), outflow: self.outflow.clone() }
    }

    /// Syncs, and writes to the mark how far the log is good.
    pub(crate) fn mark_progress(&mut self) -> Result<(), Error> {
        self.sync()?;
        match self.write_mark(false) {
            Err(full) if full.kind() == ErrorKind::DiskFull => Err(full),
            result => result.map_err(|e| self.poison(e)),
        }
    }

    /// Writes the mark: everything up to the place is durable.
    fn write_mark(&mut self, clean: bool) -> Result<(), Error> {
        self.process.check()?;
        let mark = Mark {
            generation: self.mark.generation + 1,
            durable: self.place.next.previous(),
            segment: self.segment.header.first,
            end: self.place.offset,
            chain: self.place.chain,
            epoch: self.epoch,
            clean,
            ..self.mark
        };
        let (offset, slot) = mark.encode();
        let fault = |doing, e| Error::io(format_args!("{doing} {MARK_FILE}"), e);
        self.mark_file.write_at(&slot, offset).map_err(|e| fault("write", e))?;
        // Whatever it says, a sync that failed is not to be tried again.
        self.mark_file.sync().map_err(|e| self.poison(fault("sync", e)))?;
        self.mark = mark;
        Ok(())
    }

    /// Says where the log starts from now on, in both slots of the mark: one that is damaged does not bring back what
    /// was removed.
    pub(crate) fn move_log_start(&mut self, log_start: Position) -> Result<(), Error> {
        self.sync()?;
        self.mark.log_start = log_start;
        self.write_mark(false).and_then(|()| self.write_mark(false)).map_err(|e| self.poison(e))
    }

    /// Makes everything durable and says in log and mark that the store was closed.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        self.sync()?;
        let room = self.place.offset + disk_len(2 * CONTROL_FRAME) <= self.segment.header.segment_size;
        let has_frames = self.place.offset > disk_len(SEGMENT_HEADER);
        if room && has_frames && self.place.flags & (SEAL | CLEAN) == 0 {
            self.push_control(CLEAN);
            self.sync()?;
        }
        self.write_mark(true).map_err(|e| self.poison(e))
    }

    /// After a failed write or sync nobody knows what the disk holds: no more appends until the store is reopened.
    fn poison(&mut self, error: Error) -> Error {
        tracing::error!(%error, "the store takes no more appends until it is reopened");
        let why = format!("an earlier write failed ({error}); close the store and open it again to append");
        let failure = Error::new(ErrorKind::Poisoned, why).because(error);
        self.failure = Some(failure.clone());
        failure
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Mark {
    fn end_in(&self, segment: &Segment) -> Option<u64> {
        (self.segment == segment.header.first).then_some(self.end)
    }
}

/// Nanoseconds since the Unix epoch; 0 when the clock is before it.
pub(crate) fn now_ns(storage: &dyn Storage) -> u64 {
    let since = storage.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Random and never 0, which stands for a header that cannot be read.
pub(crate) fn new_salt(storage: &dyn Storage) -> u64 {
    Uuid::from_u128(storage.random()).as_u64_pair().1 | 1
}
