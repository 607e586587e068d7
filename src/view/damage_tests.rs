//! What rows on disk make of damaged files: an error, or an older state; never a panic, never the environment's fault.

use std::fs;
use std::path::Path;

use crate::error::ErrorKind;
use crate::view::rows::{Change, Rows, contract};
use crate::view::sled_rows::SledRows;

const CACHE: u64 = 1 << 20;
const ROWS: u32 = 10_000;

/// A file, and what becomes of the byte at an offset.
type Damage = (&'static str, Box<dyn Fn(usize, u8) -> u8>);

fn row(n: u32, len: usize) -> Change {
    (n.to_be_bytes().to_vec(), Some(vec![u8::try_from(n % 251).unwrap(); len]))
}

/// Enough rows that neither the cache nor sled's buffers hold them.
fn fill(rows: &SledRows) {
    for batch in 0..ROWS / 100 {
        let changes: Vec<_> = (batch * 100..(batch + 1) * 100).map(|n| row(n, 300)).collect();
        rows.write(&changes).unwrap();
    }
    rows.make_durable().unwrap();
}

fn overwrite(file: &Path, byte: impl Fn(usize, u8) -> u8) {
    let bytes = fs::read(file).unwrap();
    let damaged: Vec<u8> = bytes.into_iter().enumerate().map(|(at, old)| byte(at, old)).collect();
    fs::write(file, damaged).unwrap();
}

fn noise(at: usize) -> u8 {
    u8::try_from((at.wrapping_mul(0x9E37_79B9) >> 7) & 0xFF).unwrap()
}

#[test]
fn damaged_files_are_an_error_of_the_view_or_an_older_state() {
    let whole = tempfile::tempdir().unwrap();
    let rows = SledRows::open(whole.path(), "", CACHE).unwrap();
    fill(&rows);
    drop(rows);
    let len = usize::try_from(fs::metadata(whole.path().join("db")).unwrap().len()).unwrap();
    let flips = [0, 1, 17, 300, 5000, 600_000, len / 2, len - 100_000].map(|spot| -> Damage {
        ("db", Box::new(move |at, byte| if at == spot { byte ^ 0x10 } else { byte }))
    });
    let others: [Damage; 6] = [
        ("db", Box::new(|at, _| noise(at))),
        ("db", Box::new(|_, _| 0)),
        ("db", Box::new(|at, byte| if at % 4096 == 77 { noise(at) } else { byte })),
        ("db", Box::new(|at, byte| if at > 1 << 20 { noise(at) } else { byte })),
        ("conf", Box::new(|at, _| noise(at))),
        ("conf", Box::new(|_, _| 0)),
    ];
    let (mut refused, mut opened) = (0, 0);
    for (file, damage) in flips.iter().chain(&others) {
        let copy = tempfile::tempdir().unwrap();
        for path in fs::read_dir(whole.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_file() {
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        overwrite(&copy.path().join(file), damage);
        match SledRows::open(copy.path(), "", CACHE).and_then(|rows| {
            let n = contract::try_all(&rows)?.len();
            rows.write(&[row(1, 1)])?;
            rows.make_durable().map(|()| n)
        }) {
            Ok(n) => {
                assert!(n <= usize::try_from(ROWS).unwrap());
                opened += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::View, "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && opened > 0, "{refused} refused, {opened} opened");
}

#[test]
fn damage_under_open_rows_is_found_remembered_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let rows = SledRows::open(dir.path(), "", CACHE).unwrap();
    fill(&rows);
    overwrite(&dir.path().join("db"), |at, _| noise(at));
    let found = contract::try_all(&rows).unwrap_err();
    assert_eq!(found.kind(), ErrorKind::View);
    for error in [rows.get(b"a").unwrap_err(), rows.write(&[]).unwrap_err(), rows.make_durable().unwrap_err()]
    {
        assert_eq!(error.to_string(), found.to_string());
    }
}
