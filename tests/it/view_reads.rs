//! What a view is read by: keys, ranges, pages, indexes, and the other views of its projection. Held against maps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use everfold::{
    ApplyError, Batch, ErrorKind, Event, Expected, Index, MIN_SEGMENT_BYTES, MemoryStorage, NamedView,
    Options, PageKey, Position, Projection, RecordedEvent, Snapshot, Store, View, ViewBatch, Views,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::block_on::block_on;

const FOR_EVER: Duration = Duration::MAX;

/// What was bought: by customer and item, how many; none left and the row is gone.
struct Shop;

/// Of each item: how many there are, and how many customers have some.
struct ByItem;
/// The last purchase of each customer, latest first.
struct Latest;
/// Cells by how many.
struct ByQuantity;
/// Items by how many there are, and those that one customer has alone.
struct ByTotal;

impl NamedView for ByItem {
    const NAME: &'static str = "by-item";
    type Key = String;
    type Value = (i64, u32);
}

impl NamedView for Latest {
    const NAME: &'static str = "latest";
    type Key = (Reverse<Position>, String);
    type Value = ();
}

impl Index<(String, String), i64> for ByQuantity {
    const NAME: &'static str = "by-quantity";
    type Key = i64;

    fn keys(_: &(String, String), quantity: &i64) -> impl IntoIterator<Item = i64> {
        [*quantity, *quantity]
    }
}

impl Index<String, (i64, u32)> for ByTotal {
    const NAME: &'static str = "by-total";
    type Key = (String, i64);

    fn keys(_: &String, (total, customers): &(i64, u32)) -> impl IntoIterator<Item = (String, i64)> {
        let alone = (*customers == 1).then(|| ("alone".to_owned(), *total));
        [("all".to_owned(), *total)].into_iter().chain(alone)
    }
}

type Purchase = (String, String, i64);

impl Projection for Shop {
    const NAME: &'static str = "shop";
    const GENERATION: u32 = 1;
    type Key = (String, String);
    type Value = i64;

    fn views() -> Views<Self::Key, i64> {
        Views::new().view::<ByItem>().view::<Latest>().index::<ByQuantity>().index_of::<ByItem, ByTotal>()
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<Self::Key, i64>) -> Result<(), ApplyError> {
        let (customer, item, quantity): Purchase = event.decode()?;
        let key = (customer.clone(), item.clone());
        let before = view.get(&key)?.copied().unwrap_or(0);
        let after = before + quantity;
        if after == 0 {
            view.remove(&key);
        } else {
            view.put(key, after);
        }
        view.of::<ByItem>()?.update(item, |cell| {
            let (total, customers) = cell.unwrap_or_default();
            let customers = customers + u32::from(after != 0) - u32::from(before != 0);
            (customers > 0).then_some((total + quantity, customers))
        })?;
        let mut latest = view.of::<Latest>()?;
        if quantity > 2 {
            latest.put((Reverse(event.position()), customer), ());
        } else {
            latest.remove(&(Reverse(event.position().previous()), customer));
        }
        Ok(())
    }
}

/// The same in plain maps.
#[derive(Debug, Default)]
struct Model {
    cells: BTreeMap<(String, String), i64>,
    latest: BTreeSet<(Reverse<Position>, String)>,
}

impl Model {
    fn of(store: &Store) -> Self {
        let mut model = Model::default();
        for event in store.read(Position::START).map(Result::unwrap) {
            let (customer, item, quantity): Purchase = event.decode().unwrap();
            let cell = model.cells.entry((customer.clone(), item)).or_default();
            *cell += quantity;
            model.cells.retain(|_, cell| *cell != 0);
            if quantity > 2 {
                model.latest.insert((Reverse(event.position()), customer));
            } else {
                model.latest.remove(&(Reverse(event.position().previous()), customer));
            }
        }
        model
    }

    fn items(&self) -> BTreeMap<String, (i64, u32)> {
        let mut items = BTreeMap::<String, (i64, u32)>::new();
        for ((_, item), quantity) in &self.cells {
            let cell = items.entry(item.clone()).or_default();
            *cell = (cell.0 + quantity, cell.1 + 1);
        }
        items
    }
}

