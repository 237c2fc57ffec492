//! Who writes to an environment, and how: commits that a test can stop, and cleaning up.
//!
//! Invariant: a failed sync of a shard's environment poisons the shard; one of a draft, which nobody
//! reads, only fails the work. Used by [`super::fold`], [`super::merge`] and [`super::dense`].

use std::{fmt::Display, thread, time::Duration};

use heed::RwTxn;
use tokio::time::Instant;

use super::{
    Inner,
    env::EnvError,
    error::ShardError,
    fault::{Fault, Step},
    fresh::share,
    merge::{self, hurry},
    open::{OpenShard, Tables},
    slot::Slot,
    state::Run,
};

/// For how long at once work rests: as long may the store have to wait when it closes.
const NAP: Duration = Duration::from_millis(5);

impl Inner {
    /// Stops all writes to a shard until a restart has recovered it.
    pub(super) fn poison(&self, slot: &Slot, cause: &dyn Display) -> ShardError {
        self.open.distrust(slot.id);
        slot.set_poison(&cause.to_string())
    }

    /// [`Self::note_stored`] of a shard that nobody has pinned, which is open anyhow.
    pub(super) fn note_changed(&self, slot: &Slot) -> Result<(), ShardError> {
        let shard = self.open.pin(slot.id)?;
        shard.map_or(Ok(()), |shard| self.note_stored(slot, &shard))
    }

    /// For those who ask how much there is.
    pub(super) fn note_stored(&self, slot: &Slot, shard: &OpenShard) -> Result<(), ShardError> {
        slot.set_stored(shard.stored()?);
        let limit = self.config.merge_limit_bytes;
        let runs = shard.state()?.runs;
        slot.set_mergeable(runs.iter().filter(|run| merge::may_merge(run, limit)).count());
        Ok(())
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
    /// How long it rests after a transaction, in percent of the time that took.
    pub(super) pause: u32,
    /// Of long work, the runs that it rewrites: between its transactions, small merges of others that
    /// folds would soon wait for go first ([`Inner::merge_first`]).
    pub(super) long: Option<&'a [Run]>,
    /// Others wait for it.
    pub(super) urgent: bool,
}

impl<'a> Work<'a> {
    pub(super) const fn new(store: &'a Inner, slot: &'a Slot, shard: &'a OpenShard) -> Self {
        Self { store, slot, shard, draft: false, pause: 0, long: None, urgent: false }
    }

    /// The same work, when others wait for it: nothing goes first, and it does not rest or step aside.
    pub(super) const fn at_once(self) -> Self {
        Self { pause: 0, long: None, urgent: true, ..self }
    }

    /// Its pause, unless folds will have to wait for merges soon.
    pub(super) fn pause(&self) -> u32 {
        if hurry(&self.store.config, self.slot) { 0 } else { self.pause }
    }

    /// Leaves the disk to others for a while, unless the store closes.
    fn rest(&self, began: Instant) {
        let pause = self.pause();
        let mut left = began.elapsed().saturating_mul(pause) / 100;
        while !left.is_zero() && !self.store.cancel.is_cancelled() {
            let some = left.min(NAP);
            thread::sleep(some);
            left -= some;
        }
    }

    /// Lets threads that wait for this processor go first. Work says so after each batch or block, about
    /// every 100 µs: in spite of its lower priority, whoever wakes up may have to wait for the end of
    /// its turn, some milliseconds. Not while folds or merges are behind, since kernels may take it for
    /// giving up the rest of the turn; nor in a dense pass, which might never end on a busy machine; nor
    /// when others wait for this work, as they do while the store closes.
    pub(super) fn step_aside(&self) {
        if self.has_time() {
            thread::yield_now();
        }
    }

    fn has_time(&self) -> bool {
        let Inner { config, budget, cancel, .. } = self.store;
        let waited_for = self.urgent || cancel.is_cancelled();
        let behind = budget.used() >= share(budget.limit(), config.slow_fresh_percent) / 2;
        !waited_for && !behind && !self.draft && !hurry(config, self.slot)
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
        let began = Instant::now();
        let done = self.shard.env.write(body).map_err(|error| self.judge(error))?;
        self.end(began);
        Ok(done)
    }

    /// A transaction is over.
    fn end(&self, began: Instant) {
        self.rest(began);
        if let Some(busy) = self.long {
            self.store.merge_first(self, busy);
        }
    }

    /// Deletes what earlier work has left behind, of these runs or of all. What is left when the store is
    /// closed is deleted by later work.
    pub(super) fn clean(&self, among: Option<&[Run]>) -> Result<(), ShardError> {
        self.shard.forget_versions(&self.shard.state()?);
        while self.shard.has_dead(among)? {
            self.go_on()?;
            let began = Instant::now();
            self.shard.delete_dead(among).map_err(|error| self.judge(error))?;
            self.at(Step::Deleted)?;
            self.end(began);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Config, tests::support::*};

    #[test]
    fn others_go_first_unless_folds_or_merges_are_behind_or_the_pass_is_dense() {
        let dir = scratch();
        let config = Config { fresh_bytes: 4_000, slow_fresh_percent: 50, max_runs: 2, ..tiny() };
        let store = open(config, dir.path());
        let mut journal = Journal::default();
        let mut write = |version| {
            let batch = batch(SHARD, version, &[cell(1, version as i64, 0, 1)]);
            journal.append(&store, SHARD, batch);
        };
        write(1);
        let slot = store.inner.slot(SHARD).unwrap();
        let shard = store.inner.open.pin_or_create(SHARD).unwrap();
        let work = Work::new(&store.inner, &slot, &shard);
        assert!(work.has_time());
        assert!(!Work { draft: true, ..work }.has_time());
        assert!(!work.at_once().has_time(), "others wait for it");
        slot.set_mergeable(2);
        assert!(!work.has_time(), "merges are behind");
        slot.set_mergeable(1);
        assert!(work.has_time());
        let mut version = 1;
        while store.inner.budget.used() < 1_000 {
            assert!(work.has_time());
            version += 1;
            write(version);
        }
        assert!(!work.has_time(), "folds are behind");
        store.inner.budget.fold(store.inner.budget.used());
        assert!(work.has_time());
        store.inner.cancel.cancel();
        assert!(!work.has_time(), "the store closes");
    }

    #[test]
    fn a_rest_ends_when_the_store_closes() {
        let dir = scratch();
        let store = open(tiny(), dir.path());
        Journal::default().append(&store, SHARD, batch(SHARD, 1, &[cell(1, 1, 0, 1)]));
        store.inner.cancel.cancel();
        let (rested, over) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let slot = store.inner.slot(SHARD).unwrap();
            let shard = store.inner.open.pin_or_create(SHARD).unwrap();
            let work = Work { pause: 360_000, ..Work::new(&store.inner, &slot, &shard) };
            work.rest(Instant::now() - Duration::from_secs(1));
            rested.send(()).unwrap();
        });
        over.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
