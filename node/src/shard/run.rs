//! Runs: sorted, immutable sets of blocks.
//!
//! Invariants: a block's key is (run, its first series, time of its first row), so that runs follow
//! each other in the `runs` table; blocks of one series of one run do not share a time, and a series
//! that shares a block with others has no second one in the run. Series 0 is the run's version
//! table. A run that is not in the state record is garbage, whatever its blocks say. Written by
//! [`super::writer`], read by [`super::cursor`] and [`super::read`].

use std::ops::{Bound, Range};

use heed::{RoTxn, RwTxn};
use quorate_protocol::rows::Rows;

use super::{
    block::{RowGroup, VersionTable, View},
    env::Table,
    series::SeriesId,
};

pub(super) const KEY_LEN: usize = 20;
/// Turns two's complement into an unsigned order.
const SIGN: u64 = 1 << 63;

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockKey {
    pub(super) run: u32,
    pub(super) series: SeriesId,
    /// The time of the first row.
    pub(super) start: i64,
}

impl BlockKey {
    /// Where the version table of a run stands, before its blocks.
    pub(super) const fn versions(run: u32) -> Self {
        Self { run, series: 0, start: i64::MIN }
    }

    pub(super) fn encode(self) -> [u8; KEY_LEN] {
        let mut out = [0; KEY_LEN];
        out[..4].copy_from_slice(&self.run.to_be_bytes());
        out[4..12].copy_from_slice(&self.series.to_be_bytes());
        out[12..].copy_from_slice(&(self.start.cast_unsigned() ^ SIGN).to_be_bytes());
        out
    }

    /// `None` for bytes that are no block's key.
    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (run, rest) = key.split_first_chunk()?;
        let (series, rest) = rest.split_first_chunk()?;
        let start = u64::from_be_bytes(rest.try_into().ok()?) ^ SIGN;
        Some(Self {
            run: u32::from_be_bytes(*run),
            series: SeriesId::from_be_bytes(*series),
            start: start.cast_signed(),
        })
    }
}

/// A stored block, copied out of its transaction.
#[derive(Clone, Debug)]
pub(super) struct StoredBlock {
    pub(super) key: BlockKey,
    pub(super) bytes: Vec<u8>,
}

/// All rows of a block; `None` if it is damaged or does not belong where it stands.
pub(super) fn decode(
    key: BlockKey,
    bytes: &[u8],
    versions: Option<&VersionTable>,
) -> Option<RowGroup> {
    let group = View::parse(bytes).ok()?.decode(versions, &|_| true).ok()?;
    let first = group.spans.first()?.series;
    (first == key.series && group.times.first() == Some(&key.start)).then_some(group)
}

/// The first block of a run that may have rows of a series: its own first one, else one that began
/// with a series before it and may turn out not to have it.
pub(super) fn block_of(
    txn: &RoTxn<'_>,
    runs: &Table,
    run: u32,
    series: SeriesId,
) -> heed::Result<Option<(BlockKey, Vec<u8>)>> {
    let ours = |found: Option<(&[u8], &[u8])>| {
        let (key, bytes) = found?;
        let key = BlockKey::decode(key)?;
        (key.run == run && key.series > 0 && key.series <= series).then(|| (key, bytes.to_vec()))
    };
    let at = BlockKey { run, series, start: i64::MIN }.encode();
    // No row has this time, so all blocks of the series are behind it.
    match ours(runs.get_greater_than(txn, &at)?) {
        Some(found) => Ok(Some(found)),
        None => Ok(ours(runs.get_lower_than_or_equal_to(txn, &at)?)),
    }
}

/// The first block of a run behind a key.
pub(super) fn block_after(
    txn: &RoTxn<'_>,
    runs: &Table,
    after: BlockKey,
) -> heed::Result<Option<(BlockKey, Vec<u8>)>> {
    let found = runs.get_greater_than(txn, &after.encode())?;
    Ok(found.and_then(|(key, bytes)| {
        let key = BlockKey::decode(key)?;
        (key.run == after.run).then(|| (key, bytes.to_vec()))
    }))
}

