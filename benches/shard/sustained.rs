//! Whether compaction keeps up: minutes of load at 80 % of the peak rate, as it comes and not as it is
//! taken (an open loop: a late answer does not delay the next batch, and its lateness counts).
//!
//! The load goes from shard to shard, as time goes from group to group: 1,000 series, 20,000 reports
//! each, then the next shard; shards that are eight behind are dropped, as by retention.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_benches::{
    fleet::{BATCH_ROWS, Shape, readdressed},
    probe::{cpu, disk_usage, memory},
    report::{Line, Summary, percentile},
};
use quorate_node::shard::Config;
use quorate_protocol::id::ShardId;
use tokio::time::{interval, sleep_until};

use super::{
    Plan,
    engine::Engine,
    spool::{self, Spool},
};

/// Shards that are kept.
const KEPT: u64 = 8;

pub(crate) fn parent(plan: &Plan, summary: &mut Summary) -> String {
    let spool = plan.dir.join("sustained.parts");
    spool::make(&spool, Shape::default(), plan.scale(4_000, 100));
    let millis = |seconds: f64| ((seconds * 1e3) as usize).to_string();
    let path = || spool.display().to_string();
    let peak = plan.scale(20_000, 500).to_string();
    let time = millis(plan.minutes * 60.0);
    // As long as its memory suffices: nothing is folded.
    let bare = millis((plan.minutes * 60.0).min(20.0));
    for _ in 0..plan.runs {
        plan.child(summary, &["peak".into(), path(), peak.clone()]);
        let peak = summary.median("sustained phase=peak", "rows_s");
        let rate = ((0.8 * peak.expect("it was printed")) as usize).to_string();
        plan.child(summary, &["bare".into(), path(), rate.clone(), bare.clone()]);
        plan.child(summary, &["full".into(), path(), rate, time.clone()]);
    }
    std::fs::remove_file(spool).expect("the load was made here");
    let with = |name| summary.median("sustained compaction=true", name);
    let without = summary.median("sustained compaction=false", "p99_ms");
    let ratio = with("p99_ms").zip(without).map(|(with, without)| with / without);
    let memory = with("anon_last_mb").zip(with("anon_early_mb")).map(|(last, early)| last / early);
    [
        Summary::goal("ack p99 with compaction over without", ratio, None, Some(3.0)),
        Summary::goal("share of the load that was acked", with("share"), Some(0.99), None),
        Summary::goal("memory, last tenth over second tenth", memory, None, Some(1.2)),
    ]
    .concat()
}

/// The load without an end: part `at`, in the shard it belongs to.
fn part(spool: &Spool, first: u64, at: usize) -> Bytes {
    let shard = ShardId(first + (at / spool.len()) as u64);
    readdressed(&spool.part(at % spool.len()), shard)
}

/// Rows/s of a closed loop, until all is folded (what the load is a share of), and until all is
/// merged too (what can be taken in for ever).
pub(crate) async fn peak(path: &Path, millis: usize) {
    let (spool, dir) = (Arc::new(Spool::open(path)), path.with_extension("data"));
    let time = Duration::from_millis(millis as u64);
    let engine = Arc::new(Engine::open(&dir, Config::default(), true));
    let began = Instant::now();
    let parts =
        engine.write_all(move |at| (began.elapsed() < time).then(|| part(&spool, 1, at))).await;
    let rate = || (parts * BATCH_ROWS) as f64 / began.elapsed().as_secs_f64();
    for shard in engine.shards.shards() {
        engine.flush(shard).await;
    }
    let folded = rate();
    for shard in engine.shards.shards() {
        engine.settle(shard).await;
    }
    let line = Line::new("sustained").case("phase", "peak");
    println!("{}", line.figure("rows_s", folded).figure("settled_rows_s", rate()));
    engine.close().await;
    std::fs::remove_dir_all(dir).expect("the data was written here");
}

/// What is seen once a second.
#[derive(Clone, Copy, Default)]
struct Look {
    acked: u64,
    fresh: u64,
    anon: u64,
    journal: u64,
}

