//! Appenders, tickets, readers and `close` in schedules that shuttle chooses: at each lock, atomic and condition variable
//! of [`crate::sync`] another thread may go on. A schedule in which nobody can go on is an error.
//!
//! `RUSTFLAGS="--cfg everfold_shuttle" cargo test --lib log::schedules`; `EVERFOLD_SCHEDULES` is how many for each test.
//! Weak memory is not simulated, nor are timeouts (a wait with a deadline waits for ever): all of it is as if
//! sequentially consistent. The bell is the one with a condition variable, not the futex.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use super::Log;
use super::ticket::{Outcome, Ticket};
use crate::batch::{Batch, Durability};
use crate::error::{AppendError, ErrorKind};
use crate::event::{Event, Position};
use crate::options::{MIN_SEGMENT_BYTES, Options};
use crate::storage::memory::{Fault, MemoryStorage};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, thread};
use crate::watermark::{TaskSlot, Waited};

fn explore(test: fn()) {
    let asked = std::env::var("EVERFOLD_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let schedules = asked.unwrap_or(1_000);
    run(RandomScheduler::new_from_seed(0x5EED, schedules), test);
    // At most four changes of priority: finds what needs few preemptions at the right places.
    run(PctScheduler::new_from_seed(0x5EED, 4, schedules), test);
}

fn run(scheduler: impl Scheduler + 'static, test: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    let done = Runner::new(scheduler, config).run(test);
    println!("{done} schedules");
}

fn open(storage: &MemoryStorage, max_in_flight_bytes: usize) -> Arc<Log> {
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES).max_in_flight_bytes(max_in_flight_bytes);
    Arc::new(Log::open(Arc::new(storage.clone()), &options).unwrap())
}

fn batch(durability: Durability) -> Batch {
    Batch::new().event("s", Event::raw("t", "x")).durability(durability)
}

fn position(outcome: Outcome) -> u64 {
    outcome.unwrap().position.get()
}

/// What a batch of [`batch`] takes in the queue.
const FRAME: usize = 136;

/// A thread that does something with the log.
fn spawn<T: 'static + Send>(
    log: &Arc<Log>,
    act: impl FnOnce(&Log) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let log = log.clone();
    thread::spawn(move || act(&log))
}

/// Reads what must only grow.
fn watch(log: &Log, times: usize) {
    let mut last = Position::START;
    for _ in 0..times {
        let now = log.catalog.watermark.get();
        assert!(now >= last, "the watermark went back");
        last = now;
        thread::yield_now();
    }
}

/// Wakes a thread that waits for a task.
#[derive(Default)]
struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Alarm {
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !std::mem::take(&mut *rung) {
            rung = self.changed.wait(rung).unwrap();
        }
    }
}

/// Polls when woken, and at no other time.
fn await_ticket(ticket: Ticket) -> Outcome {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut ticket = pin!(ticket);
    loop {
        match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => alarm.wait(),
        }
    }
}

/// Waits as a task for a position.
fn await_position(log: &Log, target: Position) -> Waited {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut slot = TaskSlot::default();
    loop {
        match log.catalog.watermark.poll_wait(target, &mut slot, &mut Context::from_waker(&waker)) {
            Poll::Ready(waited) => return waited,
            Poll::Pending => alarm.wait(),
        }
    }
}

fn is_refused(outcome: &Outcome, kinds: &[ErrorKind]) -> bool {
    matches!(outcome, Err(AppendError::Failed(error)) if kinds.contains(&error.kind()))
}

#[test]
fn appenders_and_tickets_are_all_answered_and_what_was_answered_is_durable() {
    explore(|| {
        let log = open(&MemoryStorage::new(), 1 << 20);
        let appenders = [Durability::Durable, Durability::Durable, Durability::Written].map(|durability| {
            spawn(&log, move |log| {
                [(); 2].map(|()| {
                    let position = position(log.append(&batch(durability)));
                    let seen = log.catalog.watermark.get().get();
                    assert!(durability < Durability::Durable || seen >= position, "{seen} {position}");
                    position
                })
            })
        });
        let submitter = spawn(&log, |log| {
            let tickets = [(); 2].map(|()| log.submit(&batch(Durability::Durable)).unwrap());
            tickets.map(|ticket| position(ticket.wait()))
        });
        let task = spawn(&log, |log| {
            let ticket = log.submit(&batch(Durability::Durable)).unwrap();
            [position(await_ticket(ticket))]
        });
        let reader = spawn(&log, |log| watch(log, 5));
        let mut positions: Vec<u64> =
            appenders.into_iter().flat_map(|appender| appender.join().unwrap()).collect();
        for own in [submitter.join().unwrap().to_vec(), task.join().unwrap().to_vec()] {
            assert!(own.is_sorted(), "what one thread submits goes in order");
            positions.extend(own);
        }
        reader.join().unwrap();
        positions.sort_unstable();
        assert_eq!(positions, (1..=9).collect::<Vec<_>>());
        log.close().unwrap();
    });
}

