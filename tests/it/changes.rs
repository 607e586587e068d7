//! What becomes of the rows of a view: told once, in order, from any position, whatever happens to the view.

use std::collections::BTreeMap;
use std::fs;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use everfold::{
    ApplyError, Batch, Change, Changes, ErrorKind, Event, Expected, MIN_SEGMENT_BYTES, MemoryStorage,
    NamedView, Options, Position, Projection, RecordedEvent, Retention, Store, View, ViewBatch, Views,
};
use futures_core::Stream as _;
use futures_core::stream::FusedStream as _;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::block_on::block_on;

const FOR_EVER: Duration = Duration::MAX;
const SHORT: Duration = Duration::from_millis(1);

type Cell = (String, String);
/// Customer, item, quantity. A quantity of 0 takes the customer's other items back; one of 100 cannot be applied.
type Purchase = (String, String, i64);
type Changed<K> = (Position, K, Option<i64>, Option<i64>);

/// The sum by customer and item; and by item alone, where no item is left at 0.
struct Sold;

struct ByItem;

impl NamedView for ByItem {
    const NAME: &'static str = "by-item";
    type Key = String;
    type Value = i64;
}

impl Projection for Sold {
    const NAME: &'static str = "sold";
    const GENERATION: u32 = 1;
    type Key = Cell;
    type Value = i64;

    fn views() -> Views<Cell, i64> {
        Views::new().view::<ByItem>()
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<Cell, i64>) -> Result<(), ApplyError> {
        let (customer, item, quantity): Purchase = event.decode()?;
        if quantity == 100 {
            view.put((customer, item), 100);
            return Err(ApplyError::new("too many"));
        }
        view.update((customer.clone(), item.clone()), |sum| Some(sum.unwrap_or(0) + quantity))?;
        if quantity == 0 {
            view.remove(&(customer.clone(), "i0".into()));
            view.put((customer, "i1".into()), 7);
        }
        view.of::<ByItem>()?.update(item, |sum| Some(sum.unwrap_or(0) + quantity).filter(|sum| *sum != 0))
    }
}

#[derive(Default)]
struct Model {
    cells: BTreeMap<Cell, i64>,
    items: BTreeMap<String, i64>,
    changes: Vec<Changed<Cell>>,
    item_changes: Vec<Changed<String>>,
}

fn diff<K: Ord + Clone>(at: Position, old: &BTreeMap<K, i64>, new: &BTreeMap<K, i64>) -> Vec<Changed<K>> {
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(key) != new.get(key));
    changed.map(|key| (at, key.clone(), old.get(key).copied(), new.get(key).copied())).collect()
}

impl Model {
    fn of(store: &Store) -> Self {
        let mut model = Model::default();
        for event in store.read(store.log_start().previous()).map(Result::unwrap) {
            let (customer, item, quantity): Purchase = event.decode().unwrap();
            let (cells, items) = (model.cells.clone(), model.items.clone());
            *model.cells.entry((customer.clone(), item.clone())).or_default() += quantity;
            if quantity == 0 {
                model.cells.remove(&(customer.clone(), "i0".into()));
                model.cells.insert((customer, "i1".into()), 7);
            }
            *model.items.entry(item).or_default() += quantity;
            model.items.retain(|_, sum| *sum != 0);
            model.changes.extend(diff(event.position(), &cells, &model.cells));
            model.item_changes.extend(diff(event.position(), &items, &model.items));
        }
        model
    }
}

fn after<K: Clone>(changes: &[Changed<K>], position: Position) -> Vec<Changed<K>> {
    changes.iter().filter(|change| change.0 > position).cloned().collect()
}

fn plain<K>(change: Change<K, i64>) -> Changed<K> {
    (change.position, change.key, change.old, change.new)
}

/// As many as are expected, those of one event in the order of their keys, and that there are no more.
fn given<K: everfold::Key + Ord>(changes: &mut Changes<K, i64>, expected: usize) -> Vec<Changed<K>> {
    let mut found: Vec<_> = changes.take(expected).map(|change| plain(change.unwrap())).collect();
    assert!(changes.next_timeout(SHORT).is_none());
    assert!(found.is_sorted_by_key(|change| change.0), "they come in the order of the events");
    found.sort();
    found
}