/// So many rows/s for so long, with or without compaction.
pub(crate) async fn load(path: &Path, rate: usize, millis: usize, compaction: bool) {
    let (spool, dir) = (Arc::new(Spool::open(path)), path.with_extension("data"));
    let (rate, time) = (rate as f64, Duration::from_millis(millis as u64));
    let fresh_bytes = if compaction { Config::default().fresh_bytes } else { 64 << 30 };
    let config = Config { fresh_bytes, ..Config::default() };
    let engine = Arc::new(Engine::open(&dir, config, compaction));
    let acked = Arc::new(AtomicU64::new(0));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let looks = Arc::new(Mutex::new(Vec::new()));
    let looking =
        look(Arc::clone(&engine), Arc::clone(&acked), Arc::clone(&latencies), Arc::clone(&looks));
    let looking = tokio::spawn(looking);
    let (began, cpu_began) = (tokio::time::Instant::now(), cpu());
    let gap = Duration::from_secs_f64(BATCH_ROWS as f64 / rate);
    let (mut tasks, mut drops) = (Vec::new(), Vec::new());
    let mut sent = 0_u64;
    while began.elapsed() < time {
        let due = began + gap.mul_f64(sent as f64);
        sleep_until(due).await;
        let bytes = part(&spool, 1, usize::try_from(sent).unwrap_or(usize::MAX));
        let shard = 1 + sent / spool.len() as u64;
        if sent.is_multiple_of(spool.len() as u64) && shard > KEPT {
            // Beside the load, as a node does it.
            let shards = engine.shards.clone();
            let dropping = async move { shards.drop_shard(ShardId(shard - KEPT)).await };
            drops.push(tokio::spawn(dropping));
        }
        sent += 1;
        let (engine, acked, latencies) =
            (Arc::clone(&engine), Arc::clone(&acked), Arc::clone(&latencies));
        tasks.push(tokio::spawn(async move {
            engine.write(bytes).await;
            let late = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            acked.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut latencies) = latencies.lock() {
                latencies.push(late);
            }
        }));
        tasks.retain(|task| !task.is_finished());
    }
    let (took, in_time) = (began.elapsed().as_secs_f64(), acked.load(Ordering::Relaxed));
    for task in tasks {
        task.await.expect("writers do not fail");
    }
    for dropped in drops {
        dropped.await.expect("it does not fail").expect("the shard can be dropped");
    }
    looking.abort();
    let used = (cpu() - cpu_began).as_nanos() as f64;
    let settling = Instant::now();
    if compaction {
        for shard in engine.shards.shards() {
            engine.flush(shard).await;
            engine.settle(shard).await;
        }
    }
    let settled = settling.elapsed().as_secs_f64();
    let mut latencies = std::mem::take(&mut *latencies.lock().expect("nobody panicked"));
    let mut ms = |percent| percentile(&mut latencies, percent) as f64 / 1e3;
    let looks = std::mem::take(&mut *looks.lock().expect("nobody panicked"));
    let tenth = |at: usize, figure: fn(&Look) -> u64| {
        let some = &looks[looks.len() * at / 10..(looks.len() * (at + 1)).div_ceil(10)];
        some.iter().map(figure).sum::<u64>() as f64 / some.len().max(1) as f64 / 1e6
    };
    let most = |figure: fn(&Look) -> u64| looks.iter().map(figure).max().unwrap_or(0) as f64 / 1e6;
    let rows = sent as f64 * BATCH_ROWS as f64;
    let line = Line::new("sustained").case("compaction", compaction);
    let line = line
        .figure("rows_s", in_time as f64 * BATCH_ROWS as f64 / took)
        .figure("share", in_time as f64 / sent as f64)
        .figure("p50_ms", ms(50))
        .figure("p99_ms", ms(99))
        .figure("max_ms", ms(100))
        .figure("cpu_ns_row", used / rows)
        .figure("fresh_max_mb", most(|look| look.fresh))
        .figure("fresh_last_mb", tenth(9, |look| look.fresh))
        .figure("journal_max_mb", most(|look| look.journal))
        .figure("anon_early_mb", tenth(1, |look| look.anon))
        .figure("anon_last_mb", tenth(9, |look| look.anon))
        .figure("anon_max_mb", most(|look| look.anon))
        .figure("settle_s", settled)
        .figure("disk_mb", disk_usage(&dir) as f64 / 1e6);
    println!("{line}");
    engine.close().await;
    std::fs::remove_dir_all(dir).expect("the data was written here");
}

/// Looks once a second and shows every tenth look.
async fn look(
    engine: Arc<Engine>,
    acked: Arc<AtomicU64>,
    latencies: Arc<Mutex<Vec<u64>>>,
    looks: Arc<Mutex<Vec<Look>>>,
) {
    let mut timer = interval(Duration::from_secs(1));
    timer.tick().await;
    let mut seen = 0;
    for second in 1.. {
        timer.tick().await;
        let look = Look {
            acked: acked.load(Ordering::Relaxed),
            fresh: engine.shards.stats().fresh_bytes,
            anon: memory().anon,
            journal: engine.journal.stats().bytes,
        };
        if let Ok(mut looks) = looks.lock() {
            looks.push(look);
        }
        if second % 10 == 0 {
            let recent = latencies.lock().map(|all| all[seen..].to_vec());
            let mut recent = recent.unwrap_or_default();
            seen += recent.len();
            println!(
                "# {second} s: {} batches, fresh {} MB, anon {} MB, journal {} MB, p99 {} ms",
                look.acked,
                look.fresh / 1_000_000,
                look.anon / 1_000_000,
                look.journal / 1_000_000,
                percentile(&mut recent, 99) / 1_000,
            );
        }
    }
}
