//! Durable appends of one event each, 1,024 of them in flight from one thread.

use std::collections::VecDeque;

use super::{Clock, Contender, Kind, Setting, Supply, Workload};
use crate::fact::{Fact, Tally};
use crate::peer::{Level, Outcome, Peer, Use, verify};
use crate::peers::everfold_peer::{self, Everfold};
use crate::peers::umadb::{Answer, Umadb};
use crate::raw::Raw;

/// How many appends are submitted and not yet waited for.
const IN_FLIGHT: usize = 1024;

/// One event, durable, many in flight.
pub(crate) fn tickets(setting: &Setting) -> Workload {
    let uma_wait = |_: &Umadb, answer: Answer| {
        answer.blocking_recv()??;
        Ok(())
    };
    let contenders = vec![
        flight(setting, Kind::Raw, "raw tickets", Raw::submit, Raw::wait),
        flight(setting, Kind::Own, Everfold::ABOUT.name, everfold_peer::submit, everfold_peer::wait),
        flight(setting, Kind::Peer, Umadb::ABOUT.name, Umadb::submit, uma_wait),
    ];
    Workload {
        key: "tickets",
        title: "durable append, 1 thread, 1,024 in flight",
        unit: "events/s",
        contenders,
    }
}

fn flight<P: Peer, T: 'static>(
    setting: &Setting,
    kind: Kind,
    name: &str,
    submit: impl Fn(&P, &mut P::Batch) -> Outcome<T> + 'static,
    wait: impl Fn(&P, T) -> Outcome<()> + 'static,
) -> Contender {
    let setting = setting.clone();
    let mut supply = Supply::new(64 << 10, 512 << 10);
    Contender::new(name, kind, move || {
        let dir = setting.directory()?;
        let events = supply.inputs(setting.turn);
        // More than one thread: the engine's own that commits counts too.
        let peer = P::open(dir.path(), Use { level: Level::Durable, threads: 2, events })?;
        let facts: Vec<_> = (1..=events).map(|number| Fact::in_turn(number, 1000, 1000)).collect();
        let mut batches =
            facts.iter().map(|fact| peer.prepare(&[*fact])).collect::<Outcome<Vec<P::Batch>>>()?;
        let clock = Clock::start(setting.turn);
        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        let mut done = 0;
        for batch in &mut batches {
            if in_flight.len() == IN_FLIGHT
                && let Some(oldest) = in_flight.pop_front()
            {
                wait(&peer, oldest)?;
            }
            in_flight.push_back(submit(&peer, batch)?);
            done += 1;
            if done % 64 == 0 && clock.is_over() {
                break;
            }
        }
        for ticket in in_flight {
            wait(&peer, ticket)?;
        }
        let rate = clock.rate(done);
        verify(&peer, Tally::of(&facts[..done]))?;
        drop(batches);
        peer.close()?;
        Ok(supply.learn(rate))
    })
}
