//! Declared folds: what they come to as of any position, whatever is kept of segments, lost or damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everfold::fold::{AccumulatorError, count, distinct};
use everfold::{
    ApplyError, Batch, Durability, ErrorKind, Event, Expected, Fault, Fold, MIN_SEGMENT_BYTES, MemoryStorage,
    Options, Position, Projection, RecordedEvent, Retention, Store, ViewBatch,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Purchase {
    customer: String,
    item: String,
    quantity: i32,
}

type Cell = (String, String);

fn declared(generation: u32) -> Fold<Cell, i64> {
    Fold::new("sold", generation)
        .types(["purchased"])
        .decode::<Purchase>()
        .key_by(|purchase| (purchase.customer.clone(), purchase.item.clone()))
        .sum(|purchase| purchase.quantity)
}

fn sold() -> Fold<Cell, i64> {
    declared(1)
}

fn cell(customer: &str, item: &str) -> Cell {
    (customer.to_owned(), item.to_owned())
}

fn purchase(n: u64) -> Purchase {
    let quantity = i32::try_from(n % 7).unwrap() - 2;
    Purchase { customer: format!("customer-{}", n % 5), item: format!("item-{}", n % 3), quantity }
}

fn append(store: &Store, event: Event) {
    let batch = Batch::new().durability(Durability::Written).event("shop", event);
    store.append_batch(batch).unwrap();
}

const EVENTS: u64 = 250;

/// Purchases in many segments, with another event now and then.
fn fill(store: &Store) {
    fill_to(store, EVENTS);
}

fn fill_to(store: &Store, events: u64) {
    for n in 1..=events {
        let event = match n % 10 {
            0 => Event::raw("opened", *b"the shop"),
            _ => Event::json("purchased", &purchase(n)).unwrap(),
        };
        append(store, event);
    }
    store.sync().unwrap();
}

fn options() -> Options {
    Options::new().segment_size(MIN_SEGMENT_BYTES)
}

fn expected(to: u64) -> BTreeMap<Cell, i64> {
    expected_of(1, to)
}

fn expected_of(first: u64, to: u64) -> BTreeMap<Cell, i64> {
    let mut rows = BTreeMap::new();
    for purchase in (first..=to).filter(|n| n % 10 != 0).map(purchase) {
        *rows.entry((purchase.customer, purchase.item)).or_insert(0) += i64::from(purchase.quantity);
    }
    rows
}

#[track_caller]
fn is_as_expected(store: &Store) {
    assert_eq!(store.fold(&sold()).rows().unwrap(), expected(EVENTS));
    for to in 0..=EVENTS {
        let rows = store.fold(&sold()).as_of(Position::new(to)).threads(2).rows().unwrap();
        assert_eq!(rows, expected(to), "as of {to}");
    }
}

/// The files of partials, in order.
fn partials(store: &Path) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(store.join("folds/sold")) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// The first positions of the segments.
fn segments(store: &Path) -> Vec<u64> {
    let files = fs::read_dir(store.join("log")).unwrap().map(|file| file.unwrap().file_name());
    let names = files.filter_map(|name| Some(name.to_str()?.strip_suffix(".seg")?.parse().unwrap()));
    let mut firsts: Vec<u64> = names.collect();
    firsts.sort_unstable();
    firsts
}

fn segment(store: &Path, first: u64) -> PathBuf {
    store.join(format!("log/{first:020}.seg"))
}

/// Damages the last event bytes of a segment, wherever they are.
fn damage_events(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    let at = bytes.windows(8).rposition(|window| window == b"quantity").unwrap();
    bytes[at] ^= 1;
    fs::write(segment, bytes).unwrap();
}

#[test]
fn as_of_every_position_with_and_without_what_is_kept_after_reopening_and_after_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    let bare = sold().without_partials();
    for to in (0..=EVENTS).rev().step_by(7) {
        let rows = store.fold(&bare).as_of(Position::new(to)).rows().unwrap();
        assert_eq!(rows, expected(to), "as of {to}");
    }
    assert!(partials(dir.path()).is_empty());
    is_as_expected(&store);
    let sealed = segments(dir.path()).len() - 1;
    assert!(sealed > 5);
    assert_eq!(partials(dir.path()).len(), sealed);
    store.close().unwrap();

    let store = options().open(dir.path()).unwrap();
    is_as_expected(&store);
    let good: Vec<_> = partials(dir.path()).iter().map(|file| fs::read(file).unwrap()).collect();
    for (n, file) in partials(dir.path()).iter().enumerate() {
        let bytes = &good[n];
        match n % 6 {
            0 => fs::remove_file(file).unwrap(),
            1 => fs::write(file, b"").unwrap(),
            2 => fs::write(file, &bytes[..bytes.len() - 1]).unwrap(),
            3 => fs::write(file, &good[n - 1]).unwrap(),
            4 => fs::write(file, vec![0xA5; 1 << 20]).unwrap(),
            _ => {
                let mut bytes = bytes.clone();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                fs::write(file, bytes).unwrap();
            }
        }
    }
    // One that a crash has left behind.
    fs::write(partials(dir.path())[0].with_extension("part.tmp"), b"half").unwrap();
    is_as_expected(&store);
    let again: Vec<_> = partials(dir.path()).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(again, good, "what was damaged was made anew");
    store.close().unwrap();
}

