//! `everfold views changes`: the difference between copies of a view that are taken one after the other.

use std::cmp::Ordering;
use std::ops::Bound;
use std::thread;
use std::time::Duration;

use everfold::{ViewCopy, ViewInspector};
use serde_json::{Value, json};

use crate::render::tell;
use crate::shape::Shape;
use crate::view_rows::{Of, Printer, key};
use crate::{Failure, Outcome};

const WHAT: &str = "\
This compares a copy of the view's files with the one before: of each key whose value is another one then it prints the
key, the value before (old; null or - if there was no row), the value now (new; null or - if the row is gone), and the
checkpoint of the later copy. A row that changed more than once in between is told once, and one that changed back not at
all. What each event did is told by the program that has the projection: `View::changes` and `View::follow`.

A copy has what the view has on the disk, which an open application writes every second or so; so changes come some
seconds late. Each copy that differs is a copy of all files of the view, and read twice. When another generation is
served, or the view is as of an earlier position than before, the comparison begins anew, which is told on standard
error.

Types and keys: see `everfold views scan --help`.";

#[derive(clap::Args)]
#[command(after_long_help = WHAT)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: Of,
    /// Compare with the first copy that is as of this position or a later one; without it, with the first.
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    after: u64,
    /// Seconds between two looks at the view.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    every: f64,
    /// Look so many times after the first and end; without it, go on until interrupted.
    #[arg(long, value_name = "N")]
    times: Option<u64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "give 0.01 to 86400 seconds".to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let of = &arguments.of;
    let shape = of.key_shape()?;
    let inspector = ViewInspector::open(&of.store)?;
    let mut printer = Printer::new(of.print, &["checkpoint", "key", "old", "new"])?;
    let mut before = of.copy()?;
    let first = before.checkpoint().get();
    if arguments.after > 0 && first > arguments.after {
        tell(&format!("what changed between positions {} and {first} is not told", arguments.after));
    }
    let mut looks = 0;
    while arguments.times.is_none_or(|times| looks < times) {
        looks += 1;
        thread::sleep(Duration::from_secs_f64(arguments.every));
        if before.is_unchanged() && !is_replaced(&inspector, of, &before)? {
            continue;
        }
        let now = inspector.copy(&of.view, of.generation)?;
        if now.generation() != before.generation() || now.checkpoint() < before.checkpoint() {
            let (generation, checkpoint) = (now.generation(), now.checkpoint());
            tell(&format!(
                "generation {generation} is served now, as of position {checkpoint}: comparing anew"
            ));
        } else if before.checkpoint().get() >= arguments.after {
            print_differences(of, shape.as_ref(), [&before, &now], &mut printer)?;
        }
        before = now;
    }
    Ok(Outcome::Well)
}

/// Whether another generation is served than that of the copy.
fn is_replaced(inspector: &ViewInspector, of: &Of, copy: &ViewCopy) -> Result<bool, Failure> {
    let served = inspector.views()?.into_iter().find(|view| view.name == of.view && view.serves);
    Ok(of.generation.is_none() && served.is_none_or(|view| view.generation != copy.generation()))
}

/// Both in the order of their keys, side by side.
fn print_differences(
    of: &Of,
    shape: Option<&Shape>,
    [before, now]: [&ViewCopy; 2],
    printer: &mut Printer,
) -> Result<(), Failure> {
    let named = of.named.as_deref();
    let mut old = before.scan(named, Bound::Unbounded, Bound::Unbounded)?.peekable();
    let mut new = now.scan(named, Bound::Unbounded, Bound::Unbounded)?.peekable();
    loop {
        let side = match (old.peek(), new.peek()) {
            (None, None) => return Ok(()),
            (Some(Ok((old, _))), Some(Ok((new, _)))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // An error comes out with whichever is taken.
            (Some(_), Some(_)) => Ordering::Equal,
        };
        let old = if side == Ordering::Greater { None } else { old.next().transpose()? };
        let new = if side == Ordering::Less { None } else { new.next().transpose()? };
        print_change(of, shape, now.checkpoint().get(), (old, new), printer)?;
    }
}

type Found = Option<(Vec<u8>, Vec<u8>)>;

fn print_change(
    of: &Of,
    shape: Option<&Shape>,
    checkpoint: u64,
    (old, new): (Found, Found),
    printer: &mut Printer,
) -> Result<(), Failure> {
    if old == new {
        return Ok(());
    }
    let Some((found, _)) = old.as_ref().or(new.as_ref()) else { return Ok(()) };
    let (key, typed_key) = key(found, shape)?;
    let value = |row: &Found| -> Result<(String, Value), Failure> {
        row.as_ref().map_or(Ok(("-".into(), Value::Null)), |(_, value)| of.value(value))
    };
    let ((old, typed_old), (new, typed_new)) = (value(&old)?, value(&new)?);
    printer.row(
        &[
            ("checkpoint", checkpoint.to_string(), json!(checkpoint)),
            ("key", key, typed_key),
            ("old", old, typed_old),
            ("new", new, typed_new),
        ],
        checkpoint,
    )
}
