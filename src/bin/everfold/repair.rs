//! `everfold repair`: saves what can be read of a damaged store.

use std::io::{self, Write};
use std::path::PathBuf;

use everfold::{Repair, RepairReport};
use serde::Serialize;

use crate::render::{Format, json_line, printable};
use crate::{Failure, Outcome, verify};

/// The report, as JSON, in the new store's directory.
const REPORT: &str = "REPAIR.json";

/// The damaged store is only read; no application may have it open. Every event that verifies keeps its position, version,
/// id and time; events of the type "everfold.lost" stand in for those that do not. The new store has an id of its own, and
/// the report is also put there, as REPAIR.json. Exit code 3 tells that something is lost.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The damaged store's directory.
    source: PathBuf,
    /// Where the new store goes: an empty directory, or a new path.
    directory: PathBuf,
    /// Take also what verifies at the end of the log behind bytes that do not (suspect-tail), although nothing proves that
    /// it was ever acknowledged.
    #[arg(long)]
    accept_unproven_tail: bool,
    /// How to print: words on a terminal, else a JSON line, unless said.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let options = Repair::new().accept_unproven_tail(arguments.accept_unproven_tail);
    let report = everfold::repair(&arguments.source, &arguments.directory, &options)?;
    let mut json = Vec::new();
    json_line(&mut json, &Line::new(&report))?;
    std::fs::write(arguments.directory.join(REPORT), &json)?;
    let outcome = if report.is_complete() { Outcome::Well } else { Outcome::Corrupt };
    match print(arguments.format, &report, &json) {
        // The exit code and the file say it also to those who do not read on.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(outcome),
    }
}

fn print(format: Format, report: &RepairReport, json: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !format.is_table() {
        return out.write_all(json);
    }
    report.to_string().lines().try_for_each(|line| writeln!(out, "{}", printable(line)))
}

#[derive(Serialize)]
struct Line<'a> {
    source_id: String,
    store_id: String,
    log_start: u64,
    last: u64,
    saved: u64,
    complete: bool,
    lost_events: u64,
    lost: Vec<LostLine<'a>>,
    lost_before_start_from: Option<u64>,
    unproven: Option<UnprovenLine>,
    damage: Vec<verify::Line<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct LostLine<'a> {
    first: u64,
    last: u64,
    streams: Vec<StreamLine<'a>>,
}

#[derive(Serialize)]
struct StreamLine<'a> {
    stream: &'a str,
    events: u64,
}

#[derive(Serialize)]
struct UnprovenLine {
    position: u64,
    events: u64,
    accepted: bool,
}

impl<'a> Line<'a> {
    fn new(report: &'a RepairReport) -> Self {
        let stream = |(stream, events): &'a (String, u64)| StreamLine { stream, events: *events };
        Line {
            source_id: report.source_id.to_string(),
            store_id: report.store_id.to_string(),
            log_start: report.log_start.get(),
            last: report.last.get(),
            saved: report.saved,
            complete: report.is_complete(),
            lost_events: report.lost_events(),
            lost: report
                .lost
                .iter()
                .map(|lost| LostLine {
                    first: lost.first.get(),
                    last: lost.last.get(),
                    streams: lost.streams.iter().map(stream).collect(),
                })
                .collect(),
            lost_before_start_from: report.lost_before.map(|position| position.get()),
            unproven: report.unproven.as_ref().map(|unproven| UnprovenLine {
                position: unproven.position.get(),
                events: unproven.events,
                accepted: unproven.accepted,
            }),
            damage: report.damage.iter().map(verify::Line::new).collect(),
            notes: &report.notes,
        }
    }
}
