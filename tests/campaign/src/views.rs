//! Damages the files of a view in thousands of ways, each time looking that the view is right in the end, and that the
//! log and the other view are as they were. In a child process, so that one that aborts or hangs is seen and counted.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use clap::Args;

use crate::figure::Figures;
use crate::view_cases::{DAMAGED, Damage, Outcome, Specimens, damages};

/// No single case takes so long.
const STUCK: Duration = Duration::from_secs(180);
/// The goal of the issue: so many damages at least.
const GOAL: u64 = 2000;

#[derive(Debug, Args)]
pub(crate) struct Views {
    /// Flipped bits in each file; more than it has flips each bit of its used part.
    #[arg(long, default_value_t = 320)]
    flips: u64,
    /// Lengths that each file is cut to, and places that are overwritten.
    #[arg(long, default_value_t = 40)]
    cuts: u64,
    /// Where the stores are made; a directory that is not there yet, and is removed at the end.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Leaves the digest of the rows out, and tells how many views are wrong then.
    #[arg(long)]
    unverified: bool,
    /// For the child: the first case.
    #[arg(long, hide = true)]
    from: Option<usize>,
}

pub(crate) fn run(options: &Views, figures: &mut Figures) -> Result<(), String> {
    let default = std::env::temp_dir().join(format!("everfold-views-{}", std::process::id()));
    let work = options.work.clone().unwrap_or(default);
    if let Some(from) = options.from {
        return child(options, &work, from);
    }
    let specimens = Specimens::make(&work)?;
    let cases = cases(&specimens, options)?;
    let mut count = Count::default();
    let mut next = 0;
    while next < cases.len() {
        next = count.follow(start(options, &work, next)?, &cases, next)?;
    }
    std::fs::remove_dir_all(&work).map_err(|e| format!("remove {}: {e}", work.display()))?;
    figures.count("view_damages", count.damages, GOAL);
    figures.count("view_damages_served", count.served, 1);
    figures.count("view_damages_made_anew", count.made_anew, 1);
    if options.unverified {
        figures.count("wrong_views_unverified", count.wrong, 0);
        return Ok(());
    }
    figures.none("wrong_views", count.wrong);
    figures.none("view_panics_escaped", count.escaped);
    figures.none("view_hangs", count.hung);
    figures.count("view_panics_contained", count.panics, 1);
    figures.count("view_panics_of_sleds_threads", count.panics_of_sleds_threads, 0);
    Ok(())
}

fn cases(specimens: &Specimens, options: &Views) -> Result<Vec<(&'static str, Damage)>, String> {
    let mut cases = Vec::new();
    for store in DAMAGED {
        let damages = damages(specimens, store, options.flips, options.cuts).map_err(|e| e.to_string())?;
        cases.extend(damages.into_iter().map(|damage| (store, damage)));
    }
    Ok(cases)
}

/// Judges one case after the other, and says each outcome in a line.
fn child(options: &Views, work: &Path, from: usize) -> Result<(), String> {
    // A panic that is contained is counted; one that is not ends this process.
    std::panic::set_hook(Box::new(|_| {
        println!("panic {}", std::thread::current().name().unwrap_or_default())
    }));
    let specimens = Specimens::at(work).verified(!options.unverified);
    for (number, (store, damage)) in cases(&specimens, options)?.iter().enumerate().skip(from) {
        match specimens.judge(store, damage, &work.join("scratch")) {
            Ok(Outcome::Served) => println!("{number} served"),
            Ok(Outcome::MadeAnew) => println!("{number} anew"),
            Err(error) => println!("{number} {}", error.replace('\n', " ")),
        }
    }
    Ok(())
}

fn start(options: &Views, work: &Path, from: usize) -> Result<Running, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .arg("views")
        .args(["--flips", &options.flips.to_string(), "--cuts", &options.cuts.to_string()])
        .args(["--from", &from.to_string()])
        .args(options.unverified.then_some("--unverified"))
        .arg("--work")
        .arg(work)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start a child: {e}"))?;
    let out = child.stdout.take().ok_or("a child without output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    Ok(Running { child, lines })
}

struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

#[derive(Default)]
struct Count {
    damages: u64,
    served: u64,
    made_anew: u64,
    wrong: u64,
    escaped: u64,
    hung: u64,
    panics: u64,
    panics_of_sleds_threads: u64,
}

impl Count {
    /// Takes a child's outcomes; returns the case that the next child starts with.
    fn follow(
        &mut self,
        mut running: Running,
        cases: &[(&str, Damage)],
        from: usize,
    ) -> Result<usize, String> {
        let mut next = from;
        loop {
            match running.lines.recv_timeout(STUCK) {
                Ok(line) if line.starts_with("panic ") => {
                    self.panics += 1;
                    let ours = ["panic main", "panic everfold"].iter().any(|name| line.starts_with(name));
                    self.panics_of_sleds_threads += u64::from(!ours);
                }
                Ok(line) => {
                    let (number, outcome) =
                        line.split_once(' ').ok_or_else(|| format!("a child said {line:?}"))?;
                    next = number.parse::<usize>().map_err(|e| e.to_string())? + 1;
                    self.damages += 1;
                    match outcome {
                        "served" => self.served += 1,
                        "anew" => self.made_anew += 1,
                        wrong => {
                            self.wrong += 1;
                            eprintln!("{:?}: {wrong}", cases.get(next - 1));
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.hung += 1;
                    eprintln!("hangs: {:?}", cases.get(next));
                    running.child.kill().and_then(|()| running.child.wait()).map_err(|e| e.to_string())?;
                    return Ok(next + 1);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.child.wait().map_err(|e| e.to_string())?;
                    if next == cases.len() && status.success() {
                        return Ok(next);
                    }
                    self.escaped += 1;
                    eprintln!("{status}: {:?}", cases.get(next));
                    return Ok(next + 1);
                }
            }
        }
    }
}
