//! The latest time of anything that a shard has.
//!
//! Invariant: never earlier than a row that a scan beginning now would see; what is fresh is looked at
//! before what is stored, since folds go the other way. It may be later: a run keeps the time range it
//! was written with. Asked by [`crate::truncate`].

use std::sync::Arc;

use quorate_protocol::id::ShardId;

use super::{Inner, ShardStore, error::ShardError};

impl ShardStore {
    /// The latest time of the shard, fresh batches included; none if it has nothing, or was dropped.
    ///
    /// # Errors
    /// The shard cannot be read, or is poisoned, so that nobody can tell.
    pub async fn latest(&self, shard: ShardId) -> Result<Option<i64>, ShardError> {
        let inner = Arc::clone(&self.inner);
        self.inner.executor.run(move || inner.latest(shard)).await?
    }
}

impl Inner {
    pub(super) fn latest(&self, shard: ShardId) -> Result<Option<i64>, ShardError> {
        let Some(slot) = self.slot(shard) else { return Ok(None) };
        if let Some(error) = slot.poisoned() {
            return Err(error);
        }
        let fresh = slot.fresh().latest();
        let Some(open) = self.open.pin(shard)? else { return Ok(fresh) };
        Ok(open.state()?.runs.iter().map(|run| run.max_time).max().max(fresh))
    }
}
