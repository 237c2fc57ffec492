//! Looking for one of two bytes.
//!
//! Invariant: the same as a look at one byte after the other, eight at a time. Used by the line
//! parser, for which this is much of its work.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Where the first of two bytes stands.
#[inline]
pub(crate) fn find(text: &[u8], a: u8, b: u8) -> Option<usize> {
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, tail) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest bit that is set is right; higher ones may be wrong.
        let hit = zero(word ^ (ONES * u64::from(a))) | zero(word ^ (ONES * u64::from(b)));
        if hit != 0 {
            return Some(at * 8 + hit.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|byte| *byte == a || *byte == b)?;
    Some(words.len() * 8 + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_first_of_both(
            text in prop::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..40),
            a in prop_oneof![0_u8..4, any::<u8>()],
            b in prop_oneof![0_u8..4, any::<u8>()],
        ) {
            let expected = text.iter().position(|byte| *byte == a || *byte == b);
            prop_assert_eq!(find(&text, a, b), expected);
        }
    }
}
