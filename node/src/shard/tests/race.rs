//! Scans beside folds and merges: nothing accepted before a scan began may be missing from it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use quorate_protocol::{
    id::{Sequence, Version},
    point::Value,
};

use super::support::*;
use crate::shard::{ScanFilter, fault::Step};

fn numbered(number: i64) -> Vec<Cell> {
    (0..30).map(|at| cell(at % 10, i64::from(at % 7), (at % 3) as u8, number)).collect()
}

#[test]
fn a_scan_at_any_step_of_a_fold_or_merge_sees_everything() {
    let dir = scratch();
    let model = Arc::new(Mutex::new(Content::new()));
    let expected = Arc::clone(&model);
    let (store, visitor) = Visitor::open(tiny(), dir.path(), move |store, step| {
        let expected = expected.lock().unwrap().clone();
        assert_eq!(scan(store, SHARD), expected, "at {step:?}");
    });
    let mut journal = Journal::default();
    for number in 0..8 {
        let batch = batch(SHARD, number * 3 % 8 + 1, &numbered(number as i64));
        add_batch(&mut model.lock().unwrap(), &batch);
        journal.append(&store, SHARD, batch);
        fold(&store, SHARD).unwrap();
        if number % 3 == 2 {
            settle(&store, SHARD).unwrap();
        }
    }
    let visits = visitor.visits.lock().unwrap().clone();
    for step in [Step::Commit, Step::Committed, Step::Flip, Step::Flipped, Step::Deleted] {
        assert!(visits.contains(&step), "no scan at {step:?}");
    }
    visitor.detach();
}

#[test]
fn a_scan_is_whole_when_everything_is_folded_and_merged_between_its_pages() {
    let dir = scratch();
    let (store, visitor) = Visitor::open(tiny(), dir.path(), |store, step| {
        if matches!(step, Step::ScanBegins | Step::ScanPage) {
            fold(store, SHARD).unwrap();
            settle(store, SHARD).unwrap();
        }
    });
    let (mut journal, mut model) = (Journal::default(), Content::new());
    for round in 0..6 {
        for number in 0..4 {
            let number = round * 4 + number;
            let batch = batch(SHARD, number % 5 + 1, &numbered(number as i64));
            add_batch(&mut model, &batch);
            journal.append(&store, SHARD, batch);
        }
        assert!(store.stats().fresh_bytes > 0);
        assert_eq!(scan(&store, SHARD), model);
        assert_eq!(store.stats().fresh_bytes, 0, "the fold came during the scan");
    }
    visitor.detach();
}

#[test]
fn threads_that_write_fold_merge_and_scan_agree() {
    const BATCHES: u64 = 150;
    let dir = scratch();
    let store = open(tiny(), dir.path());
    let acked = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for number in 1..=BATCHES {
                let value = number as i64;
                let cells: Vec<_> = (0..12).map(|series| cell(series, 5, 0, value)).collect();
                store.accept(SHARD, Sequence(number), batch(SHARD, number, &cells)).unwrap();
                acked.store(number, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
        threads.spawn(|| {
            while !done.load(Ordering::Acquire) {
                fold(&store, SHARD).unwrap();
                std::thread::yield_now();
            }
        });
        threads.spawn(|| {
            while !done.load(Ordering::Acquire) {
                settle(&store, SHARD).unwrap();
                std::thread::yield_now();
            }
        });
        threads.spawn(|| {
            let mut scans = 0;
            while !done.load(Ordering::Acquire) || scans < 20 {
                let before = acked.load(Ordering::Acquire);
                let found = scan_with(&store, SHARD, ScanFilter::default()).unwrap();
                if before > 0 {
                    assert_eq!(found.len(), 12, "a series is missing");
                }
                for (at, (version, value)) in found {
                    assert!(version >= Version(before), "{at:?}: {version} after ack of {before}");
                    let number = i64::try_from(version.0).unwrap();
                    // Even series are integers (field 0); the value belongs to its version.
                    assert_eq!(value, Value::Integer(number));
                }
                scans += 1;
            }
        });
    });
    fold(&store, SHARD).unwrap();
    assert_eq!(store.applied_through(), Sequence(BATCHES));
}
