//! The hint queues as sessions and the drain see them: order, exact books, crashes at every
//! point, damage everywhere, full and broken disks.

mod aside;
mod flipped;
mod many;
mod operators;
mod outage;
mod purge;
mod room;
#[path = "../../../tests/harness/small_disk.rs"]
#[allow(unreachable_pub, clippy::duplicate_mod, reason = "tests of the shard store have it too")]
mod small_disk;
mod tally;
mod torn;

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::disk::{FaultDisk, Keep, MemoryDisk, Open, SystemDisk};
use crate::executor::Executor;
use crate::segment::header::Header;
use crate::segment::name;

const TARGET: NodeId = NodeId(3);
const SECOND: u64 = 1_000_000_000;

fn config() -> HandoffConfig {
    HandoffConfig { segment_bytes: 1024, ..HandoffConfig::default() }
}

fn open_with(disk: Arc<dyn Disk>, config: HandoffConfig) -> (Handoff, OpenReport) {
    Handoff::open(config, PathBuf::from("/handoff"), 5, disk, Executor::Inline).unwrap()
}

fn open(disk: &MemoryDisk) -> Handoff {
    open_with(Arc::new(disk.clone()), config()).0
}

fn batch(sequence: u64) -> Bytes {
    Bytes::from(vec![sequence as u8; 20 + (sequence % 40) as usize])
}

async fn append(handoff: &Handoff, sequence: u64) -> Result<Sequence, HandoffError> {
    let shard = ShardId(sequence % 4);
    handoff.append(TARGET, shard, batch(sequence), false, sequence * SECOND).await
}

async fn fill(handoff: &Handoff, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        assert_eq!(append(handoff, sequence).await.unwrap(), Sequence(sequence));
    }
}

fn check(records: &[HintRecord]) {
    for record in records {
        let sequence = record.sequence.0;
        assert_eq!(record.bytes, batch(sequence), "altered data was handed out");
        assert_eq!(record.shard, ShardId(sequence % 4));
        assert_eq!(record.appended_at, sequence * SECOND);
    }
}

/// Hands out everything, in small steps.
async fn take_all(handoff: &Handoff) -> Vec<u64> {
    let mut sequences = Vec::new();
    loop {
        let records = handoff.peek(TARGET, 7, 200).await.unwrap();
        if records.is_empty() {
            return sequences;
        }
        check(&records);
        sequences.extend(records.iter().map(|record| record.sequence.0));
    }
}

async fn deliver(handoff: &Handoff, sequences: &[u64]) {
    let ends = sequences.iter().map(|sequence| (Sequence(*sequence), Terminal::Delivered));
    handoff.complete_all(TARGET, ends.collect()).await.unwrap();
}

fn stats(handoff: &Handoff) -> QueueStats {
    let stats = handoff.stats().remove(&TARGET).unwrap_or_default();
    let ended = stats.delivered + stats.quarantined + stats.expired + stats.discarded;
    assert_eq!(stats.accepted, stats.pending + ended, "{stats:?}");
    stats
}

/// Whether everything is to be tried, not only a sample.
fn soak() -> bool {
    std::env::var_os("QUORATE_SOAK").is_some()
}

fn up_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

fn segment(number: u64) -> PathBuf {
    Path::new("/handoff/3").join(name::of(number))
}

fn segments(disk: &MemoryDisk) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        path.parent() == Some(Path::new("/handoff/3"))
            && name::parse(&path.file_name().unwrap().to_string_lossy()).is_some()
    };
    disk.paths().into_iter().filter(ours).collect()
}

