//! Appends of one event each with and without a guard, to a store that holds 100,000 events.

use std::rc::Rc;

use everfold::{Batch, Durability, Guard, Query, Version};
use tempfile::TempDir;

use super::{Clock, Contender, Kind, Setting, Supply, Workload};
use crate::fact::{Fact, Tally, tag_name};
use crate::peer::{Level, Outcome, Peer, Use, same};
use crate::peers::everfold_peer::{self, Everfold};
use crate::peers::sqlite::Sqlite;
use crate::peers::umadb::Umadb;

/// Events in the stores at first, in 1,000 streams and with 1,000 tags.
const BEFORE: u64 = 100_000;
/// Numbers of streams and tags that only the timed appends have.
const OWN_NAMES: u64 = 50_000;

/// One event, with and without a guard.
pub(crate) fn guarded(setting: &Setting) -> Outcome<Workload> {
    let mut contenders = own(setting)?;
    contenders.append(&mut sqlite(setting)?);
    contenders.append(&mut umadb(setting)?);
    Ok(Workload {
        key: "guarded",
        title: "append of one event, with and without a guard",
        unit: "events/s",
        contenders,
    })
}

/// A store with some events, and how many it has been given.
struct Grown<P> {
    peer: P,
    _dir: TempDir,
    next: u64,
}

fn grow<P: Peer>(setting: &Setting, level: Level) -> Outcome<Grown<P>> {
    let dir = setting.directory()?;
    let peer = P::open(dir.path(), Use { level, threads: 1, events: 10 * BEFORE })?;
    let facts: Vec<_> = (1..=BEFORE).map(|number| Fact::in_turn(number, 1000, 1000)).collect();
    for facts in facts.chunks(1000) {
        peer.append(&mut peer.prepare(facts)?)?;
    }
    peer.settle()?;
    Ok(Grown { peer, _dir: dir, next: BEFORE })
}

/// The events of a turn, all in a stream of their own that has so many events already.
fn inputs(count: u64, stream: u64, numbers_after: u64, versions_after: u64) -> Vec<Fact> {
    let fact = |n| Fact {
        number: numbers_after + n,
        stream: OWN_NAMES + stream,
        version: versions_after + n,
        tag: OWN_NAMES + stream,
    };
    (1..=count).map(fact).collect()
}

/// The tag that guards ask for: one of those that 100 earlier events have.
fn asked(n: usize) -> String {
    tag_name(n as u64 * 7919 % 1000)
}

#[derive(Clone, Copy)]
enum Condition {
    None,
    Version,
    Tag,
}

fn own(setting: &Setting) -> Outcome<Vec<Contender>> {
    let grown = Rc::new(grow::<Everfold>(setting, Level::Deferred)?);
    let cases = [
        ("everfold, deferred", Durability::Deferred, Condition::None),
        ("everfold, deferred, version guard", Durability::Deferred, Condition::Version),
        ("everfold, deferred, tag guard", Durability::Deferred, Condition::Tag),
        ("everfold, durable", Durability::Durable, Condition::None),
        ("everfold, durable, tag guard", Durability::Durable, Condition::Tag),
    ];
    let cases = cases.into_iter().enumerate();
    Ok(cases
        .map(|(stream, (name, durability, condition))| {
            let (grown, setting) = (grown.clone(), setting.clone());
            let mut supply = Supply::new(4 << 10, 512 << 10);
            let mut given = 0;
            Contender::new(name, Kind::Own, move || {
                let facts = inputs(supply.inputs(setting.turn), stream as u64, 0, given);
                let (rate, done) = own_turn(&setting, &grown.peer, &facts, durability, condition)?;
                let store = grown.peer.store();
                let mut found = Tally::default();
                store.sync()?;
                for event in store.read_stream(&facts[0].stream_name(), Version::new(given)) {
                    found.add(event?.payload());
                }
                same("everfold", found, Tally::of(&facts[..done]))?;
                given += done as u64;
                Ok(supply.learn(rate))
            })
        })
        .collect())
}

fn own_turn(
    setting: &Setting,
    peer: &Everfold,
    facts: &[Fact],
    durability: Durability,
    condition: Condition,
) -> Outcome<(f64, usize)> {
    let now = peer.store().sync()?;
    let prepare = |(n, fact): (usize, &Fact)| {
        let batch = Batch::new().durability(durability).event(fact.stream_name(), everfold_peer::event(fact));
        match condition {
            Condition::None => batch,
            Condition::Version => {
                batch.guard(Guard::version(fact.stream_name(), Version::new(fact.version - 1)))
            }
            Condition::Tag => {
                let query = Query::all().tags([asked(n)]);
                batch.guard(Guard::no_event(query, now))
            }
        }
    };
    let mut batches: Vec<_> = facts.iter().enumerate().map(prepare).collect();
    timed(setting, &mut batches, |_, batch| peer.append(batch))
}

fn timed<B>(
    setting: &Setting,
    batches: &mut [B],
    mut append: impl FnMut(usize, &mut B) -> Outcome<()>,
) -> Outcome<(f64, usize)> {
    let clock = Clock::start(setting.turn / 2);
    let mut done = 0;
    for (n, batch) in batches.iter_mut().enumerate() {
        append(n, batch)?;
        done += 1;
        if clock.is_over() {
            break;
        }
    }
    Ok((clock.rate(done), done))
}

fn sqlite(setting: &Setting) -> Outcome<Vec<Contender>> {
    other::<Sqlite>(setting, "SQLite, durable", |peer, rows, tag, after| {
        peer.append_guarded(rows, tag, after)
    })
}

fn umadb(setting: &Setting) -> Outcome<Vec<Contender>> {
    other::<Umadb>(setting, "umadb-core, durable", |peer, events, tag, after| {
        peer.append_guarded(events, tag, after)
    })
}

type AppendGuarded<P> = fn(&P, &mut <P as Peer>::Batch, &str, u64) -> Outcome<()>;

fn other<P: Peer + 'static>(
    setting: &Setting,
    name: &str,
    append_guarded: AppendGuarded<P>,
) -> Outcome<Vec<Contender>> {
    let grown = Rc::new(std::cell::RefCell::new(grow::<P>(setting, Level::Durable)?));
    let contender = |name: String, guarded: bool| {
        let (grown, setting) = (grown.clone(), setting.clone());
        let mut supply = Supply::new(4 << 10, 32 << 10);
        Contender::new(name, Kind::Peer, move || {
            let mut grown = grown.borrow_mut();
            let facts = inputs(supply.inputs(setting.turn), 0, grown.next, grown.next);
            let peer = &grown.peer;
            let mut batches = facts.iter().map(|fact| peer.prepare(&[*fact])).collect::<Outcome<Vec<_>>>()?;
            let names: Vec<_> = (0..batches.len()).map(asked).collect();
            let after = grown.next;
            let (rate, done) = timed(&setting, &mut batches, |n, batch| match guarded {
                true => append_guarded(peer, batch, &names[n], after),
                false => peer.append(batch),
            })?;
            drop(batches);
            grown.next += done as u64;
            let mut found = Tally::default();
            grown.peer.read_stream(&facts[0].stream_name(), &mut |payload| found.add(payload))?;
            let all: Vec<_> = (BEFORE + 1..=grown.next).map(|number| Fact { number, ..facts[0] }).collect();
            same(P::ABOUT.name, found, Tally::of(&all))?;
            Ok(supply.learn(rate))
        })
    };
    Ok(vec![contender(name.to_owned(), false), contender(format!("{name}, tag guard"), true)])
}