#[test]
fn a_key_a_range_and_a_prefix_are_answered_as_of_any_position() {
    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    fill(&store);
    let (from, end) = (cell("customer-1", "item-1"), cell("customer-3", "item-0"));
    for to in (0..=EVENTS).step_by(3) {
        let (all, at) = (expected(to), store.fold(&sold()).as_of(Position::new(to)));
        assert_eq!(at.get(&from).unwrap(), all.get(&from).copied());
        assert_eq!(at.get(&cell("customer-1", "item")).unwrap(), None);
        let ranged = all.range(from.clone()..=end.clone());
        assert_eq!(
            at.range(from.clone()..=end.clone()).unwrap(),
            ranged.map(|(k, v)| (k.clone(), *v)).collect()
        );
        let of_one: BTreeMap<_, _> = all.into_iter().filter(|(key, _)| key.0 == "customer-2").collect();
        assert_eq!(at.prefix(&("customer-2",)).unwrap(), of_one);
    }
}

#[test]
fn what_is_kept_is_read_in_place_of_events_and_is_not_there_for_another_generation() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    store.fold(&sold()).rows().unwrap();
    store.close().unwrap();
    let firsts = segments(dir.path());
    damage_events(&segment(dir.path(), firsts[2]));
    let store = options().read_only(true).open(dir.path()).unwrap();
    for to in (0..=EVENTS).filter(|to| *to < firsts[2] || *to >= firsts[3] - 1) {
        assert_eq!(store.fold(&sold()).as_of(Position::new(to)).rows().unwrap(), expected(to), "as of {to}");
    }
    let error = store.fold(&declared(2)).rows().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_store_opened_read_only_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    store.close().unwrap();
    let store = options().read_only(true).open(dir.path()).unwrap();
    assert_eq!(store.fold(&sold()).rows().unwrap(), expected(EVENTS));
    assert!(!dir.path().join("folds").exists());
}

#[test]
fn a_raised_generation_takes_the_place_of_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    store.fold(&sold()).rows().unwrap();
    let before = partials(dir.path());
    assert_eq!(store.fold(&declared(2)).rows().unwrap(), expected(EVENTS));
    let after = partials(dir.path());
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|file| !before.contains(file)));
}

#[test]
fn what_is_kept_outlives_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    store.fold(&sold()).rows().unwrap();
    let before = segments(dir.path());
    store.retain(&Retention::new().before(Position::new(150))).unwrap();
    let start = store.log_start().get();
    assert!(start > 50 && before.contains(&start));
    assert_eq!(store.fold(&sold()).rows().unwrap(), expected(EVENTS));
    for to in 1..=EVENTS {
        let rows = store.fold(&sold()).as_of(Position::new(to)).rows();
        // Of what is gone it is known what whole segments came to.
        if to + 1 >= start || before.contains(&(to + 1)) {
            assert_eq!(rows.unwrap(), expected(to), "as of {to}");
        } else {
            assert_eq!(rows.unwrap_err().kind(), ErrorKind::Truncated { first: store.log_start() });
        }
    }
    // Nothing was kept for this one.
    let truncated = ErrorKind::Truncated { first: store.log_start() };
    assert_eq!(store.fold(&declared(2)).rows().unwrap_err().kind(), truncated);
    let left = declared(2).from_log_start();
    assert_eq!(store.fold(&left).rows().unwrap(), expected_of(start, EVENTS));
    let early = store.fold(&left).as_of(Position::new(3)).rows();
    assert_eq!(early.unwrap_err().kind(), truncated);
    store.close().unwrap();

    let store = options().open(dir.path()).unwrap();
    assert_eq!(
        store.fold(&sold()).rows().unwrap(),
        expected(EVENTS),
        "a later generation left alone what is all there is"
    );
    let mut lost = partials(dir.path())[1].clone();
    let bytes = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    assert_eq!(store.fold(&sold()).rows().unwrap_err().kind(), truncated);
    fs::write(&lost, &bytes).unwrap();
    assert_eq!(store.fold(&sold()).rows().unwrap(), expected(EVENTS));
    lost.set_extension("elsewhere");
    fs::write(&lost, bytes).unwrap();
    assert_eq!(store.fold(&sold()).rows().unwrap(), expected(EVENTS));
}

/// A store in memory that was closed with so many events, as often as it is wanted.
fn image(events: u64) -> MemoryStorage {
    let storage = MemoryStorage::seeded(1);
    let store = options().open_memory(&storage).unwrap();
    fill_to(&store, events);
    store.close().unwrap();
    storage
}

const FEW: u64 = 70;

#[track_caller]
fn answers_right(store: &Store, what: &str) {
    for to in [FEW, FEW / 2] {
        let rows = store.fold(&sold()).as_of(Position::new(to)).threads(1).rows();
        assert_eq!(rows.unwrap(), expected(to), "{what}, as of {to}");
    }
}

