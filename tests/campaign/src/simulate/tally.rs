//! What there was.

use std::fmt;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) lives: u64,
    pub(crate) deeds: u64,
    /// Images that a loss of power or a kill left, recovered and checked.
    pub(crate) crashes: u64,
    /// Of these, how many fell into a recovery.
    pub(crate) interrupted: u64,
    /// Recoveries that failed because an operation or a read did, and were tried again.
    pub(crate) recoveries_failed: u64,
    /// Deeds that failed because an operation or a read did.
    pub(crate) failed: u64,
    pub(crate) appended: u64,
    pub(crate) dropped: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.lives += other.lives;
        self.deeds += other.deeds;
        self.crashes += other.crashes;
        self.interrupted += other.interrupted;
        self.recoveries_failed += other.recoveries_failed;
        self.failed += other.failed;
        self.appended += other.appended;
        self.dropped += other.dropped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lives of {} deeds, {} events appended and {} dropped, {} deeds failed; {} crashes, {} of them during a recovery; {} recoveries failed and were tried again",
            self.lives,
            self.deeds,
            self.appended,
            self.dropped,
            self.failed,
            self.crashes,
            self.interrupted,
            self.recoveries_failed
        )
    }
}
