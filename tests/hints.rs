//! Hinted handoff between whole nodes: delivery over restarts and crashes, order, accounting,
//! disks that fail under a hint.

use std::{sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions, receipt::CopyState};
use quorate_protocol::{consistency::Level, id::NodeId, message::QueueStatus, point::Point};
use quorate_tests::harness::{
    cluster::{Cluster, Plan, host},
    disk::{HANDOFF, Keep},
    history::Ledger,
    limit::{real, simulated, soak},
    load::{EPOCH, Writer, sample, write},
    observe::{
        PATIENCE, create_database, export, exports, queues, total, wait_drained, wait_for,
        wait_healthy, wait_until,
    },
    process::Processes,
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// The node that has pending hints for `target`, and its queue.
async fn holder_of(client: &Client, live: &[NodeId], target: NodeId) -> (NodeId, QueueStatus) {
    wait_for("a holder of hints", PATIENCE, async || {
        let all = queues(client, live).await?;
        let mut holders = all.iter().filter(|((_, to), queue)| *to == target && queue.pending > 0);
        let ((node, _), queue) = holders.next().ok_or("nobody holds a hint")?;
        Ok((*node, *queue))
    })
    .await
}

/// One value for the one row that several versions of are written.
fn version_of_row(value: i64) -> Point {
    Point::builder("row").tag("is", "one").field("value", value).at(EPOCH).unwrap()
}

#[test]
fn a_hint_is_delivered_after_its_holder_was_killed_and_restarted() {
    real(async {
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let mut cluster = Processes::start(binary, 3).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        let target = THREE;
        cluster.kill(target).await;
        wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
        for n in 1..=50 {
            write(&client, "db", &[sample(0, n)], &options, &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        let live = [ONE, TWO];
        let (holder, before) = holder_of(&client, &live, target).await;
        assert!(before.pending > 10, "{before:?}");
        assert_eq!(total(&queues(&client, &live).await.unwrap()).pending, 50);

        let pid = cluster.pid(holder);
        cluster.kill(holder).await;
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
        cluster.restart(holder).await;
        let all = wait_for("statuses", PATIENCE, async || queues(&client, &live).await).await;
        let after = all[&(holder, target)];
        let kept = (before.accepted, before.pending);
        assert_eq!((after.accepted, after.pending), kept, "the crash has cost hints");

        cluster.restart(target).await;
        wait_healthy(&client, &cluster.ids()).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!(sum.delivered, 50);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        client.close().await;
    });
}

#[test]
fn f14_a_late_hint_never_overwrites_what_is_newer() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 31).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let quorum = WriteOptions::default();
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[version_of_row(0)], &all, &ledger).await.unwrap();

        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        write(&client, "db", &[version_of_row(1)], &quorum, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        let (holder, _) = holder_of(&client, &[ONE, TWO], THREE).await;

        // The target comes back, but its hints cannot reach it yet.
        cluster.net().partition(host(holder), host(THREE));
        cluster.restart(THREE).await;
        cluster.wait_up(&client, &cluster.ids()).await;
        write(&client, "db", &[version_of_row(2)], &all, &ledger).await.unwrap();
        let held = queues(&client, &cluster.ids()).await.unwrap()[&(holder, THREE)];
        assert_eq!((held.pending, held.delivered), (1, 0), "the hint was not held back");
        let newest = export(&client, "db", Some(THREE)).await.unwrap();
        assert!(newest.contains("value=2i"), "{newest}");

        cluster.net().heal_all();
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!(sum.delivered, 1, "the old value was never delivered, so nothing was tested");
        let replicas = exports(&client, "db", &cluster.ids()).await;
        ledger.check(&replicas).assert_whole();
        for (node, text) in &replicas {
            assert!(text.contains("value=2i"), "node {node}: {text}");
        }
        // Nor does it once both are folded.
        for node in cluster.ids() {
            cluster.node(node).fold().await;
        }
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn the_books_balance_through_crashes_of_holder_and_target() {
    for seed in 0..soak(2) as u64 {
        simulated(async {
            let mut cluster = Cluster::simulated(3, 320 + seed).await;
            let client = cluster.client().await;
            let ledger = Arc::new(Ledger::new());
            create_database(&client, "db", 3).await;
            let options = WriteOptions::default();
            write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
            let pause = Duration::from_millis(7);
            let writer = Writer::start(&client, "db", 1, 3, pause, options, &ledger);
            for round in 0..6 {
                // One node at a time; what was not synced is lost, as with a power cut.
                let victim = NodeId(1 + (round + seed) % 3);
                writer.acked(20).await;
                cluster.crash(victim, Keep::Synced);
                let live: Vec<NodeId> =
                    cluster.ids().into_iter().filter(|node| *node != victim).collect();
                cluster.wait_up(&client, &live).await;
                writer.acked(20).await;
                // Asserts the identity of every queue.
                wait_for("statuses", PATIENCE, async || queues(&client, &live).await).await;
                cluster.restart(victim).await;
                cluster.wait_up(&client, &cluster.ids()).await;
                if round % 2 == 0 {
                    wait_drained(&client, &cluster.ids()).await;
                }
            }
            let done = writer.stop().await;
            wait_healthy(&client, &cluster.ids()).await;
            assert!(client.settle(Duration::from_secs(120)).await);
            let sum = wait_drained(&client, &cluster.ids()).await;
            assert!(sum.delivered > 0 && cluster.net().counters().blocked > 0);
            assert_eq!((sum.quarantined, sum.expired, sum.discarded), (0, 0, 0), "{sum:?}");
            assert!(done.iter().any(|write| write.error.is_none()));
            ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
            cluster.finish().await;
        });
    }
}

#[test]
fn f09_any_is_accepted_while_the_queue_drains() {
    simulated(async {
        // A kilobyte a second: the drain takes minutes.
        let plan = Plan::of(3).configured(|_, config| {
            config.drain.rate_limit = 1_000;
            config.drain.message_records = 4;
        });
        let mut cluster = Cluster::simulated_with(plan, 33).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        // One owner per series: where it is down, an `any` rests on hints alone.
        create_database(&client, "single", 1).await;
        let any = WriteOptions::at(Level::Any);
        let all = WriteOptions::at(Level::All);
        let series = |at: u64| -> Vec<Point> { (0..20).map(|n| sample(n, at + n)).collect() };
        write(&client, "single", &series(0), &all, &ledger).await.unwrap();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        for round in 1..40 {
            write(&client, "single", &series(round * 20), &any, &ledger).await.unwrap();
        }
        cluster.restart(THREE).await;
        cluster.wait_up(&client, &cluster.ids()).await;
        wait_until("the drain has begun", async || {
            total(&queues(&client, &cluster.ids()).await.unwrap()).delivered > 0
        })
        .await;
        // The target goes again while hints are on their way; more are taken all the same.
        cluster.isolate(THREE);
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let before = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert!(before.pending > 0 && before.delivered > 0, "it was not in the middle: {before:?}");
        for round in 40..50 {
            let receipt = write(&client, "single", &series(round * 20), &any, &ledger).await;
            assert!(receipt.unwrap().hints() > 0);
        }
        assert!(client.settle(PATIENCE).await);
        let sum = total(&queues(&client, &[ONE, TWO]).await.unwrap());
        assert_eq!(sum.accepted, before.accepted + 20, "two holders for each of ten");
        cluster.rejoin(THREE);
        cluster.wait_up(&client, &cluster.ids()).await;
        wait_for("all hints delivered", Duration::from_secs(3600), async || {
            let sum = total(&queues(&client, &cluster.ids()).await?);
            if sum.pending == 0 { Ok(()) } else { Err(format!("{sum:?}")) }
        })
        .await;
        let text = export(&client, "single", None).await.unwrap();
        ledger.check(&[(NodeId(0), text)]).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn f08_a_hint_whose_sync_fails_is_not_acknowledged() {
    disk_fails_under_a_hint(34, |cluster| {
        for node in [ONE, TWO] {
            cluster.disk(node).fail_sync(1);
        }
    });
}

#[test]
fn f07_a_full_disk_under_a_hint_is_reported_and_passes() {
    disk_fails_under_a_hint(35, |cluster| {
        for node in [ONE, TWO] {
            cluster.disk(node).set_room(Some(0));
        }
    });
}

/// Every holder's disk refuses its next hint; what was acknowledged is on all replicas in the end.
fn disk_fails_under_a_hint(seed: u64, plan: impl Fn(&Cluster)) {
    simulated(async {
        let mut cluster = Cluster::simulated(3, seed).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "single", 1).await;
        let points: Vec<Point> = (0..30).map(|n| sample(n, n)).collect();
        let all = WriteOptions::at(Level::All);
        write(&client, "single", &points, &all, &ledger).await.unwrap();
        // Faults are for files that are opened after they were limited to a directory.
        for node in [ONE, TWO] {
            cluster.disk(node).only(HANDOFF);
            cluster.stop(node).await;
            cluster.restart(node).await;
        }
        wait_healthy(&client, &cluster.ids()).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        // Series whose only owner is down: an `any` rests on hints alone.
        let any = WriteOptions { timeout: Duration::from_secs(5), ..WriteOptions::at(Level::Any) };
        let points: Vec<Point> = (100..130).map(|n| sample(n, n)).collect();
        let receipt = write(&client, "single", &points, &any, &ledger).await;
        assert!(receipt.unwrap().hints() > 0);
        assert!(client.settle(PATIENCE).await);
        plan(&cluster);
        let points: Vec<Point> = (30..60).map(|n| sample(n, n)).collect();
        let result = write(&client, "single", &points, &any, &ledger).await;
        let receipt = match &result {
            Ok(receipt) => receipt,
            Err(error) => &*error.receipt,
        };
        for node in [ONE, TWO] {
            let injected = cluster.disk(node).injected();
            assert!(injected.syncs + injected.full > 0, "node {node}'s disk has not failed");
        }
        // What the receipt calls hinted is really in a queue.
        let hinted: Vec<_> = receipt
            .parts
            .iter()
            .flat_map(|part| &part.copies)
            .filter_map(|copy| match copy.state {
                CopyState::Hinted { holder, .. } => Some(holder),
                _ => None,
            })
            .collect();
        let held = queues(&client, &[ONE, TWO]).await.unwrap();
        for holder in hinted {
            assert!(held[&(holder, THREE)].accepted > 0, "{holder} has no hint: {held:?}");
        }
        for node in [ONE, TWO] {
            cluster.disk(node).set_room(None);
        }
        // Whatever was acknowledged has been synced since: the power can go. Afterwards the disks
        // work, and hints are taken.
        for node in [ONE, TWO] {
            cluster.crash(node, Keep::Synced);
        }
        for node in [ONE, TWO] {
            cluster.restart(node).await;
        }
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let again: Vec<Point> = (60..90).map(|n| sample(n, n)).collect();
        write(&client, "single", &again, &any, &ledger).await.unwrap();
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(Duration::from_secs(120)).await);
        wait_drained(&client, &cluster.ids()).await;
        let text = export(&client, "single", None).await.unwrap();
        ledger.check(&[(NodeId(0), text)]).assert_whole();
        cluster.finish().await;
    });
}
