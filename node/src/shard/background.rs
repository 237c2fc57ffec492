//! The tasks that fold, merge and rewrite: a pool that all shards of a node share.
//!
//! Invariants: folds come before merges and merges before dense passes, but no shard is folded that
//! has too many runs to be merged; where there are two threads or more, one is always free for folds;
//! shards take turns at being merged. One fold and one merge
//! or dense pass at a time per shard. A shard whose work failed is left alone until the next tick.
//! All tasks end when the store is closed. Started by [`super::ShardStore::start`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_protocol::id::{Sequence, ShardId};
use tokio::time::{MissedTickBehavior, interval};

use super::{Inner, config::Config, error::ShardError, slot::Slot};
use crate::executor::{Executor, Worker};

/// Something to do for a shard.
enum Job {
    Fold(Arc<Slot>),
    Merge(Arc<Slot>),
    Dense(Arc<Slot>),
}

/// What is being done, and what is due.
#[derive(Default)]
struct Plan {
    folding: BTreeSet<ShardId>,
    /// Merges and dense passes.
    merging: BTreeSet<ShardId>,
    failed: BTreeSet<ShardId>,
    /// Shards whose last merge failed: nobody waits for the next one.
    unmergeable: BTreeSet<ShardId>,
    /// What was accepted up to here is old.
    old: Sequence,
    /// What was accepted up to here is old at the next tick.
    seen: Sequence,
    /// The shard that was merged last.
    turn: ShardId,
    /// Shards that may be worth a dense pass and have not had their turn.
    quiet: BTreeMap<ShardId, Arc<Slot>>,
}

/// The pool.
struct Pool {
    store: Arc<Inner>,
    /// Merges and dense passes at once, at most.
    merges: usize,
    /// Ticks without a fold that make a shard quiet.
    idle: u32,
    plan: Mutex<Plan>,
}

/// Starts the tasks.
pub(super) fn start(store: &Arc<Inner>) {
    let threads = match store.executor {
        Executor::Inline => 1,
        Executor::Thread => store.config.compaction_threads.max(1),
    };
    // Each merge keeps a shard open.
    let most = store.config.max_open_shards.saturating_sub(1);
    let merges = (threads - 1).min(most).max(1);
    let plan = Plan { seen: store.accepted(), ..Plan::default() };
    let idle = store.config.dense_idle_ms.div_ceil(tick_ms(&store.config));
    let idle = u32::try_from(idle).unwrap_or(u32::MAX);
    let pool = Arc::new(Pool { store: Arc::clone(store), merges, idle, plan: Mutex::new(plan) });
    for _ in 0..threads {
        store.tasks.spawn(work(Arc::clone(&pool)));
    }
    store.tasks.spawn(tick(pool));
}

/// Does one job at a time, each kind in its own thread: a thread may only step back further.
async fn work(pool: Arc<Pool>) {
    let Inner { executor, config, .. } = &*pool.store;
    let mut folds = executor.worker("fold", config.fold_nice);
    let mut merges = executor.worker("merge", config.merge_nice);
    until_closed(&pool, &mut folds, &mut merges).await;
    folds.end().await;
    merges.end().await;
}

