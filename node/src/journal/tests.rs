//! The journal as its callers see it: order, recovery, crashes at every point, full and broken
//! disks, reuse of segments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_protocol::id::NodeId;

use super::*;
use crate::disk::{FaultDisk, Keep, MemoryDisk, SystemDisk};
use crate::executor::Executor;

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Committed>>);

impl Sink for Seen {
    fn committed(&self, records: &[Committed]) {
        self.0.lock().unwrap().extend_from_slice(records);
    }
}

impl Seen {
    fn sequences(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|record| record.sequence.0).collect()
    }
}

fn config() -> JournalConfig {
    JournalConfig { segment_bytes: 1024, spare_segments: 2, ..JournalConfig::default() }
}

fn home() -> JournalHome {
    JournalHome {
        directory: PathBuf::from("/data/journal"),
        node: NodeId(4),
        salt: 11,
        applied: Sequence(0),
        durability: Durability::Commit,
    }
}

struct Opened {
    journal: Journal,
    recovery: Recovery,
    records: Vec<Committed>,
    sink: Arc<Seen>,
}

fn try_open(disk: Arc<dyn Disk>, home: JournalHome) -> Result<Opened, JournalOpenError> {
    let sink = Arc::new(Seen::default());
    let mut records = Vec::new();
    let (journal, recovery) = Journal::open(
        config(),
        home,
        disk,
        Executor::Inline,
        Arc::clone(&sink) as Arc<dyn Sink>,
        &mut |record| records.push(record),
    )?;
    Ok(Opened { journal, recovery, records, sink })
}

fn open(disk: &MemoryDisk) -> Opened {
    try_open(Arc::new(disk.clone()), home()).unwrap()
}

fn batch(index: u64) -> Bytes {
    Bytes::from(vec![index as u8; 30 + (index % 50) as usize])
}

async fn append(journal: &Journal, index: u64) -> Result<Sequence, JournalError> {
    let appended = journal.append(ShardId(index % 3), batch(index)).await?;
    assert!(!appended.buffered);
    Ok(appended.sequence)
}

fn check(records: &[Committed]) {
    for record in records {
        let index = record.sequence.0;
        assert_eq!((record.shard, &record.payload), (ShardId(index % 3), &batch(index)));
    }
}

fn sequences(records: &[Committed]) -> Vec<u64> {
    records.iter().map(|record| record.sequence.0).collect()
}

fn up_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test]
async fn what_was_appended_is_recovered_in_order_and_the_sequence_goes_on() {
    let disk = MemoryDisk::new();
    let first = open(&disk);
    assert_eq!(first.recovery, Recovery::default());
    for index in 1..=100 {
        assert_eq!(append(&first.journal, index).await.unwrap(), Sequence(index));
    }
    assert_eq!(first.sink.sequences(), up_to(100));
    for keep in [Keep::All, Keep::Synced] {
        let again = open(&disk.crash(keep));
        check(&again.records);
        assert_eq!(sequences(&again.records), up_to(100), "{keep:?}");
        assert_eq!(again.recovery.highest, Sequence(100));
        assert_eq!((again.recovery.records, again.recovery.damaged_records), (100, 0));
        assert_eq!(append(&again.journal, 101).await.unwrap(), Sequence(101));
    }
}

#[tokio::test]
async fn restarts_without_writes_keep_the_sequence_and_add_no_files() {
    let disk = MemoryDisk::new();
    append(&open(&disk).journal, 1).await.unwrap();
    for _ in 0..20 {
        let again = open(&disk);
        assert_eq!(again.recovery.highest, Sequence(1));
        again.journal.release(Sequence(1)).await.unwrap();
    }
    assert!(disk.paths().len() <= 3, "{:?}", disk.paths());
    assert_eq!(append(&open(&disk).journal, 2).await.unwrap(), Sequence(2));
}

