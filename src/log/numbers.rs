//! The numbers of the names of a request, by their hashes.

use super::layout::memory_len;

/// An open table, used again from request to request.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The higher half of a hash, and a number; as many as a power of two, most of them empty.
    slots: Vec<(u32, u32)>,
}

const EMPTY: u32 = u32::MAX;

impl Numbers {
    /// Forgets all numbers, and makes room for so many.
    pub(crate) fn start(&mut self, most: usize) {
        self.slots.clear();
        self.slots.resize(most.saturating_mul(2).next_power_of_two().max(8), (0, EMPTY));
    }

    /// The number of a name with this hash, or else the next one, which is now its number.
    pub(crate) fn find_or_add(&mut self, hash: u64, next: u32, is_it: impl Fn(u32) -> bool) -> u32 {
        let mask = self.slots.len().wrapping_sub(1);
        let high = u32::try_from(hash >> 32).unwrap_or_default();
        let mut at = memory_len(hash & u64::from(u32::MAX)) & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            match *slot {
                (_, EMPTY) => {
                    *slot = (high, next);
                    break;
                }
                (other, number) if other == high && is_it(number) => return number,
                _ => at = (at + 1) & mask,
            }
        }
        next
    }

    /// How much memory it keeps, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.slots.capacity() * size_of::<(u32, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_also_when_their_hashes_collide() {
        let mut numbers = Numbers::default();
        for most in [500, 3] {
            numbers.start(most);
            let mut names: Vec<usize> = Vec::new();
            for name in (0..most).chain(0..most) {
                let hash = u64::try_from(name % 7).unwrap() * 0x1_0000_0001;
                let next = u32::try_from(names.len()).unwrap();
                let number = numbers.find_or_add(hash, next, |n| names[usize::try_from(n).unwrap()] == name);
                if number == next {
                    names.push(name);
                }
                assert_eq!(names[usize::try_from(number).unwrap()], name);
            }
            assert_eq!(names.len(), most);
        }
    }
}
