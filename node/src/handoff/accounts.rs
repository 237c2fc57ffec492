//! The books of one queue: how every hint it ever accepted has ended, or that it is pending.
//!
//! Invariant: accepted = delivered + pending + quarantined + expired + discarded, and a sequence
//! ends once. Pure: the ledger stores what is decided here, the committer is the only writer.

use std::collections::BTreeMap;
use std::ops::Range;

use quorate_protocol::message::Fate;

use super::exceptions::Exceptions;
use super::terminal::{DiscardReason, Terminal};

/// Distinct (way of ending, shard) pairs that are counted apart; further shards count as shard 0,
/// so that years of dropped shards cannot grow the books without bound.
const TALLIES: usize = 4096;

/// Marks a stored record as a whole state.
pub(super) const SNAPSHOT: u32 = 1;
/// Marks a stored record as a list of entries.
pub(super) const ENTRIES: u32 = 2;
/// Marks a stored record as the exceptions that go with the snapshot before it.
pub(super) const EXCEPTIONS: u32 = 3;

/// A run of hints that ended the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) terminal: Terminal,
    /// The shard; 0 where it is not known, or not told apart (delivered).
    pub(super) shard: u64,
}

/// The state of the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accounts {
    /// The next sequence to be given.
    next: u64,
    /// The lowest pending sequence; `next` if there is none.
    floor: u64,
    /// Ended runs above `floor`: first to one past the last, neither touching nor overlapping.
    ended: BTreeMap<u64, u64>,
    tallies: BTreeMap<(Terminal, u64), u64>,
    exceptions: Exceptions,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            next: 1,
            floor: 1,
            ended: BTreeMap::new(),
            tallies: BTreeMap::new(),
            exceptions: Exceptions::default(),
        }
    }
}

impl Accounts {
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn accepted(&self) -> u64 {
        self.next - 1
    }

    pub(super) fn pending(&self) -> u64 {
        let above: u64 = self.ended.iter().map(|(first, end)| end - first).sum();
        self.next - self.floor - above
    }

    pub(super) fn tallies(&self) -> impl Iterator<Item = (Terminal, u64, u64)> {
        self.tallies.iter().map(|((terminal, shard), count)| (*terminal, *shard, *count))
    }

    /// Everything below `next` was accepted.
    pub(super) fn accept(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Books that were lost: all before `floor` is unaccounted for.
    pub(super) fn restart_at(&mut self, floor: u64) {
        self.accept(floor);
        for range in self.pending_in(self.floor..floor) {
            let terminal = Terminal::Discarded(DiscardReason::Unaccounted);
            let count = range.end - range.start;
            self.end(&Ended { first: range.start, count, terminal, shard: 0 });
        }
    }

    /// The parts of a range that are pending.
    pub(super) fn pending_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut at = range.start.max(self.floor);
        let end = range.end.min(self.next);
        let before = self.ended.range(..=at).next_back();
        for (from, to) in before.into_iter().chain(self.ended.range(at.saturating_add(1)..)) {
            if at >= end || *from >= end {
                break;
            }
            if at < *from {
                parts.push(at..*from);
            }
            at = at.max(*to);
        }
        if at < end {
            parts.push(at..end);
        }
        parts
    }

    pub(super) fn is_pending(&self, sequence: u64) -> bool {
        !self.pending_in(sequence..sequence.saturating_add(1)).is_empty()
    }

    /// How a hint stands.
    pub(super) fn fate(&self, sequence: u64) -> Fate {
        if sequence == 0 || sequence >= self.next {
            return Fate::Unknown;
        }
        if self.is_pending(sequence) {
            return Fate::Pending;
        }
        match self.exceptions.of(sequence) {
            None | Some(Terminal::Discarded(DiscardReason::Unaccounted)) => Fate::Unknown,
            Some(Terminal::Delivered) => Fate::Delivered,
            Some(Terminal::Quarantined(_)) => Fate::Quarantined,
            Some(Terminal::Expired) => Fate::Expired,
            Some(Terminal::Discarded(DiscardReason::Retargeted)) => Fate::Retargeted,
            Some(Terminal::Discarded(_)) => Fate::Discarded,
        }
    }

    /// Books the end of a run, if all of it is pending; otherwise changes nothing.
    pub(super) fn end(&mut self, ended: &Ended) -> bool {
        let range = ended.first..ended.first.saturating_add(ended.count);
        if range.is_empty() || self.pending_in(range.clone()) != [range.clone()] {
            return false;
        }
        let shard = if ended.terminal == Terminal::Delivered { 0 } else { ended.shard };
        let known = self.tallies.contains_key(&(ended.terminal, shard));
        let shard = if known || self.tallies.len() < TALLIES { shard } else { 0 };
        *self.tallies.entry((ended.terminal, shard)).or_default() += ended.count;
        self.exceptions.add(range.start, range.end, ended.terminal);
        let mut run = range;
        if let Some((first, end)) = self.ended.range(..run.start).next_back().map(|(a, b)| (*a, *b))
            && end == run.start
        {
            self.ended.remove(&first);
            run.start = first;
        }
        if let Some(end) = self.ended.remove(&run.end) {
            run.end = end;
        }
        if run.start == self.floor {
            self.floor = run.end;
        } else {
            self.ended.insert(run.start, run.end);
        }
        true
    }

