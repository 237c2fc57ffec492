//! Policies that change while points are written, through every node and client at once; and groups
//! that come and go with time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quorate_client::{Client, WriteOptions};
use quorate_node::NodeConfig;
use quorate_protocol::{
    change::{Change, PolicyChange, PolicySpec},
    consistency::Level,
    id::{GroupId, NodeId},
    map::{ClusterMap, Policy},
    point::Point,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::{real, simulated},
    load::{EPOCH, write},
    observe::{PATIENCE, create_database, export, exports, wait_drained, wait_for, wait_healthy},
    process::Processes,
};
use tokio::time::{Instant, sleep};

const MINUTE: u64 = 60_000_000_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Length of groups where time has to pass.
const GROUP: u64 = 2 * MINUTE;

fn point(writer: u64, time: i64) -> Point {
    Point::builder("m").tag("w", writer.to_string()).field("v", time as f64).at(time).unwrap()
}

fn alter(change: PolicyChange) -> Change {
    Change::AlterPolicy { database: "db".to_owned(), name: "default".to_owned(), change }
}

fn policy<'m>(map: &'m ClusterMap, database: &str) -> &'m Policy {
    map.database_named(database).unwrap().policy_named(None).unwrap()
}

#[test]
fn f19_points_written_while_group_durations_change_are_all_found_again() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 521).await;
        let ledger = Arc::new(Ledger::new());
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let length = |length| PolicyChange { group_duration: Some(length), ..Default::default() };
        client.change(alter(length(DAY))).await.unwrap();
        let mut writers = Vec::new();
        for writer in 0..3 {
            let (client, ledger) = (cluster.client().await, Arc::clone(&ledger));
            // They walk through the same month, an hour apart.
            writers.push(tokio::spawn(async move {
                let options = WriteOptions::at(Level::All);
                for n in 0..180_i64 {
                    let time = EPOCH - (4 * n + writer as i64) * HOUR as i64;
                    write(&client, "db", &[point(writer, time)], &options, &ledger).await.unwrap();
                    sleep(Duration::from_millis(20)).await;
                }
            }));
        }
        for next in [7 * DAY, HOUR, 2 * HOUR, DAY, 7 * DAY] {
            sleep(Duration::from_millis(600)).await;
            client.change(alter(length(next))).await.unwrap();
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let map = client.map();
        let groups = &policy(&map, "db").groups;
        let lengths: BTreeSet<u64> =
            groups.iter().map(|group| group.end.abs_diff(group.start)).collect();
        assert!(lengths.len() > 2, "the changes came too late: {lengths:?}");
        assert!(groups.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(client.settle(PATIENCE).await);
        let all = exports(&client, "db", &cluster.ids()).await;
        ledger.check(&all).assert_whole();
        assert_eq!(all[0].1.lines().count(), 540);
        assert_eq!(export(&client, "db", None).await.unwrap(), all[0].1);
        cluster.finish().await;
    });
}

/// What the clock of nodes and clients says.
fn now(cluster: &mut Cluster) -> u64 {
    cluster.client_env().clock.wall_ns()
}

async fn write_each(client: &Client, databases: &[String], time: u64) -> Vec<Duration> {
    let mut took = Vec::new();
    let options = WriteOptions::at(Level::All);
    for database in databases {
        let begun = Instant::now();
        let points = [point(1, time as i64)];
        write(client, database, &points, &options, &Ledger::new()).await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

#[test]
fn crossing_a_boundary_makes_no_step_for_fifty_databases() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 522).await;
        let client = cluster.client().await;
        let databases: Vec<String> = (0..50).map(|n| format!("db{n}")).collect();
        for name in &databases {
            let policy = PolicySpec {
                name: "default".to_owned(),
                duration: 0,
                group_duration: GROUP,
                replication: 3,
            };
            let change = Change::CreateDatabase { name: name.clone(), policy };
            client.change(change).await.unwrap();
        }
        create_database(&client, "idle", 3).await;
        let start = now(&mut cluster);
        let boundary = start - start % GROUP + GROUP;
        // The first writes make their groups and fields, and may take longer.
        write_each(&client, &databases, start).await;
        sleep(Duration::from_nanos(boundary - start) - Duration::from_secs(10)).await;
        assert!(now(&mut cluster) < boundary);
        let time = now(&mut cluster);
        let before = write_each(&client, &databases, time).await;
        let there = client.map();
        for name in &databases {
            assert_eq!(policy(&there, name).groups.len(), 2, "{name} has nothing ahead");
        }
        assert!(policy(&there, "idle").groups.is_empty());
        while now(&mut cluster) < boundary {
            sleep(Duration::from_millis(100)).await;
        }
        let time = now(&mut cluster);
        let after = write_each(&client, &databases, time).await;
        let (usual, worst) = (before.iter().max().unwrap(), after.iter().max().unwrap());
        assert!(*worst <= *usual + Duration::from_millis(2), "{usual:?}, then {worst:?}");
        let map = client.map();
        for name in &databases {
            let groups = &policy(&map, name).groups;
            assert!(groups.iter().any(|group| group.start as u64 == boundary), "{groups:?}");
        }
        // Nobody writes any more: the one that follows what was written last stays the last.
        sleep(Duration::from_nanos(4 * GROUP)).await;
        let groups = client.map().shards().map(|place| place.group.id).collect::<BTreeSet<_>>();
        assert_eq!(groups.len(), 3 * databases.len());
        cluster.finish().await;
    });
}

