//! Damage as an argument: stores that are bent, cut and robbed in every way, and what may come of it. Either all
//! events are there, or an error names the place; what goes missing without an error was never provable.

use everfold::{Corruption, Damage, Durability, Error, ErrorKind, Event, Expected, MemoryStorage, Position};
use everfold::{Store, Version};

use crate::ask::Ask;
use crate::ledger::{Fact, Ledger, facts, small, try_facts};

const HEADER_PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A store's files, the events in them, and how it was left.
struct Victim {
    storage: MemoryStorage,
    facts: Vec<Fact>,
}

impl Victim {
    /// A store of these batches; without a close, it is left as by the end of its process.
    fn new(batches: &[&[usize]], close: bool) -> Self {
        let storage = MemoryStorage::new();
        let store = small().open_memory(&storage).unwrap();
        let mut ledger = Ledger::default();
        for sizes in batches {
            let batch = ledger.make(sizes);
            ledger.append(&store, batch, Durability::Durable).unwrap();
        }
        if close {
            store.close().unwrap();
        }
        let storage = storage.crash(u64::MAX);
        Victim { storage, facts: ledger.facts() }
    }

    fn clean() -> Self {
        Self::new(&[&[30], &[200, 10], &[400]], true)
    }

    fn unclean() -> Self {
        Self::new(&[&[30], &[200, 10], &[700], &[90]], false)
    }

    fn rolled() -> Self {
        Self::new(&[&[1500], &[900, 900], &[40], &[2000], &[1000], &[10], &[20, 20], &[1900], &[60]], false)
    }

    fn copy(&self) -> MemoryStorage {
        self.storage.crash(u64::MAX)
    }

    fn segments(&self) -> Vec<String> {
        self.storage.files().into_iter().filter(|name| name.ends_with(".seg")).collect()
    }

    fn last_segment(&self) -> String {
        self.segments().pop().unwrap()
    }

    /// The last position that bytes outside of a damaged range prove to have been durable: by the mark, by a
    /// frame's header, by the segment after.
    fn provable(&self, damaged: &str, from: usize, to: usize) -> u64 {
        let mut proven = vec![0];
        for name in self.segments() {
            let first: u64 = name[4..24].parse().unwrap();
            proven.push(first - 1);
            for frame in frames(&self.storage.file(&name).unwrap()) {
                let touched = name == damaged && frame.offset < to && from < frame.offset + 64;
                proven.push(if touched { 0 } else { frame.durable });
            }
        }
        let mark = self.storage.file("MARK").unwrap();
        let slots = mark.chunks(4096).map(|slot| u64::from_le_bytes(slot[40..48].try_into().unwrap()));
        proven.extend(slots.filter(|_| damaged != "MARK"));
        proven.into_iter().max().unwrap()
    }
}

/// A frame as its header tells, read here by the format's description.
struct Frame {
    offset: usize,
    len: usize,
    events: u32,
    first: u64,
    durable: u64,
}

fn frames(segment: &[u8]) -> Vec<Frame> {
    let u32_at = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(segment[at..at + 8].try_into().unwrap());
    let mut frames = Vec::new();
    let mut offset = HEADER_PAGE;
    while segment.get(offset..offset + 4) == Some(b"FRM1") {
        let len = 72 + usize::try_from(u32_at(offset + 8)).unwrap();
        let (events, first, durable) = (u32_at(offset + 12), u64_at(offset + 16), u64_at(offset + 24));
        frames.push(Frame { offset, len, events, first, durable });
        offset += len;
    }
    frames
}

/// What came of opening a damaged store.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Refused,
    /// It opened, and reading told of the damage.
    Told,
    /// The events after this position are gone without an error.
    Short(u64),
}

fn told(error: &Error, what: &str) {
    let corrupt = error.kind() == ErrorKind::Corrupt;
    assert!(corrupt || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Io));
    assert_eq!(corrupt, error.corruption().is_some(), "{what}: {error}");
    assert!(error.corruption().is_none_or(|c| !c.file.is_empty() && !c.detail.is_empty()), "{what}: {error}");
}