/// Where to cut rows so that no part is much larger than the limits and no time is in two parts.
pub(super) fn cuts(rows: &Rows, max_rows: usize, max_bytes: usize) -> Vec<Range<usize>> {
    let per_row = rows.approximate_bytes().div_ceil(rows.len().max(1)).max(1);
    let step = (max_bytes / per_row).clamp(1, max_rows.max(1));
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let mut end = (start + step).min(rows.len());
        while end < rows.len() && rows.times.get(end) == rows.times.get(end - 1) {
            end += 1;
        }
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// Deletes blocks of runs that are not kept, up to about `max_bytes` of them.
pub(super) fn delete_dead(
    txn: &mut RwTxn<'_>,
    runs: &Table,
    is_kept: &dyn Fn(u32) -> bool,
    max_bytes: usize,
) -> heed::Result<()> {
    let mut doomed = Vec::new();
    let (mut run, mut bytes) = (0, 0);
    'runs: loop {
        let at = BlockKey { run, series: 0, start: i64::MIN }.encode();
        let found = runs.get_greater_than_or_equal_to(txn, &at)?.map(|(key, _)| key);
        let Some(found) = found.and_then(BlockKey::decode) else {
            break;
        };
        if !is_kept(found.run) {
            let from = found.encode();
            for entry in runs.range(txn, &(Bound::Included(&from[..]), Bound::Unbounded))? {
                let (key, block) = entry?;
                if BlockKey::decode(key).is_none_or(|key| key.run != found.run) {
                    break;
                }
                doomed.push(key.to_vec());
                bytes += block.len();
                if bytes >= max_bytes {
                    break 'runs;
                }
            }
        }
        let Some(next) = found.run.checked_add(1) else {
            break;
        };
        run = next;
    }
    for key in &doomed {
        runs.delete(txn, key)?;
    }
    Ok(())
}

/// Whether any block belongs to a run that is not kept.
pub(super) fn has_dead(
    txn: &RoTxn<'_>,
    runs: &Table,
    is_kept: &dyn Fn(u32) -> bool,
) -> heed::Result<bool> {
    let mut run = 0;
    loop {
        let at = BlockKey { run, series: 0, start: i64::MIN }.encode();
        let found = runs.get_greater_than_or_equal_to(txn, &at)?;
        let Some(found) = found.and_then(|(key, _)| BlockKey::decode(key)) else {
            return Ok(false);
        };
        if !is_kept(found.run) {
            return Ok(true);
        }
        let Some(next) = found.run.checked_add(1) else {
            return Ok(false);
        };
        run = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_protocol::id::Version;

    use super::*;

    proptest! {
        #[test]
        fn block_keys_sort_as_they_compare(
            a: (u32, u64, i64), b: (u32, u64, i64), same: bool,
        ) {
            let key = |(run, series, start)| BlockKey { run, series, start };
            let (a, b) = (key(a), key(if same { (a.0, a.1, b.2) } else { b }));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
            prop_assert_eq!(BlockKey::decode(&a.encode()), Some(a));
        }

        #[test]
        fn cuts_cover_all_rows_and_never_split_a_time(
            mut times in prop::collection::vec(0_i64..40, 0..60), max_rows in 1_usize..9,
        ) {
            times.sort_unstable();
            let versions = (0..times.len() as u64).map(Version).collect();
            let rows = Rows { times, versions, columns: Vec::new() };
            let cuts = cuts(&rows, max_rows, 1 << 20);
            prop_assert_eq!(cuts.iter().flat_map(Clone::clone).collect::<Vec<_>>(),
                (0..rows.len()).collect::<Vec<_>>());
            for two in cuts.windows(2) {
                prop_assert!(rows.times[two[0].end - 1] < rows.times[two[1].start]);
                prop_assert!(two[0].len() >= max_rows);
            }
        }
    }
}
