//! Many shards, budgets, dropping, background tasks.

use std::{collections::BTreeSet, time::Duration};

use quorate_protocol::id::{Sequence, ShardId};

use super::support::*;
use crate::executor::Executor;
use crate::shard::{
    AdmitError, Config, ScanError, ScanFilter, ShardError, ShardGone, ShardStore,
    fault::Step,
    retention::{LiveShards, sweep},
};

#[test]
fn two_hundred_shards_share_eight_environments() {
    let dir = scratch();
    let config = Config { max_open_shards: 8, ..Config::default() };
    let store = open(config, dir.path());
    let mut journal = Journal::default();
    let content = |shard: u64, value| {
        let cells: Vec<_> = (0..3).map(|series| cell(series, value, 0, shard as i64)).collect();
        batch(ShardId(shard), 1, &cells)
    };
    for shard in 1..=200 {
        journal.append(&store, ShardId(shard), content(shard, 1));
        fold(&store, ShardId(shard)).unwrap();
    }
    assert_eq!(store.stats().open, 8);
    for shard in 1..=200 {
        journal.append(&store, ShardId(shard), content(shard, 2));
    }
    assert_eq!(store.applied_through(), Sequence(200));
    drop(store);
    let store = open(config, dir.path());
    journal.replay(&store, Sequence(150));
    std::thread::scope(|threads| {
        for worker in 0..4 {
            let (store, content) = (&store, &content);
            threads.spawn(move || {
                for shard in (1..=200).filter(|shard| shard % 4 == worker) {
                    if shard % 8 == worker {
                        fold(store, ShardId(shard)).unwrap();
                    }
                    let mut model = Content::new();
                    add_batch(&mut model, &content(shard, 1));
                    add_batch(&mut model, &content(shard, 2));
                    assert_eq!(scan(store, ShardId(shard)), model);
                    assert!(store.stats().open <= 8);
                }
            });
        }
    });
    assert_eq!(store.shards().len(), 200);
}

#[test]
fn the_latest_time_counts_what_is_fresh_and_what_is_stored() {
    let dir = scratch();
    let store = open(Config::default(), dir.path());
    let mut journal = Journal::default();
    let latest = |store: &ShardStore| store.inner.latest(SHARD).map_err(|error| error.to_string());
    assert_eq!(latest(&store), Ok(None), "it has nothing");
    journal.append(&store, SHARD, batch(SHARD, 1, &[cell(1, 7, 0, 1)]));
    assert_eq!(latest(&store), Ok(Some(7)), "only fresh");
    fold(&store, SHARD).unwrap();
    assert_eq!(latest(&store), Ok(Some(7)), "only stored");
    for (time, expected) in [(5, 7), (9, 9)] {
        journal.append(&store, SHARD, batch(SHARD, 2, &[cell(1, time, 0, 1)]));
        assert_eq!(latest(&store), Ok(Some(expected)));
    }
    drop(store);
    let store = open(Config::default(), dir.path());
    journal.replay(&store, Sequence(0));
    assert_eq!(latest(&store), Ok(Some(9)), "after a restart");
    store.inner.slot(SHARD).unwrap().set_poison("test");
    assert!(latest(&store).is_err(), "nobody can tell");
}

