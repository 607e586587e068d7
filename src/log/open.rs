//! Opens a log: reads the files, goes through the segments, recovers the active one, starts the writer.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use super::committer::Committer;
use super::create;
use super::files::{Files, SegmentFile, open_segment};
use super::frame::CONTROL_FRAME;
use super::keeper::Keeper;
use super::layout::{disk_len, memory_len};
use super::mark::Mark;
use super::recovery::{self, Ending, FrameVisitor};
use super::report::RecoveryReport;
use super::scan::{Scanned, SegmentScan};
use super::segment::{LOG_FOLDER, Segment};
use super::segment_header::SEGMENT_HEADER;
use super::spare::Spare;
use super::store_file::STORE_FILE;
use super::walk::{Place, Walk};
use super::window::{SEQUENTIAL, Window};
use super::writer::{Start, Writer};
use super::{Log, Writing};
use crate::error::{Corruption, Error, ErrorKind};
use crate::event::Position;
use crate::options::Options;
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
    let catalog = Arc::new(Catalog::new(storage.clone(), options.map_segments));
    let found = index_segments(&catalog, &files, true)?;
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

pub(super) fn for_reading(storage: Arc<dyn Storage>, options: &Options) -> Result<Log, Error> {
    let started = Instant::now();
    let names = storage.list("").map_err(|e| Error::io("list the directory", e))?;
    if !names.iter().any(|name| name == STORE_FILE) {
        return Err(no_store());
    }
    let files = Files::read(storage.as_ref())?;
    files.check_order()?;
    let catalog = Arc::new(Catalog::new(storage, options.map_segments));
    let found = index_segments(&catalog, &files, false)?;
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
        log_start: files.segments.first().map_or(Position::new(1), |segment| segment.header.first),
        chain: 0,
        epoch,
        clean: false,
    });
    create::restore_mark(catalog.storage.as_ref(), &mark)?;
    let start = Start { segment: active, place, epoch, mark };
    let writer = Writer::new(catalog.clone(), spare, start)?;
    let chores = writer.chores();
    let keeper = Arc::new(Keeper::new(options.sync_after));
    let committer =
        Arc::new(Committer::new(catalog.clone(), writer, keeper.clone(), options.max_in_flight_bytes));
    let thread = keeper.start(&committer, chores)?;
    let room = memory_len(segment_size).saturating_sub(SEGMENT_HEADER + 2 * CONTROL_FRAME);
    Ok(Writing {
        committer,
        keeper,
        keeper_thread: Mutex::new(Some(thread)),
        max_body: options.max_batch_bytes.min(room),
        lock: Mutex::new(Some(lock)),
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
            took: Duration::ZERO,
        }
    }
}

fn index_segments(catalog: &Arc<Catalog>, files: &Files, writing: bool) -> Result<Found, Error> {
    let mut damage = Vec::new();
    let (last, sealed) = files.active_and_sealed()?;
    for (file, next) in sealed.iter().zip(files.segments.iter().skip(1)) {
        let segment = Arc::new(Segment::new(file.header));
        catalog.add(segment.clone());
        index_sealed(catalog, &segment, file, next.header.first, &mut damage)?;
    }
    let handle = open_segment(catalog.storage.as_ref(), last)?;
    let active = Arc::new(Segment::with_file(last.header, handle.clone()));
    catalog.add(active.clone());
    let mut walk = Walk::new(Window::reading(handle, last.header.segment_size, SEQUENTIAL), &last.header);
    let visit: &mut FrameVisitor<'_> = &mut |offset, header, events| {
        active.note_frame(header.first, offset, false);
        events.iter().for_each(|event| catalog.index_event(event));
        ControlFlow::Continue(())
    };
    let ending = match writing {
        true => recovery::find_end(files, &mut walk, visit),
        false => recovery::find_end_beside_a_writer(catalog.storage.as_ref(), files, &mut walk, visit),
    }?;
    Ok(Found { active, place: walk.place(), ending, damage })
}

/// Takes a sealed segment into the index. Damage in it does not keep the store from opening: what can be read of
/// it is, and the index knows that something is hidden.
fn index_sealed(
    catalog: &Catalog,
    segment: &Segment,
    file: &SegmentFile,
    next: Position,
    damage: &mut Vec<Corruption>,
) -> Result<(), Error> {
    segment.seal(file.sealed_len.unwrap_or(file.len));
    if let Some(corruption) = &file.damage {
        damage.push(corruption.clone());
    }
    let window = Window::reading(segment.file(catalog.storage.as_ref())?, file.len, SEQUENTIAL);
    let mut scan = SegmentScan::new(Walk::new(window, &file.header), &segment.name, Some(next));
    let mut after_damage = false;
    while let Some(found) = scan.next()? {
        match found {
            Scanned::Frame { offset, header } => {
                segment.note_frame(header.first, offset, std::mem::take(&mut after_damage));
            }
            Scanned::Damage { corruption, hidden_to, .. } => {
                after_damage = true;
                // After the last event, at a damaged seal or in the zeros behind it, none is hidden.
                if corruption.position.is_none_or(|position| position < next) {
                    catalog.index.hide(hidden_to, corruption.clone());
                }
                if !damage.iter().any(|known| known.is_at(&corruption)) {
                    damage.push(corruption);
                }
            }
        }
        scan.events().iter().for_each(|event| catalog.index_event(event));
    }
    Ok(())
}

fn no_store() -> Error {
    Error::new(ErrorKind::NotFound, "there is no store in the directory")
}

fn lock_error(error: LockError) -> Error {
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
