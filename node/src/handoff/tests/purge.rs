//! Queues that were purged to the last hint: the next one is neither lost nor misnumbered.

use super::*;

#[tokio::test]
async fn f02_a_purged_queue_of_one_segment_keeps_the_next_hint_over_a_restart() {
    for hints in [1, 2, 7] {
        for restart in [false, true] {
            for keep in [Keep::All, Keep::Synced] {
                let what = format!("{hints} hints, restart {restart}, {keep:?}");
                let disk = MemoryDisk::new();
                let handoff = open(&disk);
                let shared: Arc<dyn Disk> = Arc::new(disk.clone());
                let path = Path::new("/handoff").join(marks::FILE);
                let marks = Marks::open(path, 1, shared, Executor::Inline).unwrap();
                fill(&handoff, 1..=hints).await;
                assert_eq!(segments(&disk).len(), 1);
                let expiry = handoff.expire(u64::MAX, &marks, |_| None).await.unwrap();
                assert_eq!((expiry.expired, marks.list().is_empty()), (hints, false), "{what}");
                assert!(segments(&disk).is_empty(), "{what}");
                let handoff = if restart {
                    drop(handoff);
                    open(&disk)
                } else {
                    handoff
                };
                fill(&handoff, hints + 1..=hints + 1).await;
                assert_eq!(take_all(&handoff).await, [hints + 1], "{what}");
                let after = disk.crash(keep);
                let again = open(&after);
                assert_eq!(take_all(&again).await, [hints + 1], "{what}");
                let found = stats(&again);
                let counts = (found.accepted, found.expired, found.pending);
                assert_eq!(counts, (hints + 1, hints, 1), "{what}");
                deliver(&again, &[hints + 1]).await;
                assert_eq!(stats(&open(&after)).pending, 0, "{what}");
            }
        }
    }
}
