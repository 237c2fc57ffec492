//! Merging runs: when a size tier has collected enough of them, they become one.
//!
//! Order: the blocks of the new run, then one transaction that makes it live in place of the old
//! ones, then the old blocks are deleted and their pages are free for reuse. Only that one
//! transaction keeps folds of the shard waiting. Merging keeps exactly the winners, so which runs
//! are merged, and when, cannot be seen in any answer. A run with a damaged block is left as it is.
//!
//! What takes long, a merge of large runs or a dense pass, must not make folds wait until it is done:
//! between its transactions it lets merges of small runs go first, of other runs of the same shard too.
//! Run by [`super::background`] and by settling.

use quorate_protocol::id::{ShardId, Version};

use super::{
    Inner,
    assemble::{Assembler, Limits},
    background::note,
    block::Density,
    config::Config,
    cursor::{Cursor, Trouble},
    error::ShardError,
    fault::Step,
    read::report_damage,
    run::StoredBlock,
    slot::{Merging, Slot},
    source::Sources,
    state::{self, Run},
    weave::weave,
    work::Work,
    writer::{self, Finished, Writer},
};
use crate::executor::Executor;

/// The smallest tier, in bytes; each further one is four times as large.
const TIER_BYTES: u64 = 256 << 10;
/// Runs up to this part of [`Config::merge_limit_bytes`] are small: merges of them wait for no other.
const SMALL: u64 = 16;

impl Inner {
    /// Does nothing while somebody else rewrites the shard.
    pub(super) fn merge(&self, slot: &Slot) -> Result<bool, ShardError> {
        let pause = pause(&self.config, self.executor);
        let right = slot.try_merging()?;
        right.map_or(Ok(false), |right| self.merge_by(slot, right, pause))
    }

    /// [`Self::merge`], once nobody else rewrites the shard.
    pub(super) fn merge_now(&self, slot: &Slot) -> Result<bool, ShardError> {
        self.merge_by(slot, slot.merging()?, 0)
    }

    fn merge_by(&self, slot: &Slot, right: Merging<'_>, pause: u32) -> Result<bool, ShardError> {
        let Some(shard) = self.open.pin(slot.id)? else {
            return Ok(false);
        };
        let work = Work { pause, ..Work::new(self, slot, &shard) };
        let merged = merge(work, Scope::All)?;
        if merged {
            self.note_stored(slot, &shard)?;
        }
        drop(right);
        Ok(merged)
    }

    /// Merges small runs that folds would soon wait for, of any shard, in the midst of long work that
    /// rewrites `busy`. What goes wrong is tried again after the next fold of that shard.
    pub(super) fn merge_first(&self, long: &Work<'_>, busy: &[Run]) {
        for slot in self.slots_snapshot() {
            let is_own = slot.id == long.slot.id;
            // A dense pass of a shard that is folded has failed already.
            if !hurry(&self.config, &slot) || is_own && long.draft {
                continue;
            }
            // The long work has the right to its own shard.
            let right = if is_own { Ok(None) } else { slot.try_merging() };
            if !is_own && !matches!(right, Ok(Some(_))) {
                continue;
            }
            let busy = if is_own { busy } else { &[] };
            let merged = self.merge_small(&slot, busy);
            drop(right);
            let failed = merged.is_err();
            if note(slot.id, merged) {
                self.work_wanted.notify_one();
            } else if failed {
                slot.set_mergeable(0);
            }
        }
    }

    /// Does nothing while other shards take all places of open ones: one of them is the caller's.
    fn merge_small(&self, slot: &Slot, busy: &[Run]) -> Result<bool, ShardError> {
        let Some(shard) = self.open.pin_at_once(slot.id)? else {
            return Ok(false);
        };
        let merged = merge(Work::new(self, slot, &shard), Scope::Small { busy })?;
        self.note_stored(slot, &shard)?;
        Ok(merged)
    }
}

/// [`Config::merge_pause_percent`], unless work must not leave its thread.
pub(super) fn pause(config: &Config, executor: Executor) -> u32 {
    if executor == Executor::Inline { 0 } else { config.merge_pause_percent }
}

/// Whether folds of a shard will have to wait for its merges soon.
pub(super) fn hurry(config: &Config, slot: &Slot) -> bool {
    slot.mergeable() > config.max_runs / 2
}

/// Which runs may be merged.
#[derive(Clone, Copy)]
enum Scope<'a> {
    All,
    /// Small ones, but for those that somebody rewrites already.
    Small {
        busy: &'a [Run],
    },
}