fn all<T, E: std::fmt::Debug>(rows: impl Iterator<Item = Result<T, E>>) -> Vec<T> {
    rows.map(Result::unwrap).collect()
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap()
}

fn check(snapshot: &Snapshot<(String, String), i64>, model: &Model) {
    let cells: Vec<_> = model.cells.clone().into_iter().collect();
    assert_eq!(all(snapshot.iter()), cells);
    assert_eq!(snapshot.len(), count(cells.len()));
    assert_eq!(snapshot.first().unwrap().as_ref(), cells.first());
    assert_eq!(snapshot.last().unwrap().as_ref(), cells.last());

    let items: Vec<_> = model.items().into_iter().collect();
    let by_item = snapshot.of::<ByItem>().unwrap();
    assert_eq!((all(by_item.iter()), by_item.len()), (items.clone(), count(items.len())));
    let latest = snapshot.of::<Latest>().unwrap();
    assert_eq!(all(latest.iter()), model.latest.iter().map(|key| (key.clone(), ())).collect::<Vec<_>>());
    assert_eq!(latest.len(), count(model.latest.len()));

    let mut by_quantity: Vec<_> =
        cells.iter().map(|(key, quantity)| (*quantity, key.clone(), *quantity)).collect();
    by_quantity.sort();
    let index = snapshot.by::<ByQuantity>().unwrap();
    assert_eq!(all(index.iter()), by_quantity);
    by_quantity.retain(|(quantity, ..)| (-1..2).contains(quantity));
    assert_eq!(all(index.range(-1..2)), by_quantity);
    by_quantity.reverse();
    assert_eq!(all(index.range((Bound::Excluded(-2), Bound::Included(1))).rev()), by_quantity);
    for quantity in -3..4 {
        let expected: Vec<_> = cells.iter().filter(|(_, cell)| *cell == quantity).cloned().collect();
        assert_eq!(all(index.get(&quantity)), expected);
    }
    let mut alone: Vec<_> = items.iter().filter(|(_, (_, customers))| *customers == 1).collect();
    alone.sort_by_key(|(item, (total, _))| (*total, item.clone()));
    let found = all(by_item.by::<ByTotal>().unwrap().prefix(&("alone",)));
    assert_eq!(
        found.iter().map(|(_, item, cell)| (item, cell)).collect::<Vec<_>>(),
        alone.iter().map(|(item, cell)| (item, cell)).collect::<Vec<_>>()
    );
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u8, u8, i8)>),
    Check,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec((0..4u8, 0..3u8, -3..4i8), 1..40).prop_map(Step::Append),
        2 => Just(Step::Check),
        1 => Just(Step::Reopen),
    ]
}

fn append(store: &Store, purchases: &[(u8, u8, i8)]) {
    let event = |(customer, item, quantity): &(u8, u8, i8)| {
        let purchase = (format!("c{customer}"), format!("i{item}"), i64::from(*quantity));
        Event::bincode("sold", &purchase).unwrap()
    };
    let batch = purchases.iter().map(event).fold(Batch::new(), |batch, event| batch.event("shop", event));
    store.append_batch(batch).unwrap();
}

fn open(path: &Path) -> (Store, View<(String, String), i64>) {
    let store = Options::new().segment_size(MIN_SEGMENT_BYTES).view_cache_bytes(1 << 20).open(path).unwrap();
    let view = store.project(Shop).unwrap();
    (store, view)
}

fn caught_up(store: &Store, view: &View<(String, String), i64>) -> Snapshot<(String, String), i64> {
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    assert_eq!(view.status().rebuilt_because, None);
    view.snapshot().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn several_views_and_their_indexes_are_those_of_the_events(steps in vec(step(), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut view) = open(dir.path());
        for step in steps.into_iter().chain([Step::Check, Step::Reopen, Step::Check]) {
            match step {
                Step::Append(purchases) => append(&store, &purchases),
                Step::Check => check(&caught_up(&store, &view), &Model::of(&store)),
                Step::Reopen => {
                    store.close().unwrap();
                    (store, view) = open(dir.path());
                }
            }
        }
    }
}

fn in_memory() -> (Store, View<(String, String), i64>) {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let view = store.project(Shop).unwrap();
    (store, view)
}

