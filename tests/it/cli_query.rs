//! What the command line finds by type, tag, stream and query. Needs the feature `cli`.

use std::path::Path;
use std::process::{Command, Output};

use everfold::{Event, Expected, MIN_SEGMENT_BYTES, Options, Position, Query, Retention, Store};
use serde_json::{Value, json};

use crate::cli::{golden, run, text};

fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn positions(arguments: &[&str], store: &Path) -> Vec<u64> {
    let output = run(&[&["dump"], arguments].concat(), store);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    lines(&output).iter().map(|line| line["position"].as_u64().unwrap()).collect()
}

fn event(event_type: &str, tags: &[&str]) -> Event {
    tags.iter().fold(Event::raw(event_type, *b"payload"), |event, tag| event.tag(tag))
}

fn shop() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (stream, event) in [
        ("cart-1", event("opened", &["customer:1"])),
        ("cart-1", event("sold", &["customer:1", "vip"])),
        ("cart-2", event("sold", &["customer:2"])),
        ("cart-2", event("returned", &["customer:2", "vip", "vip"])),
        ("a, b; \"c\\", event("big deal", &["customer:1", "with blanks"])),
    ] {
        store.append(stream, Expected::Any, [event]).unwrap();
    }
    (dir, store)
}

#[test]
fn dump_shows_events_of_any_of_the_types_that_have_all_of_the_tags() {
    let (dir, _beside_a_writer) = shop();
    let found = |arguments: &[&str]| positions(arguments, dir.path());
    assert_eq!(found(&["--type", "sold"]), [2, 3]);
    assert_eq!(found(&["--type", "sold", "--type", "returned"]), [2, 3, 4]);
    assert_eq!(found(&["--tag", "vip"]), [2, 4]);
    assert_eq!(found(&["--tag", "vip", "--tag", "customer:2"]), [4]);
    assert_eq!(found(&["--tag", "vip", "--type", "sold", "--stream", "cart-1"]), [2]);
    assert_eq!(found(&["--tag", "vip", "--after", "2"]), [4]);
    assert_eq!(found(&["--tag", "vip", "--limit", "1"]), [2]);
    assert_eq!(found(&["--tag", "nobody"]), [0u64; 0]);
}

