//! Declared folds: what they come to as of any position, whatever is kept of segments, lost or damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everfold::fold::{Accumulator, AccumulatorError, Decimal, TopK, count, distinct, last, sum, top};
use everfold::{
    ApplyError, Batch, Durability, ErrorKind, Event, Expected, Fold, MIN_SEGMENT_BYTES, MemoryStorage,
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
    for n in 1..=EVENTS {
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
fn a_fold_sees_what_it_is_declared_to_see() {
    #[derive(Serialize, Deserialize)]
    struct Payment {
        lines: Vec<(String, Decimal<2>)>,
    }
    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    for lines in [r#"[["hats", "12.50"], ["pants", "20"]]"#, r#"[["hats", "0.05"], ["hats", 3]]"#, "[]"] {
        let payment: Payment = serde_json::from_str(&format!("{{\"lines\": {lines}}}")).unwrap();
        append(&store, Event::json("paid", &payment).unwrap());
    }
    append(&store, Event::json("refunded", &"no payment").unwrap());
    store.sync().unwrap();
    let paid = || Fold::new("paid", 1).types(["paid"]).map(|event| Ok(event.decode::<Payment>()?.lines));
    let totals = paid().key_by(|line| line.0.clone()).sum(|line| line.1);
    let totals = store.fold(&totals).rows().unwrap();
    assert_eq!(totals["hats"].to_string(), "15.55");
    assert_eq!(totals["pants"].to_string(), "20.00");
    let average = paid().filter(|line| line.1 > Decimal::default()).key_by(|_| ()).average(|line| line.1);
    assert_eq!(store.fold(&average).get(&()).unwrap().unwrap().value().to_string(), "8.89");
    let dearest = paid().key_by(|_| ()).top(2, |line| (line.1, line.0.clone()));
    let TopK { entries } = store.fold(&dearest).get(&()).unwrap().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.1.as_str()).collect::<Vec<_>>(), ["pants", "hats"]);
    append(&store, Event::raw("paid", *br#"{"lines": [["hats", 12.5]]}"#));
    store.sync().unwrap();
    assert!(store.fold(&paid().key_by(|_| ()).count()).rows().is_err(), "a float is no exact amount");
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

#[test]
fn an_accumulator_of_ones_own_works_like_the_others() {
    /// The longest run of equal values, with what is needed at both ends to put two halves together.
    struct LongestRun;

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    struct Run {
        first: (u8, u64),
        last: (u8, u64),
        longest: u64,
        len: u64,
    }

    impl Accumulator<u8> for LongestRun {
        type State = Run;

        fn start(&self, value: &u8) -> Result<Run, ApplyError> {
            Ok(Run { first: (*value, 1), last: (*value, 1), longest: 1, len: 1 })
        }

        fn add(&self, state: &mut Run, value: &u8) -> Result<(), ApplyError> {
            let one = self.start(value)?;
            self.merge(state, one)
        }

        fn merge(&self, earlier: &mut Run, later: Run) -> Result<(), ApplyError> {
            let joined = if earlier.last.0 == later.first.0 { earlier.last.1 + later.first.1 } else { 0 };
            let one_run = |run: &Run| run.first.1 == run.len;
            let (whole, later_whole) = (one_run(earlier) && joined > 0, one_run(&later) && joined > 0);
            earlier.longest = earlier.longest.max(later.longest).max(joined);
            earlier.first.1 = if whole { joined } else { earlier.first.1 };
            earlier.last = if later_whole { (later.last.0, joined) } else { later.last };
            earlier.len += later.len;
            Ok(())
        }
    }

    let store = options().open_memory(&MemoryStorage::new()).unwrap();
    let values: Vec<u8> = (0..400u32).map(|n| u8::from(n * n % 97 < 60)).collect();
    for value in &values {
        append(&store, Event::bincode("value", value).unwrap());
    }
    store.sync().unwrap();
    let fold = Fold::new("runs", 1).decode::<u8>().key_by(|_| ()).accumulate((
        LongestRun,
        last(|value: &u8| *value),
        sum(|value: &u8| *value),
        top(1, |value: &u8| (*value, ())),
    ));
    for to in 1..=values.len() {
        let runs = values[..to].chunk_by(|a, b| a == b).map(<[u8]>::len).max().unwrap();
        let position = Position::new(u64::try_from(to).unwrap());
        let (run, last, ..) = store.fold(&fold).as_of(position).threads(2).get(&()).unwrap().unwrap();
        assert_eq!((run.longest, last), (u64::try_from(runs).unwrap(), values[to - 1]));
    }
}
