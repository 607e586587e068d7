//! Behaviour through the public API. Test names are sentences.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop there"
)]

mod append;
#[cfg(feature = "cli")]
mod cli;
mod golden;
mod durability;
mod opening;
