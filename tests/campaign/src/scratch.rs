//! A directory for the stores of a campaign, removed at the end; stores that showed a violation are copied first.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::run;

#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(parent: Option<&Path>, name: &str) -> Result<Scratch, String> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("everfold-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("could not create {}: {e}", path.display()))?;
        Ok(Scratch { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn remove(&self, dir: &Path) -> Result<(), String> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("could not remove {}: {error}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// Tells of a violation, and keeps a copy of the store that shows it.
    pub(crate) fn keep(&self, dir: &Path, name: &str, what: impl Display) -> Result<(), String> {
        let to = std::env::temp_dir().join(format!("everfold-violation-{name}-{}", std::process::id()));
        println!("VIOLATION {what}; the store is kept in {}", to.display());
        if dir.exists() { run(Command::new("cp").arg("-a").arg(dir).arg(&to)) } else { Ok(()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove(&self.path) {
            eprintln!("campaign: {error}");
        }
    }
}
