//! Every state that a loss of power could leave, from a log of what a process did to its files.
//!
//! The process runs once, in strace. From the log its files are made again as they were after each operation, once with
//! nothing of what was unsynced, once with everything, and several times with some of it. What the process had said by
//! then is in the log, too: so it is known exactly what had been acknowledged.

mod operations;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use clap::Args;
use everfold::Durability;

use crate::chance::Chance;
use crate::check::{Counts, Fault};
use crate::child::run;
use crate::claims::Claims;
use crate::figure::Figures;
use crate::image::{Image, Left, ROOT};
use crate::scratch::Scratch;
use crate::syscalls::sample::Sample;

/// Where the states are made and checked: in memory.
const PLACE: &str = "/dev/shm";

/// One state in so many is gone on with.
const START_ONCE_IN: u64 = 400;

/// All states that a loss of power could leave of short runs (Linux, strace).
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// How many states with some of what was unsynced are made after each operation.
    #[arg(long, default_value_t = 30)]
    some: u64,
    /// Draw the same states again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What was found so far.
#[derive(Debug)]
struct Found {
    chance: Chance,
    counts: Counts,
    states: u64,
    violations: u64,
    /// States that another run goes on with, and what had been said by then.
    starts: Vec<(Image, Claims)>,
}

impl Trace {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        if let Err(why) = run(Command::new("strace").args(["-f", "-o", "/dev/null", "true"])) {
            Figures::skipped("trace_states", why);
            return Ok(());
        }
        let scratch = Scratch::new(Some(Path::new(PLACE)), "trace")?;
        let started = Instant::now();
        let mut found = Found {
            chance: Chance::new(self.seed),
            counts: Counts::default(),
            states: 0,
            violations: 0,
            starts: Vec::new(),
        };
        for again in [false, true] {
            let sample = Sample::new(&scratch, false, again)?;
            self.all_states(&scratch, &sample, self.some, &mut found)?;
        }
        println!("{} states after two runs: {}", found.states, found.counts);
        for (image, claims) in std::mem::take(&mut found.starts) {
            // The next life starts with what a loss of power has left, and loses power itself.
            let sample = Sample::new(&scratch, false, false)?;
            scratch.remove(&sample.run.dir)?;
            image.write_out(ROOT, scratch.path()).map_err(|e| format!("write a state: {e}"))?;
            let mut known = sample.known.clone();
            known.check(&claims, Fault { keeps: Durability::Durable, only_look: true })?;
            let sample = sample.goes_on(&scratch, known)?;
            self.all_states(&scratch, &sample, self.some / 10, &mut found)?;
        }
        println!("{} states in {:.0} s: {}", found.states, started.elapsed().as_secs_f64(), found.counts);
        figures.count("trace_states", found.states, 1000);
        figures.none("trace_violations", found.violations);
        Ok(())
    }

    /// Makes and checks the states after each operation of a run.
    fn all_states(
        &self,
        scratch: &Scratch,
        sample: &Sample,
        some: u64,
        found: &mut Found,
    ) -> Result<(), String> {
        sample.begin(scratch)?;
        let mut image = begin(sample)?;
        let log = sample.run.trace(&scratch.path().join("log"), &operations::OPTIONS.map(str::to_owned))?;
        let operations = operations::read(&log, scratch.path())?;
        let mut claims = Claims::default();
        for (operation, number) in operations.iter().zip(1..) {
            operation.apply(&mut image, &mut claims)?;
            for left in lefts(&image, some, &mut found.chance) {
                found.states += 1;
                let mut crashed = image.clone();
                crashed.crash(left, &mut found.chance);
                scratch.remove(&sample.run.dir)?;
                crashed.write_out(ROOT, scratch.path()).map_err(|e| format!("write a state: {e}"))?;
                if let Err(what) = check(sample, &claims, left, &mut found.counts) {
                    found.violations += 1;
                    let what = format!("after operation {number}, {left:?} left: {what}");
                    scratch.keep(&sample.run.dir, &format!("trace-{}", found.violations), what)?;
                }
                if sample.template.is_none() && claims.opened && found.chance.once_in(START_ONCE_IN) {
                    found.starts.push((crashed, claims.clone()));
                }
            }
        }
        Ok(())
    }
}

/// What may be left: where nothing is unsynced, there is but one state.
fn lefts(image: &Image, some: u64, chance: &mut Chance) -> Vec<Left> {
    if image.is_durable() {
        return vec![Left::Everything];
    }
    let some = (0..some).map(|_| Left::Some([1, 8][usize::from(chance.once_in(2))]));
    [Left::Nothing, Left::Everything].into_iter().chain(some).collect()
}

/// The files that the run starts with.
fn begin(sample: &Sample) -> Result<Image, String> {
    let (mut image, dir) = (Image::new(), &sample.run.dir);
    if let Some(name) = dir.file_name().filter(|_| dir.exists()) {
        let read = |image: &mut Image| {
            let folder = image.make_folder(ROOT, &name.to_string_lossy())?;
            image.sync_folder(ROOT);
            image.read_in(folder, dir)
        };
        read(&mut image).map_err(|e| format!("read {}: {e}", dir.display()))?;
    }
    Ok(image)
}

/// Checks the state that was made.
fn check(sample: &Sample, claims: &Claims, left: Left, counts: &mut Counts) -> Result<(), String> {
    // If everything is there that the kernel was given, this is what a kill leaves.
    let keeps = if left == Left::Everything { Durability::Written } else { Durability::Durable };
    let mut checker = sample.known.clone();
    checker.counts = Counts::default();
    let checked = checker.check(claims, Fault { keeps, only_look: false });
    counts.add(checker.counts);
    checked
}
