//! What becomes of events that a projection cannot apply: retried, set aside, redriven.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everfold::{
    ApplyError, Batch, ErrorKind, Event, Expected, MIN_SEGMENT_BYTES, MemoryStorage, OnError, Options,
    Position, Projection, ProjectionOptions, ProjectionState, RecordedEvent, Retention, Store, View,
    ViewBatch,
};
use proptest::prelude::*;

const FOR_EVER: Duration = Duration::MAX;

/// Adds up the numbers of each stream. "!" is an error and "!!" a panic, after a change; "#" makes a row that is too
/// large. While `mends` is above zero, "~" is an error and takes one off; then it counts as 1000.
#[derive(Clone, Default)]
struct Sums {
    mends: Arc<AtomicU32>,
    /// Everything counts as 5000.
    mended: bool,
}

impl Projection for Sums {
    const NAME: &'static str = "sums";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = String;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, String>) -> Result<(), ApplyError> {
        let text = String::from_utf8(e.payload().to_vec())?;
        let before: u64 = view.get(&e.stream().into())?.map_or(Ok(0), |sum| sum.parse())?;
        let by = match text.as_str() {
            "!" | "!!" | "#" if self.mended => 5000,
            "!" | "!!" => {
                view.put("changed before failing".into(), text.clone());
                view.remove(&e.stream().into());
                if text == "!" {
                    return Err(ApplyError::new("no exclamations"));
                }
                panic!("two of {}", e.stream())
            }
            "#" => {
                view.put("large".into(), "x".repeat(2 << 20));
                return Ok(());
            }
            "~" => {
                let left =
                    self.mends.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if left.is_ok() {
                    return Err(ApplyError::new("not yet"));
                }
                1000
            }
            number => number.parse()?,
        };
        view.put(e.stream().into(), (before + by).to_string());
        Ok(())
    }
}

fn small() -> Options {
    Options::new().segment_size(MIN_SEGMENT_BYTES)
}

fn in_memory() -> Store {
    small().open_memory(&MemoryStorage::new()).unwrap()
}

fn aside() -> ProjectionOptions {
    ProjectionOptions::new().on_error(OnError::SetAside)
}

fn add(store: &Store, stream: &str, texts: &[&str]) -> Position {
    let events = texts.iter().map(|text| Event::raw("added", *text));
    store.append(stream, Expected::Any, events).unwrap().position
}

fn rows(view: &View<String, String>) -> BTreeMap<String, u64> {
    view.iter().map(Result::unwrap).map(|(stream, sum)| (stream, sum.parse().unwrap())).collect()
}

fn sums(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(stream, sum)| ((*stream).to_owned(), *sum)).collect()
}

fn positions(view: &View<String, String>) -> Vec<u64> {
    view.set_aside().unwrap().iter().map(|event| event.position.get()).collect()
}

#[test]
fn events_that_fail_are_set_aside_with_their_cause_and_the_rest_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    add(&store, "a", &["1", "!", "2"]);
    add(&store, "b", &["!!", "3", "#"]);
    let last = add(&store, "a", &["4"]);
    let view = store.project_with(Sums::default(), aside()).unwrap();
    let check = |view: &View<String, String>| {
        view.wait_for(last, FOR_EVER).unwrap();
        assert_eq!(rows(view), sums(&[("a", 7), ("b", 3)]));
        assert_eq!((view.len(), view.status().set_aside, view.status().rows), (2, 3, 2));
        let found = view.set_aside().unwrap();
        let told: Vec<_> = found.iter().map(|e| (e.position.get(), e.stream.as_str(), e.attempts)).collect();
        assert_eq!(told, [(2, "a", 1), (4, "b", 1), (6, "b", 1)]);
        for (event, cause) in found.iter().zip(["no exclamations", "two of b", "is the most it may have"]) {
            assert!(event.cause.contains(cause), "{event:?}");
            assert_eq!(event.event_type, "added");
        }
        assert!(view.verify().unwrap().is_sound(), "{:?}", view.verify());
    };
    check(&view);
    let digest = view.digest().unwrap();
    assert_eq!((digest.rows, digest.checkpoint), (5, last), "the list is told as well");
    store.close().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project_with(Sums::default(), aside()).unwrap();
    assert_eq!(view.status().rebuilt_because, None);
    check(&view);
    assert_eq!(view.digest().unwrap(), digest);
}

