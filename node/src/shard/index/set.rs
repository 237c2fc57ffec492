//! A set of series ids.
//!
//! Invariant: memory is a bit per id up to the largest, an eighth of a megabyte per million series,
//! however many are in it. Used by selections and scans.

use crate::shard::series::SeriesId;

/// A set of series ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct IdSet {
    words: Vec<u64>,
}

/// The largest id that is taken in: what a damaged table claims must not take all memory.
const MAX_ID: SeriesId = 1 << 32;

impl IdSet {
    pub(in crate::shard) fn insert(&mut self, id: SeriesId) {
        if id >= MAX_ID {
            return;
        }
        let word = (id / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id % 64);
    }

    pub(in crate::shard) fn contains(&self, id: SeriesId) -> bool {
        let word = usize::try_from(id / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    pub(in crate::shard) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Keeps what is in both.
    pub(in crate::shard) fn intersect(&mut self, other: &Self) {
        self.words.truncate(other.words.len());
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    /// Takes out what is in the other.
    pub(in crate::shard) fn subtract(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// The ids, ascending.
    pub(in crate::shard) fn iter(&self) -> impl Iterator<Item = SeriesId> {
        self.words.iter().zip(0..).flat_map(|(word, at)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(at * 64 + SeriesId::from(bit))
            })
        })
    }
}
