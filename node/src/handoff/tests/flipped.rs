//! A segment of a hundred hints with one bit flipped: at most one hint is lost, and that is counted.
//! `QUORATE_SOAK=1` flips every bit, otherwise all of some places and every 41st of the rest.

use super::*;
use crate::segment::header;

const HINTS: u64 = 100;

fn small(sequence: u64) -> Bytes {
    Bytes::from((sequence * 0x0101_0101_0101).to_be_bytes().to_vec())
}

#[tokio::test]
async fn f06_one_flipped_bit_of_a_hundred_hints_costs_one_at_most() {
    let config = HandoffConfig { segment_bytes: 8192, ..HandoffConfig::default() };
    let disk = MemoryDisk::new();
    let (handoff, _) = open_with(Arc::new(disk.clone()), config.clone());
    for sequence in 1..=HINTS {
        handoff.append(TARGET, ShardId(sequence), small(sequence), false, sequence).await.unwrap();
    }
    drop(handoff);
    assert_eq!(segments(&disk), [segment(1)]);
    let bytes = disk.content(&segment(1)).unwrap();
    let last = bytes.windows(4).rposition(|bytes| bytes == b"QREC").unwrap();
    // All of the same size.
    let each = (last - header::LENGTH as usize) / (HINTS as usize - 1);
    let start = header::LENGTH as usize + 49 * each;
    let (mut lost_some, mut flipped) = (0, 0);
    for bit in 0..bytes.len() * 8 {
        let (byte, end) = (bit / 8, bytes.len() - 8);
        let chosen = byte < header::LENGTH as usize
            || (start..start + each).contains(&byte)
            || byte >= end
            || bit % 41 == 0;
        if !chosen && !soak() {
            continue;
        }
        flipped += 1;
        let damaged = disk.crash(Keep::All);
        let mut changed = bytes.clone();
        changed[byte] ^= 1 << (bit % 8);
        damaged.replace(&segment(1), changed);
        let (handoff, report) = open_with(Arc::new(damaged), config.clone());
        assert!(report.failed.is_empty() && report.unreadable_segments == 0, "bit {bit}");
        let mut found = Vec::new();
        loop {
            let records = handoff.peek(TARGET, 1000, usize::MAX).await.unwrap();
            if records.is_empty() {
                break;
            }
            for record in records {
                let sequence = record.sequence.0;
                let (shard, stamp) = (record.shard.0, record.appended_at);
                assert_eq!((shard, stamp), (sequence, sequence), "bit {bit}");
                assert_eq!(record.bytes, small(sequence), "bit {bit}: altered data");
                found.push(sequence);
            }
        }
        let lost = HINTS - found.len() as u64;
        assert!(lost <= 1 && found.is_sorted_by(|a, b| a < b), "bit {bit} cost {lost}: {found:?}");
        let stats = stats(&handoff);
        assert_eq!((stats.accepted, stats.quarantined), (HINTS, lost), "bit {bit}");
        assert_eq!(handoff.quarantined(TARGET).unwrap().len() as u64, lost, "bit {bit}");
        lost_some += lost;
    }
    assert!(lost_some > 100, "{lost_some} of {flipped} flips cost a hint: they hit nothing");
}
