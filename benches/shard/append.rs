//! The journal beside a bare loop of write and `fdatasync` on the same disk in the same run, and the
//! CPU time of the way to an acknowledgement.
//!
//! The bare loop writes groups into preallocated files as large as the journal's segments; making
//! the files is not on its clock. It is measured before and after each run of the journal: disks
//! change by the minute.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_benches::{
    fleet::{BATCH_ROWS, FIELDS, Parts, Shape},
    probe::cpu,
    report::{Line, Summary, percentile},
};
use quorate_node::{
    journal::{Committed, Journal, Sink},
    shard::Config,
};
use quorate_protocol::id::Sequence;
use tokio::time::sleep;

use super::{
    Plan,
    engine::{Engine, open_journal},
    spool::SHARD,
};

const WRITERS: usize = 64;
const BATCH: usize = 64 << 10;
const FILE: u64 = 64 << 20;

pub(crate) fn parent(plan: &Plan, summary: &mut Summary) -> String {
    let dir = plan.dir.join("append").display().to_string();
    for _ in 0..plan.runs {
        let millis = plan.scale(3_000, 100).to_string();
        plan.child(summary, &["append".into(), dir.clone(), millis]);
        let batches = plan.scale(4_000, 64).to_string();
        plan.child(summary, &["ack".into(), dir.clone(), batches]);
    }
    let many = summary.median("append writers=64", "ratio");
    let one = summary.median("append writers=1", "ratio");
    let ack = summary.median("ack writers=64", "cpu_ns_value");
    [
        Summary::goal("append bytes/s over bare, 64 writers", many, Some(0.75), None),
        Summary::goal("append p50 over bare, 1 writer", one, None, Some(1.3)),
        Summary::goal("ack CPU ns/value", ack, None, Some(10.0)),
    ]
    .concat()
}

struct Nobody;

impl Sink for Nobody {
    fn committed(&self, _: &[Committed]) {}
}

/// Bytes/s and median latency in µs of a loop of writes and syncs of `size` bytes.
fn bare(dir: &Path, size: usize, time: Duration) -> (f64, f64) {
    let (path, bytes) = (dir.join("bare"), vec![0x5a; size]);
    let (mut took, mut written, mut latencies) = (Duration::ZERO, 0_u64, Vec::new());
    while took < time {
        let _ = fs::remove_file(&path);
        let file = File::create_new(&path).expect("a file can be made");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE)
            .expect("there is room");
        file.sync_all().expect("it can be synced");
        for offset in (0..FILE).step_by(size) {
            let begun = Instant::now();
            file.write_all_at(&bytes, offset).expect("there is room");
            file.sync_data().expect("it can be synced");
            let latency = begun.elapsed();
            latencies.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
            took += latency;
            written += size as u64;
            if took >= time {
                break;
            }
        }
    }
    let _ = fs::remove_file(path);
    (written as f64 / took.as_secs_f64(), percentile(&mut latencies, 50) as f64 / 1e3)
}

/// `writers` tasks that append one batch after the other: records, seconds, latencies in ns.
async fn appends(journal: &Arc<Journal>, writers: usize, time: Duration) -> (f64, Vec<u64>) {
    let batch = Bytes::from(vec![0x5a; BATCH]);
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (journal, batch) = (Arc::clone(journal), batch.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while began.elapsed() < time {
                    let begun = Instant::now();
                    journal.append(SHARD, batch.clone()).await.expect("there is room");
                    latencies.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("writers do not fail"));
    }
    (began.elapsed().as_secs_f64(), latencies)
}

pub(crate) async fn run(dir: &Path, millis: usize) {
    fs::create_dir_all(dir).expect("the folder can be made");
    let time = Duration::from_millis(millis as u64);
    let journal = Arc::new(open_journal(dir, Arc::new(Nobody), Sequence(0), &mut |_| {}));
    let released = Arc::clone(&journal);
    // As if every record were folded at once: segments are used again.
    let release = tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(20)).await;
            let _ = released.release(released.stats().last_sequence).await;
        }
    });
    // Until the journal has segments to use again.
    appends(&journal, WRITERS, time / 4).await;
    for writers in [WRITERS, 1] {
        let group = writers * BATCH;
        let before = bare(dir, group, time / 2);
        let began = journal.stats();
        let (took, mut latencies) = appends(&journal, writers, time).await;
        let ended = journal.stats();
        let after = bare(dir, group, time / 2);
        let rate = latencies.len() as f64 * BATCH as f64 / took;
        let p50 = percentile(&mut latencies, 50) as f64 / 1e3;
        let p99 = percentile(&mut latencies, 99) as f64 / 1e3;
        let (bare_rate, bare_p50) = ((before.0 + after.0) / 2.0, (before.1 + after.1) / 2.0);
        let ratio = if writers == 1 { p50 / bare_p50 } else { rate / bare_rate };
        let groups = (ended.syncs - began.syncs).max(1);
        let line = Line::new("append").case("writers", writers);
        let line = line
            .figure("ratio", ratio)
            .figure("journal_mb_s", rate / 1e6)
            .figure("bare_mb_s", bare_rate / 1e6)
            .figure("journal_p50_us", p50)
            .figure("bare_p50_us", bare_p50)
            .figure("journal_p99_us", p99)
            .figure("records_per_sync", (ended.records - began.records) as f64 / groups as f64);
        println!("{line}");
    }
    release.abort();
    journal.close().await;
    fs::remove_dir_all(dir).expect("the data was written here");
}

/// CPU time from a batch's last byte to its acknowledgement, folds apart.
pub(crate) async fn ack(dir: &Path, batches: usize) {
    let mut fleet = Parts::new(Shape::default(), SHARD);
    let parts: Vec<Bytes> =
        (0..16).map(|_| fleet.next(BATCH_ROWS).expect("the fleet is valid")).collect();
    let config = Config { fresh_bytes: 64 << 30, ..Config::default() };
    let engine = Arc::new(Engine::open(dir, config, false));
    let (began, cpu_began) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (engine, parts) = (Arc::clone(&engine), parts.clone());
            tokio::spawn(async move {
                for at in 0..batches / WRITERS {
                    engine.write(parts[(writer + at) % parts.len()].clone()).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("writers do not fail");
    }
    let (took, used) = (began.elapsed().as_secs_f64(), cpu() - cpu_began);
    let rows = (batches / WRITERS * WRITERS * BATCH_ROWS) as f64;
    let values = rows * FIELDS.len() as f64;
    let line = Line::new("ack").case("writers", WRITERS);
    let line = line.figure("cpu_ns_value", used.as_nanos() as f64 / values);
    println!("{}", line.figure("rows_s", rows / took).figure("rows", rows));
    engine.close().await;
    fs::remove_dir_all(dir).expect("the data was written here");
}
