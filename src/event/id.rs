//! Ids of events, generated where none is given.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

thread_local! {
    /// The millisecond of the thread's last id, and the 74 bits that followed it.
    static LAST_ID: Cell<(u64, u128)> = const { Cell::new((0, 0)) };
}

/// A UUID of version 7. The random bits are drawn once in a millisecond, since that is a call of the operating system,
/// and counted up for further ids in it: the method *monotonic random* of RFC 9562, for each thread by itself.
pub(super) fn new_id() -> Uuid {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let tail = match LAST_ID.get() {
        (then, tail) if then == now => tail.wrapping_add(1),
        // 62 bits below the variant, 12 from above the version.
        _ => {
            let random = Uuid::new_v4().as_u128();
            random & ((1 << 62) - 1) | (random >> 116) << 62
        }
    };
    LAST_ID.set((now, tail));
    let [_, _, _, _, _, _, bytes @ ..] = spread(tail).to_be_bytes();
    Builder::from_unix_timestamp_millis(now, &bytes).into_uuid()
}

/// The 74 bits with room for the variant between them.
const fn spread(tail: u128) -> u128 {
    (tail >> 62) << 64 | tail & ((1 << 62) - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_of_version_7_of_this_time_and_never_the_same() {
        let before = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..20_000).map(|_| new_id()).collect::<Vec<_>>()))
            .collect();
        let of_threads: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let after = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let ids: HashSet<_> = of_threads.iter().flatten().collect();
        assert_eq!(ids.len(), 80_000);
        for id in ids {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            assert!((before..=after).contains(&(seconds * 1000 + u64::from(nanos) / 1_000_000)));
        }
    }

    #[test]
    fn counting_on_changes_the_last_bits_first_and_carries() {
        let of = |tail: u128| {
            let [_, _, _, _, _, _, bytes @ ..] = spread(tail).to_be_bytes();
            Builder::from_unix_timestamp_millis(1, &bytes).into_uuid()
        };
        assert!(of(1) < of(2));
        assert!(of((1 << 62) - 1) < of(1 << 62));
        assert_eq!(of(1 << 62).as_u128() - of(0).as_u128(), 1 << 64);
    }
}
