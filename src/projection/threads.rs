//! Work that several threads share.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

/// No more threads share work.
pub(crate) const MOST: usize = 64;

/// As many threads as the machine runs at once. To ask it reads files, so it is asked once.
pub(crate) fn all() -> usize {
    static ALL: OnceLock<usize> = OnceLock::new();
    *ALL.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get).min(MOST))
}

/// Does the same with each of some things, on so many threads. The results are in the order of the things.
pub(crate) fn each<T: Send, R: Send>(threads: usize, things: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let count = things.len();
    let things: Vec<_> = things.into_iter().map(|thing| Mutex::new((Some(thing), None))).collect();
    let next = AtomicUsize::new(0);
    on_threads(threads.min(count), || {
        while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut thing = thing.lock().unwrap_or_else(PoisonError::into_inner);
            thing.1 = thing.0.take().map(&work);
        }
    });
    things
        .into_iter()
        .filter_map(|thing| thing.into_inner().unwrap_or_else(PoisonError::into_inner).1)
        .collect()
}

/// Does the work on so many threads, of which this is one. Where no more can be started, there are fewer.
pub(crate) fn on_threads(count: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..count {
            let started = thread::Builder::new().name("everfold-fold".into()).spawn_scoped(scope, &work);
            if let Err(error) = started {
                tracing::warn!(%error, "a thread to share the work with could not be started");
                break;
            }
        }
        work();
    });
}
