//! `everfold views get` and `scan`: rows of a view, from a copy of its files.

use std::io::{self, Write};
use std::ops::Bound;
use std::path::PathBuf;

use everfold::{Error, ViewCopy, ViewInspector};
use serde_json::{Map, Value, json};

use crate::datum::{json_row, row};
use crate::render::{Table, hex, json_line, tell};
use crate::shape::Shape;
use crate::views::Print;
use crate::{Failure, Outcome, key_text, value_text};

const TYPES: &str = "\
Types: u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 bool char string bytes uuid time, position and version (both are u64),
array:N for [u8; N], option:T, and reverse:T for Reverse<T>; values may also have f32, f64 and list:T. A tuple or struct
is its fields in order, with commas between. Only the program knows the types of its views: with others than these, or
with none, rows are shown as bytes.

Keys are written as their components with commas between, such as jsmith,7. Bytes are hexadecimal digits, a time is RFC
3339, an option that is not there is `none`. A component with a comma, a quotation mark or a blank at its end stands
between quotation marks, in which \\\" \\\\ \\n \\t and \\u{…} stand for the characters themselves. Without --key a key is
its bytes, with \\xNN for those that are no plain ASCII characters. Without --value a value is shown in hexadecimal digits.

The rows are those of a copy that verified; on standard error stands as of which position. While an application has the
store open that is some seconds ago.";

/// Which view, and of what types its keys and values are.
#[derive(clap::Args)]
pub(crate) struct Of {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// The projection's name.
    pub(crate) view: String,
    /// The generation; without it, the one that is served.
    #[arg(long)]
    pub(crate) generation: Option<u32>,
    /// A named view of the projection, instead of its own.
    #[arg(long = "view", value_name = "NAME")]
    pub(crate) named: Option<String>,
    /// The types of the keys, such as string,u64 (--help says which there are).
    #[arg(long, value_name = "TYPES")]
    pub(crate) key: Option<Shape>,
    /// The types of the values, such as i64, or string,u64 for a struct of both.
    #[arg(long, value_name = "TYPES")]
    pub(crate) value: Option<Shape>,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(clap::Args)]
#[command(after_long_help = TYPES)]
pub(crate) struct Get {
    #[command(flatten)]
    of: Of,
    /// The key.
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    wanted: String,
}

#[derive(clap::Args)]
#[command(after_long_help = TYPES)]
pub(crate) struct Scan {
    #[command(flatten)]
    of: Of,
    /// Rows in the order of an index of the view. All ranges are of its keys then.
    #[arg(long, value_name = "NAME", conflicts_with = "named")]
    index: Option<String>,
    /// The types of the index's keys. Without them its entries are shown, and not the rows.
    #[arg(long, value_name = "TYPES", requires = "index")]
    index_key: Option<Shape>,
    /// Only keys that start so: with the first components, or with all. The last is itself only a start, if it is text or
    /// bytes, unless a comma follows it.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["from", "to"], allow_hyphen_values = true)]
    prefix: Option<String>,
    /// Only keys from this one on; it may lack its last components.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    from: Option<String>,
    /// Only keys before this one; it may lack its last components.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    to: Option<String>,
    /// The last first.
    #[arg(long)]
    reverse: bool,
    /// At most so many rows.
    #[arg(long)]
    limit: Option<usize>,
}

impl Of {
    pub(crate) fn key_shape(&self) -> Result<Option<Shape>, Failure> {
        of_key(self.key.as_ref())
    }

    pub(crate) fn copy(&self) -> Result<ViewCopy, Failure> {
        let copy = ViewInspector::open(&self.store)?.copy(&self.view, self.generation)?;
        let (generation, checkpoint) = (copy.generation(), copy.checkpoint());
        tell(&format!(
            "view {}, generation {generation}: from a copy, as of position {checkpoint}",
            self.view
        ));
        Ok(copy)
    }

    /// A value as text and as JSON.
    pub(crate) fn value(&self, bytes: &[u8]) -> Result<(String, Value), Failure> {
        let Some(shape) = &self.value else { return Ok((hex(bytes), json!(hex(bytes)))) };
        let value = value_text::decode(bytes, shape).map_err(|error| {
            Failure::Usage(format!(
                "a value is not of the type that was given with --value: {error}; the value is {}",
                hex(bytes)
            ))
        })?;
        Ok((row(&value), json_row(&value)))
    }
}

fn of_key(shape: Option<&Shape>) -> Result<Option<Shape>, Failure> {
    shape.cloned().map(Shape::of_key).transpose().map_err(Failure::Usage)
}

/// A key as text and as JSON.
pub(crate) fn key(bytes: &[u8], shape: Option<&Shape>) -> Result<(String, Value), Failure> {
    let Some(shape) = shape else {
        let text = bytes.escape_ascii().to_string();
        return Ok((text.clone(), json!(text)));
    };
    let key = key_text::decode_whole(bytes, shape).map_err(Failure::Usage)?;
    Ok((row(&key), json_row(&key)))
}

pub(crate) fn get(arguments: &Get) -> Result<Outcome, Failure> {
    let of = &arguments.of;
    let shape = of.key_shape()?;
    let wanted = key_text::encode(&arguments.wanted, shape.as_ref()).map_err(Failure::Usage)?;
    let copy = of.copy()?;
    let Some(value) = copy.get(of.named.as_deref(), &wanted)? else {
        return Err(Failure::NoRow(format!("there is no row of the key {}", arguments.wanted)));
    };
    let (value, typed) = of.value(&value)?;
    let mut printer = Printer::new(of.print, &["key", "value"])?;
    let (key, typed_key) = key(&wanted, shape.as_ref())?;
    printer.row(&[("key", key, typed_key), ("value", value, typed)], copy.checkpoint().get())?;
    Ok(Outcome::Well)
}