fn sold(customer: &str, item: &str, quantity: i64) -> Event {
    Event::bincode("sold", &(customer, item, quantity)).unwrap()
}

fn append(store: &Store, purchases: &[(u8, u8, i8)]) {
    let event =
        |(c, i, quantity): &(u8, u8, i8)| sold(&format!("c{c}"), &format!("i{i}"), i64::from(*quantity));
    let batch = purchases.iter().map(event).fold(Batch::new(), |batch, event| batch.event("shop", event));
    store.append_batch(batch).unwrap();
}

fn purchases(count: u8) -> Vec<(u8, u8, i8)> {
    (0..count).map(|n| (n % 3, n % 4, i8::try_from(n % 5).unwrap() - 2)).collect()
}

fn open(options: &Options) -> (Store, View<Cell, i64>) {
    let store = options.open_memory(&MemoryStorage::new()).unwrap();
    let view = store.project(Sold).unwrap();
    (store, view)
}

fn caught_up(store: &Store, view: &View<Cell, i64>) -> Position {
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    store.watermark()
}

#[test]
fn the_purchases_of_the_pattern_are_told_one_by_one() {
    struct Totals;
    impl Projection for Totals {
        const NAME: &'static str = "totals";
        const GENERATION: u32 = 1;
        type Key = String;
        type Value = i64;

        fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, i64>) -> Result<(), ApplyError> {
            let (item, quantity): (String, i64) = event.decode()?;
            view.update(item, |sum| Some(sum.unwrap_or(0) + quantity))
        }
    }
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let totals = store.project(Totals).unwrap();
    let mut live = totals.changes(Position::START);
    for purchase in [("hats", 1), ("hats", 1), ("pants", 1), ("sweaters", 1), ("pants", 1), ("pants", -1)] {
        store.append("jsmith", Expected::Any, [Event::json("sold", &purchase).unwrap()]).unwrap();
    }
    let expected = [("hats", 1), ("hats", 2), ("pants", 1), ("sweaters", 1), ("pants", 2), ("pants", 1)]
        .map(|(k, v)| (k.to_owned(), v));
    for changes in [&mut live, &mut totals.changes(Position::START)] {
        let found: Vec<_> = changes.take(6).map(Result::unwrap).map(|c| (c.key, c.new.unwrap())).collect();
        assert_eq!(found, expected);
        assert!(changes.next_timeout(SHORT).is_none());
    }
    let rows: Vec<_> = totals.iter().map(Result::unwrap).collect();
    assert_eq!(rows, [("hats", 2), ("pants", 1), ("sweaters", 1)].map(|(k, v)| (k.to_owned(), v)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn changes_are_the_differences_that_the_events_made(
        batches in vec(vec((0..3u8, 0..4u8, -2..3i8), 1..30), 1..8),
        waits in vec(any::<bool>(), 8),
    ) {
        let (store, view) = open(&Options::new().segment_size(MIN_SEGMENT_BYTES));
        let (mut live, mut items) = (view.changes(Position::START), view.of::<ByItem>().unwrap().changes(Position::START));
        for (batch, wait) in batches.iter().zip(waits) {
            append(&store, batch);
            if wait {
                caught_up(&store, &view);
            }
        }
        let last = caught_up(&store, &view);
        let model = Model::of(&store);
        prop_assert_eq!(given(&mut live, model.changes.len()), model.changes.clone());
        prop_assert_eq!(given(&mut items, model.item_changes.len()), model.item_changes.clone());
        prop_assert_eq!((live.checkpoint(), items.checkpoint()), (last, last));
        drop((live, items));
        for position in 0..=last.get() {
            let position = Position::new(position);
            let expected = after(&model.changes, position);
            prop_assert_eq!(given(&mut view.changes(position), expected.len()), expected);
        }
        let expected = after(&model.item_changes, Position::new(last.get() / 2));
        let mut changes = view.of::<ByItem>().unwrap().changes(Position::new(last.get() / 2));
        prop_assert_eq!(given(&mut changes, expected.len()), expected);
    }
}

#[test]
fn who_keeps_the_checkpoint_goes_on_there_after_the_store_was_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let (mut found, mut place) = (Vec::new(), Position::START);
    for round in 0..6 {
        let store = Store::open(dir.path()).unwrap();
        let view = store.project(Sold).unwrap();
        append(&store, &purchases(40));
        let mut changes = view.changes(place);
        for change in changes.by_ref().take(10 + round * 7) {
            found.push(plain(change.unwrap()));
        }
        place = changes.checkpoint();
        // Of an event that was not told to its end, all is told again.
        found.retain(|change| change.0 <= place);
        if round % 2 == 0 {
            store.close().unwrap();
        }
    }
    let store = Store::open(dir.path()).unwrap();
    let view = store.project(Sold).unwrap();
    let expected = Model::of(&store).changes;
    found.extend(given(&mut view.changes(place), after(&expected, place).len()));
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_snapshot_and_the_changes_after_it_are_the_view_at_any_time() {
    let (store, view) = open(&Options::new());
    let mut followers = Vec::new();
    for _ in 0..5 {
        followers.push(view.follow().unwrap());
        append(&store, &purchases(30));
        caught_up(&store, &view);
    }
    let model = Model::of(&store);
    for (n, (snapshot, mut changes)) in followers.into_iter().enumerate() {
        assert_eq!(snapshot.checkpoint(), Position::new(u64::try_from(n * 30).unwrap()));
        let expected = after(&model.changes, snapshot.checkpoint());
        assert_eq!(given(&mut changes, expected.len()), expected);
    }
    let (snapshot, _) = view.follow().unwrap();
    assert_eq!(snapshot.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), model.cells);
}

