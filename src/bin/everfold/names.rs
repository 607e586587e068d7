//! `everfold streams` and `everfold tags`: which names there are, and where.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use everfold::dump::Found;
use everfold::{Position, RecordedEvent};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::render::{Table, json_line, tell};
use crate::{Failure, Outcome, Plain, inspect};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plain: Plain,
    /// Only names that start with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// At most so many names.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
}

/// What is known of a name from the events that have it.
trait Facts: Default {
    /// What the names are names of.
    const KIND: &'static str;
    /// What the values are.
    const FIELDS: &'static [&'static str];
    fn names(event: &RecordedEvent) -> impl Iterator<Item = &str>;
    /// Takes in an event that has the name. The event may come twice in a row, if it has the name twice.
    fn add(&mut self, event: &RecordedEvent);
    fn values(&self) -> Vec<u64>;
}

#[derive(Default)]
struct Stream {
    version: u64,
    first: u64,
    last: u64,
}

impl Facts for Stream {
    const KIND: &'static str = "stream";
    const FIELDS: &'static [&'static str] = &["version", "first", "last"];

    fn names(event: &RecordedEvent) -> impl Iterator<Item = &str> {
        std::iter::once(event.stream())
    }

    fn add(&mut self, event: &RecordedEvent) {
        (self.version, self.last) = (event.version().get(), event.position().get());
        if self.first == 0 {
            self.first = self.last;
        }
    }

    fn values(&self) -> Vec<u64> {
        vec![self.version, self.first, self.last]
    }
}

#[derive(Default)]
struct Tag {
    events: u64,
    last: u64,
}

impl Facts for Tag {
    const KIND: &'static str = "tag";
    const FIELDS: &'static [&'static str] = &["events", "last"];

    fn names(event: &RecordedEvent) -> impl Iterator<Item = &str> {
        event.tags()
    }

    fn add(&mut self, event: &RecordedEvent) {
        let position = event.position().get();
        self.events += u64::from(position != self.last);
        self.last = position;
    }

    fn values(&self) -> Vec<u64> {
        vec![self.events, self.last]
    }
}

pub(crate) fn streams(arguments: &Arguments) -> Result<Outcome, Failure> {
    run::<Stream>(arguments)
}

pub(crate) fn tags(arguments: &Arguments) -> Result<Outcome, Failure> {
    run::<Tag>(arguments)
}

fn run<F: Facts>(arguments: &Arguments) -> Result<Outcome, Failure> {
    let inspector = inspect(&arguments.plain)?;
    let mut known: BTreeMap<String, F> = BTreeMap::new();
    let mut outcome = Outcome::Well;
    inspector.scan(Position::START, |found| {
        let events = match found {
            Found::Frame { events, .. } => events,
            Found::Damage { corruption, events, .. } => {
                outcome = outcome.and(&corruption);
                tell(&corruption.to_string());
                events
            }
            _ => &[],
        };
        for event in events {
            for name in F::names(event).filter(|name| name.starts_with(&arguments.prefix)) {
                match known.get_mut(name) {
                    Some(facts) => facts.add(event),
                    None => known.entry(name.to_owned()).or_default().add(event),
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    print(arguments, &known)?;
    Ok(outcome)
}

fn print<F: Facts>(arguments: &Arguments, known: &BTreeMap<String, F>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut wanted = known.iter().take(arguments.limit);
    if arguments.plain.format.is_table() {
        let columns: Vec<_> = F::FIELDS.iter().map(|field| (*field, 9)).chain([(F::KIND, 0)]).collect();
        let mut table = Table::new(&mut out, &columns)?;
        for (name, facts) in wanted {
            let values = facts.values().into_iter().map(|value| value.to_string());
            table.row(&values.chain([name.clone()]).collect::<Vec<_>>())?;
        }
    } else {
        wanted.try_for_each(|(name, facts)| json_line(&mut out, &Line { name, facts }))?;
    }
    out.flush()
}

struct Line<'a, F> {
    name: &'a str,
    facts: &'a F,
}

impl<F: Facts> Serialize for Line<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(Some(F::FIELDS.len() + 1))?;
        line.serialize_entry(F::KIND, self.name)?;
        for (field, value) in F::FIELDS.iter().zip(self.facts.values()) {
            line.serialize_entry(field, &value)?;
        }
        line.end()
    }
}
