//! The state record of a shard: what has been folded, and which runs are live.
//!
//! Invariant: it is written in one transaction with the last block of a run, so that a run is live
//! with all of its blocks or not at all, and the journal records up to `applied` are in the live
//! runs (or in quarantine). Written by [`super::fold`], [`super::merge`] and
//! [`super::dense`], read by every scan.

use bytes::Buf;
use quorate_protocol::id::{Sequence, Version};

/// Its key in the `state` table.
pub(super) const KEY: &[u8] = b"state";
/// The key of the next series id in the `state` table: a little-endian u64, absent at first.
pub(super) const NEXT_SERIES: &[u8] = b"next_series";

/// A live run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Ids grow; a larger id is a later run, though not always of later batches.
    pub(super) id: u32,
    /// A block of it was found damaged: the run is kept as it is and never merged away.
    pub(super) damaged: bool,
    /// It was written by a dense pass.
    pub(super) dense: bool,
    pub(super) blocks: u64,
    pub(super) rows: u64,
    /// Of all blocks.
    pub(super) bytes: u64,
    /// The earliest and the latest time.
    pub(super) min_time: i64,
    pub(super) max_time: i64,
}

/// The state of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Journal records of this shard up to this sequence are folded.
    pub(super) applied: Sequence,
    /// The highest version of any folded row.
    pub(super) highest_version: Version,
    /// The live runs, ascending by id.
    pub(super) runs: Vec<Run>,
}

const RUN_LEN: usize = 45;
const DAMAGED: u8 = 1;
const DENSE: u8 = 2;

impl State {
    /// The record: a crc32 of what follows it, the counters, the runs; all little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.extend(self.applied.0.to_le_bytes());
        out.extend(self.highest_version.0.to_le_bytes());
        out.extend(u32::try_from(self.runs.len()).unwrap_or(u32::MAX).to_le_bytes());
        for run in &self.runs {
            out.extend(run.id.to_le_bytes());
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            out.push(flag(run.damaged, DAMAGED) | flag(run.dense, DENSE));
            out.extend(run.blocks.to_le_bytes());
            out.extend(run.rows.to_le_bytes());
            out.extend(run.bytes.to_le_bytes());
            out.extend(run.min_time.to_le_bytes());
            out.extend(run.max_time.to_le_bytes());
        }
        let (head, rest) = out.split_at_mut(4);
        head.copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
        out
    }

    /// The record read back, or `None` if it is damaged.
    pub(super) fn decode(mut record: &[u8]) -> Option<Self> {
        let crc = record.try_get_u32_le().ok()?;
        if crc32fast::hash(record) != crc {
            return None;
        }
        let applied = Sequence(record.try_get_u64_le().ok()?);
        let highest_version = Version(record.try_get_u64_le().ok()?);
        let count = record.try_get_u32_le().ok()? as usize;
        if record.len() != count.checked_mul(RUN_LEN)? {
            return None;
        }
        let mut runs = Vec::with_capacity(count);
        while !record.is_empty() {
            let (id, flags) = (record.try_get_u32_le().ok()?, record.try_get_u8().ok()?);
            if flags & !(DAMAGED | DENSE) != 0 {
                return None;
            }
            runs.push(Run {
                id,
                damaged: flags & DAMAGED != 0,
                dense: flags & DENSE != 0,
                blocks: record.try_get_u64_le().ok()?,
                rows: record.try_get_u64_le().ok()?,
                bytes: record.try_get_u64_le().ok()?,
                min_time: record.try_get_i64_le().ok()?,
                max_time: record.try_get_i64_le().ok()?,
            });
        }
        runs.is_sorted_by(|a, b| a.id < b.id).then_some(Self { applied, highest_version, runs })
    }

    /// Makes a run live.
    pub(super) fn add(&mut self, run: Option<Run>) {
        self.runs.extend(run);
        // A merge that began before a fold has the smaller id and may end later.
        self.runs.sort_unstable_by_key(|run| run.id);
    }

    /// Whether a run is live.
    pub(super) fn is_live(&self, run: u32) -> bool {
        self.runs.binary_search_by_key(&run, |live| live.id).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn run()(
            damaged: bool, dense: bool, blocks: u64, rows: u64, bytes: u64, min_time: i64, max_time: i64,
        ) -> Run {
            Run { id: 0, damaged, dense, blocks, rows, bytes, min_time, max_time }
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_back_and_no_damage_goes_unnoticed(
            applied: u64, version: u64, runs in prop::collection::vec(run(), 0..9), bit: usize,
        ) {
            let ids = (3_u32..).step_by(2);
            let runs = runs.into_iter().zip(ids).map(|(run, id)| Run { id, ..run }).collect();
            let state =
                State { applied: Sequence(applied), highest_version: Version(version), runs };
            let mut record = state.encode();
            prop_assert_eq!(State::decode(&record), Some(state));
            let bit = bit % (record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(State::decode(&record), None);
            record.truncate(bit / 8);
            prop_assert_eq!(State::decode(&record), None);
        }
    }
}
