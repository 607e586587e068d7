//! Files of indexes: with, without, damaged and foreign, closed and open, what a store answers is the same.

use std::fs;
use std::io;
use std::path::Path;

use everfold::{
    AppendError, Durability, ErrorKind, Event, Expected, Fault, MIN_SEGMENT_BYTES, MemoryStorage, Options,
    Position, Query, Store, Version,
};

use crate::ask::{Ask, read};
use crate::ledger::{Fact, Ledger, facts, small};

/// A closed store of so many batches, which are about half as many segments, and its events.
fn filled(batches: usize) -> (MemoryStorage, Ledger) {
    let storage = MemoryStorage::new();
    let ledger = fill(&small().open_memory(&storage).unwrap(), batches);
    (storage, ledger)
}

fn fill(store: &Store, batches: usize) -> Ledger {
    let mut ledger = Ledger::default();
    add(store, &mut ledger, batches);
    store.close().unwrap();
    ledger
}

fn add(store: &Store, ledger: &mut Ledger, batches: usize) {
    for n in 0..batches {
        let batch = ledger.make(&[900 + n % 5, 300]);
        ledger.append(store, batch, Durability::Deferred).unwrap();
    }
}

fn is_index(name: &str) -> bool {
    name.ends_with(".idx") || name.ends_with(".keys")
}

fn index_files(storage: &MemoryStorage) -> Vec<String> {
    storage.files().into_iter().filter(|name| is_index(name)).collect()
}

/// Asks a store for everything that indexes are asked for, and holds it against the plain list.
fn ask_all(store: &Store, facts: &[Fact], step: usize) {
    for seed in (0..120).step_by(step) {
        let ask = Ask::number(seed);
        ask.check_all(store, facts);
        ask.check(store, facts, u64::from(seed) * 7, 3);
    }
    for stream in (0..4).map(|n| format!("stream-{n}")) {
        let own = || facts.iter().filter(|fact| fact.stream == stream);
        assert!(read(store.read_stream(&stream, Version::NONE)).iter().eq(own()));
        assert!(read(store.read_stream_backward(&stream, Version::END)).iter().eq(own().rev()));
        for version in [1, 2, 9, 30] {
            let up = read(store.read_stream(&stream, Version::new(version)).limit(3));
            assert!(up.iter().eq(own().filter(|fact| fact.version > version).take(3)), "{stream} {version}");
            let down = read(store.read_stream_backward(&stream, Version::new(version)).limit(3));
            assert!(down.iter().eq(own().rev().filter(|fact| fact.version < version).take(3)));
        }
    }
    for fact in facts.iter().step_by(step * 5) {
        let got = store.read(Position::new(fact.position - 1)).next().unwrap().unwrap();
        assert_eq!(Fact::from(&got), *fact);
    }
}

/// What a writer asks: versions, ids of sealed segments, guards.
fn write_all(store: &Store, ledger: &mut Ledger) {
    for n in [0, ledger.batches.len() / 2, ledger.batches.len() - 1] {
        let batch = &ledger.batches[n];
        let again =
            batch.iter().fold(everfold::Batch::new(), |again, fact| again.event(&fact.stream, fact.event()));
        let done = store.append_batch(again).unwrap();
        assert!(done.repeated);
        assert_eq!(
            (done.first.get(), done.version.get()),
            (batch[0].position, batch[batch.len() - 1].version)
        );
    }
    let batch = ledger.make(&[10, 20, 30]);
    ledger.append(store, batch, Durability::Durable).unwrap();
}

