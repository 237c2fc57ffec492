//! A real file system with hardly any room: hints are refused and never acknowledged, ends are
//! booked all the same, and everything goes on by itself once there is room.

use rustix::fs::FallocateFlags;

use super::small_disk::SmallDisk;
use super::*;
use crate::segment::{header, record};

const SEGMENT: u64 = 64 << 10;
const KIB: u64 = 1 << 10;

fn config() -> HandoffConfig {
    HandoffConfig { segment_bytes: SEGMENT, ..HandoffConfig::default() }
}

fn open(disk: &SmallDisk) -> (Handoff, OpenReport) {
    let path = disk.path().join("handoff");
    Handoff::open(config(), path, 5, Arc::new(SystemDisk), Executor::Inline).unwrap()
}

/// About sixteen fill a segment.
fn large(sequence: u64) -> Bytes {
    Bytes::from(vec![sequence as u8; 4000])
}

async fn append(handoff: &Handoff, sequence: u64) -> Result<Sequence, HandoffError> {
    handoff.append(TARGET, ShardId(1), large(sequence), false, sequence).await
}

/// Appends until there is no room; the last sequence that was acknowledged.
async fn fill_up(handoff: &Handoff, mut stored: u64) -> u64 {
    loop {
        match append(handoff, stored + 1).await {
            Ok(sequence) => {
                stored += 1;
                assert_eq!(sequence, Sequence(stored));
            }
            Err(error) => {
                assert!(matches!(error, HandoffError::DiskFull) && error.definite(), "{error}");
                return stored;
            }
        }
        assert!(stored < 10_000, "the disk is never full");
    }
}

async fn take(handoff: &Handoff) -> Vec<u64> {
    let records = handoff.peek(TARGET, usize::MAX, usize::MAX).await.unwrap();
    records
        .iter()
        .map(|record| {
            assert_eq!(record.bytes, large(record.sequence.0), "altered data");
            record.sequence.0
        })
        .collect()
}

#[tokio::test]
async fn f07_without_room_for_a_segment_hints_are_refused_and_taken_again_afterwards() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let (handoff, _) = open(&disk);
    append(&handoff, 1).await.unwrap();
    drop(handoff);
    let mut stored = 1;
    let rooms = [0, 4 * KIB, SEGMENT - 4 * KIB, SEGMENT, SEGMENT + 4 * KIB, 3 * SEGMENT];
    for room in rooms {
        let (handoff, _) = open(&disk);
        disk.leave(room);
        stored = fill_up(&handoff, stored).await;
        // Neither now nor after a restart is there more than was acknowledged.
        assert_eq!(stats(&handoff).accepted, stored, "room {room}");
        drop(handoff);
        let (handoff, report) = open(&disk);
        assert!(report.failed.is_empty(), "room {room}: {report:?}");
        assert_eq!(stats(&handoff).accepted, stored, "room {room}");
        let refused = append(&handoff, stored + 1).await;
        assert!(matches!(refused, Err(HandoffError::DiskFull)), "room {room}");
        // Half of it is delivered while there is no room, and stays so.
        let found = take(&handoff).await;
        assert_eq!(found.last(), Some(&stored), "room {room}");
        deliver(&handoff, &found[..found.len() / 2]).await;
        drop(handoff);
        let (handoff, _) = open(&disk);
        assert_eq!(take(&handoff).await, found[found.len() / 2..], "room {room}");
        // Room comes back under the running queue.
        disk.clear();
        for _ in 0..20 {
            stored += 1;
            assert_eq!(append(&handoff, stored).await.unwrap(), Sequence(stored), "room {room}");
        }
        let more = take(&handoff).await;
        assert_eq!(more, (stored - 19..=stored).collect::<Vec<_>>(), "room {room}");
        deliver(&handoff, &found[found.len() / 2..]).await;
        deliver(&handoff, &more).await;
        assert_eq!(stats(&handoff).pending, 0, "room {room}");
    }
}

#[tokio::test]
async fn f07_a_queue_that_could_not_be_made_is_made_once_there_is_room() {
    for room in [0, 4 * KIB, 300 * KIB, 512 * KIB, 540 * KIB] {
        let Some(disk) = SmallDisk::mount(4 << 20) else { return };
        for restart in [false, true] {
            let (handoff, _) = open(&disk);
            disk.leave(room);
            let refused = append(&handoff, 1).await;
            assert!(matches!(refused, Err(HandoffError::DiskFull)), "room {room}: {refused:?}");
            let handoff = if restart {
                drop(handoff);
                open(&disk).0
            } else {
                handoff
            };
            disk.clear();
            let taken = append(&handoff, 1).await;
            let what = format!("room {room}, restart {restart}");
            assert_eq!(taken.unwrap_or_else(|error| panic!("{what}: {error}")), Sequence(1));
            assert_eq!(take(&handoff).await, [1], "{what}");
            drop(handoff);
            std::fs::remove_dir_all(disk.path().join("handoff")).unwrap();
        }
    }
}

#[tokio::test]
async fn f07_a_drain_books_thousands_of_ends_without_any_room() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    const HINTS: u64 = 6_000;
    let (mut handoff, _) = open(&disk);
    for sequence in 1..=HINTS {
        handoff.append(TARGET, ShardId(1), batch(sequence), false, sequence).await.unwrap();
    }
    disk.leave(0);
    let mut ended = 0;
    // Every other one first: the books are longest in the middle. Both slots are used several times.
    for first in [1, 2] {
        for (step, sequence) in (first..=HINTS).step_by(2).enumerate() {
            if step % 1000 == 0 {
                drop(handoff);
                handoff = open(&disk).0;
                assert_eq!(stats(&handoff).delivered, ended, "an end was forgotten");
                handoff.peek(TARGET, usize::MAX, usize::MAX).await.unwrap();
            }
            let end = handoff.complete(TARGET, Sequence(sequence), Terminal::Delivered).await;
            end.unwrap_or_else(|error| panic!("{sequence}: {error}"));
            ended += 1;
        }
    }
    assert_eq!((stats(&handoff).pending, stats(&handoff).delivered), (0, HINTS));
    disk.clear();
    assert_eq!(append(&handoff, HINTS + 1).await.unwrap(), Sequence(HINTS + 1));
}

