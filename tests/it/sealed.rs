//! Sealed segments: many of them, and damage in them.

use std::fs;
use std::path::{Path, PathBuf};

use everfold::{Event, Expected, MIN_SEGMENT_BYTES, Options, Position, Version};

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
