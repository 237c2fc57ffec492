//! The latest hints that ended otherwise than delivered, one by one: for whoever asks what became of
//! a hint after it has ended.
//!
//! Invariant: runs ascend and do not overlap; what has ended at or above `forgotten` and is not here
//! was delivered. Bounded: the runs with the lowest sequences are forgotten first. Part of
//! [`super::accounts`], which counts all of them in any case.

use std::collections::BTreeMap;

use super::terminal::Terminal;

/// Runs that are kept.
const RUNS: usize = 1024;

/// How some hints ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exceptions {
    /// Nothing is known of how sequences below ended.
    forgotten: u64,
    /// By their first sequence: one past the last, and how they ended.
    runs: BTreeMap<u64, (u64, Terminal)>,
}

impl Default for Exceptions {
    fn default() -> Self {
        Self::forgotten(1)
    }
}

impl Exceptions {
    /// Nothing is known of how sequences below `sequence` ended.
    pub(super) const fn forgotten(sequence: u64) -> Self {
        Self { forgotten: sequence, runs: BTreeMap::new() }
    }

    /// Notes how a run ended that was pending.
    pub(super) fn add(&mut self, first: u64, end: u64, terminal: Terminal) {
        let (mut first, mut end) = (first.max(self.forgotten), end);
        if terminal == Terminal::Delivered || first >= end {
            return;
        }
        if let Some((start, (stop, same))) = self.runs.range(..first).next_back()
            && (*stop, *same) == (first, terminal)
        {
            first = *start;
        }
        if let Some((stop, same)) = self.runs.get(&end).copied()
            && same == terminal
        {
            self.runs.remove(&end);
            end = stop;
        }
        self.runs.insert(first, (end, terminal));
        while self.runs.len() > RUNS
            && let Some((_, (end, _))) = self.runs.pop_first()
        {
            self.forgotten = end;
        }
    }

    /// How a hint that is not pending ended; `None` if nobody knows.
    pub(super) fn of(&self, sequence: u64) -> Option<Terminal> {
        if sequence < self.forgotten {
            return None;
        }
        let run = self.runs.range(..=sequence).next_back();
        let run = run.filter(|(_, (end, _))| sequence < *end);
        Some(run.map_or(Terminal::Delivered, |(_, (_, terminal))| *terminal))
    }

    /// The stored form; `None` if there is nothing to say.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if *self == Self::default() {
            return None;
        }
        let mut out = Vec::with_capacity(8 + 32 * self.runs.len());
        out.extend_from_slice(&self.forgotten.to_le_bytes());
        for (first, (end, terminal)) in &self.runs {
            for word in [*first, end - first, terminal.code().into(), 0] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        Some(out)
    }

    /// Reads the stored form; `None` if it contradicts itself.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut all = Self::forgotten(words.next()?);
        let mut at = all.forgotten;
        while let Some(first) = words.next() {
            let (count, code, _shard) = (words.next()?, words.next()?, words.next()?);
            let terminal = Terminal::from_code(u32::try_from(code).ok()?)?;
            let end = first.checked_add(count)?;
            if first < at || count == 0 || all.runs.len() == RUNS {
                return None;
            }
            at = end;
            all.runs.insert(first, (end, terminal));
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::terminal::{DiscardReason, QuarantineReason};
    use super::*;

    const ENDS: [Terminal; 4] = [
        Terminal::Delivered,
        Terminal::Expired,
        Terminal::Quarantined(QuarantineReason::Damaged),
        Terminal::Discarded(DiscardReason::ShardGone),
    ];

    proptest! {
        /// Against a plain list.
        #[test]
        fn each_sequence_is_told_as_it_ended(
            ends in prop::collection::vec((1_u64..200, 1_u64..5, 0_usize..4), 0..80),
        ) {
            let mut all = Exceptions::default();
            let mut model = vec![None; 300];
            for (first, count, end) in ends {
                let range = first as usize..(first + count) as usize;
                if model[range.clone()].iter().any(Option::is_some) {
                    continue;
                }
                all.add(first, first + count, ENDS[end]);
                model[range].fill(Some(ENDS[end]));
            }
            for (sequence, end) in model.into_iter().enumerate() {
                if let Some(end) = end {
                    prop_assert_eq!(all.of(sequence as u64), Some(end));
                }
            }
            let back = all.encode().map_or(Some(Exceptions::default()), |it| Exceptions::decode(&it));
            prop_assert_eq!(back, Some(all));
        }

        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Exceptions::decode(&bytes);
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_said_to_be() {
        let mut all = Exceptions::default();
        for at in 0..2 * RUNS as u64 {
            all.add(10 + 2 * at, 11 + 2 * at, Terminal::Expired);
        }
        let last = 10 + 2 * (2 * RUNS as u64 - 1);
        assert_eq!(all.of(last), Some(Terminal::Expired));
        assert_eq!(all.of(last - 1), Some(Terminal::Delivered));
        assert_eq!((all.of(10), all.of(11)), (None, None));
        assert_eq!(all.runs.len(), RUNS);
        assert_eq!(Exceptions::decode(&all.encode().unwrap()), Some(all));
    }
}