#[test]
fn pages_are_the_rows_of_the_range_however_they_are_cut() {
    let (store, view) = in_memory();
    let purchases: Vec<_> = (0..60).map(|n| (n % 20, n % 7, 1)).collect();
    append(&store, &purchases);
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    let cell = |customer: &str| (customer.to_owned(), String::new());
    let range = (Bound::Excluded(cell("c11")), Bound::Included(cell("c9")));
    let expected = all(view.range(range.clone()));
    assert!(expected.len() > 20);
    for limit in [1, 2, 7, expected.len() - 1, expected.len(), usize::MAX] {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = view.page(range.clone(), after.as_ref(), limit).unwrap();
            assert!(page.rows.len() <= limit && !page.rows.is_empty());
            rows.extend(page.rows);
            match page.next {
                Some(next) => after = Some(PageKey::from_bytes(next.as_bytes()).unwrap()),
                None => break,
            }
        }
        assert_eq!(rows, expected);
    }
    let refused = |page: Result<_, everfold::Error>| assert_eq!(page.unwrap_err().kind(), ErrorKind::Invalid);
    let next = view.page(.., None, 3).unwrap().next.unwrap();
    refused(view.page(.., None, 0).map(drop));
    refused(view.page(range, Some(&next), 3).map(drop));
    refused(view.of::<ByItem>().unwrap().page(.., Some(&next), 3).map(drop));
    let items = view.of::<ByItem>().unwrap().page(.., None, 7).unwrap();
    assert_eq!((items.rows.len(), items.next), (7, None));
}

#[test]
fn a_snapshot_and_all_that_is_read_through_it_is_of_one_checkpoint() {
    let (store, view) = in_memory();
    append(&store, &[(1, 1, 1), (2, 1, 2)]);
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    let snapshot = view.snapshot().unwrap();
    let keys = [("c2", "i1"), ("c1", "i2"), ("c1", "i1")].map(|(c, i)| (c.to_owned(), i.to_owned()));
    assert_eq!(snapshot.get_many(&keys).unwrap(), [Some(2), None, Some(1)]);
    assert_eq!(view.get_many(&keys).unwrap(), [Some(2), None, Some(1)]);
    append(&store, &[(3, 3, 3)]);
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    assert_eq!((snapshot.checkpoint(), snapshot.len(), snapshot.is_empty()), (Position::new(2), 2, false));
    assert_eq!(snapshot.of::<ByItem>().unwrap().len(), 1);
    assert_eq!(snapshot.by::<ByQuantity>().unwrap().checkpoint(), Position::new(2));
    assert_eq!((view.len(), view.of::<ByItem>().unwrap().len()), (3, 2));
    assert_eq!(view.first().unwrap().unwrap().0.0, "c1");
    assert_eq!(view.last().unwrap().unwrap().0.0, "c3");
}

