//! Writes the new store: what verifies, at the positions where it was, and stand-ins for what is lost between.

use std::sync::Arc;

use uuid::Uuid;

use super::survey::Survey;
use super::wreck::{Passed, Wreck};
use super::{LOST_STREAM, LOST_TYPE, RepairReport};
use crate::batch::{Batch, Durability};
use crate::error::{AppendError, Error, ErrorKind};
use crate::event::{Event, Position, RecordedEvent, Version};
use crate::log::Log;
use crate::log::create::{create_from, new_store_id, refuse_foreign};
use crate::log::index::base::{BasePlan, Ended, Identity, MergeFault, Part};
use crate::log::index::key::{KeyHasher, Kind};
use crate::log::indexing::replace;
use crate::log::layout::aligned;
use crate::log::record;
use crate::log::segment::{LOG_FOLDER, base_name};
use crate::log::store_file::STORE_FILE;
use crate::options::{MAX_BATCH_BYTES, Options};
use crate::storage::Storage;

/// Stand-ins are appended in batches of so many bytes, and of one event at least: they fit in the smallest segment.
const BATCH: usize = 2048;

/// Whether a store can be made here.
pub(super) fn check_empty(storage: &dyn Storage) -> Result<(), Error> {
    let names = refuse_foreign(storage)?;
    match names.iter().any(|name| name == STORE_FILE || name == LOG_FOLDER) {
        true => Err(Error::invalid("there is a store in the directory: give an empty one or a new path")),
        false => Ok(()),
    }
}

pub(super) fn rebuild(wreck: &Wreck, survey: Survey, to: Arc<dyn Storage>) -> Result<RepairReport, Error> {
    let store_id = new_store_id(to.as_ref());
    let options = Options::new().segment_size(wreck.store.segment_size).max_batch_bytes(MAX_BATCH_BYTES);
    create(to.as_ref(), &options, store_id, &survey)?;
    let log = Log::open(to, &options)?;
    let mut new =
        New { log, next: survey.log_start, saved: 0, wrong_versions: 0, source_id: wreck.store.store_id };
    let filled = new.fill(wreck, &survey);
    let closed = new.log.close();
    filled.and(closed).map_err(|error| match error.kind() {
        ErrorKind::Poisoned | ErrorKind::Indeterminate => {
            Error::new(ErrorKind::Io, format!("could not write the new store: {error}"))
        }
        _ => error,
    })?;
    let mut notes = survey.notes.clone();
    if new.wrong_versions > 0 {
        notes.push(format!(
            "{} batches have events of other versions than they had: what is left of their streams does not agree",
            new.wrong_versions
        ));
    }
    Ok(RepairReport {
        source_id: wreck.store.store_id,
        store_id,
        log_start: survey.log_start,
        last: new.next.previous(),
        saved: new.saved,
        lost: survey.lost(),
        lost_before: survey.lost_before,
        unproven: survey.unproven,
        damage: survey.damage,
        notes,
    })
}

/// Makes the new store, with what is known of streams from before its log's start.
fn create(to: &dyn Storage, options: &Options, store_id: Uuid, survey: &Survey) -> Result<(), Error> {
    let log_start = survey.log_start;
    if log_start > Position::START.next() {
        to.create_folder(LOG_FOLDER)
            .map_err(|e| Error::io(format_args!("make the folder {LOG_FOLDER}"), e))?;
        write_base(to, Identity { store_id, log_start }, &survey.ended)?;
    }
    create_from(to, options, store_id, log_start)
}

fn write_base(to: &dyn Storage, identity: Identity, ended: &[Ended]) -> Result<(), Error> {
    let name = base_name(identity.log_start);
    let hasher = KeyHasher::new(identity.store_id);
    let mut list: Vec<(u64, Ended)> =
        ended.iter().map(|ended| (hasher.name(Kind::Stream, &ended.name), ended.clone())).collect();
    list.sort_by_key(|(hash, _)| *hash);
    let parts = [Part::Listed(list.into())];
    let fault = |fault| match fault {
        MergeFault::Write(e) => e,
        MergeFault::Part(_, fault) => std::io::Error::other(fault),
    };
    BasePlan::new(&parts, identity)
        .map_err(fault)
        .and_then(|plan| replace(to, &name, plan.file_len(), |file| plan.write(file).map_err(fault)))
        .and_then(|()| to.sync_folder(LOG_FOLDER))
        .map_err(|e| Error::io(format_args!("write {name}"), e))
}

/// The new store, being filled.
struct New {
    log: Log,
    next: Position,
    saved: u64,
    /// Batches whose last event got another version than it had.
    wrong_versions: u64,
    source_id: Uuid,
}

impl New {
    fn fill(&mut self, wreck: &Wreck, survey: &Survey) -> Result<(), Error> {
        let mut recorded_at_ns = 0;
        wreck.go_through(&mut |passed| {
            let Passed::Events(events) = passed else { return Ok(()) };
            // A frame of which only a part verifies may have holes as well.
            for events in events.chunk_by(|a, b| a.position().next() == b.position()) {
                let Some(first) = events.first() else { continue };
                recorded_at_ns = first.recorded_at_ns();
                self.stand_in(survey, first.position(), recorded_at_ns)?;
                self.copy(events)?;
            }
            Ok(())
        })?;
        let end = survey.holes.last().map_or(self.next, |(_, last)| last.next());
        self.stand_in(survey, end, recorded_at_ns)
    }

    fn copy(&mut self, events: &[RecordedEvent]) -> Result<(), Error> {
        let Some(last) = events.last() else { return Ok(()) };
        let batch = events
            .iter()
            .fold(Batch::new(), |batch, event| batch.event(event.stream(), Event::copy_of(event)));
        self.append(batch, last.recorded_at_ns(), Some(last.version()))?;
        self.saved += u64::try_from(events.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Appends stand-ins for all that is lost before a position.
    fn stand_in(&mut self, survey: &Survey, until: Position, recorded_at_ns: u64) -> Result<(), Error> {
        while self.next < until {
            let (mut batch, mut bytes, mut position, mut version) = (Batch::new(), 0, self.next, None);
            while position < until && bytes < BATCH {
                let known = survey.known.get(&position);
                let stream = known.map_or(LOST_STREAM, |(stream, _)| stream);
                version = known.map(|(_, version)| *version);
                let event = Event::json(LOST_TYPE, &serde_json::json!({ "store": self.source_id }))?;
                bytes += aligned(record::check(stream, &event)?);
                batch = batch.event(stream, event);
                position = position.next();
            }
            self.append(batch, recorded_at_ns, version)?;
        }
        Ok(())
    }

    fn append(&mut self, batch: Batch, recorded_at_ns: u64, version: Option<Version>) -> Result<(), Error> {
        let done = self.log.append_copy(&batch.durability(Durability::Deferred), recorded_at_ns);
        let done = done.map_err(|error| match error {
            AppendError::Failed(error) => error,
            AppendError::Conflict(conflict) => Error::invalid(conflict.to_string()),
        })?;
        if done.first != self.next {
            let message = format!("the new store is at position {}, not {}", done.first, self.next);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.wrong_versions += u64::from(version.is_some_and(|version| version != done.version));
        self.next = done.position.next();
        Ok(())
    }
}
