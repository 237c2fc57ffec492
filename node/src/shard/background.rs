//! The two tasks that fold and merge.
//!
//! Invariants: one fold and one merge at a time on a node; a shard whose fold failed for want of
//! room is left alone until the next tick; both tasks end when the store is closed, and work that
//! has begun is finished. Started by [`super::ShardStore::start`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quorate_protocol::id::{Sequence, ShardId};
use tokio::time::{MissedTickBehavior, interval};

use super::{Inner, error::ShardError, slot::Slot};

/// Folds what is large enough, old enough, or in the way of new writes.
pub(super) async fn fold(store: Arc<Inner>) {
    let mut ticks = ticks(&store);
    // What was accepted before the last tick is old at the next one.
    let (mut old, mut seen) = (Sequence(0), store.accepted());
    let mut failed = BTreeSet::new();
    loop {
        tokio::select! {
            () = store.cancel.cancelled() => return,
            () = store.fold_wanted.notified() => {}
            _ = ticks.tick() => {
                old = std::mem::replace(&mut seen, store.accepted());
                failed.clear();
            }
        }
        while let Some(slot) = next(&store, old, &failed) {
            if store.cancel.is_cancelled() {
                return;
            }
            let (id, inner) = (slot.id, Arc::clone(&store));
            let done = store.executor.run(move || inner.fold(&slot)).await;
            if note(id, done.map_err(ShardError::from).and_then(|done| done)) {
                store.merge_wanted.notify_one();
            } else {
                failed.insert(id);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Merges runs after folds have made new ones.
pub(super) async fn merge(store: Arc<Inner>) {
    let mut ticks = ticks(&store);
    loop {
        tokio::select! {
            () = store.cancel.cancelled() => return,
            () = store.merge_wanted.notified() => {}
            _ = ticks.tick() => {}
        }
        for slot in store.slots_snapshot() {
            loop {
                if store.cancel.is_cancelled() {
                    return;
                }
                if !slot.take_unmerged() {
                    break;
                }
                let (id, inner, of) = (slot.id, Arc::clone(&store), Arc::clone(&slot));
                let done = store.executor.run(move || inner.merge(&of)).await;
                if note(id, done.map_err(ShardError::from).and_then(|done| done)) {
                    slot.set_unmerged();
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn ticks(store: &Inner) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_millis(store.config.fold_age_ms.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Logs a failure; whether something was done.
fn note(shard: ShardId, done: Result<bool, ShardError>) -> bool {
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

/// The shard that is most worth folding, if any is.
fn next(store: &Inner, old: Sequence, failed: &BTreeSet<ShardId>) -> Option<Arc<Slot>> {
    let slots = store.slots_snapshot();
    // Under pressure, whatever holds an average share: folding crumbs would make more runs than
    // room, if a shard that cannot be folded holds the rest.
    let (used, count) = (store.budget.used(), slots.len() as u64);
    let share = if used > store.budget.limit() / 2 { used / count.max(1) } else { u64::MAX };
    let enough = share.min(store.config.fold_bytes);
    let mut best: Option<(u64, Arc<Slot>)> = None;
    for slot in slots {
        if failed.contains(&slot.id) || slot.poisoned().is_some() {
            continue;
        }
        let (first, bytes) = {
            let fresh = slot.fresh();
            (fresh.first(), fresh.bytes())
        };
        let Some(first) = first else { continue };
        let worth = bytes >= enough || first <= old;
        if worth && best.as_ref().is_none_or(|(most, _)| bytes > *most) {
            best = Some((bytes, slot));
        }
    }
    best.map(|(_, slot)| slot)
}