#[test]
fn who_follows_while_others_append_misses_and_repeats_nothing() {
    let (store, view) = open(&Options::new());
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || (0..150).for_each(|n| append(&store, &purchases(n % 7 + 1))))
    };
    let mut followers = Vec::new();
    while !writer.is_finished() {
        let after = view.checkpoint();
        if followers.len() < 20 {
            followers.push((after, view.changes(after), Vec::new()));
        }
        for (_, changes, found) in &mut followers {
            found.extend(changes.next_timeout(Duration::ZERO).map(|change| plain(change.unwrap())));
        }
    }
    writer.join().unwrap();
    let expected = Model::of(&store).changes;
    for (position, mut changes, mut found) in followers {
        let expected = after(&expected, position);
        found.extend(given(&mut changes, expected.len() - found.len()));
        found.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn who_is_too_slow_is_told_where_to_go_on_and_misses_nothing() {
    let (store, view) = open(&Options::new().change_buffer_bytes(4000));
    let (mut changes, mut found, mut lagged) = (view.changes(Position::START), Vec::new(), 0);
    for round in 0..8 {
        append(&store, &purchases(if round % 2 == 0 { 6 } else { 90 }));
        caught_up(&store, &view);
        let expected = Model::of(&store).changes.len();
        while found.len() < expected {
            match changes.next().unwrap() {
                Ok(change) => found.push(plain(change)),
                Err(error) => {
                    let ErrorKind::Lagged { from } = error.kind() else { panic!("{error}") };
                    assert_eq!(from, changes.checkpoint());
                    assert!(changes.next().is_none(), "it has ended");
                    changes = view.changes(from);
                    lagged += 1;
                }
            }
        }
    }
    found.sort();
    assert_eq!(found, Model::of(&store).changes);
    assert_eq!(lagged, 4, "the large rounds do not fit");
}

#[test]
fn async_code_follows_without_a_thread_of_its_own() {
    let (store, view) = open(&Options::new());
    append(&store, &purchases(60));
    let mut stream = pin!(view.changes(Position::new(10)).into_stream());
    let model = Model::of(&store);
    let mut found = Vec::new();
    for _ in 0..after(&model.changes, Position::new(10)).len() {
        found.push(plain(block_on(poll_fn(|cx| stream.as_mut().poll_next(cx))).unwrap().unwrap()));
    }
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || append(&store, &[(0, 0, 1)]))
    };
    found.push(plain(block_on(poll_fn(|cx| stream.as_mut().poll_next(cx))).unwrap().unwrap()));
    writer.join().unwrap();
    found.sort();
    assert_eq!(found, after(&Model::of(&store).changes, Position::new(10)));
    assert_eq!(stream.checkpoint(), store.watermark());
    store.close().unwrap();
    assert!(block_on(poll_fn(|cx| stream.as_mut().poll_next(cx))).is_none() && stream.is_terminated());
}

