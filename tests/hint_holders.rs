//! Who holds a hint, and who may say that nobody needs it: the loss of one of two holders, targets
//! whose metadata is old.

use std::{collections::BTreeSet, time::Duration};

use quorate_certs::UnixTime;
use quorate_client::{Client, Receipt, WriteOptions, receipt::CopyState};
use quorate_protocol::{
    batch::Batch,
    code::Code,
    consistency::Level,
    id::{MetaIndex, NodeId, Version},
    map::ClusterMap,
    message::{Deliver, HintItem, Write},
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, host},
    disk::Keep,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{
        PATIENCE, create_database, export, exports, leader, queues, total, wait_drained, wait_for,
        wait_healthy, wait_until,
    },
    raw::{Raw, encode, send},
};
use tokio::time::{Instant, sleep};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const VERSION: Version = Version(1_700_000_000_000_000_001);

/// The nodes that hold hints for `target` of each part that it owns.
fn holders(receipt: &Receipt, target: NodeId) -> Vec<BTreeSet<NodeId>> {
    let parts = receipt.parts.iter().map(|part| {
        let copies = part.copies.iter().filter(|copy| copy.owner == target);
        let holder = |state| match state {
            CopyState::Hinted { holder, .. } => Some(holder),
            _ => None,
        };
        copies.filter_map(|copy| holder(copy.state)).collect()
    });
    parts.filter(|holders: &BTreeSet<NodeId>| !holders.is_empty()).collect()
}

/// The points of which this node is an owner.
fn owned<'p>(
    map: &ClusterMap,
    database: &str,
    node: NodeId,
    points: &'p [Point],
) -> Vec<&'p Point> {
    let policy = map.database_named(database).unwrap().policy_named(None).unwrap();
    let owns = |point: &&Point| {
        let mut batch = Batch::new();
        batch.push(point);
        let (_, _, hash, time) = batch.rows_iter().next().unwrap();
        policy.group_at(time).unwrap().shard_for(hash).unwrap().owners.contains(&node)
    };
    points.iter().filter(owns).collect()
}

#[test]
fn an_any_write_with_all_owners_down_survives_the_loss_of_either_holder() {
    for lost in [ONE, TWO] {
        simulated(async {
            let mut cluster = Cluster::simulated(3, 123).await;
            let client = cluster.client().await;
            create_database(&client, "single", 1).await;
            let all = WriteOptions::at(Level::All);
            let points: Vec<Point> = (0..30).map(|n| sample(n, n)).collect();
            write(&client, "single", &points, &all, &Ledger::new()).await.unwrap();
            cluster.stop(THREE).await;
            cluster.wait_up(&client, &[ONE, TWO]).await;
            let any = WriteOptions::at(Level::Any);
            let points: Vec<Point> = (0..30).map(|n| sample(n, 100 + n)).collect();
            let receipt = write(&client, "single", &points, &any, &Ledger::new()).await.unwrap();
            assert!(!holders(&receipt, THREE).is_empty(), "nothing rests on hints: {receipt:?}");
            let rest: Vec<String> = owned(&client.map(), "single", THREE, &points)
                .iter()
                .map(|point| String::from_utf8(point.to_line()).unwrap())
                .collect();
            assert!(rest.len() > 3, "{rest:?}");
            // It is gone for good, with its disk, a moment after the answer.
            cluster.crash(lost, Keep::Synced);
            cluster.restart(THREE).await;
            wait_for("what was acknowledged", PATIENCE, async || {
                let text = export(&client, "single", Some(THREE)).await;
                let text = text.map_err(|error| error.to_string())?;
                match rest.iter().find(|line| !text.contains(&***line)) {
                    None => Ok(()),
                    Some(line) => Err(format!("without {lost} there is no {line}")),
                }
            })
            .await;
            cluster.finish().await;
        });
    }
}

/// Waits until a node has a map this new.
async fn wait_index(client: &Client, node: NodeId, index: MetaIndex) {
    wait_for("a newer map", PATIENCE, async || {
        let status = client.node_status(node, Duration::from_secs(5)).await;
        let at = status.map_err(|error| error.to_string())?.meta_index;
        if at >= index { Ok(()) } else { Err(format!("node {node} is at {at}")) }
    })
    .await;
}

