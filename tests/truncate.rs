//! Shard groups that are truncated and deleted while points are written to them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions};
use quorate_node::NodeConfig;
use quorate_protocol::{
    change::{Change, PolicyChange},
    consistency::Level,
    id::{GroupId, NodeId},
    map::{ClusterMap, DeleteReason, Group, Policy, TruncationState},
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::simulated,
    load::write,
    observe::{PATIENCE, create_database, export, exports, wait_drained, wait_for, wait_healthy},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

fn policy(map: &ClusterMap) -> &Policy {
    map.database_named("db").unwrap().policy_named(None).unwrap()
}

fn truncate(at: i64) -> Change {
    Change::TruncateGroups { database: "db".to_owned(), name: "default".to_owned(), at }
}

fn length(nanos: i64) -> Change {
    let (database, name) = ("db".to_owned(), "default".to_owned());
    let change = PolicyChange { group_duration: Some(nanos as u64), ..PolicyChange::default() };
    Change::AlterPolicy { database, name, change }
}

/// Truncates the policy and waits until that has come to something; the groups then.
async fn truncated(client: &Client, at: i64) -> Vec<Arc<Group>> {
    client.change(truncate(at)).await.unwrap();
    wait_for("the end of a truncation", PATIENCE, async || {
        let map = client.map();
        let groups = &policy(&map).groups;
        match groups.iter().find(|group| group.closing().is_some()) {
            None => Ok(groups.clone()),
            Some(group) => Err(format!("{group:?}")),
        }
    })
    .await
}

fn point(writer: u64, time: i64) -> Point {
    Point::builder("m").tag("w", (writer % 5).to_string()).field("v", time as f64).at(time).unwrap()
}

/// Writes without a pause but for a few ms, around the present time and into the future, until it is
/// told to stop. Every write must be acknowledged. Returns how many writes and the slowest.
fn writer(
    cluster: &mut Cluster,
    client: Client,
    number: i64,
    level: Level,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> JoinHandle<(usize, Duration)> {
    let (clock, ledger, stop) = (cluster.client_env().clock, Arc::clone(ledger), stop.clone());
    tokio::spawn(async move {
        let options = WriteOptions { timeout: Duration::from_secs(30), ..WriteOptions::at(level) };
        let (mut writes, mut slowest) = (0, Duration::ZERO);
        while !stop.is_cancelled() {
            let now = clock.wall_ns() as i64 / 10 * 10 + number;
            // A part across the end that a group is about to get, and some far behind it.
            let ahead = [0, SECOND / 2, 2 * SECOND, 5 * MINUTE];
            let mut points: Vec<Point> =
                ahead.iter().zip(0..).map(|(by, n)| point(n, now + by)).collect();
            if writes % 40 == 7 {
                points.push(point(4, now + 90 * MINUTE));
            }
            let begun = Instant::now();
            write(&client, "db", &points, &options, &ledger).await.unwrap();
            slowest = begun.elapsed().max(slowest);
            writes += 1;
            sleep(Duration::from_millis(15)).await;
        }
        (writes, slowest)
    })
}

/// No two groups overlap, and every acknowledged point is on every node, once, and read once.
async fn check(cluster: &Cluster, client: &Client, ledger: &Ledger) {
    assert!(client.settle(PATIENCE).await);
    wait_drained(client, &cluster.ids()).await;
    let map = client.map();
    let groups = &policy(&map).groups;
    assert!(groups.windows(2).all(|pair| pair[0].end <= pair[1].start), "{groups:?}");
    let all = exports(client, "db", &cluster.ids()).await;
    ledger.check(&all).assert_whole();
    assert_eq!(export(client, "db", None).await.unwrap(), all[0].1);
}

#[test]
fn f19_groups_are_truncated_while_clients_write_around_their_ends() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 531).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        client.change(length(24 * HOUR)).await.unwrap();
        let (ledger, stop) = (Arc::new(Ledger::new()), CancellationToken::new());
        let mut writers = Vec::new();
        for (number, level) in [(1, Level::All), (2, Level::Quorum), (3, Level::One)] {
            let theirs = cluster.client().await;
            writers.push(writer(&mut cluster, theirs, number, level, &ledger, &stop));
        }
        let clock = cluster.client_env().clock;
        let now = || clock.wall_ns() as i64;
        sleep(Duration::from_secs(1)).await;
        let whole = policy(&client.map()).groups[0].clone();

        // Points two hours ahead are there: the group ends behind the last of them.
        let first = truncated(&client, now()).await;
        let cut = first[0].end;
        assert!(first[0].id == whole.id && cut > now() + HOUR && cut < whole.end, "{first:?}");

        // What is written into the new, shorter groups behind that is in their way in turn.
        client.change(length(HOUR)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let short = policy(&client.map()).groups[1].clone();
        assert!(short.start == cut && short.end - cut <= HOUR, "{short:?}");
        for pause in [300, 0, 700] {
            sleep(Duration::from_millis(pause)).await;
            truncated(&client, now() + SECOND).await;
        }
        let ends: BTreeSet<i64> = policy(&client.map()).groups.iter().map(|g| g.end).collect();
        assert!(ends.iter().any(|end| end % MINUTE != 0), "nothing was cut: {ends:?}");

        stop.cancel();
        for writer in writers {
            let (writes, slowest) = writer.await.unwrap();
            assert!(writes > 100, "{writes} writes");
            assert!(slowest < Duration::from_secs(2), "a write took {slowest:?}");
        }
        check(&cluster, &client, &ledger).await;

        // Once nobody writes, an end comes as near as was asked for, and what is empty goes.
        let before = policy(&client.map()).groups.clone();
        let last = before.last().unwrap();
        let empty = Change::CreateGroups {
            policy: policy(&client.map()).id,
            times: vec![last.end + 3 * HOUR],
        };
        client.change(empty).await.unwrap();
        let emptied = policy(&client.map()).groups.last().unwrap().id;
        let after = truncated(&client, last.end - 1).await;
        assert!(after.iter().all(|group| group.id != emptied), "{after:?}");
        let map = client.map();
        let stone = policy(&map).deleted.iter().find(|stone| stone.group == emptied).unwrap();
        assert_eq!(stone.reason, DeleteReason::Emptied);
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn a_node_that_is_down_keeps_groups_as_they_are_and_writes_go_on() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 532).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        client.change(length(24 * HOUR)).await.unwrap();
        let (ledger, stop) = (Arc::new(Ledger::new()), CancellationToken::new());
        let mut writers = Vec::new();
        for (number, level) in [(1, Level::Quorum), (2, Level::One)] {
            let theirs = cluster.client().await;
            writers.push(writer(&mut cluster, theirs, number, level, &ledger, &stop));
        }
        let clock = cluster.client_env().clock;
        let now = || clock.wall_ns() as i64;
        sleep(Duration::from_secs(1)).await;
        let down = NodeId(3);
        cluster.stop(down).await;
        sleep(Duration::from_secs(1)).await;
        let whole = policy(&client.map()).groups[0].clone();

        let begun = Instant::now();
        let kept = truncated(&client, now() + HOUR).await;
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(14), "{took:?}");
        let truncation = kept[0].truncation.as_ref().unwrap();
        assert_eq!((kept[0].end, truncation.state), (whole.end, TruncationState::Reopened));
        assert_eq!(kept[0].unanswered(&client.map()), [down]);

        // It has hints to come, which count like points.
        cluster.restart(down).await;
        let cut = truncated(&client, now()).await;
        assert!(cut[0].end > now() + HOUR && cut[0].end < whole.end, "{cut:?}");
        sleep(Duration::from_secs(1)).await;
        stop.cancel();
        for writer in writers {
            let (writes, slowest) = writer.await.unwrap();
            assert!(writes > 100, "{writes} writes");
            assert!(slowest < Duration::from_secs(14), "a write took {slowest:?}");
        }
        wait_healthy(&client, &cluster.ids()).await;
        check(&cluster, &client, &ledger).await;
        cluster.finish().await;
    });
}

