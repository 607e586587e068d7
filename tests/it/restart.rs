//! A projection that stopped, started again in the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everfold::{
    ApplyError, ErrorKind, Event, Expected, MemoryStorage, Options, Position, Projection, ProjectionState,
    RecordedEvent, Store, ViewBatch,
};

const LONG: Duration = Duration::from_secs(60);

/// Counts, and fails while the switch is on: what it depends on is away for a time.
struct Moody {
    fails: Arc<AtomicBool>,
}

impl Projection for Moody {
    const NAME: &'static str = "moody";
    const GENERATION: u32 = 1;
    type Key = u8;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u8, u64>) -> Result<(), ApplyError> {
        if event.event_type() == "hard" && self.fails.load(Ordering::Relaxed) {
            return Err(ApplyError::new("not now"));
        }
        view.update(0, |count| Some(count.unwrap_or(0) + 1))
    }
}

fn starts_again(store: &Store) {
    let fails = Arc::new(AtomicBool::new(true));
    let moody = || Moody { fails: fails.clone() };
    let view = store.project(moody()).unwrap();
    store.append("s", Expected::Any, [Event::raw("easy", []), Event::raw("easy", [])]).unwrap();
    let last =
        store.append("s", Expected::Any, [Event::raw("hard", []), Event::raw("easy", [])]).unwrap().position;
    let error = view.wait_for(last, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped { position: Position::new(3) });
    assert_eq!(view.get(&0).unwrap(), Some(2), "a stopped view is still read");

    let still = store.project(moody()).unwrap();
    assert_eq!(still.wait_for(last, LONG).unwrap_err().kind(), error.kind(), "the cause is still there");
    fails.store(false, Ordering::Relaxed);
    let mended = store.project(moody()).unwrap();
    mended.wait_for(last, LONG).unwrap();
    assert_eq!((mended.get(&0).unwrap(), mended.checkpoint()), (Some(4), last), "each event counts once");
    assert!(
        matches!(view.state(), ProjectionState::Stopped { .. }),
        "the handle from before stays as it was"
    );
    assert_eq!(store.views().len(), 1);
}

#[test]
fn a_stopped_projection_goes_on_when_it_is_registered_again() {
    starts_again(&Options::new().open_memory(&MemoryStorage::new()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    starts_again(&store);
    store.close().unwrap();
}

#[test]
fn a_subscription_to_a_store_opened_read_only_ends_when_it_has_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.append("s", Expected::Any, [Event::raw("t", []), Event::raw("t", [])]).unwrap();
    let read_only = Options::new().read_only(true).open(dir.path()).unwrap();
    assert_eq!(read_only.subscribe(Position::START).map(Result::unwrap).count(), 2);
    assert_eq!(read_only.subscribe_stream("s", everfold::Version::new(1)).map(Result::unwrap).count(), 1);
}

#[test]
fn a_projection_that_closes_its_own_store_does_not_wait_for_itself() {
    struct Closes(Mutex<Option<(Store, Sender<bool>)>>);
    impl Projection for Closes {
        const NAME: &'static str = "closes";
        const GENERATION: u32 = 1;
        type Key = u8;
        type Value = u64;

        fn apply(&self, _: &RecordedEvent, _: &mut ViewBatch<u8, u64>) -> Result<(), ApplyError> {
            if let Some((store, done)) = self.0.lock().unwrap().take() {
                done.send(store.close().is_ok())?;
            }
            Ok(())
        }
    }
    let store = Options::new().open_memory(&MemoryStorage::new()).unwrap();
    let (sender, closed) = channel();
    let view = store.project(Closes(Mutex::new(Some((store.clone(), sender))))).unwrap();
    store.append("s", Expected::Any, [Event::raw("t", [])]).unwrap();
    assert_eq!(closed.recv_timeout(LONG), Ok(true), "closing came to an end");
    let error = store.append("s", Expected::Any, [Event::raw("t", [])]).unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    assert_eq!(view.get(&0).unwrap_err().kind(), ErrorKind::Closed);
}