/// Reads a store in every way. An event that comes is the one that was appended; one that does not is told of.
fn read_all(store: &Store, original: &[Fact], what: &str) -> Outcome {
    let mut outcome = Outcome::Whole;
    for fact in original {
        let start = Position::new(fact.position - 1);
        match store.read(start).limit(1).next() {
            Some(Ok(event)) => assert_eq!(Fact::from(&event), *fact, "{what}"),
            Some(Err(error)) => {
                told(&error, what);
                outcome = Outcome::Told;
            }
            None if outcome == Outcome::Told => {}
            None => return Outcome::Short(start.get()),
        }
    }
    match try_facts(store) {
        Ok(found) => assert_eq!((found.as_slice(), &outcome), (original, &Outcome::Whole), "{what}"),
        Err(error) => {
            told(&error, what);
            outcome = Outcome::Told;
        }
    }
    for stream in ["stream-0", "stream-1", "stream-2"] {
        let own: Vec<&Fact> = original.iter().filter(|fact| fact.stream == stream).collect();
        let up: Result<Vec<Fact>, Error> =
            store.read_stream(stream, Version::NONE).map(|e| e.map(|e| Fact::from(&e))).collect();
        let down: Result<Vec<Fact>, Error> =
            store.read_stream_backward(stream, Version::END).map(|e| e.map(|e| Fact::from(&e))).collect();
        assert!(
            up.is_err() || up.is_ok_and(|found| found.iter().eq(own.iter().copied())),
            "{what}: {stream}"
        );
        let same = |found: Vec<Fact>| found.iter().eq(own.iter().rev().copied());
        assert!(down.is_err() || down.is_ok_and(same), "{what}: {stream}, backward");
    }
    for ask in [4, 25].map(Ask::number) {
        let (query, mut all) = (ask.query(), ask.of(original));
        let up: Result<Vec<Fact>, Error> =
            store.read_query(&query, Position::START).map(|e| e.map(|e| Fact::from(&e))).collect();
        assert!(up.is_err() || up.is_ok_and(|found| found == all), "{what}: {query}");
        let down: Result<Vec<Fact>, Error> =
            store.read_query_backward(&query, Position::END).map(|e| e.map(|e| Fact::from(&e))).collect();
        all.reverse();
        assert!(down.is_err() || down.is_ok_and(|found| found == all), "{what}: {query}, backward");
    }
    outcome
}

/// Opens for writing, and for reading, and reads.
fn examine(storage: &MemoryStorage, original: &[Fact], what: &str) -> Outcome {
    let read_only = peek(storage, original, what);
    let outcome = recover(storage, original, what);
    match (&outcome, &read_only) {
        (Outcome::Refused, Outcome::Refused | Outcome::Told) => {}
        (outcome, read_only) => assert_eq!(outcome, read_only, "{what}: read-only tells the same"),
    }
    outcome
}

fn peek(storage: &MemoryStorage, original: &[Fact], what: &str) -> Outcome {
    let opened = small().read_only(true).open_memory(storage);
    let outcome = opened.map_or_else(|e| refused(&e, what), |store| read_all(&store, original, what));
    assert_eq!(storage.operations(), 0, "{what}: a read-only open changes nothing");
    outcome
}

fn recover(storage: &MemoryStorage, original: &[Fact], what: &str) -> Outcome {
    let opened = small().create(false).open_memory(storage);
    opened.map_or_else(|e| refused(&e, what), |store| read_all(&store, original, what))
}

fn refused(error: &Error, what: &str) -> Outcome {
    told(error, what);
    Outcome::Refused
}

/// How often each outcome but [`Outcome::Short`] came.
#[derive(Debug, Default)]
struct Counts {
    whole: usize,
    refused: usize,
    told: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome, what: &str) {
        match outcome {
            Outcome::Whole => self.whole += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Told => self.told += 1,
            Outcome::Short(after) => {
                unreachable!("{what}: all after position {after} is gone without a word")
            }
        }
    }
}

