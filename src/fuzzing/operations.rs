//! A store in memory and a plain list: what the input says is done to both.

use std::time::Duration;

use uuid::Uuid;

use super::edits::Input;
use crate::batch::{Batch, Durability};
use crate::error::AppendError;
use crate::event::{Event, Position, RecordedEvent, Version};
use crate::guard::{Expected, Guard};
use crate::log::layout::{disk_len, memory_len};
use crate::options::{MIN_SEGMENT_BYTES, Options};
use crate::query::Query;
use crate::retention::Retention;
use crate::storage::memory::MemoryStorage;
use crate::store::Store;

/// The most operations that one input asks for.
const MOST: usize = 80;

const STREAMS: [&str; 3] = ["cart-0", "cart-1", "cart-2"];
const TAGS: [&str; 3] = ["red", "green", "blue"];

/// An event of the list; its position is its place there.
#[derive(Clone, Debug)]
struct Listed {
    stream: &'static str,
    tag: &'static str,
    id: Uuid,
    payload: Vec<u8>,
}

struct Twin {
    storage: MemoryStorage,
    store: Store,
    list: Vec<Listed>,
    /// Where each batch ends in the list.
    ends: Vec<usize>,
    /// How many events of the list are acknowledged as durable.
    durable: usize,
    made: u128,
}

pub(super) fn operations(input: &[u8]) {
    let mut input = Input::new(input);
    let storage = MemoryStorage::new();
    let Some(store) = open(&storage) else { return };
    let mut twin = Twin { storage, store, list: Vec::new(), ends: Vec::new(), durable: 0, made: 0 };
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        twin.act(&mut input);
    }
    twin.sync();
    twin.reopen(0);
    twin.read(0, usize::MAX);
}

fn open(storage: &MemoryStorage) -> Option<Store> {
    let never = Duration::from_secs(1 << 20);
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES).sync_after(never);
    let store = options.open_memory(storage);
    assert!(store.is_ok(), "a store opens: {store:?}");
    store.ok()
}

fn choice<T: Copy + Default>(of: &[T], input: &mut Input<'_>) -> T {
    of.get(usize::from(input.byte()) % of.len().max(1)).copied().unwrap_or_default()
}

