//! Makes up batches.

use everfold::{Batch, Durability, Guard, Position, Query, Version};

use super::dice::Dice;
use super::oracle::{Fact, Oracle};

/// A batch that was made up: what to ask for, and what is to come of it.
pub(crate) struct Made {
    pub(crate) facts: Vec<Fact>,
    pub(crate) durability: Durability,
    guards: Vec<Guard>,
    /// The first guard that does not hold, and the position that breaks it.
    pub(crate) broken: Option<(usize, u64)>,
}

impl Made {
    pub(crate) fn batch(&self) -> Batch {
        let events = self.facts.iter();
        let batch = events.fold(Batch::new(), |batch, fact| batch.event(fact.stream.clone(), fact.event()));
        self.guards.iter().fold(batch, |batch, guard| batch.guard(guard.clone())).durability(self.durability)
    }
}

/// Makes batches for a store that has the list.
pub(crate) struct Maker<'a> {
    pub(crate) dice: &'a mut Dice,
    pub(crate) oracle: &'a Oracle,
}

impl Maker<'_> {
    /// One to some events, of at most `room` bytes with all that is around them.
    pub(crate) fn make(&mut self, mut room: usize, durability: Durability) -> Made {
        let events = match self.dice.below(8) {
            0..5 => 1,
            5..7 => 1 + self.dice.size(4),
            _ => 1 + self.dice.size(12),
        };
        let large = self.dice.below(10);
        let mut facts = Vec::new();
        for _ in 0..events {
            let most = room.saturating_sub(AROUND);
            let wanted = match large {
                0..6 => self.dice.size(120),
                6..8 => self.dice.size(900),
                8 => self.dice.size(3000),
                _ => self.dice.size(most + 1),
            };
            if !facts.is_empty() && room < AROUND + wanted {
                break;
            }
            let fact = self.fact(wanted.min(most));
            room = room.saturating_sub(AROUND + fact.payload.len());
            facts.push(fact);
        }
        Made { facts, durability, guards: Vec::new(), broken: None }
    }

    fn fact(&mut self, bytes: usize) -> Fact {
        let stream = format!("s{}", self.dice.below(6));
        let id = u128::from(self.dice.next()) << 64 | u128::from(self.dice.next());
        let tags = (0..5).filter(|_| self.dice.one_in(3)).map(|tag| format!("g{tag}")).collect();
        let metadata = match self.dice.below(4) {
            0 => Some(Vec::new()),
            1 => Some(id.to_le_bytes().to_vec()),
            _ => None,
        };
        let kind = format!("t{}", self.dice.below(4));
        Fact { stream, version: 0, id, kind, tags, payload: self.payload(bytes), metadata }
    }

    /// Bytes of all sorts: zeros are what recovery takes for nothing.
    fn payload(&mut self, bytes: usize) -> Vec<u8> {
        let mut payload = vec![0; bytes];
        let mask = self.dice.pick(&[0, 0xFF, 0xFF, 0x0101_0101_0101_0101, u64::MAX, u64::MAX, u64::MAX]);
        if mask != 0 {
            for word in payload.chunks_mut(8) {
                let drawn = (self.dice.next() & mask).to_le_bytes();
                word.copy_from_slice(&drawn[..word.len()]);
            }
        }
        payload
    }

    /// Gives a batch guards that hold, and now and then one that does not.
    pub(crate) fn guard(&mut self, made: &mut Made, start: u64) {
        for number in 0..1 + self.dice.size(3) {
            let wrong = made.broken.is_none() && self.dice.one_in(4);
            let (guard, breaker) =
                if self.dice.one_in(2) { self.version_guard(wrong) } else { self.query_guard(wrong, start) };
            made.guards.push(guard);
            if let (None, Some(position)) = (made.broken, breaker) {
                made.broken = Some((number, position));
            }
        }
    }

    fn version_guard(&mut self, wrong: bool) -> (Guard, Option<u64>) {
        let stream = format!("s{}", self.dice.below(7));
        let version = self.oracle.version(&stream);
        let expected = Version::new(if wrong { version + 1 + self.dice.below(2) } else { version });
        let last = self.oracle.facts.iter().rposition(|fact| fact.stream == stream);
        let last = last.map_or(0, |at| u64::try_from(at).unwrap() + 1);
        (Guard::version(stream, expected), wrong.then_some(last))
    }

    fn query_guard(&mut self, wrong: bool, start: u64) -> (Guard, Option<u64>) {
        let (tag, kind) = (format!("g{}", self.dice.below(6)), format!("t{}", self.dice.below(4)));
        let last = self.oracle.facts.iter().rposition(|fact| fact.tags.contains(&tag) && fact.kind == kind);
        // Of what retention dropped nothing is known.
        let last = last.map(|at| u64::try_from(at).unwrap() + 1).filter(|position| *position >= start);
        let after = match last {
            Some(last) if wrong => last - 1,
            Some(last) => last + self.dice.below(3),
            None => 0,
        };
        let guard = Guard::no_event(Query::all().types([kind]).tags([tag]), Position::new(after));
        (guard, last.filter(|_| wrong))
    }
}

/// About what an event takes besides its payload.
const AROUND: usize = 160;
