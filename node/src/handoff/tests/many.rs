//! Queues of any number of segments, restarted: hints come back in the order they were appended.

use super::*;

#[tokio::test]
async fn f03_any_number_of_segments_comes_back_in_order() {
    let counts: &[u64] = &[1, 2, 9, 10, 11, 100, 1_000];
    let more: &[u64] = if soak() { &[10_000] } else { &[] };
    // One hint fills a segment.
    let config = HandoffConfig { segment_bytes: 256, ..HandoffConfig::default() };
    let large = |sequence: u64| Bytes::from(sequence.to_be_bytes().repeat(8));
    for count in counts.iter().chain(more) {
        let disk = MemoryDisk::new();
        let (handoff, _) = open_with(Arc::new(disk.clone()), config.clone());
        for sequence in 1..=*count {
            let shard = ShardId(1);
            handoff.append(TARGET, shard, large(sequence), false, sequence).await.unwrap();
        }
        assert_eq!(segments(&disk).len() as u64, *count);
        drop(handoff);
        let mut next = 1;
        // Half of them are delivered before one more restart.
        for part in [count / 2, *count] {
            let (handoff, report) = open_with(Arc::new(disk.clone()), config.clone());
            assert_eq!(report.pending, count + 1 - next, "{count} segments");
            while next <= part {
                let wanted = (part - next + 1).min(100) as usize;
                let records = handoff.peek(TARGET, wanted, usize::MAX).await.unwrap();
                assert!(!records.is_empty(), "{count} segments: nothing behind {next}");
                for record in &records {
                    assert_eq!(record.sequence.0, next, "{count} segments");
                    assert_eq!(record.bytes, large(next), "{count} segments");
                    next += 1;
                }
                let ends = records.iter().map(|record| (record.sequence, Terminal::Delivered));
                handoff.complete_all(TARGET, ends.collect()).await.unwrap();
            }
            assert_eq!(stats(&handoff).delivered, part);
            let left = segments(&disk).len() as u64;
            assert!(left <= count - part + 1, "{count} segments: {left} left of {part} delivered");
        }
    }
}
