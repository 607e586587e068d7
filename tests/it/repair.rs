//! Damaged stores are repaired into new ones: what verifies keeps its place, and what is lost is told.

use everfold::{
    Batch, Damage, Durability, ErrorKind, Event, Expected, Fault, LOST_STREAM, LOST_TYPE, MemoryStorage,
    Position, Repair, RepairReport, Retention, Store, Version, repair, repair_memory,
};

use crate::ledger::{Fact, small};

/// What a store told of itself before it was damaged.
struct Patient {
    storage: MemoryStorage,
    facts: Vec<Fact>,
    recorded_at: Vec<u64>,
}

fn fill(store: &Store, batches: u64) {
    for n in 0..batches {
        let mut batch = Batch::new();
        for part in 0..=n % 3 {
            let size = usize::try_from(n * 37 % 700).unwrap();
            let event = Event::raw(format!("kind-{part}"), vec![b'x'; size]).tag(format!("tag:{n}"));
            let event = if n % 2 == 0 { event.metadata(*b"by hand") } else { event };
            let stream = if n % 4 == 3 { format!("once-{n}-{part}") } else { format!("stream-{}", n % 5) };
            batch = batch.event(stream, event);
        }
        store.append_batch(batch.durability(Durability::Durable)).unwrap();
    }
}

fn all(store: &Store) -> (Vec<Fact>, Vec<u64>) {
    let events = store.read(store.log_start().previous()).map(Result::unwrap);
    events.map(|event| (Fact::from(&event), event.recorded_at_ns())).unzip()
}

impl Patient {
    fn of(store: &Store, storage: &MemoryStorage) -> Self {
        let (facts, recorded_at) = all(store);
        store.close().unwrap();
        Patient { storage: storage.crash(u64::MAX), facts, recorded_at }
    }

    /// Some segments, sealed and indexed, and an active one.
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let store = small().open_memory(&storage).unwrap();
        fill(&store, 60);
        Self::of(&store, &storage)
    }

    /// One whose log starts later.
    fn retained() -> Self {
        let storage = MemoryStorage::new();
        let store = small().open_memory(&storage).unwrap();
        fill(&store, 60);
        store.retain(&Retention::new().before(Position::new(60))).unwrap();
        assert!(store.log_start() > Position::new(10));
        Self::of(&store, &storage)
    }

    fn copy(&self) -> MemoryStorage {
        self.storage.crash(u64::MAX)
    }

    fn log_files(&self, suffix: &str) -> Vec<String> {
        self.storage.files().into_iter().filter(|name| name.ends_with(suffix)).collect()
    }

    fn first(&self) -> u64 {
        self.facts[0].position
    }

    fn fact(&self, position: u64) -> &Fact {
        &self.facts[usize::try_from(position - self.first()).unwrap()]
    }

    /// Repairs a damaged copy, and checks the new store against what was there, and that the copy is as it was.
    fn repair(&self, damaged: &MemoryStorage, what: &str) -> (RepairReport, Vec<Fact>) {
        self.repair_with(damaged, &Repair::new(), what)
    }

    fn repair_with(&self, damaged: &MemoryStorage, how: &Repair, what: &str) -> (RepairReport, Vec<Fact>) {
        let new = MemoryStorage::new();
        let before = contents(damaged);
        let report = repair_memory(damaged, &new, how).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(contents(damaged), before, "{what}: the damaged store is only read");
        let found = self.check(&report, &new.crash(0), what);
        (report, found)
    }

    fn check(&self, report: &RepairReport, new: &MemoryStorage, what: &str) -> Vec<Fact> {
        let store = small().verify_on_open(true).open_memory(new).unwrap();
        let recovery = store.recovery();
        assert!(recovery.damage.is_empty() && recovery.notes.is_empty(), "{what}: {recovery}");
        assert_ne!(store.store_id(), report.source_id, "{what}");
        assert_eq!((store.log_start(), store.watermark()), (report.log_start, report.last), "{what}");
        let (found, recorded_at) = all(&store);
        let mut lost = 0;
        for (fact, at) in found.iter().zip(recorded_at) {
            let is_told = report.lost.iter().any(|l| (l.first.get()..=l.last.get()).contains(&fact.position));
            if fact.kind == LOST_TYPE {
                assert!(is_told, "{what}: {fact:?} is told as lost");
                lost += 1;
            } else {
                assert_eq!(fact, self.fact(fact.position), "{what}: an event that was saved is as it was");
                let index = usize::try_from(fact.position - self.first()).unwrap();
                assert_eq!(at, self.recorded_at[index], "{what}: so is its time");
            }
        }
        assert_eq!((lost, count(&found)), (report.lost_events(), report.saved + lost), "{what}");
        let missing_before = report.log_start.get() - self.first();
        assert_eq!(missing_before > 0, report.lost_before.is_some(), "{what}");
        self.check_streams(&store, &found, what);
        found
    }

    /// Every stream reads without a gap, and goes on after its last version.
    fn check_streams(&self, store: &Store, found: &[Fact], what: &str) {
        let mut streams: Vec<&str> = found.iter().map(|fact| fact.stream.as_str()).collect();
        streams.sort_unstable();
        streams.dedup();
        for stream in streams {
            let own: Vec<&Fact> = found.iter().filter(|fact| fact.stream == stream).collect();
            let before = Version::new(own[0].version - 1);
            let read: Vec<Fact> = store
                .read_stream(stream, before)
                .map(|event| event.map(|event| Fact::from(&event)))
                .collect::<Result<_, _>>()
                .unwrap_or_else(|error| panic!("{what}: stream {stream}: {error}"));
            assert!(read.iter().eq(own.iter().copied()), "{what}: stream {stream}");
            let last = Version::new(own[own.len() - 1].version);
            let done = store.append(stream, last, [Event::raw("next", *b"")]).unwrap();
            assert_eq!(done.version.get(), last.get() + 1, "{what}: stream {stream}");
        }
    }
}

