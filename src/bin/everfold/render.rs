//! Tables for a terminal, JSON lines for a program; nothing that could take hold of a terminal.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table on a terminal, else JSON lines.
    Auto,
    /// Columns.
    Table,
    /// One JSON object a line.
    Json,
}

impl Format {
    pub(crate) fn is_table(self) -> bool {
        match self {
            Format::Auto => io::stdout().is_terminal(),
            Format::Table => true,
            Format::Json => false,
        }
    }
}

/// Whether a character could do something to a terminal, or hide what is there.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{e0000}'..='\u{e007f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Text with such characters escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// A JSON line. Characters that are allowed in JSON strings but not on a terminal are escaped as JSON has it.
pub(crate) fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(value)?;
    if !line.contains(is_unsafe) {
        return writeln!(out, "{line}");
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    let mut units = [0; 2];
    for c in line.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    writeln!(out, "{escaped}")
}

/// Tells it on standard error, where there is one to tell it to: `eprintln!` panics when there is not.
pub(crate) fn tell(text: &str) {
    drop(writeln!(io::stderr(), "everfold: {}", printable(text)));
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('?')));
    }
    out
}

/// Bytes from hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|c| c.to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok());
    rest.is_empty().then(|| bytes.collect()).flatten()
}

/// A time by its seconds since 1970, as RFC 3339 in UTC; or they themselves, if it is beyond the calendar.
pub(crate) fn time_of(seconds: i64, nanos: u32) -> String {
    let all = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    match jiff::Timestamp::from_nanosecond(all) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds}.{nanos:09}s"),
    }
}

/// A time as RFC 3339 in UTC; `-` for none.
pub(crate) fn time(ns: u64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(time) if ns > 0 => time.to_string(),
        _ => "-".into(),
    }
}

/// Columns of a fixed width, the last one as wide as it likes; names first, then rows as they come.
pub(crate) struct Table<'a> {
    out: &'a mut dyn Write,
    widths: Vec<usize>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, columns: &[(&str, usize)]) -> io::Result<Self> {
        let widths = columns.iter().map(|(_, width)| *width).collect();
        let mut table = Table { out, widths };
        table.row(&columns.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>())?;
        Ok(table)
    }

    /// One whose names are printed already.
    pub(crate) fn go_on(out: &'a mut dyn Write, widths: &[usize]) -> Self {
        Table { out, widths: widths.to_vec() }
    }

    pub(crate) fn row(&mut self, cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            let width = self.widths.get(at).copied().filter(|_| at + 1 < cells.len()).unwrap_or(0);
            let cell = printable(cell);
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(self.out, "{}", line.trim_end())
    }
}
