//! What lies in pages: the index of a segment, a directory of several, the base of a log cut short. Each is a golden
//! file that was edited; with the first flag its pages' checksums are made right, without it every answer must be the
//! golden file's, or a fault.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::edits::{Input, edit_all};
use super::golden;
use crate::event::Position;
use crate::log::index::base::{self, BaseFile, BasePlan};
use crate::log::index::directory::{self, Directory, Plan, Span, Wanted};
use crate::log::index::file::{self, ID_ENTRY, IndexFile, KEY_ENTRY};
use crate::log::index::key::{KeyHasher, Kind};
use crate::log::index::pages::{IndexFault, PAGE, PAYLOAD, PageSink, Pages, Source};
use crate::log::index::table::Table;
use crate::log::index::{Lookup, Sealed, SegmentIndex};
use crate::log::layout::{bytes_at, disk_len, u32_at, u64_at};
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;

/// The golden file, edited, and whether its pages were given right checksums.
fn edited(good: &[u8], input: &[u8], tag: u64) -> (Vec<u8>, bool) {
    let mut input = Input::new(input);
    let resealed = input.byte() & 1 == 1;
    let mut bytes = good.to_vec();
    edit_all(&mut bytes, &mut input);
    (if resealed { seal_again(&bytes, tag) } else { bytes }, resealed)
}

/// The same pages with right checksums.
fn seal_again(bytes: &[u8], tag: u64) -> Vec<u8> {
    let mut sink = PageSink::in_memory(tag);
    for page in bytes.chunks(PAGE) {
        // In memory, so it does not fail.
        let _kept = sink.page(page.get(..PAYLOAD).unwrap_or(page));
    }
    sink.finish().unwrap_or_default()
}

fn lent(bytes: &[u8]) -> Source {
    Source::Lent(Bytes::copy_from_slice(bytes))
}

/// The store id that page 0 of an index, a directory or a base tells.
fn store_id(page: &[u8]) -> Uuid {
    bytes_at(page, 16).map_or(Uuid::nil(), Uuid::from_bytes)
}

/// Goes through a table, which has at most as many entries as its pages have room for.
fn go_through<const N: usize>(table: &Table, pages: &Pages, file: &[u8]) {
    let (mut cursor, mut entries) = (table.entries(pages), 0);
    while let Ok(Some(_)) = cursor.next::<N>() {
        entries += 1;
        assert!(entries <= file.len() / N, "a table has more entries than its file");
    }
}

/// An answer is the golden file's, or a fault; with right checksums, any.
#[track_caller]
fn compare<T: PartialEq + std::fmt::Debug>(
    resealed: bool,
    got: Result<T, IndexFault>,
    good: Result<T, IndexFault>,
) {
    if let Ok(got) = got
        && !resealed
    {
        assert!(good.is_ok_and(|good| good == got), "damage was taken for an answer: {got:?}");
    }
}

fn index_identity() -> file::Identity {
    let page = golden::INDEX;
    file::Identity {
        store_id: store_id(page),
        first: Position::new(u64_at(page, 32).unwrap_or_default()),
        salt: u64_at(page, 40).unwrap_or_default(),
        sealed: Sealed {
            len: u64_at(page, 48).unwrap_or_default(),
            chain: u32_at(page, 152).unwrap_or_default(),
        },
    }
}

fn open_index(bytes: &[u8]) -> Option<IndexFile> {
    IndexFile::open(lent(bytes), &index_identity()).ok().flatten()
}

pub(super) fn index(input: &[u8]) {
    let identity = index_identity();
    let (bytes, resealed) = edited(golden::INDEX, input, identity.tag());
    let (Some(file), Some(good)) = (open_index(&bytes), open_index(golden::INDEX)) else { return };
    let hasher = KeyHasher::new(identity.store_id);
    let names = golden::STREAMS.map(|name| (Kind::Stream, name)).into_iter();
    let names = names.chain(golden::TYPES.map(|name| (Kind::Type, name)));
    for (kind, name) in names.chain(golden::TAGS.map(|name| (Kind::Tag, name))) {
        let key = hasher.key(kind, name);
        let found = file.find(&key);
        if let Ok(Some(found)) = &found {
            assert!(found.count > 0 && found.first <= found.last && found.last < file.events());
            assert!(found.count <= file.events(), "a name has no more events than the segment");
            for at in (0..found.count).take(40).chain([found.count - 1]) {
                let posting = file.posting(found, at);
                assert!(posting.as_ref().is_ok_and(|number| *number < file.events()) || at > 0);
                compare(resealed, posting, good.posting(found, at));
            }
        }
        compare(resealed, found, good.find(&key));
    }
    for number in (0..30).chain([file.events().wrapping_sub(1), file.events(), u32::MAX]) {
        compare(resealed, file.place(number), good.place(number));
    }
    for id in [0, 53, 60, 79, 80, 1 << 100].map(Uuid::from_u128) {
        compare(resealed, file.with_id(id, hasher.id(id)), good.with_id(id, hasher.id(id)));
    }
    go_through::<KEY_ENTRY>(&file.header.key_table, &file.pages, &bytes);
    go_through::<ID_ENTRY>(&file.header.id_table, &file.pages, &bytes);
    merge_segments(file, identity, bytes.len());
}

/// A directory of the golden index and the edited one.
fn merge_segments(edited: IndexFile, identity: file::Identity, len: usize) {
    let Some(good) = open_index(golden::INDEX) else { return };
    let span = Span {
        store_id: identity.store_id,
        start: 0,
        segments: 4,
        last_salt: identity.salt,
        last_sealed: identity.sealed,
    };
    let parts = [(0, good), (1, edited)].map(|(number, index)| directory::Part::Segment {
        number,
        index: Arc::new(SegmentIndex::File(index)),
    });
    write_directory(&parts, span, len);
}

