//! Whatever step a fold or a merge ends at, nothing is lost and nothing is there twice.

use std::sync::{Arc, atomic::Ordering};

use quorate_protocol::id::Sequence;

use super::support::*;
use crate::executor::Executor;
use crate::shard::{
    ShardError, ShardStore,
    fault::{Fault, Step},
};

fn some_batches() -> Vec<quorate_protocol::batch::EncodedBatch> {
    (0..8)
        .map(|number: u16| {
            let cells: Vec<_> = (0..20)
                .map(|at| {
                    let series = (at * 7 + number * 3) % 16;
                    cell(series, i64::from(at % 6), (at % 3) as u8, i64::from(number))
                })
                .collect();
            // Versions go up and down, so that later batches do not simply win.
            batch(SHARD, u64::from(number * 5 % 8 + 1), &cells)
        })
        .collect()
}

/// Accepts, folds and merges until something goes wrong.
fn work(store: &ShardStore, journal: &mut Journal) -> Result<(), ShardError> {
    for batch in some_batches() {
        journal.append(store, SHARD, batch);
        if journal.records.len().is_multiple_of(2) {
            fold(store, SHARD)?;
        }
        if journal.records.len().is_multiple_of(4) {
            settle(store, SHARD)?;
        }
    }
    Ok(())
}

#[test]
fn a_crash_at_any_step_loses_nothing_and_duplicates_nothing() {
    let mut at = 0;
    let mut stopped_at = Vec::new();
    loop {
        let dir = scratch();
        let trap = Arc::new(Trap { at, fault: Some(Fault::Stop), ..Trap::default() });
        let store =
            ShardStore::open_probed(tiny(), dir.path(), Executor::Inline, Arc::clone(&trap) as _)
                .unwrap();
        let mut journal = Journal::default();
        let done = work(&store, &mut journal);
        let released = store.applied_through();
        drop(store);
        if done.is_ok() {
            break;
        }
        assert!(matches!(done, Err(ShardError::Interrupted)));
        stopped_at.push(*trap.steps.lock().unwrap().last().unwrap());

        let mut model = Content::new();
        for (_, batch) in &journal.records {
            add_batch(&mut model, batch);
        }
        // A journal releases whole segments, late: replay from what was released, and from before.
        for from in [released, Sequence(released.0.saturating_sub(3))] {
            let store = open(tiny(), dir.path());
            assert_whole(&store);
            journal.replay(&store, from);
            assert_eq!(scan(&store, SHARD), model, "stopped at step {at}");
        }
        let store = open(tiny(), dir.path());
        journal.replay(&store, released);
        fold(&store, SHARD).unwrap();
        settle(&store, SHARD).unwrap();
        assert_eq!(scan(&store, SHARD), model, "folded after stopping at step {at}");
        // A store that was offered nothing yet knows of nothing to release.
        let replayed = released.0 < journal.records.len() as u64;
        let through = if replayed { journal.records.len() as u64 } else { 0 };
        assert_eq!(store.applied_through(), Sequence(through));
        let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
        assert!(!pin.has_dead(None).unwrap(), "blocks of dead runs stay");
        at += 1;
    }
    // All kinds of steps have been stopped at, and transactions within a run too.
    for step in
        [Step::FoldBegins, Step::Commit, Step::Committed, Step::Flip, Step::Flipped, Step::Deleted]
    {
        assert!(stopped_at.iter().filter(|stopped| **stopped == step).count() > 1, "{step:?}");
    }
}

#[test]
fn a_fold_that_stopped_is_done_over_without_a_restart() {
    let dir = scratch();
    let trap =
        Trap { at: 2, only: Some(Step::Committed), fault: Some(Fault::Stop), ..Trap::default() };
    let trap = Arc::new(trap);
    let store =
        ShardStore::open_probed(tiny(), dir.path(), Executor::Inline, Arc::clone(&trap) as _)
            .unwrap();
    let (mut journal, mut model) = (Journal::default(), Content::new());
    for batch in some_batches() {
        add_batch(&mut model, &batch);
        journal.append(&store, SHARD, batch);
    }
    assert!(matches!(fold(&store, SHARD), Err(ShardError::Interrupted)));
    assert_eq!(store.applied_through(), Sequence(0));
    assert_eq!(scan(&store, SHARD), model);
    fold(&store, SHARD).unwrap();
    assert!(trap.seen.load(Ordering::Relaxed) > 3);
    assert_eq!(store.applied_through().0, journal.records.len() as u64);
    assert_eq!(scan(&store, SHARD), model);
}
