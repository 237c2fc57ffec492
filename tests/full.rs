//! Things that are full, slow or small: budgets, busy nodes, large records, many hosts; and that
//! everything can be closed in the middle of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quorate_client::{
    Client, ClientConfig, WriteOptions, error::WriteErrorKind, receipt::CopyState,
};
use quorate_protocol::{batch::Batch, change::Change, code::Code, consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::simulated,
    load::{Writer, large, sample, write},
    observe::{
        PATIENCE, create_database, exports, queues, statuses, total, wait_drained, wait_for,
        wait_healthy, wait_until,
    },
    raw::{Raw, remove_node},
    shard::no_room,
};
use tokio::time::{Instant, timeout};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

#[test]
fn f22_a_mute_node_costs_bounded_memory_and_nobody_s_time() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 101).await;
        // A budget of a few writes: if a mute node kept its share, the fifth would wait for it.
        let config = ClientConfig { budget_bytes: 64 << 10, ..ClientConfig::default() };
        let client = cluster.client_with(config).await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[large(0, 10)], &options, &ledger).await.unwrap();
        cluster.isolate(THREE);
        let begun = Instant::now();
        // However little is in it, there are a task for it and three for its copies.
        assert!(client.settle(PATIENCE).await);
        write(&client, "db", &[large(500, 10)], &options, &ledger).await.unwrap();
        assert!(client.usage().budget_bytes > 8 << 10, "{:?}", client.usage());
        let mut refused = 0;
        for n in 1..40 {
            // 12 KiB each, half a megabyte in all.
            let mut batch = Batch::new();
            let point = [large(n, 12 << 10)];
            batch.push(&point[0]);
            let result = client.try_write("db", &batch, &options).await;
            ledger.record(&point, &result);
            match result {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.code(), Code::Busy, "{error}");
                    assert_eq!(error.kind(), WriteErrorKind::Definite, "{error}");
                    refused += 1;
                    // And one that may wait gets its turn when the node is known to be mute.
                    let point = [large(1000 + n, 12 << 10)];
                    write(&client, "db", &point, &options, &ledger).await.unwrap();
                }
            }
        }
        assert!(refused > 0, "the budget was never full, so nothing was tested");
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
        assert!(client.settle(PATIENCE).await, "the mute node keeps its share of the budget");
        cluster.rejoin(THREE);
        wait_healthy(&client, &cluster.ids()).await;
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f24_a_busy_owner_gets_back_pressure_and_a_mark_but_no_hints() {
    simulated(async {
        // Node 3 is busy before long.
        let tight = Arc::new(AtomicBool::new(true));
        let is_tight = Arc::clone(&tight);
        let plan = Plan::of(3).configured(move |node, config| {
            if node == THREE && is_tight.load(Ordering::Relaxed) {
                no_room(config);
                // One that takes its time to say so.
                config.shard.fresh_wait_ms = 1_000;
            }
        });
        let mut cluster = Cluster::simulated_with(plan, 102).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let quick = WriteOptions { timeout: Duration::from_millis(500), ..WriteOptions::default() };
        let all = WriteOptions { consistency: Level::All, ..quick.clone() };
        let mut n = 0;
        let error = loop {
            n += 1;
            assert!(n < 200, "node 3 is never busy");
            match write(&client, "db", &[large(n, 2 << 10)], &all, &ledger).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Busy), "{error}");
        for n in 1200..1210 {
            // The level is reached without it.
            write(&client, "db", &[large(n, 2 << 10)], &quick, &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        let hints = total(&queues(&client, &cluster.ids()).await.unwrap());
        assert_eq!(hints.accepted, 0, "an overload was answered with hints: {hints:?}");
        let marks = cluster.disk_bytes(&[ONE, TWO], "/handoff/marks", b"QREC");
        assert!(marks.is_some(), "nobody remembers that node 3 is behind");
        // Nothing is lost where it was acknowledged, and the busy node is behind, not broken.
        let replicas = exports(&client, "db", &[ONE, TWO]).await;
        ledger.check(&replicas).assert_whole();
        tight.store(false, Ordering::Relaxed);
        cluster.stop(THREE).await;
        cluster.restart(THREE).await;
        cluster.wait_up(&client, &cluster.ids()).await;
        write(&client, "db", &[large(1300, 2 << 10)], &all, &ledger).await.unwrap();
        cluster.finish().await;
    });
}

#[test]
fn f04_a_hint_larger_than_a_segment_is_kept_and_delivered() {
    simulated(async {
        let plan = Plan::of(3).configured(|_, config| {
            config.handoff.segment_bytes = 16 << 10;
            config.journal.segment_bytes = 16 << 10;
        });
        let mut cluster = Cluster::simulated_with(plan, 103).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[large(0, 10)], &options, &ledger).await.unwrap();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        for (n, bytes) in [(1, 100), (2, 300 << 10), (3, 100), (4, 15 << 10), (5, 100)] {
            write(&client, "db", &[large(n, bytes)], &options, &ledger).await.unwrap();
        }
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert!(sum.delivered >= 5 && sum.quarantined == 0, "{sum:?}");
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f13_everything_closes_in_the_middle_of_writes_and_drains() {
    simulated(async {
        let plan = Plan::of(3).configured(|_, config| config.drain.rate_limit = 2_000);
        let mut cluster = Cluster::simulated_with(plan, 104).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let pause = Duration::from_millis(3);
        let writer = Writer::start(&client, "db", 1, 4, pause, options.clone(), &ledger);
        writer.acked(100).await;
        cluster.restart(THREE).await;
        wait_until("the drain has begun", async || {
            let all = queues(&client, &[ONE, TWO]).await;
            all.is_ok_and(|all| total(&all).delivered > 0)
        })
        .await;
        let pending = total(&queues(&client, &[ONE, TWO]).await.unwrap()).pending;
        assert!(pending > 0, "the drain is over already, so nothing is interrupted");
        // A target and a holder stop while one drains to the other and both are written to.
        for node in [THREE, ONE, TWO] {
            let begun = Instant::now();
            timeout(Duration::from_secs(60), cluster.stop(node)).await.expect("the node stops");
            assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        }
        let done = timeout(Duration::from_secs(60), writer.stop()).await.expect("the writer ends");
        assert!(done.iter().any(|write| write.error.is_some()));
        for node in cluster.ids() {
            cluster.restart(node).await;
        }
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(Duration::from_secs(120)).await);
        wait_for("all hints delivered", Duration::from_secs(3600), async || {
            let sum = total(&queues(&client, &cluster.ids()).await?);
            if sum.pending == 0 { Ok(()) } else { Err(format!("{sum:?}")) }
        })
        .await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        // A client closes with a write on its way to nodes that do not answer.
        for node in cluster.ids() {
            cluster.isolate(node);
        }
        let last = tokio::spawn({
            let client = client.clone();
            async move { write(&client, "db", &[sample(5, 5)], &options, &Ledger::new()).await }
        });
        tokio::task::yield_now().await;
        timeout(Duration::from_secs(60), client.close()).await.expect("the client closes");
        last.await.unwrap().unwrap_err();
        cluster.finish().await;
    });
}

#[test]
fn f12_hints_of_a_dropped_database_and_of_a_removed_node_are_given_up_and_counted() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 105).await;
        let client = cluster.client().await;
        let (kept, dropped) = (Ledger::new(), Ledger::new());
        let options = WriteOptions::default();
        create_database(&client, "kept", 3).await;
        create_database(&client, "dropped", 3).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "kept", &[sample(0, 0)], &all, &kept).await.unwrap();
        write(&client, "dropped", &[sample(0, 0)], &all, &dropped).await.unwrap();
        cluster.stop(THREE).await;
        let live = [ONE, TWO];
        cluster.wait_up(&client, &live).await;
        for n in 1..=10 {
            write(&client, "dropped", &[sample(0, n)], &options, &dropped).await.unwrap();
            write(&client, "kept", &[sample(0, n)], &options, &kept).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        let before = total(&queues(&client, &live).await.unwrap());
        assert_eq!(before.pending, 20);
        drop_database(&client, "dropped").await;
        // Nobody has to ask the target: it is down.
        wait_for("the hints of the dropped database", PATIENCE, async || {
            let sum = total(&queues(&client, &live).await?);
            if (sum.pending, sum.discarded) == (10, 10) { Ok(()) } else { Err(format!("{sum:?}")) }
        })
        .await;
        let error = write(&client, "dropped", &[sample(0, 99)], &options, &dropped).await;
        assert_eq!(error.unwrap_err().code(), Code::DatabaseNotFound);
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!((sum.delivered, sum.discarded, sum.quarantined), (10, 10, 0), "{sum:?}");
        kept.check(&exports(&client, "kept", &cluster.ids()).await).assert_whole();

        // Now the node itself goes, for good, with hints waiting for it.
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &live).await;
        write(&client, "kept", &[sample(0, 11)], &options, &kept).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        assert_eq!(total(&queues(&client, &live).await.unwrap()).pending, 1);
        drop_database(&client, "kept").await;
        let now = quorate_certs::UnixTime::now();
        let member = cluster.authority().issue_node_in_memory("n1", &[], now).unwrap();
        let raw = Raw::new(cluster.client_env(), member);
        let connection = raw.connect(&client.map(), ONE).await;
        remove_node(&connection, THREE).await;
        wait_for("the hints of the removed node", PATIENCE, async || {
            let sum = total(&queues(&client, &live).await?);
            if (sum.pending, sum.discarded) == (0, 11) { Ok(()) } else { Err(format!("{sum:?}")) }
        })
        .await;
        cluster.finish().await;
    });
}

