//! Lives of a view made up at random, against a plain fold of a plain list: appends, pauses, rebuilds, snapshots that are
//! held, changes that are followed, events set aside and redriven, retention, reopenings, crashes, damaged files.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use everfold::{
    Changes, ErrorKind, Expected, MemoryStorage, Options, Position, ProjectionState, Retention, Snapshot,
    Store, View, ViewInspector,
};
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use crate::purchases::{
    Place, Purchase, Spent, Sums, add, decoded, event, image, number, open, project, purchase, rows,
};
use crate::view_cases::files;

/// Longer than anything takes: what hangs fails.
const LONG: Duration = Duration::from_secs(60);
const VIEW: &str = "views/spent/1";
#[derive(Clone, Debug)]
enum Op {
    Append(Vec<Purchase>),
    /// Registers the projection, if it is not.
    Project,
    Pause,
    Resume,
    Rebuild {
        wait: bool,
    },
    Hold,
    Follow,
    ReadChanges,
    /// Drops segments wholly before a part of the log, in 256ths.
    Retain(u8),
    Redrive,
    Verify,
    /// Reads the rows as another process would.
    Inspect,
    Reopen {
        project: bool,
    },
    Crash,
    /// Flips a bit in a file of the view.
    Damage(Index, Index),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => proptest::collection::vec(purchase(), 1..25).prop_map(Op::Append),
        2 => Just(Op::Project),
        2 => Just(Op::Pause),
        2 => Just(Op::Resume),
        2 => any::<bool>().prop_map(|wait| Op::Rebuild { wait }),
        3 => Just(Op::Hold),
        2 => Just(Op::Follow),
        4 => Just(Op::ReadChanges),
        2 => any::<u8>().prop_map(Op::Retain),
        2 => Just(Op::Redrive),
        2 => Just(Op::Verify),
        2 => Just(Op::Inspect),
        2 => any::<bool>().prop_map(|project| Op::Reopen { project }),
        3 => Just(Op::Crash),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(file, bit)| Op::Damage(file, bit)),
    ]
}

/// Somebody who began with the rows of a snapshot and went on with the changes.
struct Follower {
    rows: BTreeMap<Place, i64>,
    changes: Changes<Place, i64>,
}

/// A store, and what it should hold.
struct Life {
    /// Directories that the store was in before stay until the end.
    homes: Vec<TempDir>,
    store: Store,
    projection: Spent,
    view: Option<View<Place, i64>>,
    log: Vec<Purchase>,
    /// Failing events that were applied later, if no crash has taken that away.
    redriven: BTreeSet<u64>,
    /// Whether there may be fewer of those.
    redriven_lost: bool,
    held: Vec<(Snapshot<Place, i64>, Sums)>,
    follower: Option<Follower>,
    paused: bool,
    /// The log has lost its start.
    retained: bool,
    /// It had when the projection was registered.
    registered_late: bool,
    /// A bit of its files was flipped.
    damaged: bool,
}

