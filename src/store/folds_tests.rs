//! A view that is brought on in stretches of any size has the rows that events applied one after the other give.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::Store;
use crate::batch::{Batch, Durability};
use crate::error::Error;
use crate::event::{Event, Position, RecordedEvent};
use crate::fold::{Fold, Most, Projected, TopK, count, first, last, sum, top};
use crate::options::{MIN_SEGMENT_BYTES, Options};
use crate::projection::{
    ApplyError, Built, Extent, OnError, ProjectionOptions, Runs, Stretch, Stretches, ViewBatch, Views,
};
use crate::retention::Retention;
use crate::view::handle::View;

type Line = (String, i32);
type State = (u64, i64, i32, i32, TopK<i32, String>);

/// An event is a line, or not: then it fails.
fn fold(name: &'static str) -> Fold<String, State> {
    Fold::new(name, 1).types(["line"]).decode::<Line>().key_by(|line| line.0.clone()).accumulate((
        count(),
        sum(|line: &Line| line.1),
        first(|line: &Line| line.1),
        last(|line: &Line| line.1),
        top(2, |line: &Line| (line.1 % 4, line.0.clone())),
    ))
}

fn append(store: &Store, lines: &[Option<(u8, i32)>]) {
    let event = |line: &Option<(u8, i32)>| match line {
        Some((key, number)) => {
            let long = "-".repeat(usize::from(key % 5) * 7);
            Event::bincode("line", &(format!("key{long}{}", key % 24), *number)).unwrap()
        }
        None => Event::raw("line", *b"\xff"),
    };
    for some in lines.chunks(20) {
        let batch = Batch::new().durability(Durability::Written);
        store.append_batch(some.iter().fold(batch, |batch, line| batch.event("lines", event(line)))).unwrap();
    }
    store.sync().unwrap();
}

/// A fold that tells how many stretches it has folded.
struct Counting {
    projected: Projected<String, State>,
    built: Arc<AtomicU64>,
}

impl Runs for Counting {
    type Key = String;
    type Value = State;

    fn name(&self) -> &str {
        self.projected.name()
    }

    fn generation(&self) -> u32 {
        self.projected.generation()
    }

    fn takes_what_is_left(&self) -> bool {
        self.projected.takes_what_is_left()
    }

    fn serves_earlier(&self) -> bool {
        self.projected.serves_earlier()
    }

    fn views(&self) -> Views<String, State> {
        self.projected.views()
    }

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, State>) -> Result<(), ApplyError> {
        self.projected.apply(event, view)
    }

    fn stretches(&self) -> Option<&dyn Stretches> {
        Some(self)
    }
}

impl Stretches for Counting {
    fn extent(&self) -> Extent {
        self.projected.extent()
    }

    fn build(&self, stretch: &Stretch<'_>) -> Result<Option<Built>, Error> {
        let built = self.projected.build(stretch)?;
        self.built.fetch_add(1, Ordering::Relaxed);
        Ok(built)
    }
}

/// In what steps a view is brought on.
#[derive(Clone, Copy, Debug)]
struct Steps {
    threads: usize,
    least: u64,
    most: u64,
    rows: usize,
}

const SERIAL: Steps = Steps { threads: 1, least: u64::MAX, most: 1, rows: 1 };

fn project(store: &Store, name: &'static str, steps: Steps, built: &Arc<AtomicU64>) -> View<String, State> {
    let Steps { threads, least, most, rows } = steps;
    let (extent, most) = (Extent { least, most }, Most { rows, bytes: 1 << 20 });
    let projected = Projected::of(fold(name), extent, most);
    let options = ProjectionOptions::new().on_error(OnError::SetAside).build_threads(threads);
    let (kind, counting) = (fold(name).kind(), Counting { projected, built: built.clone() });
    store.start_projection(counting, kind, options).unwrap()
}

fn rows(view: &View<String, State>, to: Position) -> BTreeMap<String, State> {
    view.wait_for(to, Duration::from_secs(60)).unwrap();
    let rows: BTreeMap<_, _> = view.range(..).map(Result::unwrap).collect();
    assert_eq!(u64::try_from(rows.len()).unwrap(), view.len());
    rows
}

fn open(dir: &Path) -> Store {
    Options::new().segment_size(MIN_SEGMENT_BYTES).open(dir).unwrap()
}

fn some_lines() -> impl Strategy<Value = Vec<Option<(u8, i32)>>> {
    let line = (any::<u8>(), -9..9i32);
    let all = proptest::collection::vec(line.clone().prop_map(Some), 1..60);
    prop_oneof![3 => all, 1 => proptest::collection::vec(proptest::option::weighted(0.9, line), 1..60)]
}

