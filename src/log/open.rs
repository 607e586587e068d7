//! Opens a log: reads the files, goes through the segments, recovers the active one, starts the writer.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Reading};
use super::committer::Committer;
use super::create;
use super::files::{Files, open_segment, read_mark};
use super::frame::{CONTROL_FRAME, FRAME_HEADER};
use super::index::{Place as EventPlace, Sealed};
use super::indexer::Indexer;
use super::indexing;
use super::keeper::Keeper;
use super::layout::{aligned, disk_len, memory_len};
use super::mark::Mark;
use super::recovery::{self, Ending, FrameVisitor};
use super::report::RecoveryReport;
use super::retaining;
use super::segment::{LOG_FOLDER, Segment};
use super::segment_header::SEGMENT_HEADER;
use super::spare::Spare;
use super::store_file::STORE_FILE;
use super::walk::{Place, Walk};
use super::window::{SEQUENTIAL, Window};
use super::writer::{Start, Writer};
use super::{Log, Writing};
use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::Position;
use crate::options::Options;
use crate::storage::process::Process;
use crate::storage::{LockError, Storage};

pub(super) fn for_writing(storage: Arc<dyn Storage>, options: &Options) -> Result<Log, Error> {
    let started = Instant::now();
    // Before the lock file is made, or one that is not ours is written to.
    let names = create::refuse_foreign(storage.as_ref())?;
    if names.is_empty() && !options.create {
        return Err(no_store());
    }
    let lock = storage.lock().map_err(lock_error)?;
    let created = !create::exists(storage.as_ref())?;
    if created && !options.create {
        return Err(no_store());
    }
    if created {
        create::create(storage.as_ref(), options)?;
    }
    let files = Files::read(storage.as_ref())?;
    files.check_order()?;
    files.check_writable()?;
    let catalog = catalog(storage.clone(), &files, options);
    let found = go_through(&catalog, &files, options)?;
    let mut report = found.report(&files);
    report.created = created;
    let mark = files.mark;
    // Nobody has opened it for writing since it was made: whoever made it may not have synced its names.
    if !created && mark.is_none_or(|mark| mark.epoch == 0) {
        storage.sync_folder("").map_err(|e| Error::io("sync the directory", e))?;
    }
    if let Ending::Damaged(corruption) = &found.ending {
        return Err(corruption.clone().into());
    }
    if let Ending::Unfinished { until, detail } = &found.ending {
        let removed = recovery::remove_unfinished(
            storage.as_ref(),
            &found.active,
            found.place,
            *until,
            detail.clone(),
        )?;
        tracing::warn!(
            file = removed.file,
            offset = removed.offset,
            "set aside bytes that were never acknowledged"
        );
        report.removed = Some(removed);
    }
    report.clean = mark.is_some_and(|mark| mark.clean && is_at(&mark, &found)) && report.removed.is_none();
    if !report.clean {
        storage.sync_folder(LOG_FOLDER).map_err(|e| Error::io(format_args!("sync {LOG_FOLDER}"), e))?;
        let proven = mark.filter(|mark| mark.segment == found.active.header.first).map(|mark| mark.end);
        let from = proven.unwrap_or(disk_len(SEGMENT_HEADER));
        recovery::zero_again(storage.as_ref(), &found.active, found.place.offset)?;
        report.rewritten_bytes =
            recovery::rewrite(storage.as_ref(), &found.active, from, found.place.offset)?;
    }
    found.active.settle(found.place.offset);
    catalog.watermark.advance(found.place.next.previous());
    let writing = start_writing(&catalog, &files, found.active, found.place, options, lock)?;
    report.took = started.elapsed();
    tracing::info!(%report, "opened the log");
    Ok(Log { catalog, report, writing: Some(writing) })
}

/// How often a log is read again whose start is moved meanwhile.
const TRIES: usize = 3;

