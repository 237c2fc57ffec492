//! Merging runs: when a size tier has collected enough of them, they become one.
//!
//! Order: the blocks of the new run, then one transaction that makes it live in place of the old
//! ones, then the old blocks are deleted and their pages are free for reuse. Merging keeps exactly
//! the winners, so which runs are merged, and when, cannot be seen in any answer. A run with a
//! damaged block is left as it is. Run by [`super::background`], in turn with folds of the shard.

use quorate_protocol::{id::ShardId, rows::Rows};

use super::{
    Inner,
    error::ShardError,
    fault::Step,
    fold,
    open::OpenShard,
    read::report_damage,
    run::{self, StoredBlock, Window},
    series::SeriesId,
    slot::Slot,
    state::{self, Run, State},
};

/// The smallest tier, in bytes; each further one is four times as large.
const TIER_BYTES: u64 = 256 << 10;

/// Merges the runs of the smallest tier that has enough of them; whether there was one.
pub(super) fn merge(store: &Inner, slot: &Slot) -> Result<bool, ShardError> {
    let _writer = slot.folding()?;
    let Some(shard) = store.open.pin(slot.id)? else {
        return Ok(false);
    };
    let mut state = shard.state()?;
    let picked = pick(&state.runs, store.config.merge_runs, store.config.merge_limit_bytes);
    if picked.is_empty() {
        return Ok(false);
    }
    fold::clean(store, slot, &shard)?;
    let mut writer = run::Writer::new(&shard);
    let mut at = Some((0, i64::MIN));
    while let Some(from) = at {
        let (windows, next) = load(&shard, &picked, from)?;
        for (series, window) in windows {
            let (parts, damaged) = window.decode();
            if let Some(block) = damaged.first() {
                return leave_alone(store, slot, &shard, state, block);
            }
            writer.push(series, &Rows::merge(parts));
            while let Some(blocks) = writer.full_txn() {
                fold::commit(store, slot, &shard, Step::Commit, |txn, [runs, ..]| {
                    run::append(txn, runs, &blocks)
                })?;
                store.probe.at(Step::Committed)?;
            }
        }
        at = next;
    }
    let (blocks, merged) = writer.finish();
    state.runs.retain(|run| picked.iter().all(|old| old.id != run.id));
    state.runs.extend(merged);
    let record = state.encode();
    fold::commit(store, slot, &shard, Step::Flip, |txn, [runs, .., states]| {
        run::append(txn, runs, &blocks)?;
        states.put(txn, state::KEY, &record)
    })?;
    store.probe.at(Step::Flipped)?;
    metrics::counter!("quorate_shard_merges_total").increment(1);
    fold::clean(store, slot, &shard)?;
    Ok(true)
}

/// The runs to merge: all of the smallest tier that has at least `enough`.
fn pick(runs: &[Run], enough: usize, limit: u64) -> Vec<Run> {
    let tier = |run: &Run| (run.bytes / TIER_BYTES).checked_ilog(4).map_or(0, |tier| tier + 1);
    let candidates = || runs.iter().filter(|run| !run.damaged && run.bytes <= limit);
    let mut tiers: Vec<u32> = candidates().map(tier).collect();
    tiers.sort_unstable();
    let full = tiers.chunk_by(|a, b| a == b).find(|chunk| chunk.len() >= enough.max(2));
    let Some(full) = full.and_then(|chunk| chunk.first()) else {
        return Vec::new();
    };
    // A window holds a block of each; twice the usual number is plenty at once.
    candidates().filter(|run| tier(run) == *full).take(2 * enough.max(2)).copied().collect()
}

type Loaded = (Vec<(SeriesId, Window)>, Option<(SeriesId, i64)>);

/// Copies out windows from (series, time) on, about `scan_bytes` of them, and where to go on.
fn load(
    shard: &OpenShard,
    picked: &[Run],
    (mut series, mut from): (SeriesId, i64),
) -> Result<Loaded, ShardError> {
    shard.env.read(|txn, [table, ..]| {
        let (mut windows, mut bytes) = (Vec::new(), 0);
        loop {
            let mut first = None;
            for run in picked {
                let found =
                    run::series_at(txn, table, run.id, series).map_err(|e| shard.env.wrap(e))?;
                first = first.into_iter().chain(found).min();
            }
            let Some(first) = first else {
                return Ok((windows, None));
            };
            if first != series {
                (series, from) = (first, i64::MIN);
            }
            let window =
                Window::load(txn, table, picked, series, from).map_err(|e| shard.env.wrap(e))?;
            bytes += window.bytes();
            let next = match window.end {
                Some(end) => Some((series, end)),
                None => series.checked_add(1).map(|series| (series, i64::MIN)),
            };
            windows.push((series, window));
            match next {
                Some(next) if bytes < shard.config.scan_bytes => (series, from) = next,
                next => return Ok((windows, next)),
            }
        }
    })
}

/// Marks the run of a damaged block, so that its good blocks stay and nobody tries again.
fn leave_alone(
    store: &Inner,
    slot: &Slot,
    shard: &OpenShard,
    mut state: State,
    block: &StoredBlock,
) -> Result<bool, ShardError> {
    let id: ShardId = slot.id;
    tracing::error!(shard = %id, run = block.key.run, "a damaged block keeps its run from merging");
    report_damage(store, &shard.path, block)?;
    for run in state.runs.iter_mut().filter(|run| run.id == block.key.run) {
        run.damaged = true;
    }
    let record = state.encode();
    fold::commit(store, slot, shard, Step::Flip, |txn, [.., states]| {
        states.put(txn, state::KEY, &record)
    })?;
    fold::clean(store, slot, shard)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: u32, bytes: u64) -> Run {
        Run { id, damaged: false, blocks: 1, bytes, min_time: 0, max_time: 0 }
    }

    #[test]
    fn the_smallest_full_tier_is_picked_and_damaged_or_huge_runs_are_not() {
        let ids = |runs: &[Run]| {
            let picked = pick(runs, 3, 64 << 20);
            picked.iter().map(|run| run.id).collect::<Vec<_>>()
        };
        let (small, large) = (1 << 10, 8 << 20);
        let mut runs = vec![run(1, large), run(2, large), run(3, small), run(4, small)];
        assert!(ids(&runs).is_empty());
        runs.push(run(5, large + 1));
        assert_eq!(ids(&runs), [1, 2, 5]);
        runs.push(run(6, small));
        assert_eq!(ids(&runs), [3, 4, 6]);
        runs[2].damaged = true;
        runs[4].bytes = 1 << 30;
        assert!(ids(&runs).is_empty());
    }
}
