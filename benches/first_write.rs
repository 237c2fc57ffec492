//! Where the time of a new process's first write goes, into a cluster that has just been founded.
//!
//! `cargo bench -p quorate-benches --bench first_write -- [--runs N] [--dir DIR]`
//!
//! Each run founds three nodes on loopback, in this process and on a real disk, and starts a process of
//! its own as the client, which prints its times. Invariant: what the client does is cold: process,
//! endpoint, connections, map, database, fields and shard group are all new. A second process does
//! nothing but dial a node, which is what `handshake` says.

mod loopback;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use quorate_benches::report::{Line, Summary};
use quorate_certs::{Credentials, UnixTime};
use quorate_client::{Client, Env, WriteOptions, config::TransportConfig, connection::Dialer};
use quorate_protocol::{
    batch::Batch,
    change::{Change, PolicySpec},
    id::NodeId,
    message::RaftRole,
    point::Point,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::Instant};

use loopback::{Found, Outcome, found};

const USAGE: &str = "usage: first_write [--runs N] [--dir DIR]";
/// All that a first write takes beyond the handshake, in milliseconds.
const GOAL_MS: f64 = 100.0;
/// A time in the group of the first write, and one in another.
const TIME: i64 = 1_700_000_000_000_000_000;
const LATER: i64 = TIME + 30 * 86_400 * 1_000_000_000;
/// How long a cluster may take until all vote.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Outcome<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "--bench").collect();
    let (mut runs, mut dir) = (7, Path::new(env!("CARGO_TARGET_TMPDIR")).join("first-write"));
    match args[..] {
        ["dial", seed, certs] => return Runtime::new()?.block_on(dial(seed, Path::new(certs))),
        ["write", seed, certs] => return Runtime::new()?.block_on(write(seed, Path::new(certs))),
        [] => {}
        ["--runs", number] => runs = number.parse()?,
        ["--dir", path] => dir = PathBuf::from(path),
        ["--runs", number, "--dir", path] => (runs, dir) = (number.parse()?, PathBuf::from(path)),
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    std::fs::create_dir_all(&dir)?;
    let runtime = Runtime::new()?;
    let mut summary = Summary::default();
    for _ in 0..runs {
        let line = runtime.block_on(run(&TempDir::new_in(&dir)?))?;
        println!("{line}");
        summary.add(&line);
    }
    print!("{}", summary.text());
    let median = |figure| summary.median("first_write", figure);
    let beyond = median("total_ms").zip(median("handshake_ms")).map(|(all, hand)| all - hand);
    print!("{}", Summary::goal("beyond_handshake_ms", beyond, None, Some(GOAL_MS)));
    Ok(ExitCode::SUCCESS)
}

/// One cluster, and what its first clients say.
async fn run(root: &TempDir) -> Outcome<Line> {
    let Found { nodes, pki } = found(root.path(), 3).await?;
    let credentials = Credentials::load(&pki.join("app"), UnixTime::now())?;
    // Not the leader: most clients begin with another node.
    let seed = nodes[2].addr().to_string();
    let observer = Client::builder().seed(&seed).credentials(credentials).connect().await?;
    settled(&observer).await?;
    observer.close().await;
    let mut line = Line::new("first_write");
    for what in ["dial", "write"] {
        let mut child = Command::new(std::env::current_exe()?);
        child.args([what, &seed]).arg(pki.join("app"));
        let output = tokio::task::spawn_blocking(move || child.output()).await??;
        let text = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            return Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        line.figures.extend(text.lines().filter_map(Line::parse).flat_map(|line| line.figures));
    }
    for node in nodes {
        node.shutdown().await;
    }
    Ok(line)
}

/// Waits until all three vote.
async fn settled(client: &Client) -> Outcome<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let report = client.survey(Duration::from_secs(2)).await?;
        let votes = |node: &NodeId, role: RaftRole| role != RaftRole::Learner && node.0 > 0;
        let up = report.members.iter().filter(|(node, answer)| {
            answer.as_ref().is_ok_and(|answer| votes(node, answer.status.role))
        });
        if up.count() == 3 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the nodes do not vote".into())
}

/// The client that only dials.
async fn dial(seed: &str, certs: &Path) -> Outcome<ExitCode> {
    let credentials = Credentials::load(certs, UnixTime::now())?;
    let mut watch = Watch::new();
    let (env, transport) = (Env::system(), TransportConfig::default());
    let endpoint = env.client_endpoint(&transport)?;
    let dialer = Dialer::new(env, endpoint, credentials, transport)?;
    let connection = dialer.dial(seed, NodeId(0)).await?;
    watch.lap("handshake_ms");
    drop(connection);
    println!("{}", watch.line);
    Ok(ExitCode::SUCCESS)
}

/// The client that writes.
async fn write(seed: &str, certs: &Path) -> Outcome<ExitCode> {
    let credentials = Credentials::load(certs, UnixTime::now())?;
    let begun = Instant::now();
    let mut watch = Watch::new();
    let client = Client::builder().seed(seed).credentials(credentials).connect().await?;
    watch.lap("handshake_map_ms");
    let policy =
        PolicySpec { name: "default".to_owned(), duration: 0, group_duration: 0, replication: 3 };
    client.change(Change::CreateDatabase { name: "db".to_owned(), policy }).await?;
    watch.lap("database_ms");
    let quorum = WriteOptions::default();
    client.write("db", &batch("usage", TIME)?, &quorum).await?;
    watch.lap("first_ms");
    let total = begun.elapsed().as_secs_f64() * 1e3;
    // What the first did besides, one by one.
    client.write("db", &batch("usage", TIME + 1)?, &quorum).await?;
    watch.lap("again_ms");
    client.write("db", &batch("load", TIME)?, &quorum).await?;
    watch.lap("new_field_ms");
    client.write("db", &batch("usage", LATER)?, &quorum).await?;
    watch.lap("new_group_ms");
    println!("{}", watch.line.figure("total_ms", total));
    client.close().await;
    Ok(ExitCode::SUCCESS)
}

fn batch(field: &str, time: i64) -> Outcome<Batch> {
    let mut batch = Batch::new();
    batch.push(&Point::builder("cpu").tag("host", "a").field(field, 1.5).at(time)?);
    Ok(batch)
}

/// Times from one step to the next.
struct Watch {
    last: Instant,
    line: Line,
}

impl Watch {
    fn new() -> Self {
        Self { last: Instant::now(), line: Line::new("first_write") }
    }

    fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let ms = now.duration_since(self.last).as_secs_f64() * 1e3;
        self.line = std::mem::take(&mut self.line).figure(name, ms);
        self.last = Instant::now();
    }
}
