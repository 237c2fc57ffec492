//! A cluster goes over to a later minor version and back, one node after the other, as `node/DEPLOY.md`
//! says, while it is written to.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::{Client, WriteOptions};
use quorate_protocol::{
    code::Code,
    hello::MINOR,
    id::{MetaIndex, NodeId},
    message::Propose,
};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::{real, simulated},
    load::{Writer, sample, write},
    observe::{PATIENCE, create_database, exports, leader, wait_drained, wait_for, wait_healthy},
    process::Processes,
    raw::Raw,
};
use tokio::time::{Instant, sleep};

/// Writers, and the rows of each write.
const WRITERS: (u64, u64) = (3, 5);

/// Waits until every two nodes speak the lower one of what both are.
async fn agreed(cluster: &Cluster, minors: &[(NodeId, u16)]) {
    wait_for("the lower minor between all nodes", PATIENCE, async || {
        for (node, minor) in minors {
            let mut agreed = cluster.node(*node).minors();
            agreed.sort_unstable();
            let others = minors.iter().filter(|(other, _)| other != node);
            let lower: Vec<_> =
                others.map(|(other, theirs)| (*other, *minor.min(theirs))).collect();
            if agreed != lower {
                return Err(format!("node {node}: {agreed:?} instead of {lower:?}"));
            }
        }
        Ok(())
    })
    .await;
}

/// A change that no version knows is refused by every node, and nothing comes of it.
async fn refuses_what_it_does_not_know(raw: &Raw, client: &Client, nodes: &[NodeId]) {
    for node in nodes {
        let connection = raw.connect(&client.map(), *node).await;
        let request = Propose { deadline_ms: 1_000, forwarded: false, after: MetaIndex(u64::MAX) };
        let change = Bytes::from_static(&[0x7f, 1, 2, 3]);
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = connection.request(&request, change, deadline).await.unwrap_err();
        assert_eq!(error.code(), Code::Malformed, "{node}: {error}");
    }
}

fn writers(client: &Client, ledger: &Arc<Ledger>) -> Vec<Writer> {
    let (rows, pause) = (WRITERS.1, Duration::from_millis(5));
    let start =
        |number| Writer::start(client, "db", number, rows, pause, WriteOptions::default(), ledger);
    (1..=WRITERS.0).map(start).collect()
}

async fn acked(writers: &[Writer], more: usize) {
    for writer in writers {
        writer.acked(more).await;
    }
}

/// Ends them.
async fn none_failed(writers: Vec<Writer>) {
    let mut done = Vec::new();
    for writer in writers {
        done.extend(writer.stop().await);
    }
    let failed: Vec<_> = done.iter().filter_map(|write| write.error.as_ref()).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), done.len(), failed.first());
    let slowest = done.iter().map(|write| write.took).max().unwrap();
    println!("{} writes, none failed, the slowest took {slowest:?}", done.len());
}

#[test]
fn a_cluster_is_upgraded_and_taken_back_under_writes_and_none_of_them_fails() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 90).await;
        let client = cluster.client().await;
        let ids = cluster.ids();
        create_database(&client, "db", 3).await;
        let (options, ledger) = (WriteOptions::default(), Arc::new(Ledger::new()));
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let writers = writers(&client, &ledger);
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let mut minors: Vec<(NodeId, u16)> = ids.iter().map(|id| (*id, MINOR)).collect();
        agreed(&cluster, &minors).await;
        for minor in [MINOR + 1, MINOR] {
            let last = leader(&client, &ids).await;
            let mut order = ids.clone();
            order.sort_by_key(|id| *id == last);
            for id in order {
                cluster.stop(id).await;
                acked(&writers, 50).await;
                sleep(Duration::from_secs(1)).await;
                cluster.set_minor(id, minor);
                cluster.restart(id).await;
                wait_healthy(&client, &ids).await;
                wait_drained(&client, &ids).await;
                let upgraded = minors.iter_mut().find(|(node, _)| *node == id);
                upgraded.unwrap().1 = minor;
                agreed(&cluster, &minors).await;
                // Metadata goes through versions side by side, too.
                let database = format!("db-{minor}-{id}");
                create_database(&client, &database, 3).await;
                let few = Ledger::new();
                write(&client, &database, &[sample(0, 1)], &options, &few).await.unwrap();
                refuses_what_it_does_not_know(&raw, &client, &ids).await;
                acked(&writers, 50).await;
                few.check(&exports(&client, &database, &ids).await).assert_whole();
            }
        }
        none_failed(writers).await;
        wait_drained(&client, &ids).await;
        ledger.check(&exports(&client, "db", &ids).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn processes_that_are_restarted_one_after_the_other_lose_no_write() {
    real(async {
        let mut cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3).await;
        let client = cluster.client().await;
        let ids = cluster.ids();
        create_database(&client, "db", 3).await;
        let (options, ledger) = (WriteOptions::default(), Arc::new(Ledger::new()));
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let writers = writers(&client, &ledger);
        let last = leader(&client, &ids).await;
        let mut order = ids.clone();
        order.sort_by_key(|id| *id == last);
        for id in order {
            acked(&writers, 20).await;
            cluster.terminate(id).await;
            acked(&writers, 20).await;
            cluster.restart(id).await;
            wait_healthy(&client, &ids).await;
            wait_drained(&client, &ids).await;
        }
        acked(&writers, 20).await;
        none_failed(writers).await;
        wait_drained(&client, &ids).await;
        ledger.check(&exports(&client, "db", &ids).await).assert_whole();
        client.close().await;
    });
}
