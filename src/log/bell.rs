//! Wakes all threads that wait for a group of appends, with one call of the system.
//!
//! A thread that waits looks for its answer itself: the bell says only that there is something new. It is rung after
//! the answers are given. A waiter counts itself among the sleepers before it looks for the last time, and the ringer
//! changes the count of rings before it looks for sleepers, so one of the two sees the other.

use crate::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicU32,
    sleepers: AtomicU32,
    system: system::Sleep,
}

impl Bell {
    /// Sleeps until the answer is there.
    pub(crate) fn wait<T>(&self, answer: impl Fn() -> Option<T>) -> T {
        if let Some(answer) = answer() {
            return answer;
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            let rung = self.rung.load(Ordering::SeqCst);
            if let Some(found) = answer() {
                break found;
            }
            self.system.sleep(&self.rung, rung);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        found
    }

    /// Wakes whoever waits. The answers were given before.
    pub(crate) fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.system.wake_all(&self.rung);
        }
    }
}

#[cfg(all(any(target_os = "linux", target_os = "android"), not(everfold_shuttle)))]
mod system {
    use std::sync::atomic::AtomicU32;

    use rustix::thread::futex::{Flags, wait, wake};

    #[derive(Debug, Default)]
    pub(super) struct Sleep;

    impl Sleep {
        /// Sleeps while the word has this value; may also return for no reason.
        pub(super) fn sleep(&self, word: &AtomicU32, value: u32) {
            let _woken_or_changed = wait(word, Flags::PRIVATE, value, None);
        }

        pub(super) fn wake_all(&self, word: &AtomicU32) {
            let _number_woken = wake(word, Flags::PRIVATE, i32::MAX.cast_unsigned());
        }
    }
}

#[cfg(any(not(any(target_os = "linux", target_os = "android")), everfold_shuttle))]
mod system {
    use std::sync::PoisonError;

    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::{Condvar, Mutex};

    #[derive(Debug, Default)]
    pub(super) struct Sleep {
        lock: Mutex<()>,
        changed: Condvar,
    }

    impl Sleep {
        /// Sleeps while the word has this value; may also return for no reason.
        pub(super) fn sleep(&self, word: &AtomicU32, value: u32) {
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            if word.load(Ordering::SeqCst) == value {
                drop(self.changed.wait(lock));
            }
        }

        /// Locked, so that nobody is between looking at the word and sleeping.
        pub(super) fn wake_all(&self, _: &AtomicU32) {
            drop(self.lock.lock());
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn whoever_waits_is_woken_and_nobody_sleeps_through_an_answer() {
        for _ in 0..200 {
            let shared = Arc::new((Bell::default(), AtomicBool::new(false)));
            let waiters = [0; 4].map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    shared.0.wait(|| shared.1.load(Ordering::Acquire).then_some(()));
                })
            });
            shared.1.store(true, Ordering::Release);
            shared.0.ring();
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
            assert_eq!(shared.0.sleepers.load(Ordering::SeqCst), 0);
        }
    }
}
