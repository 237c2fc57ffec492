//! Long work and folds beside it: no shard gets so many runs that folds have to wait.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use quorate_protocol::id::ShardId;

use super::support::*;
use crate::{
    executor::Executor,
    shard::{Config, ShardError, ShardStore, dense, fault::Step, merge, work::Work},
};

const OTHER: ShardId = ShardId(SHARD.0 + 1);
const MAX_RUNS: usize = 8;
/// Of each of two large runs.
const ROWS: u64 = 2_000;
/// Folds that come in the midst of long work, at most.
const FOLDS: usize = 40;

/// Runs of more than 16 KiB are large.
fn config() -> Config {
    Config {
        block_bytes: 400,
        fold_limit_bytes: 1 << 20,
        max_runs: MAX_RUNS,
        merge_limit_bytes: 256 << 10,
        ..tiny()
    }
}

fn large(number: u64, rows: u64) -> Vec<Cell> {
    let value = |at: u64| ((at + 1) * number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    (0..rows).map(|at| cell((at % 20) as u16 * 2, at as i64 / 20, 0, value(at) as i64)).collect()
}

/// A store with large runs in [`SHARD`], where each transaction that is `at` a step of whatever is done next
/// is followed by a fold of a row of `shard`; and the most runs which that had by then.
struct Busy {
    store: ShardStore,
    visitor: Arc<Visitor>,
    journal: Arc<Mutex<Journal>>,
    most: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

fn busy(shard: ShardId, at: Step, rows: u64) -> Busy {
    let dir = scratch();
    let journal = Arc::new(Mutex::new(Journal::default()));
    let (most, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = (Arc::clone(&journal), Arc::clone(&most), Arc::clone(&left));
    let (store, visitor) = Visitor::open(config(), dir.path(), move |store, step| {
        let (journal, most, left) = &seen;
        let last = left.load(Ordering::Relaxed);
        if step != at || last == 0 {
            return;
        }
        left.store(last - 1, Ordering::Relaxed);
        let row = [cell(1, last as i64, 0, last as i64)];
        let row = batch(shard, 100 + last as u64, &row);
        journal.lock().unwrap().append(store, shard, row);
        fold(store, shard).unwrap();
        most.fetch_max(runs(store, shard), Ordering::Relaxed);
    });
    for number in 1..3 {
        journal.lock().unwrap().append(&store, SHARD, batch(SHARD, number, &large(number, rows)));
        fold(&store, SHARD).unwrap();
    }
    assert_eq!(runs(&store, SHARD), 2);
    let bytes = store.inner.slot(SHARD).unwrap().stored().bytes;
    assert!(bytes > 40 << 10, "{bytes}");
    left.store(FOLDS, Ordering::Relaxed);
    Busy { store, visitor, journal, most, _dir: dir }
}

impl Busy {
    /// Folds came, in fewer runs than make folds wait, and everything is there.
    fn assert_kept_up(self, shard: ShardId) {
        let most = self.most.load(Ordering::Relaxed);
        assert!(most < MAX_RUNS, "{most} runs");
        let journal = self.journal.lock().unwrap();
        let folds = journal.records.len() - 2;
        assert!(folds > 2 * MAX_RUNS, "{folds} folds only");
        for shard in [SHARD, shard] {
            assert_content(&scan(&self.store, shard), &journal.content(shard));
        }
        assert_whole(&self.store);
        self.visitor.detach();
    }
}

/// Folds of the same shard, and of another one, at a step of a large merge.
fn assert_merges_go_first(at: Step) {
    for shard in [SHARD, OTHER] {
        let busy = busy(shard, at, ROWS);
        settle(&busy.store, SHARD).unwrap();
        busy.assert_kept_up(shard);
    }
}

#[test]
fn small_runs_are_merged_while_large_ones_are() {
    assert_merges_go_first(Step::Committed);
}

#[test]
fn small_runs_are_merged_while_large_ones_are_deleted_that_were_merged() {
    assert_merges_go_first(Step::Deleted);
}

#[test]
fn small_runs_are_merged_during_a_dense_pass_of_another_shard() {
    // Its transactions are larger.
    let busy = busy(OTHER, Step::Committed, ROWS * dense::DRAFT_TXN as u64);
    now(busy.store.densify(SHARD)).unwrap();
    assert!(busy.visitor.visits.lock().unwrap().contains(&Step::Replaced));
    busy.assert_kept_up(OTHER);
}

#[test]
fn a_dense_pass_ends_when_the_shard_is_folded_after_all() {
    let busy = busy(SHARD, Step::Committed, ROWS);
    now(busy.store.densify(SHARD)).unwrap();
    let visits = busy.visitor.visits.lock().unwrap().clone();
    assert!(visits.contains(&Step::DenseBegins) && !visits.contains(&Step::DenseWritten));
    let journal = busy.journal.lock().unwrap();
    let commits = journal.records.len() - 2;
    assert!((1..4).contains(&commits), "{commits} transactions for nothing");
    assert_content(&scan(&busy.store, SHARD), &journal.content(SHARD));
    busy.visitor.detach();
}

#[test]
fn nothing_is_deleted_any_more_once_the_store_is_closing() {
    let dir = scratch();
    let (store, visitor) = Visitor::open(config(), dir.path(), |store, step| {
        if step == Step::Deleted {
            store.inner.cancel.cancel();
        }
    });
    let mut journal = Journal::default();
    for number in 1..3 {
        journal.append(&store, SHARD, batch(SHARD, number, &large(number, ROWS)));
        fold(&store, SHARD).unwrap();
    }
    assert!(matches!(settle(&store, SHARD), Err(ShardError::Closed)));
    let visits = visitor.visits.lock().unwrap().clone();
    assert_eq!(visits.iter().filter(|step| **step == Step::Deleted).count(), 1);
    visitor.detach();
    drop(store);
    let store = open(config(), dir.path());
    assert_content(&scan(&store, SHARD), &journal.content(SHARD));
    for number in 3..5 {
        journal.append(&store, SHARD, batch(SHARD, number, &large(number, ROWS)));
        fold(&store, SHARD).unwrap();
    }
    settle(&store, SHARD).unwrap();
    assert_whole(&store);
    assert_content(&scan(&store, SHARD), &journal.content(SHARD));
}

#[test]
fn a_merge_rests_unless_folds_will_wait_for_it() {
    let dir = scratch();
    let config = Config { max_runs: 8, merge_pause_percent: 70, ..config() };
    let store = open(config, dir.path());
    Journal::default().append(&store, SHARD, batch(SHARD, 1, &large(1, ROWS)));
    fold(&store, SHARD).unwrap();
    let slot = store.inner.slot(SHARD).unwrap();
    let shard = store.inner.open.pin(SHARD).unwrap().unwrap();
    let pause = merge::pause(&config, Executor::Thread);
    let work = Work { pause, ..Work::new(&store.inner, &slot, &shard) };
    slot.set_mergeable(4);
    assert_eq!(work.pause(), 70);
    // In the midst of it, too.
    slot.set_mergeable(5);
    assert_eq!(work.pause(), 0);
    // Simulated time stands still while something sleeps.
    assert_eq!(merge::pause(&config, Executor::Inline), 0);
}

/// `OTHER` wants small merges; the long work has the only place of an open shard.
#[test]
fn long_work_does_not_wait_for_a_place_that_it_has_itself() {
    let dir = scratch();
    let store = open(Config { max_open_shards: 1, ..config() }, dir.path());
    let mut journal = Journal::default();
    for number in 1..=MAX_RUNS as u64 {
        journal.append(&store, OTHER, batch(OTHER, number, &[cell(1, number as i64, 0, 1)]));
        fold(&store, OTHER).unwrap();
    }
    for number in 100..102 {
        journal.append(&store, SHARD, batch(SHARD, number, &large(number, ROWS)));
        fold(&store, SHARD).unwrap();
    }
    let (done, is_done) = std::sync::mpsc::channel();
    let settling = store.clone();
    std::thread::spawn(move || done.send(settle(&settling, SHARD).map(drop)));
    is_done.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for itself").unwrap();
    assert_eq!((runs(&store, SHARD), runs(&store, OTHER)), (1, MAX_RUNS));
    settle(&store, OTHER).unwrap();
    for shard in [SHARD, OTHER] {
        assert_content(&scan(&store, shard), &journal.content(shard));
    }
}
