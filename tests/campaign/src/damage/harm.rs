//! Every harm that is done to the files of a store, by number.

use everfold::MemoryStorage;

use super::golden::{Golden, frames};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// So much is added to a file, as zeros and as other bytes.
const LONGER: [usize; 3] = [1, 512, 4096];

/// One change to one file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Harm {
    Bit(usize),
    /// Cut off at a length.
    Cut(usize),
    Longer(usize, u8),
    /// So many zeros from an offset.
    Zeros(usize, usize),
    Gone,
    /// Another file in its place.
    Replaced(usize),
}

/// What is done to a file, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Bit,
    Cut,
    Sector,
    Page,
    Other,
}

/// All harms of one kind to one file.
pub(super) struct Plan<'a> {
    pub(super) file: &'a str,
    pub(super) kind: Kind,
    harms: Vec<Harm>,
    /// Bits and lengths are counted, not listed.
    pub(super) count: usize,
    /// Only each such one is tried, from the first on.
    step: usize,
    first: usize,
}

impl Plan<'_> {
    pub(super) fn harm(&self, n: usize) -> Harm {
        match self.kind {
            Kind::Bit => Harm::Bit(self.first + n * self.step),
            Kind::Cut => Harm::Cut(self.first + n * self.step),
            _ => self.harms.get(n).copied().unwrap_or(Harm::Gone),
        }
    }
}

/// Everything that is done to a store. Of bits and lengths only each `step`-th, from the `first` on.
pub(super) fn plans(golden: &Golden, step: usize, first: usize) -> Vec<Plan<'_>> {
    let mut plans = Vec::new();
    for (file, bytes) in &golden.files {
        let changes = |from: &usize, len: usize| {
            bytes
                .get(*from..(*from + len).min(bytes.len()))
                .is_some_and(|part| part.iter().any(|byte| *byte != 0))
        };
        let zeros = |len: usize| {
            let from = (0..bytes.len()).step_by(len).filter(|from| changes(from, len));
            from.map(|from| Harm::Zeros(from, len.min(bytes.len() - from))).collect::<Vec<_>>()
        };
        let longer = LONGER.iter().flat_map(|by| [Harm::Longer(*by, 0), Harm::Longer(*by, 0xa5)]);
        let strangers = golden.strangers.get(file).map_or(0, Vec::len);
        let other = longer.chain([Harm::Gone]).chain((0..strangers).map(Harm::Replaced)).collect();
        let listed = [(Kind::Sector, zeros(SECTOR)), (Kind::Page, zeros(PAGE)), (Kind::Other, other)];
        for (kind, all) in [(Kind::Bit, bytes.len() * 8), (Kind::Cut, bytes.len())] {
            let count = all.saturating_sub(first).div_ceil(step);
            plans.push(Plan { file, kind, harms: Vec::new(), count, step, first });
        }
        let listed = listed.into_iter().map(|(kind, harms)| {
            let count = harms.len();
            Plan { file, kind, harms, count, step: 1, first: 0 }
        });
        plans.extend(listed);
    }
    plans
}

impl Harm {
    /// Does it, to a copy.
    pub(super) fn damaged(self, golden: &Golden, file: &str) -> std::io::Result<MemoryStorage> {
        let storage = golden.storage.crash(u64::MAX);
        let long = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        match self {
            Harm::Bit(bit) => storage.flip_bit(file, long(bit / 8), u8::try_from(bit % 8).unwrap_or(0))?,
            Harm::Cut(len) => storage.truncate(file, long(len))?,
            Harm::Longer(by, byte) => {
                let mut bytes = golden.files.get(file).cloned().unwrap_or_default();
                bytes.resize(bytes.len() + by, byte);
                storage.put(file, &bytes)?;
            }
            Harm::Zeros(from, len) => storage.overwrite(file, long(from), &vec![0; len])?,
            Harm::Gone => storage.delete(file)?,
            Harm::Replaced(by) => {
                let stranger = golden.strangers.get(file).and_then(|strangers| strangers.get(by));
                storage.put(file, stranger.map_or(&[], |(_, bytes)| bytes))?;
            }
        }
        Ok(storage)
    }

    /// For people.
    pub(super) fn text(self, golden: &Golden, file: &str) -> String {
        let what = match self {
            Harm::Bit(bit) => format!("bit {} of byte {} flipped", bit % 8, bit / 8),
            Harm::Cut(len) => format!("cut off at {len}"),
            Harm::Longer(by, byte) => format!("{by} bytes {byte:#04x} added"),
            Harm::Zeros(from, len) => format!("{len} zeros at {from}"),
            Harm::Gone => "deleted".to_owned(),
            Harm::Replaced(by) => {
                let stranger = golden.strangers.get(file).and_then(|strangers| strangers.get(by));
                format!("replaced by {}", stranger.map_or("nothing", |(name, _)| name))
            }
        };
        format!("{}/{file}: {what}", golden.name)
    }

    /// Whether it destroys bytes of a frame with events that the rest of the files proves to have been acknowledged.
    pub(super) fn hits_acknowledged(self, golden: &Golden, file: &str, damaged: &MemoryStorage) -> bool {
        let (Harm::Zeros(from, len), Some(bytes)) = (self, golden.files.get(file)) else { return false };
        if !file.ends_with(".seg") {
            return false;
        }
        let proven = golden.provable(damaged);
        frames(bytes).into_iter().filter(|frame| frame.events > 0 && frame.last <= proven).any(|frame| {
            let (start, end) = (frame.offset.max(from), (frame.offset + frame.len).min(from + len));
            start < end && bytes.get(start..end).is_some_and(|part| part.iter().any(|byte| *byte != 0))
        })
    }
}
