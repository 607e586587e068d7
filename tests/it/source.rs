//! The project's own source files, as text and as code without comments and literals.

use std::fs;
use std::path::Path;

/// A source file of the project.
pub(crate) struct Source {
    /// From the project's directory, with `/` on every system: `src/log/frame.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and what is in quotes blanked; line by line the same.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Source { path: path.to_owned(), text: text.to_owned(), code: code(text) }
    }

    /// All `.rs` files below a folder of the project, but for what was built there.
    pub(crate) fn all_below(folder: &str) -> Vec<Source> {
        let mut found = Vec::new();
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), folder, &mut found);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// Whether the code has a path or word, not as a part of a longer word.
    pub(crate) fn names(&self, wanted: &str) -> bool {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(wanted).any(|(at, _)| {
            let after = self.code[at + wanted.len()..].chars().next();
            let ends = !wanted.ends_with(word) || !after.is_some_and(word);
            let begins = !wanted.starts_with(word) || !self.code[..at].ends_with(word);
            begins && ends
        })
    }

    /// Name, first line and number of lines of each function that has a body.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let starts = self
            .code
            .match_indices("fn ")
            .filter(|(at, _)| !self.code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        let line = |at: usize| self.code[..at].matches('\n').count() + 1;
        starts
            .filter_map(|(at, _)| {
                let rest = &self.code[at + 3..];
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let end = at + 3 + body_end(rest)?;
                (!name.is_empty()).then(|| (name, line(at), line(end) - line(at) + 1))
            })
            .collect()
    }
}

fn collect(root: &Path, folder: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if path.ends_with("/target") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, found);
        } else if path.ends_with(".rs") {
            found.push(Source::new(&path, &fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// Where the body of a function ends, from its name on; `None` when it has none.
fn body_end(rest: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0_i32, 0_i32);
    for (at, c) in rest.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' if braces == 1 && brackets == 0 => return Some(at),
            '}' => braces -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Blanks comments, strings and characters.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let blanked = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_end(rest),
            'r' | 'b' if !word_before => raw_string_end(rest),
            '\'' => character_end(rest),
            _ => 0,
        };
        let taken = if blanked == 0 { first.len_utf8() } else { blanked };
        let (piece, left) = rest.split_at(taken);
        match blanked {
            0 => code.push_str(piece),
            _ => code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = left;
    }
    code
}

fn string_end(rest: &str) -> usize {
    let mut escaped = true;
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`; 0 when it is none of them.
fn raw_string_end(rest: &str) -> usize {
    let Some(after) = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')) else { return 0 };
    let hashes = after.chars().take_while(|c| *c == '#').count();
    if !after[hashes..].starts_with('"') {
        return 0;
    }
    let start = rest.len() - after.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
}

/// The end of `'c'` or `'\…'`; 0 for a lifetime.
fn character_end(rest: &str) -> usize {
    let inner = &rest[1..];
    if inner.starts_with('\\') {
        return inner[2..].find('\'').map_or(0, |at| at + 4);
    }
    let first = inner.chars().next().map_or(0, char::len_utf8);
    if inner[first..].starts_with('\'') { first + 2 } else { 0 }
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "a /* { */ 'x' '{' '\\'' &'a str \"} \\\" {\" r#\"\"{\"# br\"{\" // {\nfn b() { '\\u{1}'; }";
    let code = Source::new("a.rs", text).code;
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "&'a", "str", "fn", "b()", "{", ";", "}"]);
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn the_lines_of_functions_are_counted() {
    let text = "trait T {\n fn none(&self) -> [u8; 2];\n}\nfn a(x: fn(u8) -> u8) -> [u8; 2] {\n  let s = \"}\";\n\
                  if x {\n }\n}\nfn one() {}\n";
    let functions = Source::new("a.rs", text).functions();
    assert_eq!(functions, [("a".to_owned(), 4, 5), ("one".to_owned(), 9, 1)]);
}
