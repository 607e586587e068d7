//! What a system, a person or another program does to a store's files while it is open and between openings: each with the
//! answer that it gets. Never a hang, a signal, or a fresh store in the place of one that was there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use everfold::dump::Inspector;
use everfold::{
    AppendError, Damage, Error, ErrorKind, Event, Expected, Fault, MIN_SEGMENT_BYTES, MemoryStorage, Options,
    Position, Repair, Store, Version,
};

fn small() -> Options {
    Options::new().segment_size(MIN_SEGMENT_BYTES)
}

fn existing() -> Options {
    small().create(false)
}

fn reading() -> Options {
    existing().read_only(true)
}

fn try_append(store: &Store) -> Result<Position, ErrorKind> {
    let event = Event::raw("t", vec![b'x'; 600]).tag("some");
    match store.append("s", Expected::Any, [event]) {
        Ok(done) => Ok(done.position),
        Err(AppendError::Failed(error)) => Err(error.kind()),
        Err(other) => panic!("{other}"),
    }
}

fn append(store: &Store, events: usize) {
    for _ in 0..events {
        try_append(store).unwrap();
    }
}

fn count(store: &Store) -> usize {
    store.read(Position::START).map(Result::unwrap).count()
}

/// A closed store of so many events, eleven or so to a segment.
fn store_of(events: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = small().open(&path).unwrap();
    append(&store, events);
    store.close().unwrap();
    (dir, path)
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let log = fs::read_dir(store.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        log.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
    segments.sort();
    segments
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// All files below a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(contents(&entry.path())),
            false => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap_or_default())),
        }
    }
    found
}

/// The error of an opening for writing and of one read-only.
fn refusals(store: &Path) -> [Error; 2] {
    [existing().open(store).unwrap_err(), reading().open(store).unwrap_err()]
}

#[test]
fn files_that_are_not_of_the_store_are_left_alone_and_change_no_answer() {
    let (_dir, path) = store_of(40);
    let foreign = [
        "notes.txt",
        "STORE.bak",
        "log/readme",
        "log/1.seg",
        "log/00000000000000000001 (copy).seg",
        "log/00000000000000000001.seg~",
        "log/0000000000000000000x.seg",
        "log/x.idx",
        "log/x.base",
        "quarantine/old.bytes",
        "views/readme",
    ];
    for file in foreign {
        fs::write(path.join(file), "of somebody else").unwrap();
    }
    fs::create_dir(path.join("log/folder")).unwrap();
    for options in [existing(), reading(), existing()] {
        let store = options.open(&path).unwrap();
        assert!(store.recovery().clean && store.recovery().damage.is_empty(), "{}", store.recovery());
        assert_eq!(count(&store), 40);
        assert_eq!(store.read_stream_backward("s", Version::END).map(Result::unwrap).count(), 40);
    }
    for file in foreign {
        assert_eq!(fs::read(path.join(file)).unwrap(), b"of somebody else", "{file}");
    }
}

#[test]
fn a_segment_under_a_second_name_is_refused_and_named() {
    let (_dir, path) = store_of(40);
    let first = segments(&path).remove(0);
    for number in [3, 39, 41, 7_000_000, u64::MAX] {
        let second = path.join(format!("log/{number:020}.seg"));
        fs::copy(&first, &second).unwrap();
        for error in refusals(&path) {
            let found = error.corruption().unwrap();
            assert_eq!(
                (found.damage, found.file.as_str()),
                (Damage::SegmentForeign, &*format!("log/{}", name(&second)))
            );
        }
        fs::remove_file(second).unwrap();
        assert_eq!(count(&existing().open(&path).unwrap()), 40);
    }
}

#[test]
fn an_older_copy_of_the_active_segment_is_refused_because_the_mark_proves_more() {
    let (_dir, path) = store_of(3);
    let active = segments(&path).remove(0);
    let old = fs::read(&active).unwrap();
    let store = existing().open(&path).unwrap();
    append(&store, 3);
    store.close().unwrap();
    fs::write(&active, &old).unwrap();
    for options in [existing(), reading()] {
        let opened = options.open(&path);
        let error = match opened {
            Err(error) => error,
            Ok(store) => store.read(Position::new(3)).next().unwrap().unwrap_err(),
        };
        let found = error.corruption().unwrap();
        assert_eq!(found.file, format!("log/{}", name(&active)));
        assert!(matches!(found.damage, Damage::TailLost | Damage::CorruptAcknowledged), "{error}");
    }
    assert_eq!(fs::read(&active).unwrap(), old, "it is left as it is");
}