#[test]
fn dump_shows_what_matches_the_text_of_a_query() {
    let (dir, store) = shop();
    let sold = Query::all().types(["sold", "opened"]).tags(["customer:1"]);
    let cases = [
        ("type:sold,opened tag:customer:1", sold.clone()),
        ("type:sold type:opened\ttag:customer:1", sold.clone()),
        (" type:sold,opened tag:customer:1 ;stream:cart-2 ", sold.or(Query::all().stream("cart-2"))),
        ("tag:customer:2 tag:vip", Query::all().tags(["customer:2", "vip"])),
        (r#"stream:"a, b; \"c\\""#, Query::all().stream("a, b; \"c\\")),
        (r#"type:"big deal",returned"#, Query::all().types(["big deal", "returned"])),
        (r#"tag:"with blanks"; tag:nobody"#, Query::all().tags(["with blanks"])),
    ];
    for (text, query) in cases {
        let expected: Vec<u64> =
            store.read_query(&query, Position::START).map(|event| event.unwrap().position().get()).collect();
        assert!(!expected.is_empty(), "{text}");
        assert_eq!(positions(&["--query", text], dir.path()), expected, "{text}");
    }
    let both = ["--query", "stream:cart-1; tag:customer:2", "--type", "sold", "--tag", "vip"];
    assert_eq!(positions(&both, dir.path()), [2], "the options narrow each other");
}

#[test]
fn the_text_of_a_query_that_cannot_be_read_is_refused_with_the_place() {
    let (dir, _store) = shop();
    for (query, at, problem) in [
        ("", 1, "there is nothing"),
        ("tag:x;", 7, "there is nothing"),
        ("; tag:x", 1, "there is nothing"),
        ("tag:x sold", 7, "expected type:, tag: or stream:"),
        ("Type:sold", 1, "expected type:, tag: or stream:"),
        ("type: sold", 6, "expected a name"),
        ("type:sold,", 11, "expected a name"),
        ("type:\"\"", 6, "expected a name"),
        ("tag:é,b", 6, "write tag: again"),
        ("stream:a,b", 9, "in one stream"),
        ("stream:a stream:b", 10, "has named one before"),
        ("tag:\"a", 5, "no closing quotation mark"),
        ("tag:\"a\\n\"", 8, "stands before"),
        ("tag:\"a\"b", 8, "after the quotation mark"),
        ("tag:a\"b\"", 6, "between quotation marks"),
    ] {
        let output = run(&["dump", "--query", query], dir.path());
        assert_eq!(output.status.code(), Some(2), "{query:?}");
        let told = text(&output.stderr);
        assert!(
            told.contains(&format!("at character {at}: ")) && told.contains(problem),
            "{query:?}: {told}"
        );
        assert_eq!(output.stdout, b"");
    }
    for filter in ["--type=t", "--tag=t", "--stream=s", "--query=tag:t", "--raw"] {
        let output = run(&["dump", "--frames", filter], dir.path());
        assert_eq!(output.status.code(), Some(2), "frames have no {filter}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_everfold")).args(["dump", "--help"]).output().unwrap();
    assert!(text(&help.stdout).contains("items separated by `;`"));
}

#[test]
fn a_filter_changes_no_exit_code() {
    for (name, code) in crate::cli::CASES {
        let output = run(&["dump", "--query", "tag:nobody"], &golden(name));
        assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{name}");
        assert_eq!(run(&["tags"], &golden(name)).status.code(), Some(code), "tags {name}");
    }
}

#[test]
fn tags_tells_how_many_events_have_each_and_where_the_last_is() {
    let (dir, _beside_a_writer) = shop();
    let all = [
        json!({"tag": "customer:1", "events": 3, "last": 5}),
        json!({"tag": "customer:2", "events": 2, "last": 4}),
        json!({"tag": "vip", "events": 2, "last": 4}),
        json!({"tag": "with blanks", "events": 1, "last": 5}),
    ];
    assert_eq!(lines(&run(&["tags"], dir.path())), all);
    assert_eq!(lines(&run(&["tags", "--prefix", "customer:"], dir.path())), all[..2]);
    assert_eq!(lines(&run(&["tags", "--limit", "1"], dir.path())), all[..1]);
    let table = text(&run(&["tags", "--format", "table", "--prefix", "v"], dir.path()).stdout);
    assert_eq!(table, "events     last       tag\n2          4          vip\n");
    let table = text(&run(&["streams", "--format", "table", "--prefix", "cart"], dir.path()).stdout);
    let rows = ["version    first      last       stream", "2          1          2          cart-1"];
    assert!(table.starts_with(&format!("{}\n", rows.join("\n"))), "{table}");
}

#[test]
fn of_a_cut_log_streams_and_tags_tell_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir.path()).unwrap();
    for n in 0..300u64 {
        let (stream, tag) = if n < 5 { ("early", "was") } else { ("late", "is") };
        store.append(stream, Expected::Any, [event("t", &[tag])]).unwrap();
    }
    let first = store.retain(&Retention::new().before(Position::new(200))).unwrap().first.get();
    assert!(first > 100);
    for closed in [false, true] {
        let streams = run(&["streams"], dir.path());
        assert_eq!(streams.status.code(), Some(0), "closed: {closed}");
        assert_eq!(
            lines(&streams),
            [json!({"stream": "late", "version": 295, "first": first, "last": 300})],
            "versions are counted from the stream's first event, not from what is left of it"
        );
        let tags = run(&["tags"], dir.path());
        assert_eq!(lines(&tags), [json!({"tag": "is", "events": 301 - first, "last": 300})]);
        assert_eq!(positions(&["--tag", "is", "--limit", "1"], dir.path()), [first]);
        store.close().unwrap();
    }
}
