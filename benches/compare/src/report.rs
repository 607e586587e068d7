//! The tables, the ratios, and what each engine promises.

use std::fmt::Write;

use crate::figures::Measured;
use crate::peer::{About, Peer};
use crate::peers::everfold_peer::Everfold;
use crate::peers::{commitlog::Commitlog, fjall::Fjall, okaywal::Okaywal, raft_engine::RaftEngine};
use crate::peers::{redb::Redb, sled::Sled, sqlite::Sqlite, umadb::Umadb};
use crate::raw::Raw;
use crate::targets::Target;

const ENGINES: [About; 10] = [
    Raw::ABOUT,
    Everfold::ABOUT,
    RaftEngine::ABOUT,
    Okaywal::ABOUT,
    Commitlog::ABOUT,
    Fjall::ABOUT,
    Redb::ABOUT,
    Sled::ABOUT,
    Sqlite::ABOUT,
    Umadb::ABOUT,
];

/// A figure, short: `1.23 M`, `45.6 k`, `7.89`.
pub(crate) fn short(figure: f64) -> String {
    let (figure, unit) = match figure {
        f if f >= 999_500.0 => (f / 1e6, " M"),
        f if f >= 999.5 => (f / 1e3, " k"),
        f => (f, ""),
    };
    match figure {
        f if f >= 99.95 => format!("{f:.0}{unit}"),
        f if f >= 9.995 => format!("{f:.1}{unit}"),
        f => format!("{f:.2}{unit}"),
    }
}

/// A workload's table: medians, least and greatest, and the ratio to the first row.
pub(crate) fn table(measured: &Measured) -> String {
    let mut text = String::new();
    let base = measured.raw().or(measured.rows.first());
    let against = base.map_or_else(String::new, |row| format!("over {}", row.name));
    let _ = writeln!(text, "\n{} ({})", measured.title, measured.unit);
    let _ = writeln!(text, "  {:<34} {:>9}  {:>9} … {:<9}  {against}", "", "median", "least", "greatest");
    for row in &measured.rows {
        let (least, greatest) = row.spread();
        let ratio = base.map_or(f64::NAN, |base| row.over(base));
        let _ = writeln!(
            text,
            "  {:<34} {:>9}  {:>9} … {:<9}  {ratio:.3}",
            row.name,
            short(row.median()),
            short(least),
            short(greatest)
        );
    }
    text
}

/// The targets, in words and as one `RATIO` line each.
pub(crate) fn ratios(targets: &[Target]) -> String {
    let mut text = String::from("\ntargets\n");
    for target in targets {
        let sign = if target.is_limit() { "≤" } else { "≥" };
        let value = target.value.map_or("not measured".to_owned(), |value| format!("{value:.3}"));
        let verdict = match target.is_met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        let _ = writeln!(text, "  {:<74} {value:>12} {sign} {:<5} {verdict}", target.words, target.target);
    }
    text.push('\n');
    for target in targets {
        let value = target.value.map_or("none".to_owned(), |value| format!("{value:.3}"));
        let _ = writeln!(text, "RATIO {} {value} {}", target.name, target.target);
    }
    text
}

/// What each engine promises, so that like is compared with like.
pub(crate) fn promises() -> String {
    let mut text = String::from("\nengines\n");
    for about in ENGINES {
        let _ = writeln!(
            text,
            "  {} {}\n    durable:  {}\n    deferred: {}\n    index:    {}\n    checksums in a scan: {}",
            about.name,
            version(about.crate_name),
            about.durable,
            about.deferred,
            about.index,
            about.checks
        );
    }
    text
}

/// The version that was built.
fn version(crate_name: &str) -> &'static str {
    const LOCK: &str = include_str!("../Cargo.lock");
    let entry = format!("name = \"{crate_name}\"\nversion = \"");
    let version = LOCK.split_once(&entry).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("", |(version, _)| version)
}