pub(super) fn for_reading(storage: Arc<dyn Storage>, options: &Options) -> Result<Log, Error> {
    for _ in 0..TRIES {
        let log = read(storage.clone(), options)?;
        let lost = log.report.damage.iter().any(|damage| damage.damage == Damage::VersionsLost);
        // The one who writes may have removed the base, and put another in its place.
        let mark = read_mark(storage.as_ref(), log.report.store_id)?.mark;
        if !lost || mark.is_none_or(|mark| mark.log_start == log.report.log_start) {
            return Ok(log);
        }
    }
    read(storage, options)
}

fn read(storage: Arc<dyn Storage>, options: &Options) -> Result<Log, Error> {
    let started = Instant::now();
    let names = storage.list("").map_err(|e| Error::io("list the directory", e))?;
    if !names.iter().any(|name| name == STORE_FILE) {
        return Err(no_store());
    }
    let files = Files::read(storage.as_ref())?;
    files.check_order()?;
    let catalog = catalog(storage, &files, options);
    let found = go_through(&catalog, &files, options)?;
    let mut report = found.report(&files);
    report.read_only = true;
    report.clean =
        found.ending == Ending::Clean && files.mark.is_some_and(|mark| mark.clean && is_at(&mark, &found));
    match &found.ending {
        Ending::Clean => {}
        Ending::Unfinished { detail, .. } => {
            let (name, offset) = (&found.active.name, found.place.offset);
            report
                .notes
                .push(format!("{name} at offset {offset}: {detail}; opening for writing sets it aside"));
        }
        Ending::Damaged(corruption) => {
            report.damage.push(corruption.clone());
            catalog.set_damaged_end(corruption.clone());
        }
    }
    found.active.settle(found.place.offset);
    catalog.watermark.advance(found.place.next.previous());
    // Nothing more will come: nobody is to wait for it.
    catalog.watermark.end();
    report.took = started.elapsed();
    Ok(Log { catalog, report, writing: None })
}

fn is_at(mark: &Mark, found: &Found) -> bool {
    mark.segment == found.active.header.first && mark.end == found.place.offset
}

fn start_writing(
    catalog: &Arc<Catalog>,
    files: &Files,
    active: Arc<Segment>,
    place: Place,
    options: &Options,
    lock: crate::storage::Lock,
) -> Result<Writing, Error> {
    let segment_size = files.store.segment_size;
    let spare = Arc::new(Spare::new(catalog.storage.clone(), segment_size));
    spare.clear().map_err(|e| Error::io("remove a segment that was never used", e))?;
    let epoch = files.mark.map_or(0, |mark| mark.epoch).max(place.epoch).saturating_add(1);
    let mark = files.mark.unwrap_or(Mark {
        store_id: files.store.store_id,
        generation: 0,
        durable: Position::START,
        segment: Position::START,
        end: 0,
        log_start: files.log_start,
        chain: 0,
        epoch,
        clean: false,
    });
    create::restore_mark(catalog.storage.as_ref(), &mark)?;
    catalog.tidy_indexes();
    let indexer = Arc::new(Indexer::new(catalog.clone(), segment_size));
    let max_index_bytes = options.max_index_bytes;
    let start = Start { segment: active, place, epoch, mark, max_index_bytes, indexer: indexer.clone() };
    let mut writer = Writer::new(catalog.clone(), spare, start)?;
    retaining::finish(catalog, &mut writer)?;
    let chores = writer.chores();
    let keeper = Arc::new(Keeper::new(options.sync_after));
    let committer =
        Arc::new(Committer::new(catalog.clone(), writer, keeper.clone(), options.max_in_flight_bytes));
    let thread = keeper.start(&committer, chores)?;
    let indexer_thread = indexer.start()?;
    let room = memory_len(segment_size).saturating_sub(SEGMENT_HEADER + 2 * CONTROL_FRAME);
    Ok(Writing {
        committer,
        keeper,
        keeper_thread: Mutex::new(Some(thread)),
        indexer,
        indexer_thread: Mutex::new(indexer_thread),
        retaining: Mutex::default(),
        max_body: options.max_batch_bytes.min(room),
        lock: Mutex::new(Some(lock)),
        process: Process::own(),
    })
}

