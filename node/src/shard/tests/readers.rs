//! Readers: all slots taken, and one that never ends.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics_exporter_prometheus::PrometheusBuilder;
use quorate_protocol::id::{ShardId, Version};

use super::support::*;
use crate::shard::{
    Config, EnvError, ScanError, ScanFilter, ShardError, ShardStore, env::Table, fault::Step,
};

fn rewritten(round: i64) -> Vec<Cell> {
    (0..40)
        .flat_map(|series| {
            (0..50).map(move |time| cell(series % 5 * 10 + 3, time, (series % 5) as u8, round))
        })
        .collect()
}

fn file_bytes(dir: &Path) -> u64 {
    fs::metadata(dir.join(SHARD.to_string()).join("data.mdb")).unwrap().len()
}

#[test]
fn without_a_reader_slot_reads_get_a_typed_error_and_writes_go_on() {
    const SLOTS: usize = 3;
    let dir = scratch();
    let config = Config { readers: SLOTS as u32, ..tiny() };
    let store = open(config, dir.path());
    let mut journal = Journal::default();
    journal.append(&store, SHARD, batch(SHARD, 1, &rewritten(1)));
    fold(&store, SHARD).unwrap();
    let (taken, over) = (Barrier::new(SLOTS + 1), AtomicBool::new(false));
    std::thread::scope(|threads| {
        for _ in 0..SLOTS {
            threads.spawn(|| {
                let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
                let hold = |_: &heed::RoTxn<'_>, _: &[Table; _]| {
                    taken.wait();
                    while !over.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    Ok::<_, ShardError>(())
                };
                pin.env.read(hold).unwrap();
            });
        }
        let _end = AtEnd(&over);
        taken.wait();
        let errors = [(); 3].map(|()| scan_error(&store, SHARD));
        // What comes in is taken and kept; folding it needs a look at what is there, and waits.
        journal.append(&store, SHARD, batch(SHARD, 2, &rewritten(2)));
        let folded = fold(&store, SHARD);
        for error in errors {
            assert!(error.as_ref().is_some_and(is_readers_full), "{error:?}");
        }
        assert!(folded.as_ref().map_or_else(is_readers_full, |()| true), "{folded:?}");
        assert_eq!(store.stats().poisoned, 0);
    });
    assert_content(&scan(&store, SHARD), &journal.content(SHARD));
    fold(&store, SHARD).unwrap();
    assert_content(&scan(&store, SHARD), &journal.content(SHARD));
    assert_eq!(store.applied_through().0, 2);
}

fn scan_error(store: &ShardStore, shard: ShardId) -> Option<ShardError> {
    match store.scan(shard, ScanFilter::default()) {
        Err(error) => Some(error),
        Ok(mut scan) => match scan.next() {
            Some(Err(ScanError::Shard(error))) => Some(error),
            _ => None,
        },
    }
}

fn is_readers_full(error: &ShardError) -> bool {
    matches!(error, ShardError::Env(EnvError::ReadersFull { .. })) && error.retryable()
}

#[test]
fn a_scan_that_never_ends_does_not_make_the_file_grow_and_answers_in_the_end() {
    let dir = scratch();
    let config = Config { scan_bytes: 2 << 10, merge_runs: 2, block_rows: 50, ..Config::default() };
    let run = |held: bool| {
        let root = dir.path().join(held.to_string());
        let store = open(config, &root);
        let mut journal = Journal::default();
        journal.append(&store, SHARD, batch(SHARD, 1, &rewritten(0)));
        fold(&store, SHARD).unwrap();
        let mut scan = store.scan(SHARD, ScanFilter::default()).unwrap();
        let mut found = Content::new();
        let first = scan.next().unwrap().unwrap();
        add_rows(&mut found, &first.key, &first.rows);
        let scan = held.then_some(scan);
        for round in 1..30 {
            journal.append(&store, SHARD, batch(SHARD, 1 + round, &rewritten(round as i64)));
            fold(&store, SHARD).unwrap();
            settle(&store, SHARD).unwrap();
        }
        let bytes = file_bytes(&root);
        if let Some(scan) = scan {
            for item in scan {
                let item = item.unwrap();
                add_rows(&mut found, &item.key, &item.rows);
            }
            let model = journal.content(SHARD);
            assert!(found.keys().eq(model.keys()), "cells are missing or invented");
            // What a page shows is what was there when it was read, never less than at the start.
            for (at, (version, _)) in &found {
                assert!(*version >= Version(1) && *version <= model[at].0);
            }
        }
        bytes
    };
    let (without, with) = (run(false), run(true));
    assert!(with <= without + (64 << 10), "{with} bytes with the scan, {without} without");
}

#[test]
fn a_shard_may_be_rewritten_during_every_page_of_a_scan() {
    let dir = scratch();
    // One series with several blocks of its own, so that pages end within it too.
    let long =
        |round: i64, rows: std::ops::Range<i64>| rows.map(move |time| cell(63, time, 0, round));
    let config = Config { block_rows: 250, ..tiny() };
    let writer = Arc::new(std::sync::Mutex::new((Journal::default(), 0_u64)));
    let writing = Arc::clone(&writer);
    let (store, visitor) = Visitor::open(config, dir.path(), move |store, step| {
        if step == Step::ScanPage {
            let mut writing = writing.lock().unwrap();
            writing.1 += 1;
            let round = writing.1;
            let mut again = rewritten(round as i64)[..60].to_vec();
            again.extend(long(round as i64, 0..1500).step_by(7));
            writing.0.append(store, SHARD, batch(SHARD, 1 + round, &again));
            fold(store, SHARD).unwrap();
            settle(store, SHARD).unwrap();
        }
    });
    let mut first = rewritten(0);
    first.extend(long(0, 0..1500));
    writer.lock().unwrap().0.append(&store, SHARD, batch(SHARD, 1, &first));
    fold(&store, SHARD).unwrap();
    let found = scan(&store, SHARD);
    let model = writer.lock().unwrap().0.content(SHARD);
    assert!(found.keys().eq(model.keys()), "cells are missing or invented");
    assert!(found.iter().all(|(at, (version, _))| *version <= model[at].0));
    assert!(writer.lock().unwrap().1 > 5, "the scan has few pages");
    visitor.detach();
}

/// Pages that end within a series, as all of them do where many runs have some of it.
#[test]
fn a_block_is_decoded_once_however_many_pages_it_reaches_into() {
    let dir = scratch();
    let config = Config { block_rows: 250, merge_runs: 100, ..tiny() };
    let (store, mut journal) = (open(config, dir.path()), Journal::default());
    for round in 0..6 {
        let rows = (37 * round..37 * round + 1500).map(|time| cell(63, time, 0, round));
        let batch = batch(SHARD, 1 + round as u64, &rows.collect::<Vec<_>>());
        journal.append(&store, SHARD, batch);
        fold(&store, SHARD).unwrap();
    }
    assert_eq!(runs(&store, SHARD), 6);
    let recorder = PrometheusBuilder::new().build_recorder();
    let found = metrics::with_local_recorder(&recorder, || scan(&store, SHARD));
    assert_content(&found, &journal.content(SHARD));
    let counted = recorder.handle().render();
    assert!(counted.contains("quorate_shard_decoded_blocks_total 36\n"), "{counted}");
}
