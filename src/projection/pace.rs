//! How many events are applied together. Pure.

/// So many at the most, however few rows they change.
const MOST: u64 = 1 << 20;

/// Grows while all goes well. After a failure it starts again from one event, so that to undo what a failed event
/// changed, by folding those before it again, takes no longer in all than a few times what applying them does. The same
/// finds an event of which it is only known that it is one of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace(u64);

impl Default for Pace {
    fn default() -> Self {
        Pace(MOST)
    }
}

impl Pace {
    pub(super) fn events(self) -> u64 {
        self.0
    }

    pub(super) fn grow(&mut self) {
        self.0 = self.0.saturating_mul(2).min(MOST);
    }

    pub(super) fn shrink(&mut self) {
        self.0 = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many events are applied in all, when some of `events` fail.
    fn work(events: u64, fails: impl Fn(u64) -> bool) -> u64 {
        let (mut pace, mut done, mut work) = (Pace::default(), 0, 0);
        while done < events {
            let to = events.min(done + pace.events());
            match (done..to).find(|event| fails(*event)) {
                Some(failed) => {
                    // Up to the failed one, once more those before it, and the failed one is dealt with.
                    work += (failed - done) * 2 + 2;
                    done = failed + 1;
                    pace.shrink();
                }
                None => {
                    work += to - done;
                    done = to;
                    pace.grow();
                }
            }
        }
        work
    }

    #[test]
    fn failures_cost_no_more_than_a_few_times_the_events() {
        for every in [1, 2, 3, 10, 100, 777, 5000, 19_999, 65_536, 80_000] {
            let work = work(100_000, |event| event % every == every - 1);
            assert!(work <= 300_000, "every {every}: {work}");
        }
        assert_eq!(work(100_000, |_| false), 100_000);
    }
}
