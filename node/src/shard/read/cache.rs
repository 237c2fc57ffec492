//! Packed blocks that a scan has decoded.
//!
//! A packed block holds many series, and a scan wants series in the order of their keys, which need
//! not be that of their ids. Invariants: an entry says of a whole range of series of a run what is
//! there; the groups take at most the configured bytes, but for the last one. One per scan.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use quorate_protocol::rows::Values;

use crate::shard::{block::RowGroup, run::BlockKey, series::SeriesId};

/// What a run has of the series from an entry's key up to `until`.
#[derive(Clone)]
pub(super) enum Packed {
    /// Decoded rows, perhaps not of every series.
    Group(Arc<RowGroup>),
    /// A block that could not be read.
    Damaged(Arc<Damaged>),
}

/// A block that could not be read.
#[derive(Debug)]
pub(in crate::shard) struct Damaged {
    pub(in crate::shard) key: BlockKey,
    pub(in crate::shard) bytes: Vec<u8>,
    /// The time of the first row of the run's next block of the same series, if there is one.
    pub(in crate::shard) end: Option<i64>,
}

struct Entry {
    /// The first series behind.
    until: SeriesId,
    packed: Packed,
    bytes: usize,
    used: u64,
}

/// Decoded packed blocks by run and first series.
pub(super) struct Cache {
    entries: BTreeMap<(u32, SeriesId), Entry>,
    bytes: usize,
    max_bytes: usize,
    clock: u64,
}

impl Cache {
    pub(super) const fn new(max_bytes: usize) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, max_bytes, clock: 0 }
    }

    /// What is known of a series of a run.
    pub(super) fn get(&mut self, run: u32, series: SeriesId) -> Option<Packed> {
        let range = (Bound::Included((run, 0)), Bound::Included((run, series)));
        let (_, entry) = self.entries.range_mut(range).next_back()?;
        if series >= entry.until {
            return None;
        }
        self.clock += 1;
        entry.used = self.clock;
        Some(entry.packed.clone())
    }

    pub(super) fn insert(&mut self, key: BlockKey, until: SeriesId, packed: Packed) {
        let bytes = match &packed {
            Packed::Group(group) => bytes_of(group),
            Packed::Damaged(block) => block.bytes.len(),
        };
        self.clock += 1;
        let entry = Entry { until, packed, bytes, used: self.clock };
        if let Some(old) = self.entries.insert((key.run, key.series), entry) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            // Few, since each takes some hundred kilobytes.
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else { break };
            if let Some(old) = self.entries.remove(&oldest) {
                self.bytes -= old.bytes;
            }
        }
    }

    /// Forgets everything: ids and runs mean something else now.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

/// Roughly how much memory a group takes.
pub(super) fn bytes_of(group: &RowGroup) -> usize {
    let rows = group.times.len();
    let values = group.columns.iter().map(|column| match &column.values {
        Values::String(slots) => slots.iter().map(|slot| slot.len() + 32).sum(),
        Values::Boolean(_) => rows,
        _ => 8 * rows,
    });
    16 * rows + 16 * group.spans.len() + values.sum::<usize>()
}
