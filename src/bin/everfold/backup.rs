//! `everfold backup` and `everfold restore`: copies of a log that are stores as well.

use std::io::{self, Write};
use std::path::PathBuf;

use everfold::{BackedUp, Options};
use serde::Serialize;

use crate::render::{Format, json_line};
use crate::{Failure, Outcome};

/// The directory is new or empty, or holds an earlier backup of the same store: then only what is new is copied. An
/// application may have the store open. What is written is read back. Views are not copied: they are made anew.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory.
    store: PathBuf,
    /// Where the backup goes.
    directory: PathBuf,
    /// How to print: words on a terminal, else a JSON line, unless said.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
}

/// Copies a backup into a directory that is new or empty, and reads everything back. The result has the id of the store
/// that was backed up: append to one of them only.
#[derive(clap::Args)]
pub(crate) struct RestoreArguments {
    /// The backup's directory.
    backup: PathBuf,
    /// Where the store goes.
    directory: PathBuf,
    /// How to print: words on a terminal, else a JSON line, unless said.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let store = Options::new().read_only(true).map_segments(false).open(&arguments.store)?;
    let done = store.backup(&arguments.directory)?;
    print(arguments.format, &done)
}

pub(crate) fn restore(arguments: &RestoreArguments) -> Result<Outcome, Failure> {
    let done = everfold::restore(&arguments.backup, &arguments.directory)?;
    print(arguments.format, &done)
}

fn print(format: Format, done: &BackedUp) -> Result<Outcome, Failure> {
    #[derive(Serialize)]
    struct Line {
        position: u64,
        log_start: u64,
        segments: usize,
        copied_segments: usize,
        copied_bytes: u64,
    }
    let line = Line {
        position: done.position.get(),
        log_start: done.log_start.get(),
        segments: done.segments,
        copied_segments: done.copied_segments,
        copied_bytes: done.copied_bytes,
    };
    let mut out = io::stdout().lock();
    let Line { position, log_start, segments, copied_segments, copied_bytes } = line;
    let printed = match format.is_table() {
        false => json_line(&mut out, &line),
        true => writeln!(
            out,
            "positions {log_start} to {position} are there, in {segments} segments; copied and read back {copied_bytes} bytes of {copied_segments} of them"
        ),
    };
    match printed {
        // It is done, whoever reads on.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Outcome::Well),
    }
}
