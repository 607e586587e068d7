//! `everfold views` and `verify --views`: views of a store that is closed, open elsewhere, damaged or not there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use everfold::{
    ApplyError, Event, Expected, Index, Key, NamedView, Projection, RecordedEvent, Store, View, ViewBatch,
    ViewInspector, Views,
};
use serde_json::{Value, json};

use crate::cli::text;

/// How much each customer bought of each item.
struct Bought;

/// How much was sold of each item, and whether it is a bestseller.
struct ByItem;

/// Purchases by their quantity.
struct ByQuantity;

impl NamedView for ByItem {
    const NAME: &'static str = "by-item";
    type Key = String;
    type Value = (i64, Option<String>);
}

impl Index<(String, u32), u64> for ByQuantity {
    const NAME: &'static str = "by-quantity";
    type Key = u64;

    fn keys(_key: &(String, u32), quantity: &u64) -> impl IntoIterator<Item = u64> {
        [*quantity]
    }
}

impl Projection for Bought {
    const NAME: &'static str = "bought";
    const GENERATION: u32 = 3;
    type Key = (String, u32);
    type Value = u64;

    fn views() -> Views<(String, u32), u64> {
        Views::new().view::<ByItem>().index::<ByQuantity>()
    }

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<(String, u32), u64>) -> Result<(), ApplyError> {
        let (item, quantity): (u32, u64) = e.decode()?;
        view.update((e.stream().to_owned(), item), |sum| {
            Some(sum.unwrap_or(0) + quantity).filter(|sum| *sum != 0 && quantity != 0)
        })?;
        let sold = i64::try_from(quantity)?;
        view.of::<ByItem>()?.update(format!("item, {item}"), |found| {
            let sum = found.map_or(0, |(sum, _)| sum) + sold;
            Some((sum, (sum > 5).then(|| "best".to_owned())))
        })
    }
}

fn buy(store: &Store, customer: &str, item: u32, quantity: u64) -> everfold::Position {
    let event = Event::json("bought", &(item, quantity)).unwrap();
    store.append(customer, Expected::Any, [event]).unwrap().position
}

fn open(path: &Path) -> (Store, View<(String, u32), u64>) {
    let store = Store::open(path).unwrap();
    let view = store.project(Bought).unwrap();
    (store, view)
}

/// A closed store with rows: jsmith 1 → 4, jsmith 2 → 2, jsmithers 1 → 7, zed 9 → 1.
fn closed(path: &Path) {
    let (store, view) = open(path);
    for (customer, item, quantity) in
        [("jsmith", 1, 3), ("jsmith", 1, 1), ("jsmith", 2, 2), ("jsmithers", 1, 7), ("zed", 9, 1)]
    {
        buy(&store, customer, item, quantity);
    }
    view.wait_for(store.watermark(), Duration::MAX).unwrap();
    store.close().unwrap();
}

fn everfold(before: &[&str], store: &Path, after: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everfold"));
    command.args(before).arg(store).args(after).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const TYPED: [&str; 4] = ["--key", "string,u32", "--value", "u64"];

fn scan(store: &Path, options: &[&str]) -> Vec<Value> {
    lines(&everfold(&["views", "scan"], store, &[&["bought"], &TYPED[..], options].concat()))
}

fn keys(rows: &[Value]) -> Vec<Value> {
    rows.iter().map(|row| row["key"].clone()).collect()
}

#[test]
fn get_prints_the_row_of_a_key_and_says_as_of_which_position() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let get = |options: &[&str]| everfold(&["views", "get"], dir.path(), &[&["bought"], options].concat());
    let output = get(&[&TYPED[..], &["jsmith,1", "--json"]].concat());
    assert_eq!(lines(&output), [json!({"key": ["jsmith", 1], "value": 4, "as_of": 5})]);
    let said = text(&output.stderr);
    assert!(said.contains("generation 3: from a copy, as of position 5"), "{said}");
    let table = get(&[&TYPED[..], &["jsmith,1", "--format", "table"]].concat());
    assert!(text(&table.stdout).lines().any(|line| line.split_whitespace().eq(["jsmith,1", "4"])));
    let bytes = get(&[r"jsmith\x00\x01\x00\x00\x00\x01"]);
    assert_eq!(lines(&bytes)[0]["value"], "0400000000000000");
    let missing = get(&[&TYPED[..], &["jsmith,3"]].concat());
    assert_eq!(missing.status.code(), Some(7));
    assert!(text(&missing.stderr).contains("no row"), "{}", text(&missing.stderr));
}

