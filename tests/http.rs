//! `/metrics` and `/health` of real nodes: figures that move with writes and hints, health that
//! says what is wrong, and requests that do no harm.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use quorate_client::WriteOptions;
use quorate_protocol::{consistency::Level, id::NodeId};
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{sample, write},
    observe::{PATIENCE, create_database, wait_drained, wait_for, wait_healthy, wait_until},
    process::Processes,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// What comes back for these bytes; nothing if the connection was refused or reset.
async fn send(addr: SocketAddr, request: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(addr).await else { return String::new() };
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    let _ = read.await.expect("the node closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and body of a page.
pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let answer = send(addr, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A node's metrics, each line of which must be as Prometheus wants it.
async fn scrape(addr: SocketAddr) -> BTreeMap<String, f64> {
    let (status, text) = get(addr, "/metrics").await;
    assert_eq!(status, 200);
    explained(&text);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("quorate_"), "{line}");
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

/// Every metric of the page must have its type and its meaning.
fn explained(page: &str) {
    for line in page.lines().filter(|line| line.starts_with("quorate_")) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = name.strip_suffix("_sum").or(name.strip_suffix("_count")).unwrap_or(name);
        for what in ["TYPE", "HELP"] {
            let head = format!("# {what} {base} ");
            assert!(page.contains(&head), "{head} is missing");
        }
    }
}

async fn health(addr: SocketAddr) -> (u16, Value) {
    let (status, body) = get(addr, "/health").await;
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}")))
}

/// Waits until a node's health has this status, and for the reason if it is bad.
async fn wait_health(addr: SocketAddr, status: u16, reason: &str) {
    wait_for("health", PATIENCE, async || {
        let (found, body) = health(addr).await;
        let same = body["reasons"][0]["reason"].as_str().unwrap_or_default() == reason;
        if found == status && same { Ok(()) } else { Err(format!("{found}: {body}")) }
    })
    .await;
}

async fn start() -> Processes {
    Processes::start_with(env!("CARGO_BIN_EXE_quorate-under-test"), 3, "http = \"127.0.0.1:0\"\n")
        .await
}

#[test]
fn metrics_move_with_writes_and_hints() {
    real(async {
        let mut cluster = start().await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let ledger = Ledger::new();
        let before = scrape(cluster.http(ONE)).await;
        for n in 0..10 {
            let all = WriteOptions::at(Level::All);
            write(&client, "db", &[sample(1, n)], &all, &ledger).await.unwrap();
        }
        let records = "quorate_journal_records_total";
        let after = scrape(cluster.http(ONE)).await;
        let written = after[records] - before.get(records).unwrap_or(&0.0);
        assert!(written >= 10.0, "{written} records of ten writes");
        for gauge in ["quorate_shard_fresh_bytes", "quorate_meta_applied_index"] {
            assert!(after[gauge] > 0.0, "{gauge}: {after:?}");
        }
        let good = ["quorate_node_healthy", "quorate_meta_has_leader"];
        assert!(good.iter().all(|gauge| after[*gauge] == 1.0), "{after:?}");

        cluster.kill(THREE).await;
        wait_until("the client has noticed", async || client.up() == [ONE, TWO]).await;
        for n in 10..20 {
            write(&client, "db", &[sample(1, n)], &WriteOptions::default(), &ledger).await.unwrap();
        }
        assert!(client.settle(PATIENCE).await);
        let total = async |cluster: &Processes, name: &str| {
            let mut sum = 0.0;
            for node in [ONE, TWO] {
                let metrics = scrape(cluster.http(node)).await;
                sum += metrics.get(&format!("{name}{{target=\"3\"}}")).unwrap_or(&0.0);
            }
            sum
        };
        let pending = total(&cluster, "quorate_hints_pending").await;
        assert!(pending >= 10.0, "{pending} hints pending");
        cluster.restart(THREE).await;
        wait_drained(&client, &cluster.ids()).await;
        assert_eq!(total(&cluster, "quorate_hints_pending").await, 0.0);
        let delivered = total(&cluster, "quorate_hints_delivered_total").await;
        assert!(delivered >= pending, "{delivered} of {pending} delivered");
        client.close().await;
    });
}

#[test]
fn health_is_bad_while_there_is_no_leader() {
    real(async {
        let mut cluster = start().await;
        for node in cluster.ids() {
            wait_health(cluster.http(node), 200, "").await;
            let (_, body) = health(cluster.http(node)).await;
            assert_eq!((&body["status"], &body["node"]), (&"ok".into(), &node.0.into()));
        }
        // Whoever stays: the leader, whom no majority answers, and another, who knows none.
        let (_, body) = health(cluster.http(ONE)).await;
        let leader = NodeId(body["leader"].as_u64().unwrap());
        let [first, second] =
            cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..]
        else {
            panic!("three nodes")
        };
        for (stays, others) in [(leader, [first, second]), (second, [leader, first])] {
            cluster.kill_all(&others).await;
            wait_health(cluster.http(stays), 503, "no_leader").await;
            for node in others {
                cluster.restart(node).await;
            }
            wait_health(cluster.http(stays), 200, "").await;
        }
    });
}

#[test]
fn requests_that_are_none_do_no_harm() {
    real(async {
        let cluster = start().await;
        let addr = cluster.http(TWO);
        let long = [b"GET /health HTTP/1.1\r\nX: ", &[b'x'; 1 << 20][..]].concat();
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        let mut garbage = Vec::new();
        for _ in 0..4096 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            garbage.extend(noise.to_le_bytes());
        }
        for request in [&long[..], &garbage, b"GET", b"\r\n\r\n", b"GET /health HTTP/9.9\r\n\r\n"] {
            let answer = send(addr, request).await;
            assert!(!answer.contains(" 200 "), "{answer}");
        }
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(TcpStream::connect(addr).await.unwrap());
        }
        wait_health(addr, 200, "").await;
        let client = cluster.client().await;
        wait_healthy(&client, &cluster.ids()).await;
        client.close().await;
    });
}
