//! `everfold streams`: which streams there are.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use everfold::Position;
use everfold::dump::Found;
use serde::Serialize;

use crate::render::{Table, json_line, tell};
use crate::{Failure, Outcome, Plain, inspect};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plain: Plain,
    /// Only streams whose names start with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// At most so many streams.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Stream {
    version: u64,
    first: u64,
    last: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let inspector = inspect(&arguments.plain)?;
    let mut streams: BTreeMap<String, Stream> = BTreeMap::new();
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
        for event in events.iter().filter(|event| event.stream().starts_with(&arguments.prefix)) {
            if !streams.contains_key(event.stream()) {
                let first = Stream { first: event.position().get(), ..Stream::default() };
                streams.insert(event.stream().to_owned(), first);
            }
            if let Some(stream) = streams.get_mut(event.stream()) {
                (stream.version, stream.last) = (event.version().get(), event.position().get());
            }
        }
        ControlFlow::Continue(())
    })?;
    print(arguments, &streams)?;
    Ok(outcome)
}

fn print(arguments: &Arguments, streams: &BTreeMap<String, Stream>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        stream: &'a str,
        #[serde(flatten)]
        facts: Stream,
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let mut wanted = streams.iter().take(arguments.limit);
    if arguments.plain.format.is_table() {
        let columns = [("version", 9), ("first", 9), ("last", 9), ("stream", 0)];
        let mut table = Table::new(&mut out, &columns)?;
        for (stream, facts) in wanted {
            let Stream { version, first, last } = facts;
            table.row(&[version.to_string(), first.to_string(), last.to_string(), stream.clone()])?;
        }
    } else {
        wanted.try_for_each(|(stream, facts)| json_line(&mut out, &Line { stream, facts: *facts }))?;
    }
    out.flush()
}
