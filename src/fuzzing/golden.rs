//! The golden stores, byte by byte: what the targets change. Their events are told in `fixtures/README.md`.

/// The files of a store, by their names in its directory.
pub(super) type Files = &'static [(&'static str, &'static [u8])];

macro_rules! files {
    ($store:literal: $($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("../../fixtures/v1/", $store, "/", $name)))),*]
    };
}

const CLEAN: Files = files!("clean": "STORE" "MARK" "log/00000000000000000001.seg");
const UNCLEAN: Files = files!("unclean": "STORE" "MARK" "log/00000000000000000001.seg");
const TORN_TAIL: Files = files!("torn_tail": "STORE" "MARK" "log/00000000000000000001.seg");
const ROLLED: Files = files!("rolled": "STORE" "MARK" "log/00000000000000000001.seg"
    "log/00000000000000000030.seg" "log/00000000000000000059.seg");
const RETAINED: Files = files!("retained": "STORE" "MARK" "log/00000000000000000186.seg"
    "log/00000000000000000054.seg" "log/00000000000000000054.idx" "log/00000000000000000054.base"
    "log/000000000000-4.keys" "log/00000000000000000081.seg" "log/00000000000000000081.idx"
    "log/00000000000000000108.seg" "log/00000000000000000108.idx" "log/00000000000000000134.seg"
    "log/00000000000000000134.idx" "log/00000000000000000160.seg" "log/00000000000000000160.idx");

/// Stores that open, with all their events.
pub(super) const STORES: [Files; 5] = [CLEAN, UNCLEAN, TORN_TAIL, ROLLED, RETAINED];

/// A segment with every encoding, with and without tags and metadata.
pub(super) const SEGMENT: &[u8] = include_bytes!("../../fixtures/v1/clean/log/00000000000000000001.seg");
/// A sealed segment, its index, a directory that it is in, and the base of the log that begins with it.
pub(super) const SEALED: &[u8] = include_bytes!("../../fixtures/v1/retained/log/00000000000000000054.seg");
pub(super) const INDEX: &[u8] = include_bytes!("../../fixtures/v1/retained/log/00000000000000000054.idx");
pub(super) const DIRECTORY: &[u8] = include_bytes!("../../fixtures/v1/retained/log/000000000000-4.keys");
pub(super) const BASE: &[u8] = include_bytes!("../../fixtures/v1/retained/log/00000000000000000054.base");

/// The streams, types and tags of the store that the last three are of, and others.
pub(super) const STREAMS: [&str; 4] = ["cart-0", "cart-1", "cart-2", "cart-3"];
pub(super) const TYPES: [&str; 2] = ["sold", "sol"];
pub(super) const TAGS: [&str; 3] = ["customer:0", "customer:6", "customer:99"];
