//! Opening a store whose process was killed. A child process fills it and is killed without a chance to close.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Contender, Kind, Setting, Workload};
use crate::fact::{Fact, Tally};
use crate::peer::{Level, Outcome, Peer, Use, verify};
use crate::peers::everfold_peer::Everfold;
use crate::peers::{commitlog::Commitlog, fjall::Fjall, okaywal::Okaywal, raft_engine::RaftEngine};
use crate::peers::{redb::Redb, sled::Sled, sqlite::Sqlite, umadb::Umadb};
use crate::raw::Raw;

/// The argument that makes this program the child.
pub(crate) const CHILD: &str = "--fill-and-wait";
/// The size of everfold's active segment.
const SEGMENT: u64 = 64 << 20;
const BATCH: usize = 1000;

/// Opening after a kill. Figures are milliseconds.
pub(crate) fn open(setting: &Setting) -> Outcome<Workload> {
    let events = setting.opened;
    let [small, large] = setting.opened_own;
    let contenders = vec![
        segment_scan(setting)?,
        opening::<Everfold>(setting, Kind::Own, small)?,
        opening::<Everfold>(setting, Kind::Own, large)?,
        opening::<Commitlog>(setting, Kind::Peer, events)?,
        opening::<RaftEngine>(setting, Kind::Peer, events)?,
        opening::<Okaywal>(setting, Kind::Peer, events)?,
        opening::<Fjall>(setting, Kind::Peer, events)?,
        opening::<Redb>(setting, Kind::Peer, events)?,
        opening::<Sled>(setting, Kind::Peer, events)?,
        opening::<Sqlite>(setting, Kind::Peer, events)?,
        opening::<Umadb>(setting, Kind::Peer, events)?,
    ];
    Ok(Workload { key: "open", title: "open after the process was killed", unit: "ms", contenders })
}

/// Mapped read and checksums of as many bytes as an active segment has.
fn segment_scan(setting: &Setting) -> Outcome<Contender> {
    let dir = setting.directory()?;
    let length = Fact::in_turn(1, 1000, 1000).record().len() as u64;
    let events = SEGMENT / length;
    let file = Raw::open(dir.path(), usage(events))?;
    file.append(&mut file.prepare(&facts(events).collect::<Vec<_>>())?)?;
    Ok(Contender::new("raw read + crc of 64 MiB", Kind::Raw, move || {
        let _kept = &dir;
        let mut found = Tally::default();
        let start = Instant::now();
        file.scan(&mut |payload| found.touch(payload))?;
        Ok(milliseconds(start.elapsed()))
    }))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn usage(events: u64) -> Use {
    Use { level: Level::Deferred, threads: 1, events }
}

fn facts(events: u64) -> impl Iterator<Item = Fact> {
    (1..=events).map(|number| Fact::in_turn(number, 1000, 1000))
}

/// Each turn opens a fresh copy of what the killed process left; the first turn also reads it all back.
fn opening<P: Peer + 'static>(setting: &Setting, kind: Kind, events: u64) -> Outcome<Contender> {
    let left = Rc::new(fill_and_kill::<P>(setting, events)?);
    let setting = setting.clone();
    let mut verified = false;
    Ok(Contender::new(format!("{}, {}", P::ABOUT.name, thousands(events)), kind, move || {
        let copy = setting.directory()?;
        copy_all(left.path(), copy.path())?;
        let start = Instant::now();
        let peer = P::open(copy.path(), usage(events))?;
        let elapsed = start.elapsed();
        if !verified {
            verify(&peer, Tally::of(&facts(events).collect::<Vec<_>>()))?;
            verified = true;
        }
        peer.close()?;
        Ok(milliseconds(elapsed))
    }))
}

/// `1,345 k`
fn thousands(events: u64) -> String {
    match (events / 1_000_000, events / 1000 % 1000) {
        (0, thousands) => format!("{thousands} k events"),
        (millions, thousands) => format!("{millions},{thousands:03} k events"),
    }
}

fn fill_and_kill<P: Peer>(setting: &Setting, events: u64) -> Outcome<TempDir> {
    eprint!("\rfilling, to be killed: {:<40}", P::ABOUT.name);
    let dir = setting.directory()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([CHILD, P::ABOUT.name, &events.to_string()])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().ok_or("a child without an output")?;
    BufReader::new(output).read_line(&mut line)?;
    // SIGKILL: nothing of the child's runs any more.
    child.kill()?;
    child.wait()?;
    if line.trim() != READY {
        return Err(format!("the process that fills {} failed", P::ABOUT.name).into());
    }
    Ok(dir)
}

const READY: &str = "ready";

/// What the child does: fills a store, says so, and waits to be killed.
pub(crate) fn fill_and_wait(name: &str, events: u64, dir: &Path) -> Outcome<()> {
    let engines: HashMap<&str, fn(&Path, u64) -> Outcome<()>> = HashMap::from([
        (Everfold::ABOUT.name, fill::<Everfold> as fn(&Path, u64) -> Outcome<()>),
        (Commitlog::ABOUT.name, fill::<Commitlog>),
        (RaftEngine::ABOUT.name, fill::<RaftEngine>),
        (Okaywal::ABOUT.name, fill::<Okaywal>),
        (Fjall::ABOUT.name, fill::<Fjall>),
        (Redb::ABOUT.name, fill::<Redb>),
        (Sled::ABOUT.name, fill::<Sled>),
        (Sqlite::ABOUT.name, fill::<Sqlite>),
        (Umadb::ABOUT.name, fill::<Umadb>),
    ]);
    engines.get(name).ok_or("no such engine")?(dir, events)
}

fn fill<P: Peer>(dir: &Path, events: u64) -> Outcome<()> {
    let peer = P::open(dir, usage(events))?;
    let mut facts = facts(events);
    loop {
        let some: Vec<_> = facts.by_ref().take(BATCH).collect();
        if some.is_empty() {
            break;
        }
        peer.append(&mut peer.prepare(&some)?)?;
    }
    peer.settle()?;
    writeln!(std::io::stdout(), "{READY}")?;
    // Longer than any parent lives: it kills this process.
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}

/// Copies a directory and waits for the disk, so that no opening has to write what the copy left.
fn copy_all(from: &Path, to: &Path) -> Outcome<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}
