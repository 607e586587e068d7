//! CRC-32/IEEE as `crc32fast` has it, for inputs so short that starting and ending a sum is most of its cost.
//!
//! What follows a sum is fixed in length, so each of its bytes has a table that says what the byte does to the
//! result. The lookups do not wait for each other; `crc32fast` sums the same bytes one step after the other.

/// For each byte, what it does to a sum when so many bytes follow it as the table's number says.
type Tables<const N: usize> = [[u32; 256]; N];

static LAST: Tables<8> = tables(0);
static VERSION: Tables<8> = tables(4);
static POSITION: Tables<8> = tables(12);
static SALT: Tables<8> = tables(20);

const POLYNOMIAL: u32 = 0xEDB8_8320;

/// The tables of the bytes that `followed_by` bytes and more follow.
#[expect(clippy::indexing_slicing, reason = "evaluated when compiling, where a wrong index is an error")]
const fn tables<const N: usize>(followed_by: usize) -> Tables<N> {
    let mut tables = [[0; 256]; N];
    let mut table = 0;
    while table < N {
        // Sums are linear: those of the bytes with one bit, and from them all others.
        let (mut bit, mut byte) = (1, 1);
        while byte < 256 {
            let mut sum: u32 = bit;
            let mut step = 0;
            while step < 8 * (followed_by + table + 1) {
                sum = if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ POLYNOMIAL };
                step += 1;
            }
            let mut lower = 0;
            while lower < byte {
                tables[table][byte + lower] = tables[table][lower] ^ sum;
                lower += 1;
            }
            (bit, byte) = (bit << 1, byte << 1);
        }
        table += 1;
    }
    tables
}

fn look_up(tables: &[[u32; 256]], bytes: [u8; 4]) -> u32 {
    tables
        .iter()
        .rev()
        .zip(bytes)
        .fold(0, |sum, (table, byte)| sum ^ table.get(usize::from(byte)).copied().unwrap_or_default())
}

/// What eight bytes do. The higher half of a number is almost always zero, which does nothing.
#[inline]
fn look_up_number(tables: &Tables<8>, number: u64) -> u32 {
    let [a, b, c, d, high @ ..] = number.to_le_bytes();
    let (after, before) = tables.split_at(4);
    let low = look_up(before, [a, b, c, d]);
    if high == [0; 4] { low } else { low ^ look_up(after, high) }
}

/// The sum of what `sum` is of and the 28 bytes `salt ‖ position ‖ version ‖ len`.
#[inline]
pub(crate) fn with_place(sum: u32, salt: u64, position: u64, version: u64, len: u32) -> u32 {
    let (len_tables, _) = LAST.split_at(4);
    !(look_up_number(&SALT, salt ^ u64::from(!sum))
        ^ look_up_number(&POSITION, position)
        ^ look_up_number(&VERSION, version)
        ^ look_up(len_tables, len.to_le_bytes()))
}

/// The sum of what `sum` is of and these eight bytes, as a little-endian number.
#[inline]
pub(crate) fn with_number(sum: u32, number: u64) -> u32 {
    !look_up_number(&LAST, number ^ u64::from(!sum))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summed(sum: u32, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(sum);
        hasher.update(bytes);
        hasher.finalize()
    }

    proptest! {
        #[test]
        fn short_sums_are_those_of_crc32fast(
            sum: u32,
            salt: u64,
            numbers in [any::<u64>(), any::<u64>()],
            shift in 0..64u32,
            len: u32,
        ) {
            let [position, version] = numbers.map(|number| number >> shift);
            let place =
                [&salt.to_le_bytes()[..], &position.to_le_bytes(), &version.to_le_bytes(), &len.to_le_bytes()];
            prop_assert_eq!(with_place(sum, salt, position, version, len), summed(sum, &place.concat()));
            prop_assert_eq!(with_number(sum, position), summed(sum, &position.to_le_bytes()));
        }
    }

    #[test]
    fn every_bit_of_a_place_changes_its_sum_as_crc32fast_has_it() {
        for bit in 0..8 * 28 {
            let mut bytes = [0u8; 28];
            bytes[bit / 8] = 1 << (bit % 8);
            let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[24..].try_into().unwrap());
            for sum in [0, 1, u32::MAX] {
                assert_eq!(with_place(sum, number(0), number(8), number(16), len), summed(sum, &bytes));
            }
        }
    }
}
