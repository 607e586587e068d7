//! Makes every system call on the store's files fail once, each in several ways.
//!
//! The runs are short and the same each time: one thread appends, and nothing is left to timers. Calls on the log's
//! files are all made by that thread. Calls on a view's files are made by the projector's and sled's threads, whose nth
//! calls fail together. Not made to fail: starting threads, and what has no file of the store. A `close` is only killed:
//! the standard library ignores that of a file to fail, and asserts that of a directory not to.

mod strace;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::Args;
use everfold::Durability;

use crate::chance::Chance;
use crate::check::{Checker, Counts, Fault};
use crate::child::run;
use crate::figure::Figures;
use crate::scratch::Scratch;
use strace::{Call, Run};

/// What happens to a call.
const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "error=EMFILE"];
const KILLED: &str = "signal=KILL";
/// These can also be interrupted.
const INTERRUPTIBLE: [&str; 7] = ["openat", "read", "write", "pread64", "pwrite64", "flock", "fallocate"];
const KEEPS: Fault = Fault { keeps: Durability::Written, only_look: false };

/// Every system call on the store's files fails once in each of several ways (Linux, strace).
#[derive(Debug, Args)]
pub(crate) struct Syscalls {
    /// Only one case in so many, drawn at random; 1 for all of them.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Only the sample run of this name.
    #[arg(long)]
    sample: Option<String>,
    /// Where stores are made (default: the system's directory for temporary files).
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A run, the store it starts with, and what is known of that.
#[derive(Debug)]
struct Sample {
    run: Run,
    /// A copy of it is what the run starts with.
    template: Option<PathBuf>,
    known: Checker,
    /// Which files are looked at.
    below: &'static str,
}

impl Syscalls {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        if let Err(why) = run(Command::new("strace").args(["-f", "-o", "/dev/null", "true"])) {
            Figures::skipped("syscall_faults", why);
            return Ok(());
        }
        let scratch = Scratch::new(self.dir.as_deref(), "syscalls")?;
        let (mut done, mut all, mut violations, mut counts) = (0, 0, 0, Counts::default());
        for (name, views, again) in [
            ("new", false, false),
            ("again", false, true),
            ("views", true, false),
            ("views-again", true, true),
        ] {
            if self.sample.as_ref().is_none_or(|only| only == name) {
                let sample = Sample::new(&scratch, views, again)?;
                let started = Instant::now();
                let cases = sample.cases(&scratch)?;
                let mut chance = Chance::new(1);
                let chosen: Vec<_> = cases.1.iter().filter(|_| chance.once_in(self.every.max(1))).collect();
                let before = violations;
                for (call, fault) in &chosen {
                    done += 1;
                    if let Err(what) = sample.case(&scratch, call, &cases.0, fault, &mut counts) {
                        violations += 1;
                        let what = format!("{name}, {} {} {fault}: {what}", call.name, call.nth);
                        scratch.keep(&sample.run.dir, &format!("{name}-{violations}"), what)?;
                    }
                }
                all += chosen.len() as u64;
                let (took, found) = (started.elapsed().as_secs_f64(), violations - before);
                println!(
                    "{name}: {} of {} cases in {took:.0} s, {found} violations",
                    chosen.len(),
                    cases.1.len()
                );
            }
        }
        println!("{counts}");
        figures.all("syscall_faults", done, all);
        figures.none("syscall_views_rebuilt", counts.rebuilt);
        figures.none("syscall_violations", violations);
        Ok(())
    }
}

impl Sample {
    fn new(scratch: &Scratch, views: bool, again: bool) -> Result<Sample, String> {
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
        let write = Call { name: "pwrite64".to_owned(), nth: 56 };
        let claims =
            first.with_fault(&write, &BTreeSet::from([dir.display().to_string()]), "signal=KILL")?.claims;
        known.check(&claims, Fault { only_look: true, ..KEEPS })?;
        let template = scratch.path().join("template");
        scratch.remove(&template)?;
        run(Command::new("cp").arg("-a").arg(&dir).arg(&template))?;
        let more = ["--life".to_owned(), "1".to_owned(), "--retain".to_owned(), known.last().to_string()];
        Ok(Sample { run: run_with("36", &more), template: Some(template), known, below })
    }

    /// Puts the store that the run starts with in its place.
    fn begin(&self, scratch: &Scratch) -> Result<(), String> {
        scratch.remove(&self.run.dir)?;
        let copy = |template| run(Command::new("cp").arg("-a").arg(template).arg(&self.run.dir));
        self.template.as_ref().map_or(Ok(()), copy)
    }

    /// The paths that are looked at, and each call on them with each fault.
    fn cases(&self, scratch: &Scratch) -> Result<(BTreeSet<String>, Vec<(Call, &'static str)>), String> {
        let trace = scratch.path().join("trace");
        self.begin(scratch)?;
        let mut paths = self.run.paths(&trace)?;
        paths.retain(|path| path.contains(self.below));
        self.begin(scratch)?;
        let calls = self.run.calls(&trace, &paths)?;
        let cases = calls.into_iter().flat_map(|call| {
            if call.name == "close" {
                return vec![(call, KILLED)];
            }
            let interrupted = INTERRUPTIBLE.contains(&call.name.as_str()).then_some("error=EINTR");
            let faults = FAULTS.into_iter().chain([KILLED]).chain(interrupted);
            faults.map(|fault| (call.clone(), fault)).collect()
        });
        Ok((paths, cases.collect()))
    }

    fn case(
        &self,
        scratch: &Scratch,
        call: &Call,
        paths: &BTreeSet<String>,
        fault: &str,
        counts: &mut Counts,
    ) -> Result<(), String> {
        self.begin(scratch)?;
        let ended = self.run.with_fault(call, paths, fault)?;
        if ended.broke() {
            return Err(format!("ended with {}: {}", ended.status, ended.told));
        }
        let mut checker = self.known.clone();
        (checker.counts, checker.rebuilt) = Default::default();
        let checked = checker.check(&ended.claims, KEEPS);
        counts.add(checker.counts);
        for why in &checker.rebuilt {
            println!("REBUILT {} {} {fault}: {why}", call.name, call.nth);
        }
        checked.map_err(|what| format!("{what}; before that it said {:?}", ended.claims.errors))
    }
}
