//! Those that follow the map: clients and nodes that were cut off while it changed a lot.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::{
    Client, WriteOptions,
    config::TransportConfig,
    connection::{Connection, ReplyStream},
};
use quorate_protocol::{
    change::{Change, NewField, PolicySpec},
    consistency::Level,
    frame::MAX_FRAME,
    id::{MetaIndex, NodeId, PolicyId},
    map::{ClusterMap, apply_updates},
    message::{MetaChanged, MetaWatch},
    point::Point,
    schema::FieldType,
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan, client_host, host},
    history::Ledger,
    limit::simulated,
    load::{EPOCH, sample, write},
    observe::{PATIENCE, create_database, wait_for},
    raw::{Raw, create_groups},
};
use tokio::time::{Instant, sleep};

const GROUPS: i64 = 1_000;
const HOUR: i64 = 3600 * 1_000_000_000;
const WEEK: i64 = 7 * 24 * HOUR;

#[test]
fn who_was_cut_off_while_a_thousand_groups_were_made_has_the_newest_map_soon() {
    simulated(async {
        let plan = Plan::of(3).configured(|_, config| {
            config.meta.snapshot_after = 200;
            config.meta.log_keep = 50;
            config.meta.lag_threshold = 400;
        });
        let mut cluster = Cluster::simulated_with(plan, 551).await;
        let client = cluster.client().await;
        let watcher = cluster.client().await;
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        create_database(&client, "db", 3).await;
        let ids = cluster.ids();
        let lost = NodeId(3);
        ids.iter().for_each(|id| cluster.net().partition(client_host(3), host(*id)));
        cluster.isolate(lost);
        sleep(Duration::from_secs(30)).await;
        let before = watcher.map().index;
        let options = WriteOptions::at(Level::Quorum);
        for n in 0..GROUPS {
            let time = EPOCH - n * WEEK;
            let point = Point::builder("m").field("v", n).at(time).unwrap();
            write(&client, "db", &[point], &options, &Ledger::new()).await.unwrap();
        }
        let goal = client.map().index;
        assert!(goal.0 - before.0 >= GROUPS as u64, "{before:?}, then {goal:?}");
        assert_eq!(watcher.map().index, before, "it was not cut off");

        cluster.rejoin(lost);
        ids.iter().for_each(|id| cluster.net().heal(client_host(3), host(*id)));
        let begun = Instant::now();
        wait_for("the newest map", PATIENCE, async || {
            let index = watcher.map().index;
            if index >= goal { Ok(()) } else { Err(format!("{index:?} of {goal:?}")) }
        })
        .await;
        // A datagram or two, and the pause before one that was lost is sent again.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let map = raw.same_map(&client.map(), &ids, goal).await;
        assert_eq!(map, *watcher.map());
        cluster.finish().await;
    });
}

#[test]
fn a_change_costs_a_thousand_watchers_of_ten_thousand_groups_a_few_bytes_each() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 552).await;
        let client = cluster.client().await;
        hourly_database(&client, 3).await;
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let map = client.map();
        let policy = map.policies().next().unwrap().id;
        let connection = raw.connect(&map, NodeId(1)).await;
        make_groups(&connection, policy, 0..10_000).await;
        let ids = cluster.ids();
        let map = raw.same_map(&map, &ids, client.map().index).await;
        assert_eq!(map.shards().count(), 10_000);
        let whole = raw.map_of(&map, NodeId(1)).await.unwrap().1;
        let map = Arc::new(map);

        let mut watchers = Vec::new();
        let watch = MetaWatch { after: map.index };
        for n in 0..40 {
            let connection = raw.connect(&map, ids[n % ids.len()]).await;
            for _ in 0..25 {
                let deadline = Instant::now() + PATIENCE;
                let opened = connection.open_stream(&watch, Bytes::new(), deadline).await;
                watchers.push(opened.unwrap());
            }
        }
        let goal = make_groups(&connection, policy, 10_000..10_001).await;
        let mut bytes = 0;
        for watcher in &mut watchers {
            let (MetaChanged { index, left }, update) = watcher.next().await.unwrap().unwrap();
            assert_eq!((index, left), (goal, 0));
            let newer = apply_updates(&map, &update).unwrap().unwrap();
            assert_eq!(newer.shards().count(), 10_001);
            bytes += update.len();
        }
        println!(
            "{} bytes for each of {} watchers; the map: {whole}",
            bytes / 1_000,
            watchers.len()
        );
        assert!(bytes / watchers.len() < 100, "{bytes} bytes");
        drop(watchers);
        // Whoever comes back to another node with what it has gets what it lacks.
        let elsewhere = raw.connect(&map, NodeId(2)).await;
        let last = make_groups(&connection, policy, 10_001..10_033).await;
        raw.same_map(&map, &ids, last).await;
        let deadline = Instant::now() + PATIENCE;
        let opened = elsewhere.open_stream(&watch, Bytes::new(), deadline).await;
        let (newest, bytes, _) = follow(&mut opened.unwrap(), &map, last).await;
        assert_eq!(newest.shards().count(), 10_033);
        assert!(bytes < 2_000, "{bytes} bytes");
        cluster.finish().await;
    });
}

