//! Queues that were purged to the last hint: the next one is neither lost nor misnumbered.

use super::*;
use crate::segment::commit::Log;

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

#[tokio::test]
async fn f02_a_queue_whose_files_are_gone_goes_on_where_it_was_over_a_power_cut() {
    for keep in [Keep::All, Keep::Synced] {
        let disk = MemoryDisk::new();
        let handoff = open(&disk);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let marks = Marks::open("/handoff/marks".into(), 1, shared, Executor::Inline).unwrap();
        fill(&handoff, 1..=5).await;
        deliver(&handoff, &take_all(&handoff).await).await;
        // Deliveries alone are not synced, but files must not go before they are.
        assert_eq!(handoff.expire(0, &marks, |_| None).await.unwrap(), Expiry::default());
        assert!(segments(&disk).is_empty());
        let again = open(&disk.crash(keep));
        assert_eq!((stats(&again).accepted, stats(&again).delivered), (5, 5), "{keep:?}");
        fill(&again, 6..=6).await;
        assert_eq!(take_all(&again).await, [6]);
    }
}

#[tokio::test]
async fn a_full_queue_takes_the_next_hint_once_all_of_its_own_have_ended() {
    let (second, third) = (NodeId(8), NodeId(9));
    let limits = HandoffConfig { max_bytes: 1024, max_total_bytes: 2048, ..config() };
    let disk = MemoryDisk::new();
    let (handoff, _) = open_with(Arc::new(disk.clone()), limits);
    let mut stored = 0;
    while append(&handoff, stored + 1).await.is_ok() {
        stored += 1;
    }
    let to = |target| handoff.append(target, ShardId(1), batch(1), false, 0);
    to(second).await.unwrap();
    assert!(matches!(to(third).await, Err(HandoffError::TotalFull { .. })));
    let found = take_all(&handoff).await;
    deliver(&handoff, &found[1..]).await;
    let refused = append(&handoff, stored + 1).await;
    assert!(matches!(refused, Err(HandoffError::QueueFull { .. })), "one is pending: {refused:?}");
    deliver(&handoff, &[1]).await;
    fill(&handoff, stored + 1..=stored + 1).await;
    // The room of a queue is there for the others, too.
    assert!(matches!(to(third).await, Err(HandoffError::TotalFull { .. })));
    deliver(&handoff, &take_all(&handoff).await).await;
    to(third).await.unwrap();
    assert_eq!((handoff.pending(second), handoff.pending(third)), (1, 1));
    assert_eq!(handoff.peek(second, 9, usize::MAX).await.unwrap()[0].bytes, batch(1));
    let (again, _) = open_with(Arc::new(disk.crash(Keep::Synced)), config());
    assert_eq!((stats(&again).accepted, stats(&again).delivered), (stored + 1, stored + 1));
}

#[test]
fn a_queue_that_is_taking_a_hint_gives_no_room_back_to_others() {
    let (second, third) = (NodeId(8), NodeId(9));
    let (changed, _) = watch::channel(0);
    let shared = Arc::new(Shared { queues: Mutex::default(), changed });
    let mut log = HandoffLog {
        config: HandoffConfig { max_total_bytes: 1024, ..config() },
        directory: "/handoff".into(),
        salt: 5,
        disk: Arc::new(MemoryDisk::new()),
        shared: Arc::clone(&shared),
        tails: BTreeMap::new(),
        broken: BTreeSet::new(),
    };
    log.recover().unwrap();
    let shard = ShardId(1);
    let to =
        |target| Item::Append { target, shard, batch: batch(1), any_ack: false, now_ns: SECOND };
    let dropped = Item::Discard { target: second, hints: vec![(Sequence(1), shard)] };
    assert!(log.commit(vec![to(second), dropped]).iter().all(Result::is_ok));
    // The first is not synced yet when the second needs a segment.
    let outputs = log.commit(vec![to(second), to(third)]);
    assert_eq!(outputs[0].as_ref().unwrap().sequence, Sequence(2));
    assert!(matches!(outputs[1], Err(HandoffError::TotalFull { .. })), "{outputs:?}");
    let queue = shared.queue(second).unwrap();
    assert_eq!(queue.state().accounts.pending(), 1);
}
