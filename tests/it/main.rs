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
mod block_on;
mod durability;
mod opening;
mod read;
mod subscribe;
mod crash;
mod ledger;
mod durability;
