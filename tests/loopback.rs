//! The main path over real loopback UDP in one process, with threads, real time and real files: what
//! the simulated network and the inline disk cannot show.

use quorate_client::WriteOptions;
use quorate_protocol::{consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::real,
    load::{sample, write},
    observe::{PATIENCE, create_database, exports, wait_drained, wait_healthy, wait_until},
};

#[test]
fn every_level_with_all_nodes_up_then_one_down_then_all_again() {
    real(async {
        let mut cluster = Cluster::real(3).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let levels = [Level::Any, Level::One, Level::Quorum, Level::All];
        let mut n = 0;
        let mut next = || {
            n += 1;
            sample(0, n)
        };
        for level in levels {
            write(&client, "db", &[next()], &WriteOptions::at(level), &ledger).await.unwrap();
        }
        cluster.stop(NodeId(2)).await;
        wait_until("the client has noticed", async || client.up() == [NodeId(1), NodeId(3)]).await;
        for level in levels {
            let result = write(&client, "db", &[next()], &WriteOptions::at(level), &ledger).await;
            assert_eq!(result.is_ok(), level != Level::All, "{level}: {result:?}");
        }
        assert!(client.settle(PATIENCE).await);
        cluster.restart(NodeId(2)).await;
        wait_healthy(&client, &cluster.ids()).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert!(sum.delivered >= 3, "{sum:?}");
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}