#[test]
fn scan_takes_prefixes_ranges_either_end_and_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let (a, b, c, d) =
        (json!(["jsmith", 1]), json!(["jsmith", 2]), json!(["jsmithers", 1]), json!(["zed", 9]));
    let all = [a.clone(), b.clone(), c.clone(), d.clone()];
    assert_eq!(keys(&scan(dir.path(), &[])), all);
    assert_eq!(keys(&scan(dir.path(), &["--prefix", "jsmith"])), all[..3]);
    assert_eq!(keys(&scan(dir.path(), &["--prefix", "jsmith,"])), all[..2]);
    assert_eq!(keys(&scan(dir.path(), &["--prefix", "jsmith,2"])), all[1..2]);
    assert_eq!(keys(&scan(dir.path(), &["--from", "jsmith,2", "--to", "zed"])), [b, c.clone()]);
    assert_eq!(keys(&scan(dir.path(), &["--reverse", "--limit", "2"])), [d, c]);
    assert_eq!(keys(&scan(dir.path(), &["--prefix", "nobody"])), [Value::Null; 0]);
}

#[test]
fn named_views_and_indexes_are_read_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let run = |options: &[&str]| everfold(&["views", "scan"], dir.path(), &[&["bought"], options].concat());
    let named = run(&["--view", "by-item", "--key", "string", "--value", "i64,option:string"]);
    let row = |item: &str, value: Value| json!({"key": item, "value": value, "as_of": 5});
    assert_eq!(
        lines(&named),
        [
            row("item, 1", json!([11, "best"])),
            row("item, 2", json!([2, null])),
            row("item, 9", json!([1, null])),
        ]
    );
    let table = run(&["--view", "by-item", "--key", "string", "--format", "table"]);
    assert!(text(&table.stdout).contains("\"item, 9\""), "a comma is quoted");
    let by = ["--index", "by-quantity", "--index-key", "u64"];
    let found = scan(dir.path(), &[&by[..], &["--from", "2", "--to", "7"]].concat());
    let found: Vec<_> = found.iter().map(|row| (row["found_by"].clone(), row["key"].clone())).collect();
    assert_eq!(found, [(json!(2), json!(["jsmith", 2])), (json!(4), json!(["jsmith", 1]))]);
    let entries = lines(&run(&["--index", "by-quantity", "--limit", "1"]));
    assert_eq!(entries[0]["entry"], r"\x00\x00\x00\x00\x00\x00\x00\x01zed\x00\x01\x00\x00\x00\t");
    for unknown in [["--view", "by-price"], ["--index", "by-price"]] {
        let output = run(&unknown);
        assert_eq!(output.status.code(), Some(7));
        assert!(text(&output.stderr).contains("it has by-"), "{}", text(&output.stderr));
    }
}

