//! Dropped databases leave every disk, also of a node that was down, and nothing comes back.

use quorate_client::{Client, WriteOptions};
use quorate_protocol::{change::Change, consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{
        PATIENCE, create_database, export, queues, total, wait_drained, wait_for, wait_healthy,
    },
};

const THREE: NodeId = NodeId(3);

fn directories(cluster: &Cluster, node: NodeId) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.data(node).join("shards")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn gone(cluster: &Cluster, nodes: &[NodeId]) {
    wait_for("no shard on any disk", PATIENCE, async || {
        let left: Vec<_> = nodes.iter().map(|node| directories(cluster, *node)).collect();
        if left.iter().all(Vec::is_empty) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

async fn drop_database(client: &Client) {
    client.change(Change::DropDatabase { name: "db".to_owned() }).await.unwrap();
}

#[test]
fn a_dropped_database_leaves_all_disks_and_no_hint_brings_it_back() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 601).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(1, 1)], &all, &ledger).await.unwrap();
        for node in cluster.ids() {
            cluster.node(node).fold().await;
            assert_eq!(directories(&cluster, node).len(), 1);
        }
        // One node has data, fresh and folded, and hints wait for it, when the database goes.
        let (options, old) = (WriteOptions::default(), client.map());
        write(&client, "db", &[sample(1, 2)], &all, &ledger).await.unwrap();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(2)]).await;
        write(&client, "db", &[sample(1, 3)], &options, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        assert_eq!(total(&queues(&client, &[NodeId(1), NodeId(2)]).await.unwrap()).pending, 1);
        drop_database(&client).await;
        gone(&cluster, &[NodeId(1), NodeId(2)]).await;
        assert_eq!(directories(&cluster, THREE).len(), 1);

        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        gone(&cluster, &cluster.ids()).await;
        let ended = wait_drained(&client, &cluster.ids()).await;
        assert_eq!((ended.delivered, ended.discarded), (0, 1));
        // The same name is another database, with other shards.
        create_database(&client, "db", 3).await;
        assert!(client.map().index > old.index);
        for node in cluster.ids() {
            assert_eq!(export(&client, "db", Some(node)).await.unwrap(), "");
        }
        for node in cluster.ids() {
            cluster.stop(node).await;
            cluster.restart(node).await;
        }
        wait_healthy(&client, &cluster.ids()).await;
        gone(&cluster, &cluster.ids()).await;
        cluster.finish().await;
    });
}
