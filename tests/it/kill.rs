//! A process that appends and projects, killed without warning again and again over the same directory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use everfold::{
    ApplyError, Batch, Durability, Event, Options, Position, Projection, RecordedEvent, Store, Uuid,
    ViewBatch,
};

const KILLS: u32 = 200;
const THREADS: u32 = 4;
/// Set in the child: the directory of its store, and which life it is.
const CHILD: (&str, &str) = ("EVERFOLD_TEST_KILL_DIR", "EVERFOLD_TEST_KILL_ROUND");

/// What an event says: who appended it in which life, its number there, and an amount to sum up.
type Did = (u32, u32, u64);

/// How many events each stream has.
struct CountByStream;

impl Projection for CountByStream {
    const NAME: &'static str = "count-by-stream";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        view.update(event.stream().to_owned(), |count| Some(count.unwrap_or(0) + 1))
    }
}

/// The sum of the numbers of all events with a tag.
struct SumByTag;

impl Projection for SumByTag {
    const NAME: &'static str = "sum-by-tag";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
        let (_, _, n): Did = event.decode()?;
        event.tags().try_for_each(|tag| view.update(tag.to_owned(), |sum| Some(sum.unwrap_or(0) + n)))
    }
}

fn options() -> Options {
    Options::new().segment_size(16 << 10).view_cache_bytes(1 << 20).sync_after(Duration::from_millis(1))
}

/// The life of the child. Without the variables, this is not the child: nothing to do.
#[test]
fn child_entry() {
    let Some(dir) = std::env::var_os(CHILD.0) else { return };
    let round: u32 = std::env::var(CHILD.1).unwrap().parse().unwrap();
    let store = options().open(Path::new(&dir)).unwrap();
    let _views = (store.project(CountByStream).unwrap(), store.project(SumByTag).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || append_for_ever(store, round, thread));
        }
    });
}

/// Appends, and says so once it is acknowledged. What was `Written` survives the end of the process, too.
fn append_for_ever(store: &Store, round: u32, thread: u32) {
    for n in 0.. {
        let event = |n: u64| {
            let event = Event::json("did", &(round, thread, n)).unwrap().metadata(vec![b'm'; 60]);
            event.tag(format!("tag-{}", n % 3)).tag(format!("thread-{thread}"))
        };
        let durability = match n % 8 {
            6 => Durability::Deferred,
            7 => Durability::Written,
            _ => Durability::Durable,
        };
        let batch = Batch::new().event(format!("stream-{}", n % 5), event(2 * n)).durability(durability);
        let done = store.append_batch(batch.event(format!("own-{thread}"), event(2 * n + 1))).unwrap();
        if durability != Durability::Deferred {
            let line = format!("ack {} {thread} {}\n", done.first, 2 * n);
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
    }
}

fn start_child(dir: &Path, round: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_entry", "--nocapture"])
        .env(CHILD.0, dir)
        .env(CHILD.1, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts a child, kills it after so many acknowledgements, and returns all that it managed to give: positions of
/// batches and what their first events say.
fn kill_after(acknowledgements: usize, dir: &Path, round: u32) -> Vec<(u64, Did)> {
    let mut child = start_child(dir, round);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while text.matches("ack ").count() < acknowledgements {
        assert!(output.read_line(&mut text).unwrap() > 0, "the child ended by itself: {text}");
    }
    child.kill().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success());
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let acknowledged = whole.lines().filter_map(|line| line.strip_prefix("ack ")).map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().unwrap());
        let [position, thread, n] = [(); 3].map(|()| numbers.next().unwrap());
        (position, (round, u32::try_from(thread).unwrap(), n))
    });
    acknowledged.collect()
}

fn log(store: &Store) -> Vec<(Did, RecordedEvent)> {
    let events: Vec<_> = store.read(Position::START).map(|e| e.unwrap()).collect();
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event.position().get(), position);
    }
    events.into_iter().map(|event| (event.decode().unwrap(), event)).collect()
}

/// Checks that both views are what a fold of the log gives.
fn check_views(store: &Store, log: &[(Did, RecordedEvent)]) {
    let (mut counts, mut sums) = (BTreeMap::new(), BTreeMap::new());
    for ((_, _, n), event) in log {
        *counts.entry(event.stream().to_owned()).or_insert(0) += 1;
        event.tags().for_each(|tag| *sums.entry(tag.to_owned()).or_insert(0) += n);
    }
    let (count_view, sum_view) = (store.project(CountByStream).unwrap(), store.project(SumByTag).unwrap());
    for (view, expected) in [(count_view, counts), (sum_view, sums)] {
        view.wait_for(store.watermark(), Duration::from_secs(60)).unwrap();
        let rows: BTreeMap<String, u64> = view.iter().map(|row| row.unwrap()).collect();
        assert_eq!(rows, expected, "{:?}", view.status());
    }
}

#[test]
fn a_store_killed_two_hundred_times_loses_nothing_acknowledged_and_its_views_equal_a_fold_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(u64, Did)> = Vec::new();
    let mut torn = 0;
    for round in 0..KILLS {
        let some = 1 + Uuid::new_v4().as_bytes()[0] % 16;
        acknowledged.extend(kill_after(usize::from(some), dir.path(), round));
        // Three times in four the next child finds the store as it was left, and has to recover it itself.
        let read_only = round % 4 != 3;
        let store = options().read_only(read_only).create(false).open(dir.path()).unwrap();
        torn += u32::from(store.recovery().removed.is_some());
        let log = log(&store);
        assert_eq!(log.len() % 2, 0, "batches of two are there whole");
        for (position, did) in &acknowledged {
            let found =
                usize::try_from(*position - 1).ok().and_then(|at| log.get(at)).map(|(found, _)| found);
            assert_eq!(found, Some(did), "round {round}: position {position} was acknowledged");
        }
        if !read_only {
            check_views(&store, &log);
            store.close().unwrap();
        }
    }
    let events = log(&options().read_only(true).open(dir.path()).unwrap()).len();
    println!("{KILLS} kills, {} batches acknowledged, {events} events, {torn} torn", acknowledged.len());
}

/// Set in a child that dies while it makes a view: the directory of its store.
const DIES_MAKING_A_VIEW: &str = "EVERFOLD_TEST_VIEW_DIR";

#[test]
fn child_that_dies_making_a_view() {
    let Some(dir) = std::env::var_os(DIES_MAKING_A_VIEW) else { return };
    let folder = Path::new(&dir).join("views/count-by-stream/1");
    std::thread::spawn(move || {
        while !folder.exists() {
            std::hint::spin_loop();
        }
        std::process::exit(9);
    });
    let store = options().open(Path::new(&dir)).unwrap();
    let view = store.project(CountByStream).unwrap();
    view.wait_for(Position::END, Duration::MAX).unwrap();
}

#[test]
fn a_view_that_was_being_made_at_a_kill_is_not_taken_for_damaged() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let died = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_dies_making_a_view"])
            .env(DIES_MAKING_A_VIEW, dir.path())
            .stdout(Stdio::null())
            .status();
        assert_eq!(died.unwrap().code(), Some(9));
        let store = options().create(false).open(dir.path()).unwrap();
        let view = store.project(CountByStream).unwrap();
        store.append("s", everfold::Expected::Any, [Event::raw("t", "x")]).unwrap();
        view.wait_for(store.watermark(), Duration::from_secs(60)).unwrap();
        assert_eq!(view.status().rebuilt_because, None);
    }
}
