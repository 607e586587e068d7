//! umadb-core: an event store with dynamic consistency boundaries, in process. A stream is one more tag.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_core::writer_thread_blocking::writer_thread_blocking;
use umadb_core::writer_thread_request::WriterThreadRequest;
use umadb_dcb::{DcbAppendCondition, DcbEvent, DcbEventStoreSync, DcbQuery, DcbQueryItem, DcbResult};
use uuid::Uuid;

use crate::fact::{EVENT_TYPE, Fact};
use crate::peer::{About, Outcome, Peer, Use};

/// The store; and where several threads append, its server's writer thread, which commits for a group.
pub(crate) struct Umadb {
    store: UmaDb,
    writer: Option<Writer>,
}

struct Writer {
    requests: mpsc::Sender<WriterThreadRequest>,
    thread: JoinHandle<()>,
}

/// What an append will say once it is durable.
pub(crate) type Answer = oneshot::Receiver<DcbResult<u64>>;

impl Umadb {
    /// Appends if no event has the tag after the position.
    pub(crate) fn append_guarded(&self, events: &mut Vec<DcbEvent>, tag: &str, after: u64) -> Outcome<()> {
        let query = DcbQuery::new().item(DcbQueryItem::new().tags([tag]));
        let condition = DcbAppendCondition::new(query).after(Some(after));
        self.store.append(std::mem::take(events), Some(condition), None)?;
        Ok(())
    }

    /// Hands an append to the writer thread.
    pub(crate) fn submit(&self, events: &mut Vec<DcbEvent>) -> Outcome<Answer> {
        let writer = self.writer.as_ref().ok_or("opened without a writer thread")?;
        let (response_tx, answer) = oneshot::channel();
        let request = WriterThreadRequest::Append {
            events: std::mem::take(events),
            condition: None,
            tracking_info: None,
            response_tx,
            cancel: None,
        };
        writer.requests.blocking_send(request).map_err(|_| "umadb's writer thread has ended")?;
        Ok(answer)
    }

    fn read(&self, tag: Option<&str>, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let query = tag.map(|tag| DcbQuery::new().item(DcbQueryItem::new().tags([tag])));
        for event in self.store.read(query, None, false, None)? {
            each(&event?.event.data);
        }
        Ok(())
    }
}

impl Peer for Umadb {
    type Batch = Vec<DcbEvent>;

    const ABOUT: About = About {
        name: "umadb-core",
        crate_name: "umadb-core",
        durable: "two fdatasync (pages, header), for one append or for a group",
        deferred: "there is none: an append of 1,000 events, synced",
        index: "position, tag (two here: the stream and the tag)",
        checks: "of pages read, not of those in its cache",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        let options = StorageOptions::default().db_path(dir.join("uma.db"));
        let mvcc = Arc::new(without_output(|| Mvcc::new(false, options))??);
        let writer = (usage.threads > 1).then(|| {
            let (requests, receiver) = mpsc::channel(4096);
            let mvcc = mvcc.clone();
            let (head, _) = watch::channel(None);
            let thread = std::thread::spawn(move || writer_thread_blocking(mvcc, receiver, head, 4096));
            Writer { requests, thread }
        });
        Ok(Umadb { store: UmaDb::from_arc(mvcc), writer })
    }

    fn prepare(&self, facts: &[Fact]) -> Outcome<Vec<DcbEvent>> {
        let event = |fact: &Fact| {
            DcbEvent::new()
                .event_type(EVENT_TYPE)
                .data(fact.payload())
                .tags([fact.stream_name(), fact.tag_name()])
                .uuid(Uuid::now_v7())
        };
        Ok(facts.iter().map(event).collect())
    }

    fn append(&self, batch: &mut Vec<DcbEvent>) -> Outcome<()> {
        match self.writer {
            Some(_) => self.submit(batch)?.blocking_recv()??,
            None => self.store.append(std::mem::take(batch), None, None)?,
        };
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read(None, each)
    }

    fn read_stream(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read(Some(name), each)
    }

    fn read_tag(&self, name: &str, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.read(Some(name), each)
    }

    fn close(self) -> Outcome<()> {
        if let Some(Writer { requests, thread }) = self.writer {
            drop(requests);
            thread.join().map_err(|_| "umadb's writer thread panicked")?;
        }
        Ok(())
    }
}

/// umadb prints where it opens a file; the tables are on the standard output.
fn without_output<T>(act: impl FnOnce() -> T) -> Outcome<T> {
    let kept = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    let result = act();
    rustix::stdio::dup2_stdout(kept)?;
    Ok(result)
}
