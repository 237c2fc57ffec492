//! Fresh data: batches as they were received, in memory until they are folded.
//!
//! Invariants: entries ascend by sequence; what was accepted stays visible here until a committed
//! state record covers its sequence; bytes are counted against one budget for the whole node, and
//! an entry's bytes are given back only when it has left its shard. The journal's sink pushes, scans
//! copy references out, [`super::fold`] removes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quorate_protocol::{batch::EncodedBatch, id::Sequence};

use super::pace::Pace;

/// Bytes that fresh data may take, node-wide.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    /// Of what was accepted, how much was folded or dropped since the start.
    folded: AtomicU64,
    limit: u64,
    pace: Pace,
}

/// A share of a limit, in percent, 100 at most.
pub(super) const fn share(limit: u64, percent: u64) -> u64 {
    let percent = if percent > 100 { 100 } else { percent };
    limit / 100 * percent + limit % 100 * percent / 100
}

impl Budget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        let (used, folded) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { used, folded, limit, pace: Pace::new() })
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Room for a batch up to `percent` of the limit; one that is larger than all of that fits when
    /// there is nothing else.
    pub(super) fn admit(self: &Arc<Self>, bytes: u64, percent: u64) -> Option<Admission> {
        let limit = share(self.limit, percent);
        let fits = |used: u64| {
            let then = used.saturating_add(bytes);
            (then <= limit || used == 0).then_some(then)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Admission { budget: Arc::clone(self), bytes })
    }

    fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Accepted bytes leave.
    pub(super) fn fold(&self, bytes: u64) {
        self.release(bytes);
        self.folded.fetch_add(bytes, Ordering::Relaxed);
        self.pace.freed();
    }

    pub(super) fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// The turns of those that wait for room.
    pub(super) const fn pace(&self) -> &Pace {
        &self.pace
    }
}

/// Room for a batch on its way through the journal. Keep it until the batch has been accepted or
/// has failed: accepted bytes are counted on their own.
#[derive(Debug)]
pub struct Admission {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

/// A batch and where it stands in the journal.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: Sequence,
    pub(super) batch: EncodedBatch,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.batch.bytes().len() as u64
    }
}

/// The fresh data of one shard.
#[derive(Debug)]
pub(super) struct Fresh {
    entries: VecDeque<Arc<Entry>>,
    bytes: u64,
    /// Records up to here are folded.
    applied: Sequence,
    /// The shard was dropped; nothing comes in any more.
    gone: bool,
    budget: Arc<Budget>,
}

impl Fresh {
    pub(super) const fn new(budget: Arc<Budget>) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, applied: Sequence(0), gone: false, budget }
    }

    /// Takes a batch in, unless it is here or folded already. `false`: the shard is gone.
    pub(super) fn push(&mut self, sequence: Sequence, batch: EncodedBatch) -> bool {
        if self.gone {
            return false;
        }
        let last = self.entries.back().map_or(self.applied, |last| last.sequence);
        if sequence > last.max(self.applied) {
            let entry = Arc::new(Entry { sequence, batch });
            self.bytes += entry.bytes();
            self.budget.add(entry.bytes());
            self.entries.push_back(entry);
        }
        true
    }

    /// The first entries, up to about `limit` bytes but at least one.
    pub(super) fn prefix(&self, limit: u64) -> Vec<Arc<Entry>> {
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let first = bytes == 0;
            bytes += entry.bytes();
            first || bytes <= limit
        };
        self.entries.iter().take_while(fits).map(Arc::clone).collect()
    }

    /// Records up to here are folded.
    pub(super) const fn applied(&self) -> Sequence {
        self.applied
    }

    /// The entries behind a record.
    pub(super) fn behind(&self, through: Sequence) -> Vec<Arc<Entry>> {
        self.entries.iter().filter(|entry| entry.sequence > through).map(Arc::clone).collect()
    }

    /// Entries with rows in `from <= time < to`.
    pub(super) fn within(&self, from: i64, to: i64) -> Vec<Arc<Entry>> {
        let overlaps = |entry: &&Arc<Entry>| {
            let header = entry.batch.header();
            header.min_time < to && header.max_time >= from
        };
        self.entries.iter().filter(overlaps).map(Arc::clone).collect()
    }

    /// Forgets what a committed state record covers.
    pub(super) fn folded(&mut self, through: Sequence) {
        self.applied = self.applied.max(through);
        while let Some(first) = self.entries.front()
            && first.sequence <= through
        {
            let bytes = first.bytes();
            self.bytes -= bytes;
            self.budget.fold(bytes);
            self.entries.pop_front();
        }
    }

    /// The shard is dropped: forgets everything and takes in nothing more.
    pub(super) fn drop_all(&mut self) {
        self.gone = true;
        self.entries.clear();
        self.budget.fold(std::mem::take(&mut self.bytes));
    }

    pub(super) const fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The latest time of what is here.
    pub(super) fn latest(&self) -> Option<i64> {
        self.entries.iter().map(|entry| entry.batch.header().max_time).max()
    }

    /// The first record that is not folded.
    pub(super) fn first(&self) -> Option<Sequence> {
        self.entries.front().map(|entry| entry.sequence)
    }
}
