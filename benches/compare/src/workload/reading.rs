//! Reading: all events, one stream, one tag. Stores are made once; who reads takes turns.

use std::rc::Rc;
use std::time::Instant;

use tempfile::TempDir;

use super::{Clock, Contender, Kind, Setting, Workload};
use crate::fact::{Fact, Tally, stream_name, tag_name};
use crate::peer::{Level, Outcome, Peer, Use, same, verify};
use crate::peers::everfold_peer::Everfold;
use crate::peers::{commitlog::Commitlog, fjall::Fjall, okaywal::Okaywal, raft_engine::RaftEngine};
use crate::peers::{redb::Redb, sled::Sled, sqlite::Sqlite, umadb::Umadb};
use crate::raw::Raw;

/// Events in the stores that streams and tags are read from.
const EVENTS: u64 = 100_000;
/// Streams in them, and tags: 100 events each.
const NAMES: u64 = 1000;
const BATCH: usize = 1000;

fn facts(events: u64) -> Vec<Fact> {
    (1..=events).map(|number| Fact::in_turn(number, NAMES, NAMES)).collect()
}

/// A filled store, in a directory that is removed with it.
struct Filled<P> {
    peer: P,
    dir: TempDir,
}

fn fill<P: Peer>(setting: &Setting, facts: &[Fact]) -> Outcome<Filled<P>> {
    eprint!("\rfilling: {:<40}", P::ABOUT.name);
    let dir = setting.directory()?;
    let usage = Use { level: Level::Deferred, threads: 1, events: facts.len() as u64 };
    let peer = P::open(dir.path(), usage)?;
    for facts in facts.chunks(BATCH) {
        peer.append(&mut peer.prepare(facts)?)?;
    }
    verify(&peer, Tally::of(facts))?;
    Ok(Filled { peer, dir })
}

