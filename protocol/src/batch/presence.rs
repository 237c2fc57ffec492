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
    pub(crate) fn from_words(len: usize, words: Vec<u64>) -> Option<Self> {
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
    pub(crate) fn words(&self) -> Option<&[u64]> {
        self.bits.as_deref()
    }

    /// Adds the present rows of another presence of the same length.
    pub(crate) fn union(&mut self, other: &Self) {
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
            let mut words = vec![u64::MAX; row.div_ceil(64)];
            if !row.is_multiple_of(64)
                && let Some(last) = words.last_mut()
            {
                *last = u64::MAX >> (64 - row % 64);
            }
            self.bits = Some(words);
        }
        if let Some(words) = &mut self.bits {
            words.resize(self.len.div_ceil(64), 0);
            words[row / 64] |= u64::from(present) << (row % 64);
        }
    }

    /// Adds the rows of a range of another presence.
    pub fn extend(&mut self, other: &Self, range: Range<usize>) {
        if self.is_all() && other.is_all() {
            self.len += range.len();
        } else {
            range.for_each(|row| self.push(other.get(row)));
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
