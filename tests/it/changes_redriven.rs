//! What followers are told when rows change otherwise than by one event after the other: events that are redriven, and
//! rows that take the place of others.

use std::collections::BTreeMap;
use std::fs;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use everfold::{
    ApplyError, Batch, Changes, ErrorKind, Event, Expected, MemoryStorage, OnError, Options, Position,
    Projection, ProjectionOptions, RecordedEvent, Retention, Store, View, ViewBatch,
};
use futures_core::Stream as _;

use crate::block_on::block_on;
use crate::life::{self, Counts, Gate, LONG};
use crate::purchases;

/// What was written to each stream, one text after the other. A text in capitals fails until it is mended.
#[derive(Clone, Default)]
struct Texts {
    mended: Arc<AtomicBool>,
}

impl Projection for Texts {
    const NAME: &'static str = "texts";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = String;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, String>) -> Result<(), ApplyError> {
        let text = String::from_utf8_lossy(e.payload()).into_owned();
        let fails = text.chars().all(char::is_uppercase) && !self.mended.load(Ordering::SeqCst);
        view.update(e.stream().to_owned(), |texts| Some(texts.unwrap_or_default() + &text))?;
        if fails { Err(ApplyError::new("it fails")) } else { Ok(()) }
    }
}

impl Texts {
    fn project(&self, store: &Store) -> View<String, String> {
        let aside = ProjectionOptions::new().on_error(OnError::SetAside);
        store.project_with(self.clone(), aside).unwrap()
    }

    fn mend(&self, mended: bool) {
        self.mended.store(mended, Ordering::SeqCst);
    }
}

/// One text an event, to the stream of the lower-case letter.
fn write(store: &Store, view: &View<String, String>, texts: &str) {
    for text in texts.chars() {
        let stream = text.to_lowercase().to_string();
        store.append(&stream, Expected::Any, [Event::raw("written", text.to_string())]).unwrap();
    }
    view.wait_for(store.watermark(), LONG).unwrap();
}

/// The next changes, as `position: old -> new`.
fn told(changes: &mut Changes<String, String>, count: usize) -> Vec<String> {
    let next = |_| changes.next_timeout(LONG).unwrap().unwrap();
    (0..count).map(next).map(|change| plain(&change)).collect()
}

fn plain(change: &everfold::Change<String, String>) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}: {} -> {}", change.position, text(&change.old), text(&change.new))
}

fn no_more(changes: &mut Changes<String, String>) {
    let more = changes.next_timeout(std::time::Duration::from_millis(20));
    assert!(more.is_none(), "{more:?}");
}

/// Writes `aAbAa`, of which two are set aside, and redrives the first of them after all.
fn redriven(store: &Store, texts: &Texts) -> View<String, String> {
    let view = texts.project(store);
    write(store, &view, "aAbAa");
    texts.mend(true);
    view.redrive(Position::new(2)).unwrap();
    view
}

#[test]
fn followers_are_told_what_a_redriven_event_changes_when_it_does() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "a");
    let (_, mut live) = view.follow().unwrap();
    write(&store, &view, "AbAa");
    assert_eq!(told(&mut live, 2), ["3:  -> b", "5: a -> aa"]);

    texts.mend(true);
    view.redrive(Position::new(2)).unwrap();
    assert_eq!(told(&mut live, 1), ["2: aa -> aaA"]);
    assert_eq!(live.checkpoint(), Position::new(5));
    write(&store, &view, "b");
    assert_eq!(view.redrive_all().unwrap(), 1);
    write(&store, &view, "a");
    assert_eq!(told(&mut live, 3), ["6: b -> bb", "4: aaA -> aaAA", "7: aaAA -> aaAAa"]);
    no_more(&mut live);
}

#[test]
fn a_redrive_wakes_whoever_waits() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "aA");
    texts.mend(true);
    let mut blocking = view.follow().unwrap().1;
    let stream = view.follow().unwrap().1.into_stream();
    let (told, changes) = mpsc::channel();
    let by_task = told.clone();
    std::thread::spawn(move || {
        let mut stream = pin!(stream);
        by_task.send(block_on(poll_fn(|cx| stream.as_mut().poll_next(cx)))).unwrap();
    });
    std::thread::spawn(move || told.send(blocking.next()).unwrap());
    // Both sleep by now, if they are ever to.
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(view.redrive_all().unwrap(), 1);
    for _ in 0..2 {
        let change = changes.recv_timeout(LONG).unwrap().unwrap().unwrap();
        assert_eq!(plain(&change), "2: a -> aA");
    }
}

#[test]
fn a_redrive_that_fails_again_tells_nothing_and_loses_nothing() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "aA");
    view.redrive(Position::new(2)).unwrap_err();
    let (_, mut live) = view.follow().unwrap();
    assert_eq!(view.redrive_all().unwrap(), 0);
    no_more(&mut live);
    write(&store, &view, "a");
    assert_eq!(told(&mut live, 1), ["3: a -> aa"]);
    no_more(&mut live);
}

