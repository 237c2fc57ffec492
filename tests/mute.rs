//! A node that says nothing: stopped by a signal, or cut off. It is not slow but down, and nobody
//! waits for it twice.

use std::{sync::Arc, time::Duration};

use quorate_client::{WriteOptions, error::WriteErrorKind};
use quorate_protocol::{consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::{real, simulated},
    load::{Writer, sample, write},
    observe::{
        PATIENCE, create_database, export, exports, queues, total, wait_drained, wait_healthy,
        wait_until,
    },
    process::Processes,
};
use tokio::time::Instant;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

#[test]
fn quorum_writes_do_not_wait_for_a_node_that_fell_silent() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 41).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let pause = Duration::from_millis(5);
        let writer = Writer::start(&client, "db", 1, 2, pause, options, &ledger);
        writer.acked(50).await;
        // Not the leader, so that metadata has nothing to do with it.
        let leader = quorate_tests::harness::observe::leader(&client, &cluster.ids()).await;
        let silent = if leader == THREE { TWO } else { THREE };
        let live: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != silent).collect();
        let since = Instant::now();
        cluster.isolate(silent);
        cluster.wait_up(&client, &live).await;
        let known = since.elapsed();
        assert!(known < Duration::from_millis(1_600), "it took {known:?} to be told");
        writer.acked(200).await;
        assert!(total(&queues(&client, &live).await.unwrap()).accepted > 0, "nobody keeps hints");
        cluster.rejoin(silent);
        cluster.wait_up(&client, &cluster.ids()).await;
        writer.acked(50).await;
        let done = writer.stop().await;
        let worst = done.iter().map(|write| write.took).max().unwrap();
        assert!(worst < Duration::from_millis(100), "a quorum write took {worst:?}");
        assert!(done.iter().all(|write| write.error.is_none()), "{done:?}");
        assert!(cluster.net().counters().blocked > 0);
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert!(sum.delivered > 0);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f17_any_is_hinted_as_soon_as_its_owner_is_known_to_be_mute() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 42).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "single", 1).await;
        let points: Vec<Point> = (0..30).map(|n| sample(n, n)).collect();
        let any = WriteOptions::at(Level::Any);
        write(&client, "single", &points, &WriteOptions::at(Level::All), &ledger).await.unwrap();
        cluster.isolate(THREE);
        // The first write finds out; the time it may take is mute_after, not its deadline.
        let points: Vec<Point> = (30..60).map(|n| sample(n, n)).collect();
        let begun = Instant::now();
        let receipt = write(&client, "single", &points, &any, &ledger).await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(1_600), "{took:?}");
        assert!(took > Duration::from_millis(500), "{took:?}: it knew before, nothing was tested");
        assert!(receipt.hints() > 0, "{receipt:?}");
        // The next ones know.
        for n in 60..80 {
            let begun = Instant::now();
            write(&client, "single", &[sample(n, n)], &any, &ledger).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
        }
        cluster.rejoin(THREE);
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        wait_drained(&client, &cluster.ids()).await;
        let text = export(&client, "single", None).await.unwrap();
        ledger.check(&[(NodeId(0), text)]).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f16_a_dead_node_is_dialled_by_its_worker_and_not_by_writes() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 43).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        // Two stretches of equal virtual time, one with and one without writes: what is sent to
        // the dead node does not depend on them.
        let mut dials = Vec::new();
        for write_in_it in [false, true] {
            // Dials grow rarer; begin each stretch when they are as rare as they get.
            tokio::time::sleep(Duration::from_secs(30)).await;
            let before = cluster.net().counters().unreachable;
            let end = Instant::now() + Duration::from_secs(60);
            let mut n = 1;
            while Instant::now() < end {
                if write_in_it {
                    let begun = Instant::now();
                    write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
                    assert!(begun.elapsed() < Duration::from_millis(100));
                    n += 1;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            dials.push(cluster.net().counters().unreachable - before);
        }
        assert!(dials[0] > 0, "nobody dials at all");
        assert!(dials[1] * 4 < dials[0] * 5, "writes dial: {dials:?}");
        cluster.finish().await;
    });
}

#[test]
fn a_stopped_process_is_hinted_for_and_catches_up_when_it_goes_on() {
    real(async {
        let mut cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let pause = Duration::from_millis(2);
        let writer = Writer::start(&client, "db", 1, 5, pause, options.clone(), &ledger);
        writer.acked(20).await;
        cluster.freeze(THREE);
        let state = std::fs::read_to_string(format!("/proc/{}/stat", cluster.pid(THREE))).unwrap();
        wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
        let known = Instant::now();
        writer.acked(100).await;
        // All of three is out of reach, and known to be.
        let all = WriteOptions { consistency: Level::All, ..options };
        let error = write(&client, "db", &[sample(9, 1)], &all, &ledger).await.unwrap_err();
        assert_eq!(error.kind(), WriteErrorKind::Definite, "{error}");
        assert!(!client.up().contains(&THREE), "it was not stopped: {state}");
        cluster.thaw(THREE);
        wait_until("it is back", async || client.up() == cluster.ids()).await;
        writer.acked(20).await;
        let done = writer.stop().await;
        let late = done.iter().filter(|write| write.at > known);
        let worst = late.map(|write| write.took).max().unwrap();
        assert!(worst < Duration::from_secs(5), "a write waited for something: {worst:?}");
        assert!(done.iter().all(|write| write.error.is_none()), "{done:?}");
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert!(sum.delivered > 0);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        client.close().await;
        for node in cluster.ids() {
            cluster.terminate(node).await;
        }
    });
}
