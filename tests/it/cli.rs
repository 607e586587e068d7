//! The command line, as a user runs it. Needs the feature `cli`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use everfold::{ApplyError, Event, Expected, Options, Projection, RecordedEvent, Store, ViewBatch};

pub(crate) const CASES: [(&str, i32); 6] =
    [("clean", 0), ("rolled", 0), ("retained", 0), ("unclean", 0), ("torn_tail", 4), ("flipped_bit", 3)];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1").join(name)
}

pub(crate) fn run(arguments: &[&str], store: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_everfold")).args(arguments).arg(store).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn verify_tells_good_torn_and_damaged_stores_apart_by_its_exit_code() {
    for (name, code) in CASES {
        let output = run(&["verify", "--format", "table"], &golden(name));
        assert_eq!(output.status.code(), Some(code), "{name}");
        let expected = std::fs::read_to_string(golden(&format!("{name}.verify.txt"))).unwrap();
        assert_eq!(text(&output.stdout), expected, "{name}");
    }
}

#[test]
fn dump_prints_the_golden_text_of_events_and_frames() {
    for (name, code) in CASES {
        let events = run(&["dump"], &golden(name));
        assert_eq!(events.status.code(), Some(code), "{name}");
        let expected = std::fs::read_to_string(golden(&format!("{name}.events.jsonl"))).unwrap();
        assert_eq!(text(&events.stdout), expected, "{name}");
        let frames = run(&["dump", "--frames", "--format", "table"], &golden(name));
        let expected = std::fs::read_to_string(golden(&format!("{name}.frames.txt"))).unwrap();
        assert_eq!(text(&frames.stdout), expected, "{name}");
    }
}

#[test]
fn dump_filters_by_position_stream_type_and_number() {
    let positions = |arguments: &[&str]| -> Vec<u64> {
        let output = run(&[&["dump"], arguments].concat(), &golden("clean"));
        assert!(output.status.success());
        let lines = text(&output.stdout);
        let position =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["position"].as_u64();
        lines.lines().map(|line| position(line).unwrap()).collect()
    };
    assert_eq!(positions(&["--after", "4"]), [5, 6]);
    assert_eq!(positions(&["--limit", "2"]), [1, 2]);
    assert_eq!(positions(&["--stream", "cart-7"]), [1, 2, 3]);
    assert_eq!(positions(&["--type", "sold", "--limit", "1"]), [2]);
    assert_eq!(positions(&["--stream", "nobody"]), [0u64; 0]);
}

#[test]
fn dump_raw_writes_payloads_as_they_are() {
    let output = run(&["dump", "--raw", "--stream", "stock"], &golden("clean"));
    assert_eq!(output.stdout, b"\x00\xff\x07\n\n");
}

#[test]
fn nothing_that_could_take_hold_of_a_terminal_is_printed() {
    for arguments in [
        &["dump"][..],
        &["dump", "--format", "table"],
        &["streams", "--format", "table"],
        &["streams"],
        &["tags"],
    ] {
        let output = run(arguments, &golden("clean"));
        let unsafe_char = |c: &char| c.is_control() && *c != '\n';
        assert_eq!(text(&output.stdout).chars().find(unsafe_char), None, "{arguments:?}");
    }
}

