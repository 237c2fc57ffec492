//! Shards that are dropped while everything else goes on with them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_protocol::id::{Sequence, ShardId};

use super::support::*;
use crate::shard::{Config, ScanError, ScanFilter, ShardError, ShardGone, ShardStore};

fn rows(number: i64) -> Vec<Cell> {
    (0..60).map(|at| cell(at % 20, i64::from(at % 7), (at % 5) as u8, number)).collect()
}

/// Whatever a shard is asked for while it goes away.
fn bear(result: Result<(), ShardError>) {
    match result {
        Ok(()) | Err(ShardError::Gone(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn look(store: &ShardStore, shard: ShardId) {
    let scan = match store.scan(shard, ScanFilter::default()) {
        Ok(scan) => scan,
        Err(error) => return bear(Err(error)),
    };
    for item in scan {
        match item {
            Ok(_) => {}
            Err(ScanError::Shard(error)) => bear(Err(error)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn shards_are_dropped_in_the_middle_of_folds_merges_and_scans_and_stay_away() {
    const SHARDS: u64 = 24;
    const KEPT: ShardId = ShardId(1000);
    let dir = scratch();
    // Little is waiting at any time: a shard is dropped when the fold it is in has ended.
    let config = Config { max_open_shards: 3, fresh_bytes: 32 << 10, ..tiny() };
    let store = open(config, dir.path());
    let sequence = AtomicU64::new(0);
    let accept = |shard: ShardId, number: u64| {
        // One at a time, as from a journal.
        static ORDER: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _order = ORDER.lock().unwrap();
        let next = Sequence(sequence.fetch_add(1, Ordering::Relaxed) + 1);
        store.accept(shard, next, batch(shard, number % 7 + 1, &rows(number as i64)))
    };
    for shard in (1..=SHARDS).map(ShardId) {
        for number in 0..3 {
            accept(shard, number).unwrap();
            fold(&store, shard).unwrap();
        }
    }
    let done = AtomicBool::new(false);
    let mut kept = Content::new();
    std::thread::scope(|threads| {
        type Work = fn(&ShardStore, ShardId);
        let works: [Work; 4] = [
            |store, shard| bear(fold(store, shard)),
            |store, shard| bear(settle(store, shard)),
            look,
            look,
        ];
        for work in works {
            let (store, done) = (&store, &done);
            threads.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    (1..=SHARDS).map(ShardId).chain([KEPT]).for_each(|shard| work(store, shard));
                }
            });
        }
        threads.spawn(|| {
            let mut number = 3;
            while !done.load(Ordering::Acquire) {
                for shard in (1..=SHARDS).map(ShardId) {
                    let Ok(_room) = store.admit(shard, 4 << 10) else {
                        std::thread::yield_now();
                        continue;
                    };
                    let _ = accept(shard, number);
                    number += 1;
                }
            }
        });
        let _end = AtEnd(&done);
        for shard in (1..=SHARDS).map(ShardId) {
            accept(KEPT, shard.0).unwrap();
            add_batch(&mut kept, &batch(KEPT, shard.0 % 7 + 1, &rows(shard.0 as i64)));
            now(store.drop_shard(shard)).unwrap();
            let path = dir.path().join(shard.to_string());
            assert!(!path.exists());
            // A hint that was on its way.
            assert_eq!(accept(shard, 9), Err(ShardGone(shard)));
            assert!(matches!(fold(&store, shard), Ok(()) | Err(ShardError::Gone(_))));
            assert!(!path.exists(), "a late hint made the directory again");
        }
    });
    assert_eq!(store.shards(), [KEPT]);
    assert_content(&scan(&store, KEPT), &kept);
    fold(&store, KEPT).unwrap();
    assert_eq!(store.applied_through(), Sequence(sequence.load(Ordering::Relaxed)));
    assert_eq!(store.stats().fresh_bytes, 0, "a dropped shard keeps its share of the memory");
    drop(store);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(open(config, dir.path()).shards(), [KEPT]);
}