#[test]
fn fresh_bytes_are_bounded_and_come_back_with_the_fold() {
    let dir = scratch();
    let one = batch(SHARD, 1, &[cell(1, 1, 0, 1)]);
    let bytes = one.bytes().len() as u64;
    let config = Config { fresh_bytes: 2 * bytes + 10, busy_retry_ms: 33, ..Config::default() };
    let store = open(config, dir.path());
    let mut journal = Journal::default();
    for _ in 0..2 {
        let room = store.admit(SHARD, bytes).unwrap();
        journal.append(&store, SHARD, one.clone());
        drop(room);
    }
    assert_eq!(store.stats().fresh_bytes, 2 * bytes);
    let busy = AdmitError::Busy { retry_after_ms: 33 };
    assert_eq!(store.admit(SHARD, bytes).unwrap_err(), busy);
    fold(&store, SHARD).unwrap();
    let first = store.admit(SHARD, bytes).unwrap();
    let second = store.admit(SHARD, bytes).unwrap();
    assert_eq!(store.admit(SHARD, bytes).unwrap_err(), busy);
    drop((first, second));
    // A batch larger than the whole budget is not locked out for ever.
    assert!(store.admit(SHARD, 10 * bytes).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_live_write_waits_for_room_as_long_as_it_may() {
    let dir = scratch();
    let config = Config { fresh_bytes: 1_000, fresh_wait_ms: 700, ..Config::default() };
    let store = open(config, dir.path());
    let room = store.admit_live(SHARD, 1_000).await.unwrap();
    let begun = tokio::time::Instant::now();
    let refused = store.admit_live(SHARD, 10).await.unwrap_err();
    assert_eq!(refused, AdmitError::Busy { retry_after_ms: config.busy_retry_ms });
    assert_eq!(begun.elapsed(), Duration::from_millis(700));
    let (waiting, _) = tokio::join!(store.admit_live(SHARD, 10), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(room);
    });
    assert!(waiting.is_ok());
    assert!(begun.elapsed() < Duration::from_millis(1_100));
    store.inner.slot_or_new(SHARD).unwrap().set_poison("test");
    assert_eq!(store.admit_live(SHARD, 10).await.unwrap_err(), AdmitError::Poisoned(SHARD));
}

#[test]
fn hints_leave_room_for_live_writes() {
    let dir = scratch();
    let config = Config { fresh_bytes: 1_000, hint_fresh_percent: 60, ..Config::default() };
    let store = open(config, dir.path());
    let live = store.admit(SHARD, 500).unwrap();
    let hint = store.admit_hint(SHARD, 100).unwrap();
    assert!(matches!(store.admit_hint(SHARD, 1), Err(AdmitError::Busy { .. })));
    let rest = store.admit(SHARD, 400).unwrap();
    assert!(matches!(store.admit(SHARD, 1), Err(AdmitError::Busy { .. })));
    drop((live, hint, rest));
    // One that is larger than its share is not locked out for ever.
    assert!(store.admit_hint(SHARD, 5_000).is_ok());
}

#[tokio::test]
async fn a_dropped_shard_is_gone_and_stays_gone() {
    let dir = scratch();
    let store = open(tiny(), dir.path());
    let mut journal = Journal::default();
    let other = ShardId(8);
    for value in 0..9 {
        let cells: Vec<_> = (0..9).map(|series| cell(series, value, 0, value)).collect();
        journal.append(&store, SHARD, batch(SHARD, 1, &cells));
        journal.append(&store, other, batch(other, 1, &cells));
    }
    fold(&store, SHARD).unwrap();
    journal.append(&store, SHARD, batch(SHARD, 1, &[cell(1, 1, 0, 1)]));
    let mut scan = store.scan(SHARD, ScanFilter::default()).unwrap();
    assert!(scan.next().unwrap().is_ok());

    // The map does not know shard 8 yet, and has dropped 7.
    let map = LiveShards { live: BTreeSet::new(), next: other };
    let dropped = sweep(&store, &map).await;
    assert!(matches!(dropped[..], [(SHARD, Ok(()))]));
    assert!(!dir.path().join("7").exists());
    assert_eq!(store.shards(), [other]);
    let rest: Vec<_> = scan.collect();
    assert!(matches!(rest.last(), Some(Err(ScanError::Shard(ShardError::Gone(SHARD))))));
    let late = batch(SHARD, 2, &[cell(1, 1, 0, 1)]);
    assert_eq!(store.accept(SHARD, Sequence(99), late).unwrap_err(), ShardGone(SHARD));
    assert_eq!(store.admit(SHARD, 1).unwrap_err(), AdmitError::Gone(SHARD));
    assert!(matches!(store.scan(SHARD, ScanFilter::default()), Err(ShardError::Gone(SHARD))));
    // Only shard 8's records hold the journal back now.
    assert_eq!(store.applied_through(), Sequence(1));
    store.flush(other).await.unwrap();
    assert_eq!(store.applied_through(), Sequence(99));
    assert!(!dir.path().join("7").exists());
}

#[tokio::test(start_paused = true)]
async fn old_batches_are_folded_by_themselves_and_the_journal_hears_of_it() {
    let dir = scratch();
    let store = open(Config::default(), dir.path());
    store.start();
    let mut released = store.released();
    let (mut journal, mut model) = (Journal::default(), Content::new());
    for value in 0..3 {
        let batch = batch(SHARD, 1, &[cell(1, value, 0, value)]);
        add_batch(&mut model, &batch);
        journal.append(&store, SHARD, batch);
    }
    let heard = released.wait_for(|released| *released == Sequence(3));
    tokio::time::timeout(Duration::from_secs(60), heard).await.unwrap().unwrap();
    assert_eq!(store.stats().fresh_bytes, 0);
    assert_eq!(scan(&store, SHARD), model);
    store.close().await;
    assert!(
        matches!(scan_with(&store, SHARD, ScanFilter::default()), Err(text) if text.contains("closed"))
    );
    // Closed for good: the directory can be opened again while the old handle is alive.
    assert_eq!(scan(&open(Config::default(), dir.path()), SHARD), model);
}

/// With a low priority on a busy machine, what is left of a fold may take seconds.
#[test]
fn a_fold_ends_at_the_next_batch_or_block_once_the_store_is_closing() {
    for closing in [Step::FoldBegins, Step::Committed] {
        let dir = scratch();
        let config = Config { block_bytes: 400, fold_limit_bytes: 1 << 20, ..tiny() };
        let (store, visitor) = Visitor::open(config, dir.path(), move |store, step| {
            if step == closing {
                store.inner.cancel.cancel();
            }
        });
        let mut journal = Journal::default();
        let cells: Vec<_> = (0..300)
            .map(|at: i64| cell(at as u16 % 2, at / 2, 0, at.wrapping_mul(0x1e37_79b9_7f4a_7c15)))
            .collect();
        journal.append(&store, SHARD, batch(ShardId(SHARD.0 + 1), 1, &cells[..1]));
        for (cells, version) in cells.chunks(50).zip(2..) {
            journal.append(&store, SHARD, batch(SHARD, version, cells));
        }
        let folded = store.inner.fold(&store.inner.slot(SHARD).unwrap());
        assert!(matches!(folded, Err(ShardError::Closed)), "{folded:?}");
        let visits = visitor.visits.lock().unwrap().clone();
        let (looked_at, steps) = match closing {
            Step::FoldBegins => (0, vec![Step::FoldBegins]),
            _ => (1, vec![Step::FoldBegins, Step::Commit, Step::Committed]),
        };
        assert_eq!(visits, steps);
        assert_eq!(store.stats().quarantined_batches, looked_at, "a batch was decoded");
        visitor.detach();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_shards_are_folded_at_once_and_their_runs_merged() {
    let dir = scratch();
    let config =
        Config { fold_bytes: 1, fold_age_ms: 3_600_000, merge_runs: 3, ..Config::default() };
    let store = ShardStore::open(config, dir.path(), Executor::Thread).unwrap();
    store.start();
    let mut released = store.released();
    let (mut journal, mut model) = (Journal::default(), Content::new());
    for value in 0..12 {
        let batch = batch(SHARD, 1, &[cell(1, value, 0, value)]);
        add_batch(&mut model, &batch);
        journal.append(&store, SHARD, batch);
        let through = Sequence(journal.records.len() as u64);
        let heard = released.wait_for(|released| *released >= through);
        tokio::time::timeout(Duration::from_secs(60), heard).await.unwrap().unwrap();
    }
    // Whoever asks while the store merges by itself gets what is left done.
    let settled = store.settle(SHARD);
    tokio::time::timeout(Duration::from_secs(60), settled).await.unwrap().unwrap();
    assert!(runs(&store, SHARD) < 3);
    let scan = store.scan_begin(SHARD, ScanFilter::default()).await.unwrap();
    let (scan, page) = store.scan_page(scan).await.unwrap();
    let mut found = Content::new();
    for item in page {
        let item = item.unwrap();
        add_rows(&mut found, &item.key, &item.rows);
    }
    assert_eq!(found, model);
    assert!(store.scan_page(scan).await.unwrap().1.is_empty());
    store.close().await;
}