#[test]
fn a_boundary_is_crossed_without_a_majority_for_metadata() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 524).await;
        let client = cluster.client().await;
        let spec = PolicySpec {
            name: "default".to_owned(),
            duration: 0,
            group_duration: GROUP,
            replication: 3,
        };
        let create = Change::CreateDatabase { name: "db".to_owned(), policy: spec };
        client.change(create).await.unwrap();
        let start = now(&mut cluster);
        let boundary = start - start % GROUP + GROUP;
        let ledger = Ledger::new();
        let one = WriteOptions { timeout: Duration::from_secs(2), ..WriteOptions::at(Level::One) };
        write(&client, "db", &[point(1, start as i64)], &one, &ledger).await.unwrap();
        wait_for("the next group", PATIENCE, async || {
            let groups = policy(&client.map(), "db").groups.len();
            if groups == 2 { Ok(()) } else { Err(format!("{groups} groups")) }
        })
        .await;
        let [a, b] = [NodeId(1), NodeId(2)];
        cluster.stop(a).await;
        cluster.stop(b).await;
        cluster.wait_up(&client, &[NodeId(3)]).await;
        while now(&mut cluster) < boundary {
            sleep(Duration::from_millis(100)).await;
        }
        for n in 0..20 {
            let (begun, time) = (Instant::now(), now(&mut cluster) as i64 + n);
            write(&client, "db", &[point(1, time)], &one, &ledger).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        }
        cluster.restart(a).await;
        cluster.restart(b).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert!(client.settle(PATIENCE).await);
        wait_drained(&client, &cluster.ids()).await;
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn what_is_over_leaves_every_disk_and_its_ids_do_not_come_back() {
    simulated(async {
        let quick = |_: NodeId, config: &mut NodeConfig| {
            config.retention_grace_s = 60;
            config.retention_check_s = 1;
            config.precreate_check_s = 1;
        };
        let plan = Plan { clock_rate: 10, ..Plan::of(3).configured(quick) };
        let mut cluster = Cluster::simulated_with(plan, 523).await;
        let client = cluster.client().await;
        let spec = PolicySpec {
            name: "default".to_owned(),
            duration: 2 * GROUP,
            group_duration: GROUP,
            replication: 3,
        };
        let create = Change::CreateDatabase { name: "db".to_owned(), policy: spec };
        client.change(create).await.unwrap();
        let mut seen: BTreeSet<GroupId> = BTreeSet::new();
        let databases = ["db".to_owned()];
        for _ in 0..8 {
            let time = now(&mut cluster);
            write_each(&client, &databases, time).await;
            let map = client.map();
            seen.extend(policy(&map, "db").groups.iter().map(|group| group.id));
            // Two that are kept, this one, what was made ahead, and a grace.
            assert!(policy(&map, "db").groups.len() <= 5, "{:?}", policy(&map, "db").groups);
            sleep(Duration::from_nanos(GROUP / 10)).await;
        }
        assert!(seen.len() >= 8, "{seen:?}");
        sleep(Duration::from_nanos(4 * GROUP / 10)).await;
        wait_for("nothing in the map and on the disks", PATIENCE, async || {
            let left = policy(&client.map(), "db").groups.len();
            let disks: usize = cluster
                .ids()
                .iter()
                .map(|id| std::fs::read_dir(cluster.data(*id).join("shards")).unwrap().count())
                .sum();
            if left + disks == 0 { Ok(()) } else { Err(format!("{left} groups, {disks} shards")) }
        })
        .await;
        let time = now(&mut cluster);
        write_each(&client, &databases, time).await;
        let again = policy(&client.map(), "db").groups[0].id;
        assert!(!seen.contains(&again), "{again} was used before");
        cluster.finish().await;
    });
}

#[test]
fn rp_makes_alters_and_drops_policies() {
    real(async {
        let cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 1).await;
        let run = async |words: &[&str], code: i32, says: &str| {
            let ended = cluster.quorate(words).await;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.code, Some(code), "{words:?}: {said}");
            assert!(said.contains(says), "{words:?}: {said}");
        };
        run(&["db", "create", "m"], 0, "").await;
        run(&["rp", "create", "m", "raw", "--retention", "2d"], 0, "is created").await;
        run(&["rp", "create", "m", "raw", "--retention", "3d"], 1, "alter it").await;
        run(&["rp", "create", "none", "raw"], 1, "db create").await;
        run(&["rp", "ls", "m"], 0, "raw").await;
        run(&["rp", "alter", "m", "raw"], 2, "nothing to alter").await;
        run(&["rp", "alter", "m", "raw", "--retention", "30d", "--default"], 0, "altered").await;
        run(&["rp", "ls", "m", "--json"], 0, "2592000000000000").await;
        run(&["rp", "drop", "m", "raw"], 2, "--yes").await;
        run(&["rp", "drop", "m", "raw", "--yes"], 1, "another the default").await;
        run(&["rp", "drop", "m", "autogen", "--yes"], 0, "dropped").await;
        run(&["rp", "alter", "m", "autogen", "--default"], 1, "rp ls").await;
    });
}