#[test]
fn ones_own_writes_are_read_by_key_blocking_and_async() {
    let (store, view) = in_memory();
    let key = ("c1".to_owned(), "i1".to_owned());
    for n in 1..=40 {
        append(&store, &[(1, 1, 1)]);
        let done = store.watermark();
        let found = match n % 2 {
            0 => view.get_at_least(done, &key, FOR_EVER),
            _ => block_on(view.get_at_least_async(done, key.clone())),
        };
        assert_eq!(found.unwrap(), Some(n));
    }
    let error = view.get_at_least(Position::new(41), &key, Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn a_view_tells_how_old_the_event_is_that_it_waits_at() {
    let (store, view) = in_memory();
    append(&store, &[(1, 1, 1)]);
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    assert_eq!((view.status().lag, view.status().lag_time), (0, Duration::ZERO));
    store.append("shop", Expected::Any, [Event::raw("sold", "not a purchase")]).unwrap();
    view.wait_for(store.watermark(), FOR_EVER).unwrap_err();
    std::thread::sleep(Duration::from_millis(2));
    let status = view.status();
    assert!(status.lag == 1 && status.lag_time > Duration::ZERO, "{status:?}");
}

/// Declares what its number says, under the same name and generation.
struct Declaring<const WHAT: u8>;

struct Other;

impl NamedView for Other {
    const NAME: &'static str = "other";
    type Key = String;
    type Value = u64;
}

/// Finds a row by the length of its key; panics at one key.
struct ByLength;

impl Index<String, u64> for ByLength {
    const NAME: &'static str = "by-length";
    type Key = u32;

    fn keys(key: &String, _: &u64) -> impl IntoIterator<Item = u32> {
        assert_ne!(key, "bad", "no such key");
        u32::try_from(key.len())
    }
}

impl<const WHAT: u8> Projection for Declaring<WHAT> {
    const NAME: &'static str = "declaring";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn views() -> Views<String, u64> {
        match WHAT {
            0 => Views::new(),
            1 => Views::new().view::<Other>(),
            2 => Views::new().index::<ByLength>(),
            3 => Views::new().view::<Other>().index_of::<Other, ByLength>(),
            4 => Views::new().view::<Other>().view::<Other>(),
            5 => Views::new().index_of::<Other, ByLength>().view::<Other>(),
            _ => (0..=everfold::MAX_NAMED_VIEWS).fold(Views::new(), |views, _| views.index::<ByLength>()),
        }
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        let key = event.stream().to_owned();
        if WHAT % 2 == 1 {
            view.of::<Other>()?.put(key.clone(), event.position().get());
        }
        view.update(key, |count| Some(count.unwrap_or(0) + 1))
    }
}

#[test]
fn a_view_made_with_other_declarations_is_made_anew() {
    fn opened<const WHAT: u8>(path: &Path, is_anew: bool) -> (Store, View<String, u64>) {
        let store = Store::open(path).unwrap();
        store.append(&format!("s{WHAT}"), Expected::Any, [Event::raw("t", "")]).unwrap();
        let view = store.project(Declaring::<WHAT>).unwrap();
        view.wait_for(store.watermark(), FOR_EVER).unwrap();
        let because = view.status().rebuilt_because;
        assert_eq!(because.as_ref().is_some_and(|why| why.contains("named views")), is_anew, "{because:?}");
        let streams: BTreeSet<_> =
            store.read(Position::START).map(|e| e.unwrap().stream().to_owned()).collect();
        assert_eq!(all(view.iter()).into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>(), streams);
        assert_eq!(view.len(), count(streams.len()));
        (store, view)
    }
    let dir = tempfile::tempdir().unwrap();
    opened::<0>(dir.path(), false).0.close().unwrap();
    let (store, view) = opened::<1>(dir.path(), true);
    assert_eq!(view.of::<Other>().unwrap().len(), 2);
    assert_eq!(view.by::<ByLength>().unwrap_err().kind(), ErrorKind::Invalid);
    store.close().unwrap();
    opened::<1>(dir.path(), false).0.close().unwrap();
    let (store, view) = opened::<2>(dir.path(), true);
    assert_eq!(all(view.by::<ByLength>().unwrap().get(&2)).len(), 3);
    assert_eq!(view.of::<Other>().unwrap_err().kind(), ErrorKind::Invalid);
    store.close().unwrap();
    let (store, view) = opened::<3>(dir.path(), true);
    assert_eq!(view.by::<ByLength>().unwrap_err().kind(), ErrorKind::Invalid, "it is on the other view");
    assert_eq!(all(view.of::<Other>().unwrap().by::<ByLength>().unwrap().iter()).len(), 4);
    store.close().unwrap();
    opened::<0>(dir.path(), true).0.close().unwrap();
}

#[test]
fn declarations_that_cannot_be_are_refused() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    for error in [
        store.project(Declaring::<4>).unwrap_err(),
        store.project(Declaring::<5>).unwrap_err(),
        store.project(Declaring::<6>).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[test]
fn an_index_that_panics_stops_the_projection_at_the_event_and_nothing_else() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let view = store.project(Declaring::<2>).unwrap();
    for stream in ["good", "bad", "better"] {
        store.append(stream, Expected::Any, [Event::raw("t", "")]).unwrap();
    }
    let error = view.wait_for(Position::new(2), FOR_EVER).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(2) }, "{error}");
    assert_eq!(all(view.iter()), [("good".to_owned(), 1)]);
}