async fn until_closed(pool: &Arc<Pool>, folds: &mut Worker, merges: &mut Worker) {
    let store = &pool.store;
    loop {
        tokio::select! {
            () = store.cancel.cancelled() => return,
            () = store.work_wanted.notified() => {}
        }
        while let Some(job) = pool.next() {
            // There may be more, for somebody else.
            store.work_wanted.notify_one();
            if store.cancel.is_cancelled() {
                return;
            }
            let (inner, pool_of) = (Arc::clone(store), Arc::clone(pool));
            let worker = if matches!(job, Job::Fold(_)) { &mut *folds } else { &mut *merges };
            // The job is over when the closure is, even if this task goes away.
            if worker.run(move || pool_of.run(&inner, job)).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn tick(pool: Arc<Pool>) {
    let store = &pool.store;
    let mut ticks = interval(Duration::from_millis(tick_ms(&store.config)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = store.cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        pool.tick();
        store.work_wanted.notify_one();
    }
}

fn tick_ms(config: &Config) -> u64 {
    config.fold_age_ms.max(1)
}

impl Pool {
    fn tick(&self) {
        let mut slots = self.store.slots_snapshot();
        slots.retain(|slot| slot.is_quiet(self.idle));
        let mut plan = self.plan();
        plan.old = std::mem::replace(&mut plan.seen, self.store.accepted());
        plan.failed.clear();
        // Each says so once: those that passes have not come to must not be forgotten.
        plan.quiet.extend(slots.into_iter().map(|slot| (slot.id, slot)));
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is most worth doing now, if anything is.
    fn next(&self) -> Option<Job> {
        let plan = &mut *self.plan();
        let slots = self.store.slots_snapshot();
        if let Some(slot) = self.next_fold(&slots, plan) {
            plan.folding.insert(slot.id);
            return Some(Job::Fold(slot));
        }
        if plan.merging.len() >= self.merges {
            return None;
        }
        let is_free = |id: ShardId| !plan.merging.contains(&id) && !plan.failed.contains(&id);
        let behind = slots.partition_point(|slot| slot.id <= plan.turn);
        let (before, after) = slots.split_at(behind);
        let next = after
            .iter()
            .chain(before)
            .find(|slot| is_free(slot.id) && slot.poisoned().is_none() && slot.take_unmerged());
        if let Some(slot) = next {
            plan.turn = slot.id;
            plan.merging.insert(slot.id);
            return Some(Job::Merge(Arc::clone(slot)));
        }
        // A fold since then makes it wait to be quiet again.
        plan.quiet.retain(|_, slot| slot.stays_quiet(self.idle));
        let (_, slot) = plan.quiet.pop_first()?;
        plan.merging.insert(slot.id);
        Some(Job::Dense(slot))
    }

    /// The shard that is most worth folding, if any is.
    fn next_fold(&self, slots: &[Arc<Slot>], plan: &Plan) -> Option<Arc<Slot>> {
        // Under pressure, whatever holds an average share: folding crumbs would make more runs than
        // room, if a shard that cannot be folded holds the rest.
        let (store, count) = (&self.store, slots.len() as u64);
        let used = store.budget.used();
        let share = if used > store.budget.limit() / 2 { used / count.max(1) } else { u64::MAX };
        let enough = share.min(store.config.fold_bytes);
        let mut best: Option<(u64, &Arc<Slot>)> = None;
        for slot in slots {
            let taken = plan.folding.contains(&slot.id) || plan.failed.contains(&slot.id);
            if taken || slot.poisoned().is_some() {
                continue;
            }
            if slot.is_unread() {
                return Some(Arc::clone(slot));
            }
            // Else merges could fall behind for ever, and so would reads.
            let merges = plan.merging.contains(&slot.id) || slot.is_unmerged();
            let waits = merges && !plan.unmergeable.contains(&slot.id);
            if waits && slot.mergeable() >= store.config.max_runs {
                continue;
            }
            let (first, bytes) = {
                let fresh = slot.fresh();
                (fresh.first(), fresh.bytes())
            };
            let Some(first) = first else { continue };
            let worth = bytes >= enough || first <= plan.old;
            if worth && best.is_none_or(|(most, _)| bytes > most) {
                best = Some((bytes, slot));
            }
        }
        best.map(|(_, slot)| Arc::clone(slot))
    }

    /// Does a job, and says what it has led to.
    fn run(&self, store: &Inner, job: Job) {
        let (slot, done) = match &job {
            Job::Fold(slot) => (slot, store.fold(slot)),
            Job::Merge(slot) => (slot, store.merge(slot)),
            Job::Dense(slot) => (slot, store.densify(slot, store.config.dense_ratio_percent)),
        };
        let failed = done.is_err();
        let more = note(slot.id, done);
        match &job {
            Job::Merge(slot) if more || failed => slot.set_unmerged(),
            Job::Dense(slot) if failed => slot.set_restless(),
            _ => {}
        }
        let mut plan = self.plan();
        match &job {
            Job::Fold(_) => plan.folding.remove(&slot.id),
            Job::Merge(_) | Job::Dense(_) => plan.merging.remove(&slot.id),
        };
        match &job {
            Job::Merge(_) if failed => plan.unmergeable.insert(slot.id),
            Job::Merge(_) => plan.unmergeable.remove(&slot.id),
            _ => false,
        };
        if failed || matches!(job, Job::Fold(_)) && !more {
            plan.failed.insert(slot.id);
        }
    }
}

/// Logs a failure; whether something was done.
pub(super) fn note(shard: ShardId, done: Result<bool, ShardError>) -> bool {
    match done {
        Ok(done) => done,
        Err(ShardError::Gone(_) | ShardError::Closed) => false,
        Err(error) => {
            tracing::warn!(%shard, %error, "cannot fold or merge; trying again later");
            metrics::counter!("quorate_shard_failed_folds_total").increment(1);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{ShardStore, tests::support::*};

    fn pool(store: &ShardStore, idle: u32) -> Pool {
        Pool { store: Arc::clone(&store.inner), merges: 1, idle, plan: Mutex::default() }
    }

    #[test]
    fn a_shard_with_too_many_runs_is_merged_before_it_is_folded_unless_that_fails() {
        let dir = scratch();
        let config = Config { max_runs: 2, fold_bytes: 1, ..tiny() };
        let store = open(config, dir.path());
        let (mut journal, inner) = (Journal::default(), &store.inner);
        let pool = pool(&store, 0);
        let mut write = |version| {
            let batch = batch(SHARD, version, &[cell(1, version as i64, 0, 1)]);
            journal.append(&store, SHARD, batch);
        };
        let mut fold = |version| {
            write(version);
            let job = pool.next().unwrap();
            assert!(matches!(job, Job::Fold(_)));
            pool.run(inner, job);
        };
        fold(1);
        fold(2);
        write(3);
        let job = pool.next().unwrap();
        assert!(matches!(job, Job::Merge(_)));
        // Neither while it is merged.
        assert!(pool.next().is_none());
        pool.run(inner, job);
        let job = pool.next().unwrap();
        assert!(matches!(job, Job::Fold(_)));
        pool.run(inner, job);
        pool.plan().unmergeable.insert(SHARD);
        write(4);
        assert!(matches!(pool.next(), Some(Job::Fold(_))));
    }

    #[test]
    fn shards_that_are_quiet_wait_for_their_dense_passes_however_long_others_take() {
        let dir = scratch();
        let store = open(tiny(), dir.path());
        let (mut journal, pool) = (Journal::default(), pool(&store, 1));
        let shards = [1, 2, 3].map(ShardId);
        let mut write = |shard, time| {
            journal.append(&store, shard, batch(shard, 1, &[cell(1, time, 0, 1)]));
            fold(&store, shard).unwrap();
        };
        for shard in shards {
            write(shard, 1);
            store.set_over(shard);
            store.inner.slot(shard).unwrap().take_unmerged();
        }
        // Each is quiet at the second; the others go by while the first pass takes its time.
        for _ in 0..5 {
            pool.tick();
        }
        write(ShardId(2), 2);
        store.inner.slot(ShardId(2)).unwrap().take_unmerged();
        let next = || match pool.next() {
            Some(Job::Dense(slot)) => Some(slot.id),
            Some(_) => panic!("nothing else is to be done"),
            None => None,
        };
        for shard in [1, 3].map(ShardId) {
            assert_eq!(next(), Some(shard));
            pool.plan().merging.clear();
        }
        assert_eq!(next(), None, "it was folded");
        pool.tick();
        assert_eq!(next(), None, "not quiet yet");
        pool.tick();
        assert_eq!(next(), Some(ShardId(2)));
        pool.plan().merging.clear();
        pool.tick();
        assert_eq!(next(), None, "once");
    }
}
