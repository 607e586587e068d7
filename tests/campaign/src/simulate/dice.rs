//! Numbers that follow from a seed, and nothing else.

/// splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds that follow each other give sequences that do not.
        let mut dice = Dice(seed ^ 0x5851_F42D_4C95_7F2D);
        dice.0 = dice.next().rotate_left(23);
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn size(&mut self, below: usize) -> usize {
        usize::try_from(self.below(u64::try_from(below.max(1)).unwrap())).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.size(of.len())]
    }

    /// A seed for a loss of power: now and then one that takes everything unsynced, or nothing.
    pub(crate) fn crash(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => u64::MAX,
            _ => self.next().clamp(1, u64::MAX - 1),
        }
    }
}
