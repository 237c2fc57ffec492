//! Runs: sorted, immutable sets of row blocks.
//!
//! Invariants: a block's key is (run, series, time of its first row), so that runs follow each
//! other in the `runs` table and a new one is appended; blocks of one series of one run do not
//! share a time. A run that is not in the state record is garbage, whatever its blocks say.
//! Written by [`super::fold`] and [`super::merge`], read by them and by [`super::read`].

use std::ops::{Bound, Range};

use heed::{PutFlags, RoTxn, RwTxn};
use quorate_protocol::rows::Rows;

use super::{
    config::Config,
    env::{EnvError, Table},
    open::OpenShard,
    series::SeriesId,
    state::{Run, State},
};

const KEY_LEN: usize = 20;
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
    /// The time of the first row of the run's next block of this series.
    pub(super) end: Option<i64>,
}

impl StoredBlock {
    /// The rows; `None` if the block is damaged or does not belong where it stands.
    pub(super) fn decode(&self) -> Option<Rows> {
        let rows = Rows::decode(&self.bytes).ok()?;
        let (first, last) = rows.time_range()?;
        let fits = first == self.key.start && self.end.is_none_or(|end| last < end);
        fits.then_some(rows)
    }
}

/// The block of a run that has the rows of a series from time `from` on: the one that may hold
/// `from`, else the next.
pub(super) fn block_at(
    txn: &RoTxn<'_>,
    runs: &Table,
    run: u32,
    series: SeriesId,
    from: i64,
) -> heed::Result<Option<StoredBlock>> {
    let ours = |found: Option<(&[u8], &[u8])>| {
        let (key, bytes) = found?;
        let key = BlockKey::decode(key)?;
        (key.run == run && key.series == series).then(|| (key, bytes.to_vec()))
    };
    let at = BlockKey { run, series, start: from }.encode();
    let found = match ours(runs.get_lower_than_or_equal_to(txn, &at)?) {
        Some(found) => Some(found),
        None => ours(runs.get_greater_than(txn, &at)?),
    };
    let Some((key, bytes)) = found else {
        return Ok(None);
    };
    let next = runs.get_greater_than(txn, &key.encode())?;
    let end = next
        .and_then(|(key, _)| BlockKey::decode(key))
        .filter(|next| next.run == run && next.series == series)
        .map(|next| next.start);
    Ok(Some(StoredBlock { key, bytes, end }))
}

/// The stored rows of a series from some time on, as far as they are loaded.
#[derive(Debug)]
pub(super) struct Window {
    /// The first time.
    pub(super) from: i64,
    /// All stored rows with `from <= time < end` are in `blocks`; `None`: all from `from` on.
    pub(super) end: Option<i64>,
    pub(super) blocks: Vec<StoredBlock>,
}

impl Window {
    /// Loads one block of each run, and how far they reach together.
    pub(super) fn load(
        txn: &RoTxn<'_>,
        table: &Table,
        runs: &[Run],
        series: SeriesId,
        from: i64,
    ) -> heed::Result<Self> {
        let mut blocks = Vec::new();
        for run in runs.iter().filter(|run| run.max_time >= from) {
            blocks.extend(block_at(txn, table, run.id, series, from)?);
        }
        // A run whose next block begins at `end` may have more rows from there on.
        let end = blocks.iter().filter_map(|block| block.end).min();
        if let Some(end) = end {
            blocks.retain(|block| block.key.start < end);
        }
        Ok(Self { from, end, blocks })
    }

    /// Stored bytes.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes.len()).sum()
    }

    /// The rows within the window, part by part, and the blocks that are damaged.
    pub(super) fn decode(&self) -> (Vec<Rows>, Vec<&StoredBlock>) {
        let (mut parts, mut damaged) = (Vec::new(), Vec::new());
        for block in &self.blocks {
            match block.decode() {
                None => damaged.push(block),
                Some(rows) => {
                    let end = self.end.unwrap_or(i64::MAX);
                    let inside = rows
                        .time_range()
                        .is_some_and(|(first, last)| self.from <= first && last < end);
                    parts.push(if inside { rows } else { rows.slice(self.from, end) });
                }
            }
        }
        (parts, damaged)
    }
}

