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
    },
}

impl Chance {
    /// Seed 0 spares nothing, `u64::MAX` everything.
    pub(super) fn new(seed: u64) -> Self {
        match seed {
            0 => Chance::Nothing,
            u64::MAX => Chance::Everything,
            _ => {
                let mut state = seed;
                let eighths = splitmix64(&mut state) % 9;
                Chance::Some { state, eighths }
            }
        }
    }

    /// Whether one thing survives.
    pub(super) fn spares(&mut self) -> bool {
        match self {
            Chance::Nothing => false,
            Chance::Everything => true,
            Chance::Some { state, eighths } => splitmix64(state) % 8 < *eighths,
        }
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

fn splitmix64(state: &mut u64) -> u64 {
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
}
