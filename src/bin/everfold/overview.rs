//! `everfold info` and `segments`: what headers say.

use std::io;
use std::ops::ControlFlow;

use everfold::Position;
use everfold::dump::{Found, Inspector};
use serde_json::{Value, json};

use crate::render::{Format, Table, json_line, time};
use crate::{Failure, Outcome, Plain, inspect};

pub(crate) fn info(plain: &Plain) -> Result<Outcome, Failure> {
    let inspector = inspect(plain)?;
    let store = inspector.store();
    let (last, outcome) = end(&inspector)?;
    let rows = [
        ("store id", json!(store.store_id.to_string())),
        ("format", json!(format!("{}.{}", store.format_major, store.format_minor))),
        ("created", json!(time(store.created_ns))),
        ("state", json!(if store.clean { "closed" } else { "open, or not closed" })),
        ("log start", json!(store.log_start.get())),
        ("last position", json!(last)),
        ("durable by the mark", json!(store.marked.map(|marked| marked.get()))),
        ("segments", json!(store.segments)),
        ("segment size", json!(store.segment_size)),
        ("log bytes", json!(store.log_bytes)),
        ("openings for writing", json!(store.epoch)),
        ("notes", json!(store.notes)),
    ];
    let mut out = io::stdout().lock();
    if plain.format.is_table() {
        let mut table = Table::new(&mut out, &[("what", 20), ("value", 0)])?;
        for (name, value) in rows {
            table.row(&[name.to_owned(), cell(&value)])?;
        }
    } else {
        let object: serde_json::Map<String, Value> =
            rows.into_iter().map(|(name, value)| (name.replace(' ', "_"), value)).collect();
        json_line(&mut out, &object)?;
    }
    Ok(outcome)
}

/// Position of the last event, and whether the active segment is good up to its end. Reads that segment only.
pub(crate) fn end(inspector: &Inspector) -> Result<(u64, Outcome), Failure> {
    let active = inspector.segments().pop().map_or(Position::START, |segment| segment.first);
    let mut last = active.get().saturating_sub(1);
    let mut outcome = Outcome::Well;
    inspector.scan(Position::new(last), |found| {
        let events = match found {
            Found::Frame { events, .. } => events,
            Found::Damage { corruption, events, .. } => {
                outcome = outcome.and(&corruption);
                events
            }
            _ => &[],
        };
        last = events.iter().map(|event| event.position().get()).fold(last, u64::max);
        ControlFlow::Continue(())
    })?;
    Ok((last, outcome))
}

pub(crate) fn segments(plain: &Plain) -> Result<Outcome, Failure> {
    let segments = inspect(plain)?.segments();
    let damaged = segments.iter().any(|segment| segment.damage.is_some());
    let lines = segments.into_iter().map(|segment| {
        let state = if segment.sealed_at.is_some() { "sealed" } else { "active" };
        vec![
            ("index", json!(segment.index)),
            ("file", json!(segment.file)),
            ("first", json!(segment.first.get())),
            ("bytes", json!(segment.bytes)),
            ("state", json!(state)),
            ("sealed_at", json!(segment.sealed_at)),
            ("marked_at", json!(segment.marked_at)),
            ("salt", json!(format!("{:016x}", segment.salt))),
            ("chain", json!(format!("{:08x}", segment.chain))),
            ("created", json!(time(segment.created_ns))),
            ("damage", json!(segment.damage.map(|damage| damage.to_string()))),
        ]
    });
    list(plain.format, &[5, 28, 9, 10, 7, 9, 9, 16, 8, 30, 0], lines)?;
    Ok(if damaged { Outcome::Corrupt } else { Outcome::Well })
}

pub(crate) type Line = Vec<(&'static str, Value)>;

/// One object a line, or a table with these widths.
pub(crate) fn list(format: Format, widths: &[usize], lines: impl Iterator<Item = Line>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let lines: Vec<Line> = lines.collect();
    if format.is_table() {
        let names = lines.first().into_iter().flatten().map(|(name, _)| *name);
        let columns: Vec<_> = names.zip(widths.iter().copied()).collect();
        let mut table = Table::new(&mut out, &columns)?;
        for line in lines {
            table.row(&line.iter().map(|(_, value)| cell(value)).collect::<Vec<_>>())?;
        }
        return Ok(());
    }
    for line in lines {
        let object: serde_json::Map<String, Value> =
            line.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        json_line(&mut out, &object)?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}
