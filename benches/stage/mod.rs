//! What all benchmarks measure with: events of 256 bytes, and stores filled with them.

mod sized;

use std::ops::Range;

use everfold::{Batch, Durability, Event, Store};

pub(crate) use sized::sized;

/// So many streams, and so many tags, take turns.
pub(crate) const STREAMS: u64 = 100;

/// The event with this number: one of [`STREAMS`] streams, a tag, a payload of 256 bytes.
pub(crate) fn event(n: u64) -> (String, Event) {
    let event = Event::raw("measured", [7; 256]).tag(format!("account:{}", n % STREAMS));
    (format!("stream-{}", n % STREAMS), event)
}

/// The events with these numbers.
pub(crate) fn batch(numbers: Range<u64>, durability: Durability) -> Batch {
    numbers
        .map(event)
        .fold(Batch::new().durability(durability), |batch, (stream, event)| batch.event(stream, event))
}

/// Appends events of [`event`], in batches that fit into the smallest segments used here.
pub(crate) fn fill(store: &Store, mut numbers: Range<u64>) {
    while !numbers.is_empty() {
        let end = numbers.end.min(numbers.start + 50);
        store.append_batch(batch(numbers.start..end, Durability::Deferred)).unwrap();
        numbers.start = end;
    }
    store.sync().unwrap();
}
