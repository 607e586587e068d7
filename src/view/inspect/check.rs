//! Holds what a copy says of itself against the log.

use std::ops::ControlFlow;

use super::copy::ViewCopy;
use crate::dump::{Found, Inspector};
use crate::error::{Damage, Error};
use crate::event::Position;

/// What the log has at a checkpoint.
#[derive(Debug, PartialEq, Eq)]
enum At {
    Event {
        fingerprint: u32,
    },
    /// Retention has removed it, or it is in damaged bytes.
    Unreadable,
    Nothing,
}

impl ViewCopy {
    /// What speaks against the copied rows being those of this store's log: another store's id, another name or generation
    /// than their folder has, a checkpoint beyond the log's end, or an event there that is not the one they were made from.
    /// Nothing: they would be served. That they follow from the log only the projection can prove:
    /// [`View::verify`](crate::View::verify) folds them again.
    ///
    /// # Errors
    /// When a file of the log cannot be read.
    pub fn contradictions(&self) -> Result<Vec<String>, Error> {
        // The log may have grown since, and never shrinks at its end.
        let inspector = Inspector::open(&self.root)?;
        let meta = self.meta();
        let mut found = Vec::new();
        if meta.store_id != inspector.store().store_id {
            found.push(format!("it belongs to the store {}", meta.store_id));
        }
        if (meta.name.as_str(), meta.generation) != (self.source().name(), self.generation()) {
            found.push(format!("it is generation {} of {}", meta.generation, meta.name));
        }
        if meta.checkpoint == Position::START {
            return Ok(found);
        }
        match at(&inspector, meta.checkpoint)? {
            At::Event { fingerprint } if fingerprint != meta.fingerprint => found.push(format!(
                "it was made from another log: the event at position {} is not the same",
                meta.checkpoint
            )),
            At::Nothing => {
                found.push(format!("it is at position {}, and the log ends before that", meta.checkpoint));
            }
            At::Event { .. } | At::Unreadable => {}
        }
        Ok(found)
    }
}

fn at(inspector: &Inspector, position: Position) -> Result<At, Error> {
    let (mut at, mut damaged) = (None, false);
    inspector.scan(position.previous(), |found| {
        let events = match found {
            Found::Frame { events, .. } => events,
            Found::Damage { corruption, events, .. } => {
                damaged |= corruption.damage != Damage::TornTail;
                events
            }
        };
        let event = events.iter().find(|event| event.position() == position);
        at = event.map(|event| At::Event { fingerprint: event.fingerprint() });
        if at.is_none() && events.iter().any(|event| event.position() > position) {
            at = Some(At::Unreadable);
        }
        if at.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let gone = position < inspector.store().log_start;
    Ok(at.unwrap_or(if damaged || gone { At::Unreadable } else { At::Nothing }))
}