#[tokio::test]
async fn hints_are_handed_out_in_order_once_and_booked_out_of_order() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=60).await;
    assert_eq!(take_all(&handoff).await, up_to(60));
    assert!(!handoff.ready(TARGET));
    assert!(segments(&disk).len() > 3, "everything fitted into one segment");
    let mut rest = up_to(60);
    rest.retain(|sequence| sequence % 5 != 0);
    rest.reverse();
    deliver(&handoff, &rest).await;
    assert_eq!((stats(&handoff).pending, stats(&handoff).delivered), (12, 48));
    let again = open(&disk);
    let expected: Vec<u64> = (1..=12).map(|index| index * 5).collect();
    assert_eq!(stats(&again).oldest_appended_at, Some(5 * SECOND));
    assert_eq!(take_all(&again).await, expected, "after a restart only what had not ended");
    deliver(&again, &expected).await;
    assert_eq!((stats(&again).pending, stats(&again).delivered, stats(&again).bytes), (0, 60, 0));
    assert!(segments(&disk).len() <= 1, "{:?}", segments(&disk));
    fill(&again, 61..=62).await;
    assert_eq!(take_all(&again).await, [61, 62]);
}

#[tokio::test]
async fn a_hint_ends_once() {
    let handoff = open(&MemoryDisk::new());
    fill(&handoff, 1..=3).await;
    let early = handoff.complete(TARGET, Sequence(1), Terminal::Delivered).await;
    assert!(matches!(early, Err(HandoffError::NotPending { .. })), "never handed out");
    take_all(&handoff).await;
    handoff.complete(TARGET, Sequence(1), Terminal::Delivered).await.unwrap();
    let reason = Terminal::Discarded(DiscardReason::ShardGone);
    let twice =
        handoff.complete_all(TARGET, vec![(Sequence(1), reason), (Sequence(2), reason)]).await;
    assert!(matches!(twice, Err(HandoffError::NotPending { sequence: Sequence(1), .. })));
    let stats = stats(&handoff);
    assert_eq!((stats.delivered, stats.discarded, stats.pending), (1, 1, 1));
    let expected = Reason { terminal: reason, shard: ShardId(2), count: 1 };
    assert_eq!(stats.reasons, [expected]);
    let nobody = handoff.complete(NodeId(9), Sequence(1), reason).await;
    assert!(matches!(nobody, Err(HandoffError::NoQueue(NodeId(9)))));
}

#[tokio::test]
async fn what_is_put_back_comes_first_again() {
    let handoff = open(&MemoryDisk::new());
    let mut changes = handoff.changed();
    fill(&handoff, 1..=30).await;
    assert!(changes.has_changed().unwrap());
    let first = handoff.peek(TARGET, 10, usize::MAX).await.unwrap();
    assert_eq!(first.len(), 10);
    changes.mark_unchanged();
    handoff.put_back(TARGET, &[Sequence(4), Sequence(9), Sequence(77)]);
    assert!(changes.has_changed().unwrap());
    let next = handoff.peek(TARGET, 4, usize::MAX).await.unwrap();
    check(&next);
    let sequences: Vec<_> = next.iter().map(|record| record.sequence.0).collect();
    assert_eq!(sequences, [4, 9, 11, 12]);
    deliver(&handoff, &[1, 2, 3]).await;
    handoff.rewind(TARGET);
    assert_eq!(take_all(&handoff).await, (4..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_record_larger_than_the_budget_or_a_segment_still_passes() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    let large = Bytes::from(vec![1; 5000]);
    fill(&handoff, 1..=1).await;
    handoff.append(TARGET, ShardId(1), large.clone(), false, 0).await.unwrap();
    fill(&handoff, 3..=3).await;
    let handoff = open(&disk);
    let one = handoff.peek(TARGET, 10, 100).await.unwrap();
    let two = handoff.peek(TARGET, 10, 100).await.unwrap();
    let three = handoff.peek(TARGET, 10, 100).await.unwrap();
    assert_eq!((one.len(), two.len(), three.len()), (1, 1, 1));
    assert_eq!(two[0].bytes, large);
    let small = HandoffConfig { max_record_bytes: 4999, ..config() };
    let (handoff, _) = open_with(Arc::new(MemoryDisk::new()), small);
    let refused = handoff.append(TARGET, ShardId(1), large, false, 0).await;
    assert!(matches!(refused, Err(HandoffError::TooLarge { bytes: 5000, limit: 4999 })));
}

#[tokio::test]
async fn f03_segments_are_read_in_the_order_of_their_numbers() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=1700).await;
    assert!(segments(&disk).len() > 100, "{}", segments(&disk).len());
    assert_eq!(take_all(&open(&disk)).await, up_to(1700));
}

