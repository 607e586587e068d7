//! Times as keys of views: encoded so that earlier ones, and shorter ones, come first. Pure; see `key`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::key::{Key, fault};
use crate::error::Error;

const NANOS_PER_SECOND: u32 = 1_000_000_000;

impl Key for Duration {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_secs().encode(out);
        self.subsec_nanos().encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        Ok(Duration::new(u64::decode(input)?, nanos(input)?))
    }
}

/// Whole seconds are rounded down, so that what follows them is added also before 1970.
impl Key for SystemTime {
    fn encode(&self, out: &mut Vec<u8>) {
        let (seconds, nanos) = match self.duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
            Err(error) => {
                let before = error.duration();
                let whole = 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN);
                match before.subsec_nanos() {
                    0 => (whole, 0),
                    nanos => (whole.saturating_sub(1), NANOS_PER_SECOND - nanos),
                }
            }
        };
        seconds.encode(out);
        nanos.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Error> {
        let seconds = i64::decode(input)?;
        let nanos = Duration::new(0, nanos(input)?);
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let start = match seconds {
            0.. => UNIX_EPOCH.checked_add(whole),
            _ => UNIX_EPOCH.checked_sub(whole),
        };
        start
            .and_then(|start| start.checked_add(nanos))
            .ok_or_else(|| fault("a time key is beyond the times of this machine"))
    }
}

fn nanos(input: &mut &[u8]) -> Result<u32, Error> {
    match u32::decode(input)? {
        nanos @ 0..NANOS_PER_SECOND => Ok(nanos),
        more => Err(fault(format!("a time key with {more} nanoseconds after its second"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::key::tests::{check, encoded, hostile};

    fn duration() -> impl Strategy<Value = Duration> {
        let seconds = prop_oneof![0..3u64, any::<u64>(), Just(u64::MAX)];
        let nanos = prop_oneof![0..3u32, 0..NANOS_PER_SECOND, Just(NANOS_PER_SECOND - 1)];
        (seconds, nanos).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
    }

    fn time() -> impl Strategy<Value = SystemTime> {
        // Some 300 years each way: what every system has. Most have more.
        (any::<bool>(), duration()).prop_map(|(after, by)| {
            let by = Duration::new(by.as_secs() % 9_000_000_000, by.subsec_nanos() / 100 * 100);
            if after { UNIX_EPOCH + by } else { UNIX_EPOCH - by }
        })
    }

    proptest! {
        #[test]
        fn times_sort_and_come_back(a in time(), b in time(), near in 0..3u64, c in duration(), d in duration()) {
            check(&a, &b)?;
            check(&a, &(a + Duration::from_nanos(near * 100)))?;
            check(&(a, c), &(b, d))?;
            check(&c, &d)?;
        }

        #[test]
        fn hostile_bytes_are_an_error_or_the_one_encoding_of_a_time(bytes in any::<[u8; 12]>(), cut in 0..13usize) {
            hostile::<SystemTime>(&bytes[..cut.min(12)])?;
            hostile::<Duration>(&bytes)?;
        }
    }

    #[test]
    fn the_bytes_of_a_time_never_change() {
        assert_eq!(encoded(&UNIX_EPOCH), b"\x80\0\0\0\0\0\0\0\0\0\0\0");
        let before = UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(encoded(&before), b"\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x3B\x8B\x87\xC0");
        assert_eq!(encoded(&Duration::new(1, 2)), b"\0\0\0\0\0\0\0\x01\0\0\0\x02");
    }
}
