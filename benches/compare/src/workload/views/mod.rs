//! Views: replaying a log into a table that is durable with its checkpoint, how late an append becomes visible, and many
//! projections at once.

pub(crate) mod large;
mod own;
pub(crate) mod tables;

use std::collections::HashMap;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use super::{Contender, Kind, Setting, Workload};
use crate::peer::Outcome;
pub(crate) use own::{at_once, visible};
use tables::{Events, Replay};

/// What was bought: a customer, an item, how many.
pub(crate) type Purchase = (u32, u32, i64);

/// Purchases of some customers, in no order; 100 items.
pub(crate) fn purchases(count: u64, customers: u64) -> Vec<Purchase> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    };
    let purchase = |_| ((next() % customers) as u32, (next() % 100) as u32, (next() % 9) as i64 + 1);
    (0..count).map(purchase).collect()
}

/// The sum of what was bought for each customer and item.
pub(crate) fn sums(purchases: &[Purchase]) -> HashMap<(u32, u32), i64> {
    let mut sums = HashMap::new();
    for (customer, item, quantity) in purchases {
        *sums.entry((*customer, *item)).or_insert(0) += quantity;
    }
    sums
}

/// How many cells there are, and a sum over them that does not depend on their order.
pub(crate) fn tally(cells: impl IntoIterator<Item = ((u32, u32), i64)>) -> (u64, u64) {
    cells.into_iter().fold((0, 0), |(count, sum), ((customer, item), quantity)| {
        let cell =
            u64::from(customer).wrapping_mul(31).wrapping_add(u64::from(item)).wrapping_mul(quantity as u64);
        (count + 1, cell.wrapping_add(sum))
    })
}

/// A million purchases of 10,000 customers: rows rarely repeat.
pub(crate) fn rare(setting: &Setting) -> Outcome<Workload> {
    replay(setting, "replay-rare", "replay 1 M purchases into 632 k rows", 10_000)
}

/// A million purchases of 100 customers: 100 for each row.
pub(crate) fn often(setting: &Setting) -> Outcome<Workload> {
    replay(setting, "replay-often", "replay 1 M purchases into 10 k rows", 100)
}

fn replay(setting: &Setting, key: &'static str, title: &'static str, customers: u64) -> Outcome<Workload> {
    let purchases = Rc::new(purchases(1_000_000, customers));
    let wanted = tally(sums(&purchases));
    let log = Rc::new(setting.directory()?);
    own::fill(&log, &purchases)?;
    let mut contenders = vec![in_memory(purchases.clone(), wanted)];
    contenders.extend(own::replay(&log, &purchases, wanted));
    let (each, summed) = (Events::Each(purchases.clone()), Events::Summed(purchases));
    let replay = |events: &Events, batch| Replay { events: events.clone(), batch, wanted };
    // In batches of fjall and sled nothing can be read that was written there, and fjall's transactions are no match.
    contenders.push(tables::sqlite(setting, replay(&each, 1_000_000)));
    contenders.push(tables::redb(setting, replay(&each, 1_000_000)));
    for (events, batch) in [(&summed, 100_000), (&summed, 1_000_000), (&Events::OfLog(log), 1_000_000)] {
        contenders.push(tables::sqlite(setting, replay(events, batch)));
        contenders.push(tables::redb(setting, replay(events, batch)));
        contenders.push(tables::fjall(setting, replay(events, batch)));
    }
    // It takes 20 s with smaller batches.
    contenders.push(tables::sled(setting, replay(&summed, 1_000_000)));
    Ok(Workload { key, title, unit: "events/s", contenders })
}

/// A fold of purchases that are decoded already, into a map.
fn in_memory(purchases: Rc<Vec<Purchase>>, wanted: (u64, u64)) -> Contender {
    Contender::new("HashMap, of decoded events", Kind::Raw, move || {
        let start = Instant::now();
        let sums = black_box(sums(&purchases));
        let rate = purchases.len() as f64 / start.elapsed().as_secs_f64();
        if tally(sums) != wanted {
            return Err("the sums are wrong".into());
        }
        Ok(rate)
    })
}
