//! Nodes that leave for good: where hints for them go, where their own hints go, and that nobody looks
//! for them any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use quorate_client::{Client, WriteOptions};
use quorate_node::start::StartError;
use quorate_protocol::{
    change::Change,
    code::Code,
    consistency::Level,
    id::{NodeId, Version},
    map::NodeState,
    message::{QueueStatus, RaftRole, Write},
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    disk::Keep,
    history::Ledger,
    limit::{real, simulated, soak},
    load::{EPOCH, Writer, sample, write},
    observe::{
        PATIENCE, create_database, exports, leader, queues, statuses, total, wait_drained,
        wait_for, wait_healthy, wait_until,
    },
    process::Processes,
    raw::{Raw, encode, send},
};
use tokio::time::{Instant, sleep, timeout};

use crate::hint_poison::poison;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const FOUR: NodeId = NodeId(4);

type Queues = BTreeMap<(NodeId, NodeId), QueueStatus>;

/// Four simulated nodes that own everything, one of them down with hints waiting for it.
async fn with_hints(seed: u64, down: NodeId, ledger: &Ledger) -> (Cluster, Client) {
    let mut cluster = Cluster::simulated(4, seed).await;
    let client = cluster.client().await;
    create_database(&client, "db", 4).await;
    let all = WriteOptions::at(Level::All);
    write(&client, "db", &[sample(0, 0)], &all, ledger).await.unwrap();
    cluster.stop(down).await;
    let live: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != down).collect();
    cluster.wait_up(&client, &live).await;
    write_some(&client, 1, ledger).await;
    (cluster, client)
}

async fn write_some(client: &Client, writer: u64, ledger: &Ledger) {
    let options = WriteOptions::default();
    for n in 1..=120 {
        write(client, "db", &[sample(writer, n)], &options, ledger).await.unwrap();
    }
    assert!(client.settle(PATIENCE).await);
}

fn sum(queues: &Queues, of: impl Fn(NodeId, NodeId) -> bool) -> QueueStatus {
    let wanted = queues.iter().filter(|((holder, target), _)| of(*holder, *target));
    total(&wanted.map(|(key, queue)| (*key, *queue)).collect())
}

#[test]
fn hints_for_a_node_that_is_removed_go_to_the_owners_that_stay() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = with_hints(511, FOUR, &ledger).await;
        let live = [ONE, TWO, THREE];
        let before = queues(&client, &live).await.unwrap();
        let waiting = sum(&before, |_, target| target == FOUR).pending;
        assert_eq!(waiting, 120, "{before:?}");
        client.change(Change::LeaveNode { node: FOUR }).await.unwrap();
        wait_drained(&client, &live).await;
        let after = queues(&client, &live).await.unwrap();
        let gone = sum(&after, |_, target| target == FOUR);
        assert_eq!((gone.delivered, gone.discarded), (0, waiting), "{gone:?}");
        // A holder owns every shard: it stores its own, and keeps one for each of the two others.
        let others = sum(&after, |_, target| target != FOUR);
        assert_eq!(others.accepted, 2 * waiting, "{after:?}");
        assert_eq!(others.delivered, 2 * waiting, "{after:?}");
        ledger.check(&exports(&client, "db", &live).await).assert_whole();

        // Nobody dials it any more, and what is written knows three owners.
        wait_until("the group has agreed", async || {
            let all = statuses(&client, &live).await.unwrap();
            all.values().all(|status| status.leader.is_some())
        })
        .await;
        sleep(Duration::from_secs(10)).await;
        let dialled = cluster.net().counters().unreachable;
        write_some(&client, 2, &ledger).await;
        sleep(Duration::from_secs(600)).await;
        assert_eq!(cluster.net().counters().unreachable, dialled, "somebody dials {FOUR}");
        let quiet = queues(&client, &live).await.unwrap();
        assert_eq!(sum(&quiet, |_, target| target == FOUR), gone);
        ledger.check(&exports(&client, "db", &live).await).assert_whole();

        // It comes back, learns what has become of it, and stays down.
        cluster.restart(FOUR).await;
        let left = timeout(PATIENCE, cluster.node(FOUR).left()).await;
        assert!(left.is_ok(), "it does not notice");
        cluster.stop(FOUR).await;
        let again = cluster.try_restart(FOUR).await;
        assert!(matches!(again, Err(StartError::Left { .. })), "{again:?}");
        cluster.finish().await;
    });
}

