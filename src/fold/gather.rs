//! Folds pieces of the log on several threads, and puts together what they came to, in the order of the log.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cells::{Choice, Chosen, Part, Parts};
use super::declared::Fold;
use super::partial::{self, Owner};
use super::partial_files::PartialFiles;
use super::pieces::{Cut, Piece, Whole};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::log::catalog::{Catalog, closed};
use crate::log::cursor::Cursor;
use crate::log::holds::truncated;
use crate::projection::threads::on_threads;
use crate::view::key::Key;
use crate::view::key_hashes::KeyHashes;

/// Pieces are folded and put together in waves of so many for each thread: all that a wave came to is in memory.
const WAVE: usize = 4;
/// Fewer rows are put together by one thread.
const FEW_ROWS: usize = 4096;

/// What is to be folded, and how.
pub(super) struct Gather<'a, K, S> {
    pub(super) fold: &'a Fold<K, S>,
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) threads: usize,
    pub(super) choice: Choice,
    /// Whether what sealed segments come to is kept.
    pub(super) keep: bool,
    /// No piece of any size is smaller than this.
    pub(super) least_cut: u64,
}

/// Why there are no rows.
enum Halt {
    /// The fold failed on an event.
    Event(Error),
    /// Two parts could not be put together.
    Merge(Error),
    Failed(Error),
}

/// What pieces that end at these positions came to, to be put behind the rows there are: in one part.
struct Job<'a, S> {
    into: &'a mut Part<S>,
    pieces: Vec<(Position, Part<S>)>,
}

