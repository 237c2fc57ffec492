//! How many series a shard has, and whether a batch brings new ones.
//!
//! Invariant: a series counts as known from the moment its batch was accepted, folded or not, so
//! that no write is refused for a series that an earlier one has made. Nothing here is asked on the
//! way of an acknowledgement before a limit is reached; then every batch is decoded and each of its
//! series looked up. Called by the node's writes, which know the limit and the groups.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, DefaultHasher},
    sync::{Arc, MutexGuard, PoisonError},
};

use quorate_protocol::{
    batch::{DecodeError, EncodedBatch},
    id::{Sequence, ShardId},
};

use super::{
    Inner, ShardStore,
    enrol::LOOKUPS,
    error::ShardError,
    series::{self, Lookup},
    slot::Slot,
};

/// Why it cannot be said whether a batch brings new series.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The batch breaks the rules.
    #[error(transparent)]
    Batch(#[from] DecodeError),
    /// The shard cannot be read.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// Hashes of the series of a shard's fresh batches: all that are behind `applied` and not behind
/// `through`. Two keys of one hash count as one: the limit is then exceeded by a series.
#[derive(Debug, Default)]
pub(super) struct Unfolded {
    applied: Sequence,
    through: Sequence,
    hashes: HashSet<u64, BuildHasherDefault<DefaultHasher>>,
}

impl ShardStore {
    /// How many series the shard has in its runs.
    #[must_use]
    pub fn series(&self, shard: ShardId) -> u64 {
        self.inner.slot(shard).map_or(0, |slot| slot.stored().series)
    }

    /// Whether the batch has a series that its shard does not have yet, fresh batches included.
    ///
    /// # Errors
    /// The batch is invalid, or the shard cannot be read.
    pub async fn brings_series(&self, batch: EncodedBatch) -> Result<bool, LookupError> {
        let inner = Arc::clone(&self.inner);
        let looked = self.inner.executor.run(move || inner.brings_series(&batch)).await;
        looked.map_err(ShardError::from)?
    }
}

impl Inner {
    pub(super) fn brings_series(&self, batch: &EncodedBatch) -> Result<bool, LookupError> {
        let decoded = batch.decode()?;
        let series = decoded.measurements.iter().flat_map(|measurement| &measurement.series);
        let mut series: Vec<Lookup<'_>> =
            series.map(|series| Lookup { hash: series.hash, key: &series.key, id: 0 }).collect();
        let Some(slot) = self.slot(batch.header().part.shard) else {
            return Ok(!series.is_empty());
        };
        // First what is fresh, then what is stored: a fold in between must not hide a series.
        {
            let fresh = unfolded(&slot);
            series.retain(|series| !fresh.hashes.contains(&series.hash));
        }
        let Some(shard) = self.open.pin(slot.id)? else {
            return Ok(!series.is_empty());
        };
        series.sort_unstable_by_key(|series| series.hash);
        for some in series.chunks_mut(LOOKUPS) {
            shard.env.read(|txn, tables| -> Result<(), ShardError> {
                series::find(txn, tables, some).map_err(|e| shard.env.wrap(e).into())
            })?;
            if some.iter().any(|series| series.id == 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The hashes of the shard's fresh series, brought up to date. After a fold they are collected anew.
fn unfolded(slot: &Slot) -> MutexGuard<'_, Unfolded> {
    let mut known = slot.unfolded.lock().unwrap_or_else(PoisonError::into_inner);
    let entries = {
        let fresh = slot.fresh();
        if fresh.applied() != known.applied {
            *known = Unfolded { applied: fresh.applied(), ..Unfolded::default() };
        }
        fresh.behind(known.through)
    };
    for entry in entries {
        known.through = entry.sequence;
        // What is invalid goes into quarantine and brings no series.
        let Ok(batch) = entry.batch.decode() else { continue };
        let series = batch.measurements.iter().flat_map(|measurement| &measurement.series);
        known.hashes.extend(series.map(|series| series.hash));
    }
    known
}