fn steps() -> impl Strategy<Value = Steps> {
    (1..4usize, 1..30u64, 1..40u64, 1..50usize).prop_map(|(threads, least, most, rows)| Steps {
        threads,
        least,
        most,
        rows,
    })
}

/// What happens to a store between two times that its views are held against each other.
#[derive(Clone, Debug)]
enum Then {
    Goes,
    Reopens,
    Retains,
    Rebuilds,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_view_that_is_brought_on_in_stretches_has_the_rows_of_one_event_after_the_other(
        parts in proptest::collection::vec(
            (some_lines(), steps(), prop_oneof![
                Just(Then::Goes), Just(Then::Reopens), Just(Then::Retains), Just(Then::Rebuilds),
            ]),
            1..5,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let (built, none) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut whole = true;
        for (lines, steps, then) in parts {
            // The views are behind by all of these when they are registered again.
            store.close().unwrap();
            store = open(dir.path());
            append(&store, &lines);
            let at_once = project(&store, "at-once", steps, &built);
            let serial = project(&store, "serial", SERIAL, &none);
            let to = store.watermark();
            let expected = rows(&serial, to);
            prop_assert_eq!(&rows(&at_once, to), &expected);
            let aside = |view: &View<String, State>| -> Vec<Position> {
                view.set_aside().unwrap().iter().map(|event| event.position).collect()
            };
            prop_assert_eq!(aside(&at_once), aside(&serial));
            let digest = |view: &View<String, State>| view.status().digest;
            prop_assert_eq!(digest(&at_once), digest(&serial));
            prop_assert!(at_once.status().rebuilt_because.is_none(), "{:?}", at_once.status());
            if whole {
                if aside(&serial).is_empty() {
                    prop_assert_eq!(store.fold(&fold("asked")).rows().unwrap(), expected.clone());
                }
                prop_assert!(at_once.verify().unwrap().is_sound());
            }
            match then {
                Then::Goes => {}
                Then::Reopens => {
                    store.close().unwrap();
                    store = open(dir.path());
                }
                Then::Retains => {
                    whole &= store.retain(&Retention::new().before(to)).unwrap().segments == 0;
                }
                Then::Rebuilds if whole => {
                    at_once.rebuild().unwrap();
                    at_once.wait_built(Duration::from_secs(60)).unwrap();
                    prop_assert_eq!(&rows(&at_once, to), &expected);
                    prop_assert_eq!(digest(&at_once), digest(&serial));
                }
                Then::Rebuilds => {}
            }
        }
        prop_assert_eq!(none.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn stretches_are_folded_while_a_view_is_far_behind_and_nobody_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let steps = Steps { threads: 2, least: 10, most: 25, rows: usize::MAX };
    let built = Arc::new(AtomicU64::new(0));
    append(&store, &vec![Some((3, 1)); 109]);
    let view = project(&store, "at-once", steps, &built);
    assert_eq!(rows(&view, store.watermark()).len(), 1);
    assert_eq!(built.load(Ordering::Relaxed), 4, "the last nine events are applied one after the other");
    view.rebuild().unwrap();
    view.wait_built(Duration::from_secs(60)).unwrap();
    assert_eq!(built.swap(0, Ordering::Relaxed) - 4, 17, "smaller ones for rows that are not served");
    view.pause().unwrap();
    let (_, mut changes) = view.follow().unwrap();
    append(&store, &vec![Some((3, 1)); 40]);
    view.resume().unwrap();
    for number in 110..150 {
        assert_eq!(changes.next().unwrap().unwrap().position, Position::new(number));
    }
    assert_eq!(built.load(Ordering::Relaxed), 0);
}

#[test]
fn where_many_events_fail_stretches_are_tried_less_and_less() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lines: Vec<_> = (0..600u32).map(|n| (n % 10 != 9).then_some((3, 1))).collect();
    append(&store, &lines);
    let steps = Steps { threads: 2, least: 5, most: 8, rows: usize::MAX };
    let built = Arc::new(AtomicU64::new(0));
    let view = project(&store, "at-once", steps, &built);
    assert_eq!(rows(&view, store.watermark()).values().map(|row| row.0).sum::<u64>(), 540);
    assert_eq!(view.set_aside().unwrap().len(), 60);
    assert!((1..16).contains(&built.load(Ordering::Relaxed)), "{built:?}");
}
