//! What the process under test appends and projects, so that whoever checks can tell each byte of it.

use std::collections::BTreeMap;
use std::time::Duration;

use everfold::{ApplyError, Batch, Durability, Error, Event, Options, Projection, RecordedEvent, ViewBatch};

/// A batch of one thread in one life of the process: all that is in it follows from these three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Did {
    pub(crate) life: u32,
    pub(crate) thread: u32,
    pub(crate) n: u64,
}

/// What an event says: its batch, and its number in there.
type Payload = (u32, u32, u64, u64);

/// The batch and the number in it that an event says it has.
pub(crate) fn said(event: &RecordedEvent) -> Result<(Did, u64), Error> {
    let (life, thread, n, i): Payload = event.decode()?;
    Ok((Did { life, thread, n }, i))
}

impl Did {
    /// How many events the batch has.
    pub(crate) fn len(self) -> u64 {
        1 + (self.n + u64::from(self.thread)) % 4
    }

    /// Whether hardly anything is synced in this life.
    pub(crate) fn is_lazy(self) -> bool {
        self.life % 3 == 2
    }

    pub(crate) fn durability(self) -> Durability {
        match self.n % 8 {
            _ if self.is_lazy() && self.n % 64 == 1 => Durability::Durable,
            n if self.is_lazy() => [Durability::Written, Durability::Deferred][usize::from(n > 5)],
            3 | 6 => Durability::Deferred,
            4 | 7 => Durability::Written,
            _ => Durability::Durable,
        }
    }

    pub(crate) fn stream(self, i: u64) -> String {
        if i == 0 { format!("stream-{}", self.n % 5) } else { format!("own-{}", self.thread) }
    }

    pub(crate) fn tags(self) -> [String; 2] {
        [format!("tag-{}", self.n % 3), format!("thread-{}", self.thread)]
    }

    /// Mostly less than a sector, now and then more than a block of the disk.
    fn metadata(self, i: u64) -> Vec<u8> {
        let len = if self.n % 16 == 5 && i == 0 { 5000 } else { 20 + self.n * 37 % 400 };
        let seed = u64::from(self.life) + 3 * u64::from(self.thread) + 5 * self.n + 7 * i;
        (0..len).map(|at| (seed + at).to_le_bytes()[0]).collect()
    }

    pub(crate) fn batch(self) -> Result<Batch, Error> {
        (0..self.len()).try_fold(Batch::new().durability(self.durability()), |batch, i| {
            let event = Event::json("did", &(self.life, self.thread, self.n, i))?.metadata(self.metadata(i));
            Ok(batch.event(self.stream(i), self.tags().into_iter().fold(event, Event::tag)))
        })
    }

    /// Whether all of a recorded event is what was appended.
    pub(crate) fn is(self, i: u64, event: &RecordedEvent) -> bool {
        event.stream() == self.stream(i)
            && event.event_type() == "did"
            && event.tags().eq(self.tags())
            && event.metadata() == Some(self.metadata(i).as_slice())
    }
}

/// Small segments, so that they are rolled often; what nobody synced is synced soon.
pub(crate) fn options() -> Options {
    Options::new().segment_size(32 << 10).view_cache_bytes(1 << 20).sync_after(Duration::from_millis(1))
}

/// How many events each stream has.
#[derive(Debug)]
pub(crate) struct CountByStream;

impl Projection for CountByStream {
    const NAME: &'static str = "count-by-stream";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        view.update(event.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    }
}

/// The sum of the numbers of all events with a tag.
#[derive(Debug)]
pub(crate) struct SumByTag;

impl Projection for SumByTag {
    const NAME: &'static str = "sum-by-tag";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        let (did, _) = said(event)?;
        event.tags().try_for_each(|tag| view.update(tag.to_owned(), |sum| Some(sum.unwrap_or(0) + did.n)))
    }
}

/// What both views hold after these events.
pub(crate) fn fold(events: impl IntoIterator<Item = (Did, u64)>) -> [BTreeMap<String, u64>; 2] {
    let [mut counts, mut sums] = [BTreeMap::new(), BTreeMap::new()];
    for (did, i) in events {
        *counts.entry(did.stream(i)).or_insert(0) += 1;
        did.tags().into_iter().for_each(|tag| *sums.entry(tag).or_insert(0) += did.n);
    }
    [counts, sums]
}