#[test]
fn a_list_that_is_full_stops_the_projection_until_some_are_redriven() {
    let store = in_memory();
    add(&store, "a", &["!", "1", "!", "!"]);
    let last = add(&store, "a", &["2"]);
    let view = store.project_with(Sums::default(), aside().most_set_aside(2)).unwrap();
    let error = view.wait_for(last, FOR_EVER).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(4) });
    assert!(error.to_string().contains("2 events are set aside already"), "{error}");
    assert_eq!((positions(&view), view.checkpoint().get()), (vec![1, 3], 3));
    for error in [view.redrive_all().map(drop), view.pause(), view.resume(), view.rebuild()] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Stopped { position: Position::new(4) });
    }
    let view = store.project_with(Sums::default(), aside().most_set_aside(3)).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!((positions(&view), rows(&view)), (vec![1, 3, 4], sums(&[("a", 3)])));
}

#[test]
fn an_event_that_succeeds_at_a_later_attempt_is_applied_once() {
    for (fails, retries) in [(1, 1), (3, 3), (2, 5)] {
        let store = in_memory();
        let projection = Sums { mends: Arc::new(AtomicU32::new(fails)), mended: false };
        let options = ProjectionOptions::new().retry(retries, Duration::from_millis(1));
        let view = store.project_with(projection, options).unwrap();
        add(&store, "a", &["1", "2"]);
        let last = add(&store, "a", &["~", "4"]);
        view.wait_for(last, FOR_EVER).unwrap();
        assert_eq!(rows(&view), sums(&[("a", 1007)]));
        assert!(view.set_aside().unwrap().is_empty());
    }
}

#[test]
fn after_the_last_attempt_the_event_stops_the_projection_or_is_set_aside() {
    let store = in_memory();
    let last = add(&store, "a", &["1", "~", "2"]);
    let failing = || Sums { mends: Arc::new(AtomicU32::new(3)), mended: false };
    let two = ProjectionOptions::new().retry(2, Duration::from_millis(1));
    let view = store.project_with(failing(), two.clone()).unwrap();
    assert_eq!(
        view.wait_for(last, FOR_EVER).unwrap_err().kind(),
        ErrorKind::Stopped { position: Position::new(2) }
    );
    let view = store.project_with(failing(), two.on_error(OnError::SetAside)).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(rows(&view), sums(&[("a", 3)]));
    let [event] = &view.set_aside().unwrap()[..] else { panic!("{:?}", view.set_aside()) };
    assert_eq!((event.position.get(), event.attempts), (2, 3));
}

#[test]
fn a_projection_that_waits_for_its_next_attempt_says_so_and_can_be_paused_and_closed() {
    let store = in_memory();
    let long = ProjectionOptions::new().retry(5, Duration::from_secs(3600));
    let view = store.project_with(Sums::default(), long).unwrap();
    add(&store, "a", &["1", "!"]);
    view.wait_for(Position::new(1), FOR_EVER).unwrap();
    let (position, attempts) = loop {
        if let ProjectionState::Retrying { position, attempts, .. } = view.state() {
            break (position.get(), attempts);
        }
        std::thread::yield_now();
    };
    assert_eq!((position, attempts, rows(&view)), (2, 1, sums(&[("a", 1)])));
    view.pause().unwrap();
    assert!(matches!(view.state(), ProjectionState::Paused));
    view.resume().unwrap();
    store.close().unwrap();
}

#[test]
fn redriven_events_leave_the_list_in_the_step_that_applies_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project_with(Sums::default(), aside()).unwrap();
    let last = add(&store, "a", &["1", "!", "!!", "2", "#"]);
    view.wait_for(last, FOR_EVER).unwrap();
    let gone = view.redrive(Position::new(1)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    let again = view.redrive(Position::new(2)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Stopped { position: Position::new(2) }, "{again}");
    assert_eq!(view.redrive_all().unwrap(), 0);
    let attempts: Vec<_> = view.set_aside().unwrap().iter().map(|event| event.attempts).collect();
    assert_eq!(attempts, [3, 2, 2]);
    assert!(view.verify().unwrap().is_sound());
    store.close().unwrap();

    let store = small().open(dir.path()).unwrap();
    let mended = Sums { mended: true, ..Sums::default() };
    let view = store.project_with(mended.clone(), aside()).unwrap();
    view.redrive(Position::new(3)).unwrap();
    assert_eq!((positions(&view), rows(&view)), (vec![2, 5], sums(&[("a", 5003)])));
    let last = add(&store, "b", &["7"]);
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!((view.redrive_all().unwrap(), view.redrive_all().unwrap()), (2, 0));
    assert_eq!((view.len(), rows(&view)), (2, sums(&[("a", 15_003), ("b", 7)])));
    assert!(view.verify().unwrap().is_sound(), "{:?}", view.verify());
    let digest = view.digest().unwrap();
    store.close().unwrap();

    let store = small().open(dir.path()).unwrap();
    let view = store.project_with(mended, aside()).unwrap();
    assert_eq!((view.digest().unwrap(), view.len(), view.status().set_aside), (digest, 2, 0));
    assert!(view.verify().unwrap().is_sound());
    assert_eq!(view.status().rebuilt_because, None);
}

