//! Following the changes of a view from a task: `cargo run --example follow`. Ends by itself.
//!
//! The task needs no runtime of a particular kind: what it waits for wakes it through the waker it was polled with.

use std::future::{self, Future};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::{error::Error, process};

use everfold::{
    ApplyError, ChangeStream, Event, Expected, Position, Projection, RecordedEvent, Store, View, ViewBatch,
};
use futures_core::Stream;

/// How many of each item are in stock.
struct Stock;

impl Projection for Stock {
    const NAME: &'static str = "stock";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = i64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, i64>) -> Result<(), ApplyError> {
        let by: i64 = event.decode()?;
        // An item that is sold out has no row.
        view.update(event.stream().to_owned(), |stock| {
            Some(stock.unwrap_or(0) + by).filter(|left| *left != 0)
        })
    }
}

/// What the warehouse reports while the task follows.
const REPORTS: [(&str, i64); 6] =
    [("hats", 5), ("pants", 3), ("hats", -2), ("socks", 8), ("pants", -3), ("hats", -3)];

/// Tells what becomes of the rows until an event of the log has been applied.
async fn follow(stock: View<String, i64>, after: Position, until: Position) -> Result<u32, everfold::Error> {
    let mut changes = stock.changes(after).into_stream();
    let mut told = 0;
    while let Some(change) = next(&mut changes).await {
        let change = change?;
        match (change.old, change.new) {
            (None, Some(new)) => println!("{}: {} came in, {new} of them", change.position, change.key),
            (Some(old), Some(new)) => {
                println!("{}: {} went from {old} to {new}", change.position, change.key)
            }
            (_, None) => println!("{}: {} are sold out", change.position, change.key),
        }
        told += 1;
        if change.position >= until {
            break;
        }
    }
    Ok(told)
}

/// The next item of a stream. Every library for tasks has this; none is needed here.
async fn next(
    changes: &mut ChangeStream<String, i64>,
) -> Option<Result<everfold::Change<String, i64>, everfold::Error>> {
    future::poll_fn(|context| Pin::new(&mut *changes).poll_next(context)).await
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a task on this thread, which sleeps while the task waits.
fn block_on<F: Future>(task: F) -> F::Output {
    let mut task = pin!(task);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match task.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn report(store: &Store) -> Result<(), Box<dyn Error>> {
    for (item, by) in REPORTS {
        store.append(item, Expected::Any, [Event::json("counted", &by)?])?;
    }
    Ok(())
}

fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(path)?;
    let stock = store.project(Stock)?;
    let start = store.watermark();
    let warehouse = {
        let store = store.clone();
        thread::spawn(move || {
            let reported = report(&store).map_err(|error| error.to_string());
            // Nothing more will come: who follows is told by the end of the stream.
            if reported.is_err() {
                drop(store.close());
            }
            reported
        })
    };
    let last = Position::new(start.get() + u64::try_from(REPORTS.len())?);
    let told = block_on(follow(stock, start, last))?;
    warehouse.join().map_err(|_| "the warehouse burnt down")??;
    println!("{told} changes");
    store.close()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("everfold-follow-{}", process::id()));
    let done = run(&path);
    std::fs::remove_dir_all(&path)?;
    done
}
