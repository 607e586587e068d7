//! Locks, atomics and threads of what waits for commits and positions: those of the standard library, or, compiled with
//! `--cfg everfold_shuttle`, those of shuttle, which runs threads in schedules of its own choice (`log/schedules.rs`).

#[cfg(not(everfold_shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};

#[cfg(everfold_shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};
