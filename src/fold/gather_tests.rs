//! Pieces of every size, on several threads, come to what one thread makes of one event after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::cells::Choice;
use super::gather::Gather;
use super::{Fold, TopK, count, distinct, first, last, sum, top};
use crate::batch::{Batch, Durability};
use crate::event::{Event, Position};
use crate::log::Log;
use crate::options::{MIN_SEGMENT_BYTES, Options};
use crate::storage::memory::MemoryStorage;
use crate::view::key::Key;
use crate::view::rows::prefix_end;

type Line = (String, u8);
type State = (u64, i64, u8, u8, BTreeSet<u8>, TopK<u8, String>);

fn fold() -> Fold<String, State> {
    let of = |line: &Line| line.1;
    let scored = |line: &Line| (line.1 % 4, line.0.clone());
    Fold::new("lines", 1)
        .types(["line"])
        .decode::<Line>()
        .filter(|line| line.1 != 9)
        .key_by(|line| line.0.clone())
        .accumulate((count(), sum(of), first(of), last(of), distinct(256, of), top(3, scored)))
}

/// A line is a key, a number, and how much else there is in its event; none is an event of another type.
type Lines = Vec<Option<(u8, u8, u8)>>;

fn key(number: u8) -> String {
    format!("key-{}", number % 12)
}

fn log(lines: &Lines) -> Log {
    let options = Options::new().segment_size(MIN_SEGMENT_BYTES);
    let log = Log::open(Arc::new(MemoryStorage::new()), &options).unwrap();
    for line in lines {
        let event = match line {
            Some((key_number, number, more)) => Event::bincode("line", &(key(*key_number), *number))
                .unwrap()
                .metadata(vec![0; usize::from(*more) * 4]),
            None => Event::raw("other", *b"not a line"),
        };
        log.append(&Batch::new().durability(Durability::Written).event("s", event)).unwrap();
    }
    log.sync().unwrap();
    log
}

/// What the rows are after so many events, made without everfold's own code.
fn model(lines: &[Option<(u8, u8, u8)>]) -> BTreeMap<String, State> {
    let mut rows: BTreeMap<String, State> = BTreeMap::new();
    for (key_number, number, _) in lines.iter().flatten().filter(|line| line.1 != 9) {
        let empty = (0, 0, *number, 0, BTreeSet::new(), TopK { entries: Vec::new() });
        let row = rows.entry(key(*key_number)).or_insert(empty);
        row.0 += 1;
        row.1 += i64::from(*number);
        row.3 = *number;
        row.4.insert(*number);
        row.5.entries.push((number % 4, key(*key_number)));
        row.5.entries.sort_by_key(|entry| std::cmp::Reverse(entry.0));
        row.5.entries.truncate(3);
    }
    rows
}

fn gather(
    log: &Log,
    (threads, least_cut, keep): (usize, u64, bool),
    choice: Choice,
    to: u64,
) -> BTreeMap<String, State> {
    let gather = Gather { fold: &fold(), catalog: &log.catalog, threads, choice, keep, least_cut };
    let gathered = gather.gather(Position::START, Position::new(to)).unwrap();
    let mut rows = BTreeMap::new();
    for (number, part) in gathered.parts.into_iter().enumerate() {
        for (key, state) in part {
            let before = rows.insert(String::decode(&mut &*key).unwrap(), state);
            assert_eq!(before, None, "a key is in one part, not also in {number}");
        }
    }
    rows
}

fn encoded(key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.to_owned().encode(&mut bytes);
    bytes
}

fn chosen(rows: &BTreeMap<String, State>, takes: impl Fn(&str) -> bool) -> BTreeMap<String, State> {
    rows.iter().filter(|(key, _)| takes(key)).map(|(key, state)| (key.clone(), state.clone())).collect()
}

fn lines() -> impl Strategy<Value = Lines> {
    proptest::collection::vec(proptest::option::weighted(0.9, any::<(u8, u8, u8)>()), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn as_of_every_position_the_rows_are_those_of_the_events_up_to_there(lines in lines()) {
        let log = log(&lines);
        for (ways, threads) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            // Without partials and with, made while they are asked for, the last positions first or last.
            let positions: Vec<usize> = match ways % 2 {
                0 => (0..=lines.len()).collect(),
                _ => (0..=lines.len()).rev().collect(),
            };
            for to in positions {
                let expected = model(&lines[..to]);
                let to = u64::try_from(to).unwrap();
                let how = (threads, u64::try_from(ways).unwrap() * 3 + 1, ways > 1);
                prop_assert_eq!(&gather(&log, how, Choice::All, to), &expected);
                let one = key(7);
                let found = gather(&log, how, Choice::Key(encoded(&one)), to);
                prop_assert_eq!(found, chosen(&expected, |key| key == one));
            }
        }
        let all = model(&lines);
        let to = u64::try_from(lines.len()).unwrap();
        let ones = b"key-1".to_vec();
        let end = prefix_end(&ones);
        let found = gather(&log, (2, 1, true), Choice::Range(std::ops::Bound::Included(ones), end), to);
        prop_assert_eq!(found, chosen(&all, |key| key.starts_with("key-1")));
    }
}
