//! Views: what a projection keeps, in rows of a key and a value.
//!
//! [`key`], [`time_key`] and [`prefix`] say how keys become bytes in their own order; [`keyed`] are things in memory that
//! are found by such bytes ([`short_key`], [`key_hashes`] and [`numbers`] serve it), [`key_order`] puts them in order;
//! [`layout`] says where the rows of several views of one projection lie among each other; [`rows`] is the seam to the
//! key-value store, with [`sled_rows`] (the only file that names sled; [`pieces`] and [`directory`] serve it) and [`memory_rows`]
//! behind it; [`levels`] keep what has changed above it, so that a read sees one checkpoint; [`meta`] is what a view says
//! of itself, with the [`digest`] of its rows; [`state`] is shared by the projector and the typed [`handle`], and [`status`] what is told of it; a
//! [`snapshot`] is what is read of it, an [`index`] and a [`page`] are ways to do so; [`changes`] tell what becomes of it,
//! from the [`feed`] of the projector or by a [`refold`]; [`folder`] is where views are on disk.
//! [`control`] is what handles ask of the projector, and [`life`] the handle's side of it; [`set_aside`] has the events
//! that a view does without; [`verify`] holds two sets of rows against each other; [`inspect`] reads the views of a store
//! that may be open elsewhere, from copies of their files.

pub(crate) mod changes;
pub(crate) mod control;
#[cfg(test)]
mod damage_tests;
pub(crate) mod digest;
mod directory;
pub(crate) mod feed;
pub(crate) mod folder;
pub(crate) mod handle;
pub(crate) mod index;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod key_hashes;
pub(crate) mod key_list;
pub(crate) mod key_order;
pub(crate) mod keyed;
pub(crate) mod layout;
pub(crate) mod levels;
mod life;
pub(crate) mod memory_rows;
pub(crate) mod meta;
pub(crate) mod named;
mod numbers;
pub(crate) mod page;
pub(crate) mod pieces;
pub(crate) mod prefix;
pub(crate) mod refold;
pub(crate) mod rows;
pub(crate) mod set_aside;
pub(crate) mod short_key;
pub(crate) mod sled_rows;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod succession;
mod time_key;
pub(crate) mod value;
pub(crate) mod verify;