    /// The stored form of the whole state.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.floor.to_le_bytes());
        out.extend_from_slice(&(self.ended.len() as u64).to_le_bytes());
        for (first, end) in &self.ended {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        for ((terminal, shard), count) in &self.tallies {
            out.extend_from_slice(&u64::from(terminal.code()).to_le_bytes());
            out.extend_from_slice(&shard.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        out
    }

    /// Reads a snapshot; `None` if it contradicts itself or names an end of a later version.
    pub(super) fn from_snapshot(bytes: &[u8]) -> Option<Self> {
        let mut words = words(bytes)?;
        let (next, floor, runs) = (words.next()?, words.next()?, words.next()?);
        let mut accounts = Self { next, floor, ..Self::default() };
        let mut above = floor;
        for _ in 0..runs {
            let (first, end) = (words.next()?, words.next()?);
            if first <= above || end <= first {
                return None;
            }
            above = end;
            accounts.ended.insert(first, end);
        }
        while let Some(code) = words.next() {
            let terminal = Terminal::from_code(u32::try_from(code).ok()?)?;
            let (shard, count) = (words.next()?, words.next()?);
            accounts.tallies.insert((terminal, shard), count);
        }
        let total = accounts.tallies.values().try_fold(0u64, |sum, count| sum.checked_add(*count));
        let sound =
            floor >= 1 && above <= next && total? == accounts.accepted() - accounts.pending();
        // What ended otherwise is told by the exceptions behind it, or by nobody.
        let exceptional = accounts.tallies.keys().any(|(end, _)| *end != Terminal::Delivered);
        if exceptional {
            accounts.exceptions = Exceptions::forgotten(next);
        }
        sound.then_some(accounts)
    }

    /// The stored form of what a snapshot does not say; `None` if that is nothing.
    pub(super) fn exceptions(&self) -> Option<Vec<u8>> {
        self.exceptions.encode()
    }

    /// Takes what [`Self::exceptions`] has stored; false if it cannot be read.
    pub(super) fn take_exceptions(&mut self, bytes: &[u8]) -> bool {
        let read = Exceptions::decode(bytes);
        let is_read = read.is_some();
        self.exceptions = read.unwrap_or_else(|| Exceptions::forgotten(self.next));
        is_read
    }
}

fn words(bytes: &[u8]) -> Option<impl Iterator<Item = u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| words.iter().map(|word| u64::from_le_bytes(*word)))
}

/// The stored form of entries.
pub(super) fn encode_entries(entries: &[Ended]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 32);
    for entry in entries {
        out.extend_from_slice(&entry.first.to_le_bytes());
        out.extend_from_slice(&entry.count.to_le_bytes());
        out.extend_from_slice(&u64::from(entry.terminal.code()).to_le_bytes());
        out.extend_from_slice(&entry.shard.to_le_bytes());
    }
    out
}