#[test]
fn a_redriven_event_that_retention_has_removed_stays_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path()).unwrap();
    let view = store.project_with(Sums::default(), aside()).unwrap();
    add(&store, "a", &["!"]);
    for _ in 0..100 {
        add(&store, "a", &["1"]);
    }
    let last = store.watermark();
    view.wait_for(last, FOR_EVER).unwrap();
    assert!(store.retain(&Retention::new().before(last)).unwrap().segments > 0);
    assert!(matches!(view.redrive(Position::new(1)).unwrap_err().kind(), ErrorKind::Truncated { .. }));
    assert_eq!(positions(&view), [1]);
}

#[test]
fn many_failures_in_a_long_log_take_no_longer_than_the_log() {
    /// Counts how often it was called.
    struct Counted(Arc<AtomicU32>);

    impl Projection for Counted {
        const NAME: &'static str = "counted";
        const GENERATION: u32 = 1;
        type Key = u64;
        type Value = u64;

        fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<u64, u64>) -> Result<(), ApplyError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            view.put(0, e.position().get());
            match e.position().get() % 50 {
                0 => Err(ApplyError::new("each fiftieth")),
                _ => Ok(()),
            }
        }
    }
    let store = Options::new().segment_size(1 << 20).open_memory(&MemoryStorage::new()).unwrap();
    for _ in 0..10 {
        let batch = (0..1000).fold(Batch::new(), |batch, _| batch.event("s", Event::raw("t", "x")));
        store.append_batch(batch).unwrap();
    }
    let calls = Arc::new(AtomicU32::new(0));
    let view = store.project_with(Counted(calls.clone()), aside()).unwrap();
    view.wait_for(store.watermark(), FOR_EVER).unwrap();
    assert_eq!(view.set_aside().unwrap().len(), 200);
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls < 30_000, "{calls} calls for 10,000 events");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever fails, and however the log was cut into batches, the rows and the list are those of a serial fold.
    #[test]
    fn the_rows_and_the_list_are_those_of_a_serial_fold(
        batches in proptest::collection::vec(
            proptest::collection::vec(
                prop_oneof![6 => (1u64..9).prop_map(|n| n.to_string()), 1 => Just("!".into()), 1 => Just("#".into())],
                1..12,
            ),
            1..8,
        ),
        early in any::<bool>(),
    ) {
        let (store, other) = (in_memory(), in_memory());
        let view = early.then(|| store.project_with(Sums::default(), aside()).unwrap());
        let (mut expected, mut failing, mut at) = (0u64, Vec::new(), 0u64);
        for batch in &batches {
            let texts: Vec<&str> = batch.iter().map(String::as_str).collect();
            add(&store, "a", &texts);
            for text in &texts {
                at += 1;
                add(&other, "a", &[text]);
                match text.parse::<u64>() {
                    Ok(number) => expected += number,
                    Err(_) => failing.push(at),
                }
            }
        }
        let view = view.unwrap_or_else(|| store.project_with(Sums::default(), aside()).unwrap());
        let in_other = other.project_with(Sums::default(), aside()).unwrap();
        for view in [&view, &in_other] {
            view.wait_for(Position::new(at), FOR_EVER).unwrap();
            prop_assert_eq!(rows(view).get("a").copied().unwrap_or(0), expected);
            prop_assert_eq!(positions(view), failing.clone());
        }
        prop_assert_eq!(view.digest().unwrap(), in_other.digest().unwrap());
    }
}

/// Adds up numbers. "?" counts as 100, and fails the second time it is applied; "!" always fails.
#[derive(Clone, Default)]
struct FailsOnceMore(Arc<AtomicU32>);

impl Projection for FailsOnceMore {
    const NAME: &'static str = "fails-once-more";
    const GENERATION: u32 = 1;
    type Key = u8;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u8, u64>) -> Result<(), ApplyError> {
        let by = match std::str::from_utf8(event.payload())? {
            "?" if self.0.fetch_add(1, Ordering::SeqCst) == 1 => return Err(ApplyError::new("once more")),
            "?" => 100,
            number => number.parse()?,
        };
        view.merge(0, by, |sum, by| *sum += by)
    }
}

#[test]
fn no_event_is_lost_when_another_fails_only_as_it_is_applied_again() {
    let store = in_memory();
    let last = add(&store, "a", &["1", "2", "?", "!", "4"]);
    let view = store.project_with(FailsOnceMore::default(), aside()).unwrap();
    view.wait_for(last, FOR_EVER).unwrap();
    assert_eq!(view.get(&0).unwrap(), Some(107));
    assert_eq!(view.set_aside().unwrap().iter().map(|event| event.position.get()).collect::<Vec<_>>(), [4]);
}
