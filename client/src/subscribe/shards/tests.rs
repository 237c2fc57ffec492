//! Whom a subscription follows, and what it knows of each owner, without any of them.

use quorate_protocol::id::{BatchId, Version};

use super::*;

const SHARD: ShardId = ShardId(6);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const OWNERS: [NodeId; 3] = [ONE, TWO, THREE];

/// A subscription to one shard, with these nodes up.
fn plan(shards: &mut Shards, up: &[NodeId]) -> BTreeMap<NodeId, Wanted> {
    let list = [(SHARD, &OWNERS[..])];
    let (wanted, _) = shards.plan(list.into_iter(), |node| up.contains(&node), Instant::now());
    for (node, wanted) in &wanted {
        shards.request(*node, wanted);
    }
    wanted
}

fn source(wanted: &BTreeMap<NodeId, Wanted>) -> NodeId {
    let whole = |wanted: &Wanted| wanted.contains(&(SHARD, true));
    *wanted.iter().find(|(_, wanted)| whole(wanted)).unwrap().0
}

fn told(sequence: u64, batch: u128) -> Followed {
    Followed {
        shard: SHARD,
        sequence: Sequence(sequence),
        batch: BatchId(batch),
        version: Version(1),
        checksum: 5,
        length: u32::from(batch > 0) * 100,
        missed: 0,
        gap: false,
        ended: None,
    }
}

/// What a node would be asked to begin behind.
fn asks(shards: &mut Shards, node: NodeId) -> Option<u64> {
    let request = shards.request(node, &vec![(SHARD, true)]);
    request[0].after.map(|after| after.0)
}

fn limited(pending: usize) -> Shards {
    let options = SubscribeOptions { pending, ..SubscribeOptions::default() };
    Shards::new(&options)
}

/// All have begun, behind 10, 20 and 30; the first owner sends.
fn begun(pending: usize) -> Shards {
    let mut shards = limited(pending);
    assert_eq!(source(&plan(&mut shards, &OWNERS)), ONE);
    assert!(shards.waits(|_| true).is_some());
    for (node, place) in OWNERS.into_iter().zip([10, 20, 30]) {
        assert_eq!(shards.take(node, &told(place, 0), false, Instant::now()).gap, None);
    }
    assert!(shards.waits(|_| true).is_none());
    shards.begun();
    shards
}

#[test]
fn the_next_owner_is_asked_for_what_the_first_has_not_sent() {
    let mut shards = begun(100);
    for (place, batch) in [(21, 1), (22, 2), (23, 3)] {
        assert!(!shards.take(TWO, &told(place, batch), false, Instant::now()).deliver);
    }
    // Sent: 1 and 3. Of the second owner everything up to 1 is had.
    assert!(shards.take(ONE, &told(11, 1), true, Instant::now()).deliver);
    assert!(shards.take(ONE, &told(12, 3), true, Instant::now()).deliver);
    assert!(!shards.take(ONE, &told(13, 3), true, Instant::now()).deliver, "it came twice");
    let wanted = plan(&mut shards, &[TWO, THREE]);
    assert_eq!((source(&wanted), asks(&mut shards, TWO)), (TWO, Some(21)));
    assert_eq!(
        shards.take(TWO, &told(21, 0), false, Instant::now()),
        Taken { begun: true, ..Taken::default() }
    );
    assert!(shards.take(TWO, &told(22, 2), true, Instant::now()).deliver);
    assert!(!shards.take(TWO, &told(23, 3), true, Instant::now()).deliver);
    assert_eq!(asks(&mut shards, TWO), Some(23));
}

#[test]
fn a_gap_is_told_once_and_only_where_it_cannot_be_excluded() {
    let unknown = Some(Gap { shard: SHARD, reason: GapReason::Unknown, missed: None });
    // The owner kept no more of what stands behind its floor.
    let mut shards = begun(100);
    plan(&mut shards, &[TWO, THREE]);
    assert_eq!(
        shards.take(TWO, &Followed { gap: true, ..told(25, 0) }, false, Instant::now()).gap,
        unknown
    );
    assert_eq!(shards.take(THREE, &told(30, 0), false, Instant::now()).gap, None);
    plan(&mut shards, &[THREE]);
    assert_eq!(shards.take(THREE, &told(30, 0), false, Instant::now()).gap, None);

    // It came later than the subscription; one that did not is preferred.
    let mut shards = limited(100);
    plan(&mut shards, &[ONE, THREE]);
    shards.take(ONE, &told(10, 0), false, Instant::now());
    shards.take(THREE, &told(30, 0), false, Instant::now());
    shards.begun();
    plan(&mut shards, &OWNERS);
    assert_eq!(shards.take(TWO, &told(20, 0), false, Instant::now()).gap, None);
    assert_eq!(source(&plan(&mut shards, &[TWO, THREE])), THREE);
    assert_eq!(source(&plan(&mut shards, &[TWO])), TWO);
    assert_eq!(shards.take(TWO, &told(20, 0), false, Instant::now()).gap, unknown);

    // More names than are remembered.
    let mut shards = begun(3);
    for batch in 1..=4 {
        shards.take(TWO, &told(20 + batch, batch.into()), false, Instant::now());
    }
    assert_eq!(source(&plan(&mut shards, &[TWO, THREE])), THREE);
    plan(&mut shards, &[TWO]);
    assert_eq!(asks(&mut shards, TWO), Some(21));
    assert_eq!(shards.take(TWO, &told(21, 0), false, Instant::now()).gap, unknown);
}

