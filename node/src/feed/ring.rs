//! The newest batches of one shard, for any number of readers.
//!
//! Invariants: entries ascend by sequence; every record of the shard behind `begins` is here or was
//! added and went to make room; a reader is a position, so it costs nothing, and what went before it
//! read it is counted for it exactly. Pure; [`super`] feeds it, [`super::answer`] reads it.

use std::collections::VecDeque;

use quorate_protocol::{batch::EncodedBatch, id::Sequence};

/// What an entry costs beside its batch, in bytes.
const OVERHEAD: u64 = 192;

/// A batch and where it stands in the journal.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) sequence: Sequence,
    pub(super) batch: EncodedBatch,
}

impl Entry {
    fn cost(&self) -> u64 {
        self.batch.bytes().len() as u64 + OVERHEAD
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The entry it reads next, counted from the first there ever was.
    pub(super) cursor: u64,
    /// The record behind which it reads everything.
    pub(super) sequence: Sequence,
    /// The last record there is.
    pub(super) last: Sequence,
    /// Records behind the one it wanted may be missing.
    pub(super) gap: bool,
}

#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    /// How many entries went before the first one.
    gone: u64,
    bytes: u64,
    limit: u64,
    begins: Sequence,
}

impl Ring {
    /// An empty ring for what stands behind `begins`.
    pub(super) const fn new(begins: Sequence, limit: u64) -> Self {
        Self { entries: VecDeque::new(), gone: 0, bytes: 0, limit, begins }
    }

    /// Adds a batch, unless it is here already.
    pub(super) fn push(&mut self, entry: Entry) {
        if entry.sequence > self.last() {
            self.bytes += entry.cost();
            self.entries.push_back(entry);
            self.shrink();
        }
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.shrink();
    }

    /// Puts what was there before in front of what has come since.
    pub(super) fn begin_with(&mut self, mut before: Self) {
        // If some of it went already, nobody knows what stands between the two.
        if self.gone == 0 {
            self.entries.drain(..).for_each(|entry| before.push(entry));
            *self = before;
        }
    }

    /// Records up to here may be missing, whatever is here.
    pub(super) fn distrust(&mut self, through: Sequence) {
        while let Some(first) = self.entries.front()
            && first.sequence <= through
        {
            self.bytes -= first.cost();
            self.gone += 1;
            self.entries.pop_front();
        }
        self.begins = self.begins.max(through);
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit
            && let Some(first) = self.entries.pop_front()
        {
            self.bytes -= first.cost();
            self.gone += 1;
            self.begins = first.sequence;
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn last(&self) -> Sequence {
        self.entries.back().map_or(self.begins, |last| last.sequence)
    }

    /// A reader of what stands behind `after`, or of what comes from now on.
    pub(super) fn start(&self, after: Option<Sequence>) -> Start {
        let last = self.last();
        let sequence = after.unwrap_or(last).max(self.begins);
        let read = self.entries.partition_point(|entry| entry.sequence <= sequence);
        let gap = after.is_some_and(|after| after < self.begins);
        Start { cursor: self.gone + read as u64, sequence, last, gap }
    }

    /// The next entry of a reader up to `durable`, and how many went before it could read them.
    pub(super) fn next(&self, cursor: &mut u64, durable: Sequence) -> (u64, Option<&Entry>) {
        let missed = self.gone.saturating_sub(*cursor);
        *cursor += missed;
        // What is here is fewer than memory has bytes.
        let entry = self.entries.get((*cursor - self.gone) as usize);
        let entry = entry.filter(|entry| entry.sequence <= durable);
        *cursor += u64::from(entry.is_some());
        (missed, entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::tests::batch;

    fn entry(sequence: u64) -> Entry {
        Entry { sequence: Sequence(sequence), batch: batch(1, sequence) }
    }

    fn read(ring: &Ring, cursor: &mut u64) -> (u64, Vec<u64>) {
        let (mut missed, mut found) = (0, Vec::new());
        loop {
            let (more, entry) = ring.next(cursor, Sequence(u64::MAX));
            missed += more;
            match entry {
                Some(entry) => found.push(entry.sequence.0),
                None => return (missed, found),
            }
        }
    }

    #[test]
    fn what_went_before_it_was_read_is_counted_for_each_reader() {
        let cost = entry(1).cost();
        let mut ring = Ring::new(Sequence(10), cost * 3);
        let (mut slow, mut quick) = (ring.start(None).cursor, ring.start(None).cursor);
        for sequence in 11..=18 {
            ring.push(entry(sequence));
            ring.push(entry(sequence));
            assert_eq!(read(&ring, &mut quick), (0, vec![sequence]));
            assert!(ring.bytes() <= cost * 3);
        }
        assert_eq!(read(&ring, &mut slow), (5, vec![16, 17, 18]));
        assert_eq!(read(&ring, &mut slow), (0, vec![]));
        ring.push(entry(19));
        ring.set_limit(0);
        assert_eq!((read(&ring, &mut slow), ring.bytes()), ((1, vec![]), 0));
    }

    #[test]
    fn a_gap_is_said_unless_everything_behind_the_place_is_here() {
        let mut ring = Ring::new(Sequence(10), entry(1).cost() * 2);
        let gap = |ring: &Ring, after| ring.start(Some(Sequence(after))).gap;
        assert!(gap(&ring, 9) && !gap(&ring, 10) && !ring.start(None).gap);
        for sequence in [12, 15, 20] {
            ring.push(entry(sequence));
        }
        // 12 went: behind it is everything, behind 11 is not.
        assert!(gap(&ring, 11) && !gap(&ring, 12));
        let start = ring.start(Some(Sequence(11)));
        assert_eq!((start.sequence, start.last), (Sequence(12), Sequence(20)));
        let mut cursor = ring.start(Some(Sequence(15))).cursor;
        assert_eq!(read(&ring, &mut cursor), (0, vec![20]));
    }

    #[test]
    fn what_was_there_before_comes_first_unless_some_of_the_rest_is_gone() {
        let cost = entry(1).cost();
        let mut before = Ring::new(Sequence(3), cost * 10);
        [4, 5].into_iter().for_each(|sequence| before.push(entry(sequence)));
        let mut since = Ring::new(Sequence(0), cost * 2);
        [5, 6].into_iter().for_each(|sequence| since.push(entry(sequence)));
        since.begin_with(before);
        let start = since.start(Some(Sequence(3)));
        let mut cursor = start.cursor;
        assert_eq!((start.gap, read(&since, &mut cursor)), (false, (0, vec![4, 5, 6])));

        let mut since = Ring::new(Sequence(0), cost * 2);
        [5, 6, 7].into_iter().for_each(|sequence| since.push(entry(sequence)));
        since.begin_with(Ring::new(Sequence(3), cost * 10));
        assert!(since.start(Some(Sequence(3))).gap && !since.start(Some(Sequence(5))).gap);
    }

    #[test]
    fn nothing_is_read_before_it_is_durable() {
        let mut ring = Ring::new(Sequence(0), 1 << 20);
        let mut cursor = ring.start(None).cursor;
        ring.push(entry(5));
        assert!(ring.next(&mut cursor, Sequence(4)).1.is_none());
        assert_eq!(ring.next(&mut cursor, Sequence(5)).1.map(|it| it.sequence), Some(Sequence(5)));
    }
}
