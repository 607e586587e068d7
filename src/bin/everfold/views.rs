//! `everfold views`: the views, as their notes say, and their commands.

use std::panic;
use std::path::PathBuf;

use clap::Subcommand;
use everfold::{ViewFiles, ViewInspector, ViewNote};
use serde_json::json;

use crate::overview::{Line, end, list};
use crate::render::{Format, time};
use crate::{Failure, Outcome, view_changes, view_rows};

const NOTES: &str = "\
Columns: state is what the projection was doing when the note was written (as_of): rebuilding, live, paused, retrying,
stopped or closed; 'unknown' stands for rows without a note. lag is how many events of the log the view lacks. serves is
the generation whose rows are served, and building how far rows are that are built beside them. cause says why a
projection stopped, and rebuilt_because why the view that was there before was set aside. bytes are those of the files.

A note may be some seconds older than the view. `get`, `scan` and `changes` read the rows themselves. A store whose
directory is called like one of these commands is given as ./get.";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_long_help = NOTES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The store's directory.
    #[arg(required = true)]
    store: Option<PathBuf>,
    #[command(flatten)]
    print: Print,
}

#[derive(Subcommand)]
enum Command {
    /// The value of a key, from a copy of the view's files.
    Get(view_rows::Get),
    /// The rows of a view or index, or some of them, from a copy of the view's files.
    Scan(view_rows::Scan),
    /// What becomes of the rows of a view, by comparing copies of its files that are taken one after the other.
    Changes(view_changes::Arguments),
}

/// How to print.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct Print {
    /// How to print: a table on a terminal, else JSON lines, unless said.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Print {
    pub(crate) fn format(self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    match &arguments.command {
        None => overview(arguments),
        Some(Command::Get(get)) => view_rows::get(get),
        Some(Command::Scan(scan)) => view_rows::scan(scan),
        Some(Command::Changes(changes)) => view_changes::run(changes),
    }
}

fn overview(arguments: &Arguments) -> Result<Outcome, Failure> {
    let store = arguments.store.clone().unwrap_or_default();
    let inspector = ViewInspector::open(&store)?;
    let (last, _) = end(&everfold::dump::Inspector::open(&store)?)?;
    let (notes, files) = (ViewNote::read_all(&store)?, inspector.views()?);
    let of =
        |note: &ViewNote, file: &ViewFiles| (&note.name, note.generation) == (&file.name, file.generation);
    let mut lines: Vec<_> = notes
        .iter()
        .map(|note| {
            (note.name.clone(), note.generation, Some(note), files.iter().find(|file| of(note, file)))
        })
        .collect();
    let without = files.iter().filter(|file| !notes.iter().any(|note| of(note, file)));
    lines.extend(without.map(|file| (file.name.clone(), file.generation, None, Some(file))));
    lines.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let lines = lines.into_iter().map(|(_, _, note, file)| line(note, file, last));
    let widths = [20, 10, 10, 10, 9, 9, 9, 6, 10, 10, 30, 50, 10, 30, 0];
    list(arguments.print.format(), &widths, lines)?;
    Ok(Outcome::Well)
}

fn line(note: Option<&ViewNote>, file: Option<&ViewFiles>, last: u64) -> Line {
    let name = note.map(|note| &note.name).or(file.map(|file| &file.name));
    let generation = note.map(|note| note.generation).or(file.map(|file| file.generation));
    let state = note.map_or("unknown", |note| &note.state);
    let checkpoint = note.map(|note| note.checkpoint.get());
    vec![
        ("view", json!(name)),
        ("generation", json!(generation)),
        ("state", json!(state)),
        ("checkpoint", json!(checkpoint)),
        ("lag", json!(checkpoint.map(|checkpoint| last.saturating_sub(checkpoint)))),
        ("rows", json!(note.map(|note| note.rows))),
        ("set_aside", json!(note.map(|note| note.set_aside))),
        ("serves", json!(note.and_then(|note| note.serves))),
        ("building", json!(note.and_then(|note| note.building).map(|at| at.get()))),
        ("bytes", json!(file.map(|file| file.bytes))),
        ("as_of", json!(note.map(|note| time(note.as_of_ns)))),
        ("digest", json!(note.and_then(|note| note.digest.as_ref()))),
        ("stopped_at", json!(note.and_then(|note| note.stopped_at).map(|at| at.get()))),
        ("cause", json!(note.and_then(|note| note.cause.as_ref()))),
        ("rebuilt_because", json!(note.and_then(|note| note.rebuilt_because.as_ref()))),
    ]
}

/// The key-value store panics on some damage. The library makes an error of that, which is told.
pub(crate) fn tell_no_panic_of_the_key_value_store() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        if !panicked.location().is_some_and(|place| place.file().contains("sled-0.")) {
            tell(panicked);
        }
    }));
}