#[tokio::test]
async fn expired_hints_leave_marks_and_the_queue_goes_on() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let path = Path::new("/handoff").join(marks::FILE);
    let marks = Marks::open(path, 1, shared, Executor::Inline).unwrap();
    let range = |bytes: &[u8]| Some((bytes.len() as i64, 1000));
    let age = config().max_age_seconds * SECOND;
    fill(&handoff, 1..=2).await;
    handoff.append(TARGET, ShardId(3), batch(3), true, 3 * SECOND).await.unwrap();
    fill(&handoff, 4..=5).await;
    assert_eq!(handoff.expire(age + SECOND, &marks, range).await.unwrap(), Expiry::default());
    let expiry = handoff.expire(age + 4 * SECOND + 1, &marks, range).await.unwrap();
    assert_eq!(expiry, Expiry { expired: 3, quarantined: 1 });
    let (mark, shards) = (marks.list()[1], marks.list().len());
    assert_eq!((mark.shard, mark.owner, mark.from, shards), (ShardId(1), TARGET, 21, 3));
    assert_eq!(mark.reason, MarkReason::HintExpired);
    let kept = handoff.quarantined(TARGET).unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].sequence, &kept[0].bytes), (Sequence(3), &batch(3)));
    assert_eq!(kept[0].reason, Terminal::Quarantined(QuarantineReason::TooOld));
    assert_eq!(handoff.expire(u64::MAX, &marks, range).await.unwrap().expired, 1);
    assert!(segments(&disk).is_empty(), "the files of an empty queue remain");
    // Purge, then append: the next hints are neither lost nor misnumbered.
    fill(&handoff, 6..=8).await;
    assert_eq!(take_all(&handoff).await, [6, 7, 8]);
    let again = open(&disk);
    assert_eq!(take_all(&again).await, [6, 7, 8]);
    let stats = stats(&again);
    assert_eq!((stats.accepted, stats.expired, stats.quarantined, stats.pending), (8, 4, 1, 3));
}

#[tokio::test]
async fn expiry_leaves_hints_in_flight_alone() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let marks = Marks::open("/handoff/marks".into(), 1, shared, Executor::Inline).unwrap();
    fill(&handoff, 1..=10).await;
    assert_eq!(handoff.peek(TARGET, 3, usize::MAX).await.unwrap().len(), 3);
    let expiry = handoff.expire(u64::MAX, &marks, |_| None).await.unwrap();
    assert_eq!(expiry.expired, 7);
    deliver(&handoff, &[1, 2, 3]).await;
    assert_eq!((stats(&handoff).delivered, stats(&handoff).expired), (3, 7));
    assert_eq!((marks.list()[0].from, marks.list()[0].to), (i64::MIN, i64::MAX));
}

/// What one run of the crash test was told.
#[derive(Default)]
struct Told {
    appended: u64,
    ended: BTreeSet<u64>,
}

