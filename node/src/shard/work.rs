//! Who writes to an environment, and how: commits that a test can stop, and cleaning up.
//!
//! Invariant: a failed sync of a shard's environment poisons the shard; one of a draft, which nobody
//! reads, only fails the work. Used by [`super::fold`], [`super::merge`] and [`super::dense`].

use std::fmt::Display;

use heed::RwTxn;

use super::{
    Inner,
    env::EnvError,
    error::ShardError,
    fault::{Fault, Step},
    open::{OpenShard, Tables},
    slot::Slot,
};

impl Inner {
    /// Stops all writes to a shard until a restart has recovered it.
    pub(super) fn poison(&self, slot: &Slot, cause: &dyn Display) -> ShardError {
        self.open.distrust(slot.id);
        slot.set_poison(&cause.to_string())
    }
}

/// Work on a shard.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) store: &'a Inner,
    pub(super) slot: &'a Slot,
    /// The shard's environment, or the draft of its next one.
    pub(super) shard: &'a OpenShard,
    pub(super) draft: bool,
}

impl<'a> Work<'a> {
    pub(super) const fn new(store: &'a Inner, slot: &'a Slot, shard: &'a OpenShard) -> Self {
        Self { store, slot, shard, draft: false }
    }

    /// Passes a step.
    pub(super) fn at(&self, step: Step) -> Result<(), ShardError> {
        Ok(self.store.probe.at(step)?)
    }

    /// Whether the work still makes sense.
    pub(super) fn go_on(&self) -> Result<(), ShardError> {
        if self.slot.fresh().is_gone() {
            return Err(ShardError::Gone(self.slot.id));
        }
        if self.store.cancel.is_cancelled() {
            return Err(ShardError::Closed);
        }
        Ok(())
    }

    /// What a failed write means for the shard.
    fn judge(&self, error: EnvError) -> ShardError {
        match error {
            EnvError::Sync { .. } if !self.draft => self.store.poison(self.slot, &error),
            other => other.into(),
        }
    }

    /// Commits one transaction.
    pub(super) fn commit<T>(
        &self,
        step: Step,
        body: impl FnMut(&mut RwTxn<'_>, &Tables) -> heed::Result<T>,
    ) -> Result<T, ShardError> {
        match self.store.probe.at(step) {
            Ok(()) => {}
            Err(Fault::SyncFailed) if !self.draft => {
                return Err(self.store.poison(self.slot, &"a test made the sync fail"));
            }
            Err(stop) => return Err(stop.into()),
        }
        self.shard.env.write(body).map_err(|error| self.judge(error))
    }

    /// Deletes what earlier work has left behind.
    pub(super) fn clean(&self) -> Result<(), ShardError> {
        self.shard.forget_versions(&self.shard.state()?);
        while self.shard.has_dead()? {
            self.shard.delete_dead().map_err(|error| self.judge(error))?;
            self.at(Step::Deleted)?;
        }
        Ok(())
    }
}
