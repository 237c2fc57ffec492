//! For which shards pending hints are: also after a restart, and with a bound on what is read.

use super::*;

/// Seven hints of shards 7 and 8 for the target, over several segments, and one for another node.
async fn filled(disk: &MemoryDisk) -> Handoff {
    let handoff = open(disk);
    for n in 0..7 {
        let shard = ShardId(7 + n % 2);
        let batch = Bytes::from(vec![n as u8; 300]);
        handoff.append(TARGET, shard, batch, false, SECOND).await.unwrap();
    }
    handoff.append(NodeId(4), ShardId(7), batch(1), false, SECOND).await.unwrap();
    handoff
}

async fn counts(handoff: &Handoff) -> Vec<(u64, u64, u64)> {
    let all = handoff.tally().await;
    all.into_iter().map(|((target, shard), count)| (target.0, shard.0, count)).collect()
}

#[tokio::test]
async fn pending_hints_are_counted_by_shard_also_those_that_nobody_has_read() {
    let disk = MemoryDisk::new();
    let handoff = filled(&disk).await;
    assert!(segments(&disk).len() > 1);
    assert_eq!(counts(&handoff).await, [(3, 7, 4), (3, 8, 3), (4, 7, 1)]);
    handoff.peek(TARGET, 4, usize::MAX).await.unwrap();
    assert_eq!(counts(&handoff).await, [(3, 7, 4), (3, 8, 3), (4, 7, 1)], "in flight is pending");
    deliver(&handoff, &[1, 4]).await;
    let expected = [(3, 7, 3), (3, 8, 2), (4, 7, 1)];
    assert_eq!(counts(&handoff).await, expected);
    let again = open(&disk);
    assert_eq!(counts(&again).await, expected, "after a restart");
    let all: Vec<u64> =
        again.peek(TARGET, 9, usize::MAX).await.unwrap().iter().map(|it| it.sequence.0).collect();
    deliver(&again, &all).await;
    assert_eq!(counts(&again).await, [(4, 7, 1)]);
}

#[tokio::test]
async fn hints_beyond_the_bound_or_that_cannot_be_read_count_for_no_shard_in_particular() {
    let disk = MemoryDisk::new();
    drop(filled(&disk).await);
    let bounded = |tally_bytes| {
        open_with(Arc::new(disk.clone()), HandoffConfig { tally_bytes, ..config() }).0
    };
    assert_eq!(counts(&bounded(0)).await, [(3, 0, 7), (4, 0, 1)]);
    // Room for the first segment and no other.
    let first = counts(&bounded(1024)).await;
    let of = |shards: &[u64]| -> u64 {
        let some = first.iter().filter(|(target, shard, _)| *target == 3 && shards.contains(shard));
        some.map(|(.., count)| count).sum()
    };
    assert!(of(&[0]) > 0 && of(&[7, 8]) > 0, "{first:?}");
    assert_eq!(of(&[0, 7, 8]), 7, "{first:?}");
}
