//! The text form of a query: `type:sold,withdrawn tag:account:1; stream:cart-7`. Pure: text in, query or reason out.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use everfold::Query;

/// What is wrong with the text of a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadQuery {
    /// At which character, counted from 1.
    pub(crate) at: usize,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    NoPart,
    UnknownPart,
    NoName,
    OpenQuote,
    BadEscape,
    AfterQuote,
    QuoteInName,
    CommaInTag,
    CommaInStream,
    SecondStream,
}

impl fmt::Display for BadQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: ", self.at)?;
        f.write_str(match self.problem {
            Problem::NoPart => "expected type:, tag: or stream:, and there is nothing",
            Problem::UnknownPart => "expected type:, tag: or stream:",
            Problem::NoName => "expected a name",
            Problem::OpenQuote => "the name has no closing quotation mark",
            Problem::BadEscape => "between quotation marks \\ stands before \" or \\ only",
            Problem::AfterQuote => "expected a blank, a comma or a semicolon after the quotation mark",
            Problem::QuoteInName => "a name with a quotation mark in it is put between quotation marks",
            Problem::CommaInTag => "an event has one tag or the other: write tag: again for each",
            Problem::CommaInStream => "an event is in one stream: separate items by ; to ask for several",
            Problem::SecondStream => "an event is in one stream, and the item has named one before",
        })
    }
}

impl std::error::Error for BadQuery {}

/// Reads the text form of a query.
pub(crate) fn query(text: &str) -> Result<Query, BadQuery> {
    let mut reader = Reader { rest: text.chars().peekable(), at: 1 };
    let mut query = reader.item()?;
    while reader.take().is_some() {
        query = query.or(reader.item()?);
    }
    Ok(query)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    /// The number of the character that comes next.
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.at += usize::from(c.is_some());
        c
    }

    fn take_if(&mut self, wanted: impl FnOnce(char) -> bool) -> Option<char> {
        if self.rest.peek().is_some_and(|c| wanted(*c)) { self.take() } else { None }
    }

    fn error<T>(&self, problem: Problem) -> Result<T, BadQuery> {
        Err(BadQuery { at: self.at, problem })
    }

    /// An item, up to the semicolon that ends it or to the end. It has a part at least: one without would match every
    /// event, which nobody means who wrote a query.
    fn item(&mut self) -> Result<Query, BadQuery> {
        let (mut item, mut has_parts, mut has_stream) = (Query::all(), false, false);
        loop {
            while self.take_if(char::is_whitespace).is_some() {}
            if self.rest.peek().is_none_or(|c| *c == ';') {
                return if has_parts { Ok(item) } else { self.error(Problem::NoPart) };
            }
            let at = self.at;
            match self.key().as_str() {
                "type" => item = item.types(self.types()?),
                "tag" => item = item.tags([self.only_name(Problem::CommaInTag)?]),
                "stream" if has_stream => return Err(BadQuery { at, problem: Problem::SecondStream }),
                "stream" => {
                    item = item.stream(self.only_name(Problem::CommaInStream)?);
                    has_stream = true;
                }
                _ => return Err(BadQuery { at, problem: Problem::UnknownPart }),
            }
            has_parts = true;
        }
    }

    /// What stands before the colon, or all there is if there is none, which is then no key.
    fn key(&mut self) -> String {
        let mut key = String::new();
        while let Some(c) = self.take() {
            if c == ':' {
                return key;
            }
            key.push(c);
        }
        key.push(':');
        key
    }

    fn types(&mut self) -> Result<Vec<String>, BadQuery> {
        let mut types = vec![self.name()?];
        while self.take_if(|c| c == ',').is_some() {
            types.push(self.name()?);
        }
        Ok(types)
    }

    fn only_name(&mut self, several: Problem) -> Result<String, BadQuery> {
        let name = self.name()?;
        if self.rest.peek() == Some(&',') { self.error(several) } else { Ok(name) }
    }

    /// A name, up to what ends it.
    fn name(&mut self) -> Result<String, BadQuery> {
        let at = self.at;
        let mut name = String::new();
        if self.take_if(|c| c == '"').is_some() {
            self.quoted(at, &mut name)?;
        } else {
            while let Some(c) = self.take_if(|c| !ends_name(c) && c != '"') {
                name.push(c);
            }
        }
        match self.rest.peek() {
            Some('"') => self.error(Problem::QuoteInName),
            Some(c) if !ends_name(*c) => self.error(Problem::AfterQuote),
            _ if name.is_empty() => Err(BadQuery { at, problem: Problem::NoName }),
            _ => Ok(name),
        }
    }

    fn quoted(&mut self, at: usize, name: &mut String) -> Result<(), BadQuery> {
        loop {
            match self.take() {
                None => return Err(BadQuery { at, problem: Problem::OpenQuote }),
                Some('"') => return Ok(()),
                Some('\\') => match self.take_if(|c| c == '"' || c == '\\') {
                    Some(c) => name.push(c),
                    None => return self.error(Problem::BadEscape),
                },
                Some(c) => name.push(c),
            }
        }
    }
}

fn ends_name(c: char) -> bool {
    c.is_whitespace() || c == ',' || c == ';'
}
