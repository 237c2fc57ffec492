//! Folding: a shard's oldest fresh batches become a sorted run.
//!
//! Order, which a crash may cut at any point: series and blocks in transactions of their own, then
//! one that adds the last blocks and the state record (the run is live and its sequences count as
//! applied), and only then do the batches leave memory. So what was accepted is always in memory or
//! in a live run, and a scan that looks in that order misses nothing. Run by [`super::background`]
//! and by flushes; never on the path of an acknowledgement.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::id::Version;

use super::{
    Inner,
    error::ShardError,
    fault::{Fault, Step},
    fresh::Entry,
    open::OpenShard,
    pieces::{Collector, FreshSeries},
    quarantine, run,
    run::NewBlock,
    series::{self, SeriesId},
    slot::Slot,
    state::{self, State},
};

/// Lookups of series in one read transaction: some milliseconds.
pub(super) const LOOKUPS: usize = 8192;
/// What a series costs in a transaction beyond its key, which is stored twice.
const SERIES_BYTES: usize = 128;

/// A series that has no id on disk yet.
struct NewSeries {
    hash: u64,
    key: Bytes,
    id: SeriesId,
}

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
        let mut fold = Fold { store, slot, shard: &shard, unsaved: Vec::new() };
        let by_id = fold.resolve(series)?;
        let mut writer = run::Writer::new(&shard);
        for (id, series) in by_id {
            writer.push(id, &pieces.rows(&series));
            while let Some(blocks) = writer.full_txn() {
                fold.commit(Step::Commit, &[], &blocks, None)?;
                store.probe.at(Step::Committed)?;
            }
        }
        let (blocks, run) = writer.finish();
        let bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
        fold.save_series(bytes)?;
        state.applied = last;
        state.highest_version = state.highest_version.max(highest);
        state.runs.extend(run);
        let unsaved = std::mem::take(&mut fold.unsaved);
        fold.commit(Step::Flip, &unsaved, &blocks, Some(&state))?;
        slot.set_series(shard.series()?);
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

struct Fold<'a> {
    store: &'a Inner,
    slot: &'a Slot,
    shard: &'a OpenShard,
    /// New series, ascending by id, not committed yet.
    unsaved: Vec<NewSeries>,
}

impl Fold<'_> {
    /// The series by id; new ones get the next ids in the order of their keys.
    fn resolve(
        &mut self,
        series: Vec<FreshSeries>,
    ) -> Result<Vec<(SeriesId, FreshSeries)>, ShardError> {
        let env = &self.shard.env;
        let (mut by_id, mut unknown) = (Vec::with_capacity(series.len()), Vec::new());
        let mut series = series.into_iter().peekable();
        let mut next: SeriesId = 1;
        while series.peek().is_some() {
            env.read(|txn, [_, table, _, states]| -> Result<(), ShardError> {
                for one in series.by_ref().take(LOOKUPS) {
                    match series::find(txn, table, &one.key, one.hash).map_err(|e| env.wrap(e))? {
                        Ok(id) => by_id.push((id, one)),
                        Err(_) => unknown.push(one),
                    }
                }
                let stored = states.get(txn, state::NEXT_SERIES).map_err(|e| env.wrap(e))?;
                if let Some(stored) = stored.and_then(|bytes| bytes.try_into().ok()) {
                    next = SeriesId::from_le_bytes(stored);
                }
                Ok(())
            })?;
        }
        unknown.sort_by(|a, b| a.key.cmp(&b.key));
        for (id, one) in (next..).zip(unknown) {
            self.unsaved.push(NewSeries { hash: one.hash, key: one.key.clone(), id });
            by_id.push((id, one));
        }
        by_id.sort_by_key(|(id, _)| *id);
        Ok(by_id)
    }

    /// Commits new series until what is left fits into one transaction with `with` more bytes.
    fn save_series(&mut self, with: usize) -> Result<(), ShardError> {
        let cost = |new: &NewSeries| 2 * new.key.len() + SERIES_BYTES;
        let mut left: usize = with + self.unsaved.iter().map(cost).sum::<usize>();
        let max = self.shard.config.txn_bytes;
        // Blocks may name series that are not committed yet: their run is not live either.
        while left > max && !self.unsaved.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            for new in &self.unsaved {
                if count > 0 && bytes + cost(new) > max {
                    break;
                }
                count += 1;
                bytes += cost(new);
            }
            let some: Vec<_> = self.unsaved.drain(..count).collect();
            left -= bytes;
            self.commit(Step::Commit, &some, &[], None)?;
            self.store.probe.at(Step::Committed)?;
        }
        Ok(())
    }

    fn commit(
        &self,
        step: Step,
        new: &[NewSeries],
        blocks: &[NewBlock],
        state: Option<&State>,
    ) -> Result<(), ShardError> {
        let record = state.map(State::encode);
        commit(self.store, self.slot, self.shard, step, |txn, [runs, series, keys, states]| {
            for new in new {
                series::insert(txn, [series, keys], &new.key, new.hash, new.id)?;
            }
            if let Some(last) = new.last() {
                states.put(txn, state::NEXT_SERIES, &(last.id + 1).to_le_bytes())?;
            }
            run::append(txn, runs, blocks)?;
            match &record {
                Some(record) => states.put(txn, state::KEY, record),
                None => Ok(()),
            }
        })
    }
}

/// Commits one transaction of a fold or a merge; a failed sync poisons the shard.
pub(super) fn commit(
    store: &Inner,
    slot: &Slot,
    shard: &OpenShard,
    step: Step,
    body: impl FnMut(&mut heed::RwTxn<'_>, &[super::env::Table; 4]) -> heed::Result<()>,
) -> Result<(), ShardError> {
    match store.probe.at(step) {
        Ok(()) => {}
        Err(Fault::SyncFailed) => return Err(slot.set_poison("a test made the sync fail")),
        Err(stop) => return Err(stop.into()),
    }
    shard.env.write(body).map_err(|error| slot.judge(error))
}
