//! All events of a store, in order, in segments.
//!
//! From the inside out:
//!
//! - pure: [`layout`], [`crc`], [`numbers`], and the codecs [`record`] < [`frame`] < [`segment_header`], [`store_file`],
//!   [`mark`];
//! - bytes: [`window`], [`walk`] and [`scan`] read files;
//! - shared by readers and the writer: [`segment`], [`index`], [`catalog`]; [`holds`] has what cursors still read, [`base`]
//!   what is known of streams before the log's start; [`indexing`] makes and opens indexes and directories;
//! - finding: [`lookup`] streams, ids and candidates; [`matching`] what a query asks for in one segment;
//!   [`event_types`] how many events of each type there are;
//! - reading: [`reader`] one event, [`source`] the positions of a query or a stream, [`cursor`] many events;
//! - opening: [`files`], [`create`], [`recovery`], [`open`], [`report`];
//! - appending: [`buffers`], [`request`] and [`guarding`] in the appender's thread; [`queue`], [`ticket`], [`bell`] and
//!   [`committer`] make groups; [`writer`], with [`outflow`], [`ahead`] and [`spare`], writes them; [`keeper`] and
//!   [`indexer`] do what no appender should wait for;
//! - [`retaining`] drops old segments.
//!
//! The log knows nothing of projections.

mod ahead;
pub(crate) mod base;
mod bell;
mod buffers;
pub(crate) mod catalog;
mod committer;
mod crc;
pub(crate) mod create;
pub(crate) mod cursor;
pub(crate) mod event_types;
pub(crate) mod files;
pub(crate) mod frame;
mod guarding;
pub(crate) mod holds;
pub(crate) mod index;
mod indexer;
pub(crate) mod indexing;
mod keeper;
pub(crate) mod layout;
mod lookup;
pub(crate) mod mark;
mod matching;
mod numbers;
pub(crate) mod open;
mod outflow;
mod queue;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod report;
mod request;
pub(crate) mod retaining;
pub(crate) mod scan;
#[cfg(all(test, everfold_shuttle))]
mod schedules;
pub(crate) mod segment;
pub(crate) mod segment_header;
mod source;
mod spare;
pub(crate) mod store_file;
mod syncs;
pub(crate) mod ticket;
pub(crate) mod walk;
pub(crate) mod window;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::batch::{Appended, Batch};
use crate::error::{AppendError, Error, ErrorKind};
use crate::event::Position;
use crate::options::Options;
use crate::retention::{Retained, Retention};
use crate::storage::process::Process;
use crate::storage::{Lock, Storage};
use crate::sync::thread::JoinHandle;
use catalog::Catalog;
use committer::Committer;
use guarding::Known;
use indexer::Indexer;
use keeper::Keeper;
use report::RecoveryReport;
use request::Request;
use retaining::Needed;
use ticket::Ticket;

/// An open log. Reading goes through its catalog; appending needs the writing half.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) report: RecoveryReport,
    writing: Option<Writing>,
}

/// What a log opened for writing has besides.
#[derive(Debug)]
struct Writing {
    committer: Arc<Committer>,
    keeper: Arc<Keeper>,
    keeper_thread: Mutex<Option<JoinHandle<()>>>,
    indexer: Arc<Indexer>,
    indexer_thread: Mutex<Option<JoinHandle<()>>>,
    /// Held by the one who drops segments.
    retaining: Mutex<()>,
    max_body: usize,
    lock: Mutex<Option<Lock>>,
    process: Process,
}

impl Log {
    /// Opens the log in a storage, recovering it if needed; creates the store if there is none and the options say so.
    pub(crate) fn open(storage: Arc<dyn Storage>, options: &Options) -> Result<Self, Error> {
        options.check()?;
        if options.read_only {
            open::for_reading(storage, options)
        } else {
            open::for_writing(storage, options)
        }
    }

    pub(crate) fn store_id(&self) -> Uuid {
        self.report.store_id
    }

    pub(crate) fn append(&self, batch: &Batch) -> Result<Appended, AppendError> {
        let writing = self.writing()?;
        writing.committer.append(self.request(batch, writing)?)
    }

    /// Appends a copy of events of another log, as of the time when they were recorded.
    pub(crate) fn append_copy(&self, batch: &Batch, recorded_at_ns: u64) -> Result<Appended, AppendError> {
        let writing = self.writing()?;
        let mut request = self.request(batch, writing)?;
        request.recorded_at_ns = Some(recorded_at_ns);
        writing.committer.append(request)
    }

    pub(crate) fn submit(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        let writing = self.writing()?;
        Ok(writing.committer.submit(self.request(batch, writing)?)?)
    }

    /// The batch encoded, and what it needs to know looked up, in the thread that wants it.
    fn request(&self, batch: &Batch, writing: &Writing) -> Result<Request, Error> {
        let mut request =
            Request::encode(batch, writing.max_body, self.catalog.hasher, writing.committer.buffers())?;
        request.known = Known::look_up(&self.catalog, &request);
        Ok(request)
    }

    pub(crate) fn sync(&self) -> Result<Position, Error> {
        self.check_process()?;
        self.writing()?.committer.sync()?;
        Ok(self.catalog.watermark.get())
    }

    /// Drops the oldest segments, as far as the policy says and the views need them no more.
    pub(crate) fn retain(&self, retention: &Retention, needed: &[Needed]) -> Result<Retained, Error> {
        match &self.writing {
            Some(writing) => {
                let _alone = writing.retaining.lock().unwrap_or_else(PoisonError::into_inner);
                retaining::retain(&self.catalog, Some(&writing.committer), retention, needed)
            }
            None if retention.dry_run => retaining::retain(&self.catalog, None, retention, needed),
            None => Err(read_only()),
        }
    }

    /// Whether events can be appended, and views kept.
    pub(crate) fn is_writable(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether this process may write, and has the threads that do. One that was forked has and may not.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        self.writing.as_ref().map_or(Ok(()), |writing| writing.process.check())
    }

    /// Syncs, says in log and mark that the store was closed, and gives the lock back. Once; later calls do nothing.
    pub(crate) fn close(&self) -> Result<(), Error> {
        self.check_process()?;
        let Some(writing) = &self.writing else {
            self.catalog.close();
            return Ok(());
        };
        writing.keeper.stop();
        join("everfold-keeper", &writing.keeper_thread);
        let result = writing.committer.close();
        writing.indexer.stop();
        join("everfold-indexer", &writing.indexer_thread);
        self.catalog.close();
        drop(writing.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        result
    }

    fn writing(&self) -> Result<&Writing, Error> {
        self.writing.as_ref().ok_or_else(read_only)
    }
}

/// Waits for a thread that was told to end.
fn join(name: &str, thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!(name, "a thread had panicked");
    }
}

pub(crate) fn read_only() -> Error {
    Error::new(
        ErrorKind::ReadOnly,
        "the store was opened read-only; open it for writing to append or to keep views",
    )
}
