//! Allocations of a write, from a filled batch to the acknowledgement of one node.
//!
//! `cargo bench -p quorate-benches --bench allocations [-- [--quick] [FILE]]`
//!
//! Client and node are in this process, over loopback, with real files; folds of what is written count too,
//! as far as they go on meanwhile. With FILE, where each block was allocated is written there, for DHAT's viewer.

mod database;
mod loopback;

use std::{env, path::PathBuf};

use dhat::{HeapStats, Profiler};
use quorate_benches::{
    fleet::{Rows, Shape, Source},
    scale::Scale,
};
use quorate_client::{Client, WriteOptions};
use quorate_protocol::consistency::Level;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Hosts, rows of a batch, batches.
const PARTS: [(usize, usize, u64); 4] =
    [(1_000, 5_000, 200), (100_000, 5_000, 20), (1_000, 100, 500), (1_000, 1, 1_000)];

fn counted() -> (u64, u64) {
    let stats = HeapStats::get();
    (stats.total_blocks, stats.total_bytes)
}

/// What every write allocates, after some that make room.
async fn measure(client: &Client, hosts: usize, rows: usize, batches: u64) {
    let shape = Shape { hosts, ..Shape::default() };
    let mut source = Source::new(&shape, 0, shape.hosts).expect("the fleet is valid");
    let mut reports = Rows::new(shape);
    let (mut blocks, mut bytes) = (0, 0);
    for number in 0..batches + batches / 10 {
        source.fill(reports.by_ref().take(rows)).expect("the fleet is valid");
        let before = counted();
        let options = WriteOptions::at(Level::One);
        client.write(database::NAME, &source.batch, &options).await.expect("it is written");
        let after = counted();
        if number >= batches / 10 {
            blocks += after.0 - before.0;
            bytes += after.1 - before.1;
        }
    }
    println!(
        "{hosts:>7} hosts, {rows:>5} rows a batch: {:>8.1} blocks and {:>10.0} bytes a write, {:>8.4} blocks a row",
        blocks as f64 / batches as f64,
        bytes as f64 / batches as f64,
        blocks as f64 / (batches * rows as u64) as f64,
    );
}

#[tokio::main]
async fn main() {
    // Cargo adds an option of its own.
    let scale = if env::args().any(|arg| arg == "--quick") { Scale::Quick } else { Scale::Full };
    let file = env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let builder = Profiler::builder();
    let _profiler = match file {
        Some(file) => builder.file_name(file).build(),
        None => builder.testing().build(),
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let found = loopback::found(dir.path(), 1).await.expect("a node starts");
    let client = database::client(&found, 1).await;
    for (hosts, rows, batches) in PARTS {
        measure(&client, hosts, rows, scale.of(batches, 10)).await;
    }
    client.close().await;
    for node in found.nodes {
        node.shutdown().await;
    }
}
