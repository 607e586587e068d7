//! `everfold verify`: reads every byte of the log.

use std::io::{self, Write};

use everfold::Corruption;
use everfold::dump::Verdict;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::render::{json_line, printable};
use crate::{Failure, Outcome, Plain, inspect};

pub(crate) fn run(plain: &Plain) -> Result<Outcome, Failure> {
    let inspector = inspect(plain)?;
    // Hidden unless standard error is a terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")
    {
        bar.set_style(style);
    }
    let verdict = inspector.verify(|progress| {
        if bar.length() != Some(progress.total) {
            bar.set_length(progress.total);
        }
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();

    let outcome = match (verdict.damage.is_empty(), &verdict.torn_tail) {
        (false, _) => Outcome::Corrupt,
        (true, Some(_)) => Outcome::TornTail,
        (true, None) => Outcome::Well,
    };
    match print(plain, &verdict, outcome) {
        // The exit code says it also to those who do not read on.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(outcome),
    }
}

fn print(plain: &Plain, verdict: &Verdict, outcome: Outcome) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let found = verdict.damage.iter().chain(&verdict.torn_tail);
    if plain.format.is_table() {
        for corruption in found {
            writeln!(out, "{}", printable(&corruption.to_string()))?;
        }
        for note in &verdict.notes {
            writeln!(out, "note: {}", printable(note))?;
        }
        let word = match outcome {
            Outcome::Well => "good",
            Outcome::TornTail => "good up to a torn tail",
            Outcome::Corrupt => "DAMAGED",
        };
        writeln!(
            out,
            "{word}: {} events in {} frames verify, up to position {}; {} bytes read",
            verdict.events, verdict.frames, verdict.last, verdict.bytes
        )?;
    } else {
        let report = Report {
            events: verdict.events,
            frames: verdict.frames,
            last: verdict.last.get(),
            bytes: verdict.bytes,
            damage: verdict.damage.iter().map(Line::new).collect(),
            torn_tail: verdict.torn_tail.as_ref().map(Line::new),
            notes: &verdict.notes,
        };
        json_line(&mut out, &report)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Report<'a> {
    events: u64,
    frames: u64,
    last: u64,
    bytes: u64,
    damage: Vec<Line<'a>>,
    torn_tail: Option<Line<'a>>,
    notes: &'a [String],
}

/// Damage, to be printed.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    damage: &'static str,
    file: &'a str,
    offset: u64,
    position: Option<u64>,
    detail: &'a str,
    advice: &'static str,
}

impl<'a> Line<'a> {
    pub(crate) fn new(corruption: &'a Corruption) -> Self {
        Line {
            damage: corruption.damage.name(),
            file: &corruption.file,
            offset: corruption.offset,
            position: corruption.position.map(|position| position.get()),
            detail: &corruption.detail,
            advice: corruption.damage.advice(),
        }
    }
}
