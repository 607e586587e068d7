//! Views: what a projection keeps, in rows of a key and a value.
//!
//! [`key`], [`time_key`] and [`prefix`] say how keys become bytes in their own order, [`layout`] where the rows of several
//! views of one projection lie among each other; [`rows`] is the seam to the key-value store,
//! with [`sled_rows`] (the only file that names sled; [`pieces`] and [`directory`] serve it) and [`memory_rows`]
//! behind it; [`levels`] keep what has changed above it; [`meta`] is what a view says of itself, with the [`digest`] of its
//! rows; [`state`] is shared by the projector and the typed [`handle`]; a [`snapshot`] is what is read of it, an [`index`]
//! and a [`page`] are ways to do so; [`changes`] tell what becomes of it, from the [`feed`] of the projector or by a
//! [`refold`]; [`folder`] is where views are on disk.

pub(crate) mod changes;
#[cfg(test)]
mod damage_tests;
pub(crate) mod digest;
mod directory;
pub(crate) mod feed;
pub(crate) mod folder;
pub(crate) mod handle;
pub(crate) mod index;
pub(crate) mod key;
pub(crate) mod layout;
pub(crate) mod levels;
pub(crate) mod memory_rows;
pub(crate) mod meta;
pub(crate) mod named;
pub(crate) mod page;
pub(crate) mod pieces;
pub(crate) mod prefix;
pub(crate) mod refold;
pub(crate) mod rows;
pub(crate) mod sled_rows;
pub(crate) mod snapshot;
pub(crate) mod state;
mod time_key;
pub(crate) mod value;
