#![doc = include_str!("../README.md")]

mod backup;
mod batch;
mod codec;
pub mod dump;
mod error;
mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod log;
mod options;
mod projection;
mod query;
mod repair;
mod retention;
mod storage;
mod store;
mod subscription;
mod sync;
mod view;
mod watermark;

pub use backup::BackedUp;
pub use batch::{Appended, Batch, Durability};
pub use error::{AppendError, Corruption, Damage, Error, ErrorKind};
pub use event::{Encoding, Event, MAX_NAME_BYTES, MAX_TAGS, Position, RecordedEvent, Version};
pub use guard::{Conflict, Expected, Guard};
pub use log::cursor::Cursor;
pub use log::record::MAX_EVENT_BYTES;
pub use log::recovery::Removed;
pub use log::report::{RebuiltView, RecoveryReport};
pub use log::ticket::Ticket;
pub use options::{MAX_BATCH_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Options};
pub use projection::{ApplyError, OnError, Projection, ProjectionOptions, ViewBatch};
pub use query::{MAX_QUERY_ITEMS, MAX_QUERY_TYPES, Query};
pub use repair::{LOST_STREAM, LOST_TYPE, Lost, Repair, RepairReport, Unproven, repair, repair_memory};
pub use retention::{KeptBy, Retained, Retention};
pub use storage::memory::{Fault, MemoryStorage, Outage};
pub use store::{Store, restore};
pub use subscription::{EventStream, Subscription};
pub use uuid::Uuid;
pub use view::folder::ViewNote;
pub use view::handle::{Rows, View};
pub use view::key::Key;
pub use view::prefix::{KeyPart, KeyPrefix};
pub use view::set_aside::SetAside;
pub use view::state::{ProjectionState, ViewDigest, ViewStatus};
pub use view::verify::{Comparison, Difference, DifferingRow, Verified};