#[test]
fn info_segments_and_streams_say_what_is_there() {
    let json = |arguments: &[&str], name: &str| -> Vec<serde_json::Value> {
        let output = run(arguments, &golden(name));
        assert!(output.status.success(), "{arguments:?} {name}");
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let info = json(&["info"], "clean");
    assert_eq!((&info[0]["state"], &info[0]["last_position"]), (&"closed".into(), &6.into()));
    assert_eq!(json(&["info"], "unclean")[0]["state"], "open, or not closed");
    let segments = json(&["segments"], "rolled");
    let firsts: Vec<_> = segments.iter().map(|segment| segment["first"].as_u64().unwrap()).collect();
    assert_eq!(firsts, [1, 30, 59]);
    assert_eq!((&segments[0]["state"], &segments[2]["state"]), (&"sealed".into(), &"active".into()));
    let streams = json(&["streams", "--prefix", "cart-"], "rolled");
    assert_eq!(streams.len(), 3);
    assert_eq!((&streams[1]["stream"], &streams[1]["version"]), (&"cart-1".into(), &20.into()));
}

#[test]
fn what_is_not_there_and_what_is_wrong_have_exit_codes_of_their_own() {
    let empty = tempfile::tempdir().unwrap();
    for command in ["info", "segments", "dump", "verify", "streams", "tags", "views"] {
        assert_eq!(run(&[command], empty.path()).status.code(), Some(7), "{command}: no store");
        assert_eq!(
            run(&[command], &empty.path().join("nowhere")).status.code(),
            Some(7),
            "{command}: no directory"
        );
        assert_eq!(run(&[command, "--unheard-of"], empty.path()).status.code(), Some(2), "{command}: usage");
    }
    std::fs::write(empty.path().join("STORE"), [0; 1024]).unwrap();
    assert_eq!(run(&["info"], empty.path()).status.code(), Some(3));
}

#[test]
fn dump_keeps_its_exit_code_when_nobody_takes_its_output() {
    let dump = Command::new(env!("CARGO_BIN_EXE_everfold"))
        .arg("dump")
        .arg(golden("flipped_bit"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = dump.unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn info_and_streams_end_with_what_they_came_across() {
    for (name, code) in CASES {
        assert_eq!(run(&["streams"], &golden(name)).status.code(), Some(code), "streams {name}");
        assert_eq!(run(&["info"], &golden(name)).status.code(), Some(code), "info {name}");
    }
    let file = golden("clean").join("STORE");
    assert_eq!(run(&["verify"], &file).status.code(), Some(7), "a file is no store");
}

#[test]
fn help_tells_the_exit_codes() {
    let output = Command::new(env!("CARGO_BIN_EXE_everfold")).arg("--help").output().unwrap();
    let help = text(&output.stdout);
    for line in
        ["3  corruption inside the log", "4  only a torn tail", "6  another process", "7  there is no store"]
    {
        assert!(help.contains(line), "{line}");
    }
}

#[derive(Debug)]
struct CountAll;

impl Projection for CountAll {
    const NAME: &'static str = "count-all";
    const GENERATION: u32 = 2;
    type Key = u8;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u8, u64>) -> Result<(), ApplyError> {
        if event.event_type() == "poison" {
            return Err(ApplyError::new("cannot be \u{1b}[2Jcounted"));
        }
        view.update(0, |count| Some(count.unwrap_or(0) + 1))
    }
}

#[test]
fn every_command_works_beside_an_application_and_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(8192).open(dir.path()).unwrap();
    let view = store.project(CountAll).unwrap();
    for n in 0..100u64 {
        store.append("s", Expected::Any, [Event::json("t", &n).unwrap()]).unwrap();
    }
    let poison = store.append("s", Expected::Any, [Event::json("poison", &0).unwrap()]).unwrap();
    assert!(view.wait_for(poison.position, std::time::Duration::from_secs(60)).is_err());
    store.sync().unwrap();
    let before = log_files(dir.path());
    for command in ["info", "segments", "dump", "verify", "streams", "tags", "views"] {
        let output = run(&[command], dir.path());
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    }
    assert_eq!(log_files(dir.path()), before);
    assert_views_are_told(&store, dir.path());
}

fn assert_views_are_told(store: &Store, dir: &Path) {
    let output = run(&["views"], dir);
    let line: serde_json::Value = serde_json::from_str(text(&output.stdout).trim()).unwrap();
    assert_eq!((&line["view"], &line["generation"]), (&"count-all".into(), &2.into()));
    assert_eq!((&line["state"], &line["stopped_at"]), (&"stopped".into(), &101.into()));
    assert_eq!((&line["checkpoint"], &line["lag"], &line["rows"]), (&100.into(), &1.into(), &1.into()));
    assert!(line["cause"].as_str().unwrap().contains("counted"));
    assert!(!text(&output.stdout).contains('\u{1b}'));
    assert_eq!(store.views()[0].checkpoint.get(), 100);
}

fn log_files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([dir.join("STORE")])
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_nobody_takes_changes_no_exit_code() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for (name, code) in CASES {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_everfold"));
        let status =
            verify.arg("verify").arg(golden(name)).stdout(closed()).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(code), "verify {name}");
        let mut dump = Command::new(env!("CARGO_BIN_EXE_everfold"));
        let output = dump.arg("dump").arg(golden(name)).stderr(closed()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "dump {name}");
    }
}

