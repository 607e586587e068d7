//! A copy of the source, in which bugs are planted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::list::Mutant;

/// Whatever takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) struct Tree {
    root: PathBuf,
    target: PathBuf,
}

/// What a program said.
pub(super) struct Said {
    pub(super) success: bool,
    pub(super) text: String,
}

impl Tree {
    /// Copies what git knows of, as it is now. What is built there is kept for the next time.
    pub(super) fn copy(source: &Path, target: &Path) -> Result<Self, String> {
        let root = target.join("mutants");
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(source)
            .output()
            .map_err(|e| format!("git ls-files: {e}"))?;
        if !listed.status.success() {
            return Err("git ls-files failed: the source has to be a working tree".into());
        }
        for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (source.join(name), root.join(name));
            let Ok(mut bytes) = fs::read(&from) else { continue };
            if name == "Cargo.toml" {
                // It may lie in the folder of another package, whose workspace it is not of.
                bytes.extend_from_slice(b"\n[workspace]\n");
            }
            // What is the same keeps its time, and is not built again.
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            let folder = to.parent().unwrap_or(&root);
            fs::create_dir_all(folder).map_err(|e| format!("make {}: {e}", folder.display()))?;
            fs::write(&to, bytes).map_err(|e| format!("write {}: {e}", to.display()))?;
        }
        // Of its own: a build in another folder would take what is built here for its own.
        Ok(Tree { root, target: target.join("mutants-built") })
    }

    /// Plants a bug, acts, and takes it out again.
    pub(super) fn with<T>(
        &self,
        mutant: &Mutant,
        act: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let path = self.root.join(mutant.file);
        let named = |what: String| format!("{}: {what}", mutant.name);
        let text = fs::read_to_string(&path).map_err(|e| named(format!("read {}: {e}", mutant.file)))?;
        let there = text.matches(mutant.old).count();
        if there != 1 {
            return Err(named(format!("what it replaces stands {there} times in {}", mutant.file)));
        }
        let write =
            |text: &str| fs::write(&path, text).map_err(|e| named(format!("write {}: {e}", mutant.file)));
        write(&text.replace(mutant.old, mutant.new))?;
        let result = act().map_err(named);
        write(&text)?;
        result
    }

    pub(super) fn build_campaign(&self) -> Result<(), String> {
        let manifest = self.root.join("tests/campaign/Cargo.toml");
        let said = self.run(
            Command::new("cargo")
                .args(["build", "--quiet", "--profile", "mutant", "--manifest-path"])
                .arg(manifest),
        )?;
        if said.success { Ok(()) } else { Err(format!("it does not compile: {}", said.text)) }
    }

    pub(super) fn simulate(&self, crashes: u64) -> Result<Said, String> {
        let program = self.target.join("mutant/everfold-campaign");
        self.run(
            Command::new(program).args(["simulate", "--enough", "1", "--crashes"]).arg(crashes.to_string()),
        )
    }

    /// Builds the tests in one place: `--test it`, or `--lib`.
    pub(super) fn build_tests(&self, place: &[&str]) -> Result<(), String> {
        let said = self.run(self.cargo_test(place).arg("--no-run"))?;
        if said.success { Ok(()) } else { Err(format!("it does not compile: {}", said.text)) }
    }

    pub(super) fn test(&self, place: &[&str], name: &str) -> Result<Said, String> {
        self.run(self.cargo_test(place).args(["--", name]))
    }

    fn cargo_test(&self, place: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.arg("test").args(place);
        command
    }

    /// Runs a program in the tree; an error when it does not end.
    fn run(&self, command: &mut Command) -> Result<Said, String> {
        let (out, log) = (self.root.join("out.txt"), self.root.join("err.txt"));
        let file = |path: &Path| fs::File::create(path).map_err(|e| format!("make {}: {e}", path.display()));
        let mut child = command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_TERM_COLOR", "never")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(file(&out)?)
            .stderr(file(&log)?)
            .spawn()
            .map_err(|e| format!("start {command:?}: {e}"))?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| format!("wait for {command:?}: {e}"))? {
                break status;
            }
            if started.elapsed() > PATIENCE {
                let _gone = child.kill().and_then(|()| child.wait());
                return Err(format!("{command:?} does not end"));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = format!("{}{}", read(&out).unwrap_or_default(), read(&log).unwrap_or_default());
        Ok(Said { success: status.success(), text })
    }
}
