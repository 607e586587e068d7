//! Whether streams and tags lead to the same events that the log has: indexes may be lost, never wrong.

use std::collections::BTreeMap;

use everfold::{Position, Query, RecordedEvent, Store, Version};

use crate::workload::Did;

/// Checks reads by stream and by tag against all events there ever were; the log begins at `log_start`.
pub(crate) fn check(store: &Store, events: &[(Did, u64)], log_start: u64) -> Result<(), String> {
    let [mut streams, mut tags] = [BTreeMap::<String, Vec<u64>>::new(), BTreeMap::new()];
    for ((did, i), position) in events.iter().zip(1..) {
        streams.entry(did.stream(*i)).or_default().push(position);
        did.tags().into_iter().for_each(|tag| tags.entry(tag).or_default().push(position));
    }
    for (stream, positions) in streams {
        let dropped = positions.partition_point(|position| *position < log_start);
        let expected: Vec<_> = positions.into_iter().zip(1..).skip(dropped).collect();
        let found = store.read_stream(&stream, Version::new(dropped as u64));
        let found = collect(found, |event| (event.position().get(), event.version().get()))
            .map_err(|e| format!("stream {stream}: {e}"))?;
        if found != expected {
            return Err(format!("stream {stream} has (position, version) {found:?} for {expected:?}"));
        }
    }
    for (tag, mut expected) in tags {
        expected.retain(|position| *position >= log_start);
        let query = Query::all().tags([&tag]);
        let found = store.read_query(&query, Position::new(log_start - 1));
        let found = collect(found, |event| event.position().get()).map_err(|e| format!("tag {tag}: {e}"))?;
        if found != expected {
            return Err(format!("tag {tag} has positions {found:?} for {expected:?}"));
        }
    }
    Ok(())
}

fn collect<T>(
    events: impl Iterator<Item = Result<RecordedEvent, everfold::Error>>,
    what: impl Fn(&RecordedEvent) -> T,
) -> Result<Vec<T>, String> {
    events
        .map(|event| event.map(|event| what(&event)))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{e:?}"))
}
