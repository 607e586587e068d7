//! The rules of the code's structure: layers, sizes, and who may do what. A broken rule is named with its file.

use crate::source::Source;

const MOST_LINES: usize = 500;
const MOST_LINES_OF_A_FUNCTION: usize = 70;

/// Each module uses only those of lines above its own, and itself. The base modules use each other.
const LAYERS: [&[&str]; 13] = [
    &["error", "event", "guard", "query", "retention", "batch", "codec", "sync", "watermark"],
    &["storage"],
    &["options"],
    &["log"],
    &["subscription", "dump", "backup", "repair"],
    &["view"],
    &["projection"],
    &["fold"],
    &["store"],
    &["typed"],
    &["decide"],
    &["kit"],
    &["fuzzing"],
];

/// Bytes in, value or reason out: no file, no storage, no clock.
const PURE: [&str; 34] = [
    "src/codec.rs",
    "src/decide/saved.rs",
    "src/fold/choice.rs",
    "src/fold/decimal.rs",
    "src/fold/partial.rs",
    "src/fold/sum.rs",
    "src/log/layout.rs",
    "src/log/crc.rs",
    "src/log/record.rs",
    "src/log/frame.rs",
    "src/log/index/key.rs",
    "src/log/index/memory.rs",
    "src/log/mark.rs",
    "src/log/matching.rs",
    "src/log/segment_header.rs",
    "src/log/store_file.rs",
    "src/typed/name.rs",
    "src/typed/read.rs",
    "src/typed/write.rs",
    "src/view/digest.rs",
    "src/view/key.rs",
    "src/view/key_hashes.rs",
    "src/view/key_list.rs",
    "src/view/key_order.rs",
    "src/view/keyed.rs",
    "src/view/levels/merge.rs",
    "src/view/levels/redo.rs",
    "src/view/levels/run.rs",
    "src/view/levels/writes.rs",
    "src/view/meta.rs",
    "src/view/numbers.rs",
    "src/view/pieces.rs",
    "src/view/short_key.rs",
    "src/view/succession.rs",
];

/// What only some files or folders may name in their code, and which. `bin/` is another crate, with rules below.
const RESERVED: [(&str, &[&str]); 13] = [
    ("unsafe", &["src/storage/map.rs"]),
    ("memmap2", &["src/storage/map.rs"]),
    ("sled::", &["src/view/sled_rows.rs", "src/view/sled_rows_tests.rs"]),
    ("crossbeam_epoch", &["src/view/sled_rows.rs"]),
    (
        "SledRows",
        &[
            "src/view/sled_rows.rs",
            "src/view/sled_rows_tests.rs",
            "src/view/damage_tests.rs",
            "src/projection/opened.rs",
            "src/view/inspect/copy.rs",
        ],
    ),
    ("bincode::", &["src/codec.rs"]),
    ("std::fs", DISK),
    ("fs::", DISK),
    ("rustix", &["src/storage/disk/", "src/log/bell.rs"]),
    (
        "storage.remove",
        &[
            "src/backup/destination.rs",
            "src/fold/partial_files.rs",
            "src/log/create.rs",
            "src/log/indexing.rs",
            "src/log/retaining.rs",
            "src/log/spare.rs",
            "src/log/recovery.rs",
            "src/storage/",
        ],
    ),
    (
        "storage.rename",
        &[
            "src/fold/partial_files.rs",
            "src/log/create.rs",
            "src/log/indexing.rs",
            "src/log/spare.rs",
            "src/storage/",
            "src/backup/destination.rs",
        ],
    ),
    (".write_at", WRITES),
    ("Access::Write", &["src/log/recovery.rs", "src/log/writer.rs", "src/storage/"]),
];

/// The files that call the operating system's file functions.
const DISK: &[&str] = &[
    "src/storage/disk/",
    "src/storage/map.rs",
    "src/view/directory.rs",
    "src/view/folder.rs",
    "src/view/inspect/files.rs",
    "src/view/levels/redo_files.rs",
    "src/view/levels/tests.rs",
    "src/view/sled_rows.rs",
    "src/view/sled_rows_tests.rs",
    "src/view/damage_tests.rs",
];

/// The files that write to segments and to what belongs to them.
const WRITES: &[&str] = &[
    "src/backup/destination.rs",
    "src/fold/partial_files.rs",
    "src/log/ahead.rs",
    "src/log/create.rs",
    "src/log/index/pages.rs",
    "src/log/indexing.rs",
    "src/log/outflow.rs",
    "src/log/recovery.rs",
    "src/log/spare.rs",
    "src/log/writer.rs",
    "src/storage/",
];

const NO_CONCEPTS: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "types", "misc"];

