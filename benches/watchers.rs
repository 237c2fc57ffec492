//! What one change of the cluster map costs when many follow it.
//!
//! `cargo bench -p quorate-benches --bench watchers -- [--watchers N] [--changes N]`
//!
//! Three nodes on loopback in this process, and streams that watch them, 25 to a connection. After each
//! change, which makes one shard group, every stream is read until it has it. Invariant: what is counted is
//! what came out of the streams; the processor time is that of the whole process, both ends included.

mod loopback;

use std::{process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_benches::report::{Line, Summary};
use quorate_certs::{Credentials, UnixTime};
use quorate_client::{
    Client, Env,
    config::TransportConfig,
    connection::{Dialer, ReplyStream},
};
use quorate_protocol::{
    change::{Change, PolicySpec},
    id::{NodeId, PolicyId},
    message::{MetaChanged, MetaWatch},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::Instant};

use loopback::{Found, Outcome, found};

const USAGE: &str = "usage: watchers [--watchers N] [--changes N]";
const HOUR: i64 = 3_600_000_000_000;
const NOW: i64 = 1_700_000_000_000_000_000;
/// Groups of the map while it is measured.
const GROUPS: [i64; 3] = [100, 1_000, 10_000];
/// Streams of a connection; a node takes 32.
const STREAMS: usize = 25;

fn main() -> Outcome<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "--bench").collect();
    let (mut watchers, mut changes) = (1_000, 50);
    for pair in args.chunks(2) {
        match pair {
            ["--watchers", number] => watchers = number.parse()?,
            ["--changes", number] => changes = number.parse()?,
            _ => {
                eprintln!("{USAGE}");
                return Ok(ExitCode::from(2));
            }
        }
    }
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let summary = Runtime::new()?.block_on(run(&root, watchers, changes))?;
    print!("{}", summary.text());
    Ok(ExitCode::SUCCESS)
}

async fn run(root: &TempDir, watchers: usize, changes: i64) -> Outcome<Summary> {
    let Found { nodes, pki } = found(root.path(), 3).await?;
    let credentials = Credentials::load(&pki.join("app"), UnixTime::now())?;
    let seeds: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
    let client = Client::builder().seeds(&seeds).credentials(credentials.clone()).connect().await?;
    let policy = PolicySpec {
        name: "default".to_owned(),
        duration: 0,
        group_duration: HOUR as u64,
        replication: 3,
    };
    client.change(Change::CreateDatabase { name: "db".to_owned(), policy }).await?;
    let policy = client.map().policies().next().ok_or("no policy")?.id;
    let (env, transport) = (Env::system(), TransportConfig::default());
    let endpoint = env.client_endpoint(&transport)?;
    let dialer = Dialer::new(env, endpoint, credentials, transport)?;
    let (mut made, mut summary) = (0, Summary::default());
    for groups in GROUPS {
        while made < groups {
            let more = (groups - made).min(32);
            make(&client, policy, made, more).await?;
            made += more;
        }
        let mut streams = watch(&dialer, &client, &seeds, watchers).await?;
        for _ in 0..changes {
            let (begun, cpu) = (Instant::now(), cpu_ms());
            make(&client, policy, made, 1).await?;
            made += 1;
            let goal = client.map().index;
            let mut bytes = 0;
            for stream in &mut streams {
                let mut index = None;
                while index.is_none_or(|index| index < goal) {
                    let (changed, update) = stream.next().await?.ok_or("a stream has ended")?;
                    let MetaChanged { index: found, left } = changed;
                    bytes += update.len();
                    index = (left == 0).then_some(found);
                }
            }
            let line = Line::new(&format!("groups_{groups}"))
                .figure("all_ms", begun.elapsed().as_secs_f64() * 1e3)
                .figure("cpu_ms", cpu_ms() - cpu)
                .figure("bytes_each", bytes as f64 / streams.len() as f64);
            summary.add(&line);
        }
    }
    client.close().await;
    for node in nodes {
        node.shutdown().await;
    }
    Ok(summary)
}

/// Makes groups for so many hours before `NOW`.
async fn make(client: &Client, policy: PolicyId, first: i64, count: i64) -> Outcome<()> {
    let times = (first..first + count).map(|hour| NOW - hour * HOUR).collect();
    client.change(Change::CreateGroups { policy, times }).await?;
    Ok(())
}

/// Streams to all nodes in turn that have heard of everything so far.
async fn watch(
    dialer: &Dialer,
    client: &Client,
    seeds: &[String],
    count: usize,
) -> Outcome<Vec<ReplyStream<MetaWatch>>> {
    let after = client.map().index;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut streams = Vec::with_capacity(count);
    for seed in seeds.iter().cycle().take(count.div_ceil(STREAMS)) {
        let connection = Arc::new(dialer.dial(seed, NodeId(0)).await?);
        for _ in 0..STREAMS.min(count - streams.len()) {
            let request = MetaWatch { after };
            streams.push(connection.open_stream(&request, Bytes::new(), deadline).await?);
        }
    }
    Ok(streams)
}

/// Processor time of this process so far, in ms.
fn cpu_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
