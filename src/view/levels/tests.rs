//! Rows through all levels, against a plain map of each checkpoint: snapshots that outlive drains, losses of power at any
//! write of a key-value store that loses what it was not told to make durable.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::view::digest::{Digest, RowHash};
use crate::view::meta::Beside;
use crate::view::rows::Row;
use crate::view::rows::contract::{self, Model};

/// Small, so that there are many drains.
const LIMIT: usize = 6000;

/// A key-value store that loses its last writes with the power.
#[derive(Debug, Default)]
struct Lossy(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    /// After each write since the last that is durable, which is the first.
    states: Vec<Model>,
    /// Writes until the power is lost.
    left: Option<usize>,
    /// How often a row was looked for.
    looks: usize,
}

impl Lossy {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap()
    }

    fn now<T>(&self, read: impl FnOnce(&Model) -> T) -> T {
        read(self.tables().states.last().unwrap_or(&Model::new()))
    }

    /// What is left after the power was lost: some of the last writes are gone.
    fn after_loss(&self, lost: usize) -> Self {
        let tables = self.tables();
        let left = tables.states.len().saturating_sub(lost).max(1).min(tables.states.len());
        let states =
            left.checked_sub(1).and_then(|last| tables.states.get(last)).cloned().into_iter().collect();
        Lossy(Mutex::new(Tables { states, ..Tables::default() }))
    }
}

fn out() -> Error {
    Error::new(ErrorKind::Io, "the power is lost")
}

impl Rows for Lossy {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.now(|table| table.get(key).cloned()))
    }

    fn floor(&self, to: Bound<&[u8]>) -> Result<Option<Row>, Error> {
        self.tables().looks += 1;
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(self.now(|table| table.range::<[u8], _>((Bound::Unbounded, to)).next_back().map(owned)))
    }

    fn key_after(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let range = (Bound::Excluded(key), Bound::Unbounded);
        Ok(self.now(|table| table.range::<[u8], _>(range).next().map(|(key, _)| key.clone())))
    }

    fn write(&self, changes: &[Change]) -> Result<(), Error> {
        let mut tables = self.tables();
        match &mut tables.left {
            Some(0) => return Err(out()),
            Some(left) => *left -= 1,
            None => {}
        }
        let mut next = tables.states.last().cloned().unwrap_or_default();
        for (key, value) in changes {
            match value {
                Some(value) => next.insert(key.clone(), value.clone()),
                None => next.remove(key),
            };
        }
        tables.states.push(next);
        Ok(())
    }

    fn make_durable(&self) -> Result<(), Error> {
        let mut tables = self.tables();
        if tables.left == Some(0) {
            return Err(out());
        }
        let durable = tables.states.len().saturating_sub(1);
        tables.states.drain(..durable);
        Ok(())
    }
}

fn meta(checkpoint: u64, digest: Digest) -> ViewMeta {
    let (store_id, checkpoint) = (Uuid::from_u128(7), Position::new(checkpoint));
    ViewMeta {
        store_id,
        name: "rows".into(),
        generation: 1,
        checkpoint,
        turns: 0,
        fingerprint: 0,
        digest,
        beside: Beside::default(),
    }
}

fn digest(model: &Model) -> Digest {
    let mut digest = Digest::default();
    model.iter().for_each(|(key, value)| digest.add(RowHash::of(key, value)));
    digest
}

fn check(version: &Version, model: &Model) {
    let all: Vec<Row> = version.scan(Bound::Unbounded, Bound::Unbounded).map(Result::unwrap).collect();
    assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
    assert_eq!((version.meta().digest, version.digest().unwrap()), (digest(model), digest(model)));
    for key in model.keys().take(20).cloned().chain([vec![], vec![0], vec![1, 2], vec![0xFF; 4]]) {
        assert_eq!(version.get(&key).unwrap().as_ref(), model.get(&key));
    }
    let between = model.keys().flat_map(|key| [key.clone(), [key.as_slice(), &[0]].concat()]);
    let mut lookups = version.lookups();
    assert!(version.may_have_any() || model.is_empty());
    for key in between {
        assert_eq!(lookups.get(&key).unwrap().as_ref(), model.get(&key));
    }
}

