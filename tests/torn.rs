//! Journals that end in the middle of something, or were damaged, under a whole node.

use std::path::{Path, PathBuf};

use quorate_client::WriteOptions;
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    cluster::{Cluster, Image, Plan},
    disk::{JOURNAL, Keep, MemoryDisk},
    history::Ledger,
    limit::{simulated, soak},
    load::{sample, write},
    observe::{create_database, export, statuses},
};

const ONE: NodeId = NodeId(1);
/// Bytes before a segment's first record, and of a record's header (SPEC, "Segments").
const SEGMENT_HEADER: usize = 128;
const RECORD_HEADER: usize = 44;

/// One node with a small journal.
async fn cluster(seed: u64) -> Cluster {
    let plan = Plan::of(1).configured(|_, config| {
        config.journal.segment_bytes = 64 << 10;
        // Nothing is folded by itself: what is read back comes from the journal.
        config.shard.fold_age_ms = 3_600_000;
    });
    Cluster::simulated_with(plan, seed).await
}

/// The journal segment with records in it, and where each record begins and ends.
fn records(disk: &MemoryDisk) -> (PathBuf, Vec<u8>, Vec<(usize, usize)>) {
    let journal = |path: &PathBuf| path.to_string_lossy().contains(JOURNAL);
    for path in disk.paths().into_iter().filter(journal) {
        let bytes = disk.content(&path).unwrap();
        let mut records = Vec::new();
        let mut at = SEGMENT_HEADER;
        while bytes.get(at..at + 4) == Some(b"QREC") {
            let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            let end = at + (RECORD_HEADER + length + 4).next_multiple_of(8);
            records.push((at, end));
            at = end;
        }
        if !records.is_empty() {
            return (path, bytes, records);
        }
    }
    panic!("no journal segment has records");
}

/// Gives the node that is down its disks of that moment, with another journal.
fn damage(cluster: &mut Cluster, image: &Image, path: &Path, bytes: Vec<u8>) {
    cluster.restore(ONE, image);
    cluster.memory(ONE).replace(path, bytes);
}

#[test]
fn f05_a_journal_torn_at_any_byte_of_its_last_record_keeps_the_others() {
    simulated(async {
        let mut cluster = cluster(61).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let whole = Ledger::new();
        let options = WriteOptions::default();
        for n in 0..4 {
            write(&client, "db", &[sample(0, n)], &options, &whole).await.unwrap();
        }
        let last = sample(0, 4);
        write(&client, "db", std::slice::from_ref(&last), &options, &Ledger::new()).await.unwrap();
        cluster.stop(ONE).await;
        let image = cluster.image(ONE);
        let (path, intact, found) = records(&image.memory);
        assert_eq!(found.len(), 5, "the segment has other records than expected: {found:?}");
        let (start, end) = found[4];
        let (mut torn, mut kept) = (0, 0);
        for cut in start..=end {
            // What is behind the cut was never written: zeros, or the end of the file.
            let mut bytes = intact.clone();
            if cut % 2 == 0 {
                bytes[cut..].fill(0)
            } else {
                bytes.truncate(cut)
            }
            damage(&mut cluster, &image, &path, bytes);
            cluster.restart(ONE).await;
            cluster.wait_up(&client, &[ONE]).await;
            let text = export(&client, "db", Some(ONE)).await.unwrap();
            // Whole or not there at all: never a part of a row.
            let ledger = Ledger::new();
            for n in 0..4 {
                ledger.stored(&[sample(0, n)], quorate_protocol::id::Version(1));
            }
            if text.lines().count() == 5 {
                ledger.stored(std::slice::from_ref(&last), quorate_protocol::id::Version(1));
                kept += 1;
            } else {
                torn += 1;
            }
            ledger.check(&[(ONE, text)]).assert_whole();
            // And the node goes on: what it acknowledges now is there after the next start.
            if (cut - start) % 40 == 0 {
                write(&client, "db", &[sample(7, 1)], &options, &ledger).await.unwrap();
                cluster.stop(ONE).await;
                cluster.restart(ONE).await;
                cluster.wait_up(&client, &[ONE]).await;
                let text = export(&client, "db", Some(ONE)).await.unwrap();
                ledger.check(&[(ONE, text)]).assert_whole();
            }
            cluster.stop(ONE).await;
        }
        assert!(torn > 100 && kept > 0, "{torn} torn, {kept} whole: nothing was tested");
        cluster.finish().await;
    });
}