async fn run_until_stopped(disk: &FaultDisk, told: &mut Told) -> Result<(), HandoffError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (handoff, report) =
        Handoff::open(config(), PathBuf::from("/handoff"), 5, Arc::clone(&disk), Executor::Inline)?;
    if let Some((_, reason)) = report.failed.first() {
        return Err(HandoffError::Io(Arc::new(io::Error::other(reason.clone()))));
    }
    let marks = Marks::open("/handoff/marks".into(), 1, disk, Executor::Inline)?;
    for sequence in 1..=24 {
        told.appended = append(&handoff, sequence).await?.0;
        if sequence % 8 == 0 {
            let records = handoff.peek(TARGET, 6, usize::MAX).await?;
            for (record, index) in records.iter().zip(0..) {
                let terminal = match index % 3 {
                    0 => Terminal::Delivered,
                    1 => Terminal::Quarantined(QuarantineReason::Refused(9)),
                    _ => Terminal::Discarded(DiscardReason::ShardGone),
                };
                handoff.complete(TARGET, record.sequence, terminal).await?;
                told.ended.insert(record.sequence.0);
            }
        }
    }
    let age = config().max_age_seconds * SECOND;
    handoff.expire(age + 20 * SECOND, &marks, |_| None).await?;
    told.ended.extend(1..20);
    Ok(())
}

#[tokio::test]
async fn a_crash_at_every_operation_loses_no_hint_and_no_count() {
    for stop in 0.. {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        disk.stop_after(stop);
        let mut told = Told::default();
        let outcome = run_until_stopped(&disk, &mut told).await;
        for keep in [Keep::All, Keep::Synced, Keep::First(11), Keep::Last(60)] {
            let after = memory.crash(keep);
            for _ in 0..2 {
                let (handoff, report) = open_with(Arc::new(after.clone()), config());
                assert!(report.failed.is_empty(), "stop {stop} {keep:?} {report:?}");
                let found = take_all(&handoff).await;
                let stats = stats(&handoff);
                let accepted = told.appended..=told.appended + 1;
                assert!(accepted.contains(&stats.accepted), "stop {stop} {keep:?} {stats:?}");
                assert!(found.is_sorted());
                assert_eq!(found.len() as u64, stats.pending, "stop {stop} {keep:?} {stats:?}");
                let found: BTreeSet<u64> = found.into_iter().collect();
                let owed = (1..=told.appended).filter(|sequence| !told.ended.contains(sequence));
                for sequence in owed {
                    // One whose end was being booked when the power went may have ended.
                    let ended = stats.accepted - stats.pending > told.ended.len() as u64;
                    assert!(ended || found.contains(&sequence), "stop {stop} {keep:?} {sequence}");
                }
                if keep == Keep::All {
                    assert!(told.ended.is_disjoint(&found), "stop {stop}: delivered twice");
                }
                // Nothing that was handed over to an operator is only a number.
                let kept = handoff.quarantined(TARGET).unwrap();
                let distinct: BTreeSet<_> = kept.iter().map(|hint| hint.sequence).collect();
                assert!(distinct.len() as u64 >= stats.quarantined, "stop {stop} {keep:?}");
            }
            let handoff = open(&after);
            let next = stats(&handoff).accepted + 1;
            assert_eq!(append(&handoff, next).await.unwrap(), Sequence(next), "{stop} {keep:?}");
        }
        if disk.injected().stopped == 0 {
            outcome.unwrap();
            assert!(stop > 100, "the run was too short to mean anything: {stop}");
            return;
        }
    }
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_loses_only_what_is_torn() {
    let disk = MemoryDisk::new();
    fill(&open(&disk), 1..=25).await;
    let path = segments(&disk).pop().unwrap();
    let bytes = disk.content(&path).unwrap();
    let before = 25 - bytes.windows(4).filter(|window| window == b"QREC").count() as u64;
    for cut in 0..bytes.len() {
        for refill in [None, Some(0)] {
            let torn = disk.crash(Keep::All);
            let mut part = bytes[..cut].to_vec();
            if let Some(byte) = refill {
                part.resize(bytes.len(), byte);
            }
            torn.replace(&path, part);
            let (handoff, report) = open_with(Arc::new(torn.clone()), config());
            assert!(report.failed.is_empty(), "cut {cut} {report:?}");
            let found = take_all(&handoff).await;
            let last = found.len() as u64;
            assert_eq!(found, up_to(last), "cut {cut}");
            assert!(last >= before, "cut {cut}");
            assert_eq!(stats(&handoff).quarantined, 0, "cut {cut}: a torn tail is not damage");
            assert_eq!(append(&handoff, last + 1).await.unwrap(), Sequence(last + 1));
            assert_eq!(take_all(&handoff).await, [last + 1], "cut {cut}");
            assert_eq!(take_all(&open(&torn)).await, up_to(last + 1), "cut {cut}");
        }
    }
}

#[tokio::test]
async fn any_flipped_bit_costs_at_most_its_own_hint() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=20).await;
    assert_eq!(segments(&disk).len(), 2);
    for path in segments(&disk) {
        let bytes = disk.content(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let damaged = disk.crash(Keep::All);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            damaged.replace(&path, flipped);
            let (handoff, report) = open_with(Arc::new(damaged), config());
            assert_eq!(report.unreadable_segments, 0, "bit {bit}");
            let found = take_all(&handoff).await;
            assert!(found.is_sorted());
            let lost = 20 - found.len() as u64;
            let stats = stats(&handoff);
            assert!(lost <= 1, "bit {bit} of {path:?} cost {lost} hints");
            assert_eq!((stats.accepted, stats.quarantined), (20, lost), "bit {bit} of {path:?}");
            assert_eq!(handoff.quarantined(TARGET).unwrap().len() as u64, lost);
            assert_eq!(append(&handoff, 21).await.unwrap(), Sequence(21), "bit {bit}");
            assert_eq!(take_all(&handoff).await, [21], "bit {bit} of {path:?}");
        }
    }
}

