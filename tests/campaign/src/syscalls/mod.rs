//! Makes every system call on the store's files fail once, each in several ways.
//!
//! The runs are short and the same each time: one thread appends, and nothing is left to timers. Calls on the log's
//! files are all made by that thread. Calls on a view's files are made by the projector's and sled's threads, whose nth
//! calls fail together, and need not come in every run (those that came are met). Not made to fail: starting threads, and what has no file of the store. A `close` is only killed:
//! the standard library ignores that of a file to fail, and asserts that of a directory not to.

pub(crate) mod sample;
mod strace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::Args;
use everfold::Durability;

use crate::chance::Chance;
use crate::check::{Counts, Fault};
use crate::child::run;
use crate::figure::Figures;
use crate::scratch::Scratch;
use sample::Sample;
use strace::Call;

/// What happens to a call.
const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "error=EMFILE"];
const KILLED: &str = "signal=KILL";
/// These can also be interrupted.
const INTERRUPTIBLE: [&str; 7] = ["openat", "read", "write", "pread64", "pwrite64", "flock", "fallocate"];
/// No fault here takes what the kernel was given.
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
    /// Only calls of this name.
    #[arg(long)]
    call: Option<String>,
    /// Where stores are made (default: the system's directory for temporary files).
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The paths that are looked at, and each call on them with each fault.
#[derive(Debug)]
struct Cases {
    paths: BTreeSet<String>,
    all: Vec<(Call, &'static str)>,
}

/// What came of the cases.
#[derive(Debug, Default)]
struct Found {
    counts: Counts,
    /// So many came to their call.
    met: u64,
    /// Views that had been whole, and were made anew since sled could not read them.
    unread: u64,
}

impl Syscalls {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        if let Err(why) = run(Command::new("strace").args(["-f", "-o", "/dev/null", "true"])) {
            Figures::skipped("syscall_faults", why);
            return Ok(());
        }
        let scratch = Scratch::new(self.dir.as_deref(), "syscalls")?;
        let (mut done, mut all, mut violations, mut found) = (0, 0, 0, Found::default());
        for (name, views, again) in [
            ("new", false, false),
            ("again", false, true),
            ("views", true, false),
            ("views-again", true, true),
        ] {
            if self.sample.as_ref().is_none_or(|only| only == name) {
                let sample = Sample::new(&scratch, views, again)?;
                let started = Instant::now();
                let mut cases = sample.cases(&scratch)?;
                cases.all.retain(|(call, _)| self.call.as_ref().is_none_or(|only| *only == call.name));
                println!("{name}: {}", summary(&cases.all));
                let mut chance = Chance::new(1);
                let chosen: Vec<_> = cases.all.iter().filter(|_| chance.once_in(self.every.max(1))).collect();
                let (violations_before, met_before) = (violations, found.met);
                for (call, fault) in &chosen {
                    done += 1;
                    if let Err(what) = sample.case(&scratch, call, &cases.paths, fault, &mut found) {
                        violations += 1;
                        let what = format!("{name}, {} {} {fault}: {what}", call.name, call.nth);
                        scratch.keep(&sample.run.dir, &format!("{name}-{violations}"), what)?;
                    }
                }
                all += chosen.len() as u64;
                let (took, wrong) = (started.elapsed().as_secs_f64(), violations - violations_before);
                let (chosen, of, met) = (chosen.len(), cases.all.len(), found.met - met_before);
                println!("{name}: {chosen} of {of} cases, {met} met, in {took:.0} s; {wrong} violations");
            }
        }
        println!("{}", found.counts);
        figures.all("syscall_faults", done, all);
        figures.count("syscall_faults_met", found.met, all);
        found.counts.tell("syscall", figures);
        figures.count("syscall_views_made_anew_after_failed_reads", found.unread, 0);
        figures.none("syscall_violations", violations);
        Ok(())
    }
}

impl Sample {
    fn cases(&self, scratch: &Scratch) -> Result<Cases, String> {
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
        Ok(Cases { paths, all: cases.collect() })
    }

    fn case(
        &self,
        scratch: &Scratch,
        call: &Call,
        paths: &BTreeSet<String>,
        fault: &str,
        found: &mut Found,
    ) -> Result<(), String> {
        self.begin(scratch)?;
        let (ended, came) = self.run.with_fault(call, paths, fault, &scratch.path().join("trace"))?;
        found.met += u64::from(came);
        if ended.broke() {
            return Err(format!("ended with {}: {}", ended.status, ended.told));
        }
        let mut checker = self.known.clone();
        (checker.counts, checker.rebuilt) = Default::default();
        let checked = checker.check(&ended.claims, KEEPS);
        if call.name == "pread64" && FAULTS.contains(&fault) {
            // sled takes what it cannot read for an empty store, and writes there.
            found.unread += std::mem::take(&mut checker.counts.rebuilt);
        }
        found.counts.add(checker.counts);
        for why in &checker.rebuilt {
            println!("REBUILT {} {} {fault}: {why}", call.name, call.nth);
        }
        checked.map_err(|what| format!("{what}; before that it said {:?}", ended.claims.errors))
    }
}

/// How often each call is made.
fn summary(cases: &[(Call, &'static str)]) -> String {
    let most: BTreeMap<_, _> = cases.iter().map(|(call, _)| (call.name.as_str(), call.nth)).collect();
    most.iter().map(|(name, most)| format!("{name} {most}")).collect::<Vec<_>>().join(", ")
}
