//! What is thought of nodes: one that fails again and again gets little to lose, one that is back is used at
//! once, and doubts never stand in the way of a level.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate_client::{Client, WriteOptions};
use quorate_protocol::{code::Code, consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, host},
    disk::JOURNAL,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{
        PATIENCE, create_database, exports, queues, total, wait_drained, wait_for, wait_healthy,
        wait_until,
    },
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const LIVE: [NodeId; 2] = [NodeId(1), TWO];

fn state(client: &Client, node: NodeId) -> &'static str {
    let peers = client.usage().peers;
    peers.iter().find(|peer| peer.node == node).map_or("unknown", |peer| peer.state.name())
}

/// One write that was done.
#[derive(Clone, Copy, Debug)]
struct Done {
    at: Instant,
    took: Duration,
    /// Whether the owner has it, not a holder of hints.
    stored: bool,
}

#[test]
fn a_node_that_goes_silent_again_and_again_costs_one_write_each_time() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 801).await;
        let client = cluster.client().await;
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 1).await;
        // A writer whose first series the third node owns.
        let mut writer = 0;
        let all = WriteOptions::at(Level::All);
        loop {
            let receipt = write(&client, "db", &[sample(writer, 0)], &all, &ledger).await.unwrap();
            if receipt.parts[0].copies[0].owner == THREE {
                break;
            }
            writer += 1;
        }
        let done = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let tasks: Vec<_> = (0..16_u64)
            .map(|task| {
                let (client, ledger) = (client.clone(), Arc::clone(&ledger));
                let (done, stop) = (Arc::clone(&done), stop.clone());
                tokio::spawn(async move {
                    let any = WriteOptions::at(Level::Any);
                    for turn in 1.. {
                        if stop.is_cancelled() {
                            return;
                        }
                        let at = Instant::now();
                        let point = sample(writer, (turn * 16 + task) * 8);
                        let receipt = write(&client, "db", &[point], &any, &ledger).await.unwrap();
                        let stored = receipt.parts[0].copies[0].state.held();
                        done.lock().unwrap().push(Done { at, took: at.elapsed(), stored });
                        sleep(Duration::from_millis(25)).await;
                    }
                })
            })
            .collect();
        let (mut late, mut stored) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            cluster.wait_up(&client, &cluster.ids()).await;
            let up = Instant::now();
            sleep(Duration::from_millis(500)).await;
            cluster.isolate(THREE);
            let silent = Instant::now();
            cluster.wait_up(&client, &LIVE).await;
            // Until what had to wait has its hints.
            sleep(Duration::from_millis(200)).await;
            let since = |from: Instant| -> Vec<Done> {
                done.lock().unwrap().iter().filter(|done| done.at >= from).copied().collect()
            };
            let slow = |done: &&Done| done.took > Duration::from_millis(500);
            late.push(since(silent - Duration::from_millis(20)).iter().filter(slow).count());
            stored.push(since(up).iter().filter(|done| done.stored).count());
            cluster.rejoin(THREE);
        }
        // The first time nobody knew, the second time it was given the benefit of the doubt.
        assert!(late[0] >= 8, "{late:?}: too few writes go there to show anything");
        assert!(late[2..].iter().all(|late| *late <= 1), "{late:?}");
        assert!(stored.iter().all(|stored| *stored > 10), "{stored:?}: it is not tried again");
        // It gets everything again once it has held.
        cluster.wait_up(&client, &cluster.ids()).await;
        assert_eq!(state(&client, THREE), "trial");
        sleep(Duration::from_secs(11)).await;
        assert_eq!(state(&client, THREE), "up");
        let from = Instant::now();
        sleep(Duration::from_secs(1)).await;
        stop.cancel();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(done.lock().unwrap().iter().filter(|done| done.at > from).all(|done| done.stored));
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        wait_drained(&client, &cluster.ids()).await;
        let text = exports(&client, "db", &[THREE]).await;
        assert!(ledger.check(&text).verified > 500);
        cluster.finish().await;
    });
}

#[test]
fn a_node_that_cannot_store_is_left_alone_and_tried_again_and_asked_where_it_is_needed() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 802).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let (quorum, all) = (WriteOptions::default(), WriteOptions::at(Level::All));
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        cluster.disk(THREE).only(JOURNAL);
        cluster.disk(THREE).set_room(Some(0));
        // Holders of hints would ask it, too.
        LIVE.iter().for_each(|node| cluster.net().partition(host(*node), host(THREE)));
        let mut next = 1;
        let mut writes = async |count: u64| {
            for n in next..next + count {
                write(&client, "db", &[sample(0, n)], &quorum, &ledger).await.unwrap();
                assert!(client.settle(PATIENCE).await);
            }
            next += count;
        };
        writes(10).await;
        assert_eq!(state(&client, THREE), "trial");
        let asked = cluster.disk(THREE).injected().full;
        writes(100).await;
        let asked = cluster.disk(THREE).injected().full - asked;
        assert!((1..20).contains(&asked), "asked {asked} times for 100 writes");
        // It lives, and nobody else will do: whoever needs it hears from it.
        let error = write(&client, "db", &[sample(1, 0)], &all, &ledger).await.unwrap_err();
        assert_eq!(error.code(), Code::DiskFull, "{error}");
        cluster.disk(THREE).set_room(None);
        cluster.net().heal_all();
        wait_for("full trust", PATIENCE, async || {
            writes(1).await;
            let state = state(&client, THREE);
            if state == "up" { Ok(()) } else { Err(state.to_owned()) }
        })
        .await;
        let receipt = write(&client, "db", &[sample(2, 0)], &all, &ledger).await.unwrap();
        assert_eq!(receipt.hints(), 0);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

/// Without that it would be dialled within five seconds of being there.
#[test]
fn a_node_that_is_back_is_dialled_at_once_by_whom_it_comes_to() {
    simulated(async {
        let mut slowest = Duration::ZERO;
        let mut cluster = Cluster::simulated(3, 803).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        for turn in 1..4 {
            cluster.stop(THREE).await;
            cluster.wait_up(&client, &LIVE).await;
            write(&client, "db", &[sample(0, turn)], &options, &ledger).await.unwrap();
            assert!(client.settle(PATIENCE).await);
            // So that dials are as rare as they get, and in another phase each time.
            sleep(Duration::from_millis(40_000 + 1_300 * turn)).await;
            let mut watch = Vec::new();
            for node in LIVE {
                assert_eq!(total(&queues(&client, &LIVE).await.unwrap()).pending, 1);
                watch.push(node);
            }
            cluster.restart(THREE).await;
            let back = Instant::now();
            wait_until("the hints are delivered", async || {
                total(&queues(&client, &LIVE).await.unwrap()).pending == 0
            })
            .await;
            slowest = slowest.max(back.elapsed());
        }
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        cluster.finish().await;
    });
}

#[test]
fn a_node_that_others_have_heard_is_dialled_at_once() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 804).await;
        let client = cluster.client().await;
        for turn in 0..4 {
            cluster.stop(THREE).await;
            cluster.wait_up(&client, &LIVE).await;
            sleep(Duration::from_millis(40_000 + 1_300 * turn)).await;
            cluster.restart(THREE).await;
            sleep(Duration::from_millis(300)).await;
            client.survey(Duration::from_secs(1)).await.unwrap();
            sleep(Duration::from_millis(100)).await;
            assert!(client.up().contains(&THREE), "turn {turn}");
        }
        cluster.finish().await;
    });
}