#[tokio::test]
async fn damage_under_a_running_queue_is_quarantined_when_it_is_read() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=20).await;
    let file = disk.open(&segment(1), Open::Existing).unwrap();
    file.write_at(128 + 60, &[0xff; 150]).unwrap();
    let found = take_all(&handoff).await;
    let lost = 20 - found.len() as u64;
    assert!((2..=4).contains(&lost), "{found:?}");
    assert_eq!(stats(&handoff).quarantined, lost);
    deliver(&handoff, &found).await;
    let again = open(&disk);
    assert_eq!((stats(&again).pending, stats(&again).quarantined), (0, lost));
    let kept = again.quarantined(TARGET).unwrap();
    assert!(kept.iter().any(|hint| hint.bytes.windows(4).any(|bytes| bytes == [0xff; 4])));
}

#[tokio::test]
async fn unreadable_missing_newer_and_foreign_files_never_stop_a_queue() {
    let disk = MemoryDisk::new();
    fill(&open(&disk), 1..=60).await;
    let count = segments(&disk).len() as u64;
    assert!(count >= 6);
    disk.replace(&segment(2), vec![0xaa; 1024]);
    disk.remove(&segment(4)).unwrap();
    disk.replace(Path::new("/handoff/3/notes.txt"), b"mine".to_vec());
    disk.replace(Path::new("/handoff/readme"), b"mine".to_vec());
    disk.replace(Path::new("/handoff/3/00000000000000000999"), {
        let mut newer = vec![0; 128];
        newer[..8].copy_from_slice(b"QSEG\x02\0\x02\0");
        let crc = crc32fast::hash(&newer[..60]).to_le_bytes();
        newer[60..64].copy_from_slice(&crc);
        newer
    });
    disk.create_directory(Path::new("/handoff/03")).unwrap();
    let (handoff, report) = open_with(Arc::new(disk.clone()), config());
    assert_eq!((report.queues, report.unreadable_segments), (1, 1));
    let unknown = ["03", "3/00000000000000000999", "3/notes.txt", "readme"];
    let mut found_unknown = report.unknown_files.clone();
    found_unknown.sort();
    assert_eq!(found_unknown, unknown);
    let found = take_all(&handoff).await;
    let stats = stats(&handoff);
    assert_eq!(stats.accepted, 60);
    assert_eq!(found.len() as u64 + stats.quarantined, 60);
    assert!(stats.quarantined >= 10, "two segments are gone: {stats:?}");
    deliver(&handoff, &found).await;
    assert_eq!(append(&handoff, 61).await.unwrap(), Sequence(61));
    assert!(disk.paths().contains(&PathBuf::from("/handoff/3/notes.txt")));
    assert!(disk.paths().contains(&segment(999)));
}

