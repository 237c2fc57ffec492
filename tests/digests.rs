//! Digests and verification: replicas that hold the same say so, and one that does not is found.

use std::{sync::Arc, time::Duration};

use quorate_client::{
    BucketDigest, Client, DigestRange, Env, Error, WriteOptions, connection::Connection,
};
use quorate_protocol::{
    code::Code,
    consistency::Level,
    id::{NodeId, ShardId, Version},
    point::Point,
};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::{real, simulated},
    load::{EPOCH, sample, write},
    observe::{PATIENCE, create_database, wait_for, wait_healthy},
    process::Processes,
    raw::{self, Raw},
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// A bucket for every hundred points of a writer.
const BUCKET: u64 = 100_000_000;

fn shard(client: &Client) -> ShardId {
    client.map().shards().next().unwrap().shard.id
}

async fn digests(
    client: &Client,
    range: DigestRange,
) -> Vec<(NodeId, Result<Vec<BucketDigest>, Error>)> {
    let mut all = Vec::new();
    for node in [ONE, TWO, THREE] {
        all.push((node, client.shard_digest(shard(client), node, range, TIMEOUT).await));
    }
    all
}

/// The buckets that all owners hold the same of, and those they do not.
async fn compare(client: &Client, range: DigestRange) -> (Vec<i64>, Vec<i64>) {
    let all: Vec<Vec<BucketDigest>> =
        digests(client, range).await.into_iter().map(|(_, found)| found.unwrap()).collect();
    let mut starts: Vec<i64> = all.iter().flatten().map(|bucket| bucket.start).collect();
    starts.sort_unstable();
    starts.dedup();
    let at = |buckets: &[BucketDigest], start| buckets.iter().find(|b| b.start == start).copied();
    starts
        .into_iter()
        .partition(|start| all.iter().all(|other| at(other, *start) == at(&all[0], *start)))
}

/// One write that reaches one node only.
async fn write_alone(
    client: &Client,
    connection: &Arc<Connection>,
    point: &Point,
    version: Version,
) {
    let (request, bytes) = raw::encode(&client.map(), "db", std::slice::from_ref(point), version);
    let written = raw::send(connection, &request, &bytes).await;
    assert_eq!(written.copy.unwrap().error, None);
}

#[test]
fn replicas_agree_whatever_their_layout_and_the_one_that_differs_is_found() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 501).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let (all, ledger) = (WriteOptions::at(Level::All), Ledger::new());
        let mut receipt = None;
        for round in 0..6 {
            let points: Vec<Point> = (round * 60..round * 60 + 100).map(|n| sample(1, n)).collect();
            receipt = Some(write(&client, "db", &points, &all, &ledger).await.unwrap());
            // Each node folds at other times.
            cluster.node(NodeId(round % 3 + 1)).fold().await;
        }
        let receipt = receipt.unwrap();
        let range = DigestRange { bucket: BUCKET, ..DigestRange::default() };
        let (equal, differ) = compare(&client, range).await;
        assert_eq!((equal.len(), differ.len()), (4, 0));
        let values: u64 = digests(&client, DigestRange::default()).await[0]
            .1
            .as_ref()
            .unwrap()
            .iter()
            .map(|bucket| bucket.values)
            .sum();
        assert_eq!(values, 400 * 3);

        // One value more on one node, and it is found in its bucket; but not in what was there before.
        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let connection = raw.connect(&client.map(), TWO).await;
        let later = Version(receipt.version.0 + 1_000);
        write_alone(&client, &connection, &sample(1, 150), later).await;
        let (equal, differ) = compare(&client, range).await;
        assert_eq!((equal.len(), differ.len()), (3, 1));
        assert!((differ[0]..differ[0] + BUCKET as i64).contains(&(EPOCH + 150_000_000)));
        let elsewhere = DigestRange { from: EPOCH + 200_000_000, ..range };
        assert_eq!(compare(&client, elsewhere).await.1, [0_i64; 0]);
        // The value that won before is gone there: what is compared are the values that are.
        let found = digests(&client, DigestRange { up_to: receipt.version, ..range }).await;
        let sum = |at: usize| found[at].1.as_ref().unwrap().iter().map(|b| b.values).sum::<u64>();
        assert_eq!((sum(0), sum(1)), (1200, 1197));
        // The others get it too, and all agree.
        for node in [ONE, THREE] {
            let connection = raw.connect(&client.map(), node).await;
            write_alone(&client, &connection, &sample(1, 150), later).await;
        }
        assert_eq!(compare(&client, range).await.1, [0_i64; 0]);
        cluster.finish().await;
    });
}

