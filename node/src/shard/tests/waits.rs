//! Whoever asks for a merge or a dense pass while one is under way waits for it, and not for ever.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use super::support::*;
use crate::{
    executor::Executor,
    shard::{
        ShardError, ShardStore,
        fault::{Fault, Probe, Step},
    },
};

/// Holds the first thread that comes to a step until it is let go.
struct Gate {
    at: Step,
    open: AtomicBool,
    reached: Barrier,
    passed: Barrier,
}

impl Probe for Gate {
    fn at(&self, step: Step) -> Result<(), Fault> {
        if step == self.at && !self.open.swap(true, Ordering::AcqRel) {
            self.reached.wait();
            self.passed.wait();
        }
        Ok(())
    }
}

fn add(store: &ShardStore, journal: &mut Journal, rounds: std::ops::Range<i64>) {
    for round in rounds {
        let cells: Vec<_> = (0..9).map(|series| cell(series, round, 0, round)).collect();
        journal.append(store, SHARD, batch(SHARD, 1, &cells));
        fold(store, SHARD).unwrap();
    }
}

type Ask = fn(&ShardStore) -> Result<(), ShardError>;

/// Asks while a merge is under way, has `end` come to the shard meanwhile, and says what became of
/// the one who asked.
fn beside_a_merge(ask: Ask, end: Option<Ask>) -> Result<(), ShardError> {
    let dir = scratch();
    let gate = Arc::new(Gate {
        at: Step::Deleted,
        open: AtomicBool::new(true),
        reached: Barrier::new(2),
        passed: Barrier::new(2),
    });
    let probe = Arc::clone(&gate) as _;
    let store = ShardStore::open_probed(tiny(), dir.path(), Executor::Inline, probe).unwrap();
    let mut journal = Journal::default();
    add(&store, &mut journal, 0..4);
    gate.open.store(false, Ordering::Release);
    let asked = thread::scope(|threads| {
        let store = &store;
        // As the background does it.
        threads.spawn(|| store.inner.merge(&store.inner.slot(SHARD).unwrap()));
        gate.reached.wait();
        add(store, &mut journal, 4..7);
        let (done, is_done) = channel();
        threads.spawn(move || done.send(ask(store)));
        let early = is_done.recv_timeout(Duration::from_millis(100));
        let end = end.map(|end| threads.spawn(move || end(store).unwrap()));
        // The merge ends whatever was found, so that the threads do.
        gate.passed.wait();
        end.into_iter().for_each(|end| end.join().unwrap());
        assert!(matches!(early, Err(RecvTimeoutError::Timeout)), "it did not wait: {early:?}");
        is_done.recv().unwrap()
    });
    if end.is_none() {
        assert_eq!(scan(&store, SHARD), journal.content(SHARD));
        assert_eq!(runs(&store, SHARD), 1, "nothing was done after the merge");
    }
    asked
}

#[test]
fn settling_waits_for_a_merge_and_goes_on_where_it_ends() {
    beside_a_merge(|store| settle(store, SHARD), None).unwrap();
}

#[test]
fn a_dense_pass_waits_for_a_merge() {
    beside_a_merge(|store| now(store.densify(SHARD)), None).unwrap();
}

#[test]
fn whoever_waits_does_not_keep_the_shard_from_being_dropped() {
    let asked =
        beside_a_merge(|store| settle(store, SHARD), Some(|store| now(store.drop_shard(SHARD))));
    assert!(matches!(asked, Ok(()) | Err(ShardError::Gone(SHARD))), "{asked:?}");
}

#[test]
fn whoever_waits_does_not_keep_the_store_from_closing() {
    let close = |store: &ShardStore| {
        now(store.close());
        Ok(())
    };
    let asked = beside_a_merge(|store| settle(store, SHARD), Some(close));
    assert!(matches!(asked, Ok(()) | Err(ShardError::Closed)), "{asked:?}");
}
