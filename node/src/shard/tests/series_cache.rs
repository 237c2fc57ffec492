//! Ids of series in memory: what a fold that failed, a small budget or another shard does to them.

use std::sync::Arc;

use super::support::*;
use crate::{
    executor::Executor,
    shard::{Config, ShardError, ShardStore, fault::Fault},
};
use quorate_protocol::id::ShardId;

/// A report of some series.
fn report(series: std::ops::Range<u16>, time: i64) -> Vec<Cell> {
    series.map(|series| cell(series, time, 0, time)).collect()
}

#[test]
fn a_fold_that_failed_half_way_leaves_no_series_with_two_ids() {
    for at in 0.. {
        let dir = scratch();
        let trap = Arc::new(Trap { at, fault: Some(Fault::Stop), ..Trap::default() });
        let probe = Arc::clone(&trap) as _;
        let config = Config { series_cache_bytes: 1 << 20, fold_limit_bytes: 1 << 20, ..tiny() };
        let store = ShardStore::open_probed(config, dir.path(), Executor::Inline, probe).unwrap();
        let (mut journal, mut failed) = (Journal::default(), 0);
        // More series than fit into a transaction, some of them known already from the second on.
        for time in 1..=3 {
            let series = 0..20 * time;
            let cells = report(series, time.into());
            journal.append(&store, SHARD, batch(SHARD, u64::from(time), &cells));
            while let Err(error) = fold(&store, SHARD) {
                assert!(matches!(error, ShardError::Interrupted), "{error}");
                failed += 1;
            }
        }
        assert_eq!(failed, usize::from(at < trap.steps.lock().unwrap().len()));
        if failed == 0 {
            break;
        }
        let report = store.verify(SHARD).unwrap();
        assert!(report.is_good(), "failed at step {at}: {:#?}", report.problems);
        assert_eq!(store.series(SHARD), 60, "failed at step {at}");
        assert_content(&scan(&store, SHARD), &journal.content(SHARD));
    }
}

#[test]
fn shards_that_take_turns_keep_theirs_and_idle_ones_give_way() {
    let dir = scratch();
    // Room for the series of one shard and a few more.
    let config = Config {
        series_cache_bytes: 40 << 10,
        fold_limit_bytes: 1 << 20,
        max_open_shards: 8,
        txn_bytes: 1 << 20,
        ..tiny()
    };
    let store = open(config, dir.path());
    let mut journal = Journal::default();
    let mut time = 0;
    let mut write = |shard: u64| {
        time += 1;
        let shard = ShardId(shard);
        journal.append(&store, shard, batch(shard, 1, &report(0..900, time)));
        fold(&store, shard).unwrap();
    };
    let cached = |shard: u64| {
        let pin = store.inner.open.pin(ShardId(shard)).unwrap().unwrap();
        let cache = pin.series_cache();
        (!cache.is_empty(), cache.is_complete())
    };
    write(1);
    assert_eq!(cached(1), (true, true));
    // The first one is no longer written to.
    (0..6).for_each(|_| write(2));
    assert_eq!((cached(1), cached(2).0), ((false, false), true));
    (0..6).for_each(|_| write(3));
    assert_eq!((cached(2).0, cached(3).0), (false, true));
    (0..6).for_each(|turn| write(2 + turn % 2));
    assert_eq!((cached(2).0, cached(3).0), (true, true));
    for shard in 1..=3 {
        let shard = ShardId(shard);
        assert!(store.verify(shard).unwrap().is_good());
        assert_eq!(store.series(shard), 900);
        assert_content(&scan(&store, shard), &journal.content(shard));
    }
}
