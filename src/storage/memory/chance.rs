//! What a simulated loss of power spares: a pure function of its seed.

/// Decides, thing by thing, what survives.
#[derive(Debug)]
pub(super) enum Chance {
    Nothing,
    Everything,
    Some {
        /// Of splitmix64.
        state: u64,
        /// Of eight things, how many survive on average. It differs by seed, so that some seeds lose almost
        /// nothing and others almost everything.
        eighths: u64,
        /// How many bytes the disk writes whole or not at all.
        unit: usize,
        /// Whether changes of names happen in the order in which they were made.
        in_order: bool,
    },
}

/// Old disks write so many bytes whole or not at all, and new ones so many.
pub(super) const UNITS: [usize; 2] = [512, 4096];

impl Chance {
    /// Seed 0 spares nothing, `u64::MAX` everything.
    pub(super) fn new(seed: u64) -> Self {
        match seed {
            0 => Chance::Nothing,
            u64::MAX => Chance::Everything,
            _ => {
                let mut state = seed;
                let drawn = splitmix64(&mut state);
                let [small, large] = UNITS;
                let unit = if (drawn >> 60).is_multiple_of(3) { large } else { small };
                Chance::Some { state, eighths: drawn % 9, unit, in_order: !(drawn >> 56).is_multiple_of(4) }
            }
        }
    }

    /// Whether one thing survives.
    pub(super) fn spares(&mut self) -> bool {
        match self {
            Chance::Nothing => false,
            Chance::Everything => true,
            Chance::Some { state, eighths, .. } => splitmix64(state) % 8 < *eighths,
        }
    }

    /// How many of `len` writes to one place, in order, have reached the disk.
    pub(super) fn stage(&mut self, len: u64) -> u64 {
        if self.spares() { len } else { self.prefix(len.saturating_sub(1)) }
    }

    pub(super) fn unit(&self) -> usize {
        match self {
            Chance::Some { unit, .. } => *unit,
            _ => UNITS[0],
        }
    }

    pub(super) fn in_order(&self) -> bool {
        !matches!(self, Chance::Some { in_order: false, .. })
    }

    /// How many of `len` things that happen in order have happened; each number is as likely.
    pub(super) fn prefix(&mut self, len: u64) -> u64 {
        match self {
            Chance::Nothing => 0,
            Chance::Everything => len,
            Chance::Some { state, .. } => splitmix64(state) % len.saturating_add(1),
        }
    }
}

pub(super) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_its_published_sequence() {
        let mut state = 1_234_567;
        assert_eq!(splitmix64(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut state), 3_203_168_211_198_807_973);
    }

    #[test]
    fn every_prefix_comes_up() {
        let seen: std::collections::BTreeSet<u64> =
            (1..200).map(|seed| Chance::new(seed).prefix(3)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!((Chance::new(0).prefix(3), Chance::new(u64::MAX).prefix(3)), (0, 3));
    }

    #[test]
    fn every_stage_comes_up_with_either_unit_and_in_either_order() {
        let seen: std::collections::BTreeSet<_> = (1..500)
            .map(|seed| {
                let mut chance = Chance::new(seed);
                (chance.stage(2), chance.unit(), chance.in_order())
            })
            .collect();
        assert_eq!(seen.len(), 3 * 2 * 2);
        assert_eq!((Chance::new(0).stage(2), Chance::new(u64::MAX).stage(2)), (0, 2));
    }
}
