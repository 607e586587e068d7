//! Retention: which segments are dropped, and how, so that a crash in between loses nothing that is kept.
//!
//! 1. The versions of the dropped segments' streams are written into the base of the new log start, durably.
//! 2. `MARK` says where the log starts, in both slots. From then on the segments before are not part of the log.
//! 3. The catalog lets go of them, and their files are removed: the oldest first, then what told of them.
//!
//! An opening for writing that finds files of step 3 removes them; before step 2 the base is what is left over.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::base::base_fault;
use super::catalog::{Catalog, closed};
use super::committer::Committer;
use super::holds::{Base, Held, Start};
use super::index::SegmentIndex;
use super::index::base::{BasePlan, Identity, MergeFault, Part};
use super::index::pages::IndexFault;
use super::indexing::{directory_span, replace};
use super::segment::{LOG_FOLDER, Segment, base_name, index_name, position_in, segment_name};
use super::writer::Writer;
use crate::error::Error;
use crate::event::Position;
use crate::retention::{KeptBy, Retained, Retention};

/// Who else needs the log, and the highest position at which it may start for that.
#[derive(Clone, Debug)]
pub(crate) struct Needed {
    pub(crate) by: KeptBy,
    pub(crate) from: Position,
}

/// A segment to be dropped.
#[derive(Clone, Debug)]
struct Dropped {
    number: u64,
    segment: Arc<Segment>,
    /// Where the log starts when it is gone.
    next: Position,
}

/// What is dropped, and why no more.
#[derive(Debug)]
struct Plan {
    dropped: Vec<Dropped>,
    kept_by: Option<KeptBy>,
}

/// How long retention waits for reads that are under way and hold what is to be dropped. Longer ones keep it.
const GRACE: Duration = Duration::from_millis(50);
/// How often it tries when cursors were opened meanwhile that it waits for in vain.
const TRIES: usize = 3;

/// Drops what the policy says. Only one thread at a time may.
pub(super) fn retain(
    catalog: &Arc<Catalog>,
    committer: Option<&Committer>,
    retention: &Retention,
    needed: &[Needed],
) -> Result<Retained, Error> {
    if catalog.is_closed() {
        return Err(closed());
    }
    let before = catalog.log_start();
    let committer = committer.filter(|_| !retention.dry_run);
    let mut plan = plan(catalog, retention, needed)?;
    plan.keep_from(wait_for(&catalog.holds.held(), plan.start(), committer.is_some()));
    if let Some(committer) = committer {
        for left in (0..TRIES).rev() {
            let Some(held) = drop_segments(catalog, committer, &plan)? else { break };
            plan.keep_from(held);
            if left == 0 {
                plan.dropped.clear();
            }
        }
        remove_leftovers(catalog);
    }
    Ok(Retained {
        first: plan.start().unwrap_or(before),
        segments: plan.dropped.len(),
        bytes: plan.dropped.iter().map(|dropped| dropped.segment.header.segment_size).sum(),
        kept_by: plan.kept_by,
    })
}

