//! A view of ten million keys: how much memory and disk it takes. In a process of its own, so that nothing else counts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use everfold::{ApplyError, Batch, Durability, Event, Options, Projection, RecordedEvent, Store, ViewBatch};

use crate::peer::Outcome;
use crate::report::short;
use crate::workload::Setting;

/// The argument that makes this program the child.
pub(crate) const CHILD: &str = "--large-view";
const KEYS: u64 = 10_000_000;
const WAIT: Duration = Duration::from_secs(3600);

/// The last amount for each account: keys come in no order.
struct Amounts;

impl Projection for Amounts {
    const NAME: &'static str = "amounts";
    const GENERATION: u32 = 1;
    type Key = u64;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u64, u64>) -> Result<(), ApplyError> {
        let (account, amount): (u64, u64) = event.decode()?;
        view.put(account, amount);
        Ok(())
    }
}

/// An account, each once, in no order: the multiplier is odd.
fn account(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Fills a store, then lets a child make the view, and prints what it took.
pub(crate) fn large(setting: &Setting) -> Outcome<()> {
    let dir = setting.directory()?;
    let store = Store::open(dir.path())?;
    for first in (0..KEYS).step_by(1000) {
        let mut batch = Batch::new().durability(Durability::Deferred);
        for number in first..first + 1000 {
            batch = batch.event("accounts", Event::bincode("set", &(account(number), number))?);
        }
        store.append_batch(batch)?;
    }
    store.close()?;
    let child = Command::new(std::env::current_exe()?).arg(CHILD).arg(dir.path()).status()?;
    if child.success() { Ok(()) } else { Err("the child that makes a large view failed".into()) }
}

/// What the child does.
pub(crate) fn make(dir: &Path) -> Outcome<()> {
    let store = Options::new().open(dir)?;
    let before = resident("VmRSS:")?;
    let start = Instant::now();
    let view = store.project(Amounts)?;
    let mut highest = 0;
    while view.wait_for(store.watermark(), Duration::from_millis(50)).is_err() {
        if start.elapsed() > WAIT {
            return Err("the view does not catch up".into());
        }
        // Maps of the log count as resident: what is anonymous is what the view takes.
        highest = highest.max(resident("RssAnon:")?);
    }
    view.sync()?;
    let taken = start.elapsed();
    highest = highest.max(resident("RssAnon:")?);
    for number in (0..KEYS).step_by(9973) {
        if view.get(&account(number))? != Some(number) {
            return Err(format!("the row of {number} is wrong").into());
        }
    }
    if view.len() != KEYS {
        return Err("rows are missing".into());
    }
    let rest = resident("RssAnon:")?;
    store.close()?;
    // Key and value, each with the byte in front of it.
    let rows = KEYS * 18;
    let on_disk = size(&dir.join("views"))?;
    println!("\na view of 10 M keys");
    println!("  made at {} events/s", short(KEYS as f64 / taken.as_secs_f64()));
    println!(
        "  memory before {} MB, at most {} MB, afterwards {} MB",
        before >> 20,
        highest >> 20,
        rest >> 20
    );
    println!("  on disk {} MB, {:.2} of the rows' bytes", on_disk >> 20, on_disk as f64 / rows as f64);
    Ok(())
}

/// A line of `/proc/self/status`, in bytes.
fn resident(name: &str) -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.split_whitespace().next().ok_or("no number")?.parse::<u64>()? << 10)
}

fn size(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
