//! Short runs of the process under test, the same each time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use everfold::Durability;

use super::strace::{Call, Run};
use crate::check::{Checker, Fault};
use crate::child::run;
use crate::scratch::Scratch;

/// A run, the store it starts with, and what is known of that.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) run: Run,
    /// A copy of it is what the run starts with.
    pub(crate) template: Option<PathBuf>,
    pub(crate) known: Checker,
    /// Which files are looked at.
    pub(crate) below: &'static str,
}

impl Sample {
    pub(crate) fn new(scratch: &Scratch, views: bool, again: bool) -> Result<Sample, String> {
        let dir = scratch.path().join("store");
        let run_with = |batches: &str, more: &[String]| {
            let mut arguments: Vec<_> =
                ["--threads", "1", "--sync-after", "60000", "--batches", batches].map(str::to_owned).into();
            arguments.extend((!views).then(|| "--no-views".to_owned()));
            arguments.extend_from_slice(more);
            Run { dir: dir.clone(), arguments }
        };
        let below = if views { "/store/views" } else { "/store" };
        let mut known = Checker::new(&dir, views);
        if !again {
            return Ok(Sample { run: run_with("48", &[]), template: None, known, below });
        }
        // A store whose process was killed in the middle of a write.
        scratch.remove(&dir)?;
        let first = run_with("60", &[]);
        let write = Call { name: "pwrite64".to_owned(), nth: 50 };
        let trace = scratch.path().join("trace");
        let (killed, _) = first.with_fault(&write, &BTreeSet::new(), "signal=KILL", &trace)?;
        if !killed.was_killed() {
            return Err(format!("the process was to be killed, and ended with {}", killed.status));
        }
        known.check(&killed.claims, Fault { keeps: Durability::Written, only_look: true })?;
        known.has_views = views;
        let template = scratch.path().join("template");
        scratch.remove(&template)?;
        run(Command::new("cp").arg("-a").arg(&dir).arg(&template))?;
        let more = ["--life".to_owned(), "1".to_owned(), "--retain".to_owned(), known.last().to_string()];
        Ok(Sample { run: run_with("36", &more), template: Some(template), known, below })
    }

    /// A run that goes on with the store in the sample's place, of which this is known. Hardly anything is synced in it.
    pub(crate) fn goes_on(&self, scratch: &Scratch, known: Checker) -> Result<Sample, String> {
        let template = scratch.path().join("template");
        scratch.remove(&template)?;
        run(Command::new("cp").arg("-a").arg(&self.run.dir).arg(&template))?;
        let fixed =
            ["--threads", "1", "--sync-after", "60000", "--batches", "24", "--no-views", "--life", "2"];
        let mut arguments = fixed.map(str::to_owned).to_vec();
        arguments.extend(["--retain".to_owned(), known.last().to_string()]);
        let run = Run { dir: self.run.dir.clone(), arguments };
        Ok(Sample { run, template: Some(template), known, below: self.below })
    }

    /// Puts the store that the run starts with in its place.
    pub(crate) fn begin(&self, scratch: &Scratch) -> Result<(), String> {
        scratch.remove(&self.run.dir)?;
        let copy = |template| run(Command::new("cp").arg("-a").arg(template).arg(&self.run.dir));
        self.template.as_ref().map_or(Ok(()), copy)
    }
}