#[tokio::test]
async fn f07_a_hint_that_cannot_be_put_aside_for_want_of_room_stays() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let (handoff, _) = open(&disk);
    for sequence in 1..=3 {
        append(&handoff, sequence).await.unwrap();
    }
    disk.leave(0);
    assert_eq!(take(&handoff).await, [1, 2, 3]);
    let end = Terminal::Quarantined(QuarantineReason::Refused(35));
    let refused = handoff.complete(TARGET, Sequence(2), end).await;
    assert!(matches!(refused, Err(HandoffError::DiskFull)), "{refused:?}");
    // Its neighbours end, and it is handed out again.
    deliver(&handoff, &[1, 3]).await;
    handoff.rewind(TARGET);
    assert_eq!(take(&handoff).await, [2]);
    disk.clear();
    handoff.complete(TARGET, Sequence(2), end).await.unwrap();
    drop(handoff);
    let (handoff, _) = open(&disk);
    let found = stats(&handoff);
    assert_eq!((found.delivered, found.quarantined, found.pending), (2, 1, 0));
    let kept = handoff.quarantined(TARGET).unwrap();
    assert_eq!((kept.len(), &kept[0].bytes), (1, &large(2)));
}

/// Of twelve kilobytes: three pages, and a part of one.
fn pages(sequence: u64) -> Bytes {
    Bytes::from(vec![sequence as u8; 12_000])
}

async fn append_pages(handoff: &Handoff, sequence: u64) -> Result<Sequence, HandoffError> {
    handoff.append(TARGET, ShardId(1), pages(sequence), false, sequence).await
}

#[tokio::test]
async fn f07_a_segment_that_was_made_takes_hints_to_its_last_byte_without_any_room() {
    let fit = (SEGMENT - header::LENGTH - 8) / record::total(large(1).len() as u64);
    for restart_at in 1..=fit {
        let Some(disk) = SmallDisk::mount(4 << 20) else { return };
        let (mut handoff, _) = open(&disk);
        append(&handoff, 1).await.unwrap();
        disk.leave(0);
        for sequence in 1..=fit {
            if sequence > 1 {
                let taken = append(&handoff, sequence).await;
                assert_eq!(taken.unwrap_or_else(|error| panic!("{error}")), Sequence(sequence));
            }
            if sequence == restart_at {
                drop(handoff);
                handoff = open(&disk).0;
                assert_eq!(stats(&handoff).accepted, sequence);
            }
        }
        // The next one needs a segment.
        for _ in 0..3 {
            let refused = append(&handoff, fit + 1).await;
            assert!(matches!(refused, Err(HandoffError::DiskFull)), "{refused:?}");
        }
        drop(handoff);
        let (handoff, _) = open(&disk);
        assert_eq!((take(&handoff).await, stats(&handoff).accepted), (up_to(fit), fit));
        disk.clear();
        assert_eq!(append(&handoff, fit + 1).await.unwrap(), Sequence(fit + 1));
        assert_eq!(take(&handoff).await, [fit + 1]);
    }
}

#[tokio::test]
async fn f07_a_disk_that_is_full_in_the_middle_of_an_append_keeps_nothing_of_it() {
    for room in [0, 4 * KIB, 8 * KIB] {
        for restart in [false, true] {
            let what = format!("room {room}, restart {restart}");
            let Some(disk) = SmallDisk::mount(4 << 20) else { return };
            let (handoff, _) = open(&disk);
            append_pages(&handoff, 1).await.unwrap();
            // The room that the segment has taken is lost, as where files are copied on write.
            let path = disk.path().join("handoff/3").join(name::of(1));
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let used = (header::LENGTH + record::total(12_000)).next_multiple_of(4 * KIB);
            rustix::fs::fallocate(&file, flags, used, SEGMENT - used).unwrap();
            disk.leave(room);
            for _ in 0..2 {
                let refused = append_pages(&handoff, 2).await;
                assert!(matches!(refused, Err(HandoffError::DiskFull)), "{what}: {refused:?}");
                assert_eq!(stats(&handoff).accepted, 1, "{what}");
                let written = file.metadata().unwrap().len();
                assert_eq!(written, header::LENGTH + record::total(12_000), "{what}: some is left");
            }
            let handoff = if restart {
                drop(handoff);
                open(&disk).0
            } else {
                handoff
            };
            assert_eq!(stats(&handoff).accepted, 1, "{what}: it was never acknowledged");
            disk.clear();
            for sequence in 2..=9 {
                let taken = append_pages(&handoff, sequence).await;
                assert_eq!(taken.unwrap_or_else(|e| panic!("{what}: {e}")), Sequence(sequence));
            }
            // The next ones are safe from this again.
            let taken = restart || file.metadata().unwrap().len() == SEGMENT;
            assert!(taken, "{what}: the segment has not taken its room again");
            drop(handoff);
            let (handoff, _) = open(&disk);
            let found = handoff.peek(TARGET, usize::MAX, usize::MAX).await.unwrap();
            let whole = |record: &HintRecord| record.bytes == pages(record.sequence.0);
            assert!(found.len() == 9 && found.iter().all(whole), "{what}");
            assert_eq!(stats(&handoff).quarantined, 0, "{what}");
        }
    }
}
