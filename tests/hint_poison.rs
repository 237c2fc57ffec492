//! A hint that its target refuses for good, and a thousand good ones behind it.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::WriteOptions;
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    consistency::Level,
    id::{NodeId, PolicyId, Version},
    map::ClusterMap,
    message::Write,
};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{PATIENCE, create_database, exports, queues, total, wait_drained, wait_healthy},
    raw::{Raw, encode, send},
};
use tokio::time::Instant;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const VERSION: Version = Version(1_700_000_000_000_000_001);

/// A batch of a policy that is not there: no owner will ever take it, which holders do not look at.
pub(super) fn poison(map: &ClusterMap) -> (Write, Bytes) {
    let (request, good) = encode(map, "db", &[sample(1, 1)], VERSION);
    let part = EncodedBatch::parse(good).unwrap().header().part;
    let part = PartHeader { policy: PolicyId(99), ..part };
    let mut batch = Batch::new();
    batch.push(&sample(1, 1));
    let database = map.database_named("db").unwrap();
    let bytes = encode_part(&batch, &part, Selection::All, &|measurement, field, _| {
        database.field(measurement, field).map(|field| field.id)
    });
    (request, bytes.unwrap())
}

#[test]
fn a_hint_that_is_refused_for_good_is_put_aside_and_a_thousand_behind_it_are_delivered() {
    const GOOD: u64 = 1_000;
    simulated(async {
        let mut cluster = Cluster::simulated(3, 122).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        let map = client.map();
        cluster.stop(THREE).await;
        let live = [ONE, TWO];
        cluster.wait_up(&client, &live).await;
        // First in the queues of both, so that whatever follows is behind it.
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let (request, bytes) = poison(&map);
        for holder in live {
            let connection = raw.connect(&map, holder).await;
            let request = Write { store: false, hint_for: vec![THREE], ..request.clone() };
            let written = send(&connection, &request, &bytes).await;
            assert_eq!(written.hints[0].answer.error, None);
        }
        let options = WriteOptions::default();
        for n in 1..=GOOD {
            write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        assert_eq!(total(&queues(&client, &live).await.unwrap()).pending, GOOD + 2);
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        let begun = Instant::now();
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "held up for {:?}", begun.elapsed());
        assert_eq!((sum.delivered, sum.quarantined), (GOOD, 2), "{sum:?}");
        assert_eq!((sum.expired, sum.discarded), (0, 0), "{sum:?}");
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}
