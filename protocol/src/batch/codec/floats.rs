//! Floats that are decimals in disguise.
//!
//! Invariant: what is read back has the same bits. A scale `k` fits a column if every value equals
//! `i / 10^k` for an integer `i`, bit for bit; then only the integers are kept. That is true of
//! whole numbers (`k = 0`) and of measured values with a few decimals. Negative zero never fits.

use std::slice;

/// The largest scale there is.
pub const MAX_SCALE: u8 = 9;
/// The largest scale that the writer tries.
const TRIED_SCALE: u8 = 6;
/// How many values decide which scale to try first.
const SAMPLE: usize = 8;
/// Beyond this (2^51) adding `ROUND` no longer rounds to whole numbers.
const LIMIT: f64 = 2_251_799_813_685_248.0;
/// 1.5 * 2^52: adding and subtracting it rounds a double to a whole number.
const ROUND: f64 = 6_755_399_441_055_744.0;

const POWERS: [f64; MAX_SCALE as usize + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// The integers for a scale that fits all values, in `out`; `None` if there is no such scale.
#[must_use]
pub fn scale(values: &[f64], out: &mut Vec<i64>) -> Option<u8> {
    let mut scale = 0;
    for value in values.iter().take(SAMPLE) {
        while !fits(slice::from_ref(value), scale, out) {
            scale = next(scale)?;
        }
    }
    while !fits(values, scale, out) {
        scale = next(scale)?;
    }
    Some(scale)
}

fn fits(values: &[f64], scale: u8, out: &mut Vec<i64>) -> bool {
    out.clear();
    out.reserve(values.len());
    if scale == 0 { whole(values, out) } else { decimals(values, scale, out) }
}

const fn next(scale: u8) -> Option<u8> {
    if scale < TRIED_SCALE { Some(scale + 1) } else { None }
}

fn whole(values: &[f64], out: &mut Vec<i64>) -> bool {
    for chunk in values.chunks(64) {
        let start = out.len();
        let mut wrong = 0;
        out.extend(chunk.iter().map(|value| {
            // In the last bits of the sum stands the integer, if it is within 2^51.
            let sum = value + ROUND;
            let integer = sum.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
            wrong |= (sum - ROUND).to_bits() ^ value.to_bits();
            wrong |= integer.wrapping_add(1 << 51).cast_unsigned() >> 52;
            integer
        }));
        if wrong != 0 {
            // Large ones, which take longer, or fractions.
            out.truncate(start);
            for value in chunk {
                let integer = *value as i64;
                if (integer as f64).to_bits() != value.to_bits() {
                    return false;
                }
                out.push(integer);
            }
        }
    }
    true
}

fn decimals(values: &[f64], scale: u8, out: &mut Vec<i64>) -> bool {
    let power = POWERS[usize::from(scale)];
    let mut fits = true;
    for chunk in values.chunks(64) {
        out.extend(chunk.iter().map(|value| {
            let scaled = value * power;
            let rounded = (scaled + ROUND) - ROUND;
            fits &= scaled.abs() < LIMIT && (rounded / power).to_bits() == value.to_bits();
            rounded as i64
        }));
        if !fits {
            return false;
        }
    }
    true
}

/// The values for integers and a scale of at most [`MAX_SCALE`].
#[must_use]
pub fn unscale(integers: Vec<i64>, scale: u8) -> Vec<f64> {
    let power = POWERS[usize::from(scale.min(MAX_SCALE))];
    // Collecting into the same allocation.
    if scale == 0 {
        integers.into_iter().map(|integer| integer as f64).collect()
    } else {
        integers.into_iter().map(|integer| integer as f64 / power).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[f64]) -> Option<u8> {
        let mut integers = Vec::new();
        let scale = scale(values, &mut integers)?;
        let back = unscale(integers, scale);
        assert!(back.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(back.len(), values.len());
        Some(scale)
    }

    #[test]
    fn scales_are_found() {
        assert_eq!(check(&[]), Some(0));
        assert_eq!(check(&[1.0, -2.0, 0.0, 9_007_199_254_740_992.0]), Some(0));
        assert_eq!(check(&[i64::MIN as f64]), Some(0));
        assert_eq!(check(&[0.5, 1.0]), Some(1));
        assert_eq!(check(&[1.0, 0.25, 99.99]), Some(2));
        let mut late = vec![1.0; 100];
        late.push(0.001);
        assert_eq!(check(&late), Some(3));
        assert_eq!(check(&[-0.0]), None);
        assert_eq!(check(&[std::f64::consts::PI]), None);
        assert_eq!(check(&[1e300]), None);
        assert_eq!(check(&[5e-324]), None);
    }

    #[test]
    fn whole_numbers_up_to_the_largest_fit() {
        for shift in 0..64 {
            for near in [-1.0, 0.0, 1.0] {
                // Up to 2^63, which is what the largest integer becomes.
                let value = (1_u64 << shift) as f64 + near;
                assert_eq!(check(&[value, 1.0]), Some(0), "{value}");
                assert_eq!(check(&[-value.max(1.0)]), Some(0), "-{value}");
            }
        }
        assert_eq!(check(&[18_446_744_073_709_551_616.0]), None);
    }

    proptest! {
        #[test]
        fn decimals_always_fit(
            (integers, scale) in
                (prop::collection::vec(-1_000_000_000_i64..1_000_000_000, 0..100), 0_u8..=6)
        ) {
            let values: Vec<f64> =
                integers.iter().map(|i| *i as f64 / POWERS[usize::from(scale)]).collect();
            prop_assert!(check(&values).is_some_and(|found| found <= scale));
        }

        #[test]
        fn any_floats_are_kept_or_refused(values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL, 0..20)) {
            check(&values);
        }
    }
}
