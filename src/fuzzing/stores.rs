//! A whole store whose files were damaged, or made by somebody hostile: opened both ways, read, verified, appended to.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::edits::{Input, edit, put};
use super::frames::{fix_segment, is_same, look_at};
use super::golden::{self, Files, STORES};
use crate::dump::Inspector;
use crate::event::{Event, Position, RecordedEvent, Version};
use crate::guard::Expected;
use crate::log::cursor::Cursor;
use crate::log::layout::{SECTOR, disk_len, seal_block};
use crate::options::Options;
use crate::query::Query;
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;
use crate::store::Store;

/// The most edits in a store.
const MOST_EDITS: usize = 24;

/// The bits of the input's second byte.
const FIX_BLOCKS: u8 = 1;
const FIX_FRAMES: u8 = 2;
const NO_MAPS: u8 = 4;
const VERIFY: u8 = 8;

/// What is in each golden store.
static KNOWN: LazyLock<[Vec<RecordedEvent>; 5]> = LazyLock::new(|| {
    STORES.map(|files| {
        let storage = storage(files.iter().map(|(name, bytes)| (*name, bytes.to_vec())));
        options(0).read_only(true).open_memory(&storage).map(|store| read(&store).0).unwrap_or_default()
    })
});

/// Which store, flags, and edits: each the number of a file, and what happens to it.
pub(super) fn store(input: &[u8]) {
    let mut input = Input::new(input);
    let number = usize::from(input.byte()) % STORES.len();
    let flags = input.byte();
    let Some((files, known)) = STORES.get(number).copied().zip(KNOWN.get(number)) else { return };
    let files = edited(files, flags, &mut input);
    let len = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let storage = storage(files);
    let reader = options(flags).read_only(true).open_memory(&storage);
    let (served, whole) = reader.as_ref().map(read).unwrap_or_default();
    let hostile = flags & (FIX_BLOCKS | FIX_FRAMES) != 0;
    check_served(&served, (!hostile).then_some(known), len);
    if let Ok(reader) = &reader {
        ask(reader, &served, hostile);
    }
    inspect(&storage, &served, whole);
    write(&storage, flags, &served);
}

fn options(flags: u8) -> Options {
    let never = Duration::from_secs(1 << 20);
    let maps = flags & NO_MAPS == 0;
    Options::new().create(false).sync_after(never).map_segments(maps).verify_on_open(flags & VERIFY != 0)
}

fn edited(files: Files, flags: u8, input: &mut Input<'_>) -> Vec<(&'static str, Vec<u8>)> {
    let mut files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect();
    for _ in 0..MOST_EDITS {
        if input.is_empty() || files.is_empty() {
            break;
        }
        let (choice, file) = (input.byte(), input.below(files.len()));
        match choice {
            250.. => drop(files.swap_remove(file)),
            245..250 => {
                let other = files.get(input.below(files.len())).map(|(_, bytes)| bytes.clone());
                files
                    .iter_mut()
                    .skip(file)
                    .take(1)
                    .for_each(|(_, bytes)| bytes.clone_from(&other.clone().unwrap_or_default()));
            }
            _ => files.iter_mut().skip(file).take(1).for_each(|(_, bytes)| edit(bytes, input)),
        }
    }
    fix(&mut files, flags);
    files
}

