//! The name of an event type with the version of its schema: `deposited` is version 1, `deposited@2` version 2.

/// A type's name without its schema version, and that version. What does not end with `@` and a number from 2 on, written
/// without leading zeros, is a name of version 1 as a whole.
///
/// ```
/// use everfold::schema_version;
/// assert_eq!(schema_version("deposited"), ("deposited", 1));
/// assert_eq!(schema_version("deposited@12"), ("deposited", 12));
/// assert_eq!(schema_version("mail@example"), ("mail@example", 1));
/// ```
#[must_use]
pub fn schema_version(event_type: &str) -> (&str, u32) {
    let parsed = event_type.rsplit_once('@').and_then(|(name, digits)| {
        let number: u32 = digits.parse().ok()?;
        let is_canonical = !name.is_empty() && number >= 2 && number.to_string() == digits;
        is_canonical.then_some((name, number))
    });
    parsed.unwrap_or((event_type, 1))
}

/// Whether a name looks as if it had a schema version, and has one that nobody would read as such.
pub(super) fn is_misspelt(event_type: &str) -> bool {
    let (_, version) = schema_version(event_type);
    let digits = event_type.rsplit_once('@').map(|(_, digits)| digits);
    version == 1 && digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_spelling_of_each_schema_version() {
        for (event_type, parsed) in [
            ("a@2", ("a", 2)),
            ("a@1@3", ("a@1", 3)),
            ("a@4294967295", ("a", u32::MAX)),
            ("a@4294967296", ("a@4294967296", 1)),
            ("a@1", ("a@1", 1)),
            ("a@0", ("a@0", 1)),
            ("a@02", ("a@02", 1)),
            ("a@+2", ("a@+2", 1)),
            ("@2", ("@2", 1)),
            ("a@", ("a@", 1)),
        ] {
            assert_eq!(schema_version(event_type), parsed, "{event_type}");
        }
        for event_type in ["a@1", "a@0", "a@02", "a@", "@2", "a@4294967296"] {
            assert!(is_misspelt(event_type), "{event_type}");
        }
        for event_type in ["a", "a@2", "a@b", "a@1@3", "a@+2"] {
            assert!(!is_misspelt(event_type), "{event_type}");
        }
    }
}