/// Words for which the vocabulary has others.
const BANNED_WORDS: [&str; 11] = [
    "high water",
    "lsn",
    "tailer",
    "daemon",
    "bookmark",
    "read model",
    "materialized table",
    "aggregate",
    "revision",
    "envelope",
    "topic",
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `log` for `src/log/frame.rs`; none for `lib.rs` and for what is not the library.
fn module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "bin").then_some(name)
}

/// The first parts of every path from the crate's root: `a` of `crate::a::b`, `a` and `c` of `crate::{a::b, c}`.
fn used(source: &Source) -> Vec<String> {
    let at_root = source.path.matches('/').count() == 1;
    let prefixes = if at_root { &["crate::", "super::"][..] } else { &["crate::"] };
    let mut found = Vec::new();
    for prefix in prefixes {
        for (at, _) in source.code.match_indices(prefix) {
            let rest = source.code[at + prefix.len()..].trim_start();
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_parts(group)),
                None => found.push(first_part(rest)),
            }
        }
    }
    found.retain(|part| !part.is_empty());
    found
}

fn first_part(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn group_parts(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(first_part(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts
}

fn broken_layers(source: &Source) -> Vec<String> {
    let Some(own) = module(&source.path) else { return Vec::new() };
    let Some(rank) = layer(own) else { return vec![format!("module {own} has no layer: give it one")] };
    let allowed = |used: &str| match layer(used) {
        // A name from the crate's root, such as a macro or what lib.rs re-exports.
        None => false,
        Some(other) => used == own || other < rank || (other, rank) == (0, 0),
    };
    let mut broken: Vec<String> = used(source)
        .into_iter()
        .filter(|used| source.path.matches('/').count() > 1 || layer(used).is_some())
        .filter(|used| !allowed(used))
        .map(|used| format!("{own} may not use crate::{used}"))
        .collect();
    if source.names("super::super") {
        broken.push("say crate:: instead of super::super::".into());
    }
    broken
}

fn broken_reservations(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/bin/") {
        let inside = ["sled::", "memmap2", "bincode::", "unsafe", "rustix"];
        let named = inside.into_iter().filter(|name| source.names(name));
        let mut broken: Vec<_> = named.map(|name| format!("the command line names {name}")).collect();
        if source.text.contains("#[path") || source.text.contains("include!(") {
            broken.push("the command line takes files of the library".into());
        }
        return broken;
    }
    let own = |places: &[&str]| places.iter().any(|place| source.path.starts_with(place));
    let reserved = RESERVED.iter().filter(|(name, places)| !own(places) && source.names(name));
    let mut broken: Vec<_> = reserved.map(|(name, _)| format!("it may not name {name}")).collect();
    if PURE.contains(&source.path.as_str()) {
        let outside = ["std::io", "io::", "std::fs", "storage", "Storage", "SystemTime", "Instant"];
        let named = outside.into_iter().filter(|name| source.names(name));
        broken.extend(named.map(|name| format!("a pure codec may not name {name}")));
    }
    broken
}

fn broken_sizes(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let mut broken = Vec::new();
    if lines > MOST_LINES {
        broken.push(format!("{lines} lines, and {MOST_LINES} are the most"));
    }
    let long = source.functions().into_iter().filter(|(_, _, lines)| *lines > MOST_LINES_OF_A_FUNCTION);
    broken.extend(long.map(|(name, line, lines)| {
        format!("line {line}: fn {name} has {lines} lines, and {MOST_LINES_OF_A_FUNCTION} are the most")
    }));
    broken
}

fn broken_names(source: &Source) -> Vec<String> {
    let words = source.path.trim_end_matches(".rs").split('/');
    let in_path = words.filter(|word| NO_CONCEPTS.contains(word)).map(str::to_owned);
    let inline = NO_CONCEPTS.iter().filter(|name| source.names(&format!("mod {name}")));
    let mut broken: Vec<String> = in_path
        .chain(inline.map(|name| (*name).to_owned()))
        .map(|name| format!("{name} names no concept"))
        .collect();
    for (number, line) in source.text.lines().enumerate() {
        let line = line.trim_start();
        if !(line.starts_with("///") || line.starts_with("//!")) {
            continue;
        }
        let said: Vec<_> = line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
        let said = format!(" {} ", said.join(" "));
        let banned = BANNED_WORDS.iter().filter(|word| said.contains(&format!(" {word} ")));
        broken.extend(banned.map(|word| format!("line {}: the vocabulary has no {word:?}", number + 1)));
    }
    broken
}

fn broken_rules(source: &Source) -> Vec<String> {
    let mut broken = broken_sizes(source);
    if source.path.starts_with("src/") {
        broken.extend(broken_layers(source));
        broken.extend(broken_reservations(source));
        broken.extend(broken_names(source));
    }
    broken.into_iter().map(|rule| format!("{}: {rule}", source.path)).collect()
}

#[test]
fn the_code_keeps_its_rules() {
    let sources: Vec<Source> =
        ["src", "tests", "benches", "examples"].into_iter().flat_map(Source::all_below).collect();
    let has = |path: &str| sources.iter().any(|source| source.path == path);
    assert!(has("src/lib.rs") && has("tests/it/layers.rs"), "the sources are where they are looked for");
    for path in PURE.iter().chain(DISK).chain(RESERVED.iter().flat_map(|(_, places)| *places)) {
        assert!(
            has(path) || sources.iter().any(|s| path.ends_with('/') && s.path.starts_with(path)),
            "{path}"
        );
    }
    let broken: Vec<String> = sources.iter().flat_map(broken_rules).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[track_caller]
fn breaks(path: &str, text: &str, rule: &str) {
    let broken = broken_rules(&Source::new(path, text));
    assert!(broken.iter().any(|broken| broken.contains(rule)), "{path}: {text:?} breaks {broken:?}");
}

#[track_caller]
fn keeps(path: &str, text: &str) {
    assert_eq!(broken_rules(&Source::new(path, text)), [""; 0], "{text:?}");
}

#[test]
fn a_module_that_looks_up_to_a_higher_layer_is_found() {
    breaks("src/log/walk.rs", "use crate::projection::Projection;", "log may not use crate::projection");
    breaks("src/log/walk.rs", "fn a() { let b: crate::view::View; }", "crate::view");
    breaks("src/storage/mod.rs", "use crate::{error::Error, log::{a, b}};", "crate::log");
    breaks("src/storage/mod.rs", "use crate::{\n    error::{Error, A},\n    store,\n};", "crate::store");
    breaks("src/subscription.rs", "use crate::dump::Dump;", "crate::dump");
    breaks("src/options.rs", "use super::store::Store;", "crate::store");
    breaks("src/view/state.rs", "use crate::Error;", "crate::Error");
    breaks("src/view/state.rs", "use super::super::store::Store;", "super::super");
    breaks("src/misplaced.rs", "", "has no layer");
    keeps("src/error.rs", "use crate::event::Position;\nuse crate::guard::{A, B};");
    keeps(
        "src/log/walk.rs",
        "use super::projection;\nuse crate::log::{a, b};\nuse crate::{error::E, options::O};",
    );
    keeps("src/watermark.rs", "mod tests { use super::*; }");
    keeps("src/log/walk.rs", "// crate::view\nconst A: &str = \"crate::view\";");
    keeps("src/bin/everfold/dump.rs", "use crate::table::Table;\nuse everfold::Store;");
}

#[test]
fn a_file_that_does_what_is_reserved_for_another_is_found() {
    breaks("src/view/rows.rs", "fn a(db: sled::Db) {}", "sled::");
    breaks("src/log/window.rs", "fn a() { unsafe { b() } }", "unsafe");
    breaks("src/log/window.rs", "use memmap2::Mmap;", "memmap2");
    breaks("src/log/files.rs", "use std::fs;", "std::fs");
    breaks("src/log/walk.rs", "fn a() { self.storage.remove(name); }", "storage.remove");
    breaks("src/log/reader.rs", "fn a() { file.write_at(&bytes, 0); }", ".write_at");
    breaks("src/log/frame.rs", "use std::io;", "std::io");
    breaks("src/log/record.rs", "use crate::storage::File;", "a pure codec may not name storage");
    breaks("src/bin/everfold/main.rs", "fn a() { sled::open(path); }", "sled::");
    breaks("src/bin/everfold/main.rs", "#[path = \"../../log/mod.rs\"]\nmod log;", "takes files");
    keeps("src/view/rows.rs", "//! Not sled::Db, and nothing unsafe.\n#[expect(unsafe_code)]\nfn a() {}");
    keeps("src/bin/everfold/main.rs", "use std::fs;");
}

#[test]
fn what_is_too_long_or_badly_named_is_found() {
    let lines = |n: usize| "    a();\n".repeat(n);
    breaks("src/event.rs", &format!("fn long() {{\n{}}}\n", lines(69)), "fn long has 71 lines");
    keeps("src/event.rs", &format!("fn long() {{\n{}}}\n", lines(68)));
    breaks("tests/it/append.rs", &"\n".repeat(501), "501 lines");
    keeps("tests/it/append.rs", &"\n".repeat(500));
    breaks("src/log/util.rs", "", "util names no concept");
    breaks("src/log/walk.rs", "mod helpers;", "helpers names no concept");
    breaks("src/log/walk.rs", "/// Keeps a bookmark.", "bookmark");
    keeps("src/log/walk.rs", "/// Goes through the log.\nmod commons;\nconst A: u8 = bookmark;");
}