/// Writes the directory of some parts, which is not much longer than they are.
fn write_directory(parts: &[directory::Part], span: Span, len: usize) {
    let Ok(plan) = Plan::new(parts, span) else { return };
    let most = 4 * disk_len(golden::INDEX.len() + golden::DIRECTORY.len() + len);
    assert!(plan.file_len() <= most, "a directory is about as long as its parts: {}", plan.file_len());
    let storage = MemoryStorage::new();
    let Ok(file) = storage.create("keys", plan.file_len()) else { return };
    if plan.write(file).is_ok() {
        let bytes = storage.file("keys").unwrap_or_default();
        let opened = Directory::open(lent(&bytes), span);
        assert!(opened.is_ok_and(|opened| opened.is_some()), "what was written opens");
    }
}

fn span() -> Span {
    let page = golden::DIRECTORY;
    Span {
        store_id: store_id(page),
        start: u64_at(page, 32).unwrap_or_default(),
        segments: u32_at(page, 40).unwrap_or_default().into(),
        last_salt: u64_at(page, 48).unwrap_or_default(),
        last_sealed: Sealed {
            len: u64_at(page, 56).unwrap_or_default(),
            chain: u32_at(page, 136).unwrap_or_default(),
        },
    }
}

fn open_directory(bytes: &[u8]) -> Option<Directory> {
    Directory::open(lent(bytes), span()).ok().flatten()
}

pub(super) fn directory(input: &[u8]) {
    let span = span();
    let (bytes, resealed) = edited(golden::DIRECTORY, input, span.tag());
    let (Some(file), Some(good)) = (open_directory(&bytes), open_directory(golden::DIRECTORY)) else {
        return;
    };
    let hasher = KeyHasher::new(span.store_id);
    let streams = golden::STREAMS.map(|name| hasher.name(Kind::Stream, name)).into_iter();
    let tags = golden::TAGS.map(|name| hasher.name(Kind::Tag, name));
    let names = streams.chain(tags).chain([0, u64::MAX]).map(Wanted::Name);
    let ids = [0, 5, 60, 107, 108, 1 << 100].map(Uuid::from_u128);
    for wanted in names.chain(ids.map(|id| Wanted::Id(id, hasher.id(id)))) {
        let found = file.find(wanted);
        if let Ok(found) = &found {
            assert!(found.len() <= bytes.len() / directory::ENTRY, "it has no more entries than its file");
        }
        compare(resealed, found, good.find(wanted));
    }
    let wide = Span { segments: 16, ..span };
    let parts = [file, good].map(|directory| directory::Part::Directory(Arc::new(directory)));
    write_directory(&parts, wide, bytes.len());
}

fn base_identity() -> base::Identity {
    let page = golden::BASE;
    let log_start = Position::new(u64_at(page, 32).unwrap_or_default());
    base::Identity { store_id: store_id(page), log_start }
}

fn open_base(bytes: &[u8]) -> Option<BaseFile> {
    BaseFile::open(lent(bytes), &base_identity()).ok().flatten()
}

pub(super) fn base(input: &[u8]) {
    let identity = base_identity();
    let (bytes, resealed) = edited(golden::BASE, input, identity.tag());
    let verified = is_verified(&bytes, &identity);
    if !resealed {
        assert_eq!(verified, bytes == golden::BASE, "every changed byte is found");
    }
    let (Some(file), Some(good)) = (open_base(&bytes), open_base(golden::BASE)) else {
        assert!(!verified, "what verifies opens");
        return;
    };
    let hasher = KeyHasher::new(identity.store_id);
    for stream in golden::STREAMS {
        let key = hasher.key(Kind::Stream, stream);
        compare(resealed, file.find(&key), good.find(&key));
    }
    let Some(index) = open_index(golden::INDEX) else { return };
    let later = base::Identity { log_start: Position::new(81), ..identity };
    let index = Arc::new(SegmentIndex::File(index));
    let parts = [base::Part::Base(Arc::new(file)), base::Part::Segment(index, Position::new(54))];
    write_base(&parts, later, bytes.len());
}

fn is_verified(bytes: &[u8], identity: &base::Identity) -> bool {
    let storage = MemoryStorage::new();
    let file = storage.create("base", disk_len(bytes.len()));
    let written = storage.overwrite("base", 0, bytes).is_ok();
    file.is_ok_and(|file| written && matches!(base::verify(file.as_ref(), identity), Ok(None)))
}

/// Writes the base of some parts, which is not much longer than they are.
fn write_base(parts: &[base::Part], identity: base::Identity, len: usize) {
    let Ok(plan) = BasePlan::new(parts, identity) else { return };
    // A name may be of 255 bytes, and any number of entries may have the same.
    let most = 16 * disk_len(golden::INDEX.len() + golden::BASE.len() + len);
    assert!(plan.file_len() <= most, "a base is about as long as its parts: {}", plan.file_len());
    let storage = MemoryStorage::new();
    let Ok(file) = storage.create("base", plan.file_len()) else { return };
    if plan.write(file).is_ok() {
        let bytes = storage.file("base").unwrap_or_default();
        let opened = BaseFile::open(lent(&bytes), &identity);
        assert!(opened.is_ok_and(|opened| opened.is_some()), "what was written opens");
        assert!(is_verified(&bytes, &identity), "what was written verifies");
    }
}