#[test]
fn who_has_what_does_not_come_in_time_sends_it() {
    let mut shards = begun(100);
    let now = Instant::now();
    let patience = shards.patience;
    let later = |ms| now + patience + Duration::from_millis(ms);
    let sends = |shards: &mut Shards, at| {
        let list = [(SHARD, &OWNERS[..])];
        source(&shards.plan(list.into_iter(), |_| true, at).0)
    };
    shards.take(TWO, &told(21, 1), false, now);
    shards.take(THREE, &told(31, 2), false, now + Duration::from_millis(10));
    shards.take(THREE, &told(32, 1), false, now + Duration::from_millis(10));
    assert_eq!(sends(&mut shards, now + patience / 2), ONE);
    shards.take(ONE, &told(11, 1), true, now);
    assert_eq!(sends(&mut shards, later(5)), ONE);
    assert_eq!(sends(&mut shards, later(20)), THREE);
    let request = shards.request(THREE, &vec![(SHARD, true)]);
    assert_eq!((request[0].after, request[0].bodies), (Some(Sequence(30)), Bodies::All));
}

#[test]
fn a_new_shard_is_asked_for_from_its_beginning() {
    let mut shards = begun(100);
    let new = ShardId(7);
    let list = [(SHARD, &OWNERS[..]), (new, &OWNERS[..])];
    let (wanted, _) = shards.plan(list.into_iter(), |_| true, Instant::now());
    let request = shards.request(TWO, &wanted[&TWO]);
    let asked = request.iter().find(|asked| asked.shard == new).unwrap();
    assert_eq!((asked.after, asked.bodies), (Some(Sequence(0)), Bodies::All));
    let late = Followed { shard: new, gap: true, ..told(50, 0) };
    assert!(shards.take(TWO, &late, false, Instant::now()).gap.is_some());
}

#[test]
fn names_that_were_left_out_are_asked_for_again_and_batches_are_a_gap() {
    let mut shards = begun(100);
    let missed = |batch| Followed { missed: 2, ..told(40, batch) };
    assert!(shards.take(TWO, &missed(9), false, Instant::now()).again);
    let taken = shards.take(ONE, &missed(9), true, Instant::now());
    let gap = Gap { shard: SHARD, reason: GapReason::Slow, missed: Some(2) };
    assert_eq!((taken.gap, taken.deliver), (Some(gap), true));
}

#[test]
fn a_node_that_fails_is_left_alone_for_longer_each_time() {
    let mut shards = begun(100);
    let (mut pauses, mut now) = (Vec::new(), Instant::now());
    for _ in 0..9 {
        shards.failed(ONE, Code::Busy, String::new(), now);
        let list = [(SHARD, &OWNERS[..])];
        let (wanted, again) = shards.plan(list.into_iter(), |_| true, now);
        assert!(!wanted.contains_key(&ONE) && source(&wanted) != ONE);
        pauses.push((again.unwrap() - now).as_millis());
        now = again.unwrap();
        let (wanted, again) = shards.plan(list.into_iter(), |_| true, now);
        assert!(wanted.contains_key(&ONE) && again.is_none());
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    shards.take(ONE, &told(10, 0), false, Instant::now());
    assert!(shards.failed.is_empty());
}

#[test]
fn a_start_is_hopeless_when_all_owners_refuse_for_good() {
    let mut shards = limited(100);
    plan(&mut shards, &OWNERS);
    for node in OWNERS {
        assert!(!shards.waits(|_| true).unwrap().hopeless);
        shards.failed(node, Code::Unsupported, "old".to_owned(), Instant::now());
    }
    let waits = shards.waits(|_| true).unwrap();
    assert!(waits.hopeless);
    assert_eq!(waits.refused().unwrap().code(), Code::Unsupported);
}