#[test]
fn types_that_do_not_fit_are_told_and_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    for (types, says) in [
        (["--key", "string,u64", "--value", "u64"], "a key is not of the type"),
        (["--key", "u8", "--value", "u64"], "a key is not of the type"),
        (["--key", "string,u32", "--value", "u32"], "a value is not of the type"),
        (["--key", "string,u32", "--value", "string"], "a value is not of the type"),
        (["--key", "string,f64", "--value", "u64"], "no key has floats"),
        (["--key", "text", "--value", "u64"], "is no type"),
    ] {
        let output = everfold(&["views", "scan"], dir.path(), &[&["bought"], &types[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{types:?}");
        assert!(text(&output.stderr).contains(says), "{types:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{types:?}");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    closed(dir.path());
    let (store, _view) = open(dir.path());
    store.backup(backup.path().join("copy")).unwrap();
    store.close().unwrap();
    let says = |store: &Path, options: &[&str], expected: &str| {
        let output = everfold(&["views", "scan"], store, options);
        assert_eq!(output.status.code(), Some(7), "{expected}");
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
    };
    says(&backup.path().join("copy"), &["bought"], "has no views: a backup has none");
    says(dir.path(), &["sold"], "it has bought");
    says(dir.path(), &["bought", "--generation", "2"], "has generation 3");
    says(&dir.path().join("nowhere"), &["bought"], "open the directory");
    let output = everfold(&["views", "scan"], dir.path(), &["../log"]);
    assert_eq!(output.status.code(), Some(2), "a name is no path");
    let output = everfold(&["verify", "--views"], &backup.path().join("copy"), &[]);
    assert_eq!(lines(&output)[0]["views"], json!([]));
}

#[test]
fn the_overview_has_what_notes_say_and_rows_without_a_note() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let overview = || lines(&everfold(&["views", "--json"], dir.path(), &[]));
    let digest = ViewInspector::open(dir.path()).unwrap().copy("bought", None).unwrap().digest();
    let line = &overview()[0];
    assert_eq!(
        (&line["view"], &line["state"], &line["generation"]),
        (&json!("bought"), &json!("closed"), &json!(3))
    );
    assert_eq!((&line["checkpoint"], &line["lag"], &line["rows"]), (&json!(5), &json!(0), &json!(4)));
    assert_eq!(
        (&line["serves"], &line["building"], &line["set_aside"]),
        (&json!(3), &json!(null), &json!(0))
    );
    assert_eq!((&line["digest"], &line["cause"]), (&json!(digest.to_string()), &json!(null)));
    assert!(line["bytes"].as_u64().unwrap() > 0);
    fs::remove_file(dir.path().join("views/bought/3.json")).unwrap();
    let line = &overview()[0];
    assert_eq!(
        (&line["view"], &line["state"], &line["rows"]),
        (&json!("bought"), &json!("unknown"), &json!(null))
    );
    let table = everfold(&["views", "--format", "table"], dir.path(), &[]);
    assert!(text(&table.stdout).starts_with("view "), "{}", text(&table.stdout));
}

/// Everything below a directory, with its bytes.
fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(contents(&entry.path()));
        } else {
            found.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_closed_store_is_not_written_and_no_copy_is_left_behind() {
    let (dir, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed(dir.path());
    let before = contents(dir.path());
    for (command, rest) in [
        (&["views", "scan"][..], &["bought"][..]),
        (&["views", "get"], &["bought", "nobody"]),
        (&["views", "changes"], &["bought", "--times", "1", "--every", "0.01"]),
        (&["views", "scan"], &["bought", "--key", "u8"]),
        (&["views"], &[]),
        (&["verify", "--views"], &[]),
    ] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_everfold"));
        run.args(command).arg(dir.path()).args(rest).env("TMPDIR", temporary.path());
        assert!(run.output().unwrap().status.code().is_some());
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "{command:?}");
    }
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn the_rows_of_an_open_store_are_those_of_some_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (store, view) = open(dir.path());
    for n in 0..60u32 {
        for item in 0..40 {
            buy(&store, &format!("customer-{item}"), n % 7, 1);
        }
        if n % 20 != 19 {
            continue;
        }
        view.wait_for(store.watermark(), Duration::MAX).unwrap();
        let copy = ViewInspector::open(dir.path()).unwrap().copy("bought", None).unwrap();
        let as_of = copy.checkpoint();
        assert!(as_of <= store.watermark());
        assert_eq!(copy.contradictions().unwrap(), [""; 0]);
        let mut expected = std::collections::BTreeMap::new();
        for event in store.read(everfold::Position::START).map(Result::unwrap) {
            if event.position() <= as_of {
                let (item, quantity): (u32, u64) = event.decode().unwrap();
                let mut key = Vec::new();
                (event.stream().to_owned(), item).encode(&mut key);
                *expected.entry(key).or_insert(0u64) += quantity;
            }
        }
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let rows: Vec<_> = copy.scan(None, all.0, all.1).unwrap().map(Result::unwrap).collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(key, sum)| (key, sum.to_le_bytes().to_vec())).collect();
        assert_eq!(rows, expected, "as of {as_of}");
    }
    let output = everfold(&["verify", "--views"], dir.path(), &[]);
    assert_eq!(lines(&output)[0]["views"][0]["problems"], json!([]));
}