#[tokio::test]
async fn lost_books_are_admitted() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=60).await;
    take_all(&handoff).await;
    deliver(&handoff, &up_to(40)).await;
    disk.remove(Path::new("/handoff/3/accounts-0")).unwrap();
    disk.remove(Path::new("/handoff/3/accounts-1")).unwrap();
    let again = open(&disk);
    let found = take_all(&again).await;
    let stats = stats(&again);
    assert_eq!((stats.accepted, stats.discarded + stats.pending), (60, 60));
    assert_eq!(stats.reasons[0].terminal, Terminal::Discarded(DiscardReason::Unaccounted));
    assert!(found.ends_with(&(41..=60).collect::<Vec<_>>()), "a pending hint is missing");
}

#[tokio::test]
async fn a_failed_sync_is_reported_and_the_queue_goes_on_in_a_new_file() {
    for failure in ["sync", "write"] {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let (handoff, _) = open_with(Arc::new(disk.clone()), config());
        fill(&handoff, 1..=3).await;
        if failure == "sync" {
            disk.fail_sync(1)
        } else {
            disk.fail_write(1, 60)
        }
        let error = append(&handoff, 4).await.unwrap_err();
        assert!(matches!(error, HandoffError::Io(_)) && !error.definite(), "{error}");
        assert_eq!(disk.injected().syncs + disk.injected().writes, 1);
        assert_eq!(stats(&handoff).accepted, 3);
        fill(&handoff, 4..=6).await;
        assert_eq!(segments(&memory).len(), 2, "a hint rests on the failed file");
        assert_eq!(take_all(&handoff).await, up_to(6));
        for keep in [Keep::All, Keep::Synced] {
            let again = open(&memory.crash(keep));
            assert_eq!(take_all(&again).await, up_to(6), "{keep:?}");
            assert_eq!(stats(&again).quarantined, 0);
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_hints_but_not_their_delivery() {
    for room in [0, 30, 100, 500] {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let (handoff, _) = open_with(Arc::new(disk.clone()), config());
        fill(&handoff, 1..=30).await;
        disk.only("/handoff/3/0");
        // Files opened before are planned for as well, so open again.
        drop(handoff);
        let (handoff, _) = open_with(Arc::new(disk.clone()), config());
        disk.set_room(Some(room));
        let mut stored = 30;
        let error = loop {
            match append(&handoff, stored + 1).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, HandoffError::DiskFull) && error.definite(), "{error}");
        assert!(disk.injected().full > 0);
        assert_eq!(stats(&open(&memory.crash(Keep::All))).accepted, stored, "it appeared");
        let found = take_all(&handoff).await;
        assert_eq!(found, up_to(stored));
        deliver(&handoff, &found).await;
        assert_eq!(stats(&handoff).pending, 0, "a full disk kept the queue from draining");
        disk.set_room(None);
        fill(&handoff, stored + 1..=stored + 20).await;
        let again = open(&memory.crash(Keep::Synced));
        let last: Vec<u64> = (stored + 1..=stored + 20).collect();
        assert!(take_all(&again).await.ends_with(&last));
    }
}

#[tokio::test]
async fn full_queues_refuse_and_take_again_after_a_drain() {
    let limits = HandoffConfig { max_bytes: 4096, max_total_bytes: 6144, ..config() };
    let disk = MemoryDisk::new();
    let (handoff, _) = open_with(Arc::new(disk.clone()), limits);
    let mut stored = 0;
    let error = loop {
        match append(&handoff, stored + 1).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, HandoffError::QueueFull { target: TARGET, limit: 4096, .. }));
    let other = loop {
        if let Err(error) = handoff.append(NodeId(8), ShardId(1), batch(1), false, 0).await {
            break error;
        }
    };
    assert!(matches!(other, HandoffError::TotalFull { bytes: 6144, limit: 6144 }), "{other}");
    assert!(stats(&handoff).disk_bytes <= 4096);
    let found = take_all(&handoff).await;
    assert_eq!(found, up_to(stored));
    deliver(&handoff, &found).await;
    fill(&handoff, stored + 1..=stored + 3).await;
    handoff.append(NodeId(8), ShardId(1), batch(1), false, 0).await.unwrap();
    assert_eq!(handoff.targets(), [TARGET, NodeId(8)]);
    assert_eq!(handoff.totals().pending, handoff.pending(TARGET) + handoff.pending(NodeId(8)));
}

#[tokio::test]
async fn a_false_note_of_the_position_loses_nothing() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=8).await;
    take_all(&handoff).await;
    deliver(&handoff, &[1, 2]).await;
    let bytes = disk.content(&segment(1)).unwrap();
    let crate::segment::header::Parsed::Header(header) = Header::parse(&bytes) else {
        panic!("no header");
    };
    let place = bytes.len() - 8;
    let noted = u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap());
    assert!(noted > 128, "the position was not noted");
    for offset in (0..1100).chain([u32::MAX]) {
        let mut wrong = bytes.clone();
        wrong[place..].copy_from_slice(&crate::segment::trailer::encode(header.seed(), offset));
        let changed = disk.crash(Keep::All);
        changed.replace(&segment(1), wrong);
        assert_eq!(take_all(&open(&changed)).await, (3..=8).collect::<Vec<_>>(), "{offset}");
    }
}

