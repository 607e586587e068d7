//! One event, given to a projection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ViewBatch;
use super::runs::Runs;
use crate::error::{Error, ErrorKind};
use crate::event::RecordedEvent;

/// Applies an event; a panic becomes an error.
pub(super) fn apply<P: Runs>(
    projection: &P,
    event: &RecordedEvent,
    batch: &mut ViewBatch<P::Key, P::Value>,
) -> Result<(), Error> {
    let failed = |what: &str, why: &str| {
        let (kind, event_type) = (ErrorKind::Stopped { position: event.position() }, event.event_type());
        Error::new(kind, format!("apply {what} on {event_type:?} of stream {:?}: {why}", event.stream()))
    };
    match catch_unwind(AssertUnwindSafe(|| projection.apply(event, batch))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed("failed", &error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(failed("panicked", text.as_deref().unwrap_or("with something that is not text")))
        }
    }
}