/// Which index files are lost, and how many of the questions are left out.
type Loss = (&'static str, fn(&str) -> bool, usize);

#[test]
fn hundreds_of_segments_answer_the_same_with_and_without_their_index_files() {
    let (storage, mut ledger) = filled(560);
    let names = storage.files();
    assert!(names.iter().any(|name| name.ends_with("-256.keys")), "{names:?}");
    let before = ledger.facts();
    let without = |lost: fn(&str) -> bool| {
        let copy = storage.crash(u64::MAX);
        index_files(&copy).iter().filter(|name| lost(name)).for_each(|name| copy.delete(name).unwrap());
        copy
    };
    let losses: [Loss; 4] = [
        ("all there", |_| false, 17),
        ("no directories", |name| name.ends_with(".keys"), 31),
        ("no indexes", |name| name.ends_with(".idx"), 31),
        ("neither", is_index, 17),
    ];
    for (what, lost, step) in losses {
        let options = [("mapped", small()), ("not mapped", small().map_segments(false))];
        for (how, options) in options {
            println!("{what}, {how}");
            let copy = without(lost);
            let reader = options.clone().read_only(true).open_memory(&copy).unwrap();
            ask_all(&reader, &before, step * 6);
            let mut after = ledger.clone();
            let writer = options.open_memory(&copy).unwrap();
            ask_all(&writer, &before, step);
            write_all(&writer, &mut after);
            assert_eq!(facts(&writer), after.facts());
        }
    }
    write_all(&small().open_memory(&storage).unwrap(), &mut ledger);
}

#[test]
fn index_files_that_were_lost_are_there_again_after_the_next_opening() {
    let (storage, _) = filled(80);
    let names = index_files(&storage);
    let contents = |storage: &MemoryStorage| names.iter().map(|name| storage.file(name)).collect::<Vec<_>>();
    let before = contents(&storage);
    assert!(names.len() > 30);
    names.iter().for_each(|name| storage.delete(name).unwrap());
    small().open_memory(&storage).unwrap().close().unwrap();
    assert_eq!(index_files(&storage), names);
    assert!(contents(&storage) == before, "byte by byte");
}

#[test]
fn what_a_crash_left_of_index_files_is_cleared_away() {
    let (storage, ledger) = filled(80);
    let names = index_files(&storage);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    for name in storage.files() {
        fs::write(dir.path().join(&name), storage.file(&name).unwrap()).unwrap();
    }
    for name in &names {
        fs::write(dir.path().join(format!("{name}.tmp")), b"unfinished").unwrap();
    }
    // Merged already, and not removed.
    let merged = dir.path().join("log/000000000000-4.keys");
    fs::write(&merged, b"old").unwrap();
    let store = small().open(dir.path()).unwrap();
    ask_all(&store, &ledger.facts(), 9);
    let left: Vec<_> =
        fs::read_dir(dir.path().join("log")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    assert!(!merged.exists());
}

#[test]
fn a_flipped_bit_anywhere_in_an_index_file_changes_no_answer() {
    let (storage, ledger) = filled(34);
    let facts = ledger.facts();
    let names = index_files(&storage);
    let (index, directory) =
        (names.iter().find(|n| n.ends_with(".idx")), names.iter().find(|n| n.ends_with(".keys")));
    let mut tried = 0;
    for name in [index.unwrap(), directory.unwrap()] {
        let bytes = storage.file(name).unwrap();
        let interesting: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at] != 0 || at % 512 == 5).collect();
        for (n, at) in interesting.into_iter().enumerate().step_by(17) {
            let copy = storage.crash(u64::MAX);
            let bit = u8::try_from(n % 8).unwrap();
            copy.flip_bit(name, u64::try_from(at).unwrap(), bit).unwrap();
            let options = if n % 2 == 0 { small() } else { small().map_segments(false) };
            let store =
                if n % 4 == 1 { options.read_only(true) } else { options }.open_memory(&copy).unwrap();
            ask_all(&store, &facts, 40);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn index_files_cut_off_or_of_something_else_change_no_answer() {
    let (storage, ledger) = filled(60);
    let facts = ledger.facts();
    let (other, _) = filled(60);
    let names = index_files(&storage);
    let file = |storage: &MemoryStorage, name: &str| storage.file(name).unwrap();
    for map in [true, false] {
        for (n, name) in names.iter().enumerate().step_by(7) {
            let trial = |what: &str, harm: &dyn Fn(&MemoryStorage)| {
                let copy = storage.crash(u64::MAX);
                harm(&copy);
                println!("{name}: {what}, mapped: {map}");
                let options = small().map_segments(map);
                ask_all(&options.clone().read_only(true).open_memory(&copy).unwrap(), &facts, 60);
                let store = options.open_memory(&copy).unwrap();
                ask_all(&store, &facts, 40);
                write_all(&store, &mut ledger.clone());
            };
            let put = |copy: &MemoryStorage, bytes: &[u8]| {
                copy.truncate(name, u64::try_from(bytes.len()).unwrap()).unwrap();
                copy.overwrite(name, 0, bytes).unwrap();
            };
            let whole = file(&storage, name);
            let lens =
                [0, 1, 4095, 4096, whole.len() - 1, whole.len() - 4096, whole.len() + 1, whole.len() + 4096];
            let len = lens[n / 7 % lens.len()];
            trial("cut off", &|copy| copy.truncate(name, u64::try_from(len).unwrap()).unwrap());
            let next = names[(n + 1) % names.len()].clone();
            trial("another's", &|copy| put(copy, &file(&storage, &next)));
            if let Some(bytes) = other.file(name) {
                trial("another store's", &|copy| put(copy, &bytes));
            }
        }
    }
}

/// Of two stores that were one, both go on from there; sizes are the same, and what is in the events is not.
#[test]
fn an_index_of_another_life_of_the_same_segment_is_not_taken_for_its_own() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    store.append("begin", Expected::Any, [Event::raw("t", vec![b'x'; 900])]).unwrap();
    let other = storage.crash(u64::MAX);
    let go_on = |store: &Store, name: &str| {
        for _ in 0..8 {
            let event = Event::raw(format!("type-{name}"), vec![b'x'; 900]).tag(name);
            store.append(&format!("stream-{name}"), Expected::Any, [event]).unwrap();
        }
        store.close().unwrap();
    };
    go_on(&store, "one");
    go_on(&small().open_memory(&other).unwrap(), "two");
    let names = index_files(&storage);
    assert!(!names.is_empty() && names == index_files(&other));
    for name in names {
        other.overwrite(&name, 0, &storage.file(&name).unwrap()).unwrap();
    }
    let store = small().open_memory(&other).unwrap();
    assert_eq!(store.read_stream("stream-two", Version::NONE).count(), 8);
    assert_eq!(store.read_query(&Query::all().tags(["two"]), Position::START).count(), 8);
    assert_eq!(store.read_query(&Query::all().types(["type-one"]), Position::START).count(), 0);
    let done = store.append("stream-two", Version::new(8), [Event::raw("t", "x")]).unwrap();
    assert_eq!(done.position.get(), 10);
}

/// Copies a store in memory into a directory.
fn to_disk(storage: &MemoryStorage, dir: &Path) {
    fs::create_dir(dir.join("log")).unwrap();
    for name in storage.files() {
        fs::write(dir.join(&name), storage.file(&name).unwrap()).unwrap();
    }
}

#[test]
fn index_files_that_go_away_or_are_replaced_while_the_store_is_open_change_no_answer() {
    let (storage, ledger) = filled(80);
    for (map, read_only) in [(true, false), (false, false), (true, true), (false, true)] {
        for harm in ["remove", "replace", "cut off"] {
            // What is mapped must not be cut off: that ends the process, as the option says.
            if map && harm == "cut off" {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            to_disk(&storage, dir.path());
            let options = small().map_segments(map).read_only(read_only);
            let store = options.open(dir.path()).unwrap();
            let facts = ledger.facts();
            ask_all(&store, &facts, 17);
            for name in index_files(&storage) {
                let file = dir.path().join(name);
                match harm {
                    "remove" => fs::remove_file(file).unwrap(),
                    "replace" => {
                        fs::remove_file(&file).unwrap();
                        fs::write(file, vec![7; 9000]).unwrap();
                    }
                    _ => fs::write(file, b"").unwrap(),
                }
            }
            println!("mapped: {map}, read-only: {read_only}, {harm}");
            ask_all(&store, &facts, 17);
            if !read_only {
                let mut after = ledger.clone();
                write_all(&store, &mut after);
                add(&store, &mut after, 12);
                store.sync().unwrap();
                ask_all(&store, &after.facts(), 17);
            }
        }
    }
}

#[test]
fn a_directory_in_place_of_an_index_file_changes_no_answer() {
    let (storage, ledger) = filled(30);
    let dir = tempfile::tempdir().unwrap();
    to_disk(&storage, dir.path());
    for name in index_files(&storage) {
        fs::remove_file(dir.path().join(&name)).unwrap();
        fs::create_dir_all(dir.path().join(&name).join("in the way")).unwrap();
    }
    for read_only in [true, false] {
        for map in [true, false] {
            let store = small().read_only(read_only).map_segments(map).open(dir.path()).unwrap();
            ask_all(&store, &ledger.facts(), 17);
        }
    }
}

#[test]
fn a_read_only_store_answers_while_the_writer_makes_merges_and_removes_index_files() {
    let dir = tempfile::tempdir().unwrap();
    let writer = small().open(dir.path()).unwrap();
    let mut ledger = Ledger::default();
    let mut readers = Vec::new();
    for round in 0..8 {
        add(&writer, &mut ledger, 14);
        writer.sync().unwrap();
        let reader = small().read_only(true).map_segments(round % 2 == 0).open(dir.path()).unwrap();
        readers.push((reader, ledger.facts()));
        for (reader, facts) in &readers {
            ask_all(reader, facts, 50);
        }
    }
}

#[test]
fn appends_and_answers_go_on_where_no_index_can_be_written() {
    let (storage, mut ledger) = filled(10);
    let mut store = small().open_memory(&storage).unwrap();
    // An index is the first file made after a roll, and the disk is full then, again and again.
    for n in 0..60 {
        let batch = ledger.make(&[1800]);
        storage.clear_faults();
        storage.fail_at(storage.operations() + 11 + n % 5, Fault::once(io::ErrorKind::StorageFull));
        match ledger.append(&store, batch.clone(), Durability::Durable) {
            Ok(()) => {}
            // It was the mark that had no room, after the roll: nothing of the batch was written.
            Err(ErrorKind::DiskFull) => ledger.append(&store, batch, Durability::Durable).unwrap(),
            // It was the mark's sync.
            Err(kind) => {
                assert_eq!(kind, ErrorKind::Poisoned);
                assert!(store.close().is_err());
                store = small().open_memory(&storage).unwrap();
                ledger.append(&store, batch, Durability::Durable).unwrap();
            }
        }
    }
    storage.clear_faults();
    ask_all(&store, &ledger.facts(), 9);
    write_all(&store, &mut ledger);
    store.close().unwrap();
    let store = small().open_memory(&storage).unwrap();
    ask_all(&store, &ledger.facts(), 9);
    let segments = storage.files().iter().filter(|name| name.ends_with(".seg")).count();
    let indexes = storage.files().iter().filter(|name| name.ends_with(".idx")).count();
    assert_eq!(indexes + 1, segments, "those that were missing are written at the next opening");
    assert!(!storage.files().iter().any(|name| name.ends_with(".tmp")), "{:?}", storage.files());
}

#[cfg(unix)]
#[test]
fn appends_and_answers_go_on_where_index_files_have_no_room_on_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let mut ledger = Ledger::default();
    // A folder stands where the index of each segment would be.
    for first in 1..200u64 {
        let name = format!("log/{first:020}.idx");
        fs::create_dir_all(dir.path().join(name).join("in the way")).unwrap();
    }
    add(&store, &mut ledger, 60);
    store.sync().unwrap();
    ask_all(&store, &ledger.facts(), 9);
    write_all(&store, &mut ledger);
}

#[test]
fn a_segment_is_sealed_early_when_its_index_takes_too_much_memory() {
    let rolls = |bytes: usize| {
        let storage = MemoryStorage::new();
        let options = Options::new().segment_size(1 << 20).max_index_bytes(bytes);
        let store = options.open_memory(&storage).unwrap();
        for n in 0..300 {
            let event = Event::raw("t", "x").tag(format!("tag {n}"));
            store.append(&format!("stream {n}"), Expected::NoStream, [event]).unwrap();
        }
        assert_eq!(store.read_query(&Query::all().types(["t"]), Position::START).count(), 300);
        assert!(matches!(
            store.append("stream 0", Expected::NoStream, [Event::raw("t", "x")]),
            Err(AppendError::Conflict(_))
        ));
        store.close().unwrap();
        storage.files().iter().filter(|name| name.ends_with(".seg")).count()
    };
    assert_eq!(rolls(1 << 20), 1);
    assert!((3..60).contains(&rolls(16 << 10)), "{}", rolls(16 << 10));
}

#[test]
fn no_memory_for_the_index_at_all_gives_each_batch_a_segment_and_loses_nothing() {
    for bytes in [0, 1] {
        let storage = MemoryStorage::new();
        let options = small().max_index_bytes(bytes);
        let mut ledger = Ledger::default();
        for _ in 0..3 {
            let store = options.open_memory(&storage).unwrap();
            for _ in 0..4 {
                let batch = ledger.make(&[10, 20]);
                ledger.append(&store, batch, Durability::Durable).unwrap();
                assert_eq!(facts(&store), ledger.facts());
            }
            ask_all(&store, &ledger.facts(), 9);
            store.close().unwrap();
        }
        assert!(MIN_SEGMENT_BYTES > 0 && storage.files().len() > 8);
    }
}