/// The first series of a run that is not below `from`.
pub(super) fn series_at(
    txn: &RoTxn<'_>,
    runs: &Table,
    run: u32,
    from: SeriesId,
) -> heed::Result<Option<SeriesId>> {
    let at = BlockKey { run, series: from, start: i64::MIN }.encode();
    let found = runs.get_greater_than_or_equal_to(txn, &at)?;
    let key = found.and_then(|(key, _)| BlockKey::decode(key));
    Ok(key.filter(|key| key.run == run).map(|key| key.series))
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

/// A block on its way into a transaction.
pub(super) type NewBlock = ([u8; KEY_LEN], Vec<u8>);

/// A run being written, block by block, in order of (series, time).
pub(super) struct Writer {
    config: Config,
    run: Run,
    pending: Vec<NewBlock>,
    pending_bytes: usize,
}

impl Writer {
    /// Starts a run of its own.
    pub(super) fn new(shard: &OpenShard) -> Self {
        let run = Run {
            id: shard.next_run(),
            damaged: false,
            blocks: 0,
            bytes: 0,
            min_time: i64::MAX,
            max_time: i64::MIN,
        };
        Self { config: shard.config, run, pending: Vec::new(), pending_bytes: 0 }
    }

    /// Adds merged rows of a series. Series do not go back, nor do times within one.
    pub(super) fn push(&mut self, series: SeriesId, rows: &Rows) {
        for range in cuts(rows, self.config.block_rows, self.config.block_bytes) {
            let part = (range.len() < rows.len()).then(|| rows.range(range));
            let part = part.as_ref().unwrap_or(rows);
            let Some((start, last)) = part.time_range() else {
                continue;
            };
            let mut block = Vec::new();
            part.encode(&mut block);
            self.run.blocks += 1;
            self.run.bytes += block.len() as u64;
            self.run.min_time = self.run.min_time.min(start);
            self.run.max_time = self.run.max_time.max(last);
            self.pending_bytes += block.len();
            let key = BlockKey { run: self.run.id, series, start }.encode();
            self.pending.push((key, block));
        }
    }

    /// Blocks that fill a transaction, if there are so many.
    pub(super) fn full_txn(&mut self) -> Option<Vec<NewBlock>> {
        if self.pending_bytes < self.config.txn_bytes {
            return None;
        }
        let (mut count, mut bytes) = (0, 0);
        for (_, block) in &self.pending {
            if count > 0 && bytes + block.len() > self.config.txn_bytes {
                break;
            }
            count += 1;
            bytes += block.len();
        }
        self.pending_bytes -= bytes;
        Some(self.pending.drain(..count).collect())
    }

    /// The last blocks, less than a transaction full, and the run's entry in the state record;
    /// `None` if it never had a block.
    pub(super) fn finish(self) -> (Vec<NewBlock>, Option<Run>) {
        let run = (self.run.blocks > 0).then_some(self.run);
        (self.pending, run)
    }
}

/// Stores blocks of the newest run, behind all others.
pub(super) fn append(txn: &mut RwTxn<'_>, runs: &Table, blocks: &[NewBlock]) -> heed::Result<()> {
    for (key, block) in blocks {
        runs.put_with_flags(txn, PutFlags::APPEND, key, block)?;
    }
    Ok(())
}

/// Deletes blocks of runs that are not live, up to about `max_bytes` of them; whether it is done.
pub(super) fn delete_dead(
    txn: &mut RwTxn<'_>,
    runs: &Table,
    state: &State,
    max_bytes: usize,
) -> heed::Result<bool> {
    let mut doomed = Vec::new();
    let (mut run, mut bytes) = (0, 0);
    'runs: loop {
        let at = BlockKey { run, series: 0, start: i64::MIN }.encode();
        let found = runs.get_greater_than_or_equal_to(txn, &at)?.map(|(key, _)| key);
        let Some(found) = found.and_then(BlockKey::decode) else {
            break;
        };
        if !state.is_live(found.run) {
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
    Ok(bytes < max_bytes)
}

/// Whether any block belongs to a run that is not live.
pub(super) fn has_dead(shard: &OpenShard, state: &State) -> Result<bool, EnvError> {
    shard.env.read(|txn, [runs, ..]| {
        let mut run = 0;
        loop {
            let at = BlockKey { run, series: 0, start: i64::MIN }.encode();
            let found =
                runs.get_greater_than_or_equal_to(txn, &at).map_err(|e| shard.env.wrap(e))?;
            let Some(found) = found.and_then(|(key, _)| BlockKey::decode(key)) else {
                return Ok(false);
            };
            if !state.is_live(found.run) {
                return Ok(true);
            }
            let Some(next) = found.run.checked_add(1) else {
                return Ok(false);
            };
            run = next;
        }
    })
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
