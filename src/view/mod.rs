//! Views: what a projection keeps, in rows of a key and a value.
//!
//! [`key`] and [`prefix`] say how keys become bytes in their own order; [`rows`] is the seam to the key-value store,
//! with [`sled_rows`] (the only file that names sled; [`pieces`] and [`directory`] serve it) and [`memory_rows`]
//! behind it; [`levels`] keep what has changed above it; [`meta`] is what a view says of itself, with the [`digest`] of
//! its rows; [`state`] is shared by the projector and the typed [`handle`]; [`folder`] is where views are on disk.
//! [`control`] is what handles ask of the projector, and [`life`] the handle's side of it; [`set_aside`] has the events
//! that a view does without; [`verify`] holds two sets of rows against each other.

pub(crate) mod control;
#[cfg(test)]
mod damage_tests;
pub(crate) mod digest;
mod directory;
pub(crate) mod folder;
pub(crate) mod handle;
pub(crate) mod key;
pub(crate) mod levels;
mod life;
pub(crate) mod memory_rows;
pub(crate) mod meta;
pub(crate) mod pieces;
pub(crate) mod prefix;
pub(crate) mod rows;
pub(crate) mod set_aside;
pub(crate) mod sled_rows;
pub(crate) mod state;
pub(crate) mod verify;
