//! Hints that a drain has set aside for a busy shard: too old, they end like any others.

use super::*;

#[tokio::test]
async fn f01_what_is_set_aside_grows_too_old_and_what_is_under_way_does_not() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let marks = Marks::open("/handoff/marks".into(), 1, shared, Executor::Inline).unwrap();
    fill(&handoff, 1..=5).await;
    handoff.append(TARGET, ShardId(2), batch(6), true, 6 * SECOND).await.unwrap();
    fill(&handoff, 7..=20).await;
    assert_eq!(take_all(&handoff).await, up_to(20));
    let aside: Vec<Sequence> = (1..=20).filter(|it| *it != 4).map(Sequence).collect();
    handoff.set_aside(TARGET, &aside);
    assert!(take_all(&handoff).await.is_empty(), "what is set aside was handed out");
    let age = config().max_age_seconds * SECOND;
    // Hints 1 to 9 are too old: 4 is under way, and an `any` rests on 6.
    let expiry = handoff.expire(age + 10 * SECOND, &marks, |_| Some((1, 2))).await.unwrap();
    assert_eq!(expiry, Expiry { expired: 7, quarantined: 1 });
    let mut marked: Vec<u64> = marks.list().iter().map(|mark| mark.shard.0).collect();
    marked.sort_unstable();
    assert_eq!(marked, [0, 1, 2, 3]);
    let kept = handoff.quarantined(TARGET).unwrap();
    assert_eq!((kept.len(), kept[0].sequence), (1, Sequence(6)));
    // The drain does not know yet, and asks for all of them again.
    let mut count = 0;
    handoff.look_aside(TARGET, |left, is_left| {
        count = left;
        assert!(is_left(&Sequence(10)) && !is_left(&Sequence(9)) && !is_left(&Sequence(4)));
    });
    assert_eq!(count, 11);
    handoff.resume(TARGET, &aside[..11]);
    assert_eq!(take_all(&handoff).await, [10, 11, 12]);
    deliver(&handoff, &[4, 10, 11, 12]).await;
    // The connection is lost: the others are there again.
    handoff.rewind(TARGET);
    assert_eq!(take_all(&handoff).await, (13..=20).collect::<Vec<_>>());
    let found = stats(&open(&disk));
    let counts = (found.delivered, found.expired, found.quarantined, found.pending);
    assert_eq!(counts, (4, 7, 1, 8));
}