#[test]
fn a_watcher_that_does_not_read_is_not_queued_for_and_gets_the_whole_map_later() {
    simulated(async {
        let plan = Plan::of(1).configured(|_, config| config.meta.delta_bytes = 16 << 10);
        let mut cluster = Cluster::simulated_with(plan, 553).await;
        let client = cluster.client().await;
        hourly_database(&client, 1).await;
        let slow = TransportConfig { stream_window: 64 << 10, ..TransportConfig::default() };
        let env = cluster.client_env();
        let raw = Raw::with(env, cluster.client_credentials("raw"), slow);
        let map = client.map();
        let policy = map.policies().next().unwrap().id;
        let connection = raw.connect(&map, NodeId(1)).await;
        let deadline = Instant::now() + PATIENCE;
        let watch = MetaWatch { after: map.index };
        let mut news = connection.open_stream(&watch, Bytes::new(), deadline).await.unwrap();
        let writer = raw.connect(&map, NodeId(1)).await;
        let last = make_groups(&writer, policy, 0..20_000).await;
        let (newest, bytes, updates) = follow(&mut news, &map, last).await;
        assert_eq!(newest.shards().count(), 20_000);
        let whole = raw.map_of(&map, NodeId(1)).await.unwrap().1;
        // What was under way to it, and the map: not all that has happened meanwhile.
        println!("{updates} updates of {bytes} bytes, of which the map {whole}");
        assert!(bytes > whole, "it had read nothing before");
        assert!(updates < 300, "{updates} updates of {}", 20_000 / 32);
        cluster.finish().await;
    });
}

#[test]
fn a_client_that_follows_a_node_without_a_majority_turns_to_another() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 555).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let options = WriteOptions::at(Level::Quorum);
        write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        let mut followers = Vec::new();
        for _ in 0..6 {
            followers.push(cluster.client().await);
        }
        // Clients still reach it.
        for other in [1, 2] {
            cluster.net().partition(host(NodeId(3)), host(NodeId(other)));
        }
        let field = Point::builder("cpu").tag("host", "x").field("fresh", 1.0).at(EPOCH).unwrap();
        write(&client, "db", &[field], &options, &ledger).await.unwrap();
        let goal = client.map().index;
        for follower in &followers {
            let known = sample(1, 1);
            write(follower, "db", &[known], &options, &ledger).await.unwrap();
        }
        wait_for("the newest map", Duration::from_secs(5), async || {
            let behind = followers.iter().filter(|follower| follower.map().index < goal).count();
            if behind == 0 { Ok(()) } else { Err(format!("{behind} are behind")) }
        })
        .await;
        cluster.rejoin(NodeId(3));
        cluster.finish().await;
    });
}

#[test]
fn a_map_that_is_larger_than_a_frame_arrives_in_pieces() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 554).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let database = client.map().databases[0].id;
        let field = |n: u32| NewField {
            measurement: "m".into(),
            field: Bytes::from(format!("{n:065535}")),
            kind: FieldType::Float,
        };
        for n in 0..5 {
            let fields = (15 * n..15 * (n + 1)).map(field).collect();
            client.change(Change::RegisterFields { database, fields }).await.unwrap();
        }
        let newcomer = cluster.client().await;
        assert_eq!(newcomer.map(), client.map());
        let fields = &newcomer.map().databases[0].measurements[0].fields;
        assert!(fields.len() * 65_535 > MAX_FRAME as usize);
        cluster.finish().await;
    });
}

async fn hourly_database(client: &Client, replication: u32) {
    let policy = PolicySpec {
        name: "default".to_owned(),
        duration: 0,
        group_duration: HOUR as u64,
        replication,
    };
    client.change(Change::CreateDatabase { name: "db".to_owned(), policy }).await.unwrap();
}

/// Makes one group for each of these hours, 32 at a time; the index of the last.
async fn make_groups(
    connection: &Arc<Connection>,
    policy: PolicyId,
    hours: Range<i64>,
) -> MetaIndex {
    let times: Vec<i64> = hours.map(|hour| EPOCH - hour * HOUR).collect();
    let mut last = MetaIndex(0);
    for times in times.chunks(32) {
        last = create_groups(connection, policy, times.to_vec()).await;
    }
    last
}

/// Reads news until the map has this index; how many bytes that took, in how many updates.
async fn follow(
    news: &mut ReplyStream<MetaWatch>,
    map: &Arc<ClusterMap>,
    goal: MetaIndex,
) -> (Arc<ClusterMap>, usize, usize) {
    let (mut map, mut bytes, mut updates) = (Arc::clone(map), 0, 0);
    let mut update = Vec::new();
    while map.index < goal {
        let (MetaChanged { index, left }, piece) = news.next().await.unwrap().unwrap();
        bytes += piece.len();
        update.extend_from_slice(&piece);
        if left == 0 {
            updates += 1;
            map = apply_updates(&map, &std::mem::take(&mut update)).unwrap().unwrap();
            assert_eq!(map.index, index);
        }
    }
    (map, bytes, updates)
}
