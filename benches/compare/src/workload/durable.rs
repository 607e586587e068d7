//! Durable appends of one event each: from one thread, and from 64 that block.

use std::sync::Barrier;
use std::time::Instant;

use super::{Clock, Contender, Kind, Setting, Supply, Workload};
use crate::fact::{Fact, Tally};
use crate::peer::{Level, Outcome, Peer, Use, verify};
use crate::peers::everfold_peer::Everfold;
use crate::peers::{fjall::Fjall, okaywal::Okaywal, raft_engine::RaftEngine};
use crate::peers::{redb::Redb, sled::Sled, sqlite::Sqlite, umadb::Umadb};
use crate::raw::Raw;

/// Appends that are not timed, after which files have grown and threads are there.
const FIRST: usize = 64;
/// Blocking threads.
const THREADS: u64 = 64;

/// One event, durable, one thread.
pub(crate) fn one_thread(setting: &Setting) -> Workload {
    let contenders = vec![
        one::<Raw>(setting, Kind::Raw, "raw pwrite + fdatasync"),
        one::<Everfold>(setting, Kind::Own, Everfold::ABOUT.name),
        one::<Okaywal>(setting, Kind::Peer, Okaywal::ABOUT.name),
        one::<RaftEngine>(setting, Kind::Peer, RaftEngine::ABOUT.name),
        one::<Fjall>(setting, Kind::Peer, Fjall::ABOUT.name),
        one::<Redb>(setting, Kind::Peer, Redb::ABOUT.name),
        one::<Sled>(setting, Kind::Peer, Sled::ABOUT.name),
        one::<Sqlite>(setting, Kind::Peer, Sqlite::ABOUT.name),
        one::<Umadb>(setting, Kind::Peer, Umadb::ABOUT.name),
    ];
    Workload { key: "durable-1", title: "durable append, 1 thread", unit: "events/s", contenders }
}

/// One event, durable, 64 blocking threads.
pub(crate) fn threads(setting: &Setting) -> Workload {
    let contenders = vec![
        many::<Raw>(setting, Kind::Raw, "raw group commit"),
        many::<Everfold>(setting, Kind::Own, Everfold::ABOUT.name),
        many::<Okaywal>(setting, Kind::Peer, Okaywal::ABOUT.name),
        many::<RaftEngine>(setting, Kind::Peer, RaftEngine::ABOUT.name),
        many::<Fjall>(setting, Kind::Peer, Fjall::ABOUT.name),
        many::<Redb>(setting, Kind::Peer, Redb::ABOUT.name),
        many::<Sled>(setting, Kind::Peer, Sled::ABOUT.name),
        many::<Sqlite>(setting, Kind::Peer, Sqlite::ABOUT.name),
        many::<Umadb>(setting, Kind::Peer, Umadb::ABOUT.name),
    ];
    Workload { key: "durable-64", title: "durable append, 64 blocking threads", unit: "events/s", contenders }
}

fn one<P: Peer>(setting: &Setting, kind: Kind, name: &str) -> Contender {
    let setting = setting.clone();
    let mut supply = Supply::new(2 << 10, 32 << 10);
    Contender::new(name, kind, move || {
        let dir = setting.directory()?;
        let events = supply.inputs(setting.turn);
        let peer = P::open(dir.path(), Use { level: Level::Durable, threads: 1, events })?;
        let facts: Vec<_> = (1..=events).map(|number| Fact::in_turn(number, 100, 1000)).collect();
        let mut batches =
            facts.iter().map(|fact| peer.prepare(&[*fact])).collect::<Outcome<Vec<P::Batch>>>()?;
        let (first, timed) = batches.split_at_mut(FIRST);
        for batch in first {
            peer.append(batch)?;
        }
        let clock = Clock::start(setting.turn);
        let mut done = 0;
        for batch in timed {
            peer.append(batch)?;
            done += 1;
            if clock.is_over() {
                break;
            }
        }
        let rate = clock.rate(done);
        verify(&peer, Tally::of(&facts[..FIRST + done]))?;
        drop(batches);
        peer.close()?;
        Ok(supply.learn(rate))
    })
}

/// Each thread has a stream of its own.
fn facts_of(thread: u64, count: u64) -> Vec<Fact> {
    let fact = |version: u64| {
        let number = thread * count + version;
        Fact { stream: thread, version, ..Fact::in_turn(number, THREADS, 1000) }
    };
    (1..=count).map(fact).collect()
}

fn many<P: Peer>(setting: &Setting, kind: Kind, name: &str) -> Contender {
    let setting = setting.clone();
    let mut supply = Supply::new(16 << 10, 512 << 10);
    Contender::new(name, kind, move || {
        let dir = setting.directory()?;
        let count = supply.inputs(setting.turn) / THREADS;
        let threads = usize::try_from(THREADS)?;
        let usage = Use { level: Level::Durable, threads, events: THREADS * count };
        let peer = P::open(dir.path(), usage)?;
        let facts: Vec<_> = (0..THREADS).map(|thread| facts_of(thread, count)).collect();
        let prepare = |facts: &Vec<Fact>| facts.iter().map(|fact| peer.prepare(&[*fact])).collect();
        let mut inputs = facts.iter().map(prepare).collect::<Outcome<Vec<Vec<P::Batch>>>>()?;
        let (rate, done) = race(&setting, &mut inputs, |batch: &mut P::Batch| peer.append(batch))?;
        drop(inputs);
        let acknowledged = facts.iter().zip(&done).flat_map(|(facts, done)| &facts[..*done]);
        verify(&peer, Tally::of(acknowledged))?;
        peer.close()?;
        Ok(supply.learn(rate))
    })
}

/// Lets a thread for each list of inputs append them until the turn is over. Returns how many a second that were,
/// and how many each appended.
fn race<B: Send>(
    setting: &Setting,
    inputs: &mut [Vec<B>],
    append: impl Fn(&mut B) -> Outcome<()> + Sync,
) -> Outcome<(f64, Vec<usize>)> {
    let barrier = Barrier::new(inputs.len() + 1);
    let (barrier, append) = (&barrier, &append);
    let take_part = |inputs: &mut [B]| -> Outcome<usize> {
        barrier.wait();
        let start = Instant::now();
        for (done, input) in inputs.iter_mut().enumerate() {
            append(input)?;
            if start.elapsed() >= setting.turn {
                return Ok(done + 1);
            }
        }
        Ok(inputs.len())
    };
    let take_part = &take_part;
    let (elapsed, ended) = std::thread::scope(|scope| {
        let started: Vec<_> =
            inputs.iter_mut().map(|inputs| scope.spawn(move || take_part(inputs))).collect();
        barrier.wait();
        let start = Instant::now();
        let ended: Vec<_> = started.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        (start.elapsed(), ended)
    });
    let done = ended.into_iter().map(|done| done.map_err(|_| "a thread that appends panicked")?);
    let done = done.collect::<Outcome<Vec<usize>>>()?;
    Ok((done.iter().sum::<usize>() as f64 / elapsed.as_secs_f64(), done))
}
