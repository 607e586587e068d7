//! Damage to the files of a view: whatever happens to them, the view is right in the end, by itself, and nothing else
//! is touched. The campaign `views` does the same with many more places.

use crate::view_cases::{DAMAGED, Outcome, Specimens, damages};

#[test]
fn a_view_is_right_in_the_end_whatever_becomes_of_its_files() {
    let (home, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let specimens = Specimens::make(home.path()).unwrap().verified(true);
    let (mut served, mut made_anew) = (0, 0);
    for store in DAMAGED {
        for damage in damages(&specimens, store, 24, 8).unwrap() {
            match specimens.judge(store, &damage, scratch.path()) {
                Ok(Outcome::Served) => served += 1,
                Ok(Outcome::MadeAnew) => made_anew += 1,
                Err(error) => panic!("{store}, {damage:?}: {error}"),
            }
        }
    }
    assert!(served > 0 && made_anew > 0, "{served} served, {made_anew} made anew");
}
