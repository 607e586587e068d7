//! Names whose hashes collide, and files whose checksums are right and whose content is not.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::directory::{Directory, Part, Plan, Span, Wanted};
use super::encode::encode;
use super::file::{Identity, IndexFile};
use super::key::{Key, KeyHasher, Kind};
use super::memory::MemoryIndex;
use super::pages::{Source, seal_again};
use super::{Lookup, Place, Sealed, SegmentIndex};
use crate::event::{Position, Version};
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;

const STORE: Uuid = Uuid::from_u128(5);

fn identity(number: u64) -> Identity {
    let sealed = Sealed { len: 9, chain: 1 };
    Identity { store_id: STORE, first: Position::new(1 + number * 100), salt: 3 + number, sealed }
}

fn open(bytes: Vec<u8>, number: u64) -> Option<IndexFile> {
    IndexFile::open(Source::Lent(bytes.into()), &identity(number)).unwrap()
}

fn names() -> Vec<(Kind, String)> {
    let kinds = [Kind::Stream, Kind::Type, Kind::Tag];
    (0..90).flat_map(|n| kinds.map(|kind| (kind, format!("name {n}")))).collect()
}

/// An index in which each name has the hash that is given for it; the name with number n is of every nth event.
fn index(hash: impl Fn(usize) -> u64) -> MemoryIndex {
    let names = names();
    let mut index = MemoryIndex::new(Position::new(1));
    let mut versions = vec![0; names.len()];
    for number in 0..100u64 {
        let place = Place { frame: 4096 + number * 200, record: 4160 + number * 200 };
        let event = index.event(place, Uuid::from_u128(u128::from(number * 37 % 101)));
        for (n, (kind, name)) in names.iter().enumerate() {
            if number.is_multiple_of(u64::try_from(n).unwrap() + 1) {
                versions[n] += 1;
                let key = index.key(&Key { kind: *kind, name: name.as_bytes(), hash: hash(n) });
                index.note(key, event, Version::new(versions[n]));
            }
        }
    }
    index
}

fn check_names(index: &dyn Lookup, hash: impl Fn(usize) -> u64) {
    for (n, (kind, name)) in names().iter().enumerate() {
        let found = index.find(&Key { kind: *kind, name: name.as_bytes(), hash: hash(n) }).unwrap().unwrap();
        let step = u32::try_from(n + 1).unwrap();
        assert_eq!(found.count, 100u32.div_ceil(step), "{name}");
        let postings: Vec<u32> = (0..found.count).map(|at| index.posting(&found, at).unwrap()).collect();
        assert!(postings.iter().copied().eq((0..100).step_by(n + 1)), "{name}");
        for other in ["name 90", "name", ""] {
            assert_eq!(
                index.find(&Key { kind: *kind, name: other.as_bytes(), hash: hash(n) }).unwrap(),
                None
            );
        }
    }
}

#[test]
fn names_are_compared_however_many_have_the_same_hash() {
    let hasher = KeyHasher::new(STORE);
    for hash in [|_| 7, |n| [0, u64::MAX, 1 << 63][n % 3], |n| u64::try_from(n / 2).unwrap() << 40] {
        let memory = index(hash);
        check_names(&memory, hash);
        let bytes = encode(&memory, &identity(0), hasher).unwrap();
        check_names(&open(bytes, 0).unwrap(), hash);
    }
}

/// Asks a file for everything; whatever it answers, it comes back.
fn ask(file: &IndexFile, hasher: KeyHasher) {
    for (kind, name) in names().into_iter().step_by(5) {
        let Ok(Some(found)) = file.find(&hasher.key(kind, &name)) else { continue };
        assert!(found.count > 0 && found.last < file.events());
        for at in (0..found.count).take(200).chain([found.count - 1]) {
            assert!(file.posting(&found, at).is_ok_and(|number| number < file.events()) || at > 0);
        }
    }
    for number in (0..120).chain([u32::MAX - 1, u32::MAX, file.events()]) {
        let _any = file.place(number);
    }
    for id in (0..110).map(Uuid::from_u128) {
        let _any = file.with_id(id, hasher.id(id));
    }
}

