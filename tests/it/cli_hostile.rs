//! Every command of the command line on stores that were made to do harm: their checksums are right, and their sizes,
//! counts and positions are not. Under a limit of memory: each command ends by itself, with an exit code of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cli::golden;

/// Virtual memory of a command, in KiB.
const LIMIT: &str = "500000";
/// Larger than that.
const LARGE: u64 = 700 << 20;

const FIRST: &str = "log/00000000000000000001.seg";

fn copy(name: &str, to: &Path) {
    fs::create_dir_all(to.join("log")).unwrap();
    for folder in ["", "log"] {
        for entry in fs::read_dir(golden(name).join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}

fn change(store: &Path, file: &str, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(store.join(file)).unwrap();
    how(&mut bytes);
    fs::write(store.join(file), bytes).unwrap();
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// A block of 512 bytes, with a field changed and its checksum made right again.
fn put_in_block(bytes: &mut [u8], block: usize, at: usize, field: &[u8]) {
    put(bytes, block + at, field);
    let crc = crc32fast::hash(&bytes[block..block + 508]).to_le_bytes();
    put(bytes, block + 508, &crc);
}

/// The first frame, with a field of its header changed and its checksum made right again.
fn put_in_frame(segment: &mut [u8], at: usize, field: &[u8]) {
    put(segment, 4096 + at, field);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&segment[48..56]);
    crc.update(&segment[4096 + 8..4096 + 64]);
    let crc = crc.finalize().to_le_bytes();
    put(segment, 4096 + 4, &crc);
}

fn enlarge(store: &Path, file: &str, len: u64) {
    fs::OpenOptions::new().write(true).open(store.join(file)).unwrap().set_len(len).unwrap();
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

type Harm = (&'static str, &'static str, fn(&Path));

/// What is done to a copy of which golden store.
const HARMS: [Harm; 12] = [
    ("segments that are larger than the memory", "unclean", |store| {
        let size = LARGE.to_le_bytes();
        change(store, "STORE", |bytes| {
            [0, 512].iter().for_each(|block| put_in_block(bytes, *block, 32, &size))
        });
        change(store, FIRST, |bytes| {
            [0, 2048].iter().for_each(|block| put_in_block(bytes, *block, 96, &size))
        });
        enlarge(store, FIRST, LARGE);
    }),
    ("a frame that is as long as can be said", "unclean", |store| {
        change(store, FIRST, |bytes| put_in_frame(bytes, 8, &0xffff_fff8_u32.to_le_bytes()));
    }),
    ("a frame of as many events as can be said", "unclean", |store| {
        change(store, FIRST, |bytes| put_in_frame(bytes, 12, &u32::MAX.to_le_bytes()));
    }),
    ("a frame at the last position there can be", "unclean", |store| {
        change(store, FIRST, |bytes| put_in_frame(bytes, 16, &u64::MAX.to_le_bytes()));
    }),
    ("a record that is as long as can be said", "unclean", |store| {
        change(store, FIRST, |bytes| put(bytes, 4096 + 64, &u32::MAX.to_le_bytes()));
    }),
    ("a mark of the last position there can be", "rolled", |store| {
        change(store, "MARK", |bytes| {
            for slot in [0, 4096] {
                for at in [40, 48, 56] {
                    put_in_block(bytes, slot, at, &u64::MAX.to_le_bytes());
                }
            }
        });
    }),
    ("a log that starts at the last position there can be", "rolled", |store| {
        change(store, "MARK", |bytes| {
            [0, 4096].iter().for_each(|slot| put_in_block(bytes, *slot, 64, &u64::MAX.to_le_bytes()));
        });
    }),
    ("files of the store that are larger than the memory", "retained", |store| {
        for file in ["STORE", "MARK"] {
            enlarge(store, file, LARGE);
        }
        for entry in fs::read_dir(store.join("log")).unwrap().map(Result::unwrap) {
            enlarge(store, &format!("log/{}", entry.file_name().to_string_lossy()), LARGE);
        }
    }),
    ("index files with counts as large as can be said", "retained", |store| {
        for entry in fs::read_dir(store.join("log")).unwrap().map(Result::unwrap) {
            let file = format!("log/{}", entry.file_name().to_string_lossy());
            if !file.ends_with(".seg") {
                change(store, &file, |bytes| {
                    bytes[96..156].fill(0xff);
                    let mut crc = crc32fast::Hasher::new();
                    crc.update(&[0; 12]);
                    crc.update(&bytes[..4092]);
                    let crc = crc.finalize().to_le_bytes();
                    put(bytes, 4092, &crc);
                });
            }
        }
    }),
    ("noise", "retained", |store| {
        for (seed, entry) in (1..).zip(fs::read_dir(store.join("log")).unwrap().map(Result::unwrap)) {
            fs::write(entry.path(), random(seed, 30_000)).unwrap();
        }
    }),
    ("segments named after positions that there cannot be", "clean", |store| {
        for name in ["18446744073709551615", "99999999999999999999", "00000000000000000000"] {
            fs::copy(store.join(FIRST), store.join(format!("log/{name}.seg"))).unwrap();
        }
    }),
    ("a note of a view that never ends", "clean", |store| {
        fs::create_dir_all(store.join("views/deep/1")).unwrap();
        fs::write(store.join("views/deep/1.json"), "[".repeat(1 << 20)).unwrap();
        fs::write(store.join("views/deep/2.json"), "").unwrap();
        enlarge(store, "views/deep/2.json", LARGE);
    }),
];

#[test]
fn no_hostile_store_takes_a_commands_memory_or_its_end() {
    let commands: [&[&str]; 12] = [
        &["info"],
        &["segments"],
        &["dump"],
        &["dump", "--frames"],
        &["verify"],
        &["streams"],
        &["tags"],
        &["views"],
        &["retain", "--max-bytes", "1", "--dry-run"],
        &["backup"],
        &["restore"],
        &["repair"],
    ];
    for (what, golden, harm) in HARMS {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        copy(golden, &store);
        harm(&store);
        for (number, command) in commands.iter().enumerate() {
            let mut limited = Command::new("sh");
            limited.args(["-c", &format!("ulimit -v {LIMIT}; exec \"$0\" \"$@\"")]);
            limited.arg(env!("CARGO_BIN_EXE_everfold")).args(*command).arg(&store);
            if number >= 9 {
                limited.arg(dir.path().join(command[0]));
            }
            let output =
                limited.env("MALLOC_ARENA_MAX", "1").stdin(std::process::Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let ended = output.status.code().is_some_and(|code| code <= 7);
            assert!(ended && !said.contains("panicked"), "{what}: {command:?}: {}: {said}", output.status);
        }
    }
}
