//! Losses of power planned for operations to come.

use std::collections::BTreeMap;

use super::MemoryStorage;
use super::chance::Chance;

/// What a loss of power left that was planned with [`crash_at`](MemoryStorage::crash_at).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// The operation during which the power was lost.
    pub operation: u64,
    /// The seed that was given.
    pub seed: u64,
    /// What is left, as of [`crash`](MemoryStorage::crash).
    pub left: MemoryStorage,
}

#[derive(Debug, Default)]
pub(super) struct Outages {
    plan: BTreeMap<u64, Vec<u64>>,
    made: Vec<Outage>,
}

impl Outages {
    pub(super) fn plan(&mut self, operation: u64, seed: u64) {
        self.plan.entry(operation).or_default().push(seed);
    }

    /// The seeds of those planned for an operation.
    pub(super) fn due(&mut self, operation: u64) -> Vec<u64> {
        self.plan.remove(&operation).unwrap_or_default()
    }

    /// Those planned for a write, each with how many of its bytes were written by then.
    pub(super) fn due_in_write(&mut self, operation: u64, len: usize) -> Vec<(u64, usize)> {
        let part = |seed: u64| {
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            usize::try_from(Chance::new(seed.rotate_left(17)).stage(len)).unwrap_or(usize::MAX)
        };
        self.due(operation).into_iter().map(|seed| (seed, part(seed))).collect()
    }

    pub(super) fn keep(&mut self, outage: Outage) {
        self.made.push(outage);
    }

    pub(super) fn take(&mut self) -> Vec<Outage> {
        std::mem::take(&mut self.made)
    }
}
