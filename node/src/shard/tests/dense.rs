//! The dense pass: same content, one run, no more space than its blocks need, whatever happens.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use quorate_protocol::{id::Sequence, point::key::measurement_of};
use regex::bytes::Regex;

use super::support::*;
use crate::executor::Executor;
use crate::shard::{
    Config, ScanFilter, ShardError, ShardStore, TagFilter, TagTest,
    fault::{Fault, Step},
};

/// Series that come first late, so that ids do not follow the order of keys.
fn round(number: i64) -> Vec<Cell> {
    (0..20)
        .map(|at| {
            let series = (at * 7 + 90 - number as u16 * 3) % 50;
            cell(series, i64::from(at % 6) + number, (at % 3) as u8, number)
        })
        .collect()
}

fn write(store: &ShardStore, journal: &mut Journal, rounds: std::ops::Range<i64>) {
    for number in rounds {
        journal.append(store, SHARD, batch(SHARD, number as u64 * 5 % 8 + 1, &round(number)));
        fold(store, SHARD).unwrap();
    }
}

fn model(journal: &Journal) -> Content {
    let mut model = Content::new();
    journal.records.iter().for_each(|(_, batch)| add_batch(&mut model, batch));
    model
}

fn densify(store: &ShardStore, percent: u64) -> Result<bool, ShardError> {
    store.inner.densify(&store.inner.slot(SHARD).unwrap(), percent)
}

fn is_dense(store: &ShardStore) -> Vec<bool> {
    let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
    pin.state().unwrap().runs.iter().map(|run| run.dense).collect()
}

#[test]
fn a_dense_shard_has_the_same_content_and_goes_on() {
    let dir = scratch();
    let store = open(tiny(), dir.path());
    let mut journal = Journal::default();
    write(&store, &mut journal, 0..12);
    assert!(densify(&store, 10).unwrap());
    assert_eq!(is_dense(&store), [true]);
    assert_eq!(scan(&store, SHARD), model(&journal));
    assert!(!densify(&store, 0).unwrap(), "there is nothing new");
    // Late rows, old series and new ones; a crumb is not worth a pass, all of it is.
    write(&store, &mut journal, 12..15);
    assert_eq!(is_dense(&store), [true, false, false, false]);
    assert_eq!(scan(&store, SHARD), model(&journal));
    assert!(!densify(&store, 10_000).unwrap());
    assert!(densify(&store, 1).unwrap());
    assert_eq!(is_dense(&store), [true]);
    drop(store);
    let store = open(tiny(), dir.path());
    assert_eq!(scan(&store, SHARD), model(&journal));
    assert_eq!(store.found_applied(), Sequence(15));
    let names = fs::read_dir(dir.path().join("7")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["data.mdb", "format", "lock.mdb"]);
}

#[test]
fn a_crash_at_any_step_of_a_dense_pass_leaves_the_old_file_or_the_new_one() {
    let (mut at, mut stopped_at) = (0, Vec::new());
    loop {
        let dir = scratch();
        let mut journal = Journal::default();
        let store = open(tiny(), dir.path());
        write(&store, &mut journal, 0..6);
        drop(store);
        let trap = Arc::new(Trap { at, fault: Some(Fault::Stop), ..Trap::default() });
        let probe = Arc::clone(&trap) as _;
        let store = ShardStore::open_probed(tiny(), dir.path(), Executor::Inline, probe).unwrap();
        let done = densify(&store, 0);
        if done.is_ok() {
            break;
        }
        stopped_at.push(*trap.steps.lock().unwrap().last().unwrap());
        // The same process goes on, or a new one does.
        if at % 2 == 0 {
            drop(store);
            let store = open(tiny(), dir.path());
            assert_eq!(scan(&store, SHARD), model(&journal), "stopped at step {at}");
            assert!(!dir.path().join("7/dense.new").exists());
        } else {
            assert_eq!(scan(&store, SHARD), model(&journal), "stopped at step {at}");
            write(&store, &mut journal, 6..8);
            densify(&store, 0).unwrap();
            drop(store);
        }
        let store = open(tiny(), dir.path());
        journal.replay(&store, Sequence(0));
        fold(&store, SHARD).unwrap();
        assert_eq!(scan(&store, SHARD), model(&journal), "folded after stopping at step {at}");
        densify(&store, 0).unwrap();
        assert_eq!(is_dense(&store), [true]);
        assert_eq!(scan(&store, SHARD), model(&journal), "dense after stopping at step {at}");
        at += 1;
    }
    for step in [
        Step::DenseBegins,
        Step::Commit,
        Step::Committed,
        Step::DenseWritten,
        Step::Replace,
        Step::Replaced,
    ] {
        assert!(stopped_at.contains(&step), "{step:?}");
    }
}