#[test]
fn how_often_a_node_asks_whether_it_has_left_is_set() {
    simulated(async {
        let every = Duration::from_secs(30);
        let plan = Plan::of(3).configured(move |_, config| {
            config.leaving.ask_ms = every.as_millis().try_into().unwrap();
        });
        let mut cluster = Cluster::simulated_with(plan, 519).await;
        let client = cluster.client().await;
        cluster.stop(THREE).await;
        client.change(Change::LeaveNode { node: THREE }).await.unwrap();
        // Until Raft has agreed, and tells it nothing any more.
        sleep(Duration::from_secs(20)).await;
        let begun = Instant::now();
        cluster.restart(THREE).await;
        timeout(PATIENCE, cluster.node(THREE).left()).await.unwrap();
        let took = begun.elapsed();
        assert!((every..every * 4 / 3).contains(&took), "it knows after {took:?}");
        cluster.finish().await;
    });
}

#[test]
fn a_hint_that_no_owner_takes_holds_up_none_that_go_to_the_owners_that_stay() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = with_hints(514, FOUR, &ledger).await;
        let live = [ONE, TWO, THREE];
        let map = client.map();
        let (request, bytes) = poison(&map);
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        for holder in live {
            let connection = raw.connect(&map, holder).await;
            let request = Write { store: false, hint_for: vec![FOUR], ..request.clone() };
            let written = send(&connection, &request, &bytes).await;
            assert_eq!(written.hints[0].answer.error, None);
        }
        // Behind it.
        write_some(&client, 2, &ledger).await;
        client.change(Change::LeaveNode { node: FOUR }).await.unwrap();
        let all = wait_drained(&client, &live).await;
        assert_eq!(all.quarantined, 3, "{all:?}");
        let after = queues(&client, &live).await.unwrap();
        let gone = sum(&after, |_, target| target == FOUR);
        assert_eq!((gone.delivered, gone.discarded, gone.quarantined), (0, 240, 3), "{gone:?}");
        ledger.check(&exports(&client, "db", &live).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_holder_that_leaves_while_its_target_is_down_leaves_no_hint_behind() {
    simulated(async {
        let ledger = Ledger::new();
        let (mut cluster, client) = with_hints(512, THREE, &ledger).await;
        let live = [ONE, TWO, FOUR];
        let before = queues(&client, &live).await.unwrap();
        let held = sum(&before, |holder, _| holder == FOUR).pending;
        assert!(held > 0, "{before:?}");
        let handed = client.hand_on(FOUR, Duration::from_secs(60)).await.unwrap();
        assert_eq!((handed.moved, handed.pending), (held, 0));
        // Some more in between: these it hands on by itself.
        write_some(&client, 2, &ledger).await;
        client.change(Change::LeaveNode { node: FOUR }).await.unwrap();
        write_some(&client, 3, &ledger).await;
        let left = timeout(PATIENCE, cluster.node(FOUR).left()).await;
        assert!(left.is_ok(), "it does not stop");
        cluster.stop(FOUR).await;
        // Two of three are a majority again, without the one that is down.
        create_database(&client, "later", 3).await;
        cluster.restart(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO, THREE]).await;
        let stay = [ONE, TWO, THREE];
        let sum = wait_drained(&client, &stay).await;
        assert_eq!((sum.quarantined, sum.expired), (0, 0), "{sum:?}");
        assert!(sum.delivered >= 360, "{sum:?}");
        ledger.check(&exports(&client, "db", &stay).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn the_leader_may_leave_and_votes_follow_promote_and_demote() {
    simulated(async {
        let mut cluster = Cluster::simulated(4, 513).await;
        let client = cluster.client().await;
        create_database(&client, "db", 4).await;
        let ledger = Ledger::new();
        write_some(&client, 1, &ledger).await;
        let lead = leader(&client, &cluster.ids()).await;
        client.change(Change::LeaveNode { node: lead }).await.unwrap();
        let left = timeout(PATIENCE, cluster.node(lead).left()).await;
        assert!(left.is_ok(), "it does not stop");
        cluster.stop(lead).await;
        let stay: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != lead).collect();
        wait_healthy(&client, &stay).await;
        write_some(&client, 2, &ledger).await;
        ledger.check(&exports(&client, "db", &stay).await).assert_whole();

        let next = leader(&client, &stay).await;
        for (votes, state) in [(false, NodeState::NonVoter), (true, NodeState::Active)] {
            client.change(Change::SetVoting { node: next, votes }).await.unwrap();
            assert_eq!(client.map().node(next).unwrap().state, state);
            wait_for("the vote", PATIENCE, async || {
                let all = statuses(&client, &stay).await?;
                let has = all[&next].role != RaftRole::Learner;
                let led = all.values().all(|status| status.leader.is_some());
                if has == votes && led { Ok(()) } else { Err(format!("{all:?}")) }
            })
            .await;
        }
        wait_healthy(&client, &stay).await;
        cluster.finish().await;
    });
}

#[test]
fn writes_go_on_while_an_owner_leaves() {
    simulated(async {
        let mut cluster = Cluster::simulated(4, 515).await;
        let (client, writes) = (cluster.client().await, cluster.client().await);
        let ledger = Arc::new(Ledger::new());
        create_database(&client, "db", 4).await;
        write_some(&client, 1, &ledger).await;
        let pause = Duration::from_millis(1);
        let options = WriteOptions::default();
        let writers: Vec<Writer> = (2..6)
            .map(|n| Writer::start(&writes, "db", n, 2, pause, options.clone(), &ledger))
            .collect();
        for writer in &writers {
            writer.acked(20).await;
        }
        let handed = client.hand_on(FOUR, Duration::from_secs(60)).await.unwrap();
        assert_eq!(handed.pending, 0);
        client.change(Change::LeaveNode { node: FOUR }).await.unwrap();
        let left = timeout(PATIENCE, cluster.node(FOUR).left()).await;
        assert!(left.is_ok(), "it does not stop");
        cluster.stop(FOUR).await;
        for writer in writers {
            writer.acked(50).await;
            for done in writer.stop().await {
                assert_eq!(done.error, None);
                assert!(done.took < Duration::from_millis(300), "{done:?}");
            }
        }
        // Nobody tries to bring anything to the one that has left.
        assert!(writes.settle(Duration::from_secs(10)).await, "copies are still under way");
        let stay = [ONE, TWO, THREE];
        wait_drained(&client, &stay).await;
        ledger.check(&exports(&client, "db", &stay).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_node_that_ends_amid_a_change_of_members_leaves_one_state_behind() {
    for round in 0..soak(6) as u64 {
        simulated(async {
            let mut cluster = Cluster::simulated(4, 530 + round).await;
            let (client, ledger) = (cluster.client().await, Ledger::new());
            create_database(&client, "db", 4).await;
            write_some(&client, 1, &ledger).await;
            let change = if round % 2 == 0 {
                Change::LeaveNode { node: FOUR }
            } else {
                Change::SetVoting { node: THREE, votes: false }
            };
            let asked = tokio::spawn({
                let (client, change) = (client.clone(), change.clone());
                async move { client.change(change).await }
            });
            sleep(Duration::from_millis(round * 13 % 90)).await;
            let victim = NodeId(1 + round * 3 % 4);
            cluster.crash(victim, Keep::Synced);
            sleep(Duration::from_millis(round * 700 % 5_000)).await;
            let back = cluster.try_restart(victim).await;
            assert!(matches!(back, Ok(()) | Err(StartError::Left { .. })), "{back:?}");
            // What is not known to be done may be asked for again.
            let _ = asked.await.unwrap();
            client.change(change.clone()).await.unwrap();
            let stay: Vec<NodeId> = match change {
                Change::LeaveNode { node } => {
                    cluster.ids().into_iter().filter(|id| *id != node).collect()
                }
                _ => cluster.ids(),
            };
            let goal = client.map();
            wait_for("one state under one leader", PATIENCE, async || {
                let all = statuses(&client, &stay).await?;
                let leaders: BTreeSet<_> = all.values().map(|status| status.leader).collect();
                let learners = all.iter().filter(|(_, s)| s.role == RaftRole::Learner);
                let learners: Vec<NodeId> = learners.map(|(id, _)| *id).collect();
                let demoted = goal.nodes.iter().filter(|n| n.state == NodeState::NonVoter);
                let demoted: Vec<NodeId> = demoted.map(|node| node.id).collect();
                let there = all.values().all(|status| status.meta_index >= goal.index);
                let led = leaders.len() == 1 && !leaders.contains(&None);
                if led && there && learners == demoted { Ok(()) } else { Err(format!("{all:?}")) }
            })
            .await;
            cluster.wait_up(&client, &stay).await;
            write_some(&client, 2, &ledger).await;
            wait_drained(&client, &stay).await;
            ledger.check(&exports(&client, "db", &stay).await).assert_whole();
            cluster.finish().await;
        });
    }
}

#[test]
fn node_ctl_lets_nodes_leave_and_says_what_to_do_otherwise() {
    real(async {
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let mut cluster = Processes::start(binary, 3).await;
        let client = cluster.client().await;
        create_database(&client, "single", 1).await;
        let options = WriteOptions::at(Level::All);
        write(&client, "single", &[sample(0, 0)], &options, &Ledger::new()).await.unwrap();
        let refused = async |cluster: &Processes, words: &[&str], says: &str| {
            let ended = cluster.quorate(words).await;
            assert_ne!(ended.code, Some(0), "{words:?}");
            assert!(ended.stderr.contains(says), "{words:?}: {}", ended.stderr);
        };
        let done = async |cluster: &Processes, words: &[&str], says: &str| {
            let ended = cluster.quorate(words).await;
            assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
            assert!(ended.stdout.contains(says), "{words:?}: {}", ended.stdout);
        };
        refused(&cluster, &["node-ctl", "leave", "n3"], "only owner of 1 shards").await;
        client.change(Change::DropDatabase { name: "single".to_owned() }).await.unwrap();
        refused(&cluster, &["node-ctl", "remove", "n3"], "--yes").await;
        refused(&cluster, &["node-ctl", "remove", "n3", "--yes"], "node-ctl leave n3").await;
        done(&cluster, &["node-ctl", "zone", "n2", "rack-b"], "rack-b").await;
        done(&cluster, &["node-ctl", "demote", "n2"], "without a vote").await;
        done(&cluster, &["node-ctl", "ls"], "non-voter").await;
        done(&cluster, &["node-ctl", "promote", "n2"], "may vote").await;
        wait_healthy(&client, &cluster.ids()).await;
        done(&cluster, &["node-ctl", "leave", "n3"], "has left").await;
        cluster.ended(THREE).await;
        done(&cluster, &["node-ctl", "ls"], "removed").await;
        // The command line it had.
        let args = cluster.node_args(
            "n3",
            cluster.addr(THREE),
            &cluster.data(THREE),
            &["--join", cluster.addr(ONE)],
        );
        let again = cluster.run(&args).await;
        assert_eq!(again.code, Some(1), "{}", again.stderr);
        for says in ["has left this cluster", "empty --data directory", "--join"] {
            assert!(again.stderr.contains(says), "{}", again.stderr);
        }
        // Zones set by an operator outlive a restart of a node that names none.
        cluster.terminate(TWO).await;
        cluster.restart(TWO).await;
        wait_healthy(&client, &[ONE, TWO]).await;
        assert_eq!(client.map().node(TWO).unwrap().zone.as_deref(), Some("rack-b"));
        client.close().await;
    });
}

#[test]
fn a_node_that_has_left_takes_no_live_writes_of_clients_that_have_not_heard_of_it() {
    simulated(async {
        for leaves in [ONE, TWO, THREE] {
            let mut cluster = Cluster::simulated(3, 520 + leaves.0).await;
            let client = cluster.client().await;
            create_database(&client, "db", 3).await;
            let all = WriteOptions::at(Level::All);
            write(&client, "db", &[sample(0, 0)], &all, &Ledger::new()).await.unwrap();
            let old = client.map();
            let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
            let connection = raw.connect(&old, leaves).await;
            client.change(Change::LeaveNode { node: leaves }).await.unwrap();
            let left = Instant::now();
            let mut n = 0;
            let code = loop {
                n += 1;
                let version = Version(EPOCH.cast_unsigned() + n);
                let (request, bytes) = encode(&old, "db", &[sample(1, n)], version);
                let written = send(&connection, &request, &bytes).await;
                if let Some(code) = written.copy.unwrap().error {
                    break code;
                }
                let took = left.elapsed();
                assert!(took < Duration::from_millis(100), "{leaves} took writes for {took:?}");
                sleep(Duration::from_millis(10)).await;
            };
            assert_eq!(code, Code::NotOwner);
            cluster.finish().await;
        }
    });
}