impl Twin {
    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=6 => self.append(input),
            7 => self.sync(),
            8 => {
                let seed = [0, u64::MAX, input.number()];
                self.crash(choice(&seed, input), input.byte());
            }
            9 => self.reopen(input.byte()),
            10 => self.retain(input.byte()),
            11 => self.read(input.below(self.list.len() + 2), input.byte().into()),
            12 => self.read_stream(choice(&STREAMS, input), input.byte()),
            13 => self.query(choice(&TAGS, input), input.below(self.list.len() + 2)),
            14 => self.resubmit(input.byte()),
            _ => self.append_large(input),
        }
    }

    fn version(&self, stream: &str) -> u64 {
        disk_len(self.list.iter().filter(|listed| listed.stream == stream).count())
    }

    fn left(&self) -> usize {
        memory_len(self.store.log_start().get())
    }

    fn visible(&self) -> usize {
        let visible = memory_len(self.store.watermark().get());
        assert!((self.durable..=self.list.len()).contains(&visible), "what is durable can be read");
        visible
    }

    fn make(&mut self, input: &mut Input<'_>, count: usize, size: usize) -> Vec<Listed> {
        (0..count)
            .map(|_| {
                self.made += 1;
                let (stream, tag) = (choice(&STREAMS, input), choice(&TAGS, input));
                Listed { stream, tag, id: Uuid::from_u128(self.made), payload: vec![input.byte(); size] }
            })
            .collect()
    }

    fn append(&mut self, input: &mut Input<'_>) {
        let (count, size) = (usize::from(input.byte() % 4) + 1, input.short() % 700);
        let events = self.make(input, count, size);
        let stream = choice(&STREAMS, input);
        let version = self.version(stream);
        let (expected, holds) = match input.byte() % 6 {
            0 => (Expected::NoStream, version == 0),
            1 => (Expected::Exact(Version::new(version)), true),
            2 => (Expected::Exact(Version::new(version + 1)), false),
            _ => (Expected::Any, true),
        };
        let mut batch = batch(&events).guard(Guard::version(stream, expected));
        let mut guarded = true;
        if input.byte().is_multiple_of(4) {
            let (tag, after) = (choice(&TAGS, input), input.below(self.list.len() + 1));
            let after = after.max(self.left().saturating_sub(1));
            guarded = !self.list.iter().skip(after).any(|listed| listed.tag == tag);
            batch = batch.guard(Guard::no_event(Query::all().tags([tag]), Position::new(disk_len(after))));
        }
        let durability = match input.byte() % 3 {
            0 => Durability::Deferred,
            1 => Durability::Written,
            _ => Durability::Durable,
        };
        self.take(events, batch.durability(durability), holds && guarded, durability);
    }

    /// One that makes a roll likely.
    fn append_large(&mut self, input: &mut Input<'_>) {
        let size = 2000 + input.short() % 1800;
        let events = self.make(input, 1, size);
        let batch = batch(&events).durability(Durability::Deferred);
        self.take(events, batch, true, Durability::Deferred);
    }

    fn take(&mut self, events: Vec<Listed>, batch: Batch, holds: bool, durability: Durability) {
        let first = self.list.len() + 1;
        match self.store.append_batch(batch) {
            Ok(done) => {
                assert!(holds && !done.repeated, "a guard that does not hold was passed over");
                self.list.extend(events);
                self.ends.push(self.list.len());
                let ends = (memory_len(done.first.get()), memory_len(done.position.get()));
                assert_eq!(ends, (first, self.list.len()));
                let last = self.list.last().map_or(0, |last| self.version(last.stream));
                assert_eq!(done.version, Version::new(last));
                if durability == Durability::Durable {
                    self.durable = self.list.len();
                }
            }
            Err(error) => {
                let conflict = matches!(error, AppendError::Conflict(_));
                assert!(conflict && !holds, "an append failed: {error}");
            }
        }
    }

    fn sync(&mut self) {
        let synced = self.store.sync();
        assert!(synced.is_ok_and(|last| memory_len(last.get()) == self.list.len()));
        self.durable = self.list.len();
    }

    fn crash(&mut self, seed: u64, harm: u8) {
        let at_least = self.visible();
        self.storage = self.storage.crash(seed);
        self.open_again(harm);
        let kept = memory_len(self.store.watermark().get());
        assert!(kept >= at_least && kept <= self.list.len(), "{kept} of {at_least}");
        assert!(kept == 0 || self.ends.contains(&kept), "a batch is there in part");
        self.list.truncate(kept);
        self.ends.retain(|end| *end <= kept);
        self.durable = kept;
        self.read(0, usize::MAX);
    }

    fn reopen(&mut self, harm: u8) {
        let closed = self.store.close();
        assert!(closed.is_ok(), "{closed:?}");
        self.durable = self.list.len();
        self.open_again(harm);
        assert_eq!(self.visible(), self.list.len());
    }

    fn open_again(&mut self, harm: u8) {
        let indexes = |name: &String| name.ends_with(".idx") || name.ends_with(".keys");
        for (n, name) in (0u32..).zip(self.storage.files().into_iter().filter(indexes)) {
            if harm.rotate_right(n) & 1 == 1 {
                let deleted = self.storage.delete(&name);
                assert!(deleted.is_ok(), "{name}");
            }
        }
        if let Some(store) = open(&self.storage) {
            self.store = store;
        }
    }

    fn retain(&mut self, part: u8) {
        let (left, before) = (self.left(), self.visible() * usize::from(part) / 256);
        let retained = self.store.retain(&Retention::new().before(Position::new(disk_len(before))));
        assert!(retained.is_ok(), "{retained:?}");
        assert!((left..=before.max(left)).contains(&self.left()), "no more is dropped than was asked for");
    }

    /// Events of the list that can be read, with their positions.
    fn readable(&self) -> impl DoubleEndedIterator<Item = (usize, &Listed)> {
        let (left, visible) = (self.left(), self.visible());
        let all: Vec<_> = self.list.iter().enumerate().map(|(at, listed)| (at + 1, listed)).collect();
        all.into_iter().filter(move |(position, _)| (left..=visible).contains(position))
    }

    fn compare<'a>(
        cursor: impl Iterator<Item = Result<RecordedEvent, crate::error::Error>>,
        list: impl Iterator<Item = (usize, &'a Listed)>,
    ) {
        let mut list = list;
        for event in cursor {
            let (event, listed) = (event, list.next());
            let same = event.as_ref().is_ok_and(|event| listed.is_some_and(|listed| is_it(event, listed)));
            assert!(same, "{event:?} is not {listed:?}");
        }
        let more = list.next();
        assert!(more.is_none(), "{more:?} was not read");
    }

    fn read(&self, after: usize, limit: usize) {
        let after = after.max(self.left().saturating_sub(1));
        let from = Position::new(disk_len(after));
        let list = self.readable().filter(|(position, _)| *position > after).take(limit);
        Self::compare(self.store.read(from).limit(disk_len(limit)), list);
        // Not one further: what was dropped is an error.
        let list: Vec<_> = self.readable().rev().filter(|(position, _)| *position < after).collect();
        Self::compare(self.store.read_backward(from).limit(disk_len(list.len())), list.into_iter());
    }

    fn read_stream(&self, stream: &str, after: u8) {
        let left = self.left();
        let dropped = self.list.iter().take(left - 1).filter(|listed| listed.stream == stream).count();
        let after = usize::from(after % 16).max(dropped);
        let list = self.readable().filter(|(_, listed)| listed.stream == stream).skip(after - dropped);
        Self::compare(self.store.read_stream(stream, Version::new(disk_len(after))), list);
    }

    fn query(&self, tag: &str, after: usize) {
        let after = after.max(self.left().saturating_sub(1));
        let list = self.readable().filter(|(position, listed)| *position > after && listed.tag == tag);
        let query = Query::all().tags([tag]);
        Self::compare(self.store.read_query(&query, Position::new(disk_len(after))), list);
    }

    /// The same ids again give the first positions.
    fn resubmit(&mut self, which: u8) {
        let Some(end) = self.ends.get(usize::from(which) % self.ends.len().max(1)).copied() else { return };
        let start = self.ends.iter().rfind(|other| **other < end).copied().unwrap_or_default();
        if start + 1 < self.left() {
            return;
        }
        let events = self.list.get(start..end).unwrap_or_default();
        let again = self.store.append_batch(batch(events));
        assert!(again.is_ok_and(|done| done.repeated && memory_len(done.first.get()) == start + 1));
        self.durable = self.list.len();
    }
}

fn is_it(event: &RecordedEvent, (position, listed): (usize, &Listed)) -> bool {
    memory_len(event.position().get()) == position
        && (event.stream(), event.event_id()) == (listed.stream, listed.id)
        && event.payload() == listed.payload
        && event.tags().eq([listed.tag])
}

fn batch(events: &[Listed]) -> Batch {
    events.iter().fold(Batch::new(), |batch, listed| {
        batch.event(listed.stream, Event::raw("sold", listed.payload.clone()).tag(listed.tag).id(listed.id))
    })
}
