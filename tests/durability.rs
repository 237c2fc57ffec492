//! `durability = "interval(D)"`: what receipts say, what a power cut may take, and what it may not.

use std::time::Duration;

use quorate_client::{WriteOptions, receipt::CopyState};
use quorate_node::journal::Durability;
use quorate_protocol::{consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    disk::Keep,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{create_database, export, exports, statuses, wait_drained, wait_healthy},
};
use tokio::time::sleep;

const ONE: NodeId = NodeId(1);
const THREE: NodeId = NodeId(3);
const EVERY: Duration = Duration::from_secs(1);

/// Nodes of which those from `first` on sync at intervals; nothing is folded by itself.
fn plan(nodes: u64, first: u64) -> Plan {
    Plan::of(nodes).configured(move |id, config| {
        config.shard.fold_age_ms = 3_600_000;
        if id.0 >= first {
            config.durability = Durability::Interval(EVERY);
        }
    })
}

#[test]
fn a_power_cut_takes_only_what_was_answered_within_the_interval() {
    simulated(async {
        let mut cluster = Cluster::simulated_with(plan(1, 1), 401).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let (synced, young) = (Ledger::new(), Ledger::new());
        let options = WriteOptions::default();
        for n in 0..5 {
            let receipt = write(&client, "db", &[sample(0, n)], &options, &synced).await.unwrap();
            assert!(matches!(receipt.parts[0].copies[0].state, CopyState::Buffered { .. }));
            assert_eq!((receipt.buffered(), receipt.rows()), (1, 1));
        }
        // Without another write.
        sleep(EVERY + Duration::from_millis(10)).await;
        let receipt = write(&client, "db", &[sample(0, 9)], &options, &young).await.unwrap();
        assert_eq!(receipt.buffered(), 1);
        cluster.crash(ONE, Keep::Synced);
        cluster.wait_up(&client, &[]).await;
        cluster.restart(ONE).await;
        cluster.wait_up(&client, &[ONE]).await;
        let text = export(&client, "db", Some(ONE)).await.unwrap();
        synced.check(&[(ONE, text)]).assert_whole();
        // The end of the process alone takes nothing.
        write(&client, "db", &[sample(0, 10)], &options, &synced).await.unwrap();
        cluster.crash(ONE, Keep::All);
        cluster.wait_up(&client, &[]).await;
        cluster.restart(ONE).await;
        cluster.wait_up(&client, &[ONE]).await;
        let text = export(&client, "db", Some(ONE)).await.unwrap();
        synced.check(&[(ONE, text)]).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn each_copy_says_what_its_owner_does_and_delivered_hints_are_synced_everywhere() {
    simulated(async {
        let mut cluster = Cluster::simulated_with(plan(3, 2), 402).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        let receipt = write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        for copy in &receipt.parts[0].copies {
            let buffered = matches!(copy.state, CopyState::Buffered { .. });
            assert_eq!(buffered, copy.owner != ONE, "{copy:?}");
            assert!(copy.state.held());
        }
        for (node, status) in statuses(&client, &cluster.ids()).await.unwrap() {
            let every = if node == ONE { 0 } else { 1000 };
            assert_eq!(status.sync_interval_ms, every, "node {node}");
        }
        sleep(EVERY * 2).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, NodeId(2)]).await;
        let options = WriteOptions::default();
        for n in 1..20 {
            write(&client, "db", &[sample(0, n)], &options, &ledger).await.unwrap();
        }
        assert!(client.settle(Duration::from_secs(10)).await);
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        wait_drained(&client, &cluster.ids()).await;
        // Nobody keeps them for it any more.
        cluster.crash(THREE, Keep::Synced);
        cluster.wait_up(&client, &[ONE, NodeId(2)]).await;
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}