/// Merges the runs of the smallest tier that has enough of them; whether there was one. Folds of the
/// shard go on meanwhile. The caller has the right to merge.
fn merge(work: Work<'_>, scope: Scope<'_>) -> Result<bool, ShardError> {
    let Work { store, slot, shard, .. } = work;
    if let Scope::All = scope {
        // What failed work has left.
        Work { long: Some(&[]), ..work }.clean(None)?;
    }
    let (limit, small) = limits(&store.config);
    let mut runs = shard.state()?.runs;
    let limit = match scope {
        Scope::All => limit,
        Scope::Small { busy } => {
            runs.retain(|run| busy.iter().all(|old| old.id != run.id));
            small
        }
    };
    let picked = pick(&runs, store.config.merge_runs, limit);
    if picked.is_empty() {
        return Ok(false);
    }
    let is_long = picked.iter().any(|run| run.bytes > small);
    let long = is_long.then_some(&picked[..]);
    let work = Work { long, ..work };
    let finished = match write(work, &picked) {
        Ok(finished) => finished,
        Err(Trouble::Broken(block)) => {
            leave_alone(work, &block)?;
            // The next fold or merge deletes what was written of the new run.
            return Ok(true);
        }
        Err(Trouble::Shard(error)) => return Err(error),
    };
    {
        let _writer = slot.folding()?;
        // Folds have added runs since, and merges that went first have replaced others.
        let mut state = shard.state()?;
        state.runs.retain(|run| picked.iter().all(|old| old.id != run.id));
        state.add(finished.run);
        let record = state.encode();
        let at_once = work.at_once();
        at_once.commit(Step::Flip, |txn, [runs, .., states]| {
            writer::store(&at_once, txn, runs, &finished.blocks)?;
            states.put(txn, state::KEY, &record)
        })?;
    }
    drop(finished);
    work.at(Step::Flipped)?;
    metrics::counter!("quorate_shard_merges_total").increment(1);
    // What goes first leaves to the long work what that has replaced: there may be much.
    work.clean(match scope {
        Scope::All => None,
        Scope::Small { .. } => Some(&picked),
    })?;
    Ok(true)
}

/// Writes all rows of some runs as one, which is not live yet.
fn write<'a>(work: Work<'a>, picked: &[Run]) -> Result<Finished<'a>, Trouble> {
    let mut cursors = Vec::with_capacity(picked.len());
    for run in picked {
        cursors.push(Cursor::new(work.shard, run.id, true, 1)?);
    }
    let writer = Writer::new(work, Density::Cheap, all_versions(&cursors));
    let mut assembler = Assembler::new(writer, Limits::of(&work.shard.config));
    let mut sources = Sources::default();
    loop {
        let mut next = None;
        for cursor in &mut cursors {
            next = next.into_iter().chain(cursor.series(&mut sources)?).min();
        }
        let Some(series) = next else { break };
        // Between two transactions a thread of low priority may need long.
        work.go_on()?;
        assembler.begin(&mut sources, series)?;
        weave(series, &mut cursors, &mut sources, &mut assembler)?;
    }
    Ok(assembler.finish(&mut sources)?.finish())
}

/// All versions that rows of some runs may have; `None` if one of them cannot tell.
pub(super) fn all_versions(cursors: &[Cursor<'_>]) -> Option<Vec<Version>> {
    let mut all = Vec::new();
    for cursor in cursors {
        all.extend_from_slice(cursor.versions()?.versions());
    }
    Some(all)
}

/// The bytes of the largest run that is ever merged, and of the largest small one.
const fn limits(config: &Config) -> (u64, u64) {
    (config.merge_limit_bytes, config.merge_limit_bytes / SMALL)
}

/// Whether a run is ever merged.
pub(super) const fn may_merge(run: &Run, limit: u64) -> bool {
    !run.damaged && run.bytes <= limit
}

/// The runs to merge: all of the smallest tier that has at least `enough`.
fn pick(runs: &[Run], enough: usize, limit: u64) -> Vec<Run> {
    let tier = |run: &Run| (run.bytes / TIER_BYTES).checked_ilog(4).map_or(0, |tier| tier + 1);
    let candidates = || runs.iter().filter(|run| may_merge(run, limit));
    let mut tiers: Vec<u32> = candidates().map(tier).collect();
    tiers.sort_unstable();
    let full = tiers.chunk_by(|a, b| a == b).find(|chunk| chunk.len() >= enough.max(2));
    let Some(full) = full.and_then(|chunk| chunk.first()) else {
        return Vec::new();
    };
    // A window holds a block of each; twice the usual number is plenty at once.
    candidates().filter(|run| tier(run) == *full).take(2 * enough.max(2)).copied().collect()
}

/// Marks the run of a damaged block, so that its good blocks stay and nobody tries again.
pub(super) fn leave_alone(work: Work<'_>, block: &StoredBlock) -> Result<(), ShardError> {
    let Work { store, slot, shard, .. } = work;
    let id: ShardId = slot.id;
    tracing::error!(shard = %id, run = block.key.run, "a damaged block keeps its run from merging");
    report_damage(store, &shard.path, block.key, &block.bytes)?;
    let _writer = slot.folding()?;
    let mut state = shard.state()?;
    for run in state.runs.iter_mut().filter(|run| run.id == block.key.run) {
        run.damaged = true;
    }
    let record = state.encode();
    work.at_once().commit(Step::Flip, |txn, [.., states]| states.put(txn, state::KEY, &record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: u32, bytes: u64) -> Run {
        Run {
            id,
            damaged: false,
            dense: false,
            blocks: 1,
            rows: 1,
            bytes,
            min_time: 0,
            max_time: 0,
        }
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
