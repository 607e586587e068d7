//! Appends that return as early as an engine allows, 1,000 events each, with every index it has.

use super::{Clock, Contender, Kind, Setting, Supply, Workload};
use crate::fact::{Fact, Tally};
use crate::peer::{Level, Outcome, Peer, Use, verify};
use crate::peers::everfold_peer::Everfold;
use crate::peers::{commitlog::Commitlog, fjall::Fjall, okaywal::Okaywal, raft_engine::RaftEngine};
use crate::peers::{redb::Redb, sled::Sled, sqlite::Sqlite, umadb::Umadb};
use crate::raw::Raw;

/// Events in an append.
const BATCH: usize = 1000;

/// Deferred, batches of 1,000.
pub(crate) fn deferred(setting: &Setting) -> Workload {
    let contenders = vec![
        append::<Raw>(setting, Kind::Raw, "raw buffered write"),
        append::<Everfold>(setting, Kind::Own, Everfold::ABOUT.name),
        append::<Commitlog>(setting, Kind::Peer, Commitlog::ABOUT.name),
        append::<RaftEngine>(setting, Kind::Peer, RaftEngine::ABOUT.name),
        append::<Okaywal>(setting, Kind::Peer, Okaywal::ABOUT.name),
        append::<Fjall>(setting, Kind::Peer, Fjall::ABOUT.name),
        append::<Redb>(setting, Kind::Peer, Redb::ABOUT.name),
        append::<Sled>(setting, Kind::Peer, Sled::ABOUT.name),
        append::<Sqlite>(setting, Kind::Peer, Sqlite::ABOUT.name),
        append::<Umadb>(setting, Kind::Peer, Umadb::ABOUT.name),
    ];
    Workload {
        key: "deferred",
        title: "deferred append, batches of 1,000, all indexes on",
        unit: "events/s",
        contenders,
    }
}

fn append<P: Peer>(setting: &Setting, kind: Kind, name: &str) -> Contender {
    let setting = setting.clone();
    let mut supply = Supply::new(40_000, 300_000);
    Contender::new(name, kind, move || {
        let dir = setting.directory()?;
        let events = supply.inputs(setting.turn);
        let peer = P::open(dir.path(), Use { level: Level::Deferred, threads: 1, events })?;
        let facts: Vec<_> = (1..=events).map(|number| Fact::in_turn(number, 1000, 1000)).collect();
        let mut batches =
            facts.chunks(BATCH).map(|facts| peer.prepare(facts)).collect::<Outcome<Vec<P::Batch>>>()?;
        let clock = Clock::start(setting.turn);
        let mut done = 0;
        for (batch, facts) in batches.iter_mut().zip(facts.chunks(BATCH)) {
            peer.append(batch)?;
            done += facts.len();
            if clock.is_over() {
                break;
            }
        }
        let rate = clock.rate(done);
        verify(&peer, Tally::of(&facts[..done]))?;
        drop(batches);
        peer.close()?;
        Ok(supply.learn(rate))
    })
}
