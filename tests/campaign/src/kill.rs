//! Kills a process that appends and projects, at random instants, again and again over the same directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use everfold::Durability;

use crate::chance::Chance;
use crate::check::{Checker, Counts, Fault};
use crate::child::{Process, this_program};
use crate::figure::Figures;
use crate::scratch::Scratch;

/// Two lives in three are ended after the store is open, which takes at most so long.
pub(crate) const OPENING: Duration = Duration::from_secs(10);
/// After how many lives a new store is made.
const LIVES: u32 = 40;

/// SIGKILL at random instants: nothing acknowledged as written is lost.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// How many kills.
    #[arg(long, default_value_t = 1000)]
    kills: u64,
    /// The latest instant of a kill, in milliseconds after the start of the process, or the opening of its store.
    #[arg(long, default_value_t = 150)]
    within: u64,
    /// Where the store is made (default: the system's directory for temporary files).
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Draw the same instants again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Kill {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        let scratch = Scratch::new(self.dir.as_deref(), "kill")?;
        let (mut chance, mut counts, started) = (Chance::new(self.seed), Counts::default(), Instant::now());
        let (mut kills, mut violations, mut stores) = (0, 0, 0);
        while kills < self.kills {
            let dir = scratch.path().join(format!("store-{stores}"));
            stores += 1;
            let mut checker = Checker::new(&dir, true);
            let result: Result<(), String> = (0..LIVES).try_for_each(|life| {
                if kills < self.kills {
                    kills += u64::from(self.life(&dir, life, &mut checker, &mut chance)?);
                }
                Ok(())
            });
            counts.add(checker.counts);
            checker.rebuilt.iter().for_each(|why| println!("REBUILT {why}"));
            if let Err(what) = result {
                violations += 1;
                scratch.keep(&dir, &format!("kill-{violations}"), what)?;
            }
            scratch.remove(&dir)?;
        }
        println!("{stores} stores in {:.0} s; {counts}", started.elapsed().as_secs_f64());
        figures.count("kills", kills, 1000);
        counts.tell("kill", figures);
        figures.none("kill_violations", violations);
        Ok(())
    }

    /// One life and what it left; whether it was ended by the kill.
    fn life(
        &self,
        dir: &Path,
        life: u32,
        checker: &mut Checker,
        chance: &mut Chance,
    ) -> Result<bool, String> {
        let mut process = Process::start(&mut worker(dir, life, checker.last(), chance)?)?;
        if !chance.once_in(3) {
            process.wait_until_open(OPENING)?;
        }
        let wait = Duration::from_micros(chance.below(self.within * 1000));
        let ended = process.wait(wait)?;
        process.kill()?;
        let ended_itself = ended.is_some();
        let ended = process.end()?;
        if !ended.claims.errors.is_empty() || ended_itself && !ended.status.success() {
            return Err(format!(
                "life {life} ended with {}: {:?}: {}",
                ended.status, ended.claims.errors, ended.told
            ));
        }
        let fault = Fault { keeps: Durability::Written, only_look: !chance.once_in(4) };
        checker.check(&ended.claims, fault).map_err(|what| format!("life {life}: {what}"))?;
        Ok(ended.was_killed())
    }
}

/// A process of several threads, which closes its store or drops segments now and then.
pub(crate) fn worker(dir: &Path, life: u32, served: u64, chance: &mut Chance) -> Result<Command, String> {
    let mut command = Command::new(this_program()?);
    command.arg("worker").arg(dir).args(["--life", &life.to_string()]);
    if chance.once_in(4) {
        command.args(["--batches", &(1 + chance.below(60)).to_string()]);
    }
    if chance.once_in(3) && served > 0 {
        command.args(["--retain", &served.to_string()]);
    }
    Ok(command)
}