/// One life of rows between two openings: what is published, and which version is kept to be read later.
#[derive(Clone, Debug)]
enum Step {
    Publish(BTreeMap<Vec<u8>, Option<Vec<u8>>>),
    MakeDurable,
    Keep,
    Check(Bound<Vec<u8>>, Bound<Vec<u8>>, Vec<bool>),
    /// Closes and opens again; or after a loss of power that takes some of the last writes.
    Reopen(Option<usize>),
    /// The power is lost some writes later.
    LoseAfter(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop_oneof![2 => contract::key(), 3 => (any::<u8>(), 0..4u8).prop_map(|(a, b)| vec![a, b])];
    let value =
        proptest::option::weighted(0.75, (0..120usize, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]));
    prop_oneof![
        12 => btree_map(key, value, 0..90).prop_map(Step::Publish),
        2 => Just(Step::MakeDurable),
        2 => Just(Step::Keep),
        4 => (contract::bound(), contract::bound(), vec(any::<bool>(), 0..30))
            .prop_map(|(from, to, turns)| Step::Check(from, to, turns)),
        1 => proptest::option::weighted(0.7, 0..6usize).prop_map(Step::Reopen),
        1 => (0..6usize).prop_map(Step::LoseAfter),
    ]
}

struct Life {
    stored: Arc<Lossy>,
    dir: tempfile::TempDir,
    levels: Option<Levels>,
    /// The rows at each checkpoint.
    models: Vec<Model>,
    kept: Vec<(Arc<Version>, usize)>,
    durable: usize,
}

impl Life {
    fn new() -> Self {
        let (stored, dir) = (Arc::new(Lossy::default()), tempfile::tempdir().unwrap());
        let rows: Arc<dyn Rows> = stored.clone();
        Levels::create(&rows, &[], &meta(0, Digest::default())).unwrap();
        let levels = Some(Levels::open(stored.clone(), dir.path(), LIMIT).unwrap());
        Life { stored, dir, levels, models: vec![Model::new()], kept: vec![], durable: 0 }
    }

    fn at(&self) -> usize {
        self.models.len() - 1
    }

    fn levels(&self) -> &Levels {
        self.levels.as_ref().unwrap()
    }

    fn publish(&mut self, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let mut model = self.models.last().unwrap().clone();
        for (key, value) in changes {
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
        }
        let writes = Writes::of(changes.clone()).unwrap();
        let meta = meta(u64::try_from(self.models.len()).unwrap(), digest(&model));
        self.models.push(model);
        if self.levels().publish(writes, meta).is_err() {
            self.reopen(0);
        }
    }

    fn reopen(&mut self, lost: usize) {
        self.kept.clear();
        self.levels = None;
        self.stored = Arc::new(self.stored.after_loss(lost));
        let levels = Levels::open(self.stored.clone(), self.dir.path(), LIMIT).unwrap();
        let at = usize::try_from(levels.version().meta().checkpoint.get()).unwrap();
        assert!((self.durable..=self.at()).contains(&at), "{at} of {}..{}", self.durable, self.at());
        self.models.truncate(at + 1);
        self.durable = at;
        if at.is_multiple_of(2) {
            assert_eq!(levels.read_all().unwrap(), digest(self.models.last().unwrap()));
        }
        self.levels = Some(levels);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(changes) => self.publish(&changes),
            Step::MakeDurable => match self.levels().make_durable() {
                Ok(durable) => {
                    assert_eq!(durable, self.levels().durable());
                    self.durable = usize::try_from(durable.get()).unwrap();
                    assert_eq!(self.durable, self.at());
                }
                Err(_) => self.reopen(1),
            },
            Step::Keep => self.kept.push((self.levels().version(), self.at())),
            Step::Check(from, to, turns) => {
                check(&self.levels().version(), self.models.last().unwrap());
                for (version, at) in &self.kept {
                    check(version, &self.models[*at]);
                    contract::check_range(
                        |from, to| version.scan(from, to),
                        &self.models[*at],
                        from.clone(),
                        to.clone(),
                        &turns,
                    );
                }
            }
            Step::Reopen(lost) => {
                if lost.is_none() {
                    self.durable = self.levels().make_durable().map_or(self.durable, |_| self.at());
                }
                self.reopen(lost.unwrap_or(0));
            }
            Step::LoseAfter(writes) => self.stored.tables().left = Some(writes),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_version_is_the_rows_of_its_checkpoint_whatever_is_drained_or_lost(steps in vec(step(), 1..60)) {
        let mut life = Life::new();
        for step in steps {
            life.step(step);
        }
        check(&life.levels().version(), life.models.last().unwrap());
        life.reopen(0);
        check(&life.levels().version(), life.models.last().unwrap());
    }
}

#[test]
fn rows_that_change_often_leave_few_records() {
    let mut life = Life::new();
    for n in 0..200u32 {
        life.publish(&BTreeMap::from([(b"hot".to_vec(), Some(n.to_le_bytes().to_vec()))]));
        life.step(Step::MakeDurable);
    }
    assert!(std::fs::read_dir(life.dir.path()).unwrap().count() <= MOST_RECORDS + 1);
    life.reopen(5);
    check(&life.levels().version(), life.models.last().unwrap());
    assert_eq!(life.at(), 200);
}

#[test]
fn a_drain_that_was_cut_short_without_its_record_is_damage() {
    let life = Life::new();
    life.stored.tables().left = Some(1);
    let changes = (0..400u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![7; 1500])));
    life.levels().publish(Writes::of(changes).unwrap(), meta(1, Digest::default())).unwrap();
    drop(life.levels().shared.wait_for_drain(life.levels().shared.writing()));
    assert_eq!(life.levels().make_durable().unwrap_err().to_string(), out().to_string());
    let open = || Levels::open(Arc::new(life.stored.after_loss(0)), life.dir.path(), LIMIT);
    assert_eq!(open().unwrap().version().scan(Bound::Unbounded, Bound::Unbounded).count(), 400);
    for entry in std::fs::read_dir(life.dir.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(open().unwrap_err().kind(), ErrorKind::View);
}