#[test]
fn a_target_with_old_metadata_makes_nobody_discard_a_hint() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 124).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        create_database(&client, "old", 3).await;
        write(&client, "old", &[sample(0, 0)], &all, &Ledger::new()).await.unwrap();
        let lead = leader(&client, &cluster.ids()).await;
        let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != lead).collect();
        let [holder, target] = others[..] else { panic!("{others:?}") };
        let live = [lead.min(holder), lead.max(holder)];

        // While the target is away, its shard is made, and hints for it in that shard.
        cluster.isolate(target);
        cluster.wait_up(&client, &live).await;
        create_database(&client, "new", 3).await;
        let options = WriteOptions::default();
        write(&client, "new", &[sample(0, 0)], &options, &ledger).await.unwrap();
        let (map, (name, now)) = (client.map(), (format!("n{holder}"), UnixTime::now()));
        let member = cluster.authority().issue_node_in_memory(&name, &[], now).unwrap();
        let raw = Raw::new(cluster.client_env(), member);
        for node in live {
            let connection = raw.connect(&map, node).await;
            for n in 1..=20 {
                let (points, version) = ([sample(1, n)], Version(VERSION.0 + n));
                let (request, bytes) = encode(&map, "new", &points, version);
                let hint_for = if node == holder { vec![target] } else { Vec::new() };
                let written = send(&connection, &Write { hint_for, ..request }, &bytes).await;
                let hints = written.hints.iter().map(|hint| &hint.answer);
                let mut answers = written.copy.iter().chain(hints);
                assert!(answers.all(|answer| answer.error.is_none()), "{written:?}");
                ledger.stored(&points, version);
            }
        }
        assert!(client.settle(PATIENCE).await);
        wait_index(&client, holder, client.map().index).await;
        let before = queues(&client, &live).await.unwrap();
        assert!(before[&(holder, target)].pending >= 20, "{before:?}");

        // It is back for the holder and for clients, and still knows of nothing new.
        cluster.rejoin(target);
        cluster.net().partition(host(lead), host(target));
        cluster.wait_up(&client, &cluster.ids()).await;
        let connection = raw.connect(&map, target).await;
        let (request, bytes) = encode(&map, "new", &[sample(1, 1)], VERSION);
        // Even to a message that asks for no newer map than it has.
        let length = u32::try_from(bytes.len()).unwrap();
        let deliver = Deliver {
            meta_index: MetaIndex(0),
            deadline_ms: 5_000,
            items: vec![HintItem { shard: request.shard, length }],
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let (answer, _) = connection.request(&deliver, bytes, deadline).await.unwrap();
        assert_eq!(answer.answers[0].error, Some(Code::StaleMeta), "it judges what it cannot know");
        sleep(Duration::from_secs(60)).await;
        let held = queues(&client, &live).await.unwrap();
        assert_eq!(held[&(holder, target)], before[&(holder, target)], "while it was behind");

        cluster.net().heal_all();
        wait_healthy(&client, &cluster.ids()).await;
        let sum = wait_drained(&client, &cluster.ids()).await;
        assert_eq!(sum.delivered, total(&before).pending);
        assert_eq!((sum.discarded, sum.quarantined, sum.expired), (0, 0, 0), "{sum:?}");
        ledger.check(&exports(&client, "new", &cluster.ids()).await).assert_whole();
        wait_until("everybody is up", async || client.up() == cluster.ids()).await;
        cluster.finish().await;
    });
}

#[test]
fn co_owners_share_the_hints_of_one_shard() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 125).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let options = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let mut shards = BTreeSet::new();
        for n in 1..=200 {
            let receipt = write(&client, "db", &[sample(0, n)], &options, &ledger).await.unwrap();
            shards.extend(receipt.parts.iter().map(|part| part.shard));
        }
        assert_eq!(shards.len(), 1);
        assert!(client.settle(PATIENCE).await);
        let queues = queues(&client, &[ONE, TWO]).await.unwrap();
        let kept = [ONE, TWO].map(|holder| queues[&(holder, THREE)].accepted);
        assert_eq!(kept.iter().sum::<u64>(), 200, "{kept:?}");
        assert!(kept.iter().all(|kept| (75..=125).contains(kept)), "{kept:?}");
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}
