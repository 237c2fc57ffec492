//! Bad batches, bad blocks, failed syncs, foreign directories.

use std::{fs, sync::Arc};

use bytes::Bytes;
use quorate_protocol::{
    batch::EncodedBatch,
    id::{Sequence, ShardId},
};

use super::support::*;
use crate::executor::Executor;
use crate::shard::{
    AdmitError, ScanError, ScanFilter, ShardError, ShardStore, directory,
    fault::{Fault, Step},
};

fn row(value: i64) -> Vec<Cell> {
    (0..4).map(|series| cell(series, value, 0, value)).collect()
}

/// A part whose checksum is right and whose body is not.
fn misfit() -> EncodedBatch {
    let good = batch(SHARD, 1, &row(1)).bytes().to_vec();
    (88..good.len())
        .find_map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let crc = crc32fast::hash(&bad[8..]);
            bad[4..8].copy_from_slice(&crc.to_le_bytes());
            let bad = EncodedBatch::parse(Bytes::from(bad)).ok()?;
            bad.decode().is_err().then_some(bad)
        })
        .unwrap()
}

#[test]
fn misfits_are_quarantined_and_counted_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(tiny(), dir.path());
    let (mut journal, mut model) = (Journal::default(), Content::new());
    let good = batch(SHARD, 2, &row(2));
    add_batch(&mut model, &good);
    journal.append(&store, SHARD, misfit());
    journal.append(&store, SHARD, good);
    journal.append(&store, SHARD, batch(ShardId(8), 3, &row(3)));
    assert_eq!(scan(&store, SHARD), model);
    fold(&store, SHARD).unwrap();
    assert_eq!(scan(&store, SHARD), model);
    assert_eq!(store.stats().quarantined_batches, 2);
    assert_eq!(store.applied_through(), Sequence(3));
    let kept = dir.path().join("7/quarantine/00000000000000000001.batch");
    assert_eq!(fs::read(kept).unwrap(), **journal.records[0].1.bytes());
    let why = dir.path().join("7/quarantine/00000000000000000003.batch.why");
    assert!(fs::read_to_string(why).unwrap().contains("shard 8"));
}

#[test]
fn a_damaged_block_is_reported_kept_aside_and_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(tiny(), dir.path());
    let (mut journal, mut model) = (Journal::default(), Content::new());
    for value in 1..=2 {
        let batch = batch(SHARD, 1, &row(value));
        add_batch(&mut model, &batch);
        journal.append(&store, SHARD, batch);
        fold(&store, SHARD).unwrap();
    }
    let damaged_key = {
        let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
        pin.env
            .write(|txn, [runs, ..]| {
                // Behind the version table.
                let (table, _) = runs.first(txn)?.unwrap();
                let (key, block) = runs.get_greater_than(txn, table)?.unwrap();
                let (key, mut block) = (key.to_vec(), block.to_vec());
                *block.last_mut().unwrap() ^= 1;
                runs.put(txn, &key, &block)?;
                Ok(key)
            })
            .unwrap()
    };
    let check = |store: &ShardStore| {
        let (mut damaged, mut found) = (Vec::new(), Content::new());
        for item in store.scan(SHARD, ScanFilter::default()).unwrap() {
            match item {
                Ok(item) => add_rows(&mut found, &item.key, &item.rows),
                Err(ScanError::Damaged { shard, key, from, .. }) => {
                    damaged.push((shard, key, from))
                }
                Err(other) => panic!("{other}"),
            }
        }
        // The block holds all four series of the first run; nothing says so any more.
        assert_eq!(damaged.len(), 4, "{damaged:?}");
        let mut expected = model.clone();
        expected.retain(|(_, time, _), _| *time != 1);
        assert_eq!(expected.len(), model.len() - 4);
        assert_eq!(found, expected);
    };
    check(&store);
    check(&store);
    assert_eq!(store.stats().bad_blocks, 1);
    // Merging neither spreads the damage nor drops it silently.
    settle(&store, SHARD).unwrap();
    assert_eq!(runs(&store, SHARD), 2);
    check(&store);
    assert_eq!(store.stats().bad_blocks, 1);
    assert_eq!(damaged_key.len(), 20);
    assert_eq!(fs::read_dir(dir.path().join("7/quarantine")).unwrap().count(), 2);
}

