//! Folding: a shard's oldest fresh batches become a sorted run.
//!
//! Order, which a crash may cut at any point: blocks and series in transactions of their own, then
//! one that adds the last blocks and the state record (the run is live and its sequences count as
//! applied), and only then do the batches leave memory. So what was accepted is always in memory or
//! in a live run, and a scan that looks in that order misses nothing. Run by [`super::background`]
//! and by flushes; never on the path of an acknowledgement.

use std::sync::Arc;

use quorate_protocol::id::{Sequence, Version};

use super::{
    Inner,
    assemble::{Assembler, Limits},
    block::Density,
    enrol,
    error::ShardError,
    fault::Step,
    fresh::Entry,
    gather::Gathered,
    open::OpenShard,
    quarantine,
    series_cache::SeriesCache,
    slot::Slot,
    state::{self, State},
    work::Work,
    writer::{self, Writer},
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
    store.open.note_fold(&shard);
    let work = Work::new(store, slot, &shard);
    let state = shard.state()?;
    let folded = if last > state.applied { write(work, &entries, state)? } else { last };
    drop(entries);
    slot.fresh().folded(folded);
    metrics::counter!("quorate_shard_folds_total").increment(1);
    Ok(true)
}

/// Writes a run of some entries, the first ones, and says how far they go.
fn write(work: Work<'_>, entries: &[Arc<Entry>], mut state: State) -> Result<Sequence, ShardError> {
    if !work.slot.is_merging() {
        work.clean(None)?;
    }
    let mut cache = work.shard.series_cache();
    let (mut gathered, last) = take(work, entries, state.applied, &cache)?;
    let highest = gathered.versions().iter().max().copied().unwrap_or(Version(0));
    let unknown = gathered.take_unknown();
    let complete = cache.is_complete();
    let named = unknown.iter().map(|(hash, key)| (*hash, key));
    let (ids, mut enrolment) = enrol::resolve(work.shard, named, complete)?;
    // If the fold fails, some of them may have been committed.
    cache.set_complete(complete && unknown.is_empty());
    let writer = Writer::new(work, Density::Cheap, Some(gathered.versions().to_vec()));
    let assembler = Assembler::new(writer, Limits::of(&work.shard.config));
    let finished = gathered.assemble(&ids, assembler)?.finish();

    let bytes: usize = finished.blocks.iter().map(|(_, block)| block.len()).sum();
    enrolment.shrink(bytes, work.shard.config.txn_bytes, |body| {
        work.commit(Step::Commit, body)?;
        work.at(Step::Committed)
    })?;
    // A merge may have changed the runs since; nobody can while this fold holds the right to write.
    state = work.shard.state()?;
    state.applied = last;
    state.highest_version = state.highest_version.max(highest);
    state.add(finished.run);
    let record = state.encode();
    work.commit(Step::Flip, |txn, tables| {
        let [runs, .., states] = tables;
        enrolment.finish(txn, tables)?;
        writer::store(&work, txn, runs, &finished.blocks)?;
        states.put(txn, state::KEY, &record)
    })?;
    work.at(Step::Flipped)?;
    let known = || unknown.iter().map(|(_, key)| &key[..]).zip(ids.iter().copied());
    let mut all = cache.extend(known());
    while !all && work.store.open.forget_series() {
        all = cache.extend(known());
    }
    cache.set_complete(complete && all);
    Ok(last)
}

/// The rows of the first batches that are not applied yet, as many as may be in memory decoded, and
/// the sequence of the last one.
fn take(
    work: Work<'_>,
    entries: &[Arc<Entry>],
    applied: Sequence,
    series: &SeriesCache,
) -> Result<(Gathered, Sequence), ShardError> {
    let limit = work.store.config.fold_cells;
    let (mut taken, mut last) = (Gathered::default(), applied);
    for entry in entries.iter().filter(|entry| entry.sequence > applied) {
        if taken.cells() >= limit || taken.bytes() >= limit.saturating_mul(16) {
            break;
        }
        work.go_on()?;
        work.step_aside();
        let part = entry.batch.header().part;
        let decoded = if part.shard == work.slot.id {
            entry.batch.decode().map_err(|error| error.to_string())
        } else {
            Err(format!("it is addressed to shard {}", part.shard))
        };
        match decoded {
            Ok(batch) => taken.add(batch, series),
            Err(reason) => set_aside(work.store, work.shard, work.slot, entry, &reason)?,
        }
        last = entry.sequence;
    }
    Ok((taken, last))
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