/// What going through the segments found.
struct Found {
    active: Arc<Segment>,
    place: Place,
    ending: Ending,
    damage: Vec<Corruption>,
}

impl Found {
    fn report(&self, files: &Files) -> RecoveryReport {
        RecoveryReport {
            store_id: files.store.store_id,
            created: false,
            clean: false,
            read_only: false,
            segments: files.segments.len(),
            log_start: files.log_start,
            last: self.place.next.previous(),
            removed: None,
            rewritten_bytes: 0,
            damage: self.damage.clone(),
            notes: files
                .notes
                .iter()
                .cloned()
                .chain(files.copies.iter().map(|copy| copy.to_string()))
                .collect(),
            rebuilt_views: Vec::new(),
            took: Duration::ZERO,
        }
    }
}

fn catalog(storage: Arc<dyn Storage>, files: &Files, options: &Options) -> Arc<Catalog> {
    let reading = Reading {
        store_id: files.store.store_id,
        map_segments: options.map_segments,
        writable: !options.read_only,
    };
    // A damaged header tells no number; the last one is not damaged.
    let last = files.segments.last().map_or(0, |last| last.header.index);
    let first_number = last.saturating_sub(disk_len(files.segments.len().saturating_sub(1)));
    Arc::new(Catalog::new(storage, reading, first_number))
}

/// Notes the sealed segments, and reads the active one to its end.
fn go_through(catalog: &Arc<Catalog>, files: &Files, options: &Options) -> Result<Found, Error> {
    let mut damage = Vec::new();
    let (last, sealed) = files.active_and_sealed()?;
    for (file, next) in sealed.iter().zip(files.segments.iter().skip(1)) {
        let segment = Segment::new(file.header);
        segment.seal(Sealed { len: file.sealed_len.unwrap_or(file.len), chain: next.header.prev_chain });
        catalog.add(Arc::new(segment));
        damage.extend(file.damage.clone());
    }
    let handle = open_segment(catalog.storage.as_ref(), last)?;
    let active = Arc::new(Segment::active(last.header, handle.clone()));
    catalog.add(active.clone());
    if options.verify_on_open {
        verify_sealed(catalog, &mut damage)?;
    }
    catalog.open_directories()?;
    damage.extend(catalog.open_base(files.log_start)?);
    let index = active.index();
    let memory = index.as_ref().and_then(|index| index.memory());
    let mut walk = Walk::new(Window::reading(handle, last.header.segment_size, SEQUENTIAL), &last.header);
    let visit: &mut FrameVisitor<'_> = &mut |frame, _, events| {
        if let Some(memory) = memory {
            let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
            let mut record = frame + disk_len(FRAME_HEADER);
            for event in events {
                memory.add(catalog.hasher, event, EventPlace { frame, record });
                record += disk_len(aligned(event.record_len()));
            }
        }
        ControlFlow::Continue(())
    };
    let ending = match options.read_only {
        false => recovery::find_end(files, &mut walk, visit),
        true => recovery::find_end_beside_a_writer(catalog.storage.as_ref(), files, &mut walk, visit),
    }?;
    Ok(Found { active, place: walk.place(), ending, damage })
}

/// Reads the sealed segments for damage, which does not keep the store from opening.
fn verify_sealed(catalog: &Arc<Catalog>, damage: &mut Vec<Corruption>) -> Result<(), Error> {
    let (first, active) = catalog.numbers();
    for number in first..active {
        let Some(segment) = catalog.segment(number) else { continue };
        for corruption in indexing::build(catalog, &segment)?.1 {
            if !damage.iter().any(|known| known.is_at(&corruption)) {
                damage.push(corruption);
            }
        }
    }
    Ok(())
}

fn no_store() -> Error {
    Error::new(ErrorKind::NotFound, "there is no store in the directory")
}

pub(crate) fn lock_error(error: LockError) -> Error {
    match error {
        LockError::Held { pid } => {
            let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let message =
                format!("{who} has the store open for writing; close it there, or open it read-only here");
            Error::new(ErrorKind::Locked { pid }, message)
        }
        LockError::Io(e) => Error::io("lock the store", e),
    }
}
