//! `quorate hints` and `quorate hints ls --marks` as operators and scripts use them: a real cluster,
//! a node down, hints of every kind, and one node's directory while it is stopped.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use quorate_client::{Client, Env, WriteOptions};
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    consistency::Level,
    id::{NodeId, PolicyId, Version},
    line::{Options, parse_into},
    message::{Mark, Write},
    point::Point,
};
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{EPOCH, sample, write},
    observe::{PATIENCE, create_database, queues, wait_for, wait_healthy, wait_until},
    process::{Ended, Processes},
    raw::{self, Raw},
};
use serde_json::Value;
use tokio::time::Instant;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const PLAIN: u64 = 20;
const ANY: u64 = 4;

/// The objects that a command printed with `--json`.
fn objects(ended: &Ended) -> Vec<Value> {
    let lines = ended.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn sum(objects: &[Value], key: &str) -> u64 {
    objects.iter().map(|object| object[key].as_u64().unwrap()).sum()
}

/// Runs a command that must end with this code.
async fn quorate(cluster: &Processes, code: i32, args: &[&str]) -> Ended {
    let ended = cluster.quorate(args).await;
    assert_eq!(ended.code, Some(code), "{args:?}: {}{}", ended.stdout, ended.stderr);
    ended
}

fn fits(ended: &Ended) {
    assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
}

/// The lines of an export that are points, sorted, once each; all of them read back as they are.
fn points(export: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        export.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    for line in &lines {
        let mut batch = Batch::new();
        let outcome = parse_into(&mut batch, line.as_bytes(), Options::default());
        assert_eq!((outcome.points, outcome.errors.len()), (1, 0), "{line}");
    }
    lines
}

fn lines(all: impl IntoIterator<Item = Point>) -> Vec<String> {
    let mut lines: Vec<String> =
        all.into_iter().map(|point| String::from_utf8(point.to_line()).unwrap()).collect();
    lines.sort();
    lines
}

/// A hint for node three that it will refuse for good: its batch names a policy that is not there.
fn refused(client: &Client, n: u64) -> (Write, Bytes) {
    let map = client.map();
    let version = Version(EPOCH.cast_unsigned() + n);
    let (mut request, bytes) = raw::encode(&map, "db", &[sample(9, n)], version);
    let part = EncodedBatch::parse(bytes).unwrap().header().part;
    let mut batch = Batch::new();
    batch.push(&sample(9, n));
    let database = map.database_named("db").unwrap();
    let header = PartHeader { policy: PolicyId(99), ..part };
    let bytes = encode_part(&batch, &header, Selection::All, &|measurement, field, _| {
        database.field(measurement, field).map(|field| field.id)
    });
    (request.store, request.hint_for) = (false, vec![THREE]);
    (request, bytes.unwrap())
}

/// Waits until node one has so many hints pending for node three, and so many quarantined.
async fn wait_hints(client: &Client, pending: u64, quarantined: u64) {
    wait_for("hints", PATIENCE, async || {
        let queue = queues(client, &[ONE]).await?[&(ONE, THREE)];
        if (queue.pending, queue.quarantined) == (pending, quarantined) {
            return Ok(());
        }
        Err(format!("{queue:?}"))
    })
    .await;
}

#[test]
fn operators_see_check_export_retry_and_drop_hints() {
    real(async {
        // Refused hints are looked at again soon.
        let settings = "[drain]\nbackoff_min_ms = 100\nbackoff_max_ms = 200\n";
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let mut cluster = Processes::start_with(binary, 3, settings).await;
        let client = cluster.client().await;
        wait_healthy(&client, &cluster.ids()).await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(1, 0)], &all, &ledger).await.unwrap();
        marks(&cluster, &client).await;

        cluster.kill(THREE).await;
        wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
        for n in 1..=PLAIN {
            let options = WriteOptions::default();
            write(&client, "db", &[sample(1, n)], &options, &ledger).await.unwrap();
        }
        for n in 1..=ANY {
            let any = WriteOptions::at(Level::Any);
            write(&client, "db", &[sample(2, n)], &any, &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        let raw = Raw::new(Env::system(), cluster.client_credentials());
        let connection = raw.connect(&client.map(), ONE).await;
        for n in 1..=2 {
            let (request, bytes) = refused(&client, n);
            let written = raw::send(&connection, &request, &bytes).await;
            assert_eq!(written.hints[0].answer.error, None);
        }
        let held = queues(&client, &[ONE]).await.unwrap()[&(ONE, THREE)].pending;
        let shown = show_and_export(&cluster).await;
        assert!(held > 2 && held < shown, "one node has all: {held} of {shown}");
        stopped(&mut cluster, held).await;

        // Two are refused for good by node three, and those two only.
        cluster.restart(THREE).await;
        wait_hints(&client, 0, 2).await;
        let ended = quorate(&cluster, 0, &["hints", "show", "n3", "--quarantined", "--json"]).await;
        let shown = objects(&ended);
        assert_eq!(shown.len(), 2, "{}", ended.stdout);
        for hint in &shown {
            assert_eq!(hint["reason"], "refused with code 30", "{hint}");
            assert_eq!((&hint["policy_id"], &hint["policy"]), (&99.into(), &Value::Null));
        }
        let ended = quorate(&cluster, 0, &["hints", "export", "n3", "--quarantined"]).await;
        assert_eq!(points(&ended.stdout), lines((1..=2).map(|n| sample(9, n))));
        assert!(ended.stdout.starts_with("# db_id=1 rp_id=99\n"), "{}", ended.stdout);
        retry_and_drop(&mut cluster, &client).await;
        client.close().await;
    });
}

/// A repair mark made by hand is listed, for people and for scripts.
async fn marks(cluster: &Processes, client: &Client) {
    let shard = client.map().shards().next().unwrap().shard.id;
    let raw = Raw::new(Env::system(), cluster.client_credentials());
    let connection = raw.connect(&client.map(), TWO).await;
    let mark = Mark { shard, owner: THREE, from: EPOCH, to: i64::MAX };
    let deadline = Instant::now() + Duration::from_secs(10);
    let (marked, _) = connection.request(&mark, Bytes::new(), deadline).await.unwrap();
    assert_eq!(marked.answer.error, None);
    let ended = quorate(cluster, 0, &["hints", "ls", "--marks", "--json"]).await;
    let [mark] = &objects(&ended)[..] else { panic!("{}", ended.stdout) };
    assert_eq!(mark["shard"], shard.0);
    assert_eq!((&mark["owner_name"], &mark["node_name"]), (&"n3".into(), &"n2".into()));
    assert_eq!((&mark["from"], &mark["to"]), (&EPOCH.into(), &i64::MAX.into()));
    assert_eq!(mark["reason"], "copy_dropped");
    let ended = quorate(cluster, 0, &["hints", "ls", "--marks"]).await;
    fits(&ended);
    assert!(ended.stdout.contains("copy given up"), "{}", ended.stdout);
}

/// Shows and exports what is pending on both holders; how many hints there are.
async fn show_and_export(cluster: &Processes) -> u64 {
    // That the target is down is why they are there.
    let ended = quorate(cluster, 0, &["hints", "show", "n3", "--json", "--limit", "0"]).await;
    let shown = objects(&ended);
    let at_least = usize::try_from(PLAIN + ANY + 2).unwrap();
    assert!(shown.len() >= at_least, "{}", ended.stdout);
    for hint in &shown {
        assert_eq!((&hint["target"], &hint["target_name"]), (&3.into(), &"n3".into()));
        assert_eq!((&hint["count"], &hint["rows"]), (&1.into(), &1.into()));
        assert_eq!((&hint["damaged"], &hint["reason"]), (&false.into(), &Value::Null));
        assert_eq!((&hint["measurements"][0], &hint["from"]), (&"cpu".into(), &hint["to"]));
        assert!(hint["bytes"].as_u64() > Some(88) && hint["appended_ns"].as_u64() > Some(0));
    }
    let any = shown.iter().filter(|hint| hint["any"] == true).count();
    assert!(any as u64 >= ANY, "{any} hints with an `any` on them");
    let named = shown.iter().filter(|hint| hint["database"] == "db").count();
    assert_eq!(named, shown.len() - 2, "the two that are to be refused have no policy");
    let ended = quorate(cluster, 0, &["hints", "show", "3", "--on", "n1", "--limit", "1"]).await;
    assert_eq!(ended.stdout.matches(" on n1 for n3: 1 row of ").count(), 1, "{}", ended.stdout);
    assert!(ended.stderr.contains("--limit 0"), "{}", ended.stderr);
    fits(&ended);

    let ended = quorate(cluster, 0, &["hints", "export", "n3"]).await;
    let expected = (1..=PLAIN).map(|n| sample(1, n)).chain((1..=ANY).map(|n| sample(2, n)));
    let expected = lines(expected.chain((1..=2).map(|n| sample(9, n))));
    assert_eq!(points(&ended.stdout), expected);
    assert!(ended.stdout.starts_with("# db=db rp=default\n"), "{}", ended.stdout);
    assert_eq!(quorate(cluster, 1, &["hints", "show", "n9"]).await.stdout, "");
    // Node three may keep hints too, and cannot be asked.
    let ended = quorate(cluster, 1, &["hints", "export"]).await;
    assert!(ended.stderr.contains("no answer from n3"), "{}", ended.stderr);

    // Looking has taken nothing out.
    let ended = quorate(cluster, 1, &["hints", "verify", "--json"]).await;
    let reports = objects(&ended);
    assert_eq!(reports.iter().filter(|report| report["error"].is_string()).count(), 1);
    let queues: Vec<Value> = reports.into_iter().filter(|report| report["target"] == 3).collect();
    assert_eq!((queues.len(), sum(&queues, "pending")), (2, shown.len() as u64));
    assert!(queues.iter().all(|queue| queue["balanced"] == true && queue["found"] == 0));
    shown.len() as u64
}

/// Verifies and exports a node's directory while it is stopped, and finds a bit that was flipped in
/// a copy of it.
async fn stopped(cluster: &mut Processes, held: u64) {
    let data = cluster.data(ONE).to_string_lossy().into_owned();
    for command in ["verify", "export"] {
        let ended = quorate(cluster, 1, &["hints", command, "--data", &data]).await;
        assert!(ended.stderr.contains("in use"), "{}", ended.stderr);
    }
    cluster.terminate(ONE).await;
    let ended = quorate(cluster, 0, &["hints", "verify", "--data", &data, "--json"]).await;
    let [marks, queue] = &objects(&ended)[..] else { panic!("{}", ended.stdout) };
    assert_eq!((&marks["marks"], &marks["found"]), (&true.into(), &0.into()));
    assert_eq!((&queue["target"], &queue["pending"]), (&3.into(), &held.into()));
    fits(&quorate(cluster, 0, &["hints", "verify", "--data", &data]).await);
    let ended = quorate(cluster, 0, &["hints", "export", "3", "--data", &data]).await;
    assert_eq!(points(&ended.stdout).len() as u64, held, "{}", ended.stdout);
    assert!(ended.stdout.starts_with("# db_id="), "{}", ended.stdout);
    let ended = quorate(cluster, 0, &["hints", "export", "8", "--data", &data]).await;
    assert_eq!(ended.stdout, "");

    let copy = cluster.root().join("copy");
    copy_directory(&cluster.data(ONE).join("handoff"), &copy.join("handoff"));
    let segment = copy.join("handoff/3").join(format!("{:020}", 1));
    let mut bytes = std::fs::read(&segment).unwrap();
    let text = b"busy, or so";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let copy = copy.to_string_lossy().into_owned();
    let ended = quorate(cluster, 1, &["hints", "verify", "--data", &copy]).await;
    let problem = ended.stdout.lines().find(|line| line.starts_with("for 3: segment 1: bytes "));
    assert!(problem.is_some_and(|line| line.contains("1 records lost")), "{}", ended.stdout);
    let ended = quorate(cluster, 1, &["hints", "export", "--data", &copy]).await;
    assert_eq!(points(&ended.stdout).len() as u64, held - 1);
    assert!(ended.stdout.contains("# damaged: hint "), "{}", ended.stdout);
    cluster.restart(ONE).await;
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Puts two refused hints back, adds one that an `any` rests on, and drops them all.
async fn retry_and_drop(cluster: &mut Processes, client: &Client) {
    cluster.kill(THREE).await;
    wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
    // It may still think of node three as up.
    let before = queues(client, &[ONE]).await.unwrap()[&(ONE, THREE)];
    let shard = client.map().shards().next().unwrap().shard.id.0;
    for (shard, retried) in [(shard + 1, 0), (shard, 2)] {
        let retry = ["hints", "retry", "n3", "--on", "n1", "--json", "--shard", &shard.to_string()];
        let ended = quorate(cluster, 0, &retry).await;
        let [done] = &objects(&ended)[..] else { panic!("{}", ended.stdout) };
        assert_eq!((&done["retried"], &done["damaged"]), (&retried.into(), &0.into()));
    }
    wait_hints(client, 2, 2).await;
    let after = queues(client, &[ONE]).await.unwrap()[&(ONE, THREE)];
    assert_eq!((after.accepted, after.delivered), (before.accepted + 2, before.delivered));
    let ended =
        quorate(cluster, 0, &["hints", "show", "n3", "--on", "1", "--quarantined", "--json"]).await;
    assert_eq!(ended.stdout, "", "they are in both places");

    let raw = Raw::new(Env::system(), cluster.client_credentials());
    let connection = raw.connect(&client.map(), ONE).await;
    let (mut request, bytes) = refused(client, 3);
    request.any = true;
    let written = raw::send(&connection, &request, &bytes).await;
    assert_eq!(written.hints[0].answer.error, None);
    let ended = quorate(cluster, 2, &["hints", "drop", "n3", "--on", "n1"]).await;
    assert!(ended.stderr.contains("--yes"), "{}", ended.stderr);
    let shard = request.shard.0 + 1;
    let other = ["hints", "drop", "n3", "--on", "n1", "--yes", "--shard", &shard.to_string()];
    assert!(quorate(cluster, 0, &other).await.stdout.contains("n1"));
    wait_hints(client, 3, 2).await;
    let drop = ["hints", "drop", "n3", "--on", "n1", "--yes", "--json"];
    let ended = quorate(cluster, 1, &drop).await;
    let [done] = &objects(&ended)[..] else { panic!("{}", ended.stdout) };
    assert_eq!((&done["dropped"], &done["kept_any"]), (&2.into(), &1.into()));
    assert!(ended.stderr.contains("--force-any"), "{}", ended.stderr);
    wait_hints(client, 1, 2).await;
    let force = ["hints", "drop", "n3", "--on", "n1", "--yes", "--force-any"];
    fits(&quorate(cluster, 0, &force).await);
    // What is dropped stays dropped.
    cluster.kill(ONE).await;
    cluster.restart(ONE).await;
    wait_hints(client, 0, 2).await;
    let last = queues(client, &[ONE]).await.unwrap()[&(ONE, THREE)];
    assert_eq!((last.accepted, last.discarded), (before.accepted + 3, 3));
}
