//! Operations that fail on purpose, by number.

use std::collections::BTreeMap;
use std::io;

/// How an operation on a [`MemoryStorage`](super::MemoryStorage) fails; see
/// [`fail_at`](super::MemoryStorage::fail_at).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: io::ErrorKind,
    for_ever: bool,
    written: Part,
}

/// How much of a failing write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    Half,
    Bytes(usize),
}

impl Fault {
    /// That one operation fails, as a full disk does until there is space.
    #[must_use]
    pub fn once(kind: io::ErrorKind) -> Self {
        Fault { kind, for_ever: false, written: Part::Nothing }
    }

    /// That operation and all after it fail, as on a dead disk. Reads go on.
    #[must_use]
    pub fn from_then_on(kind: io::ErrorKind) -> Self {
        Fault { kind, for_ever: true, written: Part::Nothing }
    }

    /// When that operation is a write, the first half of its bytes is written before it fails.
    #[must_use]
    pub fn short(self) -> Self {
        Fault { written: Part::Half, ..self }
    }

    /// When that operation is a write, so many of its bytes, but for the last, are written before it fails.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Fault { written: Part::Bytes(bytes), ..self }
    }
}

/// Counts the operations and knows which of them fail.
#[derive(Debug, Default)]
pub(super) struct Faults {
    done: u64,
    plan: BTreeMap<u64, Fault>,
}

/// An operation that has to fail.
#[derive(Debug)]
pub(super) struct Failure {
    written: Part,
    error: io::Error,
}

impl Failure {
    /// How many bytes of a write of `len` were written all the same.
    pub(super) fn written(&self, len: usize) -> usize {
        match self.written {
            Part::Nothing => 0,
            Part::Half => len / 2,
            Part::Bytes(bytes) => bytes.min(len.saturating_sub(1)),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Faults {
    /// Counts one operation; an error when it has to fail.
    pub(super) fn count(&mut self) -> Result<(), Failure> {
        self.done += 1;
        let now = self.done;
        match self.plan.range(..=now).rev().find(|(at, fault)| **at == now || fault.for_ever) {
            None => Ok(()),
            Some((at, fault)) => Err(Failure {
                written: if *at == now { fault.written } else { Part::Nothing },
                error: io::Error::new(fault.kind, format!("injected fault at operation {now}")),
            }),
        }
    }

    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn add(&mut self, operation: u64, fault: Fault) {
        self.plan.insert(operation, fault);
    }

    pub(super) fn clear(&mut self) {
        self.plan.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_from_then_on_lasts_and_is_short_only_at_first() {
        let mut faults = Faults::default();
        faults.add(2, Fault::once(io::ErrorKind::StorageFull));
        faults.add(4, Fault::from_then_on(io::ErrorKind::Other).short());
        let seen: Vec<_> = (1..=6)
            .map(|_| faults.count().map_err(|failure| (failure.error.kind(), failure.written(9))))
            .collect();
        let (full, dead) = (io::ErrorKind::StorageFull, io::ErrorKind::Other);
        let expected = [Ok(()), Err((full, 0)), Ok(()), Err((dead, 4)), Err((dead, 0)), Err((dead, 0))];
        assert_eq!(seen, expected);
        faults.clear();
        assert!(faults.count().is_ok());
        assert_eq!(faults.done(), 7);
        faults.add(8, Fault::once(full).after(5));
        let failure = faults.count().unwrap_err();
        assert_eq!((failure.written(9), failure.written(5)), (5, 4));
    }
}