/// The bits to flip: each one where something is written or close to it, and some elsewhere.
fn bits(bytes: &[u8]) -> Vec<(usize, u8)> {
    let near = |at: usize| bytes[at.saturating_sub(8)..(at + 8).min(bytes.len())].iter().any(|b| *b != 0);
    let offsets = 0..bytes.len();
    let every = offsets.clone().filter(|at| near(*at)).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    every.chain(offsets.filter(|at| at % 61 == 0 && !near(*at)).map(|at| (at, 3))).collect()
}

/// Flips bits of every file, one at a time. A read-only open, which looks again a little later before it calls
/// something damage, is tried with one bit of some bytes.
fn flip_everywhere(victim: &Victim, step: usize) -> Counts {
    let mut counts = Counts::default();
    for name in victim.storage.files() {
        for (offset, bit) in bits(&victim.storage.file(&name).unwrap()).into_iter().step_by(step) {
            let storage = victim.copy();
            storage.flip_bit(&name, u64::try_from(offset).unwrap(), bit).unwrap();
            let what = format!("{name}, offset {offset}, bit {bit}");
            let both = offset % 16 == 0 && (bit == 0 || step > 8);
            let outcome = if both { examine } else { recover }(&storage, &victim.facts, &what);
            counts.add(&outcome, &what);
        }
    }
    println!("{counts:?}");
    counts
}

#[test]
fn a_flipped_bit_anywhere_in_a_closed_store_loses_nothing_silently() {
    let counts = flip_everywhere(&Victim::clean(), 1);
    assert!(counts.refused > 1000 && counts.told == 0);
}

#[test]
fn a_flipped_bit_anywhere_in_a_store_that_was_not_closed_loses_nothing_silently() {
    let counts = flip_everywhere(&Victim::unclean(), 1);
    assert!(counts.refused > 1000 && counts.told == 0);
}

#[test]
fn a_flipped_bit_in_a_store_of_many_segments_loses_nothing_silently() {
    let counts = flip_everywhere(&Victim::rolled(), 31);
    assert!(counts.refused > 100 && counts.told > 1000);
}

#[test]
fn a_file_cut_off_at_any_length_loses_nothing_silently() {
    for victim in [Victim::clean(), Victim::unclean(), Victim::rolled()] {
        let mut counts = Counts::default();
        for name in victim.storage.files() {
            let len = victim.storage.file(&name).unwrap().len();
            let ends = frames(&victim.storage.file(&name).unwrap()).into_iter().map(|frame| frame.offset);
            for cut in (0..len).step_by(311).chain(ends).chain([len - 1, len + 1, len + 4096]) {
                let storage = victim.copy();
                storage.truncate(&name, u64::try_from(cut).unwrap()).unwrap();
                let what = format!("{name} cut off at {cut}");
                counts.add(&examine(&storage, &victim.facts, &what), &what);
            }
        }
        println!("{counts:?}");
        assert!(counts.refused > 10);
    }
}

#[test]
fn a_sector_of_zeros_anywhere_takes_away_at_most_what_nothing_proves() {
    for victim in [Victim::clean(), Victim::unclean(), Victim::rolled()] {
        let (mut counts, mut unproven) = (Counts::default(), 0);
        for name in victim.storage.files() {
            let len = victim.storage.file(&name).unwrap().len();
            for from in (0..len).step_by(SECTOR) {
                let storage = victim.copy();
                storage.overwrite(&name, u64::try_from(from).unwrap(), &[0; SECTOR]).unwrap();
                let what = format!("{name}, sector at {from}");
                match examine(&storage, &victim.facts, &what) {
                    Outcome::Short(after) => {
                        assert!(name == victim.last_segment(), "{what}");
                        assert!(after >= victim.provable(&name, from, from + SECTOR), "{what}: {after}");
                        unproven += 1;
                    }
                    outcome => counts.add(&outcome, &what),
                }
            }
        }
        println!("{counts:?}, and {unproven} took away what nothing proves");
    }
}