#[test]
fn an_older_copy_of_a_sealed_segment_hides_what_it_lacks_and_nothing_else() {
    let (_dir, path) = store_of(3);
    let first = segments(&path).remove(0);
    let old = fs::read(&first).unwrap();
    let store = existing().open(&path).unwrap();
    append(&store, 37);
    store.close().unwrap();
    let next: u64 = name(&segments(&path)[1])[..20].parse().unwrap();
    fs::write(&first, &old).unwrap();
    for options in [reading(), existing()] {
        let store = options.open(&path).unwrap();
        assert_eq!(store.recovery().damage.len(), 1, "{}", store.recovery());
        assert_eq!(store.read(Position::START).take_while(Result::is_ok).count(), 3);
        for position in 4..next {
            let read = store.read(Position::new(position - 1)).next().unwrap();
            assert_eq!(read.unwrap_err().corruption().unwrap().file, format!("log/{}", name(&first)));
        }
        let behind = store.read(Position::new(next - 1)).map(|event| event.unwrap().position().get());
        assert!(behind.eq(next..=40));
        let stream: Vec<_> = store.read_stream("s", Version::NONE).collect();
        assert!(stream.iter().any(Result::is_err), "the stream has no gap without a word");
    }
}

/// What can stand in the place of a file.
fn put_in_place(of: &Path, what: &str) {
    let aside = of.with_extension("aside");
    fs::rename(of, &aside).unwrap();
    match what {
        "link" => symlink(&aside, of).unwrap(),
        "folder" => fs::create_dir(of).unwrap(),
        _ => assert!(Command::new("mkfifo").arg(of).status().unwrap().success()),
    }
}

fn put_back(of: &Path) {
    if fs::symlink_metadata(of).unwrap().is_dir() { fs::remove_dir(of) } else { fs::remove_file(of) }
        .unwrap();
    fs::rename(of.with_extension("aside"), of).unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused_by_name_and_nobody_waits_for_it() {
    let (_dir, path) = store_of(40);
    let (all, mut files) = (segments(&path), vec![path.join("STORE"), path.join("MARK")]);
    files.extend([all[0].clone(), all.last().unwrap().clone()]);
    for what in ["link", "folder", "pipe"] {
        for file in &files {
            put_in_place(file, what);
            for error in refusals(&path) {
                assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
                assert!(error.to_string().contains(&name(file)), "{what}: {error}");
                assert!(what != "link" || error.to_string().contains("symbolic link"), "{error}");
            }
            let inspected = Inspector::open(&path).map(|inspector| inspector.verify(|_| ()).is_ok());
            assert!(!inspected.unwrap_or(false), "{what} for {}", name(file));
            put_back(file);
        }
        let lock = path.join("LOCK");
        put_in_place(&lock, what);
        assert_eq!(existing().open(&path).unwrap_err().kind(), ErrorKind::Io, "{what}");
        assert_eq!(count(&reading().open(&path).unwrap()), 40, "a reader takes no lock");
        put_back(&lock);
    }
    assert_eq!(count(&existing().open(&path).unwrap()), 40);
}

#[test]
fn an_index_that_is_no_regular_file_is_done_without() {
    let (_dir, path) = store_of(40);
    let index = segments(&path)[0].with_extension("idx");
    assert!(index.exists());
    for what in ["link", "folder", "pipe"] {
        put_in_place(&index, what);
        let store = reading().open(&path).unwrap();
        assert_eq!(store.read_stream("s", Version::NONE).map(Result::unwrap).count(), 40, "{what}");
        put_back(&index);
    }
}

#[test]
fn the_directory_itself_and_its_folders_may_be_links() {
    let (dir, path) = store_of(40);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    fs::rename(path.join("log"), dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), path.join("log")).unwrap();
    let store = existing().open(&link).unwrap();
    assert_eq!(count(&store), 40);
    append(&store, 20);
    assert!(
        matches!(existing().open(&path).unwrap_err().kind(), ErrorKind::Locked { .. }),
        "it is the same store"
    );
    store.close().unwrap();
    assert_eq!(count(&existing().open(&path).unwrap()), 60);
}