#[test]
fn scans_and_folds_beside_a_dense_pass_lose_nothing() {
    let dir = scratch();
    let journal = Arc::new(std::sync::Mutex::new(Journal::default()));
    let beside = Arc::clone(&journal);
    let (store, visitor) = Visitor::open(tiny(), dir.path(), move |store, step| {
        // Nobody can open anything while the file is replaced.
        if matches!(step, Step::Replace | Step::Replaced) {
            return;
        }
        let mut journal = beside.lock().unwrap();
        assert_eq!(scan(store, SHARD), model(&journal), "at {step:?}");
        if step == Step::DenseWritten {
            let number = journal.records.len() as i64;
            write(store, &mut journal, number..number + 1);
        }
    });
    let slot = |store: &ShardStore| store.inner.slot(SHARD).unwrap();
    store.accept(SHARD, Sequence(1), batch(SHARD, 1, &round(0))).unwrap();
    journal.lock().unwrap().records.push((SHARD, batch(SHARD, 1, &round(0))));
    store.inner.fold(&slot(&store)).unwrap();
    // The fold in between wins; the pass gives up.
    assert!(!densify(&store, 0).unwrap());
    assert_eq!(is_dense(&store), [false, false]);
    assert_eq!(scan(&store, SHARD), model(&journal.lock().unwrap()));
    visitor.detach();
    assert!(densify(&store, 0).unwrap());
    assert_eq!(scan(&store, SHARD), model(&journal.lock().unwrap()));
}

#[test]
fn a_scan_between_whose_pages_ids_change_yields_every_series_once() {
    let test = TagTest::Matches(Regex::new(".").unwrap());
    let tagged = ScanFilter {
        measurement: Some("cpu".into()),
        tags: vec![TagFilter { key: "host".into(), test }],
        ..ScanFilter::default()
    };
    for filter in [ScanFilter::default(), tagged] {
        // Before each page in turn.
        let mut at = 0;
        loop {
            let dir = scratch();
            let pages = Arc::new(AtomicUsize::new(0));
            let passed = Arc::clone(&pages);
            let (store, visitor) = Visitor::open(tiny(), dir.path(), move |store, step| {
                if step == Step::ScanPage && passed.fetch_add(1, Ordering::Relaxed) == at {
                    assert!(densify(store, 0).unwrap());
                }
            });
            let mut journal = Journal::default();
            write(&store, &mut journal, 0..5);
            let mut model = model(&journal);
            let wanted = |key: &[u8]| {
                filter.measurement.as_ref().is_none_or(|name| measurement_of(key) == &name[..])
            };
            model.retain(|(key, ..), _| wanted(key));
            assert_content(&scan_with(&store, SHARD, filter.clone()).unwrap(), &model);
            visitor.detach();
            if pages.load(Ordering::Relaxed) <= at {
                break;
            }
            at += 1;
        }
        assert!(at > 5, "{at} pages");
    }
}

#[test]
fn a_rewritten_shard_gives_its_space_back() {
    let dir = scratch();
    let config = Config { merge_runs: 2, ..Config::default() };
    let store = open(config, dir.path());
    let mut journal = Journal::default();
    for number in 0..8 {
        let cells: Vec<_> = (0..6000_i64)
            .map(|at| cell((at % 40) as u16, at / 40 + number * 150, 0, at * number))
            .collect();
        journal.append(&store, SHARD, batch(SHARD, number as u64 + 1, &cells));
        fold(&store, SHARD).unwrap();
        settle(&store, SHARD).unwrap();
    }
    let file = dir.path().join("7/data.mdb");
    let before = fs::metadata(&file).unwrap().len();
    assert!(densify(&store, 0).unwrap());
    let after = fs::metadata(&file).unwrap().len();
    let blocks: u64 = {
        let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
        pin.state().unwrap().runs.iter().map(|run| run.bytes).sum()
    };
    // Keys, and what is left of pages, apart.
    assert!(
        after < before && after < blocks + (400 << 10),
        "{before} -> {after}, {blocks} in blocks"
    );
    assert_eq!(scan(&store, SHARD), model(&journal));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_over_and_idle_becomes_dense_by_itself() {
    let dir = scratch();
    let config = Config { dense_idle_ms: 60_000, ..tiny() };
    let store = open(config, dir.path());
    store.start();
    let mut journal = Journal::default();
    write(&store, &mut journal, 0..3);
    tokio::time::sleep(std::time::Duration::from_secs(300)).await;
    assert!(!is_dense(&store).contains(&true), "it is not over");
    store.set_over(SHARD);
    write(&store, &mut journal, 3..5);
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    assert!(!is_dense(&store).contains(&true), "it is not idle");
    tokio::time::sleep(std::time::Duration::from_secs(90)).await;
    assert_eq!(is_dense(&store), [true]);
    assert_eq!(scan(&store, SHARD), model(&journal));
    store.close().await;
}
