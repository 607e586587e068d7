//! What folds are declared of: events, keys, accumulators.

use everfold::fold::{Accumulator, Decimal, TopK, last, sum, top};
use everfold::{
    ApplyError, Batch, Durability, Event, Fold, MIN_SEGMENT_BYTES, MemoryStorage, Options, Position, Store,
};
use serde::{Deserialize, Serialize};

fn store() -> Store {
    Options::new().segment_size(MIN_SEGMENT_BYTES).open_memory(&MemoryStorage::new()).unwrap()
}

fn append(store: &Store, event: Event) {
    let batch = Batch::new().durability(Durability::Written).event("shop", event);
    store.append_batch(batch).unwrap();
}

#[test]
fn a_fold_sees_what_it_is_declared_to_see() {
    #[derive(Serialize, Deserialize)]
    struct Payment {
        lines: Vec<(String, Decimal<2>)>,
    }
    let store = store();
    for lines in [r#"[["hats", "12.50"], ["pants", "20"]]"#, r#"[["hats", "0.05"], ["hats", 3]]"#, "[]"] {
        let payment: Payment = serde_json::from_str(&format!("{{\"lines\": {lines}}}")).unwrap();
        append(&store, Event::json("paid", &payment).unwrap());
    }
    append(&store, Event::json("refunded", &"no payment").unwrap());
    store.sync().unwrap();
    let paid = || Fold::new("paid", 1).types(["paid"]).map(|event| Ok(event.decode::<Payment>()?.lines));
    let totals = paid().key_by(|line| line.0.clone()).sum(|line| line.1);
    let totals = store.fold(&totals).rows().unwrap();
    assert_eq!(totals["hats"].to_string(), "15.55");
    assert_eq!(totals["pants"].to_string(), "20.00");
    let average = paid().filter(|line| line.1 > Decimal::default()).key_by(|_| ()).average(|line| line.1);
    assert_eq!(store.fold(&average).get(&()).unwrap().unwrap().value().to_string(), "8.89");
    let dearest = paid().key_by(|_| ()).top(2, |line| (line.1, line.0.clone()));
    let TopK { entries } = store.fold(&dearest).get(&()).unwrap().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.1.as_str()).collect::<Vec<_>>(), ["pants", "hats"]);
    append(&store, Event::raw("paid", *br#"{"lines": [["hats", 12.5]]}"#));
    store.sync().unwrap();
    assert!(store.fold(&paid().key_by(|_| ()).count()).rows().is_err(), "a float is no exact amount");
}

#[test]
fn an_accumulator_of_ones_own_works_like_the_others() {
    /// The longest run of equal values, with what is needed at both ends to put two halves together.
    struct LongestRun;

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    struct Run {
        first: (u8, u64),
        last: (u8, u64),
        longest: u64,
        len: u64,
    }

    impl Accumulator<u8> for LongestRun {
        type State = Run;

        fn start(&self, value: &u8) -> Result<Run, ApplyError> {
            Ok(Run { first: (*value, 1), last: (*value, 1), longest: 1, len: 1 })
        }

        fn add(&self, state: &mut Run, value: &u8) -> Result<(), ApplyError> {
            let one = self.start(value)?;
            self.merge(state, one)
        }

        fn merge(&self, earlier: &mut Run, later: Run) -> Result<(), ApplyError> {
            let joined = if earlier.last.0 == later.first.0 { earlier.last.1 + later.first.1 } else { 0 };
            let one_run = |run: &Run| run.first.1 == run.len;
            let (whole, later_whole) = (one_run(earlier) && joined > 0, one_run(&later) && joined > 0);
            earlier.longest = earlier.longest.max(later.longest).max(joined);
            earlier.first.1 = if whole { joined } else { earlier.first.1 };
            earlier.last = if later_whole { (later.last.0, joined) } else { later.last };
            earlier.len += later.len;
            Ok(())
        }
    }

    let store = store();
    let values: Vec<u8> = (0..400u32).map(|n| u8::from(n * n % 97 < 60)).collect();
    for value in &values {
        append(&store, Event::bincode("value", value).unwrap());
    }
    store.sync().unwrap();
    let fold = Fold::new("runs", 1).decode::<u8>().key_by(|_| ()).accumulate((
        LongestRun,
        last(|value: &u8| *value),
        sum(|value: &u8| *value),
        top(1, |value: &u8| (*value, ())),
    ));
    for to in 1..=values.len() {
        let runs = values[..to].chunk_by(|a, b| a == b).map(<[u8]>::len).max().unwrap();
        let position = Position::new(u64::try_from(to).unwrap());
        let (run, last, ..) = store.fold(&fold).as_of(position).threads(2).get(&()).unwrap().unwrap();
        assert_eq!((run.longest, last), (u64::try_from(runs).unwrap(), values[to - 1]));
    }
}