#[test]
fn changes_are_told_while_an_application_appends_and_what_an_interruption_leaves_is_removed() {
    let (dir, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, view) = open(dir.path());
    buy(&store, "jsmith", 1, 1);
    let second = buy(&store, "zed", 9, 1);
    view.wait_for(second, Duration::MAX).unwrap();
    wait_until_on_disk(dir.path(), second);
    let mut run = Command::new(env!("CARGO_BIN_EXE_everfold"));
    run.args(["views", "changes"]).arg(dir.path()).args(["bought", "--every", "0.1"]).args(TYPED);
    run.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    // It says so when it has its first copy.
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("as of position 2"), "{line}");
    buy(&store, "jsmith", 1, 4);
    buy(&store, "anna", 2, 5);
    buy(&store, "zed", 9, 0);
    let told = BufReader::new(child.stdout.take().unwrap()).lines().take(3);
    let mut told: Vec<Value> = told.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(told.iter().all(|change| change["checkpoint"].as_u64() > Some(2)));
    told.sort_by_key(|change| change["key"].to_string());
    let told: Vec<_> = told.iter().map(|c| (c["key"].clone(), c["old"].clone(), c["new"].clone())).collect();
    assert_eq!(
        told,
        [
            (json!(["anna", 2]), json!(null), json!(5)),
            (json!(["jsmith", 1]), json!(1), json!(5)),
            (json!(["zed", 9]), json!(1), json!(null)),
        ]
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(fs::read_dir(temporary.path()).unwrap().count(), 0, "it had no time to remove its copy");
    let mut next = Command::new(env!("CARGO_BIN_EXE_everfold"));
    next.args(["views", "scan"]).arg(dir.path()).arg("bought").env("TMPDIR", temporary.path());
    assert!(next.output().unwrap().status.success());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "the next one removes it");
}

fn wait_until_on_disk(store: &Path, position: everfold::Position) {
    let since = Instant::now();
    while ViewInspector::open(store).unwrap().copy("bought", None).unwrap().checkpoint() < position {
        assert!(since.elapsed() < Duration::from_secs(60), "it is not written");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn verify_tells_damaged_and_foreign_views_from_good_ones() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed(dir.path());
    closed(other.path());
    let verify = |options: &[&str]| everfold(&[&["verify"], options].concat(), dir.path(), &[]);
    let good = verify(&["--views", "--format", "table"]);
    assert_eq!(good.status.code(), Some(0));
    let said = text(&good.stdout);
    assert!(
        said.contains("good: view bought, generation 3, from a copy, as of position 5: 4 rows"),
        "{said}"
    );
    let view = dir.path().join("views/bought/3");
    let kept = contents(&view);
    let damage = |problem: &str| {
        assert_eq!(verify(&[]).status.code(), Some(0), "the log is good");
        let output = verify(&["--views", "--format", "table"]);
        assert_eq!(output.status.code(), Some(5), "{problem}: {}", text(&output.stdout));
        let said = text(&output.stdout);
        assert!(said.contains("DAMAGED: view bought") && said.contains(problem), "{problem}: {said}");
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        for (path, bytes) in &kept {
            fs::write(path, bytes).unwrap();
        }
    };
    for (path, bytes) in &kept {
        let foreign = other.path().join(path.strip_prefix(dir.path()).unwrap());
        if foreign.exists() {
            fs::copy(foreign, path).unwrap();
        } else {
            assert!(!bytes.is_empty());
            fs::remove_file(path).unwrap();
        }
    }
    damage("it belongs to the store");
    fs::write(view.join("db"), [7; 4096]).unwrap();
    damage("");
    assert_eq!(verify(&["--views"]).status.code(), Some(0), "what was put back is good");
    // Ahead of the log.
    let (store, rows) = open(other.path());
    let last = buy(&store, "jsmith", 1, 1);
    rows.wait_for(last, Duration::MAX).unwrap();
    store.close().unwrap();
    let behind = tempfile::tempdir().unwrap();
    let fresh = Store::open(behind.path()).unwrap();
    fresh.close().unwrap();
    let target = behind.path().join("views/bought/3");
    fs::create_dir_all(&target).unwrap();
    for (path, bytes) in contents(&other.path().join("views/bought/3")) {
        let name = path.strip_prefix(other.path().join("views/bought/3")).unwrap().to_owned();
        fs::create_dir_all(target.join(&name).parent().unwrap()).unwrap();
        fs::write(target.join(&name), bytes).unwrap();
    }
    let output = everfold(&["verify", "--views"], behind.path(), &[]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stdout).contains("the log ends before that"), "{}", text(&output.stdout));
}

#[test]
fn help_says_what_is_compared_and_what_cannot_be_proved() {
    for (arguments, words) in [
        (&["verify"][..], "the events have to be folded again"),
        (&["verify"], "5 when a view is"),
        (&["views", "changes"], "once in between is told once"),
        (&["views", "scan"], "--key a key is"),
        (&["views"], "rebuilt_because why"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_everfold")).args(arguments).arg("--help").output().unwrap();
        assert!(text(&output.stdout).contains(words), "{arguments:?}: {}", text(&output.stdout));
    }
}
