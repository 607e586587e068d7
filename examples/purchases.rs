//! A shop's whole life with everfold, on real data: append, be killed, recover, resume, ask the views.
//!
//! ```sh
//! cargo run --release --example purchases              # in target/purchases-store
//! cargo run --release --example purchases -- my-store  # in a directory that is not there yet, or is empty
//! ```
//!
//! This program starts itself a second time. That child appends the 69,659 purchases of `fixtures/cdnow.csv`, and
//! is killed without warning part-way. The parent then opens the store, goes on where the log ends, and checks what
//! the two views say against the source.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use everfold::{
    Appended, ApplyError, Batch, Event, Options, Position, Projection, RecordedEvent, Store, Uuid, View,
    ViewBatch,
};
use serde::{Deserialize, Serialize};

type Outcome<T> = Result<T, Box<dyn Error>>;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/cdnow.csv");
const DEFAULT_STORE: &str = "target/purchases-store";
/// The argument that tells the second process what it is.
const CHILD: &str = "--append-until-killed";
/// Purchases in one batch: it is recorded whole or not at all, with one sync.
const BATCH: usize = 100;
/// The child is killed when it has reported so many purchases as durable.
const KILL_AT: usize = 30_000;
/// What the publishers of the data say is in it.
const PUBLISHED: Totals = Totals { purchases: 69_659, cds: 167_881, cents: 250_031_563 };

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => shop(&default_directory()?),
        [CHILD, directory] => append_until_killed(Path::new(directory)),
        [directory] if !directory.starts_with('-') => shop(Path::new(directory)),
        _ => Err("give no argument, or the directory to make the store in".into()),
    }
}

// ── What is stored ───────────────────────────────────────────────────────────────────────────────────────────────

/// The payload of an event, as JSON. It borrows from the event it is decoded from.
#[derive(Serialize, Deserialize)]
struct CdsPurchased<'a> {
    date: &'a str,
    qty: u64,
    cents: u64,
}

/// A line of the source: customer, date (YYYYMMDD), number of CDs, amount in cents.
struct Purchase {
    number: usize,
    customer: String,
    date: String,
    qty: u64,
    cents: u64,
}

impl Purchase {
    fn parse((index, line): (usize, &str)) -> Outcome<Self> {
        let [customer, date, qty, cents] = line.split(',').collect::<Vec<_>>()[..] else {
            return Err(format!("line {} of {SOURCE} has not four fields", index + 2).into());
        };
        let (customer, date) = (customer.to_owned(), date.to_owned());
        Ok(Purchase { number: index + 1, customer, date, qty: qty.parse()?, cents: cents.parse()? })
    }

    fn stream(&self) -> String {
        format!("customer-{}", self.customer)
    }

    /// The id is made from the purchase's number, not drawn at random: submitting a purchase again after an unclear
    /// outcome is recognised, and records nothing twice.
    fn event(&self) -> Outcome<Event> {
        let id = Uuid::from_u128(0xcd00_0000_0000_8000_8000_0000_0000_0000 + u128::try_from(self.number)?);
        let (year, month) = year_and_month(&self.date)?;
        let payload = CdsPurchased { date: &self.date, qty: self.qty, cents: self.cents };
        Ok(Event::json("CdsPurchased", &payload)?.tag(format!("month:{year}-{month:02}")).id(id))
    }
}

fn year_and_month(date: &str) -> Result<(u16, u8), ParseIntError> {
    let digits = |range| date.get(range).unwrap_or_default();
    Ok((digits(0..4).parse()?, digits(4..6).parse()?))
}

fn read_source() -> Outcome<Vec<Purchase>> {
    let text = fs::read_to_string(SOURCE).map_err(|e| format!("{SOURCE}: {e}"))?;
    text.lines().skip(1).enumerate().map(Purchase::parse).collect()
}

// ── What is asked of it: two projections, each a fold from events to rows ────────────────────────────────────────

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    purchases: u64,
    cds: u64,
    cents: u64,
}

impl Totals {
    fn plus(self, other: Totals) -> Totals {
        Totals {
            purchases: self.purchases + other.purchases,
            cds: self.cds + other.cds,
            cents: self.cents + other.cents,
        }
    }
}

/// What each customer bought.
struct ByCustomer;

impl Projection for ByCustomer {
    const NAME: &'static str = "by-customer";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = Totals;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<String, Totals>) -> Result<(), ApplyError> {
        let Some(customer) = event.stream().strip_prefix("customer-") else { return Ok(()) };
        let CdsPurchased { qty, cents, .. } = event.decode()?;
        let this = Totals { purchases: 1, cds: qty, cents };
        view.update(customer.to_owned(), |before| Some(before.unwrap_or_default().plus(this)))
    }
}

