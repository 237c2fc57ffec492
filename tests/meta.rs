//! Metadata: what goes on without a majority, and what fails in time.

use std::{sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions, error::WriteErrorKind};
use quorate_protocol::{batch::Batch, code::Code, consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::simulated,
    load::{EPOCH, sample, write},
    observe::{create_database, exports, wait_drained, wait_healthy},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

#[test]
fn without_a_majority_known_writes_go_on_and_new_fields_and_groups_fail_in_time() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 21).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options =
            WriteOptions { timeout: Duration::from_secs(2), ..WriteOptions::at(Level::One) };
        write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        assert!(client.settle(Duration::from_secs(10)).await);
        cluster.stop(NodeId(1)).await;
        cluster.stop(NodeId(2)).await;
        cluster.wait_up(&client, &[NodeId(3)]).await;

        let new_field =
            Point::builder("cpu").tag("host", "x").field("fresh", 1.0).at(EPOCH).unwrap();
        let year = 365 * 24 * 3600 * 1_000_000_000;
        let new_group =
            Point::builder("cpu").tag("host", "x").field("usage", 1.0).at(EPOCH - year).unwrap();
        for (n, new) in [new_field, new_group].into_iter().enumerate() {
            let begun = Instant::now();
            let known = sample(1, 1 + n as u64);
            let result = write(&client, "db", &[known, new], &options, &ledger).await;
            let took = begun.elapsed();
            let error = result.unwrap_err();
            assert!(took <= Duration::from_millis(2_010), "{took:?}, beyond the deadline: {error}");
            assert_eq!(
                error.kind(),
                WriteErrorKind::Partial,
                "the known row went through: {error}"
            );
            assert_eq!(error.receipt.rows(), 1);
            assert_eq!(error.failed[0].rows[0].row, 1);
            assert!(
                matches!(error.code(), Code::NoLeader | Code::DeadlineExceeded),
                "{:?}: {error}",
                error.code()
            );
            assert!(error.retryable());
        }
        // And writes of what is known do not wait for anything.
        for n in 10..40 {
            let begun = Instant::now();
            write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        }
        cluster.restart(NodeId(1)).await;
        cluster.restart(NodeId(2)).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(Duration::from_secs(60)).await);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

/// Sixty-four writes that begin at the same time; by how much the map's index has grown after them.
async fn together(
    cluster: &Cluster,
    client: &Client,
    ledger: &Arc<Ledger>,
    point: impl Fn(u64) -> Point,
) -> u64 {
    let before = client.map().index.0;
    let mut writes = JoinSet::new();
    for n in 0..64 {
        let (client, ledger, point) = (client.clone(), Arc::clone(ledger), point(n));
        writes.spawn(async move {
            let options = WriteOptions::at(Level::All);
            write(&client, "db", &[point], &options, &ledger).await.unwrap();
        });
    }
    writes.join_all().await;
    ledger.check(&exports(client, "db", &cluster.ids()).await).assert_whole();
    client.map().index.0 - before
}

#[test]
fn writes_that_lack_the_same_ask_once_and_others_ask_for_what_is_theirs() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 23).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let fields_and_a_group = 2;
        let asked = together(&cluster, &client, &ledger, |n| sample(n, n)).await;
        assert_eq!(asked, fields_and_a_group);
        assert_eq!(together(&cluster, &client, &ledger, |n| sample(n, n + 64)).await, 0);

        let own = |n| {
            let point = Point::builder("cpu").tag("host", "x").field(format!("own{n}"), 1.0);
            point.at(EPOCH + 1_000_000_000 + n as i64).unwrap()
        };
        assert_eq!(together(&cluster, &client, &ledger, own).await, 64, "a field each");
        let kinds = |n| {
            let point = Point::builder("cpu").tag("host", "x").field(format!("of{}", n % 4), 1.0);
            let year = 365 * 24 * 3600 * 1_000_000_000;
            point.at(EPOCH - year + n as i64).unwrap()
        };
        let asked = together(&cluster, &client, &ledger, kinds).await;
        assert_eq!(asked, 4 + 1, "of four kinds, and a group that all of them lack");

        // Whoever asks may give up.
        let new = |n: u64| {
            let point = Point::builder("cpu").tag("host", "x").field("late", n as f64);
            point.at(EPOCH + 2_000_000_000 + n as i64).unwrap()
        };
        let options = WriteOptions::default();
        let mut batch = Batch::new();
        batch.push(&new(99));
        let (before, gone) = (client.map().index, Duration::from_micros(1));
        let given_up = timeout(gone, client.write("db", &batch, &options)).await;
        assert!(given_up.is_err() && client.map().index == before);
        let begun = Instant::now();
        let asked = together(&cluster, &client, &ledger, new).await;
        assert!(asked <= 2, "{asked}: one more than the one that was given up");
        assert!(begun.elapsed() < Duration::from_secs(1), "nobody waited for it");
        cluster.finish().await;
    });
}

#[test]
fn f20_no_node_is_idle_whatever_the_replication() {
    simulated(async {
        let mut cluster = Cluster::simulated(5, 22).await;
        let client = cluster.client().await;
        for replication in 1..=6 {
            let database = format!("r{replication}");
            let ledger = Ledger::new();
            create_database(&client, &database, replication).await;
            let options = WriteOptions::default();
            write(&client, &database, &[sample(1, 0)], &options, &ledger).await.unwrap();
            let map = client.map();
            let places = map.shards().filter(|place| place.database.name == database);
            let mut owners: Vec<NodeId> =
                places.flat_map(|place| &place.shard.owners).copied().collect();
            owners.sort_unstable();
            let share = owners.len() / 5;
            owners.dedup();
            assert_eq!(owners, cluster.ids(), "replication {replication}");
            assert!(share > 0);
        }
        cluster.finish().await;
    });
}