#[test]
fn a_restarted_node_answers_for_what_it_had_and_new_nodes_own_what_comes_next() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 533).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        client.change(length(24 * HOUR)).await.unwrap();
        let clock = cluster.client_env().clock;
        let now = || clock.wall_ns() as i64;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        let time = now() + HOUR;
        write(&client, "db", &[point(0, time)], &all, &ledger).await.unwrap();
        // One has it in its journal, one in a run, one in memory.
        cluster.node(NodeId(2)).fold().await;
        for id in [NodeId(1), NodeId(2)] {
            cluster.stop(id).await;
            cluster.restart(id).await;
        }
        wait_healthy(&client, &cluster.ids()).await;
        let fourth = cluster.join().await;
        wait_healthy(&client, &cluster.ids()).await;
        let groups = truncated(&client, now()).await;
        assert_eq!(groups[0].end, time + 1);
        let behind = [point(0, time), point(0, time + 1), point(1, time + MINUTE)];
        write(&client, "db", &behind, &all, &ledger).await.unwrap();
        let map = client.map();
        let next = &policy(&map).groups[1];
        assert_eq!(next.start, time + 1);
        let owners: BTreeSet<NodeId> =
            next.shards.iter().flat_map(|shard| shard.owners.clone()).collect();
        assert!(owners.contains(&fourth), "{owners:?}");
        let read = export(&client, "db", None).await.unwrap();
        assert_eq!(read.lines().count(), 3, "{read}");
        cluster.finish().await;
    });
}