#[test]
fn f06_one_flipped_bit_costs_one_record_and_is_never_served() {
    simulated(async {
        let mut cluster = cluster(62).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let options = WriteOptions::default();
        for n in 0..6 {
            write(&client, "db", &[sample(0, n)], &options, &Ledger::new()).await.unwrap();
        }
        cluster.stop(ONE).await;
        let image = cluster.image(ONE);
        let (path, intact, found) = records(&image.memory);
        let (start, end) = found[2];
        let step = if soak(1) == 1 { 37 } else { 1 };
        for bit in (start * 8..end * 8).step_by(step) {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            damage(&mut cluster, &image, &path, bytes);
            cluster.restart(ONE).await;
            cluster.wait_up(&client, &[ONE]).await;
            let text = export(&client, "db", Some(ONE)).await.unwrap();
            let ledger = Ledger::new();
            for n in (0..6).filter(|n| *n != 2 || text.lines().count() == 6) {
                ledger.stored(&[sample(0, n)], quorate_protocol::id::Version(1));
            }
            ledger.check(&[(ONE, text)]).assert_whole();
            cluster.stop(ONE).await;
        }
        cluster.finish().await;
    });
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_acknowledged() {
    for round in 0..soak(6) {
        simulated(async {
            let mut cluster = cluster(630 + round as u64).await;
            let client = cluster.client().await;
            create_database(&client, "db", 1).await;
            let ledger = Ledger::new();
            let options = WriteOptions::default();
            for n in 0..=round as u64 % 7 {
                write(&client, "db", &[sample(0, n)], &options, &ledger).await.unwrap();
            }
            // What was written behind the last sync may be there in any part.
            let keep = match round % 3 {
                0 => Keep::Synced,
                1 => Keep::First(round * 13),
                _ => Keep::Last(round * 17),
            };
            cluster.crash(ONE, keep);
            cluster.wait_up(&client, &[]).await;
            cluster.restart(ONE).await;
            cluster.wait_up(&client, &[ONE]).await;
            let text = export(&client, "db", Some(ONE)).await.unwrap();
            ledger.check(&[(ONE, text)]).assert_whole();
            cluster.finish().await;
        });
    }
}

#[test]
fn a_failed_sync_is_not_acknowledged_and_stops_the_node_s_writes_until_a_restart() {
    simulated(async {
        let mut cluster = cluster(64).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let ledger = Ledger::new();
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        cluster.disk(ONE).only(JOURNAL);
        cluster.disk(ONE).fail_sync(1);
        let quick = WriteOptions { timeout: std::time::Duration::from_secs(1), ..options.clone() };
        let error = write(&client, "db", &[sample(0, 1)], &quick, &ledger).await.unwrap_err();
        assert_eq!(cluster.disk(ONE).injected().syncs, 1, "no sync has failed");
        // The bytes may be on the disk all the same.
        assert_eq!(error.kind(), quorate_client::error::WriteErrorKind::Indefinite, "{error}");
        assert!(statuses(&client, &[ONE]).await.unwrap()[&ONE].poisoned);
        let error = write(&client, "db", &[sample(0, 2)], &quick, &ledger).await.unwrap_err();
        assert_eq!(error.code(), quorate_protocol::code::Code::Poisoned, "{error}");
        assert_eq!(error.kind(), quorate_client::error::WriteErrorKind::Definite, "{error}");
        // Reading goes on.
        let text = export(&client, "db", Some(ONE)).await.unwrap();
        ledger.check(&[(ONE, text)]).assert_whole();

        cluster.stop(ONE).await;
        cluster.restart(ONE).await;
        cluster.wait_up(&client, &[ONE]).await;
        assert!(!statuses(&client, &[ONE]).await.unwrap()[&ONE].poisoned);
        write(&client, "db", &[sample(0, 3)], &options, &ledger).await.unwrap();
        let text = export(&client, "db", Some(ONE)).await.unwrap();
        ledger.check(&[(ONE, text)]).assert_whole();
        cluster.finish().await;
    });
}