#[test]
fn a_missing_file_loses_nothing_silently() {
    for victim in [Victim::clean(), Victim::unclean(), Victim::rolled()] {
        for name in victim.storage.files() {
            let storage = victim.copy();
            storage.delete(&name).unwrap();
            let what = format!("without {name}");
            let outcome = examine(&storage, &victim.facts, &what);
            let can_be_made_again = name == "MARK" || name.ends_with(".idx") || name.ends_with(".keys");
            let expected = if can_be_made_again { Outcome::Whole } else { Outcome::Refused };
            assert_eq!(outcome, expected, "{what}");
        }
    }
}

fn damage_of(storage: &MemoryStorage) -> Corruption {
    small().open_memory(storage).unwrap_err().corruption().unwrap().clone()
}

fn at(offset: usize) -> u64 {
    u64::try_from(offset).unwrap()
}

#[test]
fn a_torn_last_frame_is_set_aside_and_kept_in_quarantine() {
    let victim = Victim::new(&[&[30], &[40], &[900]], false);
    let name = victim.last_segment();
    let last = frames(&victim.storage.file(&name).unwrap()).pop().unwrap();
    let storage = victim.copy();
    storage.overwrite(&name, at(last.offset + 300), &vec![0; last.len - 300]).unwrap();
    let torn = storage.file(&name).unwrap()[last.offset..last.offset + 300].to_vec();

    let store = small().open_memory(&storage).unwrap();
    assert_eq!(facts(&store), victim.facts[..2]);
    let removed = store.recovery().removed.clone().unwrap();
    assert_eq!((removed.file, removed.offset, removed.bytes), (name.clone(), at(last.offset), 300));
    assert!(removed.kept_in.starts_with("quarantine/"));
    assert_eq!(storage.file(&removed.kept_in).unwrap(), torn);
    assert!(storage.file(&name).unwrap()[last.offset..].iter().all(|byte| *byte == 0));
    store.close().unwrap();
    let store = small().open_memory(&storage).unwrap();
    assert!(store.recovery().removed.is_none() && store.recovery().clean);
    assert!(storage.file(&removed.kept_in).is_some());
}

#[test]
fn a_flipped_bit_in_an_acknowledged_frame_refuses_to_open_and_names_the_place() {
    let victim = Victim::unclean();
    let name = victim.last_segment();
    let second = frames(&victim.storage.file(&name).unwrap()).remove(1);
    assert_eq!((second.events, second.first), (2, 2));
    let storage = victim.copy();
    storage.flip_bit(&name, at(second.offset + 100), 5).unwrap();
    let before = storage.file(&name);
    let corruption = damage_of(&storage);
    assert_eq!(corruption.damage, Damage::CorruptAcknowledged);
    assert_eq!((corruption.file.as_str(), corruption.offset), (name.as_str(), at(second.offset)));
    assert_eq!(corruption.position, Some(Position::new(2)));
    assert_eq!((storage.file(&name), storage.operations()), (before, 0), "what is damaged is left as it is");

    let store = small().read_only(true).open_memory(&storage).unwrap();
    assert_eq!(store.recovery().damage, std::slice::from_ref(&corruption));
    let mut events = store.read(Position::START);
    assert_eq!(Fact::from(&events.next().unwrap().unwrap()), victim.facts[0]);
    assert_eq!(events.next().unwrap().unwrap_err().corruption(), Some(&corruption));
}

#[test]
fn a_missing_middle_segment_is_refused() {
    let victim = Victim::rolled();
    let storage = victim.copy();
    let name = victim.segments().remove(1);
    storage.delete(&name).unwrap();
    let corruption = damage_of(&storage);
    assert_eq!((corruption.damage, corruption.position.is_some()), (Damage::SegmentMissing, true));
}

