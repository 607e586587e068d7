//! Makes up batches.

use everfold::{Batch, Durability, Guard, Position, Query, Version};

use super::dice::Dice;
use super::oracle::{Fact, Oracle};

/// A batch that was made up.
pub(crate) struct Made {
    pub(crate) facts: Vec<Fact>,
    pub(crate) durability: Durability,
    conditions: Vec<Condition>,
}

/// What a guard asks for.
enum Condition {
    Version { stream: String, expected: u64 },
    NoEvent { kind: String, tag: String, after: u64 },
}

impl Condition {
    fn guard(&self) -> Guard {
        match self {
            Condition::Version { stream, expected } => Guard::version(stream, Version::new(*expected)),
            Condition::NoEvent { kind, tag, after } => {
                Guard::no_event(Query::all().types([kind]).tags([tag]), Position::new(*after))
            }
        }
    }

    /// The position that breaks it, in a log that starts there. Of what retention dropped only versions are known.
    fn broken(&self, oracle: &Oracle, start: u64) -> Option<u64> {
        let last = |wanted: &dyn Fn(&Fact) -> bool| {
            oracle.facts.iter().rposition(wanted).map_or(0, |at| u64::try_from(at).unwrap() + 1)
        };
        match self {
            Condition::Version { stream, expected } => {
                (oracle.version(stream) != *expected).then(|| last(&|fact| fact.stream == *stream))
            }
            Condition::NoEvent { kind, tag, after } => {
                let last = last(&|fact| fact.kind == *kind && fact.tags.contains(tag));
                (last > *after && last >= start).then_some(last)
            }
        }
    }
}

impl Made {
    pub(crate) fn batch(&self) -> Batch {
        let events = self.facts.iter();
        let batch = events.fold(Batch::new(), |batch, fact| batch.event(fact.stream.clone(), fact.event()));
        let conditions = self.conditions.iter();
        conditions.fold(batch, |batch, condition| batch.guard(condition.guard())).durability(self.durability)
    }

    /// The first guard that does not hold, and the position that breaks it.
    pub(crate) fn broken(&self, oracle: &Oracle, start: u64) -> Option<(usize, u64)> {
        let mut conditions = self.conditions.iter().enumerate();
        conditions.find_map(|(number, condition)| Some((number, condition.broken(oracle, start)?)))
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
        Made { facts, durability, conditions: Vec::new() }
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

    /// Gives a batch guards, most of which hold.
    pub(crate) fn guard(&mut self, made: &mut Made) {
        for _ in 0..1 + self.dice.size(3) {
            let wrong = self.dice.one_in(6);
            let condition = match self.dice.one_in(2) {
                true => self.version_condition(wrong),
                false => self.query_condition(wrong),
            };
            made.conditions.push(condition);
        }
    }

    fn version_condition(&mut self, wrong: bool) -> Condition {
        let stream = format!("s{}", self.dice.below(7));
        let version = self.oracle.version(&stream);
        let expected = if wrong { version + 1 + self.dice.below(2) } else { version };
        Condition::Version { stream, expected }
    }

    fn query_condition(&mut self, wrong: bool) -> Condition {
        let (tag, kind) = (format!("g{}", self.dice.below(6)), format!("t{}", self.dice.below(4)));
        let last = self.oracle.facts.iter().rposition(|fact| fact.tags.contains(&tag) && fact.kind == kind);
        let after = match last.map(|at| u64::try_from(at).unwrap() + 1) {
            Some(last) if wrong => last - 1,
            Some(last) => last + self.dice.below(3),
            None => 0,
        };
        Condition::NoEvent { kind, tag, after }
    }
}

/// About what an event takes besides its payload.
const AROUND: usize = 160;
