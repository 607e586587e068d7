//! `everfold`: looks into the directory of an event store.
//!
//! Every command but `retain` and `repair` can be used while an application has the store open: none takes its lock,
//! writes a byte to it or maps a file. Damaged files are told of, not stumbled over.

mod backup;
mod datum;
mod dump;
mod filter;
mod key_text;
mod names;
mod overview;
mod query_text;
mod render;
mod repair;
mod retain;
mod shape;
mod value_text;
mod verify;
mod view_changes;
mod view_rows;
mod views;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use everfold::dump::Inspector;
use everfold::{Corruption, Damage, Error, ErrorKind};

use render::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  a file could not be read or written, or is of a format this version does not know
  2  the command line is wrong
  3  corruption inside the log, as far as the command reads it (verify reads all of it); repair: something is lost
  4  only a torn tail: what a crash left of a write that was never acknowledged
  5  a view is damaged or of another log (verify --views, views): it is derived, and made anew when its projection is
     registered
  6  another process has the store open for writing (retain needs the lock, except for a dry run),
     or the directory that backup or restore writes to
  7  there is no store, or no such file, at the path; there is no such view, or no row of the key

Every command but retain and repair works while an application has the store open: nothing of it is locked, written or
mapped. The rows of views are read from a copy, which is made in the folder for temporary files (TMPDIR), verified, and
removed in the end.";

/// Look into the directory of an everfold event store.
#[derive(Parser)]
#[command(version, about, after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What the store is, and whether it was closed.
    Info(Plain),
    /// The files of the log.
    Segments(Plain),
    /// The events, one a line; with --frames, how they lie in the files.
    Dump(dump::Arguments),
    /// Reads every byte, and says what is damaged and what to do.
    Verify(verify::Arguments),
    /// The streams that have events in the log, with their versions, and their first and last positions there.
    Streams(names::Arguments),
    /// The tags, with how many events of the log have them, and the last position.
    Tags(names::Arguments),
    /// The views, as their projectors last noted their state; the rows of one, and how they change.
    Views(views::Arguments),
    /// Drops the oldest segments of the log. The only command that changes the store it looks at.
    Retain(retain::Arguments),
    /// Copies the log into a directory of its own, or brings such a copy up to date.
    Backup(backup::Arguments),
    /// Makes a store of a backup.
    Restore(backup::RestoreArguments),
    /// Saves what can be read of a damaged store into a new one, and tells what is missing.
    Repair(repair::Arguments),
}

/// What every command takes.
#[derive(clap::Args)]
struct Plain {
    /// The store's directory.
    store: PathBuf,
    /// How to print: a table on a terminal, else JSON lines, unless said.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
}

/// How a command ended, when it could read what it had to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Well,
    TornTail,
    Corrupt,
    /// The log is good, as far as it was read, and a view is not.
    ViewDamaged,
    /// A view could not be looked at.
    ViewUnread,
}

impl Outcome {
    /// The worse of this and what damage makes of it.
    fn and(self, corruption: &Corruption) -> Self {
        match (self, corruption.damage) {
            (Outcome::Well, Damage::TornTail) => Outcome::TornTail,
            (outcome, Damage::TornTail) => outcome,
            _ => Outcome::Corrupt,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Well => 0,
            Outcome::TornTail => 4,
            Outcome::Corrupt => 3,
            Outcome::ViewDamaged => 5,
            Outcome::ViewUnread => 1,
        })
    }
}

/// Why a command failed.
enum Failure {
    Store(Error),
    Output(std::io::Error),
    Usage(String),
    NoRow(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Store(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Output(error)
    }
}

fn main() -> ExitCode {
    views::tell_no_panic_of_the_key_value_store();
    let result = match Arguments::parse().command {
        Command::Info(plain) => overview::info(&plain),
        Command::Segments(plain) => overview::segments(&plain),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Streams(arguments) => names::streams(&arguments),
        Command::Tags(arguments) => names::tags(&arguments),
        Command::Views(arguments) => views::run(&arguments),
        Command::Retain(arguments) => retain::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => backup::restore(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
    };
    match result {
        Ok(outcome) => outcome.into(),
        // Whoever reads the output has enough of it.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => fail(1, &format!("could not write the output: {error}")),
        Err(Failure::Usage(message)) => fail(2, &message),
        Err(Failure::NoRow(message)) => fail(7, &message),
        Err(Failure::Store(error)) => fail(exit_code(&error), &error.to_string()),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    render::tell(message);
    ExitCode::from(code)
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Corrupt => 3,
        ErrorKind::View => 5,
        ErrorKind::Locked { .. } => 6,
        ErrorKind::NotFound => 7,
        ErrorKind::Invalid => 2,
        _ => 1,
    }
}

fn inspect(plain: &Plain) -> Result<Inspector, Failure> {
    Ok(Inspector::open(&plain.store)?)
}
