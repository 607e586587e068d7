//! A projection of purchases, the same fold over plain maps, and stores that it is run in. Used by `view_model`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everfold::{
    ApplyError, Event, Key, MIN_SEGMENT_BYTES, NamedView, OnError, Options, Projection, ProjectionOptions,
    RecordedEvent, Snapshot, Store, View, ViewBatch, Views,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::view_cases::{copy, files};

/// Makes segments fill, so that retention has some to drop.
const PADDING: usize = 300;

pub(crate) type Place = (String, u32);

/// What customers spent on items; what cancels out has no row. An event that says it fails does, until it is mended.
#[derive(Clone, Default)]
pub(crate) struct Spent {
    pub(crate) mended: Arc<AtomicBool>,
}

/// What was spent on each item.
pub(crate) struct ByItem;

impl NamedView for ByItem {
    const NAME: &'static str = "by-item";
    type Key = u32;
    type Value = i64;
}

pub(crate) fn added(by: i64) -> impl FnOnce(Option<i64>) -> Option<i64> {
    move |sum| Some(sum.unwrap_or(0) + by).filter(|sum| *sum != 0)
}

impl Projection for Spent {
    const NAME: &'static str = "spent";
    const GENERATION: u32 = 1;
    type Key = Place;
    type Value = i64;

    fn views() -> Views<Place, i64> {
        Views::new().view::<ByItem>()
    }

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<Place, i64>) -> Result<(), ApplyError> {
        let (item, by): (u32, i64) = e.decode()?;
        view.update((e.stream().to_owned(), item), added(by))?;
        view.of::<ByItem>()?.update(item, added(by))?;
        // After it has changed something.
        match e.event_type() == "failing" && !self.mended.load(Ordering::SeqCst) {
            true => Err(ApplyError::new("it fails")),
            false => Ok(()),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Purchase {
    pub(crate) customer: u8,
    pub(crate) item: u8,
    pub(crate) by: i8,
    pub(crate) fails: bool,
}

/// On one line, as there are many.
impl fmt::Debug for Purchase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Purchase { customer, item, by, fails } = self;
        write!(f, "{customer}/{item} {by:+}{}", if *fails { "!" } else { "" })
    }
}

pub(crate) fn purchase() -> impl Strategy<Value = Purchase> {
    let fails = proptest::bool::weighted(0.08);
    (0..4u8, 0..5u8, -2..3i8, fails).prop_map(|(customer, item, by, fails)| Purchase {
        customer,
        item,
        by,
        fails,
    })
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) own: BTreeMap<Place, i64>,
    pub(crate) by_item: BTreeMap<u32, i64>,
}

pub(crate) fn add<K: Ord>(sums: &mut BTreeMap<K, i64>, key: K, by: i64) {
    let sum = sums.remove(&key).unwrap_or(0) + by;
    if sum != 0 {
        sums.insert(key, sum);
    }
}

pub(crate) fn open(path: &Path) -> Store {
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES).view_cache_bytes(1 << 20);
    options.view_memory_bytes(4 << 10).open(path).unwrap()
}

pub(crate) fn project(store: &Store, projection: &Spent) -> View<Place, i64> {
    let aside = ProjectionOptions::new().on_error(OnError::SetAside);
    store.project_with(projection.clone(), aside).unwrap()
}

pub(crate) fn event(purchase: Purchase) -> (String, Event) {
    let event_type = if purchase.fails { "failing" } else { "bought" };
    let event = Event::json(event_type, &(u32::from(purchase.item), i64::from(purchase.by))).unwrap();
    (format!("customer-{}", purchase.customer), event.metadata(vec![0; PADDING]))
}

pub(crate) fn rows(snapshot: &Snapshot<Place, i64>) -> Sums {
    Sums {
        own: snapshot.iter().map(Result::unwrap).collect(),
        by_item: snapshot.of::<ByItem>().unwrap().iter().map(Result::unwrap).collect(),
    }
}

/// A copy of a directory as it was at one moment: taken while nothing in it changed.
pub(crate) fn image(home: &Path) -> TempDir {
    let listed = || -> io::Result<Vec<_>> {
        let of = |name: String| {
            let found = fs::metadata(home.join(&name))?;
            Ok((name, found.len(), found.modified()?))
        };
        files(home)?.into_iter().map(of).collect()
    };
    loop {
        let (next, before) = (tempfile::tempdir().unwrap(), listed());
        if let (Ok(before), Ok(())) = (before, copy(home, next.path()))
            && listed().is_ok_and(|after| after == before)
        {
            return next;
        }
    }
}

pub(crate) fn decoded<K: Key>(mut key: &[u8]) -> K {
    K::decode(&mut key).unwrap()
}

pub(crate) fn number(value: &[u8]) -> i64 {
    i64::from_le_bytes(value.try_into().unwrap())
}
