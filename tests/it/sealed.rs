//! Sealed segments: many of them, and damage in them.

use std::fs;
use std::path::{Path, PathBuf};

use everfold::{
    Cursor, Durability, Event, Expected, MIN_SEGMENT_BYTES, MemoryStorage, Options, Position, Version,
};

use crate::ask::Ask;
use crate::ledger::{Fact, Ledger, small};

const EVENTS: u64 = 200;

/// A closed store of small segments; its first segment's file.
fn filled(dir: &Path) -> PathBuf {
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir).unwrap();
    for n in 0..EVENTS {
        let stream = if n < 5 { "early" } else { "s" };
        store.append(stream, Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
    store.close().unwrap();
    dir.join("log/00000000000000000001.seg")
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn events_after_a_damaged_frame_header_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(dir.path());
    // In the header of the second frame of 128 bytes.
    flip(&file, 4096 + 128 + 16);
    let store = Options::new().verify_on_open(true).open(dir.path()).unwrap();
    assert_eq!(store.recovery().damage.len(), 1);
    assert!(store.read(Position::new(1)).next().unwrap().is_err());
    let left: Vec<_> = store.read(Position::new(2)).map(|event| event.unwrap().position().get()).collect();
    assert_eq!(left, (3..=EVENTS).collect::<Vec<_>>());
}

#[test]
fn bytes_after_the_seal_of_a_segment_hide_no_event_and_stop_no_append() {
    let dir = tempfile::tempdir().unwrap();
    let file = filled(dir.path());
    flip(&file, 8191);
    let store = Options::new().verify_on_open(true).open(dir.path()).unwrap();
    assert_eq!(store.recovery().damage.len(), 1);
    store.append("early", Version::new(5), [Event::raw("t", "")]).unwrap();
    store.append("new", Expected::NoStream, [Event::raw("t", "")]).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_sealed_segment_keeps_no_file_open() {
    let of_store = |dir: &Path| {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter(|file| file.starts_with(dir))
            .count()
    };
    let dir = tempfile::tempdir().unwrap();
    for map in [true, false] {
        let store =
            Options::new().segment_size(MIN_SEGMENT_BYTES).map_segments(map).open(dir.path()).unwrap();
        for n in 0..EVENTS {
            store.append("s", Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
        }
        assert!(store.read(Position::START).all(|event| event.is_ok()));
        assert!(of_store(dir.path()) < 8, "{}", of_store(dir.path()));
    }
}

/// What a cursor gives is what there is, in order, up to its end or to an error.
fn whole_or_told(cursor: Cursor, expected: &[Fact], what: &str) -> bool {
    let mut rest = expected.iter();
    for event in cursor {
        match event {
            Ok(event) => assert_eq!(Some(&Fact::from(&event)), rest.next(), "{what}"),
            Err(error) => {
                assert!(error.corruption().is_some(), "{what}: {error}");
                return false;
            }
        }
    }
    assert_eq!(rest.next(), None, "{what}: it ends without a word");
    true
}

#[test]
fn events_that_damage_hides_are_never_passed_over_without_a_word() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    let mut ledger = Ledger::default();
    for _ in 0..24 {
        let batch = ledger.make(&[500, 500]);
        ledger.append(&store, batch, Durability::Durable).unwrap();
    }
    store.close().unwrap();
    let facts = ledger.facts();
    let mut told = 0;
    for hidden in [1, 8, 12, 13, 23, 30] {
        let copy = storage.crash(u64::MAX);
        let lost = &facts[hidden];
        let text = &lost.payload[..lost.payload.len().min(30)];
        let hit = copy.files().into_iter().filter(|name| name.ends_with(".seg")).find_map(|name| {
            let bytes = copy.file(&name).unwrap();
            bytes.windows(text.len()).position(|window| window == text).map(|at| (name, at))
        });
        let (name, at) = hit.unwrap();
        copy.flip_bit(&name, u64::try_from(at).unwrap(), 0).unwrap();
        copy.delete(&name.replace(".seg", ".idx")).unwrap();
        let store = small().open_memory(&copy).unwrap();
        for n in 0..4u64 {
            let stream = format!("stream-{n}");
            let own: Vec<Fact> = facts.iter().filter(|fact| fact.stream == stream).cloned().collect();
            for version in 0..=own.len() + 2 {
                let bound = Version::new(u64::try_from(version).unwrap());
                let what = format!("{stream} and {version}, without {}", lost.position);
                let after = own.get(version..).unwrap_or_default();
                told += usize::from(!whole_or_told(store.read_stream(&stream, bound), after, &what));
                let before: Vec<Fact> = own.iter().take(version.saturating_sub(1)).rev().cloned().collect();
                told +=
                    usize::from(!whole_or_told(store.read_stream_backward(&stream, bound), &before, &what));
            }
        }
        for seed in 0..60 {
            let (ask, what) = (Ask::number(seed), format!("query {seed}, without {}", lost.position));
            let mut all = ask.of(&facts);
            told += usize::from(!whole_or_told(store.read_query(&ask.query(), Position::START), &all, &what));
            all.reverse();
            let down = store.read_query_backward(&ask.query(), Position::END);
            told += usize::from(!whole_or_told(down, &all, &what));
        }
        for batch in ledger.batches.iter().filter(|batch| !batch.contains(lost)) {
            let again = batch
                .iter()
                .fold(everfold::Batch::new(), |again, fact| again.event(&fact.stream, fact.event()));
            let done = store.append_batch(again).unwrap();
            assert!(done.repeated, "without {}", lost.position);
            assert_eq!(done.version.get(), batch[batch.len() - 1].version, "without {}", lost.position);
        }
    }
    assert!(told > 100, "{told}");
}

/// A closed store with an event of stream `hidden` in its first segment, and that event damaged.
fn with_a_hidden_event() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    store.append("hidden", Expected::NoStream, [Event::raw("t", vec![b'h'; 300])]).unwrap();
    for _ in 0..5 {
        store.append("seen", Expected::Any, [Event::raw("t", vec![b's'; 1500])]).unwrap();
    }
    store.close().unwrap();
    storage.flip_bit("log/00000000000000000001.seg", 4096 + 200, 0).unwrap();
    storage
}

#[test]
fn an_index_tells_the_version_of_a_stream_whose_events_are_damaged() {
    let store = small().open_memory(&with_a_hidden_event()).unwrap();
    assert!(store.read_stream("hidden", Version::NONE).next().unwrap().is_err());
    let done = store.append("hidden", Version::new(1), [Event::raw("t", "more")]).unwrap();
    assert_eq!((done.position.get(), done.version.get()), (7, 2));
}

#[test]
fn an_append_to_a_stream_whose_version_the_damage_hides_is_refused() {
    let storage = with_a_hidden_event();
    storage.delete("log/00000000000000000001.idx").unwrap();
    let store = small().open_memory(&storage).unwrap();
    for expected in [Expected::Any, Expected::NoStream, Expected::Exists, Version::new(1).into()] {
        let refused = store.append("hidden", expected, [Event::raw("t", "more")]).unwrap_err();
        assert!(refused.conflict().is_none() && refused.to_string().contains("seg"), "{refused}");
    }
    let done = store.append("seen", Version::new(5), [Event::raw("t", "more")]).unwrap();
    assert_eq!((done.position.get(), done.version.get()), (7, 6));
    assert!(
        storage.file("log/00000000000000000001.idx").is_none(),
        "no index is kept of what cannot be read"
    );
}