/// Values that stand for a mistake: at an offset, four bytes.
fn mistakes(len: usize) -> impl Strategy<Value = Vec<(usize, u32)>> {
    let value = prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(1 << 31), 0..200u32, any::<u32>()];
    // Most of them where the headers and the first entries are.
    let offset = prop_oneof![40..160usize, (0..len / 4096).prop_map(|page| page * 4096), 0..len - 4];
    let near = (offset, 0..40usize).prop_map(move |(at, more)| (at + more).min(len - 4) & !1);
    prop::collection::vec((near, value), 1..6)
}

fn spoil(good: &[u8], mistakes: &[(usize, u32)], tag: u64) -> Vec<u8> {
    let mut bad = good.to_vec();
    for (at, value) in mistakes {
        bad[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
    }
    seal_again(&mut bad, tag);
    bad
}

fn file_bytes(hasher: KeyHasher, number: u64) -> Vec<u8> {
    let names = names();
    let hash = |n: usize| hasher.name(names[n].0, &names[n].1);
    encode(&index(hash), &identity(number), hasher).unwrap()
}

fn span() -> Span {
    let last = identity(3);
    Span { store_id: STORE, start: 0, segments: 4, last_salt: last.salt, last_sealed: last.sealed }
}

/// The directory of these parts, as bytes; `None` when they cannot be merged.
fn merged(parts: &[Part], span: Span) -> Option<Vec<u8>> {
    let plan = Plan::new(parts, span).ok()?;
    assert!(plan.file_len() < 64 << 20, "no larger than its parts, about: {}", plan.file_len());
    let storage = MemoryStorage::new();
    let file = storage.create("keys", plan.file_len()).unwrap();
    plan.write(file).ok()?;
    storage.file("keys")
}

fn segment(bytes: Vec<u8>, number: u64) -> Option<Part> {
    let index = SegmentIndex::File(open(bytes, number)?);
    Some(Part::Segment { number, index: Arc::new(index) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_content_of_an_index_makes_a_look_up_panic_or_go_on_for_ever(mistakes in mistakes(4096 * 11)) {
        let hasher = KeyHasher::new(STORE);
        let good = file_bytes(hasher, 1);
        let inside: Vec<_> = mistakes.into_iter().filter(|(at, _)| at + 4 <= good.len()).collect();
        let bad = spoil(&good, &inside, identity(1).tag());
        if let Some(file) = open(bad.clone(), 1) {
            ask(&file, hasher);
        }
        let parts: Vec<Part> = (0..4)
            .filter_map(|number| segment(if number == 1 { bad.clone() } else { file_bytes(hasher, number) }, number))
            .collect();
        let _any = merged(&parts, span());
    }

    #[test]
    fn no_content_of_a_directory_makes_a_look_up_or_a_merge_panic(mistakes in mistakes(4096 * 9)) {
        let hasher = KeyHasher::new(STORE);
        let parts: Vec<Part> =
            (0..4).map(|number| segment(file_bytes(hasher, number), number).unwrap()).collect();
        let good = merged(&parts, span()).unwrap();
        let whole = Directory::open(Source::Lent(good.clone().into()), span()).unwrap().unwrap();
        let (kind, name) = &names()[3];
        prop_assert_eq!(whole.find(Wanted::Name(hasher.name(*kind, name))).unwrap(), [3, 2, 1, 0]);
        let inside: Vec<_> = mistakes.into_iter().filter(|(at, _)| at + 4 <= good.len()).collect();
        let bad = spoil(&good, &inside, span().tag());
        if let Some(directory) = Directory::open(Source::Lent(bad.into()), span()).unwrap() {
            for (kind, name) in names() {
                let _any = directory.find(Wanted::Name(hasher.name(kind, &name)));
            }
            for id in (0..110).map(Uuid::from_u128) {
                let _any = directory.find(Wanted::Id(id, hasher.id(id)));
            }
            let last = identity(15);
            let wide = Span { segments: 16, last_salt: last.salt, ..span() };
            let _any = merged(&[Part::Directory(Arc::new(directory)), Part::Directory(Arc::new(whole))], wide);
        }
    }
}
