//! Feeds over a shard store: what one finds that begins late, and what all of them keep together.

use quorate_protocol::{
    batch::{Batch, PartHeader, Selection, encode_part},
    id::{BatchId, FieldId, Version},
    point::Point,
};

use super::*;
use crate::{executor::Executor, shard::Config};

/// A batch of one point.
pub(super) fn batch(shard: u64, version: u64) -> EncodedBatch {
    let mut points = Batch::new();
    points.push(&Point::builder("m").tag("t", "v").field("f", 1.5).at(1).unwrap());
    let header = PartHeader {
        shard: ShardId(shard),
        version: Version(version),
        batch: BatchId(u128::from(version)),
        ..PartHeader::default()
    };
    let bytes = encode_part(&points, &header, Selection::All, &|_, _, _| Some(FieldId(1)));
    EncodedBatch::parse(bytes.unwrap()).unwrap()
}

struct World {
    feeds: Arc<Feeds>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(config: FeedConfig) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let shards = ShardStore::open(Config::default(), dir.path(), Executor::Inline).unwrap();
        Self { feeds: Feeds::new(config, shards), _dir: dir }
    }

    /// What the sink does with a record that is synced.
    fn store(&self, shard: u64, sequence: u64) {
        self.write(shard, sequence);
        self.feeds.synced(Sequence(sequence));
    }

    fn write(&self, shard: u64, sequence: u64) {
        let (id, place, batch) = (ShardId(shard), Sequence(sequence), batch(shard, sequence));
        self.feeds.shards.accept(id, place, batch.clone()).unwrap();
        self.feeds.push(id, place, || Some(batch));
    }

    fn join(&self, shard: u64, after: Option<u64>) -> Joined {
        let wake = Arc::new(Wake { dirty: vec![false.into()], ..Wake::default() });
        self.feeds.join(ShardId(shard), after.map(Sequence), &wake, 0)
    }

    fn read(&self, joined: &Joined, cursor: &mut u64) -> Vec<u64> {
        let mut found = Vec::new();
        let inner = joined.feed.lock();
        while let (_, Some(entry)) = inner.ring.next(cursor, self.feeds.durable()) {
            found.push(entry.sequence.0);
        }
        found
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_begins_late_finds_what_is_not_folded_and_says_if_that_is_not_all() {
    let world = World::new(FeedConfig::default());
    world.store(7, 3);
    world.store(8, 4);
    world.store(7, 5);
    let joined = world.join(7, Some(0));
    assert_eq!((joined.start.gap, joined.start.last), (false, Sequence(5)));
    let mut cursor = joined.start.cursor;
    assert_eq!(world.read(&joined, &mut cursor), [3, 5]);
    world.store(7, 6);
    assert_eq!(world.read(&joined, &mut cursor), [6]);
    // Folded: who begins now cannot have it, who was there before still can.
    world.feeds.shards.flush(ShardId(7)).await.unwrap();
    world.feeds.shards.flush(ShardId(8)).await.unwrap();
    assert!(!world.join(7, Some(0)).start.gap);
    assert!(world.join(8, Some(3)).start.gap && !world.join(8, Some(4)).start.gap);
    // A journal with damage: nobody knows what was in it.
    world.feeds.distrust(Sequence(6));
    world.store(9, 7);
    assert!(world.join(9, Some(0)).start.gap && !world.join(9, Some(6)).start.gap);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_its_sync_and_then_its_followers_are_woken() {
    let world = World::new(FeedConfig::default());
    let joined = world.join(7, None);
    let (mut cursor, dirty) = (joined.start.cursor, &joined.wake.dirty[0]);
    world.write(7, 1);
    assert!(world.read(&joined, &mut cursor).is_empty() && !dirty.load(Ordering::Relaxed));
    world.feeds.synced(Sequence(1));
    assert!(dirty.load(Ordering::Relaxed));
    assert_eq!(world.read(&joined, &mut cursor), [1]);
}

#[tokio::test(start_paused = true)]
async fn all_feeds_keep_no_more_than_they_may_and_nothing_when_nobody_follows() {
    let (one, total) = (batch(1, 1).bytes().len() as u64 + 192, 40);
    let config = FeedConfig {
        shard_bytes: one * 20,
        total_bytes: one * total,
        max_followers: 2,
        ..FeedConfig::default()
    };
    let keep = Duration::from_millis(config.keep_ms);
    let world = World::new(config);
    let mut sequence = 0;
    let mut joined = Vec::new();
    for shard in 1..=8 {
        joined.push(world.join(shard, None));
        for _ in 0..30 {
            sequence += 1;
            world.store(shard, sequence);
        }
        assert!(world.feeds.kept_bytes() <= one * total, "{}", world.feeds.kept_bytes());
    }
    assert_eq!(world.feeds.kept_bytes(), one * total);
    drop(joined);
    world.feeds.tidy();
    assert!(world.feeds.kept_bytes() > 0);
    tokio::time::advance(keep).await;
    world.feeds.tidy();
    assert_eq!(world.feeds.kept_bytes(), 0);
    world.store(1, sequence + 1);
    assert_eq!(world.feeds.kept_bytes(), 0);

    let places = (world.feeds.enter(), world.feeds.enter());
    assert!(places.0.is_some() && places.1.is_some() && world.feeds.enter().is_none());
    drop(places);
    assert!(world.feeds.enter().is_some());
}