#[test]
fn a_hint_keeps_its_time_in_the_group_and_a_deleted_group_takes_its_hints_along() {
    simulated(async {
        let plan = Plan::of(3).configured(|_: NodeId, config: &mut NodeConfig| {
            config.tombstone_keep_s = 60;
            config.retention_check_s = 1;
        });
        let mut cluster = Cluster::simulated_with(plan, 534).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        client.change(length(24 * HOUR)).await.unwrap();
        let clock = cluster.client_env().clock;
        let time = clock.wall_ns() as i64 + HOUR;
        let any = WriteOptions::at(Level::Any);
        let ledger = Ledger::new();
        write(&client, "db", &[point(0, time - HOUR)], &any, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        // Only hints have the time: both owners that could be asked are gone, and so is the third.
        let [a, b, c] = [NodeId(1), NodeId(2), NodeId(3)];
        cluster.stop(b).await;
        cluster.stop(c).await;
        cluster.wait_up(&client, &[a]).await;
        write(&client, "db", &[point(0, time)], &any, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        cluster.restart(b).await;
        cluster.restart(c).await;
        wait_healthy(&client, &cluster.ids()).await;
        let groups = truncated(&client, time - MINUTE).await;
        assert_eq!(groups[0].end, time + 1);
        check(&cluster, &client, &ledger).await;

        cluster.stop(c).await;
        let late = [point(0, time - 1)];
        write(&client, "db", &late, &WriteOptions::at(Level::Quorum), &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        let id = groups[0].id;
        client.change(Change::DeleteGroup { group: id }).await.unwrap();
        let map = client.map();
        assert!(policy(&map).groups.is_empty());
        assert_eq!(policy(&map).deleted[0].reason, DeleteReason::Asked);
        cluster.restart(c).await;
        wait_drained(&client, &cluster.ids()).await;
        wait_for("no shards on the disks", PATIENCE, async || {
            let ids = cluster.ids();
            let shards = ids.iter().map(|id| cluster.data(*id).join("shards"));
            let left: usize = shards.map(|dir| std::fs::read_dir(dir).unwrap().count()).sum();
            if left == 0 { Ok(()) } else { Err(format!("{left} shards")) }
        })
        .await;
        write(&client, "db", &late, &WriteOptions::at(Level::All), &Ledger::new()).await.unwrap();
        assert_eq!(policy(&client.map()).groups[0].id, GroupId(id.0 + 1), "no id comes again");
        assert_eq!(export(&client, "db", None).await.unwrap().lines().count(), 1);
        wait_for("no tombstones", PATIENCE * 2, async || {
            let left = policy(&client.map()).deleted.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} tombstones")) }
        })
        .await;
        cluster.finish().await;
    });
}
