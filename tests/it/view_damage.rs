//! Damage to the files of a view: whatever happens to them, the view is right in the end, by itself, and nothing else
//! is touched. The campaign `views` does the same in many more places.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use everfold::{Event, Expected, Options, Store, View};

use crate::life::LONG;
use crate::purchases::{self, Purchase};
use crate::view_cases::{DAMAGED, Damage, FOLDER, Outcome, Specimens, Tally, copy, damages};

/// Of each so many flipped bits, cuts and overwritten places, one; and of each so many other damages of each store.
const SAMPLE: [(usize, usize); 2] = [(20, 1), (20, 3)];

#[test]
fn a_view_is_right_in_the_end_whatever_becomes_of_its_files() {
    let (home, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let specimens = Specimens::make(home.path()).unwrap().verified(true);
    let (mut served, mut made_anew) = (0, 0);
    for (store, (of_places, of_others)) in DAMAGED.into_iter().zip(SAMPLE) {
        let (places, others): (Vec<_>, Vec<_>) =
            damages(&specimens, store, 24, 8).unwrap().into_iter().partition(|damage| {
                matches!(damage, Damage::Flip { .. } | Damage::Truncate { .. } | Damage::Overwrite { .. })
            });
        let places = places.into_iter().step_by(of_places);
        for damage in others.into_iter().step_by(of_others).chain(places) {
            match specimens.judge(store, &damage, scratch.path()) {
                Ok(Outcome::Served) => served += 1,
                Ok(Outcome::MadeAnew) => made_anew += 1,
                Err(error) => panic!("{store}, {damage:?}: {error}"),
            }
        }
    }
    assert!(served > 0 && made_anew > 0, "{served} served, {made_anew} made anew");
}

type Rows = Vec<(String, Vec<u8>)>;

fn rows(view: &View<String, Vec<u8>>) -> Rows {
    view.iter().map(Result::unwrap).collect()
}

/// Opens the store; returns the view's rows, and why it was made anew.
fn serve(path: &Path, verify: bool) -> (Rows, Option<String>) {
    let store = Options::new().verify_views(verify).open(path).unwrap();
    let view = store.project(Tally::<false>).unwrap();
    view.wait_for(store.watermark(), Duration::from_secs(60)).unwrap();
    let served = (rows(&view), view.status().rebuilt_because);
    store.close().unwrap();
    served
}

/// Rows as they lie in a block of the key-value store.
type Block = Vec<(Vec<u8>, Vec<u8>)>;

fn decode(stored: &[u8]) -> Block {
    let (mut rows, mut rest) = (Block::new(), &stored[5..]);
    while let [a, b, c, d, e, f, data @ ..] = rest {
        let key = usize::from(u16::from_le_bytes([*a, *b]));
        let value = key + usize::try_from(u32::from_le_bytes([*c, *d, *e, *f])).unwrap();
        rows.push((data[..key].to_vec(), data[key..value].to_vec()));
        rest = &data[value..];
    }
    rows
}

fn encode(rows: &Block) -> Vec<u8> {
    let mut packed = Vec::new();
    for (key, value) in rows {
        packed.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
        packed.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        packed.extend_from_slice(&[key.as_slice(), value].concat());
    }
    [&[0], crc32fast::hash(&packed).to_le_bytes().as_slice(), &packed].concat()
}

/// What could become of rows although their block verifies: an older or another state of it.
type Change = fn(&mut Block);

/// The key of a row that was never there.
fn other(key: &[u8]) -> Vec<u8> {
    let (name, end) = key.split_at(key.len() - 2);
    [name, b"!", end].concat()
}

const CHANGES: [(&str, Change); 5] = [
    ("a row is lost", |rows| drop(rows.pop())),
    ("a row is stale", |rows| *rows[0].1.last_mut().unwrap() ^= 1),
    ("a row is back", |rows| rows.insert(1, (other(&rows[0].0), rows[0].1.clone()))),
    ("a row is lost, and another one is back", |rows| rows[0].0 = other(&rows[0].0)),
    ("two rows have each other's values", |rows| {
        let first = rows[0].1.clone();
        rows[0].1 = std::mem::replace(&mut rows[1].1, first);
    }),
];

/// A store whose rows have all gone down into the key-value store, but for those of the last event.
fn drained(specimens: &Specimens) -> std::path::PathBuf {
    let path = specimens.store("closed");
    let store = Options::new().view_memory_bytes(1).open(&path).unwrap();
    let view = store.project(Tally::<false>).unwrap();
    for _ in 0..3 {
        let done = store.append("the last", Expected::Any, [Event::raw("more", *b"x")]).unwrap();
        view.wait_for(done.position, Duration::from_secs(60)).unwrap();
    }
    store.close().unwrap();
    path
}

#[test]
fn rows_that_were_lost_or_brought_back_are_found_before_the_view_is_served() {
    let home = tempfile::tempdir().unwrap();
    let specimens = Specimens::make(home.path()).unwrap();
    let whole = drained(&specimens);
    let (right, because) = serve(&whole, true);
    assert_eq!(because, None);
    for (what, change) in CHANGES {
        for verify in [true, false] {
            let path = home.path().join("copy");
            copy(&whole, &path).unwrap();
            let db = sled::Config::new().path(path.join(FOLDER)).mode(sled::Mode::LowSpace).open().unwrap();
            let blocks = db.range([1, 1].as_slice()..[1, 2].as_slice()).map(Result::unwrap);
            // Blocks that are in one piece.
            let mut blocks = blocks.filter(|(_, stored)| stored[0] == 0).map(|(key, b)| (key, decode(&b)));
            let (key, mut rows) = blocks.find(|(_, rows)| rows.len() > 2).unwrap();
            change(&mut rows);
            db.insert(key, encode(&rows)).unwrap();
            drop((blocks, db));
            let (served, because) = serve(&path, verify);
            if verify {
                let because = because.unwrap_or_default();
                assert!(because.contains("its rows are not those of its checkpoint"), "{what}: {because:?}");
                assert_eq!(served, right, "{what}");
            } else {
                assert_eq!(because, None, "{what}");
                assert_ne!(served, right, "{what}: nothing else would have told");
            }
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn what_was_durable_behind_a_record_that_is_lost_does_not_come_back_later() {
    let home = tempfile::tempdir().unwrap();
    let spent = purchases::Spent::default();
    let with = |use_it: &dyn Fn(&Store, &View<purchases::Place, i64>)| {
        let store = purchases::open(home.path());
        let view = purchases::project(&store, &spent);
        view.wait_for(store.watermark(), LONG).unwrap();
        use_it(&store, &view);
        store.close().unwrap();
    };
    let redriven = |view: &View<purchases::Place, i64>| view.set_aside().unwrap().is_empty();
    with(&|store, view| {
        for fails in [false, true] {
            let (customer, event) = purchases::event(Purchase { customer: 0, item: 0, by: 1, fails });
            store.append(&customer, Expected::Any, [event]).unwrap();
        }
        view.wait_for(store.watermark(), LONG).unwrap();
    });
    with(&|_, view| {
        spent.mended.store(true, Ordering::SeqCst);
        assert_eq!(view.redrive_all().unwrap(), 1);
        spent.mended.store(false, Ordering::SeqCst);
    });
    let record = home.path().join("views/spent/1/redo-00000001");
    let mut bytes = fs::read(&record).unwrap();
    bytes[0] ^= 1;
    fs::write(&record, bytes).unwrap();
    with(&|_, view| assert!(!redriven(view), "it was folded again"));
    with(&|_, view| assert!(!redriven(view), "it was durable so"));
}
