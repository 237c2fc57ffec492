//! The limit on series: what it refuses, what goes on, and what never counts.

use quorate_client::{Client, WriteError, WriteOptions, error::Certainty};
use quorate_protocol::{code::Code, consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::{Ledger, first_difference},
    limit::{real, simulated},
    load::{EPOCH, write},
    observe::{PATIENCE, create_database, exports, wait_drained, wait_for, wait_healthy},
    process::Processes,
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const LIMIT: u64 = 4;

/// A point of one of many series.
fn point(host: u64, n: i64) -> Point {
    Point::builder("cpu").tag("host", format!("h{host}")).field("n", n).at(EPOCH + n).unwrap()
}

async fn folded(cluster: &Cluster, nodes: &[NodeId]) {
    for node in nodes {
        cluster.node(*node).fold().await;
    }
}

/// Nodes that take four series per database, and a database that has them.
async fn at_the_limit(seed: u64) -> (Cluster, Client, Ledger) {
    let plan = Plan::of(3).configured(|_, config| {
        config.shard.max_series_per_database = LIMIT;
        config.shard.fold_age_ms = 24 * 3_600_000;
    });
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    let ledger = Ledger::new();
    create_database(&client, "db", 3).await;
    let points: Vec<Point> = (0..LIMIT).map(|host| point(host, 0)).collect();
    write(&client, "db", &points, &WriteOptions::at(Level::All), &ledger).await.unwrap();
    folded(&cluster, &cluster.ids()).await;
    (cluster, client, ledger)
}

fn refused(result: Result<impl std::fmt::Debug, WriteError>, rows: usize) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::SeriesLimit, "{error}");
    assert!(error.failed.iter().all(|failed| failed.certainty == Certainty::Definite), "{error:?}");
    assert_eq!(error.failed.iter().map(|failed| failed.rows.len()).sum::<usize>(), rows);
    assert!(!error.retryable() && error.to_string().contains("max_series_per_database"), "{error}");
}

