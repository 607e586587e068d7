//! What one append call records, and what it returns.

use crate::event::{Event, Position, Version};
use crate::guard::Guard;

/// When an append returns, and so what the events then survive.
///
/// | level | on return the events are | power loss | process crash |
/// |---|---|---|---|
/// | `Durable` | synced to the disk | kept | kept |
/// | `Written` | handed to the operating system | may be lost | kept |
/// | `Deferred` | in this process's memory | may be lost | may be lost |
///
/// Whatever is lost is lost from the end: the log stays a whole prefix of what was appended, in whole batches.
/// Events can be read once they are durable, whatever level they were appended with. That happens with the next
/// `Durable` append, with `sync`, at `close`, or after [`sync_after`](crate::Options::sync_after) by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing yet: position and versions are given, the bytes are in memory.
    Deferred,
    /// The bytes are with the operating system, and survive this process.
    Written,
    /// The bytes are on the disk, and survive a loss of power. The default.
    #[default]
    Durable,
}

/// Events for one or more streams, with guards: recorded all or nothing, at consecutive positions, in this order.
///
/// ```
/// use everfold::{Batch, Event, Expected, Guard, Version};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
/// store.append("account-1", Expected::NoStream, [Event::json("opened", &100)?])?;
/// let done = store.append_batch(
///     Batch::new()
///         .event("account-1", Event::json("withdrawn", &30)?)
///         .event("account-2", Event::json("deposited", &30)?)
///         .guard(Guard::version("account-1", Version::new(1))),
/// )?;
/// assert_eq!((done.first.get(), done.position.get()), (2, 3));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a batch records nothing until it is given to append_batch"]
pub struct Batch {
    pub(crate) events: Vec<(String, Event)>,
    pub(crate) guards: Vec<Guard>,
    pub(crate) durability: Durability,
}

impl Batch {
    /// An empty batch, durable on return. It is refused unless it is given an event.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event to a stream.
    pub fn event(mut self, stream: impl Into<String>, event: Event) -> Self {
        self.events.push((stream.into(), event));
        self
    }

    /// Adds a guard.
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Sets when the append returns.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// What an append recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Position of the batch's first event.
    pub first: Position,
    /// Position of its last event: what to wait for to read one's own writes.
    pub position: Position,
    /// Version of the last event in its stream: what the next append to that stream expects.
    pub version: Version,
    /// The same events (by id) had been recorded before, at these positions; nothing was written this time.
    pub repeated: bool,
}