/// What was bought in each month. The key is (year, month), so the rows are in the order of time.
struct ByMonth;

impl Projection for ByMonth {
    const NAME: &'static str = "by-month";
    const GENERATION: u32 = 1;
    type Key = (u16, u8);
    type Value = Totals;

    fn apply(
        &self,
        event: &RecordedEvent,
        view: &mut ViewBatch<(u16, u8), Totals>,
    ) -> Result<(), ApplyError> {
        let CdsPurchased { date, qty, cents } = event.decode()?;
        let this = Totals { purchases: 1, cds: qty, cents };
        view.update(year_and_month(date)?, |before| Some(before.unwrap_or_default().plus(this)))
    }
}

struct Views {
    by_customer: View<String, Totals>,
    by_month: View<(u16, u8), Totals>,
}

/// Opens the store, creating it if there is none, and starts both projections in the background.
fn open(directory: &Path) -> Outcome<(Store, Views)> {
    // Segments smaller than the default of 64 MiB, so that this log is long enough to have several.
    let store = Options::new().segment_size(2 << 20).open(directory)?;
    let views = Views { by_customer: store.project(ByCustomer)?, by_month: store.project(ByMonth)? };
    Ok((store, views))
}

/// One batch, many streams: durable when this returns.
fn append(store: &Store, purchases: &[Purchase]) -> Outcome<Appended> {
    let mut batch = Batch::new();
    for purchase in purchases {
        batch = batch.event(purchase.stream(), purchase.event()?);
    }
    Ok(store.append_batch(batch)?)
}

// ── The child ────────────────────────────────────────────────────────────────────────────────────────────────────

fn append_until_killed(directory: &Path) -> Outcome<()> {
    let (store, _views) = open(directory)?;
    for purchases in read_source()?.chunks(BATCH) {
        let done = append(&store, purchases)?;
        // Said only now: what is on the disk is what may be relied upon.
        println!("{}", done.position);
    }
    Ok(())
}

/// Runs the child and kills it part-way. Returns how many purchases it had reported as durable.
fn run_child(directory: &Path) -> Outcome<usize> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([Path::new(CHILD), directory])
        .stdout(Stdio::piped())
        .spawn()?;
    let reports = child.stdout.take().ok_or("the child has no output")?;
    let mut acknowledged = 0;
    for line in BufReader::new(reports).lines() {
        acknowledged = line?.parse()?;
        if acknowledged == KILL_AT {
            child.kill()?; // SIGKILL: no signal handler, no destructor, no flush
        }
    }
    let status = child.wait()?;
    if status.success() || acknowledged < KILL_AT {
        return Err(format!("the child was to be killed part-way, but ended with: {status}").into());
    }
    println!(
        "the child ended with: {status}; it had reported {} purchases as durable",
        grouped(acknowledged)?
    );
    Ok(acknowledged)
}

// ── The parent ───────────────────────────────────────────────────────────────────────────────────────────────────

fn shop(directory: &Path) -> Outcome<()> {
    let purchases = read_source()?;
    println!("{} purchases to append, {BATCH} in a batch, one sync a batch", grouped(purchases.len())?);
    let started = Instant::now();
    let acknowledged = run_child(directory)?;
    report_rate("the child appended", acknowledged, started.elapsed())?;

    println!("\nopening the store again");
    let (store, views) = open(directory)?;
    println!("recovery: {}", store.recovery());
    let found = usize::try_from(store.watermark().get())?;
    if found < acknowledged {
        return Err(format!("lost {} purchases that were durable", acknowledged - found).into());
    }
    for view in store.views() {
        println!("view {}: {} rows, at position {}", view.name, view.rows, view.checkpoint);
    }
    let last = resume(&store, &purchases, found)?;

    let waited = Instant::now();
    views.by_customer.wait_for(last, Duration::from_secs(120))?;
    views.by_month.wait_for(last, Duration::from_secs(120))?;
    println!("both views had applied the last purchase {:.0} ms later", waited.elapsed().as_secs_f64() * 1e3);
    print_views(&views)?;
    check(&views, &purchases)?;
    store.close()?;
    println!(
        "\nall of it took {:.1} s. Next, look at the events themselves:",
        started.elapsed().as_secs_f64()
    );
    println!("  cargo run --release --features cli -- dump {} --limit 5", directory.display());
    Ok(())
}