#[test]
fn changes_end_with_the_store_and_with_the_projection() {
    let (store, view) = open(&Options::new());
    append(&store, &[(0, 0, 1), (1, 1, 1)]);
    let mut changes = view.changes(Position::START);
    assert_eq!(changes.by_ref().take(2).map(Result::unwrap).count(), 2);
    let waiting = std::thread::spawn(move || changes.next().is_none());
    store.close().unwrap();
    assert!(waiting.join().unwrap());

    let (store, view) = open(&Options::new());
    let mut live = view.changes(Position::START);
    store.append("shop", Expected::Any, [sold("c", "i", 1), sold("c", "i", 100), sold("c", "i", 1)]).unwrap();
    for changes in [&mut live, &mut view.changes(Position::START)] {
        assert_eq!(changes.next().unwrap().unwrap().new, Some(1));
        let error = changes.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(2) });
        assert!(changes.next().is_none());
    }
}

#[test]
fn what_retention_has_removed_is_not_told_and_that_is_said() {
    let (store, view) = open(&Options::new().segment_size(MIN_SEGMENT_BYTES));
    for _ in 0..20 {
        append(&store, &purchases(20));
    }
    let last = caught_up(&store, &view);
    let mut live = view.changes(last);
    let before = Retention::new().before(last).without_view("sold");
    assert!(store.retain(&before).unwrap().segments > 0);
    let error = view.changes(Position::START).next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated { first: store.log_start() });
    append(&store, &[(0, 0, 1)]);
    caught_up(&store, &view);
    assert_eq!(live.next().unwrap().unwrap().position, store.watermark());
    let late = view.changes(last).next().unwrap().unwrap();
    assert_eq!(late.position, store.watermark(), "it is among the recent ones");
}

#[test]
fn a_view_that_is_made_anew_repeats_and_leaves_out_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop");
    let options = Options::new().view_cache_bytes(1 << 20).view_memory_bytes(16 << 10);
    let store = options.open(&path).unwrap();
    let view = store.project(Sold).unwrap();
    for round in 0..160 {
        let events =
            (0..100).map(|n| sold(&format!("customer-{round}-{n}"), &"item".repeat(200), n % 50 + 1));
        store.append("shop", Expected::Any, events).unwrap();
    }
    let last = caught_up(&store, &view);
    let mut live = view.changes(Position::new(15_990));
    assert_eq!(given(&mut live, 10).len(), 10);

    let db = path.join("views/sold/1/db");
    let noise: Vec<u8> = (0..fs::metadata(&db).unwrap().len())
        .map(|at| (at.wrapping_mul(167) >> 3).to_le_bytes()[0])
        .collect();
    fs::write(&db, noise).unwrap();
    view.iter().find_map(Result::err).expect("rows are read from the file");
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while view.status().rebuilt_because.is_none() {
        assert!(std::time::Instant::now() < deadline, "{:?}", view.status());
        std::thread::yield_now();
    }
    let mut second = view.changes(last);
    store.append("shop", Expected::Any, [sold("c", "i", 1), sold("d", "i", 2)]).unwrap();
    for changes in [&mut live, &mut second] {
        let found = given(changes, 2);
        assert_eq!(found.iter().map(|change| change.1.0.as_str()).collect::<Vec<_>>(), ["c", "d"]);
    }
}
