//! Writes into three nodes, at each level, by series and by batch.
//!
//! `cargo bench -p quorate-benches --bench cluster [-- FILTER]`
//!
//! Nodes and client are in this process, over loopback, with real files and syncs; four batches are under way.
//! What `quorate bench write` measures with processes, faults and latencies, this watches for changes: it
//! is short, and criterion compares it with the run before.

mod database;
mod loopback;

use std::{path::Path, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::fleet::{Rows, Shape, Source};
use quorate_client::{Client, WriteOptions};
use quorate_protocol::consistency::Level;
use tokio::{runtime::Runtime, task::JoinSet, time::Instant};

use loopback::{Found, found};

const NODES: u64 = 3;
const IN_FLIGHT: u64 = 4;
const LEVELS: [Level; 4] = [Level::Any, Level::One, Level::Quorum, Level::All];

async fn start(root: &Path) -> (Found, Client) {
    let found = found(root, NODES).await.expect("nodes start");
    let client = database::client(&found, 3).await;
    (found, client)
}

/// Writes so many batches; how long that took, making them apart.
async fn write(client: &Client, shape: Shape, rows: usize, level: Level, count: u64) -> Duration {
    let mut source = Source::new(&shape, 0, shape.hosts).expect("the fleet is valid");
    let mut reports = Rows::new(shape);
    let (mut tasks, mut took) = (JoinSet::new(), Duration::ZERO);
    let mut left = count;
    while left > 0 {
        let some = left.min(IN_FLIGHT);
        left -= some;
        let batches: Vec<_> = (0..some)
            .map(|_| {
                source.fill(reports.by_ref().take(rows)).expect("the fleet is valid");
                source.batch.clone()
            })
            .collect();
        let began = Instant::now();
        for batch in batches {
            let (client, options) = (client.clone(), WriteOptions::at(level));
            tasks.spawn(async move { client.write(database::NAME, &batch, &options).await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no panic").expect("it is written");
        }
        took += began.elapsed();
    }
    took
}

fn cluster(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (found, client) = runtime.block_on(start(dir.path()));
    let mut group = criterion.benchmark_group("cluster");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(3));
    for level in LEVELS {
        group.throughput(Throughput::Elements(5_000));
        group.bench_function(format!("{level}_1k_hosts_5000_rows"), |b| {
            b.iter_custom(|count| {
                runtime.block_on(write(&client, Shape::default(), 5_000, level, count))
            });
        });
    }
    for (hosts, rows) in [(1_000, 100), (100_000, 5_000)] {
        let shape = Shape { hosts, ..Shape::default() };
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("quorum_{}k_hosts_{rows}_rows", hosts / 1_000), |b| {
            b.iter_custom(|count| {
                runtime.block_on(write(&client, shape, rows, Level::Quorum, count))
            });
        });
    }
    group.finish();
    runtime.block_on(async {
        client.close().await;
        for node in found.nodes {
            node.shutdown().await;
        }
    });
}

criterion_group!(benches, cluster);
criterion_main!(benches);
