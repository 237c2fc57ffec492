//! One node tells of all: what it says of members that are down or silent, and what replicas lack.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use quorate_client::{Client, ClusterReport, WriteOptions};
use quorate_protocol::{
    consistency::Level,
    id::{NodeId, ShardId},
    message::{Lacking, Mark, RaftRole},
};
use quorate_tests::harness::{
    cluster::{Cluster, client_host, host},
    disk::Keep,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    observe::{
        PATIENCE, create_database, queues, total, wait_drained, wait_for, wait_healthy, wait_until,
    },
    raw::Raw,
};
use tokio::time::Instant;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// The client that reaches node two only: the harness has made the first, the test the second.
const FIREWALLED: usize = 3;
/// What members get to answer.
const TIME: Duration = Duration::from_secs(2);
/// Less than it takes to notice that a connection is mute.
const SHORT: Duration = Duration::from_millis(300);

async fn survey(client: &Client) -> ClusterReport {
    client.survey(TIME).await.unwrap()
}

/// Who answered, and why the others did not.
fn answers(report: &ClusterReport) -> BTreeMap<NodeId, Option<String>> {
    let members = report.members.iter();
    members.map(|(node, answer)| (*node, answer.as_ref().err().cloned())).collect()
}

/// Waits until all have answered.
async fn complete(client: &Client) -> ClusterReport {
    wait_for("answers of all", PATIENCE, async || {
        let report = survey(client).await;
        let answers = answers(&report);
        if answers.values().all(Option::is_none) { Ok(report) } else { Err(format!("{answers:?}")) }
    })
    .await
}

#[test]
fn one_node_that_is_reached_tells_of_all_and_why_some_say_nothing() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 771).await;
        let all = cluster.client().await;
        wait_healthy(&all, &cluster.ids()).await;
        // Who asks next reaches node two only, as through a firewall.
        for node in [ONE, THREE] {
            cluster.net().partition(client_host(FIREWALLED), host(node));
        }
        let client = cluster.client().await;
        let report = complete(&client).await;
        assert_eq!(client.up(), [TWO]);
        assert_eq!((report.node, report.meta_index), (TWO, client.map().index));
        let nodes: Vec<NodeId> = report.members.iter().map(|(node, _)| *node).collect();
        assert_eq!(nodes, cluster.ids());
        let statuses = report.members.iter().map(|(node, answer)| (*node, answer.clone().unwrap()));
        let mut leaders = 0;
        for (node, member) in statuses {
            assert_eq!(member.status.node, node);
            leaders += u32::from(member.status.role == RaftRole::Leader);
        }
        assert_eq!(leaders, 1);

        // Silent at first, so that the connection is still there, and known to be down later.
        cluster.isolate(THREE);
        let begun = Instant::now();
        let report = client.survey(SHORT).await.unwrap();
        assert!(begun.elapsed() <= SHORT + Duration::from_millis(100), "{:?}", begun.elapsed());
        let silent = answers(&report);
        assert!(silent[&ONE].is_none() && silent[&TWO].is_none(), "{silent:?}");
        assert!(silent[&THREE].as_ref().is_some_and(|why| !why.is_empty()), "{silent:?}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        let begun = Instant::now();
        let down = answers(&survey(&client).await);
        assert!(begun.elapsed() <= TIME / 2 + Duration::from_millis(100), "{:?}", begun.elapsed());
        assert!(down[&ONE].is_none() && down[&THREE].is_some(), "{down:?}");

        cluster.rejoin(THREE);
        for node in [ONE, THREE] {
            cluster.net().partition(client_host(FIREWALLED), host(node));
        }
        complete(&client).await;
        // The one that was asked falls silent: another is asked.
        cluster.isolate(ONE);
        let report = survey(&all).await;
        assert!(report.node != ONE, "{report:?}");
        assert!(answers(&report)[&ONE].is_some());
        cluster.rejoin(ONE);
        cluster.finish().await;
    });
}

/// What the members that answered say that node three lacks, by shard.
fn lacks(report: &ClusterReport) -> BTreeMap<ShardId, (u64, u64)> {
    let mut all: BTreeMap<ShardId, (u64, u64)> = BTreeMap::new();
    let members = report.members.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    for Lacking { shard, owner, hints, marks } in members.flat_map(|member| member.lacking.clone())
    {
        assert_eq!(owner, THREE);
        let sum = all.entry(shard).or_default();
        *sum = (sum.0 + hints, sum.1 + marks);
    }
    all
}

#[test]
fn hints_and_marks_say_which_replicas_are_behind() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 772).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        let (all, quorum) = (WriteOptions::at(Level::All), WriteOptions::default());
        for database in ["few", "many", "none"] {
            create_database(&client, database, 3).await;
            write(&client, database, &[sample(0, 0)], &all, &ledger).await.unwrap();
        }
        let shards: Vec<ShardId> = client.map().shards().map(|place| place.shard.id).collect();
        let [few, many, none] = shards[..] else { panic!("{shards:?}") };
        assert_eq!(lacks(&survey(&client).await), BTreeMap::new());

        cluster.crash(THREE, Keep::Synced);
        wait_until("it is known to be down", async || client.up() == [ONE, TWO]).await;
        for n in 1..=12 {
            let database = if n <= 3 { "few" } else { "many" };
            write(&client, database, &[sample(1, n)], &quorum, &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        let held = total(&queues(&client, &[ONE, TWO]).await.unwrap()).pending;
        // A mark on the third, as of a copy that was given up.
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let connection = raw.connect(&client.map(), ONE).await;
        let mark = Mark { shard: none, owner: THREE, from: 0, to: 1 };
        let marked = connection.request(&mark, Bytes::new(), Instant::now() + PATIENCE).await;
        assert_eq!(marked.unwrap().0.answer.error, None);
        let found = lacks(&survey(&client).await);
        assert_eq!(found.values().map(|(hints, _)| hints).sum::<u64>(), held);
        assert!(found[&few].0 >= 3 && found[&many].0 >= 9, "{found:?}");
        assert_eq!(found[&none], (0, 1));
        // Who has restarted has read no hint yet.
        for node in [ONE, TWO] {
            cluster.stop(node).await;
            cluster.restart(node).await;
        }
        let again = wait_for("both holders", PATIENCE, async || {
            let report = survey(&client).await;
            let up = answers(&report).values().filter(|why| why.is_none()).count();
            if up == 2 { Ok(lacks(&report)) } else { Err(format!("{up} of two")) }
        });
        assert_eq!(again.await, found);

        cluster.restart(THREE).await;
        wait_drained(&client, &cluster.ids()).await;
        let rest = BTreeMap::from([(none, (0, 1))]);
        assert_eq!(lacks(&complete(&client).await), rest, "marks stay");
        cluster.finish().await;
    });
}