/// The lowest position that is held, after waiting for holds below the log's new start to move on.
fn wait_for(held: &Held, start: Option<Position>, wait: bool) -> Position {
    let until = Instant::now() + if wait { GRACE } else { Duration::ZERO };
    loop {
        let lowest = held.lowest();
        if start.is_none_or(|start| start <= lowest) || Instant::now() >= until {
            return lowest;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Plan {
    /// Where the log starts then, if anything is dropped.
    fn start(&self) -> Option<Position> {
        self.dropped.last().map(|last| last.next)
    }

    /// Cursors read on from this position.
    fn keep_from(&mut self, held: Position) {
        let dropped = self.dropped.len();
        self.dropped.retain(|dropped| dropped.next <= held);
        if self.dropped.len() < dropped {
            self.kept_by = Some(KeptBy::Cursor { position: held });
        }
    }
}

fn plan(catalog: &Catalog, retention: &Retention, needed: &[Needed]) -> Result<Plan, Error> {
    let (first, active) = catalog.numbers();
    let segments = || (first..=active).filter_map(|number| catalog.segment(number));
    let mut bytes: u64 = segments().map(|segment| segment.header.segment_size).sum();
    let lowest = needed.iter().min_by_key(|needed| needed.from);
    let since = catalog.storage.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let recorded_before = retention.older_than.and_then(|age| since.checked_sub(age));
    let mut plan = Plan { dropped: Vec::new(), kept_by: None };
    for number in first..active {
        let (Some(segment), Some(after)) =
            (catalog.segment(number), catalog.segment(number.saturating_add(1)))
        else {
            break;
        };
        let next = after.header.first;
        let wanted = retention.before.is_some_and(|before| next <= before)
            || retention.max_bytes.is_some_and(|most| bytes > most)
            || match recorded_before {
                Some(before) => {
                    latest(catalog, &segment)?.is_some_and(|at| u128::from(at) < before.as_nanos())
                }
                None => false,
            };
        if !wanted {
            break;
        }
        if let Some(needed) = lowest.filter(|needed| needed.from < next) {
            plan.kept_by = Some(needed.by.clone());
            break;
        }
        if catalog.look(&segment, |index| Ok(!index.hidden().is_empty()))? {
            plan.kept_by = Some(KeptBy::Damage { file: segment.name.clone() });
            break;
        }
        bytes = bytes.saturating_sub(segment.header.segment_size);
        plan.dropped.push(Dropped { number, segment, next });
    }
    Ok(plan)
}

/// The latest time at which an event of a segment was recorded.
fn latest(catalog: &Catalog, segment: &Segment) -> Result<Option<u64>, Error> {
    Ok(match catalog.index(segment)?.as_ref() {
        SegmentIndex::File(file) => Some(file.header.times.1).filter(|latest| *latest > 0),
        SegmentIndex::Memory(index) => {
            let index = index.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            index.times.map(|(_, latest)| latest)
        }
    })
}

/// Steps 1 to 3 up to the files. Returns the lowest position that is held, if that keeps it from going on.
fn drop_segments(
    catalog: &Arc<Catalog>,
    committer: &Committer,
    plan: &Plan,
) -> Result<Option<Position>, Error> {
    let (Some(last), before) = (plan.dropped.last(), catalog.holds.start()) else { return Ok(None) };
    let base = match write_base(catalog, &plan.dropped, last.next) {
        Ok(base) => base,
        Err(error) => {
            // No mark says that it is of use.
            let _ = catalog.storage.remove(&base_name(last.next));
            return Err(error);
        }
    };
    // From here on nobody starts to read what is going to be removed. Should that fail, they may again.
    let held = catalog.holds.set(Start { first: last.next, base });
    let lowest = wait_for(&held, Some(last.next), true);
    if lowest < last.next {
        catalog.holds.set(before);
        return Ok(Some(lowest));
    }
    let published = committer.with_writer(|writer| {
        if catalog.is_closed() {
            return Err(closed());
        }
        writer.move_log_start(last.next)?;
        catalog.drop_before(last.number.saturating_add(1));
        Ok(None)
    });
    if published.is_err() {
        catalog.holds.set(before);
    }
    published
}

/// Writes the base of a new log start, durably, and opens it.
fn write_base(catalog: &Arc<Catalog>, dropped: &[Dropped], log_start: Position) -> Result<Base, Error> {
    let identity = Identity { store_id: catalog.reading.store_id, log_start };
    let name = base_name(log_start);
    // Each failure finds an index that is then made anew from its segment.
    for _ in 0..=dropped.len() {
        let parts = parts(catalog, dropped)?;
        let mut fault = None;
        let written = BasePlan::new(&parts, identity).map(|plan| {
            replace(catalog.storage.as_ref(), &name, plan.file_len(), |file| match plan.write(file) {
                Ok(()) => Ok(()),
                Err(MergeFault::Write(e)) => Err(e),
                Err(part) => {
                    fault = Some(part);
                    Err(io::ErrorKind::InvalidData.into())
                }
            })
        });
        let (written, fault) = match written {
            Ok(written) => (written, fault),
            Err(fault) => (Ok(()), Some(fault)),
        };
        match fault {
            Some(MergeFault::Part(number, fault)) => {
                distrust(catalog, &parts, number, fault)?;
                continue;
            }
            Some(MergeFault::Write(e)) => return Err(Error::io(format_args!("write {name}"), e)),
            None => written.map_err(|e| Error::io(format_args!("write {name}"), e))?,
        }
        catalog
            .storage
            .sync_folder(LOG_FOLDER)
            .map_err(|e| Error::io(format_args!("sync {LOG_FOLDER}"), e))?;
        return match catalog.base_at(log_start)? {
            Base::Lost(damage) => Err(damage.into()),
            base => Ok(base),
        };
    }
    Err(Error::io(format_args!("write {name}"), io::Error::other("indexes do not verify again and again")))
}

/// What the base is made of: the one there is, and the indexes of the segments.
fn parts(catalog: &Catalog, dropped: &[Dropped]) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::with_capacity(dropped.len() + 1);
    match catalog.holds.start().base {
        Base::Nothing => {}
        Base::File(base) => parts.push(Part::Base(base)),
        Base::Lost(damage) => return Err(damage.into()),
    }
    for Dropped { segment, .. } in dropped {
        let mut index = catalog.index(segment)?;
        if index.memory().is_some() {
            let hidden = catalog.look(segment, |index| Ok(index.hidden().first().cloned()))?;
            if let Some(hidden) = hidden {
                return Err(hidden.cause.into());
            }
            catalog.keep_index(segment);
            index = catalog.index(segment)?;
        }
        if index.memory().is_some() {
            let doing = format!("write {}", index_name(segment.header.first));
            return Err(Error::io(doing, io::Error::other("it is needed to drop the segment")));
        }
        parts.push(Part::Segment(index, segment.header.first));
    }
    Ok(parts)
}

/// A part cannot be read: an index is made anew, and a base cannot be.
fn distrust(catalog: &Catalog, parts: &[Part], number: usize, fault: IndexFault) -> Result<(), Error> {
    match (parts.get(number), fault) {
        (Some(Part::Segment(index, first)), IndexFault::Damaged(page)) => {
            if let Some(segment) = catalog.segment_with(*first) {
                tracing::warn!(segment.name, page, "an index does not verify and is made anew");
                segment.distrust_index(index);
            }
            Ok(())
        }
        (Some(Part::Segment(_, first)), IndexFault::Io(e)) => {
            Err(Error::io(format_args!("read {}", index_name(*first)), e))
        }
        (Some(Part::Base(base)), fault) => Err(base_fault(base, fault)),
        (Some(Part::Listed(_)) | None, _) => Err(Error::invalid("a part of a base that there is not")),
    }
}

/// The files of the log folder that tell of what is before the log's start, in the order in which they are removed.
fn leftovers(catalog: &Catalog) -> io::Result<Vec<String>> {
    let (start, (first_number, _)) = (catalog.log_start(), catalog.numbers());
    let names = catalog.storage.list(LOG_FOLDER)?;
    let positions = |suffix: &'static str| names.iter().filter_map(move |name| position_in(name, suffix));
    let below = |suffix| {
        let mut below: Vec<Position> = positions(suffix).filter(|first| *first < start).collect();
        below.sort_unstable();
        below
    };
    let mut files: Vec<String> =
        below(".seg").into_iter().flat_map(|first| [segment_name(first), index_name(first)]).collect();
    files.extend(below(".idx").into_iter().map(index_name));
    let is_below = |name: &&String| {
        directory_span(name).is_some_and(|(start, segments)| start.saturating_add(segments) <= first_number)
    };
    files.extend(names.iter().filter(is_below).map(|name| format!("{LOG_FOLDER}/{name}")));
    // Other bases may help those who have lost the one that counts.
    if !matches!(catalog.holds.start().base, Base::Lost(_)) {
        files.extend(positions(".base").filter(|other| *other != start).map(base_name));
    }
    files.extend(
        names.iter().filter(|name| name.ends_with(".base.tmp")).map(|name| format!("{LOG_FOLDER}/{name}")),
    );
    Ok(files)
}

/// Finishes what a crash or a failure has cut short. For an opening, before anybody appends.
pub(super) fn finish(catalog: &Catalog, writer: &mut Writer) -> Result<(), Error> {
    let left = leftovers(catalog).map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?;
    if !left.is_empty() {
        // What was read of the mark may not be on the disk, if its sync failed.
        writer.move_log_start(catalog.log_start())?;
        remove_leftovers(catalog);
    }
    Ok(())
}

/// Removes what is before the log's start. Nothing depends on it: what is left is passed over, and removed later.
fn remove_leftovers(catalog: &Catalog) {
    let remove = || -> io::Result<()> {
        let left = leftovers(catalog)?;
        for name in &left {
            match catalog.storage.remove(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if left.is_empty() { Ok(()) } else { catalog.storage.sync_folder(LOG_FOLDER) }
    };
    if let Err(error) = remove() {
        tracing::warn!(%error, "could not remove all that retention has dropped; it will be tried again");
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::batch::Batch;
    use crate::event::Event;
    use crate::log::Log;
    use crate::log::cursor::Cursor;
    use crate::options::{MIN_SEGMENT_BYTES, Options};
    use crate::storage::memory::MemoryStorage;

    /// A log with a segment for each time, in hours before or after now.
    fn log(hours: &[i64]) -> (Log, u64) {
        let options = Options::new().segment_size(MIN_SEGMENT_BYTES);
        let log = Log::open(Arc::new(MemoryStorage::new()), &options).unwrap();
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        for hours in hours {
            let at = u64::try_from(now + hours * 3600).unwrap() * 1_000_000_000;
            let batch = Batch::new().event("s", Event::raw("t", vec![1; 3000]));
            log.append_copy(&batch, at).unwrap();
        }
        let (first, active) = log.catalog.numbers();
        (log, active - first)
    }

    #[test]
    fn a_clock_that_went_back_never_lets_age_drop_a_segment_behind_one_that_is_kept() {
        let old = Retention::new().older_than(Duration::from_secs(3600));
        for (hours, dropped) in [
            (&[-9, -8, -7, 0, 0, 0][..], 3),
            (&[-9, 5, -8, -7, 0, 0], 1),
            (&[5, -9, -8, -7, 0, 0], 0),
            (&[-7, -8, -9, -7, 0, 0], 4),
        ] {
            let (log, sealed) = log(hours);
            assert_eq!(sealed, 5, "one event fits in a segment");
            assert_eq!(log.retain(&old, &[]).unwrap().segments, dropped, "{hours:?}");
            let left = Cursor::forward(log.catalog.clone(), log.catalog.log_start().previous());
            let left: Vec<u64> = left.map(|event| event.unwrap().position().get()).collect();
            assert_eq!(
                left,
                (u64::try_from(dropped).unwrap() + 1..=6).collect::<Vec<_>>(),
                "in the order of positions"
            );
            log.close().unwrap();
        }
    }
}
