//! What kind of life it is: options, and what may happen in it.

use std::time::Duration;

use everfold::Options;

use super::dice::Dice;

#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) segment_size: u64,
    pub(crate) deeds: u64,
    /// Of so many operations, one is a loss of power on the side.
    pub(crate) outage_every: u64,
    /// Operations fail.
    pub(crate) faults: bool,
    pub(crate) tickets: bool,
    pub(crate) views: bool,
    pub(crate) retention: bool,
    max_index_bytes: usize,
    max_in_flight_bytes: usize,
}

/// How a store is opened this time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    map: bool,
    verify: bool,
    small_index: bool,
}

impl Setting {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let segment_size = match dice.below(100) {
            0..60 => 8 << 10,
            60..75 => 12 << 10,
            75..90 => 16 << 10,
            90..97 => 32 << 10,
            _ => 64 << 10,
        };
        Setting {
            segment_size,
            deeds: if dice.one_in(60) { 60 + dice.below(100) } else { 4 + dice.below(28) },
            outage_every: dice.pick(&[1, 1, 2, 4]),
            faults: dice.one_in(3),
            tickets: dice.one_in(12),
            views: dice.one_in(12),
            retention: dice.one_in(3),
            max_index_bytes: dice.pick(&[128 << 20, 128 << 20, 3000, 1]),
            max_in_flight_bytes: dice.pick(&[64 << 20, 64 << 20, 1000, 1]),
        }
    }

    pub(crate) fn opening(dice: &mut Dice) -> Opening {
        Opening { map: dice.one_in(2), verify: dice.one_in(4), small_index: dice.one_in(2) }
    }

    pub(crate) fn options(&self, opening: Opening) -> Options {
        Options::new()
            .segment_size(self.segment_size)
            .map_segments(opening.map)
            .verify_on_open(opening.verify)
            .max_index_bytes(if opening.small_index { self.max_index_bytes } else { 128 << 20 })
            .max_in_flight_bytes(self.max_in_flight_bytes)
            // A clock would make a life another one each time.
            .sync_after(Duration::from_secs(1 << 20))
    }

    /// How many bytes of events fit in a segment, with room for what is around them.
    pub(crate) fn room(&self) -> usize {
        usize::try_from(self.segment_size).unwrap() - 4096 - 72 - 72
    }
}