/// Everything, checksums checked.
pub(crate) fn scan(setting: &Setting) -> Outcome<Workload> {
    let facts = facts(setting.scanned);
    let expected = Tally::touching(&facts);
    let mut contenders = vec![scanner::<Raw>(setting, Kind::Raw, "raw mapped read + crc", &facts, expected)?];
    contenders.push(own_scanner(setting, &facts, expected)?);
    contenders.push(scanner::<Commitlog>(setting, Kind::Peer, Commitlog::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<RaftEngine>(setting, Kind::Peer, RaftEngine::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<Okaywal>(setting, Kind::Peer, Okaywal::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<Fjall>(setting, Kind::Peer, Fjall::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<Redb>(setting, Kind::Peer, Redb::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<Sled>(setting, Kind::Peer, Sled::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<Sqlite>(setting, Kind::Peer, Sqlite::ABOUT.name, &facts, expected)?);
    contenders.push(scanner::<Umadb>(setting, Kind::Peer, Umadb::ABOUT.name, &facts, expected)?);
    let title = "scan, checksums checked where there are any";
    Ok(Workload { key: "scan", title, unit: "events/s", contenders })
}

fn timed_scan(
    name: &str,
    expected: Tally,
    scan: impl FnOnce(&mut dyn FnMut(&[u8])) -> Outcome<()>,
) -> Outcome<f64> {
    let mut found = Tally::default();
    let start = Instant::now();
    scan(&mut |payload| found.touch(payload))?;
    let elapsed = start.elapsed();
    same(name, found, expected)?;
    Ok(found.events as f64 / elapsed.as_secs_f64())
}

/// everfold is opened anew for each scan, so that no checksum was checked before.
fn own_scanner(setting: &Setting, facts: &[Fact], expected: Tally) -> Outcome<Contender> {
    let Filled { peer, dir } = fill::<Everfold>(setting, facts)?;
    peer.close()?;
    let usage = Use { level: Level::Deferred, threads: 1, events: setting.scanned };
    Ok(Contender::new(Everfold::ABOUT.name, Kind::Own, move || {
        let peer = Everfold::open(dir.path(), usage)?;
        let rate = timed_scan(Everfold::ABOUT.name, expected, |each| peer.scan(each))?;
        peer.close()?;
        Ok(rate)
    }))
}

fn scanner<P: Peer + 'static>(
    setting: &Setting,
    kind: Kind,
    name: &'static str,
    facts: &[Fact],
    expected: Tally,
) -> Outcome<Contender> {
    let filled = fill::<P>(setting, facts)?;
    Ok(Contender::new(name, kind, move || {
        // All of it, or its directory would be removed here.
        let Filled { peer, dir: _dir } = &filled;
        timed_scan(name, expected, |each| peer.scan(each))
    }))
}

type ReadNamed<P> = fn(&P, &str, &mut dyn FnMut(&[u8])) -> Outcome<()>;

/// One stream of 100 events among 100,000, and one tag of 100 events among as many: two workloads on the same stores.
pub(crate) fn by_name(setting: &Setting) -> Outcome<[Workload; 2]> {
    let facts = facts(EVENTS);
    let mut both = Both {
        setting: setting.clone(),
        streams: Named::streams(&facts),
        tags: Named::tags(&facts),
        by_stream: Vec::new(),
        by_tag: Vec::new(),
    };
    both.add::<Everfold>(&facts, Kind::Own)?;
    both.add::<Fjall>(&facts, Kind::Peer)?;
    both.add::<Redb>(&facts, Kind::Peer)?;
    both.add::<Sled>(&facts, Kind::Peer)?;
    both.add::<Sqlite>(&facts, Kind::Peer)?;
    both.add::<Umadb>(&facts, Kind::Peer)?;
    Ok([
        Workload {
            key: "stream",
            title: "read one stream of 100 events among 100,000",
            unit: "events/s",
            contenders: both.by_stream,
        },
        Workload {
            key: "tag",
            title: "read one tag of 100 events among 100,000",
            unit: "events/s",
            contenders: both.by_tag,
        },
    ])
}

/// Names, and what reading each must come to.
struct Named(Vec<(String, Tally)>);

impl Named {
    fn streams(facts: &[Fact]) -> Rc<Self> {
        Self::new(facts, stream_name, |fact| fact.stream)
    }

    fn tags(facts: &[Fact]) -> Rc<Self> {
        Self::new(facts, tag_name, |fact| fact.tag)
    }

    fn new(facts: &[Fact], name: fn(u64) -> String, of: fn(&Fact) -> u64) -> Rc<Self> {
        let mut named: Vec<_> = (0..NAMES).map(|n| (name(n), Tally::default())).collect();
        for fact in facts {
            named[of(fact) as usize].1.touch(&fact.payload());
        }
        Rc::new(Named(named))
    }
}

struct Both {
    setting: Setting,
    streams: Rc<Named>,
    tags: Rc<Named>,
    by_stream: Vec<Contender>,
    by_tag: Vec<Contender>,
}

impl Both {
    fn add<P: Peer + 'static>(&mut self, facts: &[Fact], kind: Kind) -> Outcome<()> {
        let filled = Rc::new(fill::<P>(&self.setting, facts)?);
        self.by_stream.push(self.reader(&filled, kind, &self.streams, P::read_stream));
        self.by_tag.push(self.reader(&filled, kind, &self.tags, P::read_tag));
        Ok(())
    }

    fn reader<P: Peer + 'static>(
        &self,
        filled: &Rc<Filled<P>>,
        kind: Kind,
        named: &Rc<Named>,
        read: ReadNamed<P>,
    ) -> Contender {
        let (filled, named, setting) = (filled.clone(), named.clone(), self.setting.clone());
        let mut next = 0;
        Contender::new(P::ABOUT.name, kind, move || {
            let clock = Clock::start(setting.turn / 2);
            let mut events = 0;
            while !clock.is_over() {
                // A step that is prime to the number of names: all of them come, and not in order.
                next = (next + 389) % named.0.len();
                let (name, expected) = &named.0[next];
                let mut found = Tally::default();
                read(&filled.peer, name, &mut |payload| found.touch(payload))?;
                same(P::ABOUT.name, found, *expected)?;
                events += found.events as usize;
            }
            Ok(clock.rate(events))
        })
    }
}
