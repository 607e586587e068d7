//! What is measured: workloads, each of some contenders that take turns.

pub(crate) mod crash;
pub(crate) mod deferred;
pub(crate) mod durable;
pub(crate) mod guarded;
pub(crate) mod reading;
pub(crate) mod tickets;
pub(crate) mod views;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::figures::{Measured, Row};
use crate::peer::Outcome;

/// How much is measured, and where.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// How often each contender has its turn.
    pub(crate) rounds: usize,
    /// How long a turn is.
    pub(crate) turn: Duration,
    /// Events in the store that is scanned.
    pub(crate) scanned: u64,
    /// Events in the stores of every engine that are opened after a kill.
    pub(crate) opened: u64,
    /// Events in a smaller and in a larger store of everfold's that are opened after a kill.
    pub(crate) opened_own: [u64; 2],
    /// Where stores are made.
    pub(crate) dir: PathBuf,
}

impl Setting {
    /// A new empty directory, removed when it is dropped.
    pub(crate) fn directory(&self) -> Outcome<TempDir> {
        Ok(tempfile::Builder::new().prefix("everfold-compare-").tempdir_in(&self.dir)?)
    }
}

/// Who a contender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What the machine allows.
    Raw,
    /// everfold.
    Own,
    /// Another engine.
    Peer,
}

/// One who takes turns.
pub(crate) struct Contender {
    name: String,
    kind: Kind,
    turn: Box<dyn FnMut() -> Outcome<f64>>,
}

impl Contender {
    /// A contender and what it does when it is its turn: it returns its figure.
    pub(crate) fn new(
        name: impl Into<String>,
        kind: Kind,
        turn: impl FnMut() -> Outcome<f64> + 'static,
    ) -> Self {
        Contender { name: name.into(), kind, turn: Box::new(turn) }
    }
}

/// Something to measure.
pub(crate) struct Workload {
    /// Its name for `--only`.
    pub(crate) key: &'static str,
    /// What is done, in words.
    pub(crate) title: &'static str,
    /// What the figures count.
    pub(crate) unit: &'static str,
    /// Everyone who does it.
    pub(crate) contenders: Vec<Contender>,
}

impl Workload {
    /// Lets everyone have their turns, round after round, each round starting with another one.
    pub(crate) fn run(mut self, rounds: usize) -> Outcome<Measured> {
        let count = self.contenders.len();
        let mut figures = vec![Vec::with_capacity(rounds); count];
        for round in 0..rounds {
            for place in 0..count {
                let who = (round + place) % count;
                let contender = &mut self.contenders[who];
                eprint!("\r{} {}/{rounds}: {:<32}", self.key, round + 1, contender.name);
                let figure =
                    (contender.turn)().map_err(|e| format!("{}, {}: {e}", self.key, contender.name))?;
                figures[who].push(figure);
            }
        }
        eprint!("\r{:<78}\r", "");
        let rows = self.contenders.into_iter().zip(figures);
        let rows = rows.map(|(who, figures)| Row { name: who.name, kind: who.kind, figures }).collect();
        Ok(Measured { key: self.key, title: self.title, unit: self.unit, rows })
    }
}

/// A turn's clock.
pub(crate) struct Clock {
    start: Instant,
    turn: Duration,
}

impl Clock {
    pub(crate) fn start(turn: Duration) -> Self {
        Clock { start: Instant::now(), turn }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.start.elapsed() >= self.turn
    }

    /// So many a second, from the start until now.
    pub(crate) fn rate(&self, count: usize) -> f64 {
        count as f64 / self.start.elapsed().as_secs_f64()
    }
}

/// How many inputs are built for a turn: few at first, then what the last turn's rate asks for.
pub(crate) struct Supply {
    first: usize,
    most: usize,
    rate: Option<f64>,
}

impl Supply {
    pub(crate) fn new(first: usize, most: usize) -> Self {
        Supply { first, most, rate: None }
    }

    /// Half as many again as were used at the last rate. Where they do not suffice the turn is shorter.
    pub(crate) fn inputs(&self, turn: Duration) -> u64 {
        let wanted = self.rate.map_or(0.0, |rate| rate * turn.as_secs_f64() * 1.5);
        (wanted as usize).clamp(self.first, self.most) as u64
    }

    /// Takes note of a turn's rate, and gives it back.
    pub(crate) fn learn(&mut self, rate: f64) -> f64 {
        self.rate = Some(rate);
        rate
    }
}

/// Warns where a sync costs nothing because there is no disk.
pub(crate) fn warn_without_disk(dir: &Path) -> Outcome<()> {
    const TMPFS: i64 = 0x0102_1994;
    #[expect(clippy::unnecessary_cast, reason = "the type differs between targets")]
    if rustix::fs::statfs(dir)?.f_type as i64 == TMPFS {
        eprintln!("warning: {} is in memory; give --dir with a directory on a disk", dir.display());
    }
    Ok(())
}