async fn drop_database(client: &Client, name: &str) {
    client.change(Change::DropDatabase { name: name.to_owned() }).await.unwrap();
}

#[test]
fn a_full_journal_disk_refuses_definitely_and_recovers_by_itself() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 106).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 1).await;
        let quick = WriteOptions { timeout: Duration::from_millis(500), ..WriteOptions::default() };
        write(&client, "db", &[sample(0, 0)], &quick, &ledger).await.unwrap();
        cluster.disk(ONE).only(quorate_tests::harness::disk::JOURNAL);
        cluster.disk(ONE).set_room(Some(0));
        let error = write(&client, "db", &[sample(0, 1)], &quick, &ledger).await.unwrap_err();
        assert!(cluster.disk(ONE).injected().full > 0, "the disk was never full");
        assert_eq!(
            (error.kind(), error.code()),
            (WriteErrorKind::Definite, Code::DiskFull),
            "{error}"
        );
        assert!(!statuses(&client, &[ONE]).await.unwrap()[&ONE].poisoned);
        cluster.disk(ONE).set_room(None);
        let receipt = write(&client, "db", &[sample(0, 2)], &quick, &ledger).await.unwrap();
        assert!(matches!(receipt.parts[0].copies[0].state, CopyState::Stored { .. }));
        ledger.check(&exports(&client, "db", &[ONE]).await).assert_whole();
        cluster.stop(ONE).await;
        cluster.restart(ONE).await;
        cluster.wait_up(&client, &[ONE]).await;
        ledger.check(&exports(&client, "db", &[ONE]).await).assert_whole();
        cluster.finish().await;
    });
}