#[tokio::test]
async fn a_crash_at_every_operation_loses_nothing_acknowledged() {
    for stop in 0.. {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        disk.stop_after(stop);
        let mut acked = 0;
        if let Ok(opened) = try_open(Arc::new(disk.clone()), home()) {
            for index in 1..=40 {
                match append(&opened.journal, index).await {
                    Ok(sequence) => acked = sequence.0,
                    Err(_) => break,
                }
                if index % 15 == 0 {
                    opened.journal.release(Sequence(index - 12)).await.unwrap();
                }
            }
        }
        for keep in [Keep::All, Keep::Synced, Keep::First(9), Keep::Last(90)] {
            let after = memory.crash(keep);
            let again = open(&after);
            check(&again.records);
            let found = sequences(&again.records);
            let highest = again.recovery.highest.0;
            assert!(highest == acked || highest == acked + 1, "stop {stop} {keep:?}");
            let released = if acked >= 30 {
                18
            } else if acked >= 15 {
                3
            } else {
                0
            };
            let first = found.first().copied().unwrap_or(1).min(acked + 1);
            assert!(first <= released + 1, "stop {stop} {keep:?}: {found:?} acked {acked}");
            let contiguous = found.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            assert!(contiguous, "stop {stop} {keep:?}: {found:?}");
            assert!(found.is_empty() || found.last() >= Some(&acked), "stop {stop} {keep:?}");
            assert_eq!(append(&again.journal, highest + 1).await.unwrap().0, highest + 1);
            check(&open(&after).records);
        }
        if disk.injected().stopped == 0 {
            assert!(stop > 80, "the run was too short to mean anything: {stop}");
            return;
        }
    }
}

