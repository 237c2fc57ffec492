//! An idle journal gives its disk space back, and is a journal at every step of that.

use super::*;

fn bytes_on(disk: &MemoryDisk) -> u64 {
    disk.paths().iter().map(|path| disk.content(path).unwrap().len() as u64).sum()
}

async fn used(journal: &Journal, last: u64) {
    for index in journal.stats().last_sequence.0 + 1..=last {
        append(journal, index).await.unwrap();
        journal.release(Sequence(index.saturating_sub(20))).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_idle_and_applied_takes_one_header_and_goes_on_where_it_was() {
    let disk = MemoryDisk::new();
    let journal = open(&disk).journal;
    used(&journal, 200).await;
    assert!(journal.stats().spare_segments > 0);
    // Not while anything is not applied.
    for upto in [0, 150, 199] {
        let before = bytes_on(&disk);
        journal.trim(Sequence(upto)).await.unwrap();
        assert_eq!(bytes_on(&disk), before, "{upto}");
    }
    journal.trim(Sequence(200)).await.unwrap();
    assert!(bytes_on(&disk) > 1000, "what is not released must stay");
    journal.release(Sequence(200)).await.unwrap();
    for _ in 0..3 {
        journal.trim(Sequence(200)).await.unwrap();
        assert_eq!((bytes_on(&disk), disk.paths().len()), (128, 1));
        let stats = journal.stats();
        assert_eq!((stats.bytes, stats.segments, stats.spare_segments), (128, 1, 0));
    }
    for keep in [Keep::All, Keep::Synced] {
        let again = open(&disk.crash(keep));
        assert_eq!((again.records.len(), again.recovery.damaged_records), (0, 0));
        assert_eq!(again.recovery.highest, Sequence(200));
        // The segment that a start begins is trimmed like any other.
        again.journal.trim(Sequence(200)).await.unwrap();
        assert_eq!(again.journal.stats().bytes, 128);
    }
    for index in 201..=203 {
        assert_eq!(append(&journal, index).await.unwrap(), Sequence(index));
        assert_eq!(journal.stats().bytes, 1024);
        let again = open(&disk.crash(Keep::Synced));
        check(&again.records);
        assert_eq!(sequences(&again.records), (201..=index).collect::<Vec<_>>());
    }
    used(&journal, 500).await;
}

#[tokio::test]
async fn a_crash_at_every_operation_of_a_trim_keeps_sequence_and_records() {
    for stop in 0.. {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let journal = try_open(Arc::new(disk.clone()), home()).unwrap().journal;
        used(&journal, 100).await;
        journal.release(Sequence(100)).await.unwrap();
        disk.stop_after(stop);
        journal.trim(Sequence(100)).await.unwrap();
        let acked = append(&journal, 101).await.is_ok();
        for keep in [Keep::All, Keep::Synced, Keep::First(9), Keep::Last(90)] {
            let after = memory.crash(keep);
            let again = open(&after);
            check(&again.records);
            assert_eq!(again.recovery.damaged_records, 0, "stop {stop} {keep:?}");
            let highest = again.recovery.highest.0;
            assert!(highest == 100 || highest == 101, "stop {stop} {keep:?}: {highest}");
            assert!(highest == 101 || !acked, "stop {stop} {keep:?}: 101 was lost");
            assert_eq!(append(&again.journal, highest + 1).await.unwrap().0, highest + 1);
            check(&open(&after).records);
        }
        if disk.injected().stopped == 0 {
            assert!(acked && stop > 8, "the run was too short to mean anything: {stop}");
            return;
        }
    }
}

#[tokio::test]
async fn a_trimmed_journal_torn_at_any_byte_begins_again_where_it_was() {
    let disk = MemoryDisk::new();
    let journal = open(&disk).journal;
    used(&journal, 100).await;
    journal.release(Sequence(100)).await.unwrap();
    journal.trim(Sequence(100)).await.unwrap();
    append(&journal, 101).await.unwrap();
    let path = last_written(&disk);
    let bytes = disk.content(&path).unwrap();
    for cut in 64..bytes.len() {
        let torn = disk.crash(Keep::All);
        torn.replace(&path, bytes[..cut].to_vec());
        let again = open(&torn);
        check(&again.records);
        let found = again.records.len() as u64;
        assert_eq!(again.recovery.damaged_records, 0, "cut {cut}");
        assert_eq!(append(&again.journal, 101 + found).await.unwrap(), Sequence(101 + found));
    }
}

#[tokio::test]
async fn a_full_disk_after_a_trim_is_definite_and_passes() {
    let memory = MemoryDisk::new();
    let disk = FaultDisk::new(Arc::new(memory.clone()));
    let journal = try_open(Arc::new(disk.clone()), home()).unwrap().journal;
    used(&journal, 100).await;
    journal.release(Sequence(100)).await.unwrap();
    journal.trim(Sequence(100)).await.unwrap();
    disk.set_room(Some(0));
    for _ in 0..2 {
        let error = append(&journal, 101).await.unwrap_err();
        assert!(matches!(error, JournalError::DiskFull), "{error}");
    }
    assert!(disk.injected().full > 0);
    disk.set_room(None);
    assert_eq!(append(&journal, 101).await.unwrap(), Sequence(101));
    assert_eq!(sequences(&open(&memory.crash(Keep::Synced)).records), [101]);
}
