//! Exact decimals of a fixed number of digits after the point.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind};

/// A decimal with `SCALE` digits after the point (28 at the most), such as an amount of money: `Decimal<2>`. Never rounded,
/// and never a float on the way: text with more digits than that is an error.
///
/// In JSON and other text it is written as text, and read from text or an integer; in bincode it is its
/// [`mantissa`](Decimal::mantissa).
///
/// ```
/// use everfold::fold::Decimal;
///
/// let price: Decimal<2> = "12.5".parse()?;
/// assert_eq!((price.mantissa(), price.to_string()), (1250, "12.50".to_owned()));
/// assert_eq!(serde_json::from_str::<Decimal<2>>("\"12.50\"").ok(), Some(price));
/// assert_eq!(Decimal::<2>::new(125, 1)?, price);
/// assert!("12.345".parse::<Decimal<2>>().is_err());
/// assert!(serde_json::from_str::<Decimal<2>>("12.5").is_err());
/// # Ok::<(), everfold::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal<const SCALE: u32>(i128);

/// The most digits after the point.
const MOST_DIGITS: u32 = 28;

impl<const SCALE: u32> Decimal<SCALE> {
    const POINT: u32 = {
        assert!(SCALE <= MOST_DIGITS, "a decimal has at most 28 digits after the point");
        SCALE
    };

    /// `mantissa` divided by ten to the power of `scale`: 1250 and 2, or 125 and 1, for 12.5.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when `scale` is above `SCALE`, or the number too large.
    pub fn new(mantissa: i128, scale: u32) -> Result<Self, Error> {
        let more = Self::POINT.checked_sub(scale).ok_or_else(|| {
            fault(format!("a decimal has {scale} digits after the point, and {SCALE} are kept"))
        })?;
        let scaled = 10i128.checked_pow(more).and_then(|factor| mantissa.checked_mul(factor));
        scaled.map(Decimal).ok_or_else(|| fault("a decimal is too large"))
    }

    /// So many units of the last digit.
    #[must_use]
    pub const fn from_mantissa(mantissa: i128) -> Self {
        Decimal(mantissa)
    }

    /// How many units of the last digit it is: 1250 for 12.50.
    #[must_use]
    pub const fn mantissa(self) -> i128 {
        self.0
    }
}

fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Codec, message)
}

impl<const SCALE: u32> FromStr for Decimal<SCALE> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (digits, negative) = match text.strip_prefix('-') {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(part) {
            return Err(fault(format!("{:?} is no decimal, such as -12.50", text.get(..40).unwrap_or(text))));
        }
        let part = if digits.contains('.') { part } else { "" };
        let scale = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let mantissa = whole.bytes().chain(part.bytes()).try_fold(0i128, |number, digit| {
            let digit = i128::from(digit - b'0');
            let digit = if negative { -digit } else { digit };
            number.checked_mul(10)?.checked_add(digit)
        });
        Self::new(mantissa.ok_or_else(|| fault("a decimal is too large"))?, scale)
    }
}

impl<const SCALE: u32> fmt::Display for Decimal<SCALE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = 10u128.pow(Self::POINT);
        let (whole, part) = (self.0.unsigned_abs() / factor, self.0.unsigned_abs() % factor);
        let text = match usize::try_from(SCALE) {
            Ok(width) if width > 0 => format!("{whole}.{part:0width$}"),
            _ => whole.to_string(),
        };
        f.pad_integral(self.0 >= 0, "", &text)
    }
}

impl<const SCALE: u32> Serialize for Decimal<SCALE> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => serializer.serialize_i128(self.0),
        }
    }
}

impl<'de, const SCALE: u32> Deserialize<'de> for Decimal<SCALE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(Readable),
            false => i128::deserialize(deserializer).map(Decimal),
        }
    }
}

struct Readable<const SCALE: u32>;

impl<const SCALE: u32> Visitor<'_> for Readable<SCALE> {
    type Value = Decimal<SCALE>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a decimal as text, such as \"12.50\", or an integer")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Decimal::new(number.into(), 0).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Decimal::new(number.into(), 0).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    fn read<const SCALE: u32>(text: &str) -> Option<i128> {
        text.parse::<Decimal<SCALE>>().ok().map(Decimal::mantissa)
    }

    #[test]
    fn text_is_read_exactly_or_refused() {
        assert_eq!(
            [read::<2>("12.5"), read::<2>("-0.05"), read::<2>("7"), read::<0>("7")],
            [Some(1250), Some(-5), Some(700), Some(7)]
        );
        for text in ["", "-", ".", "1.", ".5", "+1", "1e3", "1.2.3", "--1", " 1", "1,5", "0x1", "١", "NaN"] {
            assert_eq!(read::<4>(text), None, "{text:?}");
        }
        assert_eq!([read::<2>("1.234"), read::<2>("1.230"), read::<0>("1.0")], [None; 3]);
        assert_eq!(read::<0>(&i128::MIN.to_string()), Some(i128::MIN));
        assert_eq!(read::<0>("170141183460469231731687303715884105728"), None);
        assert_eq!(read::<1>(&i128::MAX.to_string()), None);
        assert_eq!(read::<2>(&"9".repeat(100_000)), None);
    }

    #[test]
    fn json_gives_text_or_integers_and_never_a_float() {
        let json = |text| serde_json::from_str::<Decimal<2>>(text).ok().map(Decimal::mantissa);
        assert_eq!(
            [json("\"1.5\""), json("-3"), json("18446744073709551615")],
            [Some(150), Some(-300), Some(1_844_674_407_370_955_161_500)]
        );
        assert_eq!([json("1.5"), json("1.0"), json("null"), json("\"1.234\"")], [None; 4]);
    }

    proptest! {
        #[test]
        fn a_decimal_comes_back_from_its_text_and_its_bytes(mantissa: i128) {
            let (two, most) = (Decimal::<2>::from_mantissa(mantissa), Decimal::<28>::from_mantissa(mantissa));
            prop_assert_eq!(two.to_string().parse::<Decimal<2>>().unwrap(), two);
            prop_assert_eq!(most.to_string().parse::<Decimal<28>>().unwrap(), most);
            let json = serde_json::to_string(&two).unwrap();
            prop_assert_eq!(serde_json::from_str::<Decimal<2>>(&json).unwrap(), two);
            prop_assert_eq!(codec::from_slice::<Decimal<2>>(&codec::to_vec(&two).unwrap()).unwrap(), two);
        }
    }
}