/// Makes checksums right. With both flags a segment is also made to follow from the one before it.
fn fix(files: &mut [(&'static str, Vec<u8>)], flags: u8) {
    files.sort_unstable_by_key(|(name, _)| *name);
    let mut before: Option<(usize, u32)> = None;
    for (name, bytes) in files {
        if flags & FIX_BLOCKS != 0
            && flags & FIX_FRAMES != 0
            && is_segment(name)
            && let Some((end, chain)) = before
        {
            for copy in [0, 2048] {
                put(bytes, copy + 88, &disk_len(end).to_le_bytes());
                put(bytes, copy + 112, &chain.to_le_bytes());
            }
        }
        if flags & FIX_BLOCKS != 0 {
            fix_blocks(name, bytes);
        }
        if flags & FIX_FRAMES != 0 && is_segment(name) {
            before = fix_segment(bytes);
        }
    }
}

fn is_segment(name: &str) -> bool {
    name.ends_with(".seg")
}

/// Makes the checksums of the blocks of a header file right.
fn fix_blocks(name: &str, bytes: &mut [u8]) {
    let second = match name {
        "STORE" => SECTOR,
        "MARK" => 4096,
        name if is_segment(name) => 2048,
        _ => return,
    };
    for at in [0, second] {
        if let Some(block) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<SECTOR>()) {
            seal_block(block);
        }
    }
}

/// These files, all durable.
fn storage(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> MemoryStorage {
    let storage = MemoryStorage::new();
    let made = storage.create_folder("log");
    assert!(made.is_ok());
    for (name, bytes) in files {
        let made = storage.create(name, disk_len(bytes.len())).and_then(|file| file.sync());
        assert!(made.is_ok() && storage.overwrite(name, 0, &bytes).is_ok(), "a file in memory: {name}");
    }
    assert!(["", "log"].into_iter().all(|folder| storage.sync_folder(folder).is_ok()));
    storage
}

/// What can be read from the start on, and whether that is all.
fn read(store: &Store) -> (Vec<RecordedEvent>, bool) {
    collect(store.read(store.log_start().previous()))
}

fn collect(cursor: Cursor) -> (Vec<RecordedEvent>, bool) {
    let mut events = Vec::new();
    for event in cursor {
        match event {
            Ok(event) => events.push(event),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return (events, false);
            }
        }
    }
    (events, true)
}

/// Positions follow each other, there is room for each event, and none is made of damage.
fn check_served(served: &[RecordedEvent], known: Option<&Vec<RecordedEvent>>, len: usize) {
    let bytes: usize = served.iter().map(|event| look_at(event, len)).sum();
    assert!(bytes <= len, "more was read than is there");
    let positions = served.iter().map(RecordedEvent::position);
    assert!(positions.clone().zip(positions.skip(1)).all(|(one, other)| other == one.next()), "a gap");
    if let Some(known) = known {
        let is_known = |event: &RecordedEvent| known.iter().any(|good| is_same(good, event));
        assert!(served.iter().all(is_known), "damage was served as an event");
    }
}

/// Other ways to the same events. By names that a hostile writer gave wrong versions they may differ.
fn ask(store: &Store, served: &[RecordedEvent], hostile: bool) {
    let (mut backward, all) = collect(store.read_backward(Position::END));
    backward.reverse();
    if all && backward.len() == served.len() {
        assert!(backward.iter().zip(served).all(|(one, other)| is_same(one, other)));
    }
    for stream in golden::STREAMS {
        let (events, _) = collect(store.read_stream(stream, Version::NONE));
        assert!(events.iter().all(|event| event.stream() == stream));
        let (backward, _) = collect(store.read_stream_backward(stream, Version::END));
        assert!(backward.iter().all(|event| event.stream() == stream));
    }
    for tag in golden::TAGS {
        let query = Query::all().types(["sold"]).tags([tag]);
        let (events, all) = collect(store.read_query(&query, store.log_start().previous()));
        assert!(events.iter().all(|event| query.matches(event)));
        if all && !hostile {
            let wanted = served.iter().filter(|event| query.matches(event)).count();
            assert!(events.len() >= wanted, "a query passed over an event");
        }
    }
}

/// What verifies can be read.
fn inspect(storage: &MemoryStorage, served: &[RecordedEvent], whole: bool) {
    let Ok(inspector) = Inspector::of(Arc::new(storage.clone())) else { return };
    let _facts = (inspector.store(), inspector.segments());
    let Ok(verdict) = inspector.verify(|_| {}) else { return };
    if verdict.damage.is_empty() {
        assert!(whole, "what verifies can be read: {verdict:?}");
        assert_eq!(verdict.events, disk_len(served.len()));
    }
    let mut found = 0;
    let scanned = inspector.scan(Position::START, |_| {
        found += 1;
        if found < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(scanned.is_err() || found <= 3);
}

/// An opening for writing keeps what was served, and what is appended then is there after the next one.
fn write(storage: &MemoryStorage, flags: u8, served: &[RecordedEvent]) {
    let storage = storage.crash(u64::MAX);
    let Ok(store) = options(flags).open_memory(&storage) else { return };
    let (events, whole) = read(&store);
    assert!(events.len() >= served.len(), "an opening for writing lost events");
    assert!(events.iter().zip(served).all(|(one, other)| is_same(one, other)));
    let appended = store.append("cart-9", Expected::Any, [Event::raw("sold", *b"hats")]);
    let closed = store.close();
    if !whole || appended.is_err() || closed.is_err() {
        return;
    }
    let again = options(flags).read_only(true).open_memory(&storage);
    assert!(again.is_ok(), "a store that was closed opens");
    let (after, whole) = again.as_ref().map(read).unwrap_or_default();
    assert!(whole && after.len() == events.len() + 1, "what was appended can be read");
    assert!(after.iter().zip(&events).all(|(one, other)| is_same(one, other)));
}