/// Reads entries; `None` if there is anything else in them.
pub(super) fn decode_entries(bytes: &[u8]) -> Option<Vec<Ended>> {
    let mut words = words(bytes)?;
    let mut entries = Vec::new();
    while let Some(first) = words.next() {
        let (count, code, shard) = (words.next()?, words.next()?, words.next()?);
        let terminal = Terminal::from_code(u32::try_from(code).ok()?)?;
        entries.push(Ended { first, count, terminal, shard });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::terminal::QuarantineReason;
    use super::*;

    fn terminal(choice: u8) -> Terminal {
        match choice % 4 {
            0 => Terminal::Delivered,
            1 => Terminal::Expired,
            2 => Terminal::Quarantined(QuarantineReason::Refused(u16::from(choice))),
            _ => Terminal::Discarded(DiscardReason::ShardGone),
        }
    }

    proptest! {
        /// Against a plain list of outcomes.
        #[test]
        fn the_books_agree_with_a_list(
            accepted in 1u64..60,
            steps in prop::collection::vec((0u64..70, 1u64..6, any::<u8>()), 0..60),
        ) {
            let mut accounts = Accounts::default();
            accounts.accept(accepted + 1);
            let mut model: Vec<Option<Terminal>> = vec![None; accepted as usize];
            for (first, count, choice) in steps {
                let entry = Ended { first, count, terminal: terminal(choice), shard: first % 3 };
                let wanted = first as usize..(first + count) as usize;
                let free = first >= 1
                    && wanted.end <= model.len() + 1
                    && wanted.clone().all(|sequence| model[sequence - 1].is_none());
                prop_assert_eq!(accounts.end(&entry), free);
                if free {
                    wanted.for_each(|sequence| model[sequence - 1] = Some(entry.terminal));
                }
                let read = decode_entries(&encode_entries(&[entry])).unwrap();
                prop_assert_eq!(read, vec![entry]);
            }
            let open = model.iter().filter(|end| end.is_none()).count() as u64;
            prop_assert_eq!(accounts.pending(), open);
            let ended: u64 = accounts.tallies().map(|(_, _, count)| count).sum();
            prop_assert_eq!(accounts.accepted(), ended + open);
            for sequence in 0..accepted + 3 {
                let pending = sequence >= 1 && sequence <= accepted
                    && model[sequence as usize - 1].is_none();
                prop_assert_eq!(accounts.is_pending(sequence), pending);
            }
            let lowest = model.iter().position(Option::is_none).unwrap_or(model.len());
            prop_assert_eq!(accounts.floor(), lowest as u64 + 1);
            for (at, end) in model.iter().enumerate() {
                let fate = match end {
                    None => Fate::Pending,
                    Some(Terminal::Delivered) => Fate::Delivered,
                    Some(Terminal::Expired) => Fate::Expired,
                    Some(Terminal::Quarantined(_)) => Fate::Quarantined,
                    Some(Terminal::Discarded(_)) => Fate::Discarded,
                };
                prop_assert_eq!(accounts.fate(at as u64 + 1), fate);
            }
            prop_assert_eq!(accounts.fate(0), Fate::Unknown);
            prop_assert_eq!(accounts.fate(accepted + 1), Fate::Unknown);
            let mut read = Accounts::from_snapshot(&accounts.snapshot()).unwrap();
            if let Some(exceptions) = accounts.exceptions() {
                prop_assert!(read.take_exceptions(&exceptions));
            }
            prop_assert_eq!(read, accounts);
        }

        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Accounts::from_snapshot(&bytes);
            let _ = decode_entries(&bytes);
        }
    }

    #[test]
    fn lost_books_start_where_the_segments_do() {
        let mut accounts = Accounts::default();
        accounts.restart_at(11);
        assert_eq!((accounts.accepted(), accounts.pending(), accounts.floor()), (10, 0, 11));
        let unaccounted = Terminal::Discarded(DiscardReason::Unaccounted);
        assert_eq!(accounts.tallies().collect::<Vec<_>>(), [(unaccounted, 0, 10)]);
        assert_eq!((accounts.fate(10), accounts.fate(11)), (Fate::Unknown, Fate::Unknown));
    }

    #[test]
    fn the_books_are_stored_as_specified() {
        use crate::{segment::vectors::numbers, spec::vectors};

        for vector in vectors("accounts-snapshot") {
            let accounts = Accounts::from_snapshot(&vector.bytes).unwrap();
            assert_eq!(accounts.next, vector.number::<u64>("next"));
            assert_eq!(accounts.floor, vector.number::<u64>("floor"));
            let ended: Vec<String> =
                accounts.ended.iter().map(|(first, end)| format!("{first}..{end}")).collect();
            assert_eq!(ended, vector.all("ended"));
            let tallies: Vec<Vec<u64>> = accounts
                .tallies()
                .map(|(terminal, shard, count)| vec![u64::from(terminal.code()), shard, count])
                .collect();
            assert_eq!(tallies, vector.all("tally").into_iter().map(numbers).collect::<Vec<_>>());
            assert_eq!(accounts.snapshot(), vector.bytes);
        }
        for vector in vectors("accounts-entries") {
            let entries = decode_entries(&vector.bytes).unwrap();
            let fields = |entry: &Ended| {
                vec![entry.first, entry.count, u64::from(entry.terminal.code()), entry.shard]
            };
            let found: Vec<_> = entries.iter().map(fields).collect();
            assert_eq!(found, vector.all("entry").into_iter().map(numbers).collect::<Vec<_>>());
            assert_eq!(encode_entries(&entries), vector.bytes);
        }
    }

    #[test]
    fn the_number_of_tallies_is_bounded() {
        let mut accounts = Accounts::default();
        accounts.accept(10_001);
        for sequence in 1..=10_000 {
            let terminal = Terminal::Expired;
            accounts.end(&Ended { first: sequence, count: 1, terminal, shard: sequence });
        }
        assert!(accounts.tallies().count() <= TALLIES + 1);
        assert_eq!(accounts.tallies().map(|(_, _, count)| count).sum::<u64>(), 10_000);
    }
}
