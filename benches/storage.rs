//! What a node does with its disk: a shard behind its journal, and the hint queues.
//!
//! `cargo bench -p quorate-benches --bench storage [-- FILTER]`
//!
//! Groups `shard` (append, compact, scan, aggregate) and `handoff` (append, drain, open), on a real disk. Short, for
//! watching changes: criterion compares with the run before. Goals are measured by `shard.rs` and `handoff.rs`,
//! with more data, in processes of their own.

#[path = "handoff/back.rs"]
mod back;
#[path = "shard/engine.rs"]
mod engine;
#[path = "handoff/world.rs"]
#[expect(dead_code, reason = "the hint queues' own benchmark uses all of it")]
mod world;

use std::{
    error::Error,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use quorate_benches::fleet::{BATCH_ROWS, FIELDS, Parts, Shape};
use quorate_node::{
    handoff::{Handoff, HandoffConfig},
    shard::{AggregateFilter, Config, ScanFilter, ShardStore},
};
use quorate_protocol::{
    aggregate::Windows,
    id::{NodeId, ShardId},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::Mutex, task::JoinSet};

use engine::Engine;
use world::{Hosts, World};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SHARD: ShardId = ShardId(1);
/// Parts of the shard that is read.
const PARTS: usize = 200;
/// Folds that are merged, and parts of each.
const FOLDS: usize = 8;
const FOLDED: usize = 10;
const WRITERS: usize = 64;
/// Hints of a row that are drained at a time.
const HINTS: u64 = 5_000;
/// Hints of a mebibyte in queues that are opened.
const LARGE: u64 = 256;
/// Shorter than a block, so that blocks are taken apart.
const WINDOW: u64 = 600_000_000_000;

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn parts(count: usize) -> Arc<Vec<Bytes>> {
    let mut fleet = Parts::new(Shape::default(), SHARD);
    Arc::new((0..count).map(|_| fleet.next(BATCH_ROWS).expect("the fleet is valid")).collect())
}

/// The sum of what each of `count` runs says it took.
async fn sum<F: Future<Output = Duration>>(count: u64, mut run: impl FnMut() -> F) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..count {
        took += run().await;
    }
    took
}

/// Few runs, each as long as the last one: they make their data anew.
fn settings(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(3));
}

/// Journals and accepts one part after the other, folds and merges beside it.
async fn append(parts: &[Bytes], count: u64) -> Duration {
    let dir = scratch();
    let engine = Engine::open(dir.path(), Config::default(), true);
    let began = Instant::now();
    for (part, _) in parts.iter().cycle().zip(0..count) {
        engine.write(part.clone()).await;
    }
    let took = began.elapsed();
    engine.close().await;
    took
}

/// Folds and merges what was accepted.
async fn compact(parts: Arc<Vec<Bytes>>) -> Duration {
    let dir = scratch();
    let engine = Arc::new(Engine::open(dir.path(), Config::default(), false));
    let mut took = Duration::ZERO;
    for fold in 0..FOLDS {
        let parts = Arc::clone(&parts);
        engine.write_all(move |at| (at < FOLDED).then(|| parts[fold * FOLDED + at].clone())).await;
        let began = Instant::now();
        engine.flush(SHARD).await;
        took += began.elapsed();
    }
    let began = Instant::now();
    engine.settle(SHARD).await;
    took += began.elapsed();
    engine.close().await;
    took
}

/// A shard that was made dense.
async fn at_rest(dir: &Path, parts: Arc<Vec<Bytes>>) -> Arc<Engine> {
    let engine = Arc::new(Engine::open(dir, Config::default(), false));
    engine.write_all(move |at| parts.get(at).cloned()).await;
    engine.flush(SHARD).await;
    engine.densify(SHARD).await;
    engine
}

fn scan(store: &ShardStore) -> usize {
    let items = store.scan(SHARD, ScanFilter::default()).expect("the shard is there");
    items.map(|item| item.expect("nothing is damaged").rows.len()).sum()
}

fn aggregate(store: &ShardStore) -> usize {
    let filter = AggregateFilter { windows: Windows::new(WINDOW), ..AggregateFilter::default() };
    let items = store.aggregate(SHARD, filter).expect("the shard is there");
    items.map(|item| item.expect("nothing is damaged").windows.len()).sum()
}

