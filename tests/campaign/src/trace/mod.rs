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

impl Trace {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        if let Err(why) = run(Command::new("strace").args(["-f", "-o", "/dev/null", "true"])) {
            Figures::skipped("trace_states", why);
            return Ok(());
        }
        let scratch = Scratch::new(Some(Path::new(PLACE)), "trace")?;
        let (mut states, mut violations, mut counts) = (0, 0, Counts::default());
        for (name, again) in [("new", false), ("again", true)] {
            let started = Instant::now();
            let sample = Sample::new(&scratch, false, again)?;
            sample.begin(&scratch)?;
            let mut image = begin(&sample)?;
            let log =
                sample.run.trace(&scratch.path().join("log"), &operations::OPTIONS.map(str::to_owned))?;
            let operations = operations::read(&log, scratch.path())?;
            let (mut claims, mut chance, mut seen) = (Claims::default(), Chance::new(self.seed), 0);
            for (operation, number) in operations.iter().zip(1..) {
                operation.apply(&mut image, &mut claims)?;
                for left in self.lefts(&image, &mut chance) {
                    seen += 1;
                    let mut image = image.clone();
                    image.crash(left, &mut chance);
                    scratch.remove(&sample.run.dir)?;
                    image.write_out(ROOT, scratch.path()).map_err(|e| format!("write a state: {e}"))?;
                    if let Err(what) = check(&sample, &claims, left, &mut counts) {
                        violations += 1;
                        let what = format!("{name}, after operation {number}, {left:?} left: {what}");
                        scratch.keep(&sample.run.dir, &format!("trace-{violations}"), what)?;
                    }
                }
            }
            let took = started.elapsed().as_secs_f64();
            println!("{name}: {} operations, {seen} states in {took:.0} s", operations.len());
            states += seen;
        }
        println!("{counts}");
        figures.count("trace_states", states, 1000);
        figures.none("trace_violations", violations);
        Ok(())
    }

    /// What may be left: where nothing is unsynced, there is but one state.
    fn lefts(&self, image: &Image, chance: &mut Chance) -> Vec<Left> {
        if image.is_durable() {
            return vec![Left::Everything];
        }
        let some = (0..self.some).map(|_| Left::Some([1, 8][usize::from(chance.once_in(2))]));
        [Left::Nothing, Left::Everything].into_iter().chain(some).collect()
    }
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
