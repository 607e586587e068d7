//! For tests of deciders and projections: given these events, when that command, then those events; given events, then
//! these rows. Each runs in a store in memory, so that names, schemas, tags and guards are tested as well.

mod decider;
mod projection;

use std::fmt::{Debug, Display};

pub use decider::{Decided, Given, Then, decider};
pub use projection::{GivenEvents, projection};

/// Ends the test.
#[track_caller]
#[expect(clippy::panic, reason = "this is how a test fails")]
fn fail(what: impl Display) -> ! {
    panic!("{what}")
}

/// The value, or the end of the test.
#[track_caller]
fn sound<T, E: Display>(result: Result<T, E>, doing: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => fail(format_args!("could not {doing}: {error}")),
    }
}

/// One on each line.
fn lines<T: Debug>(items: &[T]) -> String {
    match items {
        [] => "\n    nothing".to_owned(),
        items => items.iter().map(|item| format!("\n    {item:?}")).collect(),
    }
}
