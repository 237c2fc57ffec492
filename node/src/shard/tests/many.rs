//! Many shards cost what is open of them, at a start too.

use quorate_protocol::id::{Sequence, ShardId, Version};

use super::support::*;

#[tokio::test]
async fn a_start_opens_only_what_was_open_when_the_process_died() {
    let dir = scratch();
    let store = open(tiny(), dir.path());
    for id in 1..=20 {
        let batch = batch(ShardId(id), id, &[cell(1, 1, 0, 1)]);
        store.accept(ShardId(id), Sequence(id), batch).unwrap();
        fold(&store, ShardId(id)).unwrap();
    }
    // Two are open, and nobody closes them.
    drop(store);
    let store = open(tiny(), dir.path());
    assert_eq!(store.stats().open, 2);
    assert_eq!((store.found_applied(), store.highest_version()), (Sequence(20), Version(20)));
    assert_eq!(store.shards().len(), 20);
    // A fold outdates what was known of a shard.
    let again = batch(ShardId(3), 30, &[cell(1, 2, 0, 1)]);
    store.accept(ShardId(3), Sequence(21), again).unwrap();
    fold(&store, ShardId(3)).unwrap();
    assert_eq!(scan(&store, ShardId(3)).len(), 2);
    // It dies again; what was written about the shard when it was closed before is not true any more.
    drop(store);
    let store = open(tiny(), dir.path());
    assert_eq!((store.found_applied(), store.highest_version()), (Sequence(21), Version(30)));
    assert_eq!(scan(&store, ShardId(3)).len(), 2);
    store.close().await;
    drop(store);
    let store = open(tiny(), dir.path());
    assert_eq!(store.stats().open, 0);
    assert_eq!((store.found_applied(), store.highest_version()), (Sequence(21), Version(30)));
    assert_eq!(scan(&store, ShardId(3)).len(), 2);
}
