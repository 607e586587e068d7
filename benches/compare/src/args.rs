//! The command line.

use std::path::PathBuf;

use crate::peer::Outcome;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    /// Longer turns, more of them, larger stores.
    pub(crate) full: bool,
    /// Only these workloads; all when empty.
    pub(crate) only: Vec<String>,
    /// Where the plot goes.
    pub(crate) svg: Option<PathBuf>,
    /// Where stores are made.
    pub(crate) dir: Option<PathBuf>,
    /// Nothing but the help.
    pub(crate) help: bool,
}

/// What `--help` prints.
pub(crate) const HELP: &str = "\
everfold beside other embedded stores and beside the bare disk, in one run

Usage: everfold-compare [--quick | --full] [--only <WORKLOAD>]... [--svg <FILE>] [--dir <DIRECTORY>]

  --quick            within ten minutes on two cores (the default)
  --full             longer turns, more rounds, and stores of 1 and 4 million events to open
  --only <WORKLOAD>  only this one; may be given again. One of:
                     durable-1 durable-64 tickets deferred scan stream tag guarded open
                     replay-rare replay-often visible at-once large-view
                     (large-view only with --full, or when it is named)
  --svg <FILE>       where the plot goes (default: compare.svg beside this program's Cargo.toml;
                     with --only no plot is made unless this is given)
  --dir <DIRECTORY>  where stores are made and removed: on the disk to be measured, with 6 GB free
                     (default: beside the built program)
";

/// The names for `--only`.
pub(crate) const WORKLOADS: [&str; 14] = [
    "durable-1",
    "durable-64",
    "tickets",
    "deferred",
    "scan",
    "stream",
    "tag",
    "guarded",
    "open",
    "replay-rare",
    "replay-often",
    "visible",
    "at-once",
    "large-view",
];

impl Args {
    /// Reads the arguments after the program's name.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Outcome<Args> {
        let mut args = Args::default();
        while let Some(arg) = given.next() {
            let mut value = || given.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => args.full = false,
                "--full" => args.full = true,
                "--only" => {
                    let only = value()?;
                    if !WORKLOADS.contains(&only.as_str()) {
                        return Err(format!("no workload {only:?}: one of {}", WORKLOADS.join(" ")).into());
                    }
                    args.only.push(only);
                }
                "--svg" => args.svg = Some(value()?.into()),
                "--dir" => args.dir = Some(value()?.into()),
                "--help" | "-h" => args.help = true,
                _ => return Err(format!("unknown argument {arg:?}; see --help").into()),
            }
        }
        Ok(args)
    }

    /// Whether a workload is to be run.
    pub(crate) fn wants(&self, key: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == key)
    }
}
