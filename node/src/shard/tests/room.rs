//! Maps and disks that are full: a typed error, nothing lost, and going on once there is room.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use quorate_protocol::id::{Sequence, ShardId, Version};

use super::{small_disk::SmallDisk, support::*};
use crate::shard::{Config, EnvError, ScanFilter, ShardError, ShardStore};

const OTHER: ShardId = ShardId(8);

/// A row of a hundred series that does not compress.
fn row(time: i64) -> Vec<Cell> {
    let noise = |at: i64| (time * 100 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
    (0..100).map(|at| cell(at * 5 % 97, time, at as u8 % 2, noise(i64::from(at)))).collect()
}

/// Ten rows.
fn rows(number: i64) -> Vec<Cell> {
    (0..10).flat_map(|time| row(number * 10 + time)).collect()
}

fn file_bytes(dir: &Path, shard: ShardId) -> u64 {
    fs::metadata(dir.join(shard.to_string()).join("data.mdb")).map_or(0, |meta| meta.len())
}

fn is_full(error: &ShardError) -> bool {
    matches!(error, ShardError::Env(EnvError::Full { .. }))
}

#[test]
fn a_map_grows_under_scans_that_see_everything_all_the_time() {
    const ROUNDS: u64 = 40;
    let dir = scratch();
    let config = Config { map_bytes: 128 << 10, scan_bytes: 4 << 10, ..Config::default() };
    let store = open(config, dir.path());
    let first = batch(SHARD, 1, &row(0));
    let mut model = Content::new();
    add_batch(&mut model, &first);
    store.accept(SHARD, Sequence(1), first).unwrap();
    fold(&store, SHARD).unwrap();
    // One that is held from the first map to the last.
    let mut held = store.scan(SHARD, ScanFilter::default()).unwrap();
    let mut found = Content::new();
    let mut take = |item: Option<crate::shard::ScanItem>| {
        item.map(|item| item.unwrap()).is_some_and(|item| {
            add_rows(&mut found, &item.key, &item.rows);
            true
        })
    };
    assert!(take(held.next()));
    let (acked, done) = (AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let before = acked.load(Ordering::Acquire);
                    let content = scan_with(&store, SHARD, ScanFilter::default()).unwrap();
                    let newest = content.values().map(|(version, _)| *version).max();
                    assert!(newest >= Some(Version(before)), "{newest:?} after {before}");
                    assert!(content.len() as u64 >= before * 970 - 873);
                }
            });
        }
        let _end = AtEnd(&done);
        for number in 2..=ROUNDS {
            let batch = batch(SHARD, number, &rows(number as i64));
            store.accept(SHARD, Sequence(number), batch).unwrap();
            acked.store(number, Ordering::Release);
            fold(&store, SHARD).unwrap();
        }
    });
    assert!(file_bytes(dir.path(), SHARD) > 256 << 10, "the map never grew");
    while take(held.next()) {}
    found.retain(|(_, time, _), _| *time == 0);
    assert_content(&found, &model);
}

#[test]
fn a_map_at_its_largest_is_a_typed_error_that_costs_no_other_shard_anything() {
    let dir = scratch();
    let small = Config { map_bytes: 128 << 10, max_map_bytes: 256 << 10, ..Config::default() };
    let store = open(small, dir.path());
    let mut journal = Journal::default();
    for time in 0..40 {
        journal.append(&store, SHARD, batch(SHARD, 1, &rows(time)));
        if time % 10 == 0 {
            journal.append(&store, OTHER, batch(OTHER, 1, &row(time)));
        }
    }
    let error = fold(&store, SHARD).unwrap_err();
    assert!(is_full(&error), "{error}");
    assert!(error.retryable());
    assert!(store.admit(SHARD, 1).is_ok(), "a full disk is not a failed sync");
    assert!(is_full(&fold(&store, SHARD).unwrap_err()), "it was tried again");
    fold(&store, OTHER).unwrap();
    settle(&store, OTHER).unwrap();
    for shard in [SHARD, OTHER] {
        assert_content(&scan(&store, shard), &journal.content(shard));
    }
    assert_eq!(store.stats().poisoned, 0);
    // The journal keeps what is not folded.
    assert_eq!(store.applied_through(), Sequence(0));
    drop(store);
    let store = open(Config::default(), dir.path());
    journal.replay(&store, Sequence(0));
    fold(&store, SHARD).unwrap();
    for shard in [SHARD, OTHER] {
        assert_content(&scan(&store, shard), &journal.content(shard));
    }
    assert_eq!(store.applied_through(), Sequence(journal.records.len() as u64));
}

#[test]
fn a_full_disk_is_a_typed_error_and_folding_goes_on_by_itself_once_there_is_room() {
    let Some(disk) = SmallDisk::mount(2 << 20) else { return };
    let root = disk.path().join("shards");
    let config = Config { max_open_shards: 1, txn_bytes: 64 << 10, ..Config::default() };
    let store = open(config, &root);
    let mut journal = Journal::default();
    for time in 0..4 {
        journal.append(&store, OTHER, batch(OTHER, 1, &row(time)));
        fold(&store, OTHER).unwrap();
    }
    journal.append(&store, SHARD, batch(SHARD, 1, &row(0)));
    fold(&store, SHARD).unwrap();
    disk.leave(600 << 10);

    let mut time = 1;
    let error = loop {
        journal.append(&store, SHARD, batch(SHARD, time as u64, &rows(time)));
        time += 1;
        if let Err(error) = fold(&store, SHARD) {
            break error;
        }
        assert!(time < 2000, "the disk is never full");
    };
    assert!(is_full(&error), "{error}");
    assert!(error.retryable());
    let through = store.applied_through();
    assert_eq!(through.0, journal.records.len() as u64 - 1, "the journal would forget it");
    for _ in 0..3 {
        journal.append(&store, SHARD, batch(SHARD, time as u64, &rows(time)));
        time += 1;
        assert!(is_full(&fold(&store, SHARD).unwrap_err()));
        // Both are read all the same, the small one after opening its environment anew.
        for shard in [SHARD, OTHER] {
            assert_content(&scan(&store, shard), &journal.content(shard));
        }
    }
    assert_eq!(store.stats().poisoned, 0);
    assert!(store.admit(SHARD, 1).is_ok());
    assert_eq!(store.applied_through(), through);

    disk.clear();
    journal.append(&store, OTHER, batch(OTHER, 2, &row(1)));
    for shard in [SHARD, OTHER] {
        fold(&store, shard).unwrap();
        settle(&store, shard).unwrap();
        assert_content(&scan(&store, shard), &journal.content(shard));
    }
    assert_eq!(store.applied_through(), Sequence(journal.records.len() as u64));
    drop(store);
    let store: ShardStore = open(config, &root);
    for shard in [SHARD, OTHER] {
        assert_content(&scan(&store, shard), &journal.content(shard));
    }
}
