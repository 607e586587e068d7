//! `everfold dump`: the events, or the frames they lie in.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;

use everfold::dump::{Found, FrameFacts};
use everfold::{Corruption, Encoding, Position, Query, RecordedEvent};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::filter::{self, Filter};
use crate::render::{Table, hex, json_line, tell, time};
use crate::{Failure, Outcome, Plain, inspect};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plain: Plain,
    /// Only events after this position.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// At most so many events, or frames.
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    filter: Filter,
    /// Show frames instead of events: where they are, their checksums, links and flags.
    #[arg(long, conflicts_with_all = filter::OPTIONS.into_iter().chain(["raw"]))]
    frames: bool,
    /// Write the payloads only, their bytes as they are, with a line feed after each. Not to a terminal.
    #[arg(long)]
    raw: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    if arguments.raw && io::stdout().is_terminal() {
        let message = "--raw writes bytes as they are: send them to a file or another program";
        return Err(Failure::Usage(message.into()));
    }
    let inspector = inspect(&arguments.plain)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(arguments, &mut out)?;
    let (mut outcome, mut failure) = (Outcome::Well, None);
    inspector.scan(Position::new(arguments.after), |found| {
        if let Found::Damage { corruption, .. } = &found {
            outcome = outcome.and(corruption);
        }
        printer.print(found).unwrap_or_else(|error| {
            failure = Some(error);
            ControlFlow::Break(())
        })
    })?;
    match failure.map_or_else(|| out.flush(), Err) {
        // Whoever reads the output has enough of it; the exit code tells what was met so far.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(outcome),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(outcome),
    }
}

const EVENT_COLUMNS: [(&str, usize); 7] = [
    ("position", 9),
    ("stream", 20),
    ("version", 7),
    ("type", 16),
    ("recorded", 30),
    ("tags", 12),
    ("payload", 0),
];
const FRAME_COLUMNS: [(&str, usize); 11] = [
    ("file", 28),
    ("offset", 9),
    ("length", 8),
    ("first", 9),
    ("events", 6),
    ("durable", 9),
    ("chain", 8),
    ("header", 8),
    ("body", 8),
    ("epoch", 5),
    ("flags", 0),
];

struct Printer<'a> {
    arguments: &'a Arguments,
    queries: [Query; 2],
    out: Output<'a>,
    left: u64,
}

