//! everfold's views.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use everfold::{
    ApplyError, Batch, Durability, Event, Expected, Fold, Options, Position, Projection, ProjectionOptions,
    RecordedEvent, Store, View, ViewBatch,
};
use tempfile::TempDir;

use super::{Purchase, purchases, tally};
use crate::peer::Outcome;
use crate::workload::{Contender, Kind, Setting, Workload};

/// Longer than anything takes.
const WAIT: Duration = Duration::from_secs(600);
const TYPE: &str = "purchased";

/// The sum of what was bought for each customer and item. Of many that are alike, each has a number.
struct Sold<const NUMBER: usize>;

/// The names of those that run at once.
const NAMES: [&str; 17] = [
    "sold", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15",
    "s16",
];

impl<const NUMBER: usize> Projection for Sold<NUMBER> {
    const NAME: &'static str = NAMES[NUMBER];
    const GENERATION: u32 = 1;
    type Key = (u32, u32);
    type Value = i64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<(u32, u32), i64>) -> Result<(), ApplyError> {
        let (customer, item, quantity): Purchase = event.decode()?;
        view.merge((customer, item), quantity, |sum, quantity| *sum += quantity)
    }
}

type Started = Result<View<(u32, u32), i64>, everfold::Error>;
/// Registers one of sixteen.
type Start = fn(&Store) -> Started;

macro_rules! starts {
    ($($number:literal)*) => { [$(|store| store.project(Sold::<$number>)),*] };
}

const STARTS: [Start; 16] = starts!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);

/// Makes a store of purchases.
pub(super) fn fill(dir: &TempDir, purchases: &[Purchase]) -> Outcome<()> {
    let store = Store::open(dir.path())?;
    for chunk in purchases.chunks(1000) {
        let mut batch = Batch::new().durability(Durability::Deferred);
        for purchase in chunk {
            batch = batch.event(format!("customer-{}", purchase.0 % 1000), Event::bincode(TYPE, purchase)?);
        }
        store.append_batch(batch)?;
    }
    store.close()?;
    Ok(())
}

fn check(view: &View<(u32, u32), i64>, wanted: (u64, u64)) -> Outcome<()> {
    let rows = view.iter().collect::<Result<Vec<_>, _>>()?;
    if tally(rows) == wanted { Ok(()) } else { Err("everfold: the rows are wrong".into()) }
}

/// A fold of the events in a log: into a map, and into a view that is durable.
pub(super) fn replay(dir: &Rc<TempDir>, purchases: &[Purchase], wanted: (u64, u64)) -> Vec<Contender> {
    let (log, count) = (dir.clone(), purchases.len() as f64);
    let map = Contender::new("HashMap, of the log", Kind::Raw, move || {
        let store = Options::new().read_only(true).open(log.path())?;
        let (start, mut sums) = (Instant::now(), HashMap::new());
        for event in store.read(Position::START) {
            let (customer, item, quantity): Purchase = event?.decode()?;
            *sums.entry((customer, item)).or_insert(0) += quantity;
        }
        let rate = count / start.elapsed().as_secs_f64();
        if tally(sums) != wanted {
            return Err("the sums are wrong".into());
        }
        Ok(rate)
    });
    let build = |name, start: Box<dyn Fn(&Store) -> Started>| {
        let dir = dir.clone();
        Contender::new(name, Kind::Own, move || {
            let store = Store::open(dir.path())?;
            let clock = Instant::now();
            let view = start(&store)?;
            view.wait_for(store.watermark(), WAIT)?;
            view.sync()?;
            let rate = count / clock.elapsed().as_secs_f64();
            check(&view, wanted)?;
            store.drop_view("sold")?;
            store.close()?;
            Ok(rate)
        })
    };
    let one = ProjectionOptions::new().build_threads(1);
    vec![
        map,
        build("everfold", Box::new(|store| store.project(Sold::<0>))),
        build("everfold, declared fold", Box::new(|store| store.project_fold(declared()))),
        build(
            "everfold, the same by 1 thread",
            Box::new(move |store| store.project_fold_with(declared(), one.clone())),
        ),
    ]
}

/// The same sum, declared: built by as many threads as there are cores.
fn declared() -> Fold<(u32, u32), i64> {
    let bought = Fold::new("sold", 1).decode::<Purchase>();
    bought.key_by(|bought| (bought.0, bought.1)).sum(|bought| bought.2 as i32)
}

/// How long it takes until an append has been applied, beside the append alone; the middle of many.
pub(crate) fn visible(setting: &Setting) -> Workload {
    let alone = latency(setting, "everfold, durable append", Kind::Raw, |_, _| Ok(()));
    let waited = latency(setting, "everfold, until it is visible", Kind::Own, |view, position| {
        Ok(view.wait_for(position, WAIT)?)
    });
    let title = "append one event, and read it in a view";
    Workload { key: "visible", title, unit: "ms", contenders: vec![alone, waited] }
}

fn latency(
    setting: &Setting,
    name: &str,
    kind: Kind,
    wait: impl Fn(&View<(u32, u32), i64>, Position) -> Outcome<()> + 'static,
) -> Contender {
    let setting = setting.clone();
    Contender::new(name, kind, move || {
        let dir = setting.directory()?;
        let store = Store::open(dir.path())?;
        let view = store.project(Sold::<0>)?;
        let (start, mut taken) = (Instant::now(), Vec::new());
        for purchase in purchases(1 << 20, 10_000) {
            let event = Event::bincode(TYPE, &purchase)?;
            let one = Instant::now();
            let done = store.append("purchases", Expected::Any, [event])?;
            wait(&view, done.position)?;
            taken.push(one.elapsed());
            if start.elapsed() >= setting.turn {
                break;
            }
        }
        view.wait_for(store.watermark(), WAIT)?;
        store.close()?;
        taken.sort_unstable();
        Ok(taken.get(taken.len() / 2).ok_or("no append")?.as_secs_f64() * 1000.0)
    })
}

/// The same projection once, and sixteen times at once.
pub(crate) fn at_once(setting: &Setting) -> Outcome<Workload> {
    let dir = Rc::new(setting.directory()?);
    let purchases = purchases(300_000, 100);
    fill(&dir, &purchases)?;
    let contenders = [(1, "everfold, 1 projection", Kind::Raw), (16, "everfold, 16 projections", Kind::Own)];
    let contenders = contenders.map(|(count, name, kind)| {
        let dir = dir.clone();
        Contender::new(name, kind, move || {
            let store = Options::new().view_cache_bytes(1 << 20).open(dir.path())?;
            let mut views = Vec::new();
            for start in STARTS.iter().take(count) {
                let view = start(&store)?;
                view.pause()?;
                views.push(view);
            }
            let left: u64 = views.iter().map(|view| view.status().lag).sum();
            let start = Instant::now();
            views.iter().try_for_each(|view| view.resume())?;
            for view in &views {
                view.wait_for(store.watermark(), WAIT)?;
            }
            let rate = left as f64 / start.elapsed().as_secs_f64();
            for name in NAMES.iter().skip(1).take(count) {
                store.drop_view(name)?;
            }
            store.close()?;
            Ok(rate)
        })
    });
    Ok(Workload {
        key: "at-once",
        title: "replay 300 k purchases, events applied by all projections together",
        unit: "events/s",
        contenders: contenders.into(),
    })
}
