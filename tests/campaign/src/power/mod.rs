//! Cuts the power of real file systems under a process that appends and projects.
//!
//! The file system is shut down without writing its log: what is not on its device by then never gets there. The
//! device is a file, so what was given to the device is there, synced or not: that a device may lose what it was not
//! told to flush is for the campaign `fuse`.

pub(crate) mod loop_mount;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use everfold::Durability;

use crate::chance::Chance;
use crate::check::{Checker, Counts, Fault};
use crate::child::{Process, run};
use crate::figure::Figures;
use crate::kill::{OPENING, worker};
use crate::scratch::Scratch;
use loop_mount::{FileSystem, Mount};

/// After how many cuts a new store is made, and after how many stores a new file system.
const LIVES: u32 = 10;
const STORES: u32 = 3;
/// One life in four is long enough for views to be made durable by themselves.
const SHORT_MS: u64 = 500;
const LONG_MS: u64 = 2500;

/// Power cuts on ext4 and XFS: nothing acknowledged as durable is lost (Linux, root).
#[derive(Debug, Args)]
pub(crate) struct Power {
    /// Only this file system.
    #[arg(long)]
    fs: Option<FileSystem>,
    /// How many cuts on each.
    #[arg(long, default_value_t = 100)]
    cuts: u64,
    /// Where images and stores are made (default: the system's directory for temporary files).
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Draw the same instants again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Power {
    pub(crate) fn run(&self, figures: &mut Figures) -> Result<(), String> {
        for fs in [FileSystem::Ext4, FileSystem::Xfs] {
            if self.fs.is_none_or(|only| only == fs) {
                let name = format!("power_cuts_{}", fs.name());
                match possible(fs) {
                    Ok(()) => self.cut(fs, &name, figures)?,
                    Err(why) => Figures::skipped(&name, why),
                }
            }
        }
        Ok(())
    }

    fn cut(&self, fs: FileSystem, name: &str, figures: &mut Figures) -> Result<(), String> {
        let scratch = Scratch::new(self.dir.as_deref(), name)?;
        let image = scratch.path().join("image");
        let (mut chance, mut counts, started) = (Chance::new(self.seed), Counts::default(), Instant::now());
        let (mut cuts, mut violations, mut stores) = (0, 0, 0);
        while cuts < self.cuts {
            if stores % STORES == 0 {
                fs.make(&image)?;
            }
            let on = scratch.path().join("mnt");
            let dir = on.join(format!("store-{stores}"));
            stores += 1;
            let mut checker = Checker::new(&dir, true);
            for life in 0..LIVES.min(u32::try_from(self.cuts - cuts).unwrap_or(LIVES)) {
                cuts += 1;
                if let Err(what) = self.life(&image, &on, &dir, life, &mut checker, &mut chance) {
                    violations += 1;
                    let mount = Mount::new(&image, &on)?;
                    scratch.keep(&dir, &format!("{name}-{violations}"), what)?;
                    mount.unmount()?;
                    break;
                }
            }
            counts.add(checker.counts);
            checker.rebuilt.iter().for_each(|why| println!("REBUILT {why}"));
        }
        println!("{}: {stores} stores in {:.0} s; {counts}", fs.name(), started.elapsed().as_secs_f64());
        figures.count(name, cuts, 100);
        counts.tell(name, figures);
        figures.none(&format!("{name}_violations"), violations);
        Ok(())
    }

    /// One life, its end, and what it left on the device.
    fn life(
        &self,
        image: &Path,
        on: &Path,
        dir: &Path,
        life: u32,
        checker: &mut Checker,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let mount = Mount::new(image, on)?;
        let mut process = Process::start(&mut worker(dir, life, checker.last(), chance)?)?;
        if !chance.once_in(3) {
            process.wait_until_open(OPENING)?;
        }
        let longest = if chance.once_in(4) { LONG_MS } else { SHORT_MS };
        if process.wait(Duration::from_micros(chance.below(longest * 1000)))?.is_none() {
            // An fdatasync that is under way when ext4 is shut down can return without an error and without having synced
            // (3 times in 40 for a loop of nothing but writes and syncs). Who loses power does not live to hear that.
            process.stop()?;
        }
        mount.cut_power()?;
        process.kill()?;
        let ended = process.end()?;
        mount.unmount()?;
        let mount = Mount::new(image, on)?;
        if ended.broke() {
            return Err(format!("life {life} ended with {}: {}", ended.status, ended.told));
        }
        let fault = Fault { keeps: Durability::Durable, only_look: chance.once_in(2) };
        checker.check(&ended.claims, fault).map_err(|what| format!("life {life}: {what}"))?;
        mount.unmount()
    }
}

/// Why power cannot be cut here, if it cannot.
fn possible(fs: FileSystem) -> Result<(), String> {
    let scratch = Scratch::new(None, "probe")?;
    let image = scratch.path().join("image");
    run(Command::new("xfs_io").arg("-V")).and_then(|()| fs.make(&image)).and_then(|()| {
        let mount = Mount::new(&image, &scratch.path().join("mnt"))?;
        mount.cut_power()?;
        mount.unmount()
    })
}
