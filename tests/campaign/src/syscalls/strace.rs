//! Runs the process under test in strace, which counts its calls of the system and makes single ones fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child::{Ended, Process, this_program};

/// How long a run may take. Closing waits 20 s for a view's store that does not end.
const LIMIT: Duration = Duration::from_secs(60);

/// One run of the process under test: the same each time, as far as its threads allow.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) dir: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// The nth call of this name that a thread makes with one of the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) nth: u64,
}

impl Run {
    fn strace(&self, options: &[String]) -> Result<Command, String> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq"]).args(options).arg(this_program()?);
        command.arg("worker").arg(&self.dir).args(&self.arguments);
        Ok(command)
    }

    /// Runs to the end. A process that does not end is killed, and that is an error.
    fn finish(&self, options: &[String]) -> Result<Ended, String> {
        let mut process = Process::start(&mut self.strace(options)?)?;
        let in_time = process.wait(LIMIT)?.is_some();
        process.kill()?;
        let ended = process.end()?;
        if in_time { Ok(ended) } else { Err(format!("did not end in {} s: {}", LIMIT.as_secs(), ended.told)) }
    }

    /// The paths below the store's directory that the run names or has open.
    pub(crate) fn paths(&self, trace: &Path) -> Result<BTreeSet<String>, String> {
        let text = self.trace(trace, &[])?;
        let dir = self.dir.to_string_lossy();
        let starts = text.match_indices(&*dir).map(|(at, _)| &text[at..]);
        Ok(starts.filter_map(|rest| rest.split(['"', '>', '(']).next()).map(str::to_owned).collect())
    }

    /// Each call that uses one of the paths. Where several threads make the same call, their nth ones are one.
    pub(crate) fn calls(&self, trace: &Path, paths: &BTreeSet<String>) -> Result<Vec<Call>, String> {
        let text = self.trace(trace, &of(paths))?;
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for line in text.lines() {
            // `1234 openat(AT_FDCWD, …`; a call that was interrupted in the log is told a second time, as `<... resumed`.
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
            if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                *counts.entry((name, thread)).or_default() += 1;
            }
        }
        let mut most: BTreeMap<&str, u64> = BTreeMap::new();
        for ((name, _), count) in counts {
            let most = most.entry(name).or_default();
            *most = count.max(*most);
        }
        let calls = most.into_iter().flat_map(|(name, most)| (1..=most).map(move |nth| (name, nth)));
        Ok(calls.map(|(name, nth)| Call { name: name.to_owned(), nth }).collect())
    }

    /// A log of the whole run, as strace writes it with these options.
    pub(crate) fn trace(&self, trace: &Path, options: &[String]) -> Result<String, String> {
        let mut all = vec!["-y".to_owned(), "-o".to_owned(), trace.display().to_string()];
        all.extend_from_slice(options);
        let ended = self.finish(&all)?;
        if !ended.status.success() {
            return Err(format!(
                "the run without faults ended with {}: {:?}: {}",
                ended.status, ended.claims.errors, ended.told
            ));
        }
        let bytes = std::fs::read(trace).map_err(|e| format!("read {}: {e}", trace.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs with one call that fails, or at which the process is killed; whether the run came to that call.
    pub(crate) fn with_fault(
        &self,
        call: &Call,
        paths: &BTreeSet<String>,
        fault: &str,
        trace: &Path,
    ) -> Result<(Ended, bool), String> {
        let Call { name, nth } = call;
        // Not with --seccomp-bpf: strace 6.1 then sends no signals.
        let mut options = vec!["-o".to_owned(), trace.display().to_string()];
        options.extend(["-e".to_owned(), format!("trace={name}")]);
        options.extend(["-e".to_owned(), format!("inject={name}:{fault}:when={nth}")]);
        options.extend(of(paths));
        let ended = self.finish(&options)?;
        let log = std::fs::read(trace).map_err(|e| format!("read {}: {e}", trace.display()))?;
        let met = ended.was_killed() || String::from_utf8_lossy(&log).contains("(INJECTED)");
        Ok((ended, met))
    }
}

/// Options that restrict strace to calls with these paths.
fn of(paths: &BTreeSet<String>) -> Vec<String> {
    paths.iter().flat_map(|path| ["-P".to_owned(), path.clone()]).collect()
}