#[test]
fn the_first_failed_sync_stops_folding_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let trap =
        Trap { at: 1, only: Some(Step::Flip), fault: Some(Fault::SyncFailed), ..Trap::default() };
    let store =
        ShardStore::open_probed(tiny(), dir.path(), Executor::Inline, Arc::new(trap)).unwrap();
    let (mut journal, mut model) = (Journal::default(), Content::new());
    let mut append = |store: &ShardStore, value| {
        let batch = batch(SHARD, 1, &row(value));
        add_batch(&mut model, &batch);
        journal.append(store, SHARD, batch);
        model.clone()
    };
    append(&store, 1);
    fold(&store, SHARD).unwrap();
    append(&store, 2);
    assert!(matches!(fold(&store, SHARD), Err(ShardError::Poisoned { shard: SHARD, .. })));
    // The trap has snapped; it is the poison that refuses now.
    assert!(matches!(fold(&store, SHARD), Err(ShardError::Poisoned { .. })));
    assert!(matches!(settle(&store, SHARD), Err(ShardError::Poisoned { .. })));
    assert!(matches!(store.admit(SHARD, 10), Err(AdmitError::Poisoned(SHARD))));
    assert!(store.admit(ShardId(9), 10).is_ok());
    // What was in flight still comes in and is read; the journal keeps it.
    let model = append(&store, 3);
    assert_eq!(scan(&store, SHARD), model);
    assert_eq!(store.applied_through(), Sequence(1));
    assert_eq!(store.stats().poisoned, 1);
    drop(store);
    let store = open(tiny(), dir.path());
    journal.replay(&store, Sequence(1));
    fold(&store, SHARD).unwrap();
    assert_eq!(scan(&store, SHARD), model);
    assert_eq!(store.applied_through(), Sequence(3));
}

#[test]
fn a_poisoned_shard_is_recovered_by_the_next_start_however_often_it_was_closed() {
    for aside in [false, true] {
        let dir = scratch();
        let trap = Trap {
            at: 1,
            only: Some(Step::Flip),
            fault: Some(Fault::SyncFailed),
            ..Trap::default()
        };
        let store =
            ShardStore::open_probed(tiny(), dir.path(), Executor::Inline, Arc::new(trap)).unwrap();
        let mut journal = Journal::default();
        for value in 1..=2 {
            journal.append(&store, SHARD, batch(SHARD, 1, &row(value)));
            if let Err(error) = fold(&store, SHARD) {
                assert!(matches!(error, ShardError::Poisoned { .. }), "{error}");
            }
        }
        assert_eq!(store.stats().poisoned, 1);
        let others = [8, 9, 10].map(ShardId);
        // Others take its place; then it is read and so opened again.
        for other in others.into_iter().filter(|_| aside) {
            journal.append(&store, other, batch(other, 1, &row(1)));
            fold(&store, other).unwrap();
        }
        assert_eq!(scan(&store, SHARD), journal.content(SHARD));
        now(store.close());
        drop(store);
        assert!(!dir.path().join("7/summary").exists());
        let store = open(tiny(), dir.path());
        assert_eq!(store.stats().open, 1, "it was not opened, or more than it was");
        journal.replay(&store, Sequence(1));
        fold(&store, SHARD).unwrap();
        assert_eq!(scan(&store, SHARD), journal.content(SHARD));
        // From now on it is as any other.
        now(store.close());
        assert!(dir.path().join("7/summary").exists());
    }
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(tiny(), dir.path());
    let mut journal = Journal::default();
    journal.append(&store, SHARD, batch(SHARD, 1, &row(1)));
    fold(&store, SHARD).unwrap();
    drop(store);
    fs::create_dir(dir.path().join("9")).unwrap();
    let marker = [b"QSHARD\r\n".as_slice(), &(directory::FORMAT + 1).to_le_bytes()].concat();
    fs::write(dir.path().join("9/format"), &marker).unwrap();
    let before = fs::read(dir.path().join("7/data.mdb")).unwrap();
    let error = ShardStore::open(tiny(), dir.path(), Executor::Inline).err().unwrap();
    let ShardError::NewerFormat { found, supported, .. } = error else { panic!("{error}") };
    assert_eq!((found, supported), (directory::FORMAT + 1, directory::FORMAT));
    assert_eq!(fs::read_dir(dir.path().join("9")).unwrap().count(), 1);
    assert_eq!(fs::read(dir.path().join("7/data.mdb")).unwrap(), before);
}