#[test]
fn new_series_are_refused_at_the_limit_and_known_ones_are_not() {
    simulated(async {
        let (mut cluster, client, ledger) = at_the_limit(301).await;
        for level in [Level::Any, Level::One, Level::Quorum, Level::All] {
            let options = WriteOptions::at(level);
            let new = [point(0, 5), point(9, 5)];
            refused(write(&client, "db", &new, &options, &ledger).await, 2);
            write(&client, "db", &[point(1, 6), point(2, 6)], &options, &ledger).await.unwrap();
        }
        // Another database, and another time range of this one, have a limit of their own.
        create_database(&client, "other", 3).await;
        let options = WriteOptions::default();
        write(&client, "other", &[point(9, 7)], &options, &Ledger::new()).await.unwrap();
        let later = Point::builder("cpu").tag("host", "h9").field("n", 8_i64);
        let later = later.at(EPOCH - 30 * 24 * 3600 * 1_000_000_000).unwrap();
        write(&client, "db", &[later], &options, &ledger).await.unwrap();

        // A node counts what it has before it answers anybody.
        folded(&cluster, &cluster.ids()).await;
        for node in cluster.ids() {
            cluster.stop(node).await;
            cluster.restart(node).await;
        }
        wait_healthy(&client, &cluster.ids()).await;
        refused(write(&client, "db", &[point(10, 9)], &options, &ledger).await, 1);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn what_is_fresh_when_the_limit_is_reached_goes_on() {
    simulated(async {
        let (cluster, client, ledger) = at_the_limit(302).await;
        // Written before this node knew that it is full: as if it had been in flight.
        create_database(&client, "more", 3).await;
        let options = WriteOptions::at(Level::All);
        let points: Vec<Point> = (0..LIMIT - 1).map(|host| point(host, 0)).collect();
        write(&client, "more", &points, &options, &ledger).await.unwrap();
        folded(&cluster, &cluster.ids()).await;
        let over: Vec<Point> = (10..15).map(|host| point(host, 1)).collect();
        write(&client, "more", &over, &options, &ledger).await.unwrap();
        folded(&cluster, &cluster.ids()).await;
        // Eight now; what was accepted, folded or fresh, is known for good.
        write(&client, "more", &[point(12, 2)], &options, &ledger).await.unwrap();
        refused(write(&client, "more", &[point(12, 3), point(20, 3)], &options, &ledger).await, 2);
        cluster.finish().await;
    });
}

#[test]
fn a_refusal_is_definite_while_an_owner_is_down_and_leaves_no_hint() {
    simulated(async {
        let (mut cluster, client, ledger) = at_the_limit(303).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        for level in [Level::Any, Level::One, Level::Quorum] {
            refused(
                write(&client, "db", &[point(9, 1)], &WriteOptions::at(level), &ledger).await,
                1,
            );
        }
        let options = WriteOptions::default();
        write(&client, "db", &[point(1, 2)], &options, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert_eq!(wait_drained(&client, &cluster.ids()).await.accepted, 1);
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        cluster.finish().await;
    });
}

#[test]
fn a_hint_is_taken_whatever_the_limit_is() {
    simulated(async {
        // Only the third node has so small a limit.
        let plan = Plan::of(3).configured(|node, config| {
            config.shard.fold_age_ms = 24 * 3_600_000;
            if node == THREE {
                config.shard.max_series_per_database = LIMIT;
            }
        });
        let mut cluster = Cluster::simulated_with(plan, 304).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let points: Vec<Point> = (0..LIMIT).map(|host| point(host, 0)).collect();
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &points, &all, &ledger).await.unwrap();
        folded(&cluster, &cluster.ids()).await;
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[ONE, TWO]).await;
        let options = WriteOptions::default();
        write(&client, "db", &[point(9, 1)], &options, &ledger).await.unwrap();
        assert!(client.settle(PATIENCE).await);
        cluster.restart(THREE).await;
        wait_healthy(&client, &cluster.ids()).await;
        assert_eq!(wait_drained(&client, &cluster.ids()).await.delivered, 1);
        let all_nodes = exports(&client, "db", &cluster.ids()).await;
        assert_eq!(first_difference(&all_nodes), None);
        ledger.check(&all_nodes).assert_whole();

        // What came as a hint is known, though it is not folded.
        write(&client, "db", &[point(9, 2)], &all, &ledger).await.unwrap();
        // A live write is held against it, and what the others have taken is marked for it.
        let error = write(&client, "db", &[point(11, 3)], &all, &ledger).await.unwrap_err();
        assert_eq!(error.code(), Code::SeriesLimit);
        assert_eq!(error.failed[0].certainty, Certainty::Indefinite);
        write(&client, "db", &[point(12, 4)], &options, &ledger).await.unwrap();
        cluster.finish().await;
    });
}

#[test]
fn the_command_says_what_to_do() {
    real(async {
        let settings = "[shard]\nmax_series_per_database = 2\nfold_age_ms = 50\n";
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let cluster = Processes::start_with(binary, 1, settings).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let options = WriteOptions::default();
        let two = [point(0, 0), point(1, 0)];
        write(&client, "db", &two, &options, &Ledger::new()).await.unwrap();
        let file = cluster.root().join("lines");
        let mut tries = 0;
        // Every try brings another series, until the fold has counted those before.
        let ended = wait_for("the limit", PATIENCE, async || {
            tries += 1;
            let text = format!("cpu,host=new{tries} n=1i {EPOCH}\n");
            std::fs::write(&file, text).unwrap();
            let ended = cluster.quorate(&["write", "db", &file.to_string_lossy()]).await;
            if ended.code == Some(0) { Err("written".to_owned()) } else { Ok(ended) }
        })
        .await;
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("max_series_per_database"), "{}", ended.stderr);
        assert!(ended.stderr.contains("series limit"), "{}", ended.stderr);
        client.close().await;
    });
}
