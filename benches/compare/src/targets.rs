//! What everfold is meant to reach, as ratios within one run.

use std::borrow::Cow;

use crate::figures::{Measured, Row};
use crate::workload::views::tables;

/// A ratio and what it should be.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// A name without spaces. Of those that end with `_at_most` less is better.
    pub(crate) name: Cow<'static, str>,
    /// What it is, in words.
    pub(crate) words: Cow<'static, str>,
    /// What was measured; none where the workload was left out or everfold cannot do it yet.
    pub(crate) value: Option<f64>,
    /// What is aimed at.
    pub(crate) target: f64,
}

impl Target {
    /// Whether less is better.
    pub(crate) fn is_limit(&self) -> bool {
        self.name.ends_with("_at_most")
    }

    /// Whether it is reached; none where nothing was measured.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.value.map(|value| if self.is_limit() { value <= self.target } else { value >= self.target })
    }
}

/// Logs that can find an event by something, but have no index of streams by name, types and tags.
const LOGS: [&str; 2] = ["raft-engine", "okaywal"];

/// Every target, with what these figures say about it.
pub(crate) fn targets(all: &[Measured]) -> Vec<Target> {
    let find = |key: &str| all.iter().find(|measured| measured.key == key);
    let over_raw = |key| find(key).and_then(|m| Some(m.own()?.over(m.raw()?)));
    let over_best = |key| find(key).and_then(|m| Some(m.own()?.over(m.best_peer(None)?)));
    let over_logs = find("deferred").and_then(|m| Some(m.own()?.over(m.best_peer(Some(&LOGS))?)));
    let threads = find("durable-64").and_then(Measured::own);
    let tickets = find("tickets").and_then(Measured::own);
    let mut targets = vec![
        target("durable_1_over_raw", "durable, 1 thread, over raw", over_raw("durable-1"), 0.95),
        target(
            "durable_64_over_raw",
            "durable, 64 threads, over raw group commit",
            over_raw("durable-64"),
            0.9,
        ),
        target(
            "durable_64_over_best_peer",
            "durable, 64 threads, over the best peer",
            over_best("durable-64"),
            1.5,
        ),
        target("tickets_over_durable_64", "1,024 in flight over 64 threads", quotient(tickets, threads), 4.0),
        target("deferred_over_raw", "deferred, batches of 1,000, over raw", over_raw("deferred"), 0.5),
        target(
            "deferred_over_best_log",
            "deferred, batches of 1,000, over the best log with lookups",
            over_logs,
            1.0,
        ),
        target("scan_over_raw", "scan over mapped read + crc", over_raw("scan"), 0.6),
        target("stream_over_best_peer", "one stream over the best peer", over_best("stream"), 1.5),
        target("guarded_over_unguarded", "guarded over unguarded append", guarded(find("guarded")), 0.8),
        target(
            "open_large_over_small_at_most",
            "opening a larger log over a smaller one",
            opening(find("open")),
            1.25,
        ),
        target(
            "open_over_segment_scan_at_most",
            "opening over reading one segment",
            over_raw_open(find("open")),
            2.0,
        ),
    ];
    targets.extend(of_views(all));
    targets
}

/// A replay of events that are folded apart and put together.
const DECLARED: &str = "everfold, declared fold";
/// The same by one thread.
const ALONE: &str = "everfold, the same by 1 thread";
const RARE: &str = "replay-rare";
const OFTEN: &str = "replay-often";
/// A replay by a projection: one event after the other.
const SERIAL: &str = "everfold";

/// Those of views.
fn of_views(all: &[Measured]) -> Vec<Target> {
    let find = |key: &str| all.iter().find(|measured| measured.key == key);
    let over_raw = |key| find(key).and_then(|m| Some(m.own()?.over(m.raw()?)));
    let mut targets = of_replays(all);
    targets.extend([
        target(
            "declared_over_serial",
            "replay as a declared fold, on all cores, over the same by one thread",
            find(RARE).and_then(|m| Some(m.row(DECLARED)?.over(m.row(ALONE)?))),
            1.5,
        ),
        target(
            "replay_over_in_memory_fold",
            "replay into a durable view over a fold into a map, both read from the log",
            find(RARE).and_then(|m| Some(m.own()?.over(m.row("HashMap, of the log")?))),
            0.5,
        ),
        target(
            "replay_over_decoded_fold",
            "the same over a fold of events that are decoded already",
            over_raw(RARE),
            0.5,
        ),
        target(
            "visible_over_append_at_most",
            "append until visible over the append alone",
            over_raw("visible"),
            2.0,
        ),
        target("sixteen_over_one", "events applied by 16 projections over one", over_raw("at-once"), 0.5),
    ]);
    targets
}

/// Those of replays into a view, beside tables of other engines.
fn of_replays(all: &[Measured]) -> Vec<Target> {
    let mut targets = Vec::new();
    for (key, own, name, words, target) in [
        (RARE, SERIAL, "replay_rare", "replay, rows rarely repeat", 1.5),
        (RARE, DECLARED, "declared_rare", "… as a declared fold", 1.5),
        (OFTEN, SERIAL, "replay_often", "replay, rows repeat", 3.0),
        (OFTEN, DECLARED, "declared_often", "… as a declared fold", 3.0),
    ] {
        for (way, of) in WAYS {
            let measured = all.iter().find(|measured| measured.key == key);
            let value = measured.and_then(|m| Some(m.row(own)?.over(m.best_where(of)?)));
            let (name, words) =
                (format!("{name}_over_{way}"), format!("{words}, over {}", way.replace('_', " ")));
            targets.push(Target { name: name.into(), words: words.into(), value, target });
        }
    }
    targets
}

/// Of which of the other engines the best is meant, by their names.
const WAYS: [(&str, fn(&str) -> bool); 4] = [
    ("best_peer", |name| !name.ends_with(tables::OF_LOG)),
    ("best_peer_in_batches_of_100000", |name| name.ends_with(tables::SUMS_OF_100_000)),
    ("best_peer_of_each_event", |name| name.ends_with(tables::EACH)),
    ("best_peer_of_log", |name| name.ends_with(tables::OF_LOG)),
];

fn target(name: &'static str, words: &'static str, value: Option<f64>, target: f64) -> Target {
    Target { name: name.into(), words: words.into(), value, target }
}

fn quotient(a: Option<&Row>, b: Option<&Row>) -> Option<f64> {
    Some(a?.over(b?))
}

/// The slower of the two guards, over the append without.
fn guarded(measured: Option<&Measured>) -> Option<f64> {
    let measured = measured?;
    let plain = measured.row("everfold, deferred")?;
    let version = measured.row("everfold, deferred, version guard")?.over(plain);
    let tag = measured.row("everfold, deferred, tag guard").map(|row| row.over(plain));
    Some(tag.map_or(version, |tag| tag.min(version)))
}

fn own_openings(measured: &Measured) -> Option<(&Row, &Row)> {
    let mut own = measured.rows.iter().filter(|row| row.name.starts_with("everfold"));
    Some((own.next()?, own.next()?))
}

fn opening(measured: Option<&Measured>) -> Option<f64> {
    let (small, large) = own_openings(measured?)?;
    Some(large.over(small))
}

fn over_raw_open(measured: Option<&Measured>) -> Option<f64> {
    let (_, large) = own_openings(measured?)?;
    Some(large.over(measured?.raw()?))
}
