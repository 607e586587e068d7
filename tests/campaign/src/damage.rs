//! `campaign damage`: everything that can happen to the bytes of a store, done to the golden stores. Whatever it is, all
//! events are there, or an error names the place; what goes missing without an error was never provable.
//!
//! Every bit of every file of the log is flipped; every file is cut off at every length, made longer, taken away, and
//! replaced by each other of its kind; every sector and every page with something in it is zeroed. After each the store
//! is opened read-only and for writing (index files with a bit flipped: by turns), read in every way and appended to, and
//! every 61st time repaired into a new one.

mod golden;
mod harm;
mod judge;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use golden::Golden;
use harm::{Kind, Plan};
use judge::{Verdict, Way};

use crate::figure::Figures;

/// A store is repaired after each such damage. A prime, so that all bits and places have their turn.
const REPAIR_EVERY: usize = 61;
/// After each such damage the files are read and not lent, which takes longer.
const READ_EVERY: usize = 31;
/// An opening read-only waits before it calls an end damaged: with so many threads for each processor none idles.
const THREADS_EACH: usize = 4;
/// So many cases are taken at a time.
const CHUNK: usize = 64;
/// So many violations are told in full.
const TOLD: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Of bits and lengths only each such one is tried; 1 for all. Sectors, pages and files are always tried.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// The first of these: all of them in parts are `--every 8 --from 0` to `--from 7`
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// Only this one of the golden stores: clean, rolled, retained or unclean
    #[arg(long)]
    store: Option<String>,
}

/// What came of the cases.
#[derive(Debug, Default)]
struct Counts {
    tried: BTreeMap<Kind, u64>,
    whole: u64,
    told: u64,
    unproven: u64,
    acknowledged_sectors: u64,
    caught_sectors: u64,
    repaired: u64,
    silent: u64,
    unsaved: u64,
    violations: Vec<String>,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        for (kind, tried) in other.tried {
            *self.tried.entry(kind).or_default() += tried;
        }
        self.whole += other.whole;
        self.told += other.told;
        self.unproven += other.unproven;
        self.acknowledged_sectors += other.acknowledged_sectors;
        self.caught_sectors += other.caught_sectors;
        self.repaired += other.repaired;
        self.silent += other.silent;
        self.unsaved += other.unsaved;
        self.violations.extend(other.violations);
        self.violations.truncate(TOLD);
    }

    fn violation(&mut self, case: &str, what: &str) {
        if self.violations.len() < TOLD {
            self.violations.push(format!("{case}: {what}"));
        }
    }

    fn verdict(&mut self, verdict: &Result<Verdict, String>, case: &str) {
        match verdict {
            Ok(Verdict::Whole) => self.whole += 1,
            Ok(Verdict::Told) => self.told += 1,
            Ok(Verdict::Short(_)) => self.unproven += 1,
            Err(what) => {
                self.silent += 1;
                self.violation(case, what);
            }
        }
    }
}

thread_local! {
    /// What this thread is at, for the message of a panic.
    static CASE: RefCell<String> = const { RefCell::new(String::new()) };
}
/// Panics of any thread, those of the stores included.
static PANICS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(arguments: &Arguments, figures: &mut Figures) -> Result<(), String> {
    let started = Instant::now();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        CASE.with_borrow(|case| eprintln!("panic at {case:?}"));
        before(info);
    }));
    let goldens = golden::load()?;
    let (mut counts, mut planned) = (Counts::default(), BTreeMap::<Kind, u64>::new());
    let wanted = |golden: &&Golden| arguments.store.as_ref().is_none_or(|store| store == golden.name);
    for golden in goldens.iter().filter(wanted) {
        let plans = harm::plans(golden, arguments.every.max(1), arguments.from);
        for plan in &plans {
            *planned.entry(plan.kind).or_default() += long(plan.count);
        }
        counts.add(examine_all(golden, &plans));
    }
    tell(&counts, &planned, figures);
    println!("{} s", started.elapsed().as_secs());
    Ok(())
}

fn tell(counts: &Counts, planned: &BTreeMap<Kind, u64>, figures: &mut Figures) {
    for violation in &counts.violations {
        eprintln!("VIOLATION {violation}");
    }
    let Counts { whole, told, unproven, .. } = counts;
    println!("all there {whole}, told {told}, a tail that nothing proved is gone {unproven}");
    let names = [
        (Kind::Bit, "golden_bits"),
        (Kind::Cut, "golden_truncations"),
        (Kind::Sector, "zeroed_sectors"),
        (Kind::Page, "zeroed_pages"),
        (Kind::Other, "files_longer_gone_replaced"),
    ];
    for (kind, name) in names {
        let count = |counts: &BTreeMap<Kind, u64>| counts.get(&kind).copied().unwrap_or_default();
        figures.all(name, count(&counts.tried), count(planned));
    }
    figures.all("acknowledged_sectors_caught", counts.caught_sectors, counts.acknowledged_sectors);
    figures.count("damaged_stores_repaired", counts.repaired, 1);
    figures.none("readable_events_not_saved", counts.unsaved);
    figures.none("silent", counts.silent);
    figures.none("panics", PANICS.load(Ordering::Relaxed));
}

fn examine_all(golden: &Golden, plans: &[Plan<'_>]) -> Counts {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) * THREADS_EACH;
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Counts::default()));
    let total: usize = plans.iter().map(|plan| plan.count).sum();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut counts = Counts::default();
                loop {
                    let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if from >= total {
                        break;
                    }
                    for number in from..(from + CHUNK).min(total) {
                        examine(golden, plans, number, &mut counts);
                    }
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).add(counts);
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The case with a number, among all of the plans.
fn examine(golden: &Golden, plans: &[Plan<'_>], number: usize, counts: &mut Counts) {
    let mut left = number;
    let Some(plan) = plans.iter().find(|plan| {
        let is = left < plan.count;
        left -= if is { 0 } else { plan.count };
        is
    }) else {
        return;
    };
    let harm = plan.harm(left);
    let case = harm.text(golden, plan.file);
    CASE.with_borrow_mut(|at| at.clone_from(&case));
    let damaged = match harm.damaged(golden, plan.file) {
        Ok(damaged) => damaged,
        Err(error) => return counts.violation(&case, &format!("the damage could not be done: {error}")),
    };
    *counts.tried.entry(plan.kind).or_default() += 1;
    if number.is_multiple_of(REPAIR_EVERY) {
        counts.repaired += 1;
        let repaired = catch_unwind(AssertUnwindSafe(|| judge::repair(golden, &damaged)));
        if let Err(what) = repaired.unwrap_or_else(|_| Err("a panic of a repair".to_owned())) {
            counts.unsaved += 1;
            counts.violation(&case, &what);
        }
    }
    let hits = plan.kind == Kind::Sector && harm.hits_acknowledged(golden, plan.file, &damaged);
    // What is derived has no bytes of its own to lose: its bits are looked at one way, and the next one the other way.
    let derived = plan.kind == Kind::Bit && (plan.file.ends_with(".idx") || plan.file.ends_with(".keys"));
    let way = Way {
        reading: !derived || number.is_multiple_of(2),
        writing: !derived || !number.is_multiple_of(2),
        map: !number.is_multiple_of(READ_EVERY),
    };
    let verdict = catch_unwind(AssertUnwindSafe(|| judge::judge(golden, &damaged, way)));
    let verdict = verdict.unwrap_or_else(|_| Err("a panic".to_owned()));
    counts.verdict(&verdict, &case);
    if hits {
        counts.acknowledged_sectors += 1;
        counts.caught_sectors += u64::from(verdict == Ok(Verdict::Told));
    }
}

fn long(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
