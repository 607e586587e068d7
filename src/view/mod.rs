//! Views: what a projection keeps, in rows of a key and a value.
//!
//! [`key`] and [`prefix`] say how keys become bytes in their own order; [`rows`] is the seam to the key-value store,
//! with [`sled_rows`] (the only file that names sled; [`pieces`] and [`directory`] serve it) and [`memory_rows`]
//! behind it; [`levels`] keep what has changed above it; [`meta`] is what a view says of itself, with the [`digest`] of its rows; [`state`] is shared by the projector and the typed
//! [`handle`]; [`folder`] is where views are on disk.

#[cfg(test)]
mod damage_tests;
pub(crate) mod digest;
mod directory;
pub(crate) mod folder;
pub(crate) mod handle;
pub(crate) mod key;
pub(crate) mod levels;
pub(crate) mod memory_rows;
pub(crate) mod meta;
pub(crate) mod pieces;
pub(crate) mod prefix;
pub(crate) mod rows;
pub(crate) mod sled_rows;
pub(crate) mod state;
