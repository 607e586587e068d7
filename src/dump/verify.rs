//! Reads every byte of the log and says what is wrong.

use std::ops::ControlFlow;

use super::{Found, Inspector};
use crate::error::{Corruption, Damage, Error};
use crate::event::Position;
use crate::log::base;
use crate::log::index::base::Identity;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of the segments gone through.
    pub done: u64,
    /// Bytes of all segments.
    pub total: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verdict {
    /// Frames that verify.
    pub frames: u64,
    /// Events that verify.
    pub events: u64,
    /// Position of the last event that verifies.
    pub last: Position,
    /// Bytes of the segments, all of them read.
    pub bytes: u64,
    /// Damage to what may have been acknowledged.
    pub damage: Vec<Corruption>,
    /// What a crash left of a write that was never acknowledged.
    pub torn_tail: Option<Corruption>,
    /// What is worth a word and may be no damage at all.
    pub notes: Vec<String>,
}

impl Inspector {
    /// Checks every checksum, every link between frames and segments, and that nothing stands where zeros should; of a log
    /// that retention has truncated also the versions it has kept of streams.
    ///
    /// # Errors
    /// When a file cannot be read. Damage is no error: it is in the verdict.
    pub fn verify(&self, mut progress: impl FnMut(Progress)) -> Result<Verdict, Error> {
        let total = self.files.segments.iter().map(|segment| segment.len).sum();
        let mut verdict = Verdict { damage: self.files.copies.clone(), ..Verdict::default() };
        verdict.notes.clone_from(&self.files.notes);
        verdict.damage.extend(self.base_damage()?);
        let mut segment = (String::new(), 0);
        self.scan(Position::START, |found| {
            match found {
                Found::Frame { frame, events } => {
                    if frame.file != segment.0 {
                        segment = (frame.file.clone(), self.bytes_before(&frame.file));
                    }
                    verdict.frames += 1;
                    verdict.count(events.iter().map(|event| event.position()));
                    progress(Progress { done: segment.1 + frame.offset + frame.len, total });
                }
                Found::Damage { corruption, events, .. } => {
                    verdict.count(events.iter().map(|event| event.position()));
                    verdict.add(corruption);
                }
            }
            ControlFlow::Continue(())
        })?;
        verdict.bytes = total;
        progress(Progress { done: total, total });
        Ok(verdict)
    }

    /// What is wrong with the file that keeps the versions of streams whose events retention has removed.
    fn base_damage(&self) -> Result<Option<Corruption>, Error> {
        let (store_id, log_start) = (self.files.store.store_id, self.files.log_start);
        match log_start == Position::START.next() {
            true => Ok(None),
            false => base::damage(self.storage.as_ref(), Identity { store_id, log_start }),
        }
    }

    fn bytes_before(&self, file: &str) -> u64 {
        let segments = self.segments();
        segments.iter().take_while(|segment| segment.file != file).map(|segment| segment.bytes).sum()
    }
}

impl Verdict {
    fn count(&mut self, positions: impl Iterator<Item = Position>) {
        for position in positions {
            self.events += 1;
            self.last = self.last.max(position);
        }
    }

    fn add(&mut self, corruption: Corruption) {
        if corruption.damage == Damage::TornTail {
            self.torn_tail = Some(corruption);
        } else if !self.damage.iter().any(|known| known.is_at(&corruption)) {
            self.damage.push(corruption);
        }
    }
}