#[test]
fn a_fold_of_the_log_tells_what_was_redriven_when_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let texts = Texts::default();
    let all = ["1:  -> a", "3:  -> b", "5: a -> aa", "2: aa -> aaA", "6: b -> bb", "7: aaA -> aaAa"];
    {
        let store = Options::new().open(dir.path()).unwrap();
        let view = redriven(&store, &texts);
        texts.mend(false);
        write(&store, &view, "ba");
        texts.mend(true);
        assert_eq!(told(&mut view.changes(Position::START), 6), all);
        store.close().unwrap();
    }
    let store = Options::new().open(dir.path()).unwrap();
    let view = texts.project(&store);
    view.wait_for(store.watermark(), LONG).unwrap();
    // The fourth event, which is set aside still, could be applied now, and is not: the view has not applied it.
    for (after, skipped) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 5)] {
        let mut changes = view.changes(Position::new(after));
        let expected = all.get(skipped..).unwrap();
        assert_eq!(told(&mut changes, expected.len()), expected, "after {after}");
        no_more(&mut changes);
    }
    let mut live = view.changes(Position::new(7));
    assert_eq!(view.redrive_all().unwrap(), 1);
    assert_eq!(told(&mut live, 1), ["4: aaAa -> aaAaA"]);
}

#[test]
fn an_event_that_is_redriven_while_the_log_is_folded_is_told_once() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "aAbAa");
    // It has nothing to begin with, so it folds, and is in the middle of that.
    let mut folding = view.changes(Position::START);
    assert_eq!(told(&mut folding, 1), ["1:  -> a"]);
    texts.mend(true);
    assert_eq!(view.redrive_all().unwrap(), 2);
    write(&store, &view, "b");
    let rest = ["3:  -> b", "5: a -> aa", "2: aa -> aaA", "4: aaA -> aaAA", "6: b -> bb"];
    assert_eq!(told(&mut folding, 5), rest);
    no_more(&mut folding);
}

#[test]
fn an_event_that_the_view_has_applied_and_a_fold_of_the_log_cannot_is_an_error() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = redriven(&store, &texts);
    texts.mend(false);
    let mut changes = view.changes(Position::START);
    assert_eq!(told(&mut changes, 3), ["1:  -> a", "3:  -> b", "5: a -> aa"]);
    let error = changes.next_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(2) });
    assert!(error.to_string().contains("though the view has applied it"), "{error}");
    assert!(changes.next().is_none());
}

#[test]
fn a_rebuild_that_comes_to_the_same_rows_is_not_told_and_one_that_comes_to_others_is_an_error() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "aAba");
    let (_, mut live) = view.follow().unwrap();
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    write(&store, &view, "b");
    assert_eq!(told(&mut live, 1), ["5: b -> bb"]);

    texts.mend(true);
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    let error = live.next_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Replaced);
    assert!(error.to_string().contains("`follow`"), "{error}");
    let (snapshot, mut live) = view.follow().unwrap();
    let rows: BTreeMap<_, _> = snapshot.iter().map(Result::unwrap).collect();
    assert_eq!(rows, BTreeMap::from([("a".into(), "aAa".into()), ("b".into(), "bb".into())]));
    write(&store, &view, "A");
    assert_eq!(told(&mut live, 1), ["6: aAa -> aAaA"]);
}

#[test]
fn who_follows_an_earlier_generation_is_told_when_its_successor_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let last = {
        let store = Options::new().open(dir.path()).unwrap();
        let view = store.project(Counts::<1>(None)).unwrap();
        let last = life::append(&store, 20);
        view.wait_for(last, LONG).unwrap();
        store.close().unwrap();
        last
    };
    let store = Options::new().open(dir.path()).unwrap();
    let gate = Arc::new(Gate::default());
    let view = store.project(Counts::<2, true>(Some(gate.clone()))).unwrap();
    let (snapshot, mut live) = view.follow().unwrap();
    let mut resumed = view.changes(Position::new(5));
    assert_eq!((snapshot.checkpoint(), view.status().serves), (last, 1));
    for changes in [&mut live, &mut resumed] {
        assert!(changes.next_timeout(std::time::Duration::from_millis(20)).is_none(), "nothing changes");
    }
    gate.open_to(u64::MAX);
    for changes in [&mut live, &mut resumed] {
        assert_eq!(changes.next_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Replaced);
    }
    let (snapshot, _) = view.follow().unwrap();
    assert_eq!(snapshot.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), life::fold(&store, last, 2));
}