#[test]
fn who_is_asked_answers_for_itself_or_says_why_not() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 502).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let (options, ledger) = (WriteOptions::default(), Ledger::new());
        let receipt = write(&client, "db", &[sample(1, 1)], &options, &ledger).await.unwrap();
        // There are three shards, and one has the point.
        let (shard, owner) = (receipt.parts[0].shard, receipt.parts[0].copies[0].owner);
        let other = cluster.ids().into_iter().find(|node| *node != owner).unwrap();
        let range = DigestRange::default();
        let ask = async |shard, node| client.shard_digest(shard, node, range, TIMEOUT).await;
        assert!(ask(shard, owner).await.is_ok());
        assert_eq!(ask(shard, other).await.unwrap_err().code(), Code::NotOwner);
        assert_eq!(ask(ShardId(999), owner).await.unwrap_err().code(), Code::ShardGone);
        let many = DigestRange { bucket: 1, ..range };
        let found = client.shard_digest(shard, owner, many, TIMEOUT).await.unwrap();
        assert_eq!(found.len(), 1);
        let report = client.shard_verify(shard, owner, TIMEOUT).await.unwrap();
        assert_eq!((report.found, report.problems.len()), (0, 0));
        cluster.node(owner).fold().await;
        let report = client.shard_verify(shard, owner, TIMEOUT).await.unwrap();
        assert_eq!((report.found, report.runs, report.values, report.series), (0, 1, 3, 1));
        let refused = client.shard_verify(shard, other, TIMEOUT).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotOwner);
        cluster.stop(owner).await;
        assert!(matches!(ask(shard, owner).await, Err(Error::Unreachable { .. })));
        cluster.finish().await;
    });
}

#[test]
fn the_commands_compare_and_verify() {
    real(async {
        let settings = "[shard]\nfold_age_ms = 100\n";
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let mut cluster = Processes::start_with(binary, 3, settings).await;
        let client = cluster.client().await;
        wait_healthy(&client, &cluster.ids()).await;
        create_database(&client, "db", 3).await;
        let points: Vec<Point> = (0..300).map(|n| sample(1, n)).collect();
        let all = WriteOptions::at(Level::All);
        let receipt = write(&client, "db", &points, &all, &Ledger::new()).await.unwrap();

        let ended = cluster.quorate(&["shard", "digest", "db", "--bucket", "100ms"]).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.stdout.lines().count(), 1 + 3, "{}", ended.stdout);
        let raw = Raw::new(Env::system(), cluster.client_credentials());
        let connection = raw.connect(&client.map(), THREE).await;
        let later = Version(receipt.version.0 + 1);
        write_alone(&client, &connection, &sample(9, 150), later).await;
        let shard = shard(&client).to_string();
        let ended = cluster.quorate(&["shard", "digest", &shard, "--bucket", "100ms"]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        let marked: Vec<&str> =
            ended.stdout.lines().filter(|line| line.ends_with("differ")).collect();
        assert_eq!(marked.len(), 1, "{}", ended.stdout);
        assert!(ended.stderr.contains("quorate hints ls"), "{}", ended.stderr);
        let before = receipt.version.to_string();
        let ended =
            cluster.quorate(&["shard", "digest", &shard, "--up-to", &before, "--json"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stdout);
        let line: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
        assert_eq!(
            (line["equal"].as_bool(), line["owners"].as_array().unwrap().len()),
            (Some(true), 3)
        );
        assert_eq!(cluster.quorate(&["shard", "digest", "nowhere"]).await.code, Some(1));

        // Until every fold is done.
        wait_for("folds", PATIENCE, async || {
            let ended = cluster.quorate(&["shard", "verify", "--json"]).await;
            assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
            let lines =
                ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let values: u64 = lines.map(|line| line["values"].as_u64().unwrap()).sum();
            if values == 3 * 900 + 3 { Ok(()) } else { Err(format!("{values} values")) }
        })
        .await;
        let ended = cluster.quorate(&["shard", "ls", "--json"]).await;
        let line: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
        let replicas = line["replicas"].as_array().unwrap();
        assert_eq!(replicas.len(), 3);
        for replica in replicas {
            assert_eq!(replica["state"], "ok", "{line}");
            assert!(replica["series"].as_u64() >= Some(8) && replica["bytes"].as_u64() > Some(0));
        }
        let ended = cluster.quorate(&["shard", "ls"]).await;
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
        client.close().await;
        // A directory in use is left alone.
        let data = cluster.data(TWO).to_string_lossy().into_owned();
        let ended = cluster.quorate(&["shard", "verify", "--data", &data]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        assert!(ended.stderr.contains("in use"), "{}", ended.stderr);
        cluster.terminate(TWO).await;
        let ended = cluster.quorate(&["shard", "verify", "--data", &data]).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);

        // One bit of a stored string, which stands in the file as it is.
        let file = cluster.data(TWO).join("shards").join(&shard).join("data.mdb");
        let mut bytes = std::fs::read(&file).unwrap();
        let text = b"busy, or so";
        let mut hits = 0;
        for at in 0..bytes.len() - text.len() {
            if &bytes[at..at + text.len()] == text {
                bytes[at] ^= 1;
                hits += 1;
            }
        }
        assert!(hits > 0, "the strings are not stored as they are");
        std::fs::write(&file, bytes).unwrap();
        let ended = cluster.quorate(&["shard", "verify", "--data", &data]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        let problem = ended.stdout.lines().find(|line| line.contains(": block: "));
        assert!(problem.is_some_and(|line| line.contains("quorate export")), "{}", ended.stdout);
        // And running: it is told, and the others answer in its place.
        cluster.restart(TWO).await;
        let ended = cluster.quorate(&["shard", "verify", &shard]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        assert!(
            ended.stdout.contains(&format!("shard {shard} on n2: block: ")),
            "{}",
            ended.stdout
        );
        let ended = cluster
            .quorate(&[
                "query",
                "db",
                "cpu",
                "--every",
                "1h",
                "--agg",
                "count",
                "--consistency",
                "one",
                "--format",
                "csv",
            ])
            .await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    });
}
