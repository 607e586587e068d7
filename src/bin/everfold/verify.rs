//! `everfold verify`: reads every byte of the log, and the rows of views.

use std::io::{self, Write};

use everfold::dump::Verdict;
use everfold::{Corruption, ErrorKind, ViewFiles, ViewInspector};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::render::{json_line, printable};
use crate::{Failure, Outcome, Plain, inspect};

const VIEWS: &str = "\
With --views the rows of each view on disk, of each generation, are copied to the folder for temporary files, read whole and
held against their digest; and what a view says of itself against the log: the store it belongs to, its name and generation,
a checkpoint that the log has reached, and the event there. That finds damage, and views of another log or store. It cannot
tell whether the rows are what the projection would make of the log now: for that the events have to be folded again, which
takes the program (`View::verify`).

Exit codes: 3 when the log is damaged; else 5 when a view is, and 1 when one could not be looked at (the folder for temporary
files has no room for a copy, say); else 4 for a torn tail, or 0. A view that is damaged costs no event: it is set aside and
made anew when its projection is registered.";

#[derive(clap::Args)]
#[command(after_long_help = VIEWS)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plain: Plain,
    /// The views as well: their rows against their digests, from copies, and what they say of themselves against the log.
    #[arg(long)]
    views: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let plain = &arguments.plain;
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
    let views = if arguments.views { Some(views(plain)?) } else { None };
    let of_views = views.iter().flatten().map(|view| view.outcome).max_by_key(|outcome| match outcome {
        Outcome::ViewDamaged => 2,
        Outcome::ViewUnread => 1,
        _ => 0,
    });
    match print(plain, &verdict, outcome, views.as_deref()) {
        // The exit code says it also to those who do not read on.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ if outcome == Outcome::Corrupt => Ok(outcome),
        _ => Ok(of_views.filter(|found| *found != Outcome::Well).unwrap_or(outcome)),
    }
}

/// What was found of the rows of a view.
#[derive(Serialize)]
struct OfView {
    view: String,
    generation: u32,
    serves: bool,
    checkpoint: Option<u64>,
    rows: Option<u64>,
    digest: Option<String>,
    set_aside: Option<usize>,
    problems: Vec<String>,
    #[serde(skip)]
    outcome: Outcome,
}

fn views(plain: &Plain) -> Result<Vec<OfView>, Failure> {
    let inspector = ViewInspector::open(&plain.store)?;
    let mut found = Vec::new();
    for files in inspector.views()? {
        found.extend(view(&inspector, files)?);
    }
    Ok(found)
}

/// None: it was removed meanwhile.
fn view(inspector: &ViewInspector, files: ViewFiles) -> Result<Option<OfView>, Failure> {
    let ViewFiles { name: view, generation, serves, .. } = files;
    let mut found = OfView {
        view,
        generation,
        serves,
        checkpoint: None,
        rows: None,
        digest: None,
        set_aside: None,
        problems: Vec::new(),
        outcome: Outcome::Well,
    };
    let copy = match inspector.copy(&found.view, Some(generation)) {
        Ok(copy) => copy,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let damaged = error.kind() == ErrorKind::View;
            found.outcome = if damaged { Outcome::ViewDamaged } else { Outcome::ViewUnread };
            found.problems.push(error.to_string());
            return Ok(Some(found));
        }
    };
    found.checkpoint = Some(copy.checkpoint().get());
    found.rows = copy.count(None).ok();
    found.digest = Some(copy.digest().to_string());
    found.set_aside = copy.set_aside().ok().map(|events| events.len());
    found.problems = copy.contradictions()?;
    if !found.problems.is_empty() {
        found.outcome = Outcome::ViewDamaged;
    }
    Ok(Some(found))
}

fn print_view(out: &mut dyn Write, view: &OfView) -> io::Result<()> {
    let word = match view.outcome {
        Outcome::Well => "good",
        Outcome::ViewUnread => "NOT LOOKED AT",
        _ => "DAMAGED",
    };
    let place = format!("view {}, generation {}", view.view, view.generation);
    for problem in &view.problems {
        writeln!(out, "{}", printable(&format!("{place}: {problem}")))?;
    }
    write!(out, "{word}: {}", printable(&place))?;
    if let (Some(checkpoint), Some(rows), Some(digest)) = (view.checkpoint, view.rows, &view.digest) {
        write!(out, ", from a copy, as of position {checkpoint}: {rows} rows, digest {digest}")?;
    }
    writeln!(out)
}

fn print(plain: &Plain, verdict: &Verdict, outcome: Outcome, views: Option<&[OfView]>) -> io::Result<()> {
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
            Outcome::TornTail => "good up to a torn tail",
            Outcome::Corrupt => "DAMAGED",
            _ => "good",
        };
        writeln!(
            out,
            "{word}: {} events in {} frames verify, up to position {}; {} bytes read",
            verdict.events, verdict.frames, verdict.last, verdict.bytes
        )?;
        views.into_iter().flatten().try_for_each(|view| print_view(&mut out, view))?;
    } else {
        let report = Report {
            events: verdict.events,
            frames: verdict.frames,
            last: verdict.last.get(),
            bytes: verdict.bytes,
            damage: verdict.damage.iter().map(Line::new).collect(),
            torn_tail: verdict.torn_tail.as_ref().map(Line::new),
            notes: &verdict.notes,
            views,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    views: Option<&'a [OfView]>,
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