#[test]
fn a_store_that_was_moved_while_open_goes_on_until_it_needs_a_new_file_and_touches_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let store = small().open(&old).unwrap();
    append(&store, 41);
    fs::rename(&old, &new).unwrap();
    let mut acknowledged = 41;
    let refused = loop {
        match try_append(&store) {
            Ok(position) => acknowledged = position.get(),
            Err(kind) => break kind,
        }
    };
    assert!(acknowledged > 41, "the segment that is open is where it was moved to");
    assert_eq!(refused, ErrorKind::NotFound);
    assert!(!old.exists());

    let other = small().open(&old).unwrap();
    assert!(other.recovery().created, "nobody can know of a store that is not there");
    append(&other, 1);
    other.close().unwrap();
    let before = contents(&old);
    assert_eq!(try_append(&store), Err(ErrorKind::NotFound));
    let dropped = store.retain(&everfold::Retention::new().max_bytes(0));
    assert_eq!(dropped.unwrap_err().kind(), ErrorKind::NotFound);
    drop(store);
    assert_eq!(contents(&old), before, "the other store is left alone");
    let store = existing().open(&new).unwrap();
    assert_eq!(store.watermark().get(), acknowledged);
    append(&store, 20);
}

#[test]
fn a_store_that_was_removed_while_open_acknowledges_nothing_more() {
    let (_dir, path) = store_of(2);
    let store = existing().open(&path).unwrap();
    append(&store, 1);
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(try_append(&store), Err(ErrorKind::Indeterminate));
    assert_eq!(try_append(&store), Err(ErrorKind::Poisoned));
    assert_eq!(store.close().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(!path.exists(), "nothing is made anew");
    for options in [existing(), reading()] {
        assert_eq!(options.open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn a_store_of_which_something_is_left_is_not_taken_for_a_fresh_one() {
    let parts: [&[&str]; 4] = [&["STORE"], &["STORE", "MARK"], &["STORE", "log"], &["log"]];
    for gone in parts {
        let (_dir, path) = store_of(3);
        for part in gone {
            let part = path.join(part);
            if part.is_dir() { fs::remove_dir_all(part) } else { fs::remove_file(part) }.unwrap();
        }
        let before = contents(&path);
        let error = small().open(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{gone:?}: {error}");
        assert!(error.to_string().contains(gone[0]), "{gone:?}: {error}");
        assert_eq!(contents(&path), before, "{gone:?}");
    }
}

#[test]
fn a_full_disk_is_no_matter_to_who_reads() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    append(&store, 40);
    let storage = storage.crash(u64::MAX);
    storage.fail_at(1, Fault::from_then_on(std::io::ErrorKind::StorageFull));
    let store = existing().read_only(true).verify_on_open(true).open_memory(&storage).unwrap();
    assert_eq!(count(&store), 40);
    drop(store);
    assert_eq!(existing().open_memory(&storage).unwrap_err().kind(), ErrorKind::DiskFull);
    storage.clear_faults();
    assert_eq!(count(&existing().open_memory(&storage).unwrap()), 40);
}

#[test]
fn files_that_are_cut_off_while_they_are_read_are_an_error_and_no_signal() {
    let (dir, path) = store_of(60);
    let files = segments(&path);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for file in files.iter().cycle() {
                if ended.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let bytes = fs::read(file).unwrap();
                let open = fs::OpenOptions::new().write(true).open(file).unwrap();
                open.set_len(5000).unwrap();
                std::thread::yield_now();
                fs::write(file, bytes).unwrap();
            }
        });
        for round in 0..40 {
            if let Ok(inspector) = Inspector::open(&path) {
                let _verdict = inspector.verify(|_| ());
            }
            if let Ok(store) = reading().map_segments(false).open(&path) {
                for event in store.read(Position::START).chain(store.read_stream("s", Version::NONE)) {
                    assert!(event.is_err() || event.unwrap().payload() == [b'x'; 600]);
                }
            }
            let copy = dir.path().join(format!("copy-{round}"));
            let _restored = everfold::restore(&path, &copy);
            let _repaired =
                everfold::repair(&path, dir.path().join(format!("repaired-{round}")), &Repair::new());
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(count(&existing().open(&path).unwrap()), 60);
}

/// Set in a child: the directory of its store, and what it is to try.
const CHILD: (&str, &str) = ("EVERFOLD_TEST_FAULTS_DIR", "EVERFOLD_TEST_FAULTS_WHAT");

/// Runs `child_entry` under a command; what it printed.
fn run_child(command: &[&str], dir: &Path, what: &str) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child_entry", "--nocapture"])
        .env(CHILD.0, dir)
        .env(CHILD.1, what)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The life of a child. Without the variables, this is not the child: nothing to do.
#[test]
fn child_entry() {
    let (Some(dir), Ok(what)) = (std::env::var_os(CHILD.0), std::env::var(CHILD.1)) else { return };
    match what.as_str() {
        "files" => use_up_open_files(Path::new(&dir)),
        "refused" => find_no_permission(Path::new(&dir)),
        _ => read_without_permission_to_write(Path::new(&dir)),
    }
    println!("child ended well");
}

fn use_up_open_files(dir: &Path) {
    let store = small().open(dir).unwrap();
    append(&store, 30);
    let mut fillers = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        fillers.push(file);
    }
    let mut acknowledged = 30;
    let refused = loop {
        match try_append(&store) {
            Ok(position) => acknowledged = position.get(),
            Err(kind) => break kind,
        }
    };
    assert!(
        acknowledged < 60 && refused == ErrorKind::Io,
        "a roll needs a file: {acknowledged}, {refused:?}"
    );
    assert_eq!(try_append(&store), Err(ErrorKind::Io), "it is tried again");
    assert_eq!(reading().open(dir).unwrap_err().kind(), ErrorKind::Io);
    let read: Vec<_> = store.read(Position::START).collect();
    assert!(read.iter().filter_map(|read| read.as_ref().err()).all(|error| error.kind() == ErrorKind::Io));
    drop(fillers);
    assert_eq!(try_append(&store).unwrap().get(), acknowledged + 1, "appends go on");
    append(&store, 30);
    store.close().unwrap();
    assert_eq!(count(&existing().open(dir).unwrap()), usize::try_from(acknowledged).unwrap() + 31);
}

#[test]
fn without_a_file_handle_left_appends_are_refused_at_the_roll_and_go_on_when_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        run_child(&["sh", "-c", "ulimit -n 48; exec \"$0\" \"$@\""], &dir.path().join("store"), "files");
    assert!(text.contains("child ended well"), "{text}");
}

fn find_no_permission(dir: &Path) {
    for error in refusals(dir) {
        assert_eq!(error.kind(), ErrorKind::Io, "neither corrupt nor missing: {error}");
        assert!(error.to_string().contains("ermission"), "{error}");
    }
}

fn read_without_permission_to_write(dir: &Path) {
    let before = contents(dir);
    assert_eq!(existing().open(dir).unwrap_err().kind(), ErrorKind::Io);
    let store = reading().open(dir).unwrap();
    assert_eq!(count(&store), 40);
    assert!(Inspector::open(dir).unwrap().verify(|_| ()).unwrap().damage.is_empty());
    assert_eq!(contents(dir), before);
}

/// Gives everybody below a directory these rights: those of folders, and those of files.
fn permit(path: &Path, folders: u32, files: u32) {
    let is_folder = path.is_dir();
    let mode = if is_folder { folders } else { files };
    if is_folder {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::read_dir(path).unwrap().for_each(|entry| permit(&entry.unwrap().path(), folders, files));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_may_not_be_read_or_written_is_an_error_of_the_system_and_not_of_the_store() {
    let (dir, path) = store_of(40);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The rights of a file mean nothing to root: somebody else has to try.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    fs::set_permissions(path.join("LOCK"), fs::Permissions::from_mode(0o0)).unwrap();
    let command: &[&str] = if fs::File::open(path.join("LOCK")).is_ok() { &nobody } else { &["env"] };
    let exe = std::env::current_exe().unwrap();
    let can = Command::new(command[0]).args(&command[1..]).arg(exe).arg("--list").output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: {} cannot run the tests as somebody else here", command[0]);
        return;
    }
    for (folders, files) in [(0o755, 0o000), (0o000, 0o644)] {
        permit(&path, folders, files);
        run_child(command, &path, "refused");
    }
    permit(&path, 0o555, 0o444);
    run_child(command, &path, "read");
    permit(&path, 0o755, 0o644);
    assert_eq!(count(&existing().open(&path).unwrap()), 40);
}
