//! A file system in a file, mounted through a loop device; unmounted when nobody has it any more.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use crate::child::run;

/// Large enough for the smallest XFS.
const IMAGE_BYTES: u64 = 320 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }

    /// Makes an empty file system in a file.
    pub(crate) fn make(self, image: &Path) -> Result<(), String> {
        let file = std::fs::File::create(image).map_err(|e| format!("create {}: {e}", image.display()))?;
        file.set_len(IMAGE_BYTES).map_err(|e| format!("resize {}: {e}", image.display()))?;
        let mut mkfs = Command::new(format!("mkfs.{}", self.name()));
        run(mkfs.arg("-q").arg(if self == FileSystem::Ext4 { "-F" } else { "-f" }).arg(image))
    }
}

#[derive(Debug)]
pub(crate) struct Mount {
    on: PathBuf,
    mounted: bool,
}

impl Mount {
    pub(crate) fn new(image: &Path, on: &Path) -> Result<Mount, String> {
        std::fs::create_dir_all(on).map_err(|e| format!("create {}: {e}", on.display()))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(on))?;
        Ok(Mount { on: on.to_owned(), mounted: true })
    }

    /// Drops all that the file system has not written to its device: nothing gets there any more, and the log in memory
    /// is not written either.
    pub(crate) fn cut_power(&self) -> Result<(), String> {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.on))
    }

    pub(crate) fn unmount(mut self) -> Result<(), String> {
        let mut result = Ok(());
        // A process that was killed may hold its files for a moment.
        for _ in 0..50 {
            result = run(Command::new("umount").arg(&self.on));
            if result.is_ok() {
                self.mounted = false;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        result
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // The last resort: gone from the tree now, and from the system when nobody uses it any more.
            if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.on)) {
                eprintln!("campaign: {error}");
            }
        }
    }
}
