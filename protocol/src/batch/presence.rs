//! Which rows of a column have a value.
//!
//! Invariant: `bits` is `None` if and only if every row is present, and bits beyond `len` are zero,
//! so that equal presences compare equal. Used by every [`super::Column`].

use std::ops::Range;

/// One bit per row; "all present" takes no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    len: usize,
    bits: Option<Vec<u64>>,
}

impl Presence {
    /// Every one of `len` rows is present.
    #[must_use]
    pub const fn all(len: usize) -> Self {
        Self { len, bits: None }
    }

    /// None of `len` rows is present.
    #[must_use]
    pub fn none(len: usize) -> Self {
        Self { len, bits: (len > 0).then(|| vec![0; len.div_ceil(64)]) }
    }

    /// Takes bits, least significant first; `None` if there are not exactly as many words as `len`
    /// needs or bits beyond `len` are set.
    #[must_use]
    pub fn from_words(len: usize, words: Vec<u64>) -> Option<Self> {
        let tail = len % 64;
        if words.len() != len.div_ceil(64) {
            return None;
        }
        if tail != 0 && words.last().is_some_and(|word| word >> tail != 0) {
            return None;
        }
        let ones: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Some(Self { len, bits: (ones != len as u64).then_some(words) })
    }

    /// The number of rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every row is present.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.bits.is_none()
    }

    /// Whether a row is present; rows beyond the end are not.
    #[must_use]
    pub fn get(&self, row: usize) -> bool {
        match &self.bits {
            _ if row >= self.len => false,
            None => true,
            Some(words) => words[row / 64] >> (row % 64) & 1 == 1,
        }
    }

    /// Whether some row is present.
    #[must_use]
    pub fn any(&self) -> bool {
        match &self.bits {
            None => self.len > 0,
            Some(words) => words.iter().any(|word| *word != 0),
        }
    }

    /// How many rows are present.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.bits {
            None => self.len,
            Some(words) => words.iter().map(|word| word.count_ones() as usize).sum(),
        }
    }

    /// The words, least significant bit first; `None` if every row is present.
    #[must_use]
    pub fn words(&self) -> Option<&[u64]> {
        self.bits.as_deref()
    }

    /// Adds the present rows of another presence of the same length.
    pub fn union(&mut self, other: &Self) {
        let Some(words) = &mut self.bits else { return };
        let Some(more) = other.words() else {
            self.bits = None;
            return;
        };
        words.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
        if self.count() == self.len {
            self.bits = None;
        }
    }

    /// Adds a row.
    pub fn push(&mut self, present: bool) {
        let row = self.len;
        self.len += 1;
        if self.bits.is_none() {
            if present {
                return;
            }
            self.bits = Some(ones(row));
        }
        if let Some(words) = &mut self.bits {
            words.resize(self.len.div_ceil(64), 0);
            words[row / 64] |= u64::from(present) << (row % 64);
        }
    }

    /// The ranges of present rows, ascending, none empty, none next to another.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        std::iter::from_fn(move || {
            let start = self.next(end, true);
            if start == self.len {
                return None;
            }
            end = self.next(start, false);
            Some(start..end)
        })
    }

    /// The first row at or behind `from` that is present (or absent), or the number of rows.
    fn next(&self, from: usize, present: bool) -> usize {
        let Some(words) = &self.bits else { return if present { from } else { self.len } };
        let flip = if present { 0 } else { u64::MAX };
        let mut skip = from % 64;
        for (at, word) in words.iter().enumerate().skip(from / 64) {
            let wanted = (word ^ flip) >> skip << skip;
            if wanted != 0 {
                return (at * 64 + wanted.trailing_zeros() as usize).min(self.len);
            }
            skip = 0;
        }
        self.len
    }

    /// Adds rows that are all present, or all absent.
    pub fn extend_with(&mut self, present: bool, rows: usize) {
        let (start, end) = (self.len, self.len + rows);
        if rows == 0 || (present && self.is_all()) {
            self.len = end;
            return;
        }
        if self.is_all() {
            self.bits = Some(ones(start));
        }
        self.len = end;
        if let Some(words) = &mut self.bits {
            words.resize(end.div_ceil(64), 0);
            if present {
                let (first, last) = (start / 64, (end - 1) / 64);
                for (at, word) in words.iter_mut().enumerate().take(last + 1).skip(first) {
                    let low = if at == first { start % 64 } else { 0 };
                    let high = if at == last { (end - 1) % 64 } else { 63 };
                    *word |= u64::MAX >> (63 - high) >> low << low;
                }
            }
        }
    }

    /// Adds the rows of a range of another presence.
    pub fn extend(&mut self, other: &Self, range: Range<usize>) {
        if other.is_all() {
            self.extend_with(true, range.len());
            return;
        }
        let mut at = range.start;
        while at < range.end {
            let start = other.next(at, true).min(range.end);
            let end = other.next(start, false).min(range.end);
            self.extend_with(false, start - at);
            self.extend_with(true, end - start);
            at = end;
        }
    }

    /// The rows of a range.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        if self.is_all() {
            return Self::all(range.len());
        }
        let mut slice = Self::all(0);
        slice.extend(self, range);
        slice
    }
}

/// The words of `len` present rows.
fn ones(len: usize) -> Vec<u64> {
    let mut words = vec![u64::MAX; len.div_ceil(64)];
    if !len.is_multiple_of(64)
        && let Some(last) = words.last_mut()
    {
        *last = u64::MAX >> (64 - len % 64);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn presence(bits: &[bool]) -> Presence {
        let mut presence = Presence::all(0);
        bits.iter().for_each(|bit| presence.push(*bit));
        presence
    }

    proptest! {
        #[test]
        fn runs_and_ranges_agree_with_single_rows(
            (head, flips) in (0_usize..140, prop::collection::vec(0_usize..100, 0..8)),
            (from, to) in (0_usize..500, 0_usize..500),
        ) {
            let mut bits = vec![true; head];
            for (at, flip) in flips.iter().enumerate() {
                bits.extend(vec![at % 2 == 1; *flip]);
            }
            let whole = presence(&bits);
            let mut seen = vec![false; bits.len()];
            whole.runs().for_each(|run| seen[run].fill(true));
            prop_assert_eq!(&seen, &bits);
            let range = from.min(to).min(bits.len())..to.max(from).min(bits.len());
            for start in [0, 1, 63, 64, 100] {
                for first in [true, false] {
                    let mut built = presence(&vec![first; start]);
                    built.extend(&whole, range.clone());
                    let expected = [&vec![first; start][..], &bits[range.clone()]].concat();
                    prop_assert_eq!(built, presence(&expected));
                }
            }
        }
    }
}
