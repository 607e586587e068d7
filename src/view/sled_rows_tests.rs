//! What rows on disk promise, and what sled is kept from.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::view::rows::contract::{self, Model};
use crate::view::rows::{STORED_KEY_LIMIT, STORED_VALUE_LIMIT};

const CACHE: u64 = 1 << 20;

fn open(dir: &Path) -> SledRows {
    SledRows::open(dir, "", CACHE).unwrap()
}

fn row(n: u32, len: usize) -> Change {
    (n.to_be_bytes().to_vec(), Some(vec![u8::try_from(n % 251).unwrap(); len]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_on_disk_are_a_sorted_map_that_outlives_a_reopen(
        batches in vec(vec(contract::change(), 0..40), 0..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        for batch in &batches {
            let rows = open(dir.path());
            contract::check_all(&rows, &model);
            contract::write(&rows, &mut model, batch);
            contract::check_all(&rows, &model);
        }
        contract::check_all(&open(dir.path()), &model);
    }
}

#[test]
fn rows_on_disk_keep_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    contract::check_limits_are_kept(&open(dir.path()));
}

#[test]
fn long_values_leave_no_pieces_behind_and_no_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let items = |rows: &SledRows| rows.open.db.as_ref().unwrap().len();
    let rows = open(dir.path());
    for round in 0..4 {
        let changes: Vec<_> = (0..40).map(|n| row(n, 30_000 + 9000 * round)).collect();
        rows.write(&changes).unwrap();
    }
    let largest = vec![(vec![0xFF; STORED_KEY_LIMIT], Some(vec![1; STORED_VALUE_LIMIT]))];
    rows.write(&largest).unwrap();
    rows.make_durable().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
    assert_eq!(items(&rows), 40 * 14 + 257);
    drop(rows);
    let rows = open(dir.path());
    rows.write(&(0..20).map(|n| row(n, 5)).collect::<Vec<_>>()).unwrap();
    rows.write(&(20..40).map(|n| (row(n, 0).0, None)).collect::<Vec<_>>()).unwrap();
    rows.write(&[(largest[0].0.clone(), Some(vec![])), (largest[0].0.clone(), None)]).unwrap();
    assert_eq!(items(&rows), 20);
    assert_eq!(
        contract::all(&rows),
        (0..20).map(|n| (row(n, 5).0, row(n, 5).1.unwrap())).collect::<Vec<_>>()
    );
}

#[test]
fn keys_that_start_alike_for_long_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, mut model) = (open(dir.path()), Model::new());
    let changes: Vec<_> =
        (0..2000u32).map(|n| ([&[b'k'; 900][..], &n.to_le_bytes()].concat(), Some(vec![1]))).collect();
    changes.chunks(200).for_each(|changes| contract::write(&rows, &mut model, changes));
    drop(rows);
    contract::check_all(&open(dir.path()), &model);
}

#[test]
fn rows_that_are_open_are_locked_and_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let unfinished = dir.path().join("snap.0000000000000001.generating");
    fs::write(&unfinished, b"half").unwrap();
    let refused = SledRows::open(dir.path(), "", CACHE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked { pid: None });
    assert!(unfinished.exists(), "only the owner of the lock clears up");
    first.write(&[row(1, 1)]).unwrap();
    drop(first);
    assert_eq!(contract::all(&open(dir.path())).len(), 1);
    assert!(!unfinished.exists());
}

#[test]
fn a_panic_is_an_error_and_the_last_call() {
    let dir = tempfile::tempdir().unwrap();
    let rows = open(dir.path());
    let error =
        rows.open.read("test", |_| -> Result<(), Error> { panic!("the tree is {}", "gone") }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::View);
    assert!(error.to_string().contains("the tree is gone"));
    assert_eq!(rows.get(b"a").unwrap_err().kind(), ErrorKind::View);
    drop(rows);
    open(dir.path());
}

#[test]
fn faults_of_the_environment_are_never_blamed_on_the_view() {
    let kind = |error: io::Error| told(Path::new("v"), "open", sled::Error::Io(error)).kind();
    for errno in [1, 5, 11, 12, 13, 23, 24, 30] {
        assert_eq!(kind(io::Error::from_raw_os_error(errno)), ErrorKind::Io, "errno {errno}");
    }
    assert_eq!(kind(io::Error::from_raw_os_error(28)), ErrorKind::DiskFull);
    assert_eq!(kind(io::Error::new(io::ErrorKind::StorageFull, "a clone")), ErrorKind::DiskFull);
    assert_eq!(kind(io::ErrorKind::UnexpectedEof.into()), ErrorKind::View);
}