#[test]
fn a_loss_of_power_at_any_operation_changes_no_answer_and_what_is_kept_is_durable() {
    let first = image(FEW);
    for n in 1.. {
        let storage = first.crash(u64::MAX);
        let store = options().open_memory(&storage).unwrap();
        let at = storage.operations() + n;
        [0, n, u64::MAX].into_iter().for_each(|seed| storage.crash_at(at, seed));
        answers_right(&store, "before");
        let ended = storage.operations() < at;
        for outage in storage.outages() {
            let what = format!("operation {n}, seed {}", outage.seed);
            answers_right(&options().open_memory(&outage.left).unwrap(), &what);
        }
        if ended {
            let is_kept = |name: &String| name.starts_with("folds/");
            let kept =
                |storage: &MemoryStorage| storage.files().into_iter().filter(is_kept).collect::<Vec<_>>();
            assert!(n > 12 && kept(&storage).len() > 1, "{n}");
            assert_eq!(kept(&storage.crash(0)), kept(&storage));
            return;
        }
    }
}

#[test]
fn an_operation_that_fails_keeps_nothing_from_being_answered_and_poisons_nothing() {
    let first = image(FEW);
    for fault in [Fault::once(io::ErrorKind::Other).short(), Fault::from_then_on(io::ErrorKind::StorageFull)]
    {
        for n in 1.. {
            let storage = first.crash(u64::MAX);
            let store = options().open_memory(&storage).unwrap();
            let at = storage.operations() + n;
            storage.fail_at(at, fault);
            answers_right(&store, &format!("operation {n} fails"));
            let ended = storage.operations() < at;
            storage.clear_faults();
            answers_right(&store, &format!("operation {n} has failed"));
            store.append("shop", Expected::Any, [Event::raw("opened", *b"again")]).unwrap();
            if ended {
                assert!(n > 12, "{n}");
                break;
            }
        }
    }
}

#[test]
fn a_fold_that_fails_names_the_event_that_the_serial_fold_fails_at() {
    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    fill(&store);
    let limited = |limit| {
        Fold::new("limited", u32::try_from(limit).unwrap())
            .map(|event| Ok(Some(event.position().get())))
            .key_by(|position| position % 2)
            .accumulate((count(), distinct(limit, |position: &u64| *position)))
    };
    for threads in 1..4 {
        for limit in [1, 5, 60, 124] {
            let fold = limited(limit);
            let failed_at = u64::try_from(limit).unwrap() * 2 + 1;
            let error = store.fold(&fold).threads(threads).rows().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(failed_at) }, "{error}");
            assert!(error.to_string().contains(&AccumulatorError::TooMany { limit }.to_string()), "{error}");
            let before = store.fold(&fold).as_of(Position::new(failed_at - 1)).rows().unwrap();
            assert_eq!(before[&1].1.len(), limit);
        }
        assert_eq!(store.fold(&limited(125)).threads(threads).rows().unwrap()[&0].0, 125);
    }
    append(&store, Event::raw("purchased", *b"no purchase"));
    store.sync().unwrap();
    let error = store.fold(&sold()).rows().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(EVENTS + 1) }, "{error}");
    assert_eq!(store.fold(&sold()).as_of(Position::new(EVENTS)).rows().unwrap(), expected(EVENTS));
}

#[test]
fn a_fold_that_panics_is_an_error_and_leaves_the_store_alone() {
    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    fill(&store);
    let panics = |at: u64| {
        Fold::new("panics", 1)
            .map(move |event| {
                assert!(event.position().get() != at, "met the event");
                Ok(Some(()))
            })
            .key_by(|()| ())
            .count()
            .without_partials()
    };
    for at in [1, 77, EVENTS] {
        let error = store.fold(&panics(at)).threads(3).rows().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(at) });
        assert!(error.to_string().contains("met the event"), "{error}");
    }
    assert_eq!(store.fold(&panics(0)).get(&()).unwrap(), Some(EVENTS));
}

#[test]
fn what_can_never_be_answered_is_refused() {
    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    fill(&store);
    let beyond = store.fold(&sold()).as_of(Position::new(EVENTS + 1)).rows().unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Invalid);
    let named = Fold::new("../sold", 1).map(|_| Ok(Some(()))).key_by(|()| ()).count();
    assert_eq!(store.fold(&named).rows().unwrap_err().kind(), ErrorKind::Invalid);
    store.close().unwrap();
    assert_eq!(store.fold(&sold()).rows().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_projection_may_be_a_declared_fold() {
    struct Sold(Fold<Cell, i64>);
    impl Projection for Sold {
        const NAME: &'static str = "sold";
        const GENERATION: u32 = 1;
        type Key = Cell;
        type Value = i64;

        fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<Cell, i64>) -> Result<(), ApplyError> {
            self.0.apply_to(event, view)
        }
    }
    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    fill(&store);
    let view = store.project(Sold(sold())).unwrap();
    view.wait_for(store.watermark(), Duration::MAX).unwrap();
    assert_eq!(view.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), expected(EVENTS));
    let wrong = Event::raw("purchased", *b"no purchase");
    let at = store.append("shop", Expected::Any, [wrong]).unwrap().position;
    let error = view.wait_for(at, Duration::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: at });
}
