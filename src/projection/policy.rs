//! What becomes of an event that a projection cannot apply.

use std::time::Duration;

use super::threads;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a projection does about an event when the last attempt to apply it has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// It stops before the event.
    #[default]
    Stop,
    /// It puts the event on the view's list of those that were [set aside](crate::View::set_aside), and goes on.
    SetAside,
}

/// How a projection is run; see [`Store::project_with`](crate::Store::project_with).
///
/// ```
/// use std::time::Duration;
/// use everfold::{OnError, ProjectionOptions};
///
/// // Three more attempts, after 10, 20 and 40 ms; then the event is set aside, if no more than 100 are.
/// let patient = ProjectionOptions::new()
///     .retry(3, Duration::from_millis(10))
///     .on_error(OnError::SetAside)
///     .most_set_aside(100);
/// # let _ = patient;
/// ```
#[derive(Clone, Debug)]
pub struct ProjectionOptions {
    pub(super) retries: u32,
    pub(super) pause: Duration,
    pub(super) on_error: OnError,
    pub(super) most_set_aside: u64,
    threads: Option<usize>,
}

impl Default for ProjectionOptions {
    fn default() -> Self {
        ProjectionOptions {
            retries: 0,
            pause: Duration::ZERO,
            on_error: OnError::Stop,
            most_set_aside: 1000,
            threads: None,
        }
    }
}

impl ProjectionOptions {
    /// Those of [`Store::project`](crate::Store::project): an event that fails stops the projection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies an event that failed so many times more, after a pause that doubles each time, up to a minute. What an
    /// attempt changed before it failed is undone. The default is no retry.
    #[must_use]
    pub fn retry(mut self, times: u32, pause: Duration) -> Self {
        (self.retries, self.pause) = (times, pause);
        self
    }

    /// What becomes of an event when the last attempt has failed. The default is [`OnError::Stop`].
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// How many events may be set aside at a time; the one after stops the projection. The default is 1000.
    #[must_use]
    pub fn most_set_aside(mut self, events: u64) -> Self {
        self.most_set_aside = events;
        self
    }

    /// On how many threads the view of a declared [`Fold`](crate::Fold) is brought on while it is far behind, 1 to 64.
    /// The default is as many as the machine runs at once. Any other projection applies one event after the other, on one
    /// thread; where it merges values into many new rows ([`ViewBatch::merge`](crate::ViewBatch::merge)), so many threads, 8 at the
    /// most, put these together.
    #[must_use]
    pub fn build_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.clamp(1, threads::MOST));
        self
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(threads::all)
    }

    /// How long to wait after so many attempts have failed.
    pub(super) fn pause_after(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.pause.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        let options = ProjectionOptions::new().retry(9, Duration::from_secs(2));
        let pauses = [1, 2, 3, 5, 6, 1000].map(|attempts| options.pause_after(attempts).as_secs());
        assert_eq!(pauses, [2, 4, 8, 32, 60, 60]);
        assert_eq!(ProjectionOptions::new().pause_after(u32::MAX), Duration::ZERO);
    }
}
