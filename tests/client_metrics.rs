//! What a client counts of what waits, is tried again, or fails.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate_client::{ClientConfig, Query, WriteOptions};
use quorate_protocol::{consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::simulated,
    load::{Writer, large, sample, write},
    observe::{PATIENCE, create_database},
    shard::no_room,
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// The sum of a client's metric over all label sets that have this text in them.
fn value(metrics: &PrometheusHandle, name: &str, labels: &str) -> f64 {
    let text = metrics.render();
    let name = format!("quorate_client_{name}");
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(&name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(labels))
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn whatever_waits_fails_or_is_tried_again_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    // All of a simulated cluster runs in this thread.
    let _guard = metrics::set_default_local_recorder(&recorder);
    let count = |name: &str, labels: &str| value(&metrics, name, labels);
    simulated(async {
        let ledger = Arc::new(Ledger::new());
        // Node three is busy before long.
        let mut plan = Plan::of(3).configured(|node, config| {
            if node == THREE {
                no_room(config);
            }
        });
        plan.client = ClientConfig { budget_bytes: 3 << 10, ..ClientConfig::default() };
        let mut cluster = Cluster::simulated_with(plan, 811).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let quorum = WriteOptions::default();
        write(&client, "db", &[sample(1, 0)], &quorum, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        assert_eq!(count("writes_total", "outcome=\"ok\""), 1.0);
        assert_eq!(count("copies_total", "outcome=\"stored\""), 3.0);
        assert_eq!(count("meta_waits_total", "outcome=\"done\""), 1.0);
        assert_eq!(count("budget_used_bytes", ""), 0.0);

        // Many at once have to wait for room.
        let writers: Vec<Writer> = (2..6)
            .map(|n| Writer::start(&client, "db", n, 50, Duration::ZERO, quorum.clone(), &ledger))
            .collect();
        for writer in &writers {
            writer.acked(3).await;
        }
        for writer in writers {
            writer.stop().await;
        }
        assert!(count("budget_waits_total", "outcome=\"found\"") > 0.0);

        // A busy owner is asked again, and its copies are marked.
        let timeout = Duration::from_millis(500);
        let quick = WriteOptions { timeout, ..quorum.clone() };
        for n in 0..200 {
            let _ = write(&client, "db", &[large(n, 2 << 10)], &quick, &ledger).await;
            if count("marks_total", "outcome=\"kept\"") > 0.0 {
                break;
            }
        }
        assert!(client.settle(PATIENCE).await);
        assert!(count("marks_total", "outcome=\"kept\"") > 0.0, "{}", metrics.render());
        assert!(count("copies_total", "outcome=\"marked\"") > 0.0);
        assert!(count("copy_retries_total", "") > 0.0);
        assert_eq!(count("budget_used_bytes", ""), 0.0);

        let before = (count("hints_total", ""), count("failed_rows_total", ""));
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        write(&client, "db", &[sample(1, 1)], &quorum, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        assert_eq!(count("hints_total", "outcome=\"kept\""), before.0 + 1.0);
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(1, 2), sample(1, 3)], &all, &ledger).await.unwrap_err();
        assert_eq!(count("failed_rows_total", ""), before.1 + 2.0);
        let labels = "code=\"Unavailable\",certainty=\"definite\"";
        assert!(count("failed_rows_total", labels) >= 2.0, "{}", metrics.render());

        let mut rows = client.query(Query { level: Level::All, ..Query::all("db") }).await.unwrap();
        while rows.next().await.is_some_and(|next| next.is_ok()) {}
        assert_eq!(count("queries_total", "kind=\"rows\""), 1.0);
        assert!(count("query_pages_total", "") >= 2.0);
        assert_eq!(count("query_owners_given_up_total", "code=\"Unavailable\""), 1.0);
        cluster.finish().await;
    });
}