/// The path of the segment with the highest number that holds a record.
fn last_written(disk: &MemoryDisk) -> PathBuf {
    let written = |path: &&PathBuf| disk.content(path).unwrap().get(128..132) == Some(b"QREC");
    let directory = Path::new("/data/journal");
    disk.paths()
        .iter()
        .filter(|path| path.parent() == Some(directory))
        .rfind(written)
        .cloned()
        .unwrap()
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_costs_only_what_is_torn() {
    let disk = MemoryDisk::new();
    let first = open(&disk);
    for index in 1..=30 {
        append(&first.journal, index).await.unwrap();
    }
    let path = last_written(&disk);
    let bytes = disk.content(&path).unwrap();
    for cut in 0..bytes.len() {
        let torn = disk.crash(Keep::All);
        torn.replace(&path, bytes[..cut].to_vec());
        let again = open(&torn);
        check(&again.records);
        let found = again.records.len() as u64;
        assert_eq!(sequences(&again.records), up_to(found), "cut {cut}");
        assert_eq!(again.recovery.damaged_records, 0, "cut {cut}");
        assert!(found >= 15, "cut {cut}");
        assert_eq!(append(&again.journal, found + 1).await.unwrap(), Sequence(found + 1));
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_set_aside_and_counted_once() {
    let disk = MemoryDisk::new();
    let first = open(&disk);
    for index in 1..=30 {
        append(&first.journal, index).await.unwrap();
    }
    let path = Path::new("/data/journal").join(crate::segment::name::of(1));
    let mut bytes = disk.content(&path).unwrap();
    bytes[128 + 50] ^= 1;
    disk.replace(&path, bytes);
    for _ in 0..2 {
        let again = open(&disk);
        check(&again.records);
        assert_eq!(sequences(&again.records), (2..=30).collect::<Vec<_>>());
        assert_eq!(again.recovery.damaged_records, 1);
        let damage = &again.recovery.damage[0];
        assert_eq!((damage.shard, damage.after), (Some(ShardId(1)), Sequence(0)));
    }
    let aside = |path: &&PathBuf| path.starts_with("/data/journal/quarantine");
    assert_eq!(disk.paths().iter().filter(aside).count(), 1);
}

#[tokio::test]
async fn an_unreadable_segment_does_not_stop_the_node() {
    let disk = MemoryDisk::new();
    let first = open(&disk);
    for index in 1..=30 {
        append(&first.journal, index).await.unwrap();
    }
    let path = Path::new("/data/journal").join(crate::segment::name::of(2));
    disk.replace(&path, vec![0xaa; 1024]);
    disk.replace(Path::new("/data/journal/notes.txt"), b"mine".to_vec());
    let again = open(&disk);
    check(&again.records);
    assert_eq!(again.recovery.unreadable_segments, 1);
    assert_eq!(again.recovery.unknown_files, ["notes.txt"]);
    let lost = 30 - again.records.len() as u64;
    assert!(lost > 0);
    assert_eq!(again.recovery.damaged_records, lost);
    assert_eq!(again.recovery.highest, Sequence(30));
}

#[tokio::test]
async fn a_failed_sync_or_write_poisons_the_journal_until_it_is_reopened() {
    for failure in ["sync", "write"] {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let opened = try_open(Arc::new(disk.clone()), home()).unwrap();
        append(&opened.journal, 1).await.unwrap();
        if failure == "sync" {
            disk.fail_sync(1)
        } else {
            disk.fail_write(1, 20)
        }
        let error = append(&opened.journal, 2).await.unwrap_err();
        assert!(matches!(error, JournalError::Io(_)) && !error.definite(), "{error}");
        let injected = disk.injected();
        assert_eq!(injected.syncs + injected.writes, 1);
        let operations = disk.operations();
        let error = append(&opened.journal, 2).await.unwrap_err();
        assert!(matches!(error, JournalError::Poisoned(_)) && error.definite(), "{error}");
        assert_eq!(disk.operations(), operations, "a poisoned journal touched the disk");
        assert!(opened.journal.poison().is_set());
        assert_eq!(opened.sink.sequences(), [1], "an unsynced record became visible");
        let again = open(&memory.crash(Keep::Synced));
        assert_eq!(sequences(&again.records), [1]);
        append(&again.journal, 2).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_definite_and_passes() {
    for room in [0, 1, 40, 130] {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let opened = try_open(Arc::new(disk.clone()), home()).unwrap();
        for index in 1..=12 {
            append(&opened.journal, index).await.unwrap();
        }
        disk.set_room(Some(room));
        let mut stored = 12;
        let error = loop {
            match append(&opened.journal, stored + 1).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, JournalError::DiskFull) && error.definite(), "{error}");
        assert!(disk.injected().full > 0);
        assert!(!opened.journal.poison().is_set());
        let meanwhile = open(&memory.crash(Keep::All));
        assert_eq!(sequences(&meanwhile.records), up_to(stored), "a refused record appeared");
        disk.set_room(None);
        for index in stored + 1..=30 {
            assert_eq!(append(&opened.journal, index).await.unwrap(), Sequence(index));
        }
        assert_eq!(sequences(&open(&memory.crash(Keep::Synced)).records), up_to(30));
    }
}

#[tokio::test]
async fn released_segments_are_reused_and_never_served_again() {
    let disk = MemoryDisk::new();
    let first = open(&disk);
    for index in 1..=500 {
        append(&first.journal, index).await.unwrap();
        first.journal.release(Sequence(index.saturating_sub(20))).await.unwrap();
    }
    let stats = first.journal.stats();
    assert!(stats.spare_segments <= 2 && stats.bytes <= 8 * 1024, "{stats:?}");
    assert!(disk.paths().len() <= 8, "{:?}", disk.paths());
    let again = open(&disk);
    check(&again.records);
    let found = sequences(&again.records);
    assert_eq!(found.last(), Some(&500));
    assert!(found[0] > 440 && found[0] <= 481, "{found:?}");
    assert_eq!(again.recovery.damaged_records, 0);
}

#[tokio::test]
async fn a_record_larger_than_a_segment_gets_its_own() {
    let disk = MemoryDisk::new();
    let first = open(&disk);
    let large = Bytes::from(vec![9; 5000]);
    append(&first.journal, 1).await.unwrap();
    first.journal.append(ShardId(0), large.clone()).await.unwrap();
    append(&first.journal, 3).await.unwrap();
    let again = open(&disk);
    assert_eq!(sequences(&again.records), [1, 2, 3]);
    assert_eq!(again.records[1].payload, large);
    let config = JournalConfig { max_record_bytes: 100, ..config() };
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let sink: Arc<dyn Sink> = Arc::new(Seen::default());
    let (journal, _) =
        Journal::open(config, home(), disk, Executor::Inline, sink, &mut |_| {}).unwrap();
    let error = journal.append(ShardId(0), large).await.unwrap_err();
    assert!(matches!(error, JournalError::TooLarge { bytes: 5000, limit: 100 }));
}

#[tokio::test]
async fn journals_of_others_and_of_the_future_are_refused_untouched() {
    let disk = MemoryDisk::new();
    append(&open(&disk).journal, 1).await.unwrap();
    let before = disk.paths();
    let other = JournalHome { node: NodeId(5), ..home() };
    let error = try_open(Arc::new(disk.clone()), other).map(|_| ()).unwrap_err();
    assert!(matches!(error, JournalOpenError::OtherNode { found: NodeId(4), .. }), "{error}");
    let path = last_written(&disk);
    let mut bytes = disk.content(&path).unwrap();
    for at in [0, 64] {
        bytes[at + 4] = 2;
        let crc = crc32fast::hash(&bytes[at..at + 60]).to_le_bytes();
        bytes[at + 60..at + 64].copy_from_slice(&crc);
    }
    disk.replace(&path, bytes);
    let error = try_open(Arc::new(disk.clone()), home()).map(|_| ()).unwrap_err();
    assert!(matches!(error, JournalOpenError::NewerFormat { found: 2, .. }), "{error}");
    assert_eq!(disk.paths(), before);
}

#[tokio::test]
async fn the_sequence_never_falls_behind_what_shards_have_applied() {
    let ahead = JournalHome { applied: Sequence(77), ..home() };
    let opened = try_open(Arc::new(MemoryDisk::new()), ahead).unwrap();
    assert_eq!(opened.recovery.highest, Sequence(77));
    assert_eq!(append(&opened.journal, 1).await.unwrap(), Sequence(78));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_on_a_real_disk_share_syncs_and_reach_the_sink_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let home = JournalHome { directory: directory.path().join("journal"), ..home() };
    let sink = Arc::new(Seen::default());
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let opened = |sink: &Arc<Seen>, records: &mut Vec<Committed>| {
        let sink: Arc<dyn Sink> = Arc::<Seen>::clone(sink);
        let disk = Arc::clone(&disk);
        Journal::open(config(), home.clone(), disk, Executor::Thread, sink, &mut |record| {
            records.push(record);
        })
        .unwrap()
    };
    let (journal, _) = opened(&sink, &mut Vec::new());
    let journal = Arc::new(journal);
    let tasks: Vec<_> = (0..200)
        .map(|index| {
            let (journal, sink) = (Arc::clone(&journal), Arc::clone(&sink));
            tokio::spawn(async move {
                let sequence = journal.append(ShardId(1), batch(index)).await.unwrap().sequence;
                assert!(sink.sequences().contains(&sequence.0), "answered before visible");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(sink.sequences(), up_to(200));
    assert!(journal.stats().syncs < 200, "{:?}", journal.stats());
    journal.close().await;
    assert!(matches!(append(&journal, 1).await, Err(JournalError::Closed)));
    let mut records = Vec::new();
    let (_, recovery) = opened(&sink, &mut records);
    assert_eq!((sequences(&records), recovery.damaged_records), (up_to(200), 0));
}

mod busy;
mod interval;
mod trim;
