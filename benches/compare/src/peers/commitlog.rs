//! commitlog: a plain log of messages. It never syncs, so it is not among the durable.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::fact::{Fact, payload_of};
use crate::peer::{About, Level, Outcome, Peer, Use};

/// A log behind a lock: appending needs it for itself.
pub(crate) struct Commitlog {
    log: Mutex<CommitLog>,
}

impl Peer for Commitlog {
    type Batch = MessageBuf;

    const ABOUT: About = About {
        name: "commitlog",
        crate_name: "commitlog",
        durable: "not possible: its flush does not sync the log's file",
        deferred: "append: with the operating system, one write for 1,000 messages",
        index: "offset",
        checks: "all",
    };

    fn open(dir: &Path, usage: Use) -> Outcome<Self> {
        if usage.level == Level::Durable {
            return Err("commitlog cannot be durable".into());
        }
        let mut options = LogOptions::new(dir);
        options.index_max_items(usize::try_from(usage.events)?);
        Ok(Commitlog { log: Mutex::new(CommitLog::new(options)?) })
    }

    /// Encodes and sums: a buffer of this engine is encoded as it is built.
    fn prepare(&self, facts: &[Fact]) -> Outcome<MessageBuf> {
        let mut buffer = MessageBuf::default();
        for fact in facts {
            buffer.push(fact.record()).map_err(|e| format!("{e:?}"))?;
        }
        Ok(buffer)
    }

    fn append(&self, batch: &mut MessageBuf) -> Outcome<()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).append(batch)?;
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = 0;
        loop {
            let messages = log.read(next, ReadLimit::max_bytes(1 << 20))?;
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages.iter() {
                each(payload_of(message.payload()));
                next = message.offset() + 1;
            }
        }
    }
}
