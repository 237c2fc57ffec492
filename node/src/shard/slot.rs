//! A shard as the store knows it, open or not.
//!
//! Invariants: `folding` is held by whoever changes the state record (a fold all along, a merge or a
//! dense pass when it is ready) or drops the shard, one at a time; `merging` by whoever takes runs
//! away; the lock of `fresh` is held for pushes and copies of references only, never over I/O.
//! Whoever waits for `merging` has nothing pinned and no lock, so that its holder always comes to an
//! end. A shard is poisoned once and for good. Held by [`super::ShardStore`], one per shard.

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use quorate_protocol::id::ShardId;

use super::{
    cardinality::Unfolded,
    error::ShardError,
    fresh::{Budget, Fresh},
};

/// How much is stored of a shard, without a look at the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Series in its tables.
    pub(super) series: u64,
    /// Live runs.
    pub(super) runs: u64,
    /// Bytes of their blocks.
    pub(super) bytes: u64,
    /// A block was found damaged.
    pub(super) damaged: bool,
}

/// A shard's state in memory.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ShardId,
    fresh: Mutex<Fresh>,
    folding: Mutex<()>,
    poison: OnceLock<Arc<str>>,
    /// What is stored could not be looked at yet, see [`super::recovery`].
    unread: AtomicBool,
    /// Somebody rewrites runs.
    merging: Mutex<bool>,
    /// Nobody does any more.
    merged: Condvar,
    /// The shard's group is over: rows come late or not at all.
    over: AtomicBool,
    /// Ticks since the last fold.
    quiet: AtomicU32,
    /// A run has come since the last look for something to merge.
    unmerged: AtomicBool,
    /// Live runs that may be merged, when the environment was last written to.
    mergeable: AtomicUsize,
    /// What was stored then.
    stored: Mutex<Stored>,
    /// Looked at only while a limit on series is reached.
    pub(super) unfolded: Mutex<Unfolded>,
}

/// The right to rewrite the runs of a shard.
pub(super) struct Merging<'a>(&'a Slot);

impl Drop for Merging<'_> {
    fn drop(&mut self) {
        *self.0.lock_merging() = false;
        self.0.merged.notify_all();
    }
}

impl Slot {
    pub(super) fn new(id: ShardId, budget: Arc<Budget>) -> Self {
        Self {
            id,
            fresh: Mutex::new(Fresh::new(budget)),
            folding: Mutex::default(),
            poison: OnceLock::new(),
            unread: AtomicBool::new(false),
            merging: Mutex::default(),
            merged: Condvar::new(),
            over: AtomicBool::new(false),
            quiet: AtomicU32::new(0),
            unmerged: AtomicBool::new(true),
            mergeable: AtomicUsize::new(0),
            stored: Mutex::default(),
            unfolded: Mutex::default(),
        }
    }