impl Life {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (store, projection) = (open(home.path()), Spent::default());
        let view = Some(project(&store, &projection));
        Life {
            homes: vec![home],
            store,
            projection,
            view,
            log: Vec::new(),
            redriven: BTreeSet::new(),
            redriven_lost: false,
            held: Vec::new(),
            follower: None,
            paused: false,
            retained: false,
            registered_late: false,
            damaged: false,
        }
    }

    fn home(&self) -> PathBuf {
        self.homes.last().unwrap().path().to_owned()
    }

    /// What the log gives up to a position, without some of its events.
    fn fold(&self, to: Position, without: &BTreeSet<u64>) -> Sums {
        let mut sums = Sums::default();
        for (at, purchase) in (1u64..=to.get()).zip(&self.log) {
            if !without.contains(&at) {
                let (customer, item) = (format!("customer-{}", purchase.customer), u32::from(purchase.item));
                add(&mut sums.own, (customer, item), purchase.by.into());
                add(&mut sums.by_item, item, purchase.by.into());
            }
        }
        sums
    }

    fn failing(&self, to: Position) -> BTreeSet<u64> {
        (1u64..=to.get()).zip(&self.log).filter(|(_, purchase)| purchase.fails).map(|(at, _)| at).collect()
    }

    fn caught_up(&self) -> Option<&View<Place, i64>> {
        let view = self.view.as_ref()?;
        if !self.paused {
            view.wait_for(self.store.watermark(), LONG).unwrap();
        }
        Some(view)
    }

    /// Returns false when the view can go on no more, as it should.
    fn check(&mut self) -> bool {
        let Some(view) = self.view.clone() else { return true };
        if self.registered_late
            && self.damaged
            && !self.paused
            && let Err(error) = view.wait_for(self.store.watermark(), LONG)
        {
            // What it would be made of is gone: from the start, or from an older state that the damage has brought back.
            assert!(
                matches!(error.kind(), ErrorKind::Stopped { .. } | ErrorKind::Truncated { .. }),
                "{error}"
            );
            assert!(matches!(view.state(), ProjectionState::Stopped { .. }));
            return false;
        }
        self.caught_up();
        // While it is paused nothing is built either.
        if !self.paused {
            self.wait_built(&view);
        }
        let snapshot = view.snapshot().unwrap();
        let aside: BTreeSet<u64> =
            view.set_aside().unwrap().iter().map(|event| event.position.get()).collect();
        let failing = self.failing(snapshot.checkpoint());
        let redriven: BTreeSet<u64> = failing.difference(&aside).copied().collect();
        assert!(aside.is_subset(&failing), "{aside:?} {failing:?}");
        match self.redriven_lost {
            true => assert!(redriven.is_subset(&self.redriven), "{redriven:?} {:?}", self.redriven),
            false => assert_eq!(redriven, self.redriven),
        }
        (self.redriven, self.redriven_lost) = (redriven, view.status().building.is_some());
        assert_eq!(
            rows(&snapshot),
            self.fold(snapshot.checkpoint(), &aside),
            "as of {}",
            snapshot.checkpoint()
        );
        assert_eq!(view.status().set_aside, u64::try_from(aside.len()).unwrap());
        if !self.paused {
            assert_eq!(snapshot.checkpoint(), self.store.watermark());
        }
        true
    }

    fn check_held(&self) {
        for (snapshot, expected) in &self.held {
            assert_eq!(&rows(snapshot), expected, "a snapshot as of {} has changed", snapshot.checkpoint());
        }
    }

    /// What may be different in the rows that are found next.
    fn left(&mut self) {
        self.check_held();
        self.held.clear();
        (self.follower, self.view, self.paused, self.redriven_lost) = (None, None, false, true);
    }

    fn register(&mut self) {
        self.view = Some(project(&self.store, &self.projection));
        self.registered_late = self.retained;
    }

    fn reopen(&mut self, project_it: bool) {
        self.left();
        self.store.close().unwrap();
        self.store = open(&self.home());
        if project_it {
            self.register();
        }
    }

    fn crash(&mut self) {
        let next = image(&self.home());
        self.inspect(next.path());
        let was_projected = self.view.is_some();
        self.left();
        self.store.close().unwrap();
        self.homes.push(next);
        self.store = open(&self.home());
        assert_eq!(self.store.watermark().get(), u64::try_from(self.log.len()).unwrap());
        if was_projected {
            self.register();
        }
    }

    fn damage(&mut self, file: &Index, bit: &Index) {
        self.left();
        self.damaged = true;
        self.store.close().unwrap();
        let folder = self.home().join(VIEW);
        // After a rebuild the rows are elsewhere.
        if let Ok(names) = files(&folder)
            && !names.is_empty()
        {
            let path = folder.join(file.get(&names));
            let mut bytes = fs::read(&path).unwrap();
            if !bytes.is_empty() {
                let at = bit.index(bytes.len() * 8);
                bytes[at / 8] ^= 1 << (at % 8);
                fs::write(&path, bytes).unwrap();
            }
        }
        self.store = open(&self.home());
        self.register();
    }

    /// What another process reads is what the log gives up to where it says it is.
    fn inspect(&self, path: &Path) {
        let inspector = ViewInspector::open(path).unwrap();
        if inspector.views().unwrap().is_empty() {
            return;
        }
        let copy = inspector.copy("spent", None).unwrap();
        assert_eq!(copy.contradictions().unwrap(), [""; 0]);
        let aside = copy.set_aside().unwrap().iter().map(|event| event.position.get()).collect();
        let expected = self.fold(copy.checkpoint(), &aside);
        let own = copy.scan(None, Bound::Unbounded, Bound::Unbounded).unwrap().map(Result::unwrap);
        let own: BTreeMap<Place, i64> = own.map(|(key, value)| (decoded(&key), number(&value))).collect();
        let named = copy.scan(Some("by-item"), Bound::Unbounded, Bound::Unbounded).unwrap();
        let by_item = named.map(Result::unwrap).map(|(key, value)| (decoded(&key), number(&value))).collect();
        assert_eq!(Sums { own, by_item }, expected, "as of {}", copy.checkpoint());
    }

    fn redrive(&mut self) {
        let Some(view) = self.view.clone() else { return };
        self.check();
        let listed = self.failing(view.checkpoint()).len() - self.redriven.len();
        self.projection.mended.store(true, Ordering::SeqCst);
        let applied = view.redrive_all().unwrap();
        // Events that were appended meanwhile were none: nothing else is mended.
        self.projection.mended.store(false, Ordering::SeqCst);
        if !self.retained {
            assert_eq!(usize::try_from(applied).unwrap(), listed);
        }
        self.redriven = self.failing(view.checkpoint());
        self.redriven_lost |= self.retained;
    }

    fn rebuild(&mut self, wait: bool) {
        let Some(view) = self.caught_up().cloned().filter(|_| !self.paused) else { return };
        if self.retained {
            // It is refused, or given up when it meets what is gone.
            let before = view.digest().unwrap();
            let error = view.rebuild().and_then(|()| view.wait_built(LONG)).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Truncated { .. }), "{error}");
            assert_eq!(view.digest().unwrap(), before);
            return;
        }
        view.rebuild().unwrap();
        self.redriven_lost = true;
        if wait {
            view.wait_built(LONG).unwrap();
        }
    }

    /// Waits for a rebuild, which may have been given up for what is gone.
    fn wait_built(&self, view: &View<Place, i64>) {
        if let Err(error) = view.wait_built(LONG) {
            assert!(self.retained && matches!(error.kind(), ErrorKind::Truncated { .. }), "{error}");
        }
    }

    fn read_changes(&mut self) {
        let Some(view) = self.view.clone().filter(|_| self.follower.is_some()) else { return };
        if self.paused {
            view.wait_for(view.checkpoint(), LONG).unwrap();
        } else {
            view.wait_for(self.store.watermark(), LONG).unwrap();
            self.wait_built(&view);
        }
        // What was redriven can be applied again, and nothing else is applied meanwhile.
        self.projection.mended.store(true, Ordering::SeqCst);
        self.read_changes_of(&view);
        self.projection.mended.store(false, Ordering::SeqCst);
    }

    fn read_changes_of(&mut self, view: &View<Place, i64>) {
        let Some(follower) = &mut self.follower else { return };
        let (to, began) = (view.checkpoint(), Instant::now());
        let now: BTreeMap<_, _> = view.iter().map(Result::unwrap).collect();
        loop {
            // An event that has changed no row brings nothing, and is passed by.
            let Some(change) = follower.changes.next_timeout(Duration::from_millis(1)) else {
                if follower.changes.checkpoint() >= to && follower.rows == now {
                    return;
                }
                assert!(began.elapsed() < LONG, "{:?} does not get to {to}: {now:?}", follower.changes);
                continue;
            };
            let change = match change.map_err(|error| (error.kind(), error)) {
                Ok(change) => change,
                // Rows that were built beside have taken their place since: the log tells the rest.
                Err((ErrorKind::Lagged { from }, _)) => {
                    follower.changes = view.changes(from);
                    continue;
                }
                Err((kind, error)) => {
                    let has_failing = self.log.iter().any(|purchase| purchase.fails);
                    match kind {
                        ErrorKind::Replaced => assert!(has_failing, "{error}"),
                        _ => assert!(self.retained && matches!(kind, ErrorKind::Truncated { .. }), "{error}"),
                    }
                    self.follower = None;
                    return;
                }
            };
            assert_eq!(follower.rows.get(&change.key), change.old.as_ref(), "{change:?}");
            match change.new {
                Some(new) => follower.rows.insert(change.key, new),
                None => follower.rows.remove(&change.key),
            };
        }
    }

    fn verify(&mut self) {
        let Some(view) = self.view.clone().filter(|_| !self.retained) else { return };
        if !self.check() || view.status().building.is_some() {
            return;
        }
        // What was redriven is applied again, and nothing else is applied meanwhile.
        self.projection.mended.store(true, Ordering::SeqCst);
        let verified = view.verify().unwrap();
        self.projection.mended.store(false, Ordering::SeqCst);
        assert!(verified.is_sound(), "{verified}: {:?}", verified.differing);
    }

    /// Rows, lists and their order of making are the same in a store that never saw any of this.
    fn check_digest(&mut self) {
        let Some(view) = self.view.clone().filter(|_| self.redriven.is_empty() && !self.paused) else {
            return;
        };
        let fresh = Options::new().open_memory(&MemoryStorage::new()).unwrap();
        for purchase in &self.log {
            let (customer, event) = event(*purchase);
            fresh.append(&customer, Expected::Any, [event]).unwrap();
        }
        let other = project(&fresh, &Spent::default());
        other.wait_for(fresh.watermark(), LONG).unwrap();
        assert_eq!(view.digest().unwrap(), other.digest().unwrap());
    }

    fn append(&mut self, purchases: &[Purchase]) {
        for purchase in purchases {
            let (customer, event) = event(*purchase);
            self.store.append(&customer, Expected::Any, [event]).unwrap();
            self.log.push(*purchase);
        }
    }

    fn retain(&mut self, part: u8) {
        let before = Position::new(self.store.watermark().get() * u64::from(part) / 256 + 1);
        let retained = self.store.retain(&Retention::new().before(before)).unwrap();
        self.retained |= retained.segments > 0;
        assert_eq!(self.store.log_start(), retained.first);
    }

    fn hold(&mut self) {
        if let Some(view) = &self.view {
            let snapshot = view.snapshot().unwrap();
            let rows = rows(&snapshot);
            self.held.push((snapshot, rows));
        }
    }

    fn follow(&mut self) {
        if let Some(view) = &self.view {
            let (snapshot, changes) = view.follow().unwrap();
            let rows = snapshot.iter().map(Result::unwrap).collect();
            self.follower = Some(Follower { rows, changes });
        }
    }

    fn pause(&mut self, paused: bool) {
        let Some(view) = &self.view else { return };
        if paused { view.pause() } else { view.resume() }.unwrap();
        self.paused = paused;
    }

    fn run(&mut self, op: &Op) -> bool {
        match op {
            Op::Append(purchases) => self.append(purchases),
            Op::Project if self.view.is_none() => self.register(),
            Op::Project => {}
            Op::Pause => self.pause(true),
            Op::Resume => self.pause(false),
            Op::Rebuild { wait } => self.rebuild(*wait),
            Op::Hold => self.hold(),
            Op::Follow => self.follow(),
            Op::ReadChanges => self.read_changes(),
            Op::Retain(part) => self.retain(*part),
            Op::Redrive => self.redrive(),
            Op::Verify => self.verify(),
            Op::Inspect => self.inspect(&self.home()),
            Op::Reopen { project } => self.reopen(*project),
            Op::Crash => self.crash(),
            Op::Damage(file, bit) => self.damage(file, bit),
        }
        // The rest is looked at now and then: a view that is always waited for meets less.
        match op {
            Op::Append(_) | Op::Hold | Op::Follow | Op::Rebuild { wait: false } => true,
            _ => self.check(),
        }
    }
}

/// Few, as each opens stores on a disk; `PROPTEST_CASES` says how many instead.
fn config() -> ProptestConfig {
    let default =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 150, ..ProptestConfig::default() };
    match env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases: 40, ..default },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_view_is_a_plain_fold_of_the_log_whatever_happens_to_it(ops in proptest::collection::vec(op(), 1..30)) {
        let mut life = Life::new();
        let alive = ops.iter().all(|op| life.run(op));
        if alive && life.check() {
            life.read_changes();
            life.check_digest();
        }
        life.check_held();
    }
}