#[test]
fn closing_answers_everybody_and_nobody_waits_for_ever() {
    explore(|| {
        let storage = MemoryStorage::new();
        let log = open(&storage, 1 << 20);
        let appenders = [Durability::Durable, Durability::Deferred]
            .map(|durability| spawn(&log, move |log| log.append(&batch(durability))));
        let submitter = spawn(&log, |log| {
            [(); 2].map(|()| match log.submit(&batch(Durability::Durable)) {
                Ok(ticket) => ticket.wait(),
                Err(error) => Err(error),
            })
        });
        let waiter = spawn(&log, |log| log.catalog.watermark.wait(Position::new(100), None));
        let task = spawn(&log, |log| await_position(log, Position::new(100)));
        let closer = spawn(&log, |log| log.close());
        let mut outcomes: Vec<Outcome> = appenders.into_iter().map(|a| a.join().unwrap()).collect();
        outcomes.extend(submitter.join().unwrap());
        closer.join().unwrap().unwrap();
        assert_eq!([waiter.join().unwrap(), task.join().unwrap()], [Waited::Ended; 2]);
        let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let refused = outcomes.iter().filter(|outcome| is_refused(outcome, &[ErrorKind::Closed])).count();
        assert_eq!(done + refused, 4, "{outcomes:?}");
        assert_eq!(log.catalog.watermark.get().get(), u64::try_from(done).unwrap());
        let again = open(&storage, 1 << 20);
        assert!(again.report.clean, "{}", again.report);
        again.close().unwrap();
    });
}

#[test]
fn whoever_waits_for_a_position_is_woken_when_it_is_reached() {
    explore(|| {
        let log = open(&MemoryStorage::new(), 1 << 20);
        let waiter = spawn(&log, |log| log.catalog.watermark.wait(Position::new(2), None));
        let task = spawn(&log, |log| await_position(log, Position::new(3)));
        let appenders = [(); 2].map(|()| {
            spawn(&log, |log| {
                position(log.append(&batch(Durability::Durable)));
                position(log.append(&batch(Durability::Durable)));
            })
        });
        let reached = |waited: Waited, at_least: u64| {
            assert!(matches!(waited, Waited::Reached(position) if position.get() >= at_least), "{waited:?}");
        };
        reached(waiter.join().unwrap(), 2);
        reached(task.join().unwrap(), 3);
        appenders.into_iter().for_each(|appender| appender.join().unwrap());
        log.close().unwrap();
    });
}

#[test]
fn whoever_finds_no_room_is_let_in_in_time_or_told_that_the_log_closes() {
    explore(|| {
        let log = open(&MemoryStorage::new(), 2 * FRAME);
        let submitters = [(); 3].map(|()| {
            spawn(&log, |log| {
                let tickets = [(); 2].map(|()| log.submit(&batch(Durability::Durable)));
                tickets.map(|ticket| ticket.and_then(Ticket::wait).is_ok())
            })
        });
        let large = spawn(&log, |log| {
            let events = (0..4).fold(Batch::new(), |batch, _| batch.event("s", Event::raw("t", "x")));
            log.append(&events).is_ok()
        });
        let closer = shuttle::rand::Rng::r#gen::<bool>(&mut shuttle::rand::thread_rng())
            .then(|| spawn(&log, |log| log.close().unwrap()));
        let closing = closer.is_some();
        let done = submitters.map(|submitter| submitter.join().unwrap());
        assert!(large.join().unwrap() || closing);
        assert!(closing || done.iter().flatten().all(|done| *done));
        closer.into_iter().for_each(|closer| closer.join().unwrap());
        log.close().unwrap();
    });
}

#[test]
fn a_sync_reaches_what_was_submitted_before_it() {
    explore(|| {
        let log = open(&MemoryStorage::new(), 1 << 20);
        let submitted = Arc::new(AtomicU64::new(0));
        let counted = submitted.clone();
        let submitter = spawn(&log, move |log| {
            [(); 3].map(|()| {
                let ticket = log.submit(&batch(Durability::Deferred)).unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                ticket
            })
        });
        let syncs = [(); 2].map(|()| {
            let submitted = submitted.clone();
            spawn(&log, move |log| {
                let before = submitted.load(Ordering::SeqCst);
                assert!(log.sync().unwrap().get() >= before, "submitted before, and not durable");
            })
        });
        syncs.into_iter().for_each(|sync| sync.join().unwrap());
        let positions = submitter.join().unwrap().map(|ticket| position(ticket.wait()));
        assert_eq!(positions, [1, 2, 3]);
        log.close().unwrap();
    });
}

#[test]
fn a_failed_write_or_sync_is_told_to_everybody() {
    explore(|| {
        let storage = MemoryStorage::new();
        let log = open(&storage, 1 << 20);
        let operations = 1 + shuttle::rand::Rng::gen_range(&mut shuttle::rand::thread_rng(), 0..6);
        storage.fail_at(storage.operations() + operations, Fault::once(std::io::ErrorKind::Other));
        let waiter = spawn(&log, |log| log.catalog.watermark.wait(Position::new(100), None));
        let appenders = [(); 2].map(|()| spawn(&log, |log| log.append(&batch(Durability::Durable))));
        let submitter = spawn(&log, |log| {
            [(); 2].map(|()| log.submit(&batch(Durability::Durable)).and_then(Ticket::wait))
        });
        let mut outcomes: Vec<Outcome> = appenders.into_iter().map(|a| a.join().unwrap()).collect();
        outcomes.extend(submitter.join().unwrap());
        let durable = log.catalog.watermark.get();
        for outcome in outcomes {
            match &outcome {
                Ok(appended) => assert!(appended.position <= durable, "answered, and not durable"),
                Err(_) => {
                    let told = is_refused(&outcome, &[ErrorKind::Indeterminate, ErrorKind::Poisoned]);
                    assert!(told, "{outcome:?}");
                }
            }
        }
        let _poisoned_or_not = log.close();
        assert_eq!(waiter.join().unwrap(), Waited::Ended);
    });
}