fn count<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap()
}

fn contents(storage: &MemoryStorage) -> Vec<(String, Option<Vec<u8>>)> {
    storage.files().into_iter().map(|name| (name.clone(), storage.file(&name))).collect()
}

/// The stand-ins among these, each of which must be for the event that was there.
fn check_stand_ins(patient: &Patient, found: &[Fact], what: &str) {
    for fact in found.iter().filter(|fact| fact.kind == LOST_TYPE) {
        let was = patient.fact(fact.position);
        assert_eq!((&fact.stream, fact.version), (&was.stream, was.version), "{what}: {fact:?}");
    }
}

#[test]
fn a_store_that_is_whole_is_saved_whole() {
    for patient in [Patient::new(), Patient::retained()] {
        let (report, found) = patient.repair(&patient.copy(), "whole");
        assert!(report.is_complete() && report.damage.is_empty() && report.notes.is_empty(), "{report}");
        assert_eq!(found, patient.facts);
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_segment_costs_one_batch_at_most_and_no_version() {
    let patient = Patient::new();
    let (mut lossy, segments) = (0, patient.log_files(".seg"));
    let (active, sealed) = segments.split_last().unwrap();
    for (name, step) in sealed.iter().step_by(3).map(|name| (name, 211)).chain([(active, 67)]) {
        let len = count(&patient.storage.file(name).unwrap());
        for offset in (0..len).step_by(step) {
            let what = format!("{name} at {offset}");
            let damaged = patient.copy();
            damaged.flip_bit(name, offset, u8::try_from(offset % 8).unwrap()).unwrap();
            let (report, found) = patient.repair(&damaged, &what);
            assert!(report.lost_events() <= 3, "{what}: {report}");
            lossy += u32::from(report.lost_events() > 0);
            if name != active {
                check_stand_ins(&patient, &found, &what);
            }
        }
    }
    assert!(lossy > 30, "{lossy}");
}

#[test]
fn a_segment_that_is_gone_is_stood_in_for_event_by_event() {
    for (patient, with_index) in
        [(Patient::new(), true), (Patient::new(), false), (Patient::retained(), true)]
    {
        let segments = patient.log_files(".seg");
        for (number, name) in segments.iter().enumerate() {
            let what = format!("{name} is gone, with index: {with_index}");
            let damaged = patient.copy();
            damaged.delete(name).unwrap();
            let indexes: Vec<String> = patient.log_files(".idx");
            for index in indexes.iter().filter(|_| !with_index) {
                damaged.delete(index).unwrap();
            }
            let (report, found) = patient.repair(&damaged, &what);
            assert!(!report.is_complete(), "{what}: {report}");
            let next =
                segments.get(number + 1).map_or(report.last.get() + 1, |next| next[4..24].parse().unwrap());
            let first: u64 = name[4..24].parse().unwrap();
            if number == 0 {
                assert_eq!(
                    (report.log_start.get(), report.lost_before),
                    (next, Some(Position::new(first))),
                    "{what}"
                );
            } else {
                assert_eq!(report.lost.len(), 1, "{what}");
                assert_eq!(
                    (report.lost[0].first.get(), report.lost[0].last.get()),
                    (first, next - 1),
                    "{what}"
                );
                let sealed = number + 1 < segments.len();
                if with_index && sealed {
                    check_stand_ins(&patient, &found, &what);
                    assert!(found.iter().all(|fact| fact.stream != LOST_STREAM), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_segment_that_is_cut_off_keeps_every_event_that_is_there_whole() {
    let patient = Patient::new();
    let name = &patient.log_files(".seg")[1];
    let bytes = patient.storage.file(name).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut saved = Vec::new();
    for cut in (4096..last).step_by(4) {
        let damaged = patient.copy();
        damaged.truncate(name, u64::try_from(cut).unwrap()).unwrap();
        let (report, _) = patient.repair(&damaged, &format!("cut off at {cut}"));
        saved.push(report.saved);
    }
    assert!(saved.is_sorted(), "more bytes are never fewer events: {saved:?}");
    // The seal, and of the frame before it the trailer, hide nothing.
    assert_eq!(saved[saved.len() - 20], count(&patient.facts), "{saved:?}");
}

#[test]
fn a_store_without_store_file_mark_or_headers_is_put_together_from_what_is_left() {
    let patient = Patient::new();
    let segments = patient.log_files(".seg");
    let wipe = |storage: &MemoryStorage, name: &str| storage.overwrite(name, 0, &[0xaa; 4096]).unwrap();

    let damaged = patient.copy();
    damaged.delete("STORE").unwrap();
    damaged.delete("MARK").unwrap();
    let (report, found) = patient.repair(&damaged, "no STORE, no MARK");
    assert!(report.is_complete(), "{report}");
    assert_eq!(found, patient.facts);

    // The salt is in the index as well.
    let damaged = patient.copy();
    segments[..segments.len() - 1].iter().for_each(|name| wipe(&damaged, name));
    let (report, found) = patient.repair(&damaged, "no headers");
    assert!(report.is_complete(), "{report}");
    assert_eq!(found, patient.facts);

    // Of the active segment there is no index.
    let damaged = patient.copy();
    wipe(&damaged, segments.last().unwrap());
    let (report, _) = patient.repair(&damaged, "no header of the active segment");
    assert_eq!(report.last.get(), count(&patient.facts), "the mark tells how far the log went");
    assert!(report.lost_events() > 0 && report.damage.iter().any(|d| d.damage == Damage::Header), "{report}");
}

#[test]
fn segments_that_were_renamed_copied_or_brought_from_elsewhere_do_not_mislead() {
    let (patient, other) = (Patient::new(), Patient::new());
    let segments = patient.log_files(".seg");
    let names = |n: usize| segments[n].as_str();

    let damaged = patient.copy();
    let (a, b) = (damaged.file(names(1)).unwrap(), damaged.file(names(2)).unwrap());
    damaged.overwrite(names(1), 0, &b).unwrap();
    damaged.overwrite(names(2), 0, &a).unwrap();
    let (report, found) = patient.repair(&damaged, "two names swapped");
    assert!(report.is_complete() && report.notes.len() == 2, "{report}");
    assert_eq!(found, patient.facts);

    let damaged = patient.copy();
    damaged.overwrite(names(2), 0, &a).unwrap();
    let (report, _) = patient.repair(&damaged, "one over another");
    assert!(!report.is_complete() && report.lost.len() == 1, "{report}");

    let damaged = patient.copy();
    damaged.overwrite(names(2), 0, &other.storage.file(names(2)).unwrap()).unwrap();
    let (report, _) = patient.repair(&damaged, "one of another store");
    assert!(report.damage.iter().any(|damage| damage.damage == Damage::SegmentForeign), "{report}");
    assert_eq!(report.lost.len(), 1, "{report}");

    let damaged = patient.copy();
    damaged.truncate(names(2), 6000).unwrap();
    let (report, _) = patient.repair(&damaged, "one cut off");
    assert!(report.damage.iter().any(|damage| damage.damage == Damage::SizeChanged), "{report}");
    assert_eq!(report.lost.len(), 1, "{report}");
}

#[test]
fn streams_go_on_after_versions_that_only_a_lost_base_knew() {
    let patient = Patient::retained();
    let base = patient.log_files(".base").remove(0);
    let damaged = patient.copy();
    damaged.delete(&base).unwrap();
    let (report, found) = patient.repair(&damaged, "no base");
    assert_eq!(found, patient.facts);
    assert!(report.is_complete() && report.notes.len() == 1, "{report}");

    // With it also streams without an event that is left.
    let (new, ended) = (MemoryStorage::new(), "once-3-0");
    repair_memory(&patient.copy(), &new, &Repair::new()).unwrap();
    let store = small().open_memory(&new).unwrap();
    let refused = store.append(ended, Expected::NoStream, [Event::raw("again", *b"")]);
    assert_eq!(refused.unwrap_err().conflict().unwrap().actual, Some(Version::new(1)));
}

#[test]
fn an_end_that_nothing_proves_is_left_out_unless_it_is_accepted() {
    let storage = MemoryStorage::new();
    let store = small().open_memory(&storage).unwrap();
    for n in 0..3 {
        let batch = (0..2)
            .fold(Batch::new(), |batch, m| batch.event("stream", Event::raw("e", vec![b'a' + n; 90 + m])));
        store.append_batch(batch).unwrap();
    }
    let (facts, recorded_at) = all(&store);
    let patient = Patient { storage: storage.crash(u64::MAX), facts, recorded_at };
    let damaged = patient.copy();
    let name = &patient.log_files(".seg")[0];
    let bytes = damaged.file(name).unwrap();
    // Of the payload: a checksum may have one such byte, too.
    let last = bytes.windows(8).rposition(|bytes| bytes == [b'c'; 8]);
    let last = last.and_then(|at| u64::try_from(at).ok()).unwrap();
    damaged.flip_bit(name, last, 1).unwrap();
    let refused = small().open_memory(&damaged.crash(u64::MAX)).unwrap_err();
    assert_eq!(refused.corruption().unwrap().damage, Damage::SuspectTail);

    let (report, found) = patient.repair(&damaged, "left out");
    assert_eq!(found, patient.facts[..4]);
    let unproven = report.unproven.as_ref().unwrap();
    assert_eq!((unproven.position.get(), unproven.events, unproven.accepted), (5, 1, false));
    assert!(!report.is_complete(), "{report}");

    let accepted = Repair::new().accept_unproven_tail(true);
    let (report, found) = patient.repair_with(&damaged, &accepted, "accepted");
    assert_eq!(found, patient.facts[..5]);
    assert!(report.unproven.as_ref().unwrap().accepted, "{report}");
}

#[test]
fn what_a_crash_cut_short_is_no_loss() {
    let patient = Patient::new();
    let storage = patient.copy();
    let store = small().open_memory(&storage).unwrap();
    let batch = Batch::new().event("stream-1", Event::raw("torn", vec![b't'; 1800]));
    store.append_batch(batch.durability(Durability::Written)).unwrap();
    let torn = (1..40).map(|seed| storage.crash(seed));
    for image in torn {
        let (report, found) = patient.repair_torn(&image);
        assert!(report.is_complete(), "{report}");
        assert!(found.len() >= patient.facts.len());
    }
}

impl Patient {
    /// The last batch may be there or not.
    fn repair_torn(&self, image: &MemoryStorage) -> (RepairReport, Vec<Fact>) {
        let new = MemoryStorage::new();
        let report = repair_memory(image, &new, &Repair::new()).unwrap();
        let (found, _) = all(&small().open_memory(&new).unwrap());
        assert_eq!(found[..self.facts.len()], self.facts);
        (report, found)
    }
}

#[test]
fn a_repair_needs_a_store_and_an_empty_place() {
    let kind = |from: &MemoryStorage, to: &MemoryStorage| {
        repair_memory(from, to, &Repair::new()).map(drop).map_err(|error| error.kind())
    };
    let patient = Patient::new();
    assert_eq!(kind(&MemoryStorage::new(), &MemoryStorage::new()), Err(ErrorKind::NotFound));
    assert_eq!(kind(&patient.copy(), &patient.copy()), Err(ErrorKind::Invalid));

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.append("s", Expected::Any, [Event::raw("e", *b"")]).unwrap();
    store.close().unwrap();
    let inside = repair(dir.path(), dir.path().join("new"), &Repair::new());
    assert_eq!(inside.unwrap_err().kind(), ErrorKind::Invalid);
    let nowhere = repair(dir.path().join("none"), dir.path().join("new"), &Repair::new());
    assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::NotFound);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letter.txt"), "dear").unwrap();
    let foreign = repair(dir.path(), other.path(), &Repair::new());
    assert_eq!(foreign.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_new_store_that_cannot_be_written_is_an_error_and_can_be_tried_again() {
    let patient = Patient::new();
    for n in (1..).step_by(7) {
        let new = MemoryStorage::new();
        new.fail_at(n, Fault::from_then_on(std::io::ErrorKind::StorageFull));
        match repair_memory(&patient.copy(), &new, &Repair::new()) {
            Ok(report) => {
                assert!(n > 100 && report.is_complete());
                break;
            }
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::DiskFull | ErrorKind::Io),
                    "operation {n}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_store_of_which_nothing_is_left_becomes_an_empty_one_that_goes_on_after_it() {
    let patient = Patient::new();
    let damaged = patient.copy();
    for name in patient.log_files(".seg") {
        damaged.delete(&name).unwrap();
    }
    let new = MemoryStorage::new();
    let report = repair_memory(&damaged, &new, &Repair::new()).unwrap();
    let last = count(&patient.facts);
    assert_eq!((report.saved, report.last.get(), report.log_start.get()), (0, last, last + 1));
    assert_eq!(report.lost_before, Some(Position::new(1)));
    let store = small().open_memory(&new).unwrap();
    let done = store.append("stream-1", Expected::Any, [Event::raw("e", *b"")]).unwrap();
    assert_eq!(done.position.get(), last + 1);
}