#[test]
fn what_drains_overwrite_is_kept_for_those_who_read_it_and_for_no_others() {
    let mut life = Life::new();
    let rows = |value: u8| (0..100u8).map(|n| (vec![n], Some(vec![value; 100]))).collect::<BTreeMap<_, _>>();
    life.publish(&rows(1));
    let (before, model) = (life.levels().version(), life.models.last().unwrap().clone());
    for value in 2..20 {
        life.publish(&rows(value));
        drop(life.levels().shared.wait_for_drain(life.levels().shared.writing()));
        check(&before, &model);
    }
    let levels = life.levels();
    assert!(before.epoch.kept() > 0);
    assert_eq!(levels.version().epoch.kept(), 0, "nobody reads what was there since");
}

#[test]
fn a_huge_file_that_is_no_record_is_not_read() {
    let life = Life::new();
    std::fs::File::create(life.dir.path().join("redo-00000007")).unwrap().set_len(1 << 40).unwrap();
    let levels = Levels::open(life.stored.clone(), life.dir.path(), LIMIT).unwrap();
    levels.publish(Writes::of([(vec![1], Some(vec![2]))]).unwrap(), meta(1, Digest::default())).unwrap();
    levels.make_durable().unwrap();
    drop(levels);
    let found = Levels::open(life.stored.clone(), life.dir.path(), LIMIT).unwrap().version();
    assert_eq!(found.get(&[1]).unwrap(), Some(vec![2]));
}

/// How many of a thousand rows that are not there are looked for.
fn looks_for_absent(life: &Life) -> usize {
    let looks = life.stored.tables().looks;
    let version = life.levels().version();
    assert!((5000..6000u32).all(|n| version.get(&n.to_be_bytes()).unwrap().is_none()));
    life.stored.tables().looks - looks
}

/// Opens what was drained by a life of two thousand rows.
fn opened_again() -> Life {
    let mut life = Life::new();
    let rows = (0..2000u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![7; 100])));
    life.publish(&rows.collect());
    drop(life.levels().shared.wait_for_drain(life.levels().shared.writing()));
    life.levels = None;
    life.levels = Some(Levels::open(life.stored.clone(), life.dir.path(), LIMIT).unwrap());
    assert_eq!(looks_for_absent(&life), 1000);
    life
}

#[test]
fn after_all_rows_were_read_those_that_are_not_there_are_not_looked_for() {
    let mut life = opened_again();
    let model = life.models.last().unwrap().clone();
    assert_eq!(life.levels().read_all().unwrap(), digest(&model));
    assert!(looks_for_absent(&life) < 200, "{}", looks_for_absent(&life));
    check(&life.levels().version(), &model);
    // What is put from now on is found.
    let more = (5000..6000u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![8; 100])));
    life.publish(&more.collect());
    drop(life.levels().shared.wait_for_drain(life.levels().shared.writing()));
    check(&life.levels().version(), life.models.last().unwrap());
}

#[test]
fn nothing_is_denied_by_rows_that_are_not_those_said_or_not_those_of_all_versions() {
    let mut life = opened_again();
    let key = 7u32.to_be_bytes();
    let before = life.levels().version();
    life.publish(&BTreeMap::from([(key.to_vec(), None)]));
    life.levels().read_all().unwrap();
    assert_eq!(before.get(&key).unwrap(), Some(vec![7; 100]));
    assert_eq!(looks_for_absent(&life), 1000);
    drop(before);
    // Rows of which something else is said.
    life.levels().publish(Writes::default(), meta(9, Digest::default())).unwrap();
    life.levels().make_durable().unwrap();
    life.levels = None;
    life.levels = Some(Levels::open(life.stored.clone(), life.dir.path(), LIMIT).unwrap());
    assert_ne!(life.levels().read_all().unwrap(), Digest::default());
    assert_eq!(looks_for_absent(&life), 1000);
}