fn shard(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let parts = parts(PARTS);
    let mut group = criterion.benchmark_group("shard");
    settings(&mut group);
    group.throughput(Throughput::Elements(BATCH_ROWS as u64));
    group.bench_function("append_5000_rows", |b| {
        b.iter_custom(|count| runtime.block_on(append(&parts, count)));
    });
    group.throughput(Throughput::Elements((FOLDS * FOLDED * BATCH_ROWS) as u64));
    group.bench_function("compact_400k_rows", |b| {
        b.iter_custom(|count| runtime.block_on(sum(count, || compact(Arc::clone(&parts)))));
    });
    let dir = scratch();
    let engine = runtime.block_on(at_rest(dir.path(), Arc::clone(&parts)));
    assert_eq!(scan(&engine.shards), PARTS * BATCH_ROWS);
    group.throughput(Throughput::Elements((PARTS * BATCH_ROWS * FIELDS.len()) as u64));
    group.bench_function("scan_10m_values", |b| b.iter(|| scan(&engine.shards)));
    group.bench_function("aggregate_10m_values", |b| b.iter(|| aggregate(&engine.shards)));
    group.finish();
    runtime.block_on(engine.close());
}

/// Each of the writers appends so many hints, one after the other.
async fn keep(handoff: &Arc<Handoff>, payload: &Bytes, writers: u64, each: u64) -> Duration {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (handoff, payload) = (Arc::clone(handoff), payload.clone());
        tasks.spawn(async move {
            for _ in 0..each {
                let kept = handoff.append(NodeId(2), ShardId(writer), payload.clone(), false, 1);
                kept.await.expect("there is room");
            }
        });
    }
    tasks.join_all().await;
    began.elapsed()
}

fn open(path: &Path) -> Handoff {
    back::open(path.to_owned(), HandoffConfig::default()).expect("they can be opened")
}

fn handoff(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let mut group = criterion.benchmark_group("handoff");
    settings(&mut group);

    let dir = scratch();
    let queues = Arc::new(open(&dir.path().join("handoff")));
    let payload = Bytes::from(vec![7; 5_000]);
    group.throughput(Throughput::Elements(WRITERS as u64));
    group.bench_function("append_64_writers_5_kb", |b| {
        b.iter_custom(|count| runtime.block_on(keep(&queues, &payload, WRITERS as u64, count)));
    });
    runtime.block_on(queues.close());
    drop((queues, dir));

    // Kept to the end: its threads cannot be waited for by what runs in a runtime.
    let hosts = Hosts::new().expect("threads");
    let world = World::start(scratch(), hosts.clone(), 1);
    let world = Mutex::new(runtime.block_on(world).expect("nodes start"));
    let made = AtomicU64::new(1);
    let drain = || async {
        let mut world = world.lock().await;
        let from = made.fetch_add(HINTS, Ordering::Relaxed);
        let hints = (from..from + HINTS).map(|number| world.part(number, 1)).collect();
        let hints: Outcome<Vec<_>> = hints;
        let rate = back::drain(&mut world, hints.expect("the fleet is valid")).await;
        Duration::from_secs_f64(1.0 / rate.expect("they are delivered"))
    };
    group.throughput(Throughput::Elements(HINTS));
    group.bench_function("drain_5000_hints_of_a_row", |b| {
        b.iter_custom(|count| runtime.block_on(sum(count, drain)));
    });
    runtime.block_on(world.into_inner().finish());

    let dir = scratch();
    let path = dir.path().join("handoff");
    let queues = Arc::new(open(&path));
    let payload = Bytes::from(vec![7; 1 << 20]);
    runtime.block_on(async {
        keep(&queues, &payload, 16, LARGE / 16).await;
        queues.close().await;
    });
    drop(queues);
    group.throughput(Throughput::Elements(LARGE));
    group.bench_function("open_256_mib", |b| {
        b.iter_custom(|count| {
            runtime.block_on(sum(count, || async {
                let began = Instant::now();
                let queues = open(&path);
                let took = began.elapsed();
                assert_eq!(queues.totals().pending, LARGE);
                queues.close().await;
                took
            }))
        });
    });
    group.finish();
}

criterion_group!(benches, shard, handoff);
criterion_main!(benches);
