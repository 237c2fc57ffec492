//! Those that follow the map: clients and nodes that were cut off while it changed a lot.

use std::time::Duration;

use quorate_client::WriteOptions;
use quorate_protocol::{consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::{Cluster, Plan, client_host, host},
    history::Ledger,
    limit::simulated,
    load::{EPOCH, write},
    observe::{PATIENCE, create_database, wait_for},
    raw::Raw,
};
use tokio::time::{Instant, sleep};

const GROUPS: i64 = 1_000;
const WEEK: i64 = 7 * 24 * 3600 * 1_000_000_000;

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
        let (_, bytes) = raw.map_of(&map, NodeId(1)).await.unwrap();
        // Deltas are not sent: what a watcher gets for one change grows with the number of groups.
        println!("a change costs every watcher {bytes} bytes with {} groups", map.shards().count());
        cluster.finish().await;
    });
}
