//! Folding: a shard's oldest fresh batches become a sorted run.
//!
//! Order, which a crash may cut at any point: series and blocks in transactions of their own, then
//! one that adds the last blocks and the state record (the run is live and its sequences count as
//! applied), and only then do the batches leave memory. So what was accepted is always in memory or
//! in a live run, and a scan that looks in that order misses nothing. Run by [`super::background`]
//! and by flushes; never on the path of an acknowledgement.

use std::sync::Arc;

use quorate_protocol::id::Version;

use super::{
    Inner, enrol,
    error::ShardError,
    fault::{Fault, Step},
    fresh::Entry,
    open::{OpenShard, Tables},
    pieces::Collector,
    quarantine, run,
    slot::Slot,
    state::{self, State},
};

/// Folds a prefix of the shard's fresh batches; whether there was anything to fold.
pub(super) fn fold(store: &Inner, slot: &Slot) -> Result<bool, ShardError> {
    let _writer = slot.folding()?;
    let entries = slot.fresh().prefix(store.config.fold_limit_bytes);
    let Some(last) = entries.last().map(|entry| entry.sequence) else {
        return Ok(false);
    };
    store.probe.at(Step::FoldBegins)?;
    let shard = store.open.pin_or_create(slot.id)?;
    let mut state = shard.state()?;
    if last > state.applied {
        clean(store, slot, &shard)?;
        let (taken, highest) = take(store, slot, &shard, &entries, &state)?;
        let (series, pieces) = taken.finish();
        let names = series.iter().map(|one| (one.hash, &one.key));
        let (ids, mut enrolment) = enrol::resolve(&shard, names)?;
        let mut by_id: Vec<_> = ids.into_iter().zip(series).collect();
        by_id.sort_unstable_by_key(|(id, _)| *id);
        let mut writer = run::Writer::new(&shard);
        for (id, series) in by_id {
            writer.push(id, &pieces.rows(&series));
            while let Some(blocks) = writer.full_txn() {
                commit(store, slot, &shard, Step::Commit, |txn, [runs, ..]| {
                    run::append(txn, runs, &blocks)
                })?;
                store.probe.at(Step::Committed)?;
            }
        }
        let (blocks, run) = writer.finish();
        let bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
        enrolment.shrink(bytes, shard.config.txn_bytes, |body| {
            commit(store, slot, &shard, Step::Commit, body)?;
            Ok(store.probe.at(Step::Committed)?)
        })?;
        state.applied = last;
        state.highest_version = state.highest_version.max(highest);
        state.runs.extend(run);
        let record = state.encode();
        commit(store, slot, &shard, Step::Flip, |txn, tables| {
            let [runs, .., states] = tables;
            enrolment.finish(txn, tables)?;
            run::append(txn, runs, &blocks)?;
            states.put(txn, state::KEY, &record)
        })?;
        store.probe.at(Step::Flipped)?;
    }
    slot.fresh().folded(last);
    metrics::counter!("quorate_shard_folds_total").increment(1);
    Ok(true)
}

/// Deletes what an earlier fold or merge has left behind.
pub(super) fn clean(store: &Inner, slot: &Slot, shard: &OpenShard) -> Result<(), ShardError> {
    let state = shard.state()?;
    if run::has_dead(shard, &state)? {
        loop {
            let max = shard.config.txn_bytes;
            let done = shard
                .env
                .write(|txn, [runs, ..]| run::delete_dead(txn, runs, &state, max))
                .map_err(|error| slot.judge(error))?;
            store.probe.at(Step::Deleted)?;
            if done {
                break;
            }
        }
    }
    Ok(())
}

/// The rows of the batches that are not applied yet, and their highest version.
fn take(
    store: &Inner,
    slot: &Slot,
    shard: &OpenShard,
    entries: &[Arc<Entry>],
    state: &State,
) -> Result<(Collector, Version), ShardError> {
    let (mut taken, mut highest) = (Collector::default(), Version(0));
    for entry in entries.iter().filter(|entry| entry.sequence > state.applied) {
        let part = entry.batch.header().part;
        let decoded = if part.shard == slot.id {
            entry.batch.decode().map_err(|error| error.to_string())
        } else {
            Err(format!("it is addressed to shard {}", part.shard))
        };
        match decoded {
            Ok(batch) => {
                highest = highest.max(part.version);
                taken.add(batch);
            }
            Err(reason) => {
                set_aside(store, shard, slot, entry, &reason)?;
            }
        }
    }
    Ok((taken, highest))
}

fn set_aside(
    store: &Inner,
    shard: &OpenShard,
    slot: &Slot,
    entry: &Entry,
    reason: &str,
) -> Result<(), ShardError> {
    let name = format!("{:020}.batch", entry.sequence.0);
    let new = quarantine::keep(&shard.path, &name, entry.batch.bytes(), reason)?;
    if new {
        tracing::warn!(shard = %slot.id, sequence = %entry.sequence, reason,
            "a batch breaks the rules and is in quarantine");
        store.counters.quarantine_batch();
    }
    Ok(())
}

/// Commits one transaction of a fold or a merge; a failed sync poisons the shard.
pub(super) fn commit(
    store: &Inner,
    slot: &Slot,
    shard: &OpenShard,
    step: Step,
    body: impl FnMut(&mut heed::RwTxn<'_>, &Tables) -> heed::Result<()>,
) -> Result<(), ShardError> {
    match store.probe.at(step) {
        Ok(()) => {}
        Err(Fault::SyncFailed) => return Err(slot.set_poison("a test made the sync fail")),
        Err(stop) => return Err(stop.into()),
    }
    shard.env.write(body).map_err(|error| slot.judge(error))
}