    pub(super) fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write to the environment.
    ///
    /// # Errors
    /// The shard was dropped or is poisoned.
    pub(super) fn folding(&self) -> Result<MutexGuard<'_, ()>, ShardError> {
        let guard = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        self.usable().map(|()| guard)
    }

    fn usable(&self) -> Result<(), ShardError> {
        if self.fresh().is_gone() {
            return Err(ShardError::Gone(self.id));
        }
        self.poisoned().map_or(Ok(()), Err)
    }

    fn lock_merging(&self) -> MutexGuard<'_, bool> {
        self.merging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to rewrite runs, beside folds that only add some; `None` if somebody has it.
    ///
    /// # Errors
    /// The shard was dropped or is poisoned.
    pub(super) fn try_merging(&self) -> Result<Option<Merging<'_>>, ShardError> {
        self.usable()?;
        let taken = std::mem::replace(&mut *self.lock_merging(), true);
        // A right that is made and thrown away would give back the one that somebody has.
        Ok(if taken { None } else { Some(Merging(self)) })
    }

    /// The same right, as soon as nobody has it.
    ///
    /// # Errors
    /// The shard was dropped or is poisoned, perhaps meanwhile.
    pub(super) fn merging(&self) -> Result<Merging<'_>, ShardError> {
        let mut taken = self.lock_merging();
        while *taken {
            taken = self.merged.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        drop(taken);
        let right = Merging(self);
        self.usable().map(|()| right)
    }

    /// Whether somebody rewrites runs.
    pub(super) fn is_merging(&self) -> bool {
        *self.lock_merging()
    }

    /// The right to remove the directory, when the shard is gone already.
    pub(super) fn last_writer(&self) -> MutexGuard<'_, ()> {
        self.folding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No write to the environment is believed any more; see [`super::Inner::poison`].
    pub(super) fn set_poison(&self, cause: &str) -> ShardError {
        let cause = Arc::clone(self.poison.get_or_init(|| cause.into()));
        tracing::error!(shard = %self.id, %cause, "a sync failed or the files are damaged; the shard is folded no more");
        metrics::counter!("quorate_shard_poisoned_total").increment(1);
        ShardError::Poisoned { shard: self.id, cause }
    }

    pub(super) fn poisoned(&self) -> Option<ShardError> {
        let cause = Arc::clone(self.poison.get()?);
        Some(ShardError::Poisoned { shard: self.id, cause })
    }

    /// What is stored could not be looked at.
    pub(super) fn set_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// It could now, and everything that follows from it is done.
    pub(super) fn set_read(&self) {
        self.unread.store(false, Ordering::Release);
    }

    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// A fold has made a run.
    pub(super) fn set_folded(&self) {
        self.quiet.store(0, Ordering::Relaxed);
        self.set_unmerged();
    }

    pub(super) fn set_unmerged(&self) {
        self.unmerged.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// A dense pass was worth it and did not come to its end.
    pub(super) fn set_restless(&self) {
        self.quiet.store(0, Ordering::Relaxed);
    }

    /// Counts a tick. Whether the shard is over and has seen exactly so many without a fold and
    /// without anything fresh; only then is it worth a look.
    pub(super) fn is_quiet(&self, ticks: u32) -> bool {
        if !self.over.load(Ordering::Relaxed) || self.fresh().first().is_some() {
            return false;
        }
        self.quiet.fetch_add(1, Ordering::Relaxed) == ticks
    }

    /// Whether nothing has come since [`Self::is_quiet`] said so of as many ticks.
    pub(super) fn stays_quiet(&self, ticks: u32) -> bool {
        self.quiet.load(Ordering::Relaxed) > ticks && self.fresh().first().is_none()
    }

    /// Whether a look for something to merge is due.
    pub(super) fn is_unmerged(&self) -> bool {
        self.unmerged.load(Ordering::Relaxed)
    }

    /// As [`Self::is_unmerged`]; it is taken as done.
    pub(super) fn take_unmerged(&self) -> bool {
        self.unmerged.swap(false, Ordering::Relaxed)
    }

    /// What is stored of the shard.
    pub(super) fn stored(&self) -> Stored {
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Live runs that may be merged.
    pub(super) fn mergeable(&self) -> usize {
        self.mergeable.load(Ordering::Relaxed)
    }

    /// Takes note of how many runs may be merged now.
    pub(super) fn set_mergeable(&self, runs: usize) {
        self.mergeable.store(runs, Ordering::Relaxed);
    }

    /// Takes note of what is stored now.
    pub(super) fn set_stored(&self, stored: Stored) {
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = stored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_in_vain_for_the_right_to_merge_takes_it_from_nobody() {
        let slot = Slot::new(ShardId(1), Budget::new(1));
        let right = slot.try_merging().unwrap();
        assert!(right.is_some());
        for _ in 0..2 {
            assert!(slot.try_merging().unwrap().is_none());
        }
        drop(right);
        assert!(slot.try_merging().unwrap().is_some());
    }
}