#[test]
fn a_missing_last_segment_is_refused_because_the_mark_proves_it() {
    let victim = Victim::rolled();
    let storage = victim.copy();
    storage.delete(&victim.last_segment()).unwrap();
    let corruption = damage_of(&storage);
    assert_eq!((corruption.damage, corruption.file), (Damage::SegmentMissing, victim.last_segment()));
    assert!(corruption.detail.contains("mark"));
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let (victim, other) = (Victim::rolled(), Victim::rolled());
    assert_eq!(victim.segments(), other.segments());
    for name in victim.segments() {
        let storage = victim.copy();
        storage.overwrite(&name, 0, &other.storage.file(&name).unwrap()).unwrap();
        let corruption = damage_of(&storage);
        assert_eq!((corruption.damage, corruption.file), (Damage::SegmentForeign, name));
    }
}

#[test]
fn bytes_after_a_clean_close_are_refused() {
    let victim = Victim::clean();
    let name = victim.last_segment();
    let end =
        frames(&victim.storage.file(&name).unwrap()).last().map(|frame| frame.offset + frame.len).unwrap();
    for further in [0, 8, 600] {
        let storage = victim.copy();
        storage.overwrite(&name, at(end + further), b"new").unwrap();
        let corruption = damage_of(&storage);
        assert_eq!((corruption.damage, corruption.offset), (Damage::BytesAfterEnd, at(end)));
    }
}

#[test]
fn damage_in_a_sealed_segment_lets_the_store_open_and_fails_the_read_of_that_event() {
    let victim = Victim::rolled();
    let name = victim.segments().remove(1);
    let hit = frames(&victim.storage.file(&name).unwrap()).remove(0);
    let storage = victim.copy();
    storage.flip_bit(&name, at(hit.offset + 64 + 200), 0).unwrap();
    let store = small().verify_on_open(true).open_memory(&storage).unwrap();
    let report = store.recovery();
    let [damage] = report.damage.as_slice() else { unreachable!("{}", store.recovery()) };
    assert_eq!(
        (&damage.file, damage.offset, damage.damage),
        (&name, at(hit.offset), Damage::CorruptAcknowledged)
    );
    for fact in &victim.facts {
        let read = store.read(Position::new(fact.position - 1)).limit(1).next().unwrap();
        if fact.position == hit.first {
            let error = read.unwrap_err();
            let corruption = error.corruption().unwrap();
            assert_eq!((&corruption.file, corruption.position), (&name, Some(Position::new(hit.first))));
        } else {
            assert_eq!(Fact::from(&read.unwrap()), *fact);
        }
    }
    let last = victim.facts.last().unwrap();
    let done = store.append(&last.stream, Version::new(last.version), [Event::raw("t", "more")]).unwrap();
    assert_eq!(done.position.get(), last.position + 1);
}

#[test]
fn a_store_that_lost_its_store_file_is_not_taken_for_a_fresh_one() {
    for victim in [Victim::clean(), Victim::unclean(), Victim::rolled()] {
        let storage = victim.copy();
        storage.delete("STORE").unwrap();
        let files = storage.files();
        assert_eq!(damage_of(&storage).file, "STORE");
        assert_eq!((storage.files(), storage.operations()), (files, 0));
    }
}

#[test]
fn a_truncated_active_segment_is_refused() {
    let victim = Victim::unclean();
    let name = victim.last_segment();
    let storage = victim.copy();
    storage.truncate(&name, 8191).unwrap();
    let corruption = damage_of(&storage);
    assert_eq!((corruption.damage, corruption.file, corruption.offset), (Damage::SizeChanged, name, 8191));
}

#[test]
fn losing_the_mark_is_survived() {
    for victim in [Victim::clean(), Victim::unclean(), Victim::rolled()] {
        let storage = victim.copy();
        storage.delete("MARK").unwrap();
        let store = small().open_memory(&storage).unwrap();
        assert!(store.recovery().notes.iter().any(|note| note.starts_with("MARK")), "{}", store.recovery());
        assert_eq!(facts(&store), victim.facts);
        store.append("stream-0", Expected::Exists, [Event::raw("t", "more")]).unwrap();
        store.close().unwrap();
        let store = small().open_memory(&storage.crash(0)).unwrap();
        assert!(store.recovery().clean && store.recovery().notes.is_empty(), "{}", store.recovery());
        assert_eq!(store.watermark().get(), at(victim.facts.len()) + 1);
    }
}
