//! Every decoder, and what is built on them, as functions of bytes: for fuzzing. No stable interface.
//!
//! A target takes any bytes and returns. It panics only where something is wrong: what was decoded does not encode to
//! the same bytes, a length points out of its file, damage is served as an event. Where a checksum would stop every
//! changed byte, a target decodes twice: the bytes as they are, and with their checksums made right. `edits` changes
//! good files as the bytes say, so that an input stays small; `golden` has the files.

mod blocks;
mod edits;
mod frames;
mod golden;
mod keys;
mod operations;
mod pages;
mod stores;

/// Something that takes any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called on the command line, and its folder in the corpus.
    pub name: &'static str,
    /// Takes the bytes; panics where something is wrong.
    pub run: fn(&[u8]),
}

/// All targets of the library.
pub const TARGETS: [Target; 14] = [
    Target { name: "store_file", run: blocks::store_file },
    Target { name: "mark", run: blocks::mark },
    Target { name: "segment_header", run: blocks::segment_header },
    Target { name: "view_meta", run: blocks::view_meta },
    Target { name: "record", run: frames::record },
    Target { name: "frame", run: frames::frame },
    Target { name: "segment", run: frames::segment },
    Target { name: "index", run: pages::index },
    Target { name: "directory", run: pages::directory },
    Target { name: "base", run: pages::base },
    Target { name: "key", run: keys::key },
    Target { name: "payload", run: keys::payload },
    Target { name: "store", run: stores::store },
    Target { name: "operations", run: operations::operations },
];

/// Runs the target with this name; false when there is none.
pub fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.map(|target| (target.run)(input)).is_some()
}
