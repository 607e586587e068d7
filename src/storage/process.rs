//! The process that opened a store. One that is forked from it has its memory and its open files, and none of its threads:
//! it must neither write to the store nor wait for anybody.

use crate::error::{Error, ErrorKind};

/// A process, remembered to be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// The one that runs.
    pub(crate) fn own() -> Self {
        Process(std::process::id())
    }

    /// Whether another process runs now. A call of the system: not for every append.
    pub(crate) fn is_other(self) -> bool {
        self != Self::own()
    }

    /// # Errors
    /// `Closed` in a process that was forked from this one.
    pub(crate) fn check(self) -> Result<(), Error> {
        if self.is_other() { Err(forked()) } else { Ok(()) }
    }
}

fn forked() -> Error {
    let message = "the store was opened before this process was forked, and belongs to the process that opened it; open \
                   it anew here, after the fork: read-only, or once it is closed there";
    Error::new(ErrorKind::Closed, message)
}
