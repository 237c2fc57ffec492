//! Numbers in lines, without a second pass over their digits where that is exact.
//!
//! Invariant: a number that [`scan`] returns is the one the standard library would parse from the
//! same bytes; what it does not return may still be a number, and is left to the caller.

use crate::point::Value;

/// The powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Reads the number at the beginning of `text`, with its suffix if it has one; also says how long
/// it is. The caller checks what follows.
#[inline]
pub(super) fn scan(text: &[u8]) -> Option<(Value, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (whole, mut at) = digits(text, start, 0)?;
    let mut count = at - start;
    let (mut mantissa, mut decimals) = (whole, 0);
    let point = text.get(at) == Some(&b'.');
    if point {
        let (all, end) = digits(text, at + 1, whole)?;
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
            Some((Value::Integer(value), at + 1))
        }
        Some(b'u') if !point && !negative => Some((Value::Unsigned(mantissa), at + 1)),
        Some(b'e' | b'E') => long_float(text),
        _ if mantissa <= 1 << 53 && decimals < POWERS.len() => {
            // Both operands are exact, so the quotient is the nearest double.
            let value = mantissa as f64 / POWERS[decimals];
            Some((Value::Float(if negative { -value } else { value }), at))
        }
        _ => long_float(text),
    }
}

/// Goes on with a number at `at`; wraps beyond nineteen digits, which the caller counts.
#[inline]
fn digits(text: &[u8], mut at: usize, mut number: u64) -> Option<(u64, usize)> {
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0'))
        && digit < 10
    {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    Some((number, at))
}

/// A float that takes the standard library: an exponent, or many digits.
#[cold]
fn long_float(text: &[u8]) -> Option<(Value, usize)> {
    let numeric = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let len = text.iter().position(|byte| !numeric(byte)).unwrap_or(text.len());
    float(&text[..len]).map(|value| (Value::Float(value), len))
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

    fn number(text: &str) -> Option<Value> {
        let (value, len) = scan(text.as_bytes())?;
        (len == text.len()).then_some(value)
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
        fn integers_are_what_the_standard_library_says(text in "-?[0-9]{1,19}") {
            let expected = text.parse().ok().map(Value::Integer);
            prop_assert_eq!(number(&format!("{text}i")), expected);
        }
    }
}
