//! `everfold retain`: drops the oldest segments of the log.

use std::io::{self, Write};
use std::time::Duration;

use everfold::{Options, Position, Retained, Retention};
use serde::Serialize;

use crate::render::{json_line, printable};
use crate::{Failure, Outcome, Plain};

/// Whole segments are dropped, the oldest first, as soon as one of the options says so. The store must not be open for
/// writing elsewhere: an application that has it open drops segments itself, with Store::retain. Kept is what the views
/// need; of those, nobody but their application knows how far they are, so each keeps the whole log unless it is left out.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plain: Plain,
    #[command(flatten)]
    policy: Policy,
    /// Drop also what this view has not applied. May be given several times.
    #[arg(long, value_name = "NAME")]
    without_view: Vec<String>,
    /// Only tell what would be dropped. This opens the store read-only, and so works beside an application, but does not
    /// see what that application is reading.
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Policy {
    /// Drop segments of which every event is before this position.
    #[arg(long, value_name = "POSITION")]
    before: Option<u64>,
    /// Drop segments of which every event was recorded longer ago: a number and s, m, h, d or w, such as 30d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Drop segments until no more than this is left: bytes, or a number and K, M, G or T, such as 1G.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_bytes: Option<u64>,
}

impl Arguments {
    fn retention(&self) -> Retention {
        let mut retention = Retention::new().dry_run(self.dry_run);
        if let Some(before) = self.policy.before {
            retention = retention.before(Position::new(before));
        }
        if let Some(age) = self.policy.older_than {
            retention = retention.older_than(age);
        }
        if let Some(bytes) = self.policy.max_bytes {
            retention = retention.max_bytes(bytes);
        }
        self.without_view.iter().fold(retention, |retention, name| retention.without_view(name))
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
    let seconds = scaled(text, &units).ok_or("give a number and one of s, m, h, d, w, such as 30d")?;
    Ok(Duration::from_secs(seconds))
}

fn size(text: &str) -> Result<u64, String> {
    let units = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40), ("", 1)];
    scaled(text, &units).ok_or_else(|| "give bytes, or a number and one of K, M, G, T, such as 1G".into())
}

/// A number with one of these units.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let store = Options::new().create(false).read_only(arguments.dry_run).open(&arguments.plain.store)?;
    let retained = store.retain(&arguments.retention())?;
    store.close()?;
    match print(arguments, &retained) {
        // It is done, whoever reads on.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Outcome::Well),
    }
}

fn print(arguments: &Arguments, retained: &Retained) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line {
        dry_run: bool,
        log_start: u64,
        segments: usize,
        bytes: u64,
        kept_by: Option<String>,
    }
    let line = Line {
        dry_run: arguments.dry_run,
        log_start: retained.first.get(),
        segments: retained.segments,
        bytes: retained.bytes,
        kept_by: retained.kept_by.as_ref().map(ToString::to_string),
    };
    let mut out = io::stdout().lock();
    if !arguments.plain.format.is_table() {
        return json_line(&mut out, &line);
    }
    let (would, start) = match line.dry_run {
        true => ("would drop", "would start"),
        false => ("dropped", "starts"),
    };
    let plural = if line.segments == 1 { "" } else { "s" };
    let Line { log_start, segments, bytes, .. } = line;
    writeln!(
        out,
        "{would} {segments} segment{plural} of {bytes} bytes; the log {start} at position {log_start}"
    )?;
    match line.kept_by {
        Some(kept_by) => writeln!(out, "kept from dropping more by {}", printable(&kept_by)),
        None => Ok(()),
    }
}
