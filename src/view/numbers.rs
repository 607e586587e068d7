//! Where rows are, by the hashes of their keys. Pure.
//!
//! An open-addressed table with linear probing (Knuth, *The Art of Computer Programming* 3, section 6.4, algorithm L). The
//! highest bits of a hash are a place, and at or behind it is a word of the other bits and the row's number. So a look
//! mostly reads one line of memory, be the row there or not, and the lines are few.

/// As a power of two: so many words when there are some.
const FIRST_BITS: u32 = 6;

/// Numbers of rows, counted from 0. There are fewer than 2³⁰: whoever adds them ends long before.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Zero, or the other bits of a hash and, in the lowest `bits`, a number and one.
    words: Vec<u32>,
    /// The number of words, as a power of two.
    bits: u32,
    /// The hash that each number was added with.
    hashes: Vec<u32>,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Numbers { words: Vec::new(), bits: FIRST_BITS - 1, hashes: Vec::new() }
    }

    /// The number with this hash of which `is_it` holds. It may be asked of some with another hash, too.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut at, others) = self.split(hash);
        let lowest = (1 << self.bits) - 1;
        loop {
            let word = self.words.get(at).copied().filter(|word| *word != 0)?;
            let number = index(word & lowest) - 1;
            if word >> self.bits == others && is_it(number) {
                return Some(number);
            }
            at = (at + 1) & index(lowest);
        }
    }

    /// What tells where the numbers with a hash are, to be fetched.
    #[inline]
    pub(super) fn word(&self, hash: u32) -> u32 {
        self.words.get(self.split(hash).0).copied().unwrap_or_default()
    }

    /// Adds the next number, and returns it.
    #[inline]
    pub(super) fn add(&mut self, hash: u32) -> usize {
        let number = self.hashes.len();
        if number >= self.words.len() / 3 * 2 {
            self.grow();
        }
        self.hashes.push(hash);
        self.place(number, hash);
        number
    }

    /// Bytes of memory.
    pub(super) fn size(&self) -> usize {
        size_of_val(self.words.as_slice()) + size_of_val(self.hashes.as_slice())
    }

    fn grow(&mut self) {
        self.bits += 1;
        self.words = vec![0; 1 << self.bits];
        let hashes = std::mem::take(&mut self.hashes);
        hashes.iter().enumerate().for_each(|(number, hash)| self.place(number, *hash));
        self.hashes = hashes;
    }

    #[inline]
    fn place(&mut self, number: usize, hash: u32) {
        let (mut at, others) = self.split(hash);
        let last = self.words.len() - 1;
        while self.words.get(at).is_some_and(|word| *word != 0) {
            at = (at + 1) & last;
        }
        if let Some(word) = self.words.get_mut(at) {
            *word = others << self.bits | u32::try_from(number + 1).unwrap_or_default();
        }
    }

    /// Where the numbers with a hash begin, and its other bits.
    #[inline]
    fn split(&self, hash: u32) -> (usize, u32) {
        let others = u32::BITS - self.bits;
        (index(hash >> others), hash & ((1 << others) - 1))
    }
}

#[inline]
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_number_is_found_by_its_hash_and_no_other_is(
            few in any::<bool>(),
            hashes in vec(prop_oneof![any::<u32>(), Just(u32::MAX), 0..4u32], 0..400),
        ) {
            // Also with many that fall together, at both ends.
            let hashes: Vec<u32> = hashes.into_iter().map(|hash| if few { hash | 0xFF00_0000 } else { hash }).collect();
            let mut numbers = Numbers::new();
            for (number, hash) in hashes.iter().enumerate() {
                prop_assert_eq!(numbers.find(*hash, |found| found == number), None);
                prop_assert_eq!(numbers.add(*hash), number);
            }
            for (number, hash) in hashes.iter().enumerate() {
                prop_assert_eq!(numbers.find(*hash, |found| found == number), Some(number));
                let asked = Cell::new(0);
                numbers.find(*hash, |_| { asked.set(asked.get() + 1); false });
                // The other bits are seldom alike.
                let alike = hashes.iter().filter(|other| *other & 0xFFFF == hash & 0xFFFF).count();
                prop_assert!(asked.get() <= alike, "{} of {alike}", asked.get());
            }
        }
    }
}