impl<K: Key, S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Gather<'_, K, S> {
    /// Folds the events after a position and up to another one, which is durable.
    pub(super) fn gather(&self, after: Position, to: Position) -> Result<Parts<S>, Error> {
        if self.catalog.is_closed() {
            return Err(closed());
        }
        let files = self.files();
        // Keeps retention from what is being read.
        let (_hold, start) = self.catalog.holds.hold(Some(after.next()));
        let pieces = self.cut().pieces(self.catalog, &files, start.first, (after, to))?;
        let stored = AtomicBool::new(false);
        let gathered = self.waves(&pieces, &stored);
        if stored.into_inner()
            && let Err(error) = files.settle(start.first)
        {
            tracing::warn!(fold = self.fold.name(), %error, "what segments came to is not known to be durable");
        }
        let halt = match gathered {
            Ok(gathered) => return Ok(gathered),
            Err(halt) => halt,
        };
        let folded_whole = !pieces.iter().any(|piece| piece.segment.is_some_and(|whole| whole.is_gone));
        match halt {
            Halt::Failed(error) => Err(error),
            // Which event it is, only one after the other can tell.
            Halt::Event(error) | Halt::Merge(error) if folded_whole => {
                let from = pieces.first().map_or(after, |piece| piece.after);
                match self.serial(from, to) {
                    Ok(rows) => Ok(rows),
                    Err(Halt::Event(error) | Halt::Failed(error)) => Err(error),
                    Err(Halt::Merge(_)) => Err(error),
                }
            }
            Halt::Event(error) | Halt::Merge(error) => Err(error),
        }
    }

    fn files(&self) -> PartialFiles<'_> {
        let owner = Owner {
            store_id: self.catalog.reading.store_id,
            name: self.fold.name(),
            generation: self.fold.generation(),
        };
        PartialFiles { storage: self.catalog.storage.as_ref(), owner }
    }

    fn keeps(&self) -> bool {
        self.keep && self.fold.keeps_partials && self.catalog.reading.writable
    }

    fn cut(&self) -> Cut {
        Cut {
            by_segment: self.keeps(),
            from_log_start: self.fold.from_log_start,
            pieces: u64::try_from(self.threads.max(1)).unwrap_or(1),
            least: self.least_cut,
        }
    }

    /// One event after the other.
    fn serial(&self, after: Position, to: Position) -> Result<Parts<S>, Halt> {
        let mut rows = Parts::new(KeyHashes::default(), 1);
        self.contained(after, |at| self.events((after, to), &self.choice, at, &mut rows))?;
        Ok(rows)
    }

    fn waves(&self, pieces: &[Piece], stored: &AtomicBool) -> Result<Parts<S>, Halt> {
        let threads = self.threads.max(1);
        let seed = KeyHashes::default();
        let mut rows = Parts::new(seed, threads);
        for wave in pieces.chunks(threads.saturating_mul(WAVE)) {
            let came_to = self.fold_wave(wave, seed, stored);
            let (mut whole, mut failed) = (Vec::with_capacity(wave.len()), None);
            for (piece, came_to) in wave.iter().zip(came_to) {
                match came_to {
                    Some(Ok(parts)) => whole.push((piece.to, parts)),
                    Some(Err(halt)) => {
                        failed = Some(halt);
                        break;
                    }
                    None => break,
                }
            }
            // What comes before the piece that failed may fail earlier.
            self.merge_wave(&mut rows, whole)?;
            failed.map_or(Ok(()), Err)?;
        }
        Ok(rows)
    }

    /// What each piece came to. After one that failed there may be some of which nothing is said.
    fn fold_wave(
        &self,
        wave: &[Piece],
        seed: KeyHashes,
        stored: &AtomicBool,
    ) -> Vec<Option<Result<Parts<S>, Halt>>> {
        let came_to: Vec<_> = wave.iter().map(|_| Mutex::new(None)).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        on_threads(self.threads.min(wave.len()), || {
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let (Some(piece), Some(slot)) = (wave.get(number), came_to.get(number)) else { return };
                let folded = self.piece(piece, seed, stored);
                failed.fetch_or(folded.is_err(), Ordering::Relaxed);
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(folded);
            }
        });
        came_to.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// What a piece came to: as it is kept, or folded from its events.
    fn piece(&self, piece: &Piece, seed: KeyHashes, stored: &AtomicBool) -> Result<Parts<S>, Halt> {
        let range = (piece.after, piece.to);
        let Some(whole) = &piece.segment else {
            let mut rows = Parts::new(seed, self.threads);
            self.contained(piece.after, |at| self.events(range, &self.choice, at, &mut rows))?;
            return Ok(rows);
        };
        if let Some(kept) = self.load(whole, seed) {
            return Ok(kept);
        }
        if whole.is_gone {
            return Err(Halt::Failed(truncated(self.catalog.log_start())));
        }
        let (mut rows, keeps) = (Parts::new(seed, self.threads), self.keeps());
        let choice = if keeps { &Choice::All } else { &self.choice };
        self.contained(piece.after, |at| self.events(range, choice, at, &mut rows))?;
        if keeps {
            match self.store(whole, &rows) {
                Ok(was_stored) => drop(stored.fetch_or(was_stored, Ordering::Relaxed)),
                Err(error) => {
                    let fold = self.fold.name();
                    tracing::warn!(fold, %error, "what a segment came to is not kept");
                }
            }
            rows.choose(&self.choice);
        }
        Ok(rows)
    }

    /// The rows of a partial that is kept, if it is the segment's.
    fn load(&self, whole: &Whole, seed: KeyHashes) -> Option<Parts<S>> {
        let partial = self.files().load(whole.span.first, whole.largest)?;
        if partial.span != whole.span {
            return None;
        }
        let mut rows = Parts::new(seed, self.threads);
        for row in partial.rows(&self.choice) {
            let (key, state) = row?;
            rows.insert(key, codec::from_slice(state).ok()?);
        }
        Some(rows)
    }

    /// Keeps what a segment came to, unless that is larger than the segment.
    fn store(&self, whole: &Whole, rows: &Parts<S>) -> Result<bool, Error> {
        let mut sorted: Vec<_> = rows.parts.iter().flatten().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let mut states = Vec::with_capacity(sorted.len());
        for (key, state) in sorted {
            states.push((&**key, codec::to_vec(state)?));
        }
        let files = self.files();
        let bytes = partial::encode(&files.owner, &whole.span, states.into_iter());
        let fits = |bytes: &Vec<u8>| u64::try_from(bytes.len()).is_ok_and(|len| len <= whole.largest);
        match bytes.filter(fits) {
            Some(bytes) => files
                .store(&whole.span, &bytes)
                .map(|()| true)
                .map_err(|e| Error::io("keep what a segment came to", e)),
            None => Ok(false),
        }
    }

    /// Folds the events after a position and up to another one, telling at which it is.
    fn events(
        &self,
        (after, to): (Position, Position),
        choice: &Choice,
        at: &Cell<Position>,
        rows: &mut Parts<S>,
    ) -> Result<(), Halt> {
        let mut cursor =
            Cursor::forward(self.catalog.clone(), after).limit(to.get().saturating_sub(after.get()));
        let mut chosen = Chosen { rows, choice, scratch: Vec::new() };
        let (mut done, mut event) = (after, None);
        while done < to {
            let read = cursor.next_with(|found| found.put_into(&mut event));
            read.transpose().map_err(Halt::Failed)?;
            let Some(event) = event.as_ref().filter(|event| event.position() > done) else {
                let message = format!("the log gave no event at position {}", done.next());
                return Err(Halt::Failed(Error::new(ErrorKind::Io, message)));
            };
            done = event.position();
            at.set(done);
            self.fold.apply(event, &mut chosen).map_err(|error| Halt::Event(self.failed(event, error)))?;
        }
        Ok(())
    }

    fn failed(&self, event: &RecordedEvent, error: impl std::fmt::Display) -> Error {
        let message = format!(
            "the fold {:?} failed on {:?} of stream {:?} at position {}: {error}",
            self.fold.name(),
            event.event_type(),
            event.stream(),
            event.position()
        );
        Error::new(ErrorKind::Stopped { position: event.position() }, message)
    }

    /// Makes a panic of the fold's own functions an error.
    fn contained(
        &self,
        after: Position,
        work: impl FnOnce(&Cell<Position>) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let at = Cell::new(after);
        catch_unwind(AssertUnwindSafe(|| work(&at))).unwrap_or_else(|panic| {
            let position = at.get();
            let message =
                format!("the fold {:?} panicked at position {position}: {}", self.fold.name(), text(&*panic));
            Err(Halt::Event(Error::new(ErrorKind::Stopped { position }, message)))
        })
    }

    /// Puts what the pieces of a wave came to behind the rows there are.
    fn merge_wave(&self, rows: &mut Parts<S>, pieces: Vec<(Position, Parts<S>)>) -> Result<(), Halt> {
        let count: usize = pieces.iter().map(|(_, parts)| parts.len()).sum();
        let mut jobs: Vec<Job<'_, S>> = rows
            .parts
            .iter_mut()
            .map(|into| Job { into, pieces: Vec::with_capacity(pieces.len()) })
            .collect();
        for (to, piece) in pieces {
            for (job, part) in jobs.iter_mut().zip(piece.parts) {
                job.pieces.push((to, part));
            }
        }
        let threads = if count < FEW_ROWS { 1 } else { jobs.len() };
        let (jobs, failed) = (Mutex::new(jobs), Mutex::new(None));
        on_threads(threads, || {
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(Job { into, pieces }) = job else { return };
                for (to, part) in pieces {
                    if let Err(halt) = self.merge_part(into, part, to) {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(halt);
                        return;
                    }
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn merge_part(&self, into: &mut Part<S>, part: Part<S>, to: Position) -> Result<(), Halt> {
        if into.is_empty() {
            *into = part;
            return Ok(());
        }
        let halt = |why: String| {
            let message = format!("the fold {:?} failed at or before position {to}: {why}", self.fold.name());
            Halt::Merge(Error::new(ErrorKind::Stopped { position: to }, message))
        };
        let merge = || -> Result<(), Halt> {
            for (key, later) in part {
                match into.get_mut(&key) {
                    Some(earlier) => self.fold.merge(earlier, later).map_err(|e| halt(e.to_string()))?,
                    None => drop(into.insert(key, later)),
                }
            }
            Ok(())
        };
        catch_unwind(AssertUnwindSafe(merge)).unwrap_or_else(|panic| Err(halt(text(&*panic))))
    }
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".into())
}
