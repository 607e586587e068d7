//! What a component of a key or value is, to be printed: as text that a key can be given as, or as JSON.

use serde_json::{Value, json};

use crate::render::{hex, printable, time_of};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    /// A number, in digits.
    Int(String),
    Float(f64),
    Bool(bool),
    Char(char),
    Text(String),
    Bytes(Vec<u8>),
    Uuid(String),
    /// Seconds since 1970, and nanoseconds after them.
    Time(i64, u32),
    None,
    List(Vec<Datum>),
}

impl Datum {
    pub(crate) fn json(&self) -> Value {
        match self {
            // What is too large for a number of JSON is text.
            Datum::Int(digits) => {
                let number = digits.parse::<u64>().map(|number| json!(number));
                number.or_else(|_| digits.parse::<i64>().map(|number| json!(number))).unwrap_or(json!(digits))
            }
            Datum::Float(number) => json!(number),
            Datum::Bool(flag) => json!(flag),
            Datum::None => Value::Null,
            Datum::List(items) => items.iter().map(Datum::json).collect(),
            Datum::Text(text) => json!(text),
            Datum::Char(_) | Datum::Bytes(_) | Datum::Uuid(_) | Datum::Time(..) => json!(self.bare()),
        }
    }

    fn bare(&self) -> String {
        match self {
            Datum::Char(c) => c.to_string(),
            other => other.text(),
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Datum::Int(digits) => digits.clone(),
            Datum::Float(number) => number.to_string(),
            Datum::Bool(flag) => flag.to_string(),
            Datum::Char(c) => quoted(&c.to_string()),
            Datum::Text(text) => quoted(text),
            Datum::Bytes(bytes) => hex(bytes),
            Datum::Uuid(id) => id.clone(),
            Datum::Time(seconds, nanos) => time_of(*seconds, *nanos),
            Datum::None => "none".into(),
            Datum::List(items) => format!("[{}]", row(items)),
        }
    }
}

/// Components with commas between.
pub(crate) fn row(items: &[Datum]) -> String {
    items.iter().map(Datum::text).collect::<Vec<_>>().join(",")
}

/// One component as itself, more as a list.
pub(crate) fn json_row(items: &[Datum]) -> Value {
    match items {
        [one] => one.json(),
        items => items.iter().map(Datum::json).collect(),
    }
}

/// Text as it is, or between quotation marks where it would be taken for something else.
fn quoted(text: &str) -> String {
    let blank = |c: Option<char>| c.is_none_or(char::is_whitespace);
    let plain = printable(text) == text
        && !text.contains([',', '"', '\\', '[', ']'])
        && !blank(text.chars().next())
        && !blank(text.chars().last())
        && text != "none";
    if plain {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => out.push_str(&printable(&c.to_string())),
        }
    }
    out.push('"');
    out
}
