//! What a campaign measured, beside what it was to reach.

use std::fmt::Display;

/// Prints `FIGURE name value goal` lines, and remembers whether each goal that is not to be missed was reached.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    missed: Vec<String>,
}

impl Figures {
    /// A count that is to reach a goal. A shorter run than the goal asks for is no failure: it is what was asked for.
    pub(crate) fn count(&mut self, name: &str, value: u64, goal: u64) {
        Self::line(name, value, format_args!(">={goal}"));
    }

    /// A count of what must not happen at all.
    pub(crate) fn none(&mut self, name: &str, value: u64) {
        Self::line(name, value, "=0");
        if value != 0 {
            self.missed.push(format!("{name} is {value}, and must be 0"));
        }
    }

    /// How many of a known number there were: all of them are asked for.
    pub(crate) fn all(&mut self, name: &str, value: u64, of: u64) {
        Self::line(name, value, format_args!("={of}"));
        if value != of {
            self.missed.push(format!("{name} is {value}, and must be {of}"));
        }
    }

    /// Says what could not be done here, and why.
    pub(crate) fn skipped(name: &str, why: impl Display) {
        println!("SKIPPED {name}: {why}");
    }

    fn line(name: &str, value: u64, goal: impl Display) {
        println!("FIGURE {name} {value} {goal}");
    }

    /// The goals that were missed, as one message.
    pub(crate) fn end(self) -> Result<(), String> {
        if self.missed.is_empty() { Ok(()) } else { Err(self.missed.join("; ")) }
    }
}
