//! Whole lives of a store, made up from a seed, with losses of power at any operation, disks that fail, and an oracle
//! that knows nothing of how a store works.

mod damage;
mod dice;
mod image;
mod life;
mod make;
mod opening;
mod oracle;
mod retaining;
mod setting;
mod tally;
mod view;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;

use crate::figure::Figures;
use life::Life;
use tally::Tally;

/// What does not hold.
pub(crate) type Held = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// How many crashes are aimed at, over all runs.
const GOAL: u64 = 20_000_000;

#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Replays the life of one seed, and tells what it does
    #[arg(long)]
    seed: Option<u64>,
    /// The seed of the first life; the others follow
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Ends after so many simulated crashes
    #[arg(long, default_value_t = 1_000_000)]
    crashes: u64,
    /// Ends after so many lives
    #[arg(long, default_value_t = u64::MAX)]
    lives: u64,
    /// Ends after so many minutes
    #[arg(long, default_value_t = u64::MAX / 60)]
    minutes: u64,
    /// Ends after so many violations
    #[arg(long, default_value_t = 5)]
    enough: usize,
    /// How many threads live lives at the same time
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// What the threads share.
struct Progress {
    next: AtomicU64,
    crashes: AtomicU64,
    until: Option<Instant>,
    total: Mutex<Tally>,
    violations: Mutex<Vec<(u64, String)>>,
}

pub(crate) fn run(args: &Simulate, figures: &mut Figures) -> Result<(), String> {
    if let Some(seed) = args.seed {
        let mut tally = Tally::default();
        let lived = live(seed, true, &mut tally);
        println!("life {seed}: {tally}");
        return lived;
    }
    let started = Instant::now();
    let progress = Progress {
        next: AtomicU64::new(args.first),
        crashes: AtomicU64::new(0),
        until: started.checked_add(Duration::from_secs(args.minutes.saturating_mul(60))),
        total: Mutex::default(),
        violations: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| live_on(args, &progress));
        }
    });
    let total = progress.total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let violations = progress.violations.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = started.elapsed().as_secs_f64();
    println!("{total}, in {took:.0} s: {:.0} crashes a second", total.crashes as f64 / took);
    for (seed, message) in &violations {
        println!("VIOLATION in life {seed}: {message}");
        println!("    replay it: campaign simulate --seed {seed}");
    }
    figures.count("lives", total.lives, 1);
    figures.count("simulated_crashes", total.crashes, GOAL);
    figures.count("recoveries_interrupted", total.interrupted, 1);
    figures.count("operations_failed", total.failed, 1);
    figures.none("violations", u64::try_from(violations.len()).unwrap_or(u64::MAX));
    Ok(())
}

fn live_on(args: &Simulate, progress: &Progress) {
    let mut own = Tally::default();
    while progress.crashes.load(Ordering::Relaxed) < args.crashes
        && progress.until.is_none_or(|until| Instant::now() < until)
    {
        let seed = progress.next.fetch_add(1, Ordering::Relaxed);
        if seed - args.first >= args.lives {
            break;
        }
        let before = own.crashes;
        let lived = live(seed, false, &mut own);
        progress.crashes.fetch_add(own.crashes - before, Ordering::Relaxed);
        if let Err(message) = lived {
            let mut violations = progress.violations.lock().unwrap_or_else(PoisonError::into_inner);
            violations.push((seed, message));
            if violations.len() >= args.enough {
                progress.crashes.store(u64::MAX / 2, Ordering::Relaxed);
            }
        }
    }
    progress.total.lock().unwrap_or_else(PoisonError::into_inner).add(&own);
}

/// One life, to its end or to the first thing that does not hold.
fn live(seed: u64, tell: bool, tally: &mut Tally) -> Held {
    tally.lives += 1;
    let lived = catch_unwind(AssertUnwindSafe(|| Life::new(seed, tell, tally).live()));
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("a panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of no text")))
    })
}
