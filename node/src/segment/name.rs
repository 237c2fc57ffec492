//! File names of segments: the number in 20 digits, so that names sort as numbers do.
//!
//! Invariant: only exactly such names are ours; every other file is left alone and reported.

/// Digits of the largest number.
const DIGITS: usize = 20;

/// The file name of a segment.
#[must_use]
pub fn of(number: u64) -> String {
    format!("{number:0DIGITS$}")
}

/// The number in a file name, if it is one that [`of`] makes.
#[must_use]
pub fn parse(name: &str) -> Option<u64> {
    let ours = name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    ours.then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_sort_like_numbers() {
        for number in [0, 9, 10, 99, 100, u64::MAX] {
            assert_eq!(parse(&of(number)), Some(number));
        }
        assert!(of(9) < of(10) && of(99) < of(100));
        for foreign in
            ["", "1", "00000000000000000001.tmp", "99999999999999999999", "+0000000000000000001"]
        {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