pub(crate) fn scan(arguments: &Scan) -> Result<Outcome, Failure> {
    let of = &arguments.of;
    let (shape, index_shape) = (of.key_shape()?, of_key(arguments.index_key.as_ref())?);
    let ranged = if arguments.index.is_some() { index_shape.as_ref() } else { shape.as_ref() };
    let (from, to) = range(arguments, ranged)?;
    let copy = of.copy()?;
    match &arguments.index {
        None => {
            let rows = copy.scan(of.named.as_deref(), borrowed(&from), borrowed(&to))?;
            print_rows(of, shape.as_ref(), copy.checkpoint().get(), ordered(rows, arguments))
        }
        Some(index) => {
            let entries = ordered(copy.entries(index, borrowed(&from), borrowed(&to))?, arguments);
            print_entries(of, &copy, index, [index_shape.as_ref(), shape.as_ref()], entries)
        }
    }
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn range(arguments: &Scan, shape: Option<&Shape>) -> Result<Bounds, Failure> {
    let start = |text: &String, open| key_text::encode_start(text, shape, open).map_err(Failure::Usage);
    if let Some(prefix) = &arguments.prefix {
        let from = start(prefix, true)?;
        // The first key beyond all that start so.
        let kept = from.iter().rposition(|byte| *byte < u8::MAX);
        let end = kept.and_then(|last| {
            let mut end = from.get(..=last)?.to_vec();
            *end.last_mut()? += 1;
            Some(end)
        });
        return Ok((Bound::Included(from), end.map_or(Bound::Unbounded, Bound::Excluded)));
    }
    let from = arguments.from.as_ref().map(|text| start(text, false)).transpose()?;
    let to = arguments.to.as_ref().map(|text| start(text, false)).transpose()?;
    Ok((from.map_or(Bound::Unbounded, Bound::Included), to.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// From the end that was asked for, and no more than was.
fn ordered<'a, T: 'a>(
    items: impl DoubleEndedIterator<Item = T> + 'a,
    arguments: &Scan,
) -> impl Iterator<Item = T> + 'a {
    let items: Box<dyn Iterator<Item = T> + 'a> =
        if arguments.reverse { Box::new(items.rev()) } else { Box::new(items) };
    items.take(arguments.limit.unwrap_or(usize::MAX))
}

fn print_rows(
    of: &Of,
    shape: Option<&Shape>,
    as_of: u64,
    rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Error>>,
) -> Result<Outcome, Failure> {
    let mut printer = Printer::new(of.print, &["key", "value"])?;
    for found in rows {
        let (found, value) = found?;
        let ((key, typed_key), (value, typed)) = (key(&found, shape)?, of.value(&value)?);
        printer.row(&[("key", key, typed_key), ("value", value, typed)], as_of)?;
    }
    Ok(Outcome::Well)
}

fn print_entries(
    of: &Of,
    copy: &ViewCopy,
    index: &str,
    [index_shape, shape]: [Option<&Shape>; 2],
    entries: impl Iterator<Item = Result<Vec<u8>, Error>>,
) -> Result<Outcome, Failure> {
    let (named, as_of) = (copy.index_of(index)?, copy.checkpoint().get());
    let columns: &[&str] = if index_shape.is_some() { &["found_by", "key", "value"] } else { &["entry"] };
    let mut printer = Printer::new(of.print, columns)?;
    for entry in entries {
        let entry = entry?;
        let Some(index_shape) = index_shape else {
            let (text, typed) = key(&entry, None)?;
            printer.row(&[("entry", text, typed)], as_of)?;
            continue;
        };
        let (found_by, row_key) = key_text::decode(&entry, index_shape).map_err(|error| {
            Failure::Usage(format!(
                "an entry of the index is not of the type that was given: {error}; the entry is {}",
                entry.escape_ascii()
            ))
        })?;
        let value = copy.get(named, row_key)?.ok_or_else(|| {
            Failure::Usage(
                "what follows an index's key in an entry is no key of a row: --index-key is another type"
                    .into(),
            )
        })?;
        let ((key, typed_key), (value, typed)) = (key(row_key, shape)?, of.value(&value)?);
        printer.row(
            &[
                ("found_by", row(&found_by), json_row(&found_by)),
                ("key", key, typed_key),
                ("value", value, typed),
            ],
            as_of,
        )?;
    }
    Ok(Outcome::Well)
}

/// A row that is printed: of each column its name, its text and its JSON.
pub(crate) type Cells<'a> = [(&'a str, String, Value)];

/// Prints rows as they come.
pub(crate) struct Printer {
    is_table: bool,
    widths: Vec<usize>,
}

impl Printer {
    pub(crate) fn new(print: Print, columns: &[&str]) -> Result<Self, Failure> {
        let printer = Printer { is_table: print.format().is_table(), widths: vec![30; columns.len()] };
        if printer.is_table {
            let mut out = io::stdout().lock();
            let columns: Vec<_> =
                columns.iter().zip(&printer.widths).map(|(name, width)| (*name, *width)).collect();
            Table::new(&mut out, &columns)?;
        }
        Ok(printer)
    }

    pub(crate) fn row(&mut self, cells: &Cells<'_>, as_of: u64) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.is_table {
            let texts: Vec<_> = cells.iter().map(|(_, text, _)| text.clone()).collect();
            Table::go_on(&mut out, &self.widths).row(&texts)?;
        } else {
            let mut object: Map<String, Value> =
                cells.iter().map(|(name, _, typed)| ((*name).to_owned(), typed.clone())).collect();
            object.insert("as_of".into(), json!(as_of));
            json_line(&mut out, &object)?;
        }
        Ok(out.flush()?)
    }
}