#[test]
fn retain_drops_segments_and_the_other_commands_take_what_is_left_for_whole() {
    let dir = tempfile::tempdir().unwrap();
    let run = |command: &str, arguments: &[&str]| run(&[&[command], arguments].concat(), dir.path());
    let line = |output: Output| -> serde_json::Value {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap()
    };
    let store = Options::new().segment_size(everfold::MIN_SEGMENT_BYTES).open(dir.path()).unwrap();
    for n in 0..300 {
        let stream = if n < 5 { "early" } else { "late" };
        store.append(stream, Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
    let view = store.project(CountAll).unwrap();
    view.wait_for(store.watermark(), std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(run("retain", &["--before", "200"]).status.code(), Some(6), "it is open");
    let told = line(run("retain", &["--before", "200", "--dry-run"]));
    assert_eq!((&told["segments"], told["dry_run"].as_bool()), (&0.into(), Some(true)));
    assert!(told["kept_by"].as_str().unwrap().contains("\"count-all\" on disk"));
    drop(view);
    store.close().unwrap();
    drop(store);

    let without = &["--before", "200", "--without-view", "count-all"][..];
    let told = line(run("retain", &[without, &["--dry-run"]].concat()));
    let first = told["log_start"].as_u64().unwrap();
    assert!((150..=200).contains(&first));
    assert_eq!(line(run("verify", &[]))["events"], 300);
    let done =
        run("retain", &[without, &["--format", "table", "--older-than", "4w", "--max-bytes", "1T"]].concat());
    assert_eq!(done.status.code(), Some(0));
    assert!(text(&done.stdout).contains(&format!("the log starts at position {first}\n")));

    let verdict = line(run("verify", &[]));
    assert_eq!((&verdict["events"], &verdict["damage"]), (&(301 - first).into(), &serde_json::json!([])));
    assert_eq!(line(run("info", &[]))["log_start"], first);
    assert_eq!(line(run("dump", &[]))["position"], first);
    assert_eq!(line(run("dump", &["--after", "250"]))["position"], 251);
    assert_eq!(line(run("streams", &[]))["stream"], "late");
    assert_eq!(line(run("segments", &[]))["first"], first);
    for wrong in [&[][..], &["--older-than", "30"], &["--max-bytes", "1X"], &["--before", "x"]] {
        assert_eq!(run("retain", wrong).status.code(), Some(2), "{wrong:?}");
    }
    let base = dir.path().join(format!("log/{first:020}.base"));
    std::fs::remove_file(base).unwrap();
    let verdict = run("verify", &[]);
    assert_eq!(verdict.status.code(), Some(3));
    assert!(text(&verdict.stdout).contains("versions-lost"));
    let empty = tempfile::tempdir().unwrap();
    let none = super::cli::run(&["retain", "--before", "9"], &empty.path().join("none"));
    assert_eq!(none.status.code(), Some(7));
}

#[test]
fn a_store_is_backed_up_beside_its_application_restored_and_repaired() {
    let dirs: [tempfile::TempDir; 4] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let [source, backup, restored, repaired] = dirs.each_ref().map(tempfile::TempDir::path);
    let store = Options::new().segment_size(8192).open(source).unwrap();
    for n in 0..20_u8 {
        store.append("cart-7", Expected::Any, [Event::raw("sold", vec![b'a' + n; 700])]).unwrap();
    }
    let command = |arguments: &[&str], from: &Path, to: &Path| {
        let output = run(&[arguments, &[from.to_str().unwrap()]].concat(), to);
        let told = text(&output.stdout) + &text(&output.stderr);
        (
            output.status.code().unwrap(),
            serde_json::from_str::<serde_json::Value>(&told).unwrap_or(told.into()),
        )
    };
    let (code, told) = command(&["backup"], source, backup);
    assert_eq!(
        (code, &told["position"], &told["copied_segments"]),
        (0, &20.into(), &told["segments"]),
        "{told}"
    );
    let (code, told) = command(&["backup"], source, backup);
    assert_eq!((code, &told["copied_segments"]), (0, &0.into()), "{told}");
    let (code, told) = command(&["restore"], backup, restored);
    assert_eq!((code, &told["position"]), (0, &20.into()), "{told}");
    assert_eq!(run(&["verify"], restored).status.code(), Some(0));
    let (code, told) = command(&["restore"], backup, restored);
    assert_eq!(code, 2, "{told}");

    let segment = restored.join("log/00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let damaged = bytes.windows(8).position(|bytes| bytes == [b'b'; 8]).unwrap();
    bytes[damaged] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, told) = command(&["repair"], restored, repaired);
    assert_eq!((code, &told["saved"], &told["lost_events"]), (3, &19.into(), &1.into()), "{told}");
    assert_eq!(told["lost"][0]["streams"][0]["stream"], "cart-7", "{told}");
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(repaired.join("REPAIR.json")).unwrap()).unwrap();
    assert_eq!(kept, told, "the report stays with the store");
    assert_eq!(run(&["verify"], repaired).status.code(), Some(0));
    let (code, told) = command(&["repair", "--format", "table"], backup, repaired);
    assert_eq!(code, 2, "{told}");
}