enum Output<'a> {
    Table(Table<'a>),
    Json(&'a mut dyn Write),
    Raw(&'a mut dyn Write),
}

impl<'a> Printer<'a> {
    fn new(arguments: &'a Arguments, out: &'a mut dyn Write) -> io::Result<Self> {
        let out = match arguments.plain.format.is_table() {
            _ if arguments.raw => Output::Raw(out),
            true if arguments.frames => Output::Table(Table::new(out, &FRAME_COLUMNS)?),
            true => Output::Table(Table::new(out, &EVENT_COLUMNS)?),
            false => Output::Json(out),
        };
        let (queries, left) = (arguments.filter.queries(), arguments.limit.unwrap_or(u64::MAX));
        Ok(Printer { arguments, queries, out, left })
    }

    fn print(&mut self, found: Found<'_>) -> io::Result<ControlFlow<()>> {
        if self.left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let (frame, events, corruption) = match found {
            Found::Frame { frame, events } => (Some(frame), events, None),
            Found::Damage { corruption, frame, events } => (frame, events, Some(corruption)),
            _ => return Ok(ControlFlow::Continue(())),
        };
        if let Some(corruption) = &corruption {
            tell(&corruption.to_string());
        }
        if self.arguments.frames {
            if let Some(frame) = &frame {
                self.frame(frame, corruption.as_ref())?;
            }
            return Ok(self.flow());
        }
        for event in events {
            if self.left == 0 {
                break;
            }
            if !self.wants(event) {
                continue;
            }
            self.event(event)?;
            self.left -= 1;
        }
        Ok(self.flow())
    }

    fn wants(&self, event: &RecordedEvent) -> bool {
        event.position().get() > self.arguments.after && self.queries.iter().all(|query| query.matches(event))
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn frame(&mut self, frame: &FrameFacts, corruption: Option<&Corruption>) -> io::Result<()> {
        if frame.first.get().saturating_add(u64::from(frame.events)) <= self.arguments.after.saturating_add(1)
            && frame.events > 0
        {
            return Ok(());
        }
        self.left -= 1;
        let damage = corruption.map(|corruption| corruption.damage.name());
        match &mut self.out {
            Output::Table(table) => {
                let flags: Vec<&str> = frame.flags.iter().copied().chain(damage).collect();
                table.row(&[
                    frame.file.clone(),
                    frame.offset.to_string(),
                    frame.len.to_string(),
                    frame.first.to_string(),
                    frame.events.to_string(),
                    frame.durable.to_string(),
                    format!("{:08x}", frame.chain),
                    format!("{:08x}", frame.header_crc),
                    format!("{:08x}", frame.body_crc),
                    frame.epoch.to_string(),
                    flags.join(","),
                ])
            }
            Output::Json(out) | Output::Raw(out) => json_line(*out, &FrameLine::new(frame, damage)),
        }
    }

    fn event(&mut self, event: &RecordedEvent) -> io::Result<()> {
        match &mut self.out {
            Output::Table(table) => table.row(&[
                event.position().to_string(),
                event.stream().to_owned(),
                event.version().to_string(),
                event.event_type().to_owned(),
                time(event.recorded_at_ns()),
                event.tags().collect::<Vec<_>>().join(","),
                shown(event),
            ]),
            Output::Json(out) => json_line(*out, &EventLine::new(event)),
            Output::Raw(out) => {
                out.write_all(event.payload())?;
                out.write_all(b"\n")
            }
        }
    }
}

/// A payload by its encoding, in one line.
fn shown(event: &RecordedEvent) -> String {
    match (event.encoding(), std::str::from_utf8(event.payload())) {
        (Encoding::Json, Ok(text)) => text.to_owned(),
        _ => format!("{}:{}", event.encoding(), hex(event.payload())),
    }
}

#[derive(Serialize)]
struct EventLine<'a> {
    position: u64,
    stream: &'a str,
    version: u64,
    #[serde(rename = "type")]
    event_type: &'a str,
    id: String,
    recorded: String,
    tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_hex: Option<String>,
    encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

impl<'a> EventLine<'a> {
    fn new(event: &'a RecordedEvent) -> Self {
        let payload = match event.encoding() {
            Encoding::Json => json_in_one_line(event.payload()),
            _ => None,
        };
        EventLine {
            position: event.position().get(),
            stream: event.stream(),
            version: event.version().get(),
            event_type: event.event_type(),
            id: event.event_id().to_string(),
            recorded: time(event.recorded_at_ns()),
            tags: event.tags().collect(),
            metadata_hex: event.metadata().map(hex),
            encoding: event.encoding().name(),
            payload_hex: payload.is_none().then(|| hex(event.payload())),
            payload,
        }
    }
}

/// JSON text as it is, numbers to the last digit, but without line breaks; `None` when it is not JSON.
fn json_in_one_line(bytes: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(bytes).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let (mut compact, mut in_string, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if !in_string && c.is_ascii_whitespace() {
            continue;
        }
        compact.push(c);
        (in_string, escaped) = match c {
            _ if escaped => (in_string, false),
            '\\' if in_string => (true, true),
            '"' => (!in_string, false),
            _ => (in_string, false),
        };
    }
    RawValue::from_string(compact).ok()
}

#[derive(Serialize)]
struct FrameLine<'a> {
    file: &'a str,
    offset: u64,
    length: u64,
    first: u64,
    events: u32,
    durable: u64,
    chain: String,
    header_crc: String,
    body_crc: String,
    epoch: u32,
    flags: &'a [&'static str],
    recorded: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<&'static str>,
}

impl<'a> FrameLine<'a> {
    fn new(frame: &'a FrameFacts, damage: Option<&'static str>) -> Self {
        FrameLine {
            file: &frame.file,
            offset: frame.offset,
            length: frame.len,
            first: frame.first.get(),
            events: frame.events,
            durable: frame.durable.get(),
            chain: format!("{:08x}", frame.chain),
            header_crc: format!("{:08x}", frame.header_crc),
            body_crc: format!("{:08x}", frame.body_crc),
            epoch: frame.epoch,
            flags: &frame.flags,
            recorded: time(frame.recorded_at_ns),
            damage,
        }
    }
}