#[test]
fn a_call_that_does_not_end_is_an_error_and_leaves_the_view_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let stuck = move || {
        let _ended = held.recv();
        Ok(())
    };
    let error = isolated_within(Duration::from_millis(20), dir.path(), "flush", stuck).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("does not end"), "{error}");
    drop(release);
    let panics = isolated_within(FLUSH_WAIT, dir.path(), "flush", || -> Result<(), Error> { panic!("gone") });
    assert_eq!(panics.unwrap_err().kind(), ErrorKind::View);
}

#[test]
fn rows_that_are_being_let_go_of_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let rows = open(dir.path());
    rows.write(&[row(1, 1)]).unwrap();
    let (opening, started) = mpsc::channel();
    let path = dir.path().to_owned();
    let opener = thread::spawn(move || {
        opening.send(()).unwrap();
        SledRows::open(&path, "", CACHE).map(|rows| contract::all(&rows).len())
    });
    started.recv().unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(rows);
    assert_eq!(opener.join().unwrap().unwrap(), 1);
}

#[test]
fn a_lock_is_given_back_although_a_copy_of_its_handle_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let rows = open(dir.path());
    // What a process has that is being started right now.
    let copy = rows.open.data.try_clone().unwrap();
    drop(rows);
    open(dir.path());
    drop(copy);
}

#[test]
fn a_checkpoint_is_durable_when_everything_was_synced_after_sled_has_written_it_out() {
    let root = tempfile::tempdir().unwrap();
    let traced = |work: &mut dyn FnMut()| {
        directory::trace::start();
        work();
        let base = format!("{}/", root.path().display());
        let relative = |name: String| name.strip_prefix(&base).map_or(name.clone(), str::to_owned);
        directory::trace::take().into_iter().map(relative).collect::<Vec<_>>()
    };
    let root_name = format!("{}", root.path().display());
    let mut rows = None;
    let made = traced(&mut || rows = Some(SledRows::open(root.path(), "views/totals/3", CACHE).unwrap()));
    let at = |name: &str| {
        made.iter().rposition(|synced| synced == name).unwrap_or_else(|| panic!("{name} is not in {made:?}"))
    };
    let order = [
        "views/totals/3/conf",
        "views/totals/3/blobs",
        "views/totals/3/db",
        "views/totals/3",
        "views/totals",
        "views",
        &root_name,
    ];
    assert!(order.is_sorted_by_key(|name| at(name)), "{made:?}");
    // Those that a killed process has made may not be durable: they are synced again.
    drop(rows.take());
    let again = traced(&mut || rows = Some(SledRows::open(root.path(), "views/totals/3", CACHE).unwrap()));
    assert!(order.iter().all(|name| again.iter().any(|synced| synced == name)), "{again:?}");
    let rows = rows.unwrap();
    rows.write(&[row(1, 1)]).unwrap();
    let durable = traced(&mut || rows.make_durable().unwrap());
    assert_eq!(durable.first().unwrap(), "flush");
    for file in fs::read_dir(root.path().join("views/totals/3")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned();
        assert!(durable.contains(&name), "{name} is not in {durable:?}");
    }
    assert_eq!(durable.last().unwrap(), "views/totals/3");
    assert_eq!(durable.get(durable.len() - 2).unwrap(), "views/totals/3/db");
}

#[test]
fn after_a_sync_that_failed_nothing_is_said_to_be_durable_any_more() {
    let dir = tempfile::tempdir().unwrap();
    for failing in ["conf", "db", "blobs", ""] {
        let rows = open(dir.path());
        rows.write(&[row(1, 1)]).unwrap();
        directory::trace::start();
        directory::trace::fail_at(&dir.path().join("").join(failing));
        assert_eq!(rows.make_durable().unwrap_err().kind(), ErrorKind::Io, "{failing:?}");
        directory::trace::take();
        assert!(rows.make_durable().is_err() && rows.write(&[]).is_err(), "{failing:?}");
    }
    assert_eq!(contract::all(&open(dir.path())).len(), 1, "it was not the rows' fault");
}