#[test]
fn figures_are_printed_as_scripts_expect_them() {
    let stats = QueueStats { accepted: 3, delivered: 2, pending: 1, ..QueueStats::default() };
    let json = serde_json::to_value(&stats).unwrap();
    for (key, value) in [("accepted", 3), ("delivered", 2), ("pending", 1), ("expired", 0)] {
        assert_eq!(json[key], value, "{json}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_hints_on_a_real_disk_are_drained_beside_appends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handoff");
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let config = HandoffConfig { segment_bytes: 8192, ..HandoffConfig::default() };
    let opened = || {
        let disk = Arc::clone(&disk);
        Handoff::open(config.clone(), path.clone(), 1, disk, Executor::Thread).unwrap()
    };
    let handoff = Arc::new(opened().0);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let handoff = Arc::clone(&handoff);
            tokio::spawn(async move {
                for _ in 0..50 {
                    let payload = Bytes::from_static(&[7; 300]);
                    handoff.append(TARGET, ShardId(1), payload, false, 1).await.unwrap();
                }
            })
        })
        .collect();
    let drain = tokio::spawn({
        let handoff = Arc::clone(&handoff);
        async move {
            let mut changed = handoff.changed();
            let mut seen = 0;
            while seen < 400 {
                let records = handoff.peek(TARGET, 64, 1 << 20).await.unwrap();
                if records.is_empty() {
                    changed.changed().await.unwrap();
                    continue;
                }
                for record in &records {
                    seen += 1;
                    assert_eq!(record.sequence.0, seen);
                }
                let ends = records.iter().map(|record| (record.sequence, Terminal::Delivered));
                handoff.complete_all(TARGET, ends.collect()).await.unwrap();
            }
        }
    });
    for writer in writers {
        writer.await.unwrap();
    }
    drain.await.unwrap();
    handoff.close().await;
    assert!(matches!(append(&handoff, 1).await, Err(HandoffError::Closed)));
    let (again, report) = opened();
    assert_eq!((report.queues, report.pending), (1, 0));
    let totals = again.totals();
    assert_eq!((totals.accepted, totals.delivered, totals.pending), (400, 400, 0));
}
