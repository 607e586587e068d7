//! Cuts the power of a file system in memory under a process that appends and projects.
//!
//! It is stricter than any disk: whatever is not synced may be lost, sector by sector, and nothing gets there by itself.

mod disk;

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use everfold::Durability;
use fuser::{BackgroundSession, Config, MountOption};

use crate::chance::Chance;
use crate::check::{Checker, Counts, Fault};
use crate::child::Process;
use crate::figure::Figures;
use crate::image::Left;
use crate::kill::worker;
use crate::scratch::Scratch;
use disk::{Counted, Disk};

/// After how many cuts a new store is made.
const LIVES: u32 = 20;
/// The power is cut at the latest after so many operations, or so long.
const FEW_OPERATIONS: u64 = 250;
const MANY_OPERATIONS: u64 = 4000;
const LIMIT: Duration = Duration::from_secs(3);

/// Power cuts on a file system that keeps only what was synced (Linux, root, /dev/fuse).
#[derive(Debug, Args)]
pub(crate) struct Fuse {
    /// How many cuts.
    #[arg(long, default_value_t = 300)]
    cuts: u64,
    /// Draw the same instants and losses again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Fuse {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        let scratch = Scratch::new(None, "fuse")?;
        let on = scratch.path().join("mnt");
        std::fs::create_dir(&on).map_err(|e| format!("create {}: {e}", on.display()))?;
        if let Err(why) = mount(&Disk::new(), &on).and_then(unmount) {
            Figures::skipped("fuse_power_cuts", why);
            return Ok(());
        }
        let (mut chance, mut counts, started) = (Chance::new(self.seed), Counts::default(), Instant::now());
        let (mut cuts, mut violations, mut stores) = (0, 0, 0);
        let dir = on.join("store");
        while cuts < self.cuts {
            let (disk, mut checker) = (Disk::new(), Checker::new(&dir, true));
            stores += 1;
            for life in 0..LIVES {
                if cuts >= self.cuts {
                    break;
                }
                cuts += 1;
                if let Err(what) = one_life(&disk, &on, &dir, life, &mut checker, &mut chance) {
                    violations += 1;
                    let mounted = mount(&disk, &on)?;
                    scratch.keep(
                        &dir,
                        &format!("fuse-{violations}"),
                        format!("cut {cuts}, life {life}: {what}"),
                    )?;
                    unmount(mounted)?;
                    break;
                }
            }
            counts.add(checker.counts);
            checker.rebuilt.iter().for_each(|why| println!("REBUILT {why}"));
        }
        println!("{stores} stores in {:.0} s; {counts}", started.elapsed().as_secs_f64());
        figures.count("fuse_power_cuts", cuts, 300);
        counts.tell("fuse", figures);
        figures.none("fuse_violations", violations);
        Ok(())
    }
}

/// One life, its end, and what it left on the disk.
fn one_life(
    disk: &Disk,
    on: &Path,
    dir: &Path,
    life: u32,
    checker: &mut Checker,
    chance: &mut Chance,
) -> Result<(), String> {
    let mounted = mount(disk, on)?;
    match chance.below(3) {
        0 => disk.cut_after(1 + chance.below(FEW_OPERATIONS), Counted::All),
        1 => disk.cut_after(1 + chance.below(MANY_OPERATIONS), Counted::All),
        _ => disk.cut_after(1 + chance.below(FEW_OPERATIONS), Counted::Segments),
    }
    let mut process = Process::start(&mut worker(dir, life, checker.last(), chance)?)?;
    let mut ended_itself = false;
    let started = Instant::now();
    while !disk.wait_for_cut(Duration::from_millis(20)) && !ended_itself && started.elapsed() < LIMIT {
        ended_itself = process.wait(Duration::ZERO)?.is_some();
    }
    // From now on all fails. How the process ends no longer matters, only what it still claims.
    disk.cut_now();
    process.wait(Duration::from_micros(chance.below(20_000)))?;
    process.kill()?;
    let ended = process.end()?;
    unmount(mounted)?;
    disk.restart(|image| image.crash(Left::any(chance), chance));
    if ended_itself && ended.broke() {
        return Err(format!("ended with {}: {}", ended.status, ended.told));
    }
    let mounted = mount(disk, on)?;
    let fault = Fault { keeps: Durability::Durable, only_look: chance.once_in(2) };
    checker.check(&ended.claims, fault)?;
    unmount(mounted)
}

fn mount(disk: &Disk, on: &Path) -> Result<BackgroundSession, String> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("everfold-campaign".to_owned())];
    fuser::spawn_mount(disk.clone(), on, &config).map_err(|e| format!("mount {}: {e}", on.display()))
}

fn unmount(mounted: BackgroundSession) -> Result<(), String> {
    match mounted.umount_and_join() {
        // The kernel's answer to a read that the unmounting has cut short.
        Err(error) if error.kind() == ErrorKind::ConnectionAborted => Ok(()),
        result => result.map_err(|e| format!("unmount: {e}")),
    }
}
