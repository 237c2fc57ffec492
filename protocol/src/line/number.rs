//! Numbers in lines, without a second pass over their digits where that is exact.
//!
//! Invariant: a number that [`scan`] returns is the one the standard library would parse from the
//! same bytes; what it does not return may still be a number, and is left to the caller.

use crate::schema::FieldType;

/// The powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// A number as its type and its bits: what fits in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) kind: FieldType,
    pub(super) bits: u64,
    /// The length of the text.
    pub(super) len: usize,
}

impl Number {
    const fn float(value: f64, len: usize) -> Self {
        Self { kind: FieldType::Float, bits: value.to_bits(), len }
    }
}

/// Reads the number at the beginning of `text`, with its suffix if it has one. The caller checks
/// what follows.
#[inline]
pub(super) fn scan(text: &[u8]) -> Option<Number> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (whole, mut at) = digits(text, start, 0);
    let mut count = at - start;
    let (mut mantissa, mut decimals) = (whole, 0);
    let point = text.get(at) == Some(&b'.');
    if point {
        let (all, end) = digits(text, at + 1, whole);
        decimals = end - at - 1;
        count += decimals;
        mantissa = all;
        at = end;
    }
    // Nineteen digits always fit a u64.
    if count == 0 || count > 19 {
        return long_float(text);
    }
    match text.get(at) {
        Some(b'i') if !point => {
            let value = if negative {
                0_i64.checked_sub_unsigned(mantissa)?
            } else {
                i64::try_from(mantissa).ok()?
            };
            let bits = value.cast_unsigned();
            Some(Number { kind: FieldType::Integer, bits, len: at + 1 })
        }
        Some(b'u') if !point && !negative => {
            Some(Number { kind: FieldType::Unsigned, bits: mantissa, len: at + 1 })
        }
        Some(b'e' | b'E') => long_float(text),
        _ if mantissa <= 1 << 53 && decimals < POWERS.len() => {
            // Both operands are exact, so the quotient is the nearest double. A division takes long.
            let whole = mantissa as f64;
            let value = if decimals == 0 { whole } else { whole / POWERS[decimals] };
            Some(Number::float(if negative { -value } else { value }, at))
        }
        _ => long_float(text),
    }
}

/// A number of one to nineteen digits at `at` that fits an `i64`, and where it ends.
#[inline]
pub(super) fn whole(text: &[u8], at: usize) -> Option<(i64, usize)> {
    let (number, end) = digits(text, at, 0);
    let few = end > at && end - at <= 19;
    if few { Some((i64::try_from(number).ok()?, end)) } else { None }
}

/// Goes on with a number at `at`; wraps beyond nineteen digits, which the caller counts.
#[inline]
fn digits(text: &[u8], mut at: usize, mut number: u64) -> (u64, usize) {
    while let Some(eight) = text.get(at..).and_then(|text| text.first_chunk::<8>())
        && let Some(value) = eight_digits(u64::from_le_bytes(*eight))
    {
        number = number.wrapping_mul(100_000_000).wrapping_add(value);
        at += 8;
    }
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0'))
        && digit < 10
    {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (number, at)
}

/// The number that eight bytes say, the first one lowest, if all of them are digits.
#[inline]
const fn eight_digits(bytes: u64) -> Option<u64> {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    const SIXES: u64 = 0x0606_0606_0606_0606;
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    // The high half of a digit is 3, also after adding 6.
    if bytes & HIGH != ZEROS || bytes.wrapping_add(SIXES) & HIGH != ZEROS {
        return None;
    }
    let ones = bytes - ZEROS;
    // Pairs of digits, then of pairs, then of those, each in the place of its second half.
    let tens = ones.wrapping_mul(10).wrapping_add(ones >> 8) & 0x00ff_00ff_00ff_00ff;
    let hundreds = tens.wrapping_mul(100).wrapping_add(tens >> 16) & 0x0000_ffff_0000_ffff;
    Some(hundreds.wrapping_mul(10_000).wrapping_add(hundreds >> 32) & 0xffff_ffff)
}

/// A float that takes the standard library: an exponent, or many digits.
#[cold]
fn long_float(text: &[u8]) -> Option<Number> {
    let numeric = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let len = text.iter().position(|byte| !numeric(byte)).unwrap_or(text.len());
    float(&text[..len]).map(|value| Number::float(value, len))
}

/// A finite float that begins with a digit, a point, or a minus and one of these.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::point::Value;

    fn number(text: &str) -> Option<Value> {
        let number = scan(text.as_bytes())?;
        let value = match number.kind {
            FieldType::Float => Value::Float(f64::from_bits(number.bits)),
            FieldType::Integer => Value::Integer(number.bits.cast_signed()),
            FieldType::Unsigned => Value::Unsigned(number.bits),
            other => panic!("{other:?}"),
        };
        (number.len == text.len()).then_some(value)
    }

    #[test]
    fn numbers_are_exact() {
        assert_eq!(number("1."), Some(Value::Float(1.0)));
        assert_eq!(number("-.5"), Some(Value::Float(-0.5)));
        assert_eq!(number("-0"), Some(Value::Float(-0.0)));
        assert_eq!(number("9007199254740993"), Some(Value::Float(9_007_199_254_740_992.0)));
        assert_eq!(number("-9223372036854775808i"), Some(Value::Integer(i64::MIN)));
        assert_eq!(number("9223372036854775807i"), Some(Value::Integer(i64::MAX)));
        assert_eq!(number("7u"), Some(Value::Unsigned(7)));
        for bad in ["", "-", ".", "-.", "9223372036854775808i", "1.0i", "-1u", "1e400", "1e", "--1"]
        {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn floats_are_what_the_standard_library_says(
            text in "-?[0-9]{0,24}(\\.[0-9]{0,24})?([eE][+-]?[0-9]{1,3})?"
        ) {
            let expected = float(text.as_bytes()).map(Value::Float);
            prop_assert_eq!(number(&text), expected);
        }

        #[test]
        fn digits_end_where_they_end(
            (number, after) in (0_u64..=9_999_999_999_999_999_999, any::<u8>()),
            zeros in 0_usize..10,
        ) {
            let text = format!("{}{number}", "0".repeat(zeros));
            let mut bytes = text.clone().into_bytes();
            bytes.push(if after.is_ascii_digit() { b'x' } else { after });
            bytes.extend_from_slice(b"1234567890");
            prop_assert_eq!(digits(&bytes, 0, 0), (number, text.len()));
            let fits = text.parse::<i64>().ok().filter(|_| text.len() <= 19);
            prop_assert_eq!(whole(&bytes, 0), fits.map(|number| (number, text.len())));
        }

        #[test]
        fn integers_are_what_the_standard_library_says(text in "-?[0-9]{1,19}") {
            let expected = text.parse().ok().map(Value::Integer);
            prop_assert_eq!(number(&format!("{text}i")), expected);
        }
    }
}
