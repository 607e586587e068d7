//! The target for the text of a query, which the command line reads and the library does not know.

#[path = "../../src/bin/everfold/query_text.rs"]
mod query_text;

use query_text::query;

/// Takes any bytes; panics where the text form means two things.
pub(crate) fn query_text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match query(text) {
        Err(bad) => {
            assert!((1..=text.chars().count() + 1).contains(&bad.at), "an error points into the text");
            assert!(bad.to_string().starts_with("at character "));
        }
        Ok(found) => {
            let twice = query(&format!(" {text} ; {text}\n"));
            assert_eq!(twice, Ok(found.clone().or(found)), "items stand for themselves");
        }
    }
}
