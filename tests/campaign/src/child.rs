//! Other processes. One of this program is killed at the latest when nobody has it any more.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::claims::Claims;

/// What is kept of what a process wrote to its standard error.
const TOLD_BYTES: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Set when it says that it has opened its store.
    opened: Arc<AtomicBool>,
    said: Option<JoinHandle<Result<Claims, String>>>,
    told: Option<JoinHandle<String>>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) claims: Claims,
    /// The start of what it wrote to its standard error.
    pub(crate) told: String,
}

/// The path of this program, which is the process under test as well.
pub(crate) fn this_program() -> Result<String, String> {
    let path = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
    path.into_os_string().into_string().map_err(|path| format!("the path {path:?} is not UTF-8"))
}

impl Process {
    /// Starts a command whose standard output is that of a worker.
    pub(crate) fn start(command: &mut Command) -> Result<Process, String> {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .env("RUST_BACKTRACE", "0");
        let mut child = command.spawn().map_err(|e| format!("could not start {command:?}: {e}"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let opened = Arc::new(AtomicBool::new(false));
        let said = stdout.map(|stdout| {
            let opened = Arc::clone(&opened);
            std::thread::spawn(move || {
                let mut claims = Claims::default();
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    claims.line(&line)?;
                    opened.store(claims.opened, Ordering::Release);
                }
                Ok(claims)
            })
        });
        let told = stderr.map(|mut stderr| {
            std::thread::spawn(move || {
                let (mut start, mut rest) = (Vec::new(), std::io::sink());
                // What cannot be read any more is not missed.
                drop(stderr.by_ref().take(TOLD_BYTES).read_to_end(&mut start));
                drop(std::io::copy(&mut stderr, &mut rest));
                String::from_utf8_lossy(&start).into_owned()
            })
        });
        Ok(Process { child, opened, said, told })
    }

    /// Kills it, and what it has started.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        match kill_process_group(Pid::from_child(&self.child), Signal::KILL) {
            Err(error) if error != Errno::SRCH => Err(format!("could not kill the process: {error}")),
            _ => Ok(()),
        }
    }

    /// Stops all its threads: none of them comes back from the kernel to say anything any more.
    pub(crate) fn stop(&self) -> Result<(), String> {
        kill_process(Pid::from_child(&self.child), Signal::STOP)
            .map_err(|e| format!("could not stop the process: {e}"))
    }

    /// Waits for the end; `None` when it took longer than that.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, String> {
        let end = Instant::now() + limit;
        loop {
            let status = self.child.try_wait().map_err(|e| format!("could not wait for the process: {e}"))?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it has opened its store; whether it did, before it ended and in time.
    pub(crate) fn wait_until_open(&mut self, limit: Duration) -> Result<bool, String> {
        let end = Instant::now() + limit;
        while !self.opened.load(Ordering::Acquire) {
            if Instant::now() >= end || self.wait(Duration::ZERO)?.is_some() {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// Waits until the process is over and all of what it said is read.
    pub(crate) fn end(mut self) -> Result<Ended, String> {
        let status = self.child.wait().map_err(|e| format!("could not wait for the process: {e}"))?;
        let died = || "a thread that reads from the process panicked".to_owned();
        let said = self.said.take().ok_or_else(died)?.join().map_err(|_| died())?;
        let told = self.told.take().ok_or_else(died)?.join().map_err(|_| died())?;
        Ok(Ended { status, claims: said?, told })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither fails for a child that is there; one that was waited for is gone already.
        drop(self.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Whether it ended by a panic, an abort or the like: not by itself, by an error it told, or by being killed.
    pub(crate) fn broke(&self) -> bool {
        !self.was_killed() && !matches!(self.status.code(), Some(0 | 2))
    }
}

/// Runs a command to its end; what it says is an error.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|e| format!("could not start {command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}: {}", output.status, told.trim()))
}