/// Appends what the log does not hold yet. Batches are whole or absent, so the number of events says where to go on.
fn resume(store: &Store, purchases: &[Purchase], found: usize) -> Outcome<Position> {
    let (recorded, rest) = purchases.split_at_checked(found).ok_or("the store has more than the source")?;
    let again = append(store, recorded.get(found.saturating_sub(BATCH)..).unwrap_or_default())?;
    println!(
        "the last batch submitted once more: recognised by its event ids = {}, the log still ends at {}",
        again.repeated,
        store.watermark()
    );
    let started = Instant::now();
    let mut last = store.watermark();
    for batch in rest.chunks(BATCH) {
        last = append(store, batch)?.position;
    }
    report_rate("resumed: appended the other", rest.len(), started.elapsed())?;
    Ok(last)
}

fn print_views(views: &Views) -> Outcome<()> {
    let mut customers = views.by_customer.iter().collect::<Result<Vec<_>, _>>()?;
    customers.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.cents));
    println!("\ncustomer   purchases     CDs         spent");
    for (customer, totals) in customers.iter().take(5) {
        println!(
            "{customer:<8} {:>11} {:>7} {:>13}",
            totals.purchases,
            grouped(totals.cds)?,
            dollars(totals.cents)?
        );
    }
    println!("\nmonth      purchases     CDs         spent");
    for row in views.by_month.iter() {
        let ((year, month), totals) = row?;
        let (purchases, cds) = (grouped(totals.purchases)?, grouped(totals.cds)?);
        println!("{year}-{month:02} {purchases:>13} {cds:>7} {:>13}", dollars(totals.cents)?);
    }
    Ok(())
}

/// Holds every row of both views against a fold of the source in memory, and the sums against the published ones.
fn check(views: &Views, purchases: &[Purchase]) -> Outcome<()> {
    let mut by_customer: BTreeMap<String, Totals> = BTreeMap::new();
    let mut by_month: BTreeMap<(u16, u8), Totals> = BTreeMap::new();
    for Purchase { customer, date, qty, cents, .. } in purchases {
        let this = Totals { purchases: 1, cds: *qty, cents: *cents };
        let customer = by_customer.entry(customer.clone()).or_default();
        *customer = customer.plus(this);
        let month = by_month.entry(year_and_month(date)?).or_default();
        *month = month.plus(this);
    }
    let sum = |totals: &mut dyn Iterator<Item = Totals>| totals.fold(Totals::default(), Totals::plus);
    let customers = views.by_customer.iter().collect::<Result<BTreeMap<_, _>, _>>()?;
    let months = views.by_month.iter().collect::<Result<BTreeMap<_, _>, _>>()?;
    let found = sum(&mut customers.values().copied());
    println!(
        "\n{} customers, {} months: {} CDs for {}",
        grouped(customers.len())?,
        months.len(),
        grouped(found.cds)?,
        dollars(found.cents)?
    );
    let checks = [
        ("every customer's totals equal the source's", customers == by_customer),
        ("every month's totals equal the source's", months == by_month),
        ("the sums over customers are the published ones", found == PUBLISHED),
        ("so are the sums over months", sum(&mut months.values().copied()) == PUBLISHED),
    ];
    for (what, holds) in checks {
        println!("  {} {what}", if holds { "ok" } else { "WRONG" });
    }
    if checks.iter().all(|(_, holds)| *holds) { Ok(()) } else { Err("the views are wrong".into()) }
}

// ── Odds and ends ────────────────────────────────────────────────────────────────────────────────────────────────

/// The default directory, without what an earlier run has left there. Anything but an everfold store is left alone.
fn default_directory() -> Outcome<PathBuf> {
    let directory = PathBuf::from(DEFAULT_STORE);
    if directory.join("STORE").is_file() {
        fs::remove_dir_all(&directory)?;
    } else if directory.exists() && fs::read_dir(&directory)?.next().is_some() {
        return Err(format!("{DEFAULT_STORE} is not an everfold store: move it away, or name another").into());
    }
    Ok(directory)
}

fn report_rate(what: &str, purchases: usize, took: Duration) -> Outcome<()> {
    let seconds = took.as_secs_f64();
    let rate = f64::from(u32::try_from(purchases)?) / seconds.max(1e-9);
    println!("{what} {} purchases in {seconds:.2} s: {rate:.0} a second", grouped(purchases)?);
    Ok(())
}

fn dollars(cents: u64) -> Outcome<String> {
    Ok(format!("${}.{:02}", grouped(cents / 100)?, cents % 100))
}

/// 1234567 as `1,234,567`.
fn grouped(number: impl ToString) -> Outcome<String> {
    let digits = number.to_string();
    let groups: Result<Vec<&str>, _> = digits.as_bytes().rchunks(3).rev().map(std::str::from_utf8).collect();
    Ok(groups?.join(","))
}
