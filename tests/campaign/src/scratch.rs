//! A directory for the stores of a campaign. It is removed at the end, but for stores that showed a violation.

use std::fs;
use std::path::{Path, PathBuf};

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

    /// Tells of a violation, and where to find the store that shows it.
    pub(crate) fn violation(&self, dir: &Path, what: impl std::fmt::Display) {
        println!("VIOLATION {what}; kept in {}", dir.display());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Fails if a store was kept in it, which is meant.
        drop(fs::remove_dir(&self.path));
    }
}
