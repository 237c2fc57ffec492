//! Shard groups that are truncated and deleted while points are written to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quorate_client::{
    Client, Env, WriteOptions,
    receipt::{CopyState, OwnerCopy},
};
use quorate_node::NodeConfig;
use quorate_protocol::{
    batch::Batch,
    change::{Change, PolicyChange},
    consistency::Level,
    id::{GroupId, NodeId},
    map::{ClusterMap, DeleteReason, Group, Policy, TruncationState},
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan, host},
    history::Ledger,
    limit::{real, simulated},
    load::write,
    observe::{
        PATIENCE, create_database, export, exports, leader, wait_drained, wait_for, wait_healthy,
    },
    process::Processes,
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

/// Writes without a pause but for a few ms, around the present time and some seconds into the future,
/// with `far` now and then 90 minutes, until it is told to stop. Every write must be acknowledged. Returns how many writes and the slowest.
fn writer(
    cluster: &mut Cluster,
    client: Client,
    number: i64,
    level: Level,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
    far: &Arc<AtomicBool>,
) -> JoinHandle<(usize, Duration)> {
    let (clock, ledger, stop) = (cluster.client_env().clock, Arc::clone(ledger), stop.clone());
    let far = Arc::clone(far);
    tokio::spawn(async move {
        let options = WriteOptions { timeout: Duration::from_secs(30), ..WriteOptions::at(level) };
        let (mut writes, mut slowest) = (0, Duration::ZERO);
        while !stop.is_cancelled() {
            let now = clock.wall_ns() as i64 / 10 * 10 + number;
            // A part across the end that a group is about to get, and behind all that it has.
            let ahead = [0, SECOND / 2, 2 * SECOND, 4 * SECOND];
            let mut points: Vec<Point> =
                ahead.iter().zip(0..).map(|(by, n)| point(n, now + by)).collect();
            if far.load(Ordering::Relaxed) && writes % 40 == 7 {
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
        let (mut writers, far) = (Vec::new(), Arc::new(AtomicBool::new(false)));
        for (number, level) in [(1, Level::All), (2, Level::Quorum), (3, Level::One)] {
            let theirs = cluster.client().await;
            writers.push(writer(&mut cluster, theirs, number, level, &ledger, &stop, &far));
        }
        let clock = cluster.client_env().clock;
        let now = || clock.wall_ns() as i64;
        let mut lengths = [HOUR, 24 * HOUR, 2 * HOUR, 7 * 24 * HOUR].into_iter();
        for (delay, pause) in [(0, 300), (SECOND, 0), (3 * SECOND, 700), (0, 6_000), (0, 100)] {
            sleep(Duration::from_millis(pause)).await;
            let last = policy(&client.map()).groups.last().unwrap().clone();
            let groups = truncated(&client, now() + delay).await;
            let cut = groups.iter().find(|group| group.id == last.id).unwrap().end;
            // Four seconds ahead is what they have written, or are just writing.
            assert!(cut < last.end && cut - now() < 5 * SECOND, "{last:?}: {cut}");
            if let Some(next) = lengths.next() {
                client.change(length(next)).await.unwrap();
            }
            sleep(Duration::from_millis(200)).await;
            let map = client.map();
            let after = policy(&map).group_at(cut).unwrap();
            assert_eq!(after.start, cut);
        }

        // Points 90 minutes ahead are there: the group ends behind the last of them.
        far.store(true, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        let whole = policy(&client.map()).groups.last().unwrap().clone();
        let groups = truncated(&client, now()).await;
        let cut = groups.iter().find(|group| group.id == whole.id).unwrap().end;
        assert!(cut > now() + HOUR && cut < whole.end, "{whole:?}: {cut}");

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
        let (mut writers, far) = (Vec::new(), Arc::new(AtomicBool::new(true)));
        for (number, level) in [(1, Level::Quorum), (2, Level::One)] {
            let theirs = cluster.client().await;
            writers.push(writer(&mut cluster, theirs, number, level, &ledger, &stop, &far));
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

/// Writes one point and says who owns its series there, and what has become of it.
async fn write_one(client: &Client, series: u64, time: i64, level: Level) -> OwnerCopy {
    let options = WriteOptions { hint_copies: 1, ..WriteOptions::at(level) };
    let points = [point(series, time)];
    let receipt = write(client, "db", &points, &options, &Ledger::new()).await.unwrap();
    receipt.parts[0].copies[0]
}

async fn restart(cluster: &mut Cluster, client: &Client, id: NodeId) {
    cluster.stop(id).await;
    cluster.restart(id).await;
    wait_healthy(client, &cluster.ids()).await;
}

#[test]
fn a_restarted_node_answers_for_what_it_had_and_new_nodes_own_what_comes_next() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 533).await;
        let client = cluster.client().await;
        // With one copy only, nobody else can answer for a point.
        create_database(&client, "db", 1).await;
        client.change(length(24 * HOUR)).await.unwrap();
        let clock = cluster.client_env().clock;
        let now = || clock.wall_ns() as i64;
        let time = now() + HOUR / 2;
        let owner = write_one(&client, 0, time, Level::All).await.owner;
        cluster.node(owner).fold().await;
        restart(&mut cluster, &client, owner).await;
        assert_eq!(truncated(&client, now()).await[0].end, time + 1, "it is in a run");

        let time = time + HOUR / 4;
        let owner = write_one(&client, 0, time - 1, Level::All).await.owner;
        cluster.node(owner).fold().await;
        write_one(&client, 0, time, Level::All).await;
        restart(&mut cluster, &client, owner).await;
        assert_eq!(truncated(&client, now()).await[1].end, time + 1, "it is in the journal");

        let fourth = cluster.join().await;
        wait_healthy(&client, &cluster.ids()).await;
        write_one(&client, 0, time + 1, Level::All).await;
        let map = client.map();
        let next = &policy(&map).groups[2];
        assert_eq!(next.start, time + 1);
        assert!(next.shards.iter().any(|shard| shard.owners == [fourth]), "{next:?}");
        let read = export(&client, "db", None).await.unwrap();
        assert_eq!(read.lines().count(), 4, "{read}");
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
        let mut cluster = Cluster::simulated_with(plan, 535).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        client.change(length(24 * HOUR)).await.unwrap();
        let clock = cluster.client_env().clock;
        let time = clock.wall_ns() as i64 + HOUR;
        // Somebody else leads than the first node, which will be the holder: a matter of the seed.
        let holder = NodeId(1);
        cluster.stop(holder).await;
        let lead = leader(&client, &[NodeId(2), NodeId(3)]).await;
        cluster.restart(holder).await;
        wait_healthy(&client, &cluster.ids()).await;
        let owner = NodeId(5 - lead.0);
        let mut series = 0;
        while write_one(&client, series, time - HOUR, Level::All).await.owner != owner {
            series += 1;
        }
        cluster.stop(owner).await;
        cluster.wait_up(&client, &[holder, lead]).await;
        let state = write_one(&client, series, time, Level::Any).await.state;
        assert!(matches!(state, CopyState::Hinted { holder: NodeId(1), .. }), "{state:?}");
        // It has forgotten what it accepted, and cannot deliver it either.
        cluster.net().partition(host(holder), host(owner));
        cluster.stop(holder).await;
        cluster.restart(holder).await;
        cluster.restart(owner).await;
        wait_healthy(&client, &cluster.ids()).await;
        let groups = truncated(&client, time - MINUTE).await;
        assert_eq!(groups[0].end, time + 1);
        cluster.net().heal(host(holder), host(owner));
        wait_drained(&client, &cluster.ids()).await;
        let read = export(&client, "db", None).await.unwrap();
        assert!(read.contains(&time.to_string()), "{read}");

        cluster.stop(owner).await;
        cluster.wait_up(&client, &[holder, lead]).await;
        write_one(&client, series, time - 1, Level::Any).await;
        assert!(client.settle(PATIENCE).await);
        let id = groups[0].id;
        client.change(Change::DeleteGroup { group: id }).await.unwrap();
        let map = client.map();
        assert!(policy(&map).groups.is_empty());
        assert_eq!(policy(&map).deleted[0].reason, DeleteReason::Asked);
        cluster.restart(owner).await;
        wait_healthy(&client, &cluster.ids()).await;
        wait_drained(&client, &cluster.ids()).await;
        wait_for("no shards on the disks", PATIENCE, async || {
            let ids = cluster.ids();
            let shards = ids.iter().map(|id| cluster.data(*id).join("shards"));
            let left: usize = shards.map(|dir| std::fs::read_dir(dir).unwrap().count()).sum();
            if left == 0 { Ok(()) } else { Err(format!("{left} shards")) }
        })
        .await;
        write_one(&client, series, time - 1, Level::All).await;
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

#[test]
fn rp_truncates_lists_and_deletes_groups() {
    real(async {
        let cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 1).await;
        let run = async |words: &[&str], code: i32, says: &str| {
            let ended = cluster.quorate(words).await;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.code, Some(code), "{words:?}: {said}");
            assert!(said.contains(says), "{words:?}: {said}");
            said
        };
        run(&["db", "create", "m"], 0, "").await;
        run(&["rp", "truncate", "m"], 0, "nothing to do").await;
        run(&["rp", "truncate", "none"], 1, "db create").await;
        run(&["rp", "truncate", "m", "--rp", "raw"], 1, "rp ls m").await;
        let client = cluster.client().await;
        let write = async |value: f64, time: i64| {
            let point = Point::builder("m").field("v", value).at(time).unwrap();
            let mut batch = Batch::new();
            batch.push(&point);
            client.write("m", &batch, &WriteOptions::default()).await.unwrap();
        };
        let now = run(&["rp", "groups", "m", "--json"], 0, "").await;
        assert!(now.is_empty(), "{now}");
        let time = Env::system().clock.wall_ns() as i64;
        write(1.0, time).await;
        let json = run(&["rp", "truncate", "m", "--json"], 0, "\"outcome\":\"cut\"").await;
        let cut: serde_json::Value = serde_json::from_str(&json).unwrap();
        let end = cut["end_ns"].as_i64().unwrap();
        assert!((time + 60 * SECOND..time + 90 * SECOND).contains(&end), "{json}");
        run(&["rp", "truncate", "m", "--delay", "0"], 0, "instead of").await;
        write(2.0, time + 2 * HOUR).await;
        run(&["rp", "groups", "m"], 0, "truncation").await;
        run(&["rp", "delete-group", "m", "1"], 2, "--yes").await;
        run(&["rp", "delete-group", "m", "9", "--yes"], 1, "rp groups m").await;
        run(&["rp", "delete-group", "m", "1", "--yes"], 0, "is deleted").await;
        run(&["rp", "groups", "m", "--deleted"], 0, "asked for").await;
        run(&["export", "m"], 0, "v=2").await;
    });
}