#[test]
fn what_is_redriven_before_the_view_has_come_to_a_position_is_given_to_who_goes_on_after_it() {
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "aAb");
    view.pause().unwrap();
    for text in ["a", "b", "a"] {
        store.append(text, Expected::Any, [Event::raw("written", text)]).unwrap();
    }
    let mut changes = view.changes(Position::new(5));
    texts.mend(true);
    assert_eq!(view.redrive_all().unwrap(), 1);
    assert_eq!(told(&mut changes, 1), ["2: a -> aA"]);
    assert_eq!(changes.checkpoint(), Position::new(5), "that of who began there");
    view.resume().unwrap();
    assert_eq!(told(&mut changes, 1), ["6: aAa -> aAaa"], "the fourth and fifth are not after the fifth");
    no_more(&mut changes);
}

#[test]
fn who_was_told_of_a_redrive_finds_it_after_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let store = Options::new().open(home.path()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    let (_, mut live) = view.follow().unwrap();
    write(&store, &view, "aAAa");
    texts.mend(true);
    view.redrive(Position::new(3)).unwrap();
    assert_eq!(told(&mut live, 3), ["1:  -> a", "4: a -> aa", "3: aa -> aaA"]);

    let left = purchases::image(home.path());
    let after = Options::new().open(left.path()).unwrap();
    let view = texts.project(&after);
    view.wait_for(after.watermark(), LONG).unwrap();
    let aside: Vec<_> = view.set_aside().unwrap().iter().map(|event| event.position.get()).collect();
    assert_eq!((aside, view.get(&"a".into()).unwrap()), (vec![2], Some("aaA".into())));
}

#[test]
fn what_was_set_aside_before_anybody_followed_is_so_after_a_crash_for_who_began_to() {
    let home = tempfile::tempdir().unwrap();
    let store = Options::new().open(home.path()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    write(&store, &view, "aA");
    let (_, mut live) = view.follow().unwrap();
    write(&store, &view, "a");
    assert_eq!(told(&mut live, 1), ["3: a -> aa"]);

    let left = purchases::image(home.path());
    texts.mend(true);
    let after = Options::new().open(left.path()).unwrap();
    let view = texts.project(&after);
    view.wait_for(after.watermark(), LONG).unwrap();
    assert_eq!(view.get(&"a".into()).unwrap(), Some("aa".into()));
    assert_eq!(view.set_aside().unwrap().len(), 1);
}

/// A view on disk whose rows are damaged while it is followed, and made anew: by a projection that is mended or not.
fn made_anew(mended: bool) -> Option<ErrorKind> {
    let home = tempfile::tempdir().unwrap();
    let options = Options::new().view_cache_bytes(1 << 20).view_memory_bytes(16 << 10);
    let store = options.open(home.path()).unwrap();
    let texts = Texts::default();
    let view = texts.project(&store);
    for n in 0..16 {
        let event = |m: u32| Event::raw("written", format!("{n}-{m} ").repeat(1000));
        let batch = (0..100).fold(Batch::new(), |batch, m| batch.event(format!("stream-{n}-{m}"), event(m)));
        store.append_batch(batch).unwrap();
    }
    write(&store, &view, "aA");
    let (_, mut live) = view.follow().unwrap();
    view.sync().unwrap();
    let db = home.path().join("views/texts/1/db");
    let noise: Vec<u8> = (0..fs::metadata(&db).unwrap().len())
        .map(|at| (at.wrapping_mul(167) >> 3).to_le_bytes()[0])
        .collect();
    fs::write(&db, noise).unwrap();
    texts.mend(mended);
    assert!(view.iter().any(|row| row.is_err()), "rows are read from the file");
    life::until("the view is made anew", || view.status().rebuilt_because.is_some());
    write(&store, &view, "b");
    let next = live.next_timeout(LONG).unwrap();
    next.map(|change| assert_eq!(plain(&change), "1603:  -> b")).err().map(|error| error.kind())
}

#[test]
fn who_follows_a_view_that_is_made_anew_goes_on_if_it_comes_to_the_same_and_else_is_told() {
    assert_eq!(made_anew(false), None);
    assert_eq!(made_anew(true), Some(ErrorKind::Replaced));
}

#[test]
fn a_rebuild_of_what_retention_has_left_is_of_other_rows() {
    let store = life::small().open_memory(&MemoryStorage::new()).unwrap();
    let view = store.project(FromWhatIsLeft).unwrap();
    let last = life::append(&store, 2000);
    view.wait_for(last, LONG).unwrap();
    let (_, mut live) = view.follow().unwrap();
    assert!(store.retain(&Retention::new().before(last).without_view("left")).unwrap().segments > 0);
    view.rebuild().unwrap();
    view.wait_built(LONG).unwrap();
    assert_eq!(live.next_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Replaced);
}

/// Counts the events of each stream, of those that are left.
struct FromWhatIsLeft;

impl Projection for FromWhatIsLeft {
    const NAME: &'static str = "left";
    const GENERATION: u32 = 1;
    const FROM_LOG_START: bool = true;
    type Key = String;
    type Value = u64;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        view.update(e.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    }
}
