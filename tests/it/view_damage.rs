//! Damage to the files of a view: whatever happens to them, the view is right in the end, by itself, and nothing else
//! is touched. The campaign `views` does the same in many more places.

use std::path::Path;
use std::time::Duration;

use everfold::{Options, View};

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

/// What sled could do to rows without touching the row about the view.
type Change = fn(&sled::Db, &[(sled::IVec, sled::IVec)]) -> sled::Result<Option<sled::IVec>>;

fn stale(value: &[u8]) -> Vec<u8> {
    let (last, before) = value.split_last().unwrap();
    [before, &[last ^ 1]].concat()
}

/// The key of a row that was never there.
fn other(key: &[u8]) -> Vec<u8> {
    [&key[..3], b"!", &key[4..]].concat()
}

const CHANGES: [(&str, Change); 5] = [
    ("a row is lost", |db, rows| db.remove(&rows[7].0)),
    ("a row is stale", |db, rows| db.insert(&rows[7].0, stale(&rows[7].1))),
    ("a row is back", |db, rows| db.insert(other(&rows[7].0), &rows[7].1)),
    ("a row is lost, and another one is back", |db, rows| {
        db.insert(other(&rows[7].0), &rows[7].1)?;
        db.remove(&rows[7].0)
    }),
    ("two rows have each other's values", |db, rows| {
        db.insert(&rows[7].0, &rows[8].1)?;
        db.insert(&rows[8].0, &rows[7].1)
    }),
];

#[test]
fn rows_that_were_lost_or_brought_back_are_found_before_the_view_is_served() {
    let home = tempfile::tempdir().unwrap();
    let specimens = Specimens::make(home.path()).unwrap();
    let (right, because) = serve(&specimens.store("closed"), true);
    assert_eq!(because, None);
    for (what, change) in CHANGES {
        for verify in [true, false] {
            let path = home.path().join("copy");
            copy(&specimens.store("closed"), &path).unwrap();
            let db = sled::Config::new().path(path.join(FOLDER)).mode(sled::Mode::LowSpace).open().unwrap();
            let short = db.range([1, 1].as_slice()..[1, 2].as_slice()).map(Result::unwrap);
            // Values that are in one piece.
            let short: Vec<_> = short.filter(|(_, value)| value[0] == 0 && value.len() > 9).collect();
            change(&db, &short).unwrap();
            drop(db);
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
