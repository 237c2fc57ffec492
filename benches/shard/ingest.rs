//! How fast rows are journaled, accepted and folded, by the number of series in the shard.
//!
//! Two phases: `new`, in which every row is the first of its series, and `steady`, in which none is.
//! Each ends when all of its rows are in committed runs. Merges run beside it, as on a node.

use std::{path::Path, sync::Arc, time::Instant};

use quorate_benches::{
    fleet::{BATCH_ROWS, Shape},
    probe::{Peak, cpu, memory},
    report::{Line, Summary},
};
use quorate_node::shard::Config;

use super::{
    Plan,
    engine::Engine,
    spool::{self, SHARD, Spool},
};

pub(crate) fn parent(plan: &Plan, summary: &mut Summary) -> String {
    let series = [1_000, plan.scale(100_000, 5_000), plan.scale(1_000_000, 10_000)];
    for series in series {
        let steady = plan.scale(4_000_000, 50_000);
        let spool = plan.dir.join(format!("ingest-{series}.parts"));
        let shape = Shape { hosts: series, ..Shape::default() };
        spool::make(&spool, shape, (series + steady) / BATCH_ROWS);
        for _ in 0..plan.runs {
            let spool = spool.display().to_string();
            plan.child(summary, &["ingest".into(), spool, series.to_string(), steady.to_string()]);
        }
        std::fs::remove_file(spool).expect("the load was made here");
    }
    let rate =
        |series: usize| summary.median(&format!("ingest series={series} phase=steady"), "rows_s");
    let ratio = rate(series[2]).zip(rate(series[0])).map(|(most, few)| most / few);
    let name = format!("ingest rows/s, {} series over {}", series[2], series[0]);
    Summary::goal(&name, ratio, Some(0.4), None)
}

pub(crate) async fn run(spool: &Path, series: usize, steady: usize) {
    let dir = spool.with_extension("data");
    let spool = Arc::new(Spool::open(spool));
    let engine = Arc::new(Engine::open(&dir, Config::default(), true));
    let first = series / BATCH_ROWS;
    assert!(spool.len() >= first + steady / BATCH_ROWS);
    if first > 0 {
        phase(&engine, &spool, series, "new", 0, first).await;
    }
    phase(&engine, &spool, series, "steady", first, spool.len()).await;
    let (began, cpu_began) = (Instant::now(), cpu());
    engine.settle(SHARD).await;
    let rows = (spool.len() * BATCH_ROWS) as f64;
    let line = Line::new("ingest").case("series", series).case("phase", "settle");
    let line = line.figure("s", began.elapsed().as_secs_f64());
    let line = line.figure("cpu_ns_row", (cpu() - cpu_began).as_nanos() as f64 / rows);
    println!("{}", line.count("anon_mb", memory().anon >> 20));
    engine.close().await;
    std::fs::remove_dir_all(dir).expect("the data was written here");
}

async fn phase(
    engine: &Arc<Engine>,
    spool: &Arc<Spool>,
    series: usize,
    name: &str,
    from: usize,
    to: usize,
) {
    let (base, peak) = (memory().anon, Peak::watch());
    let (began, cpu_began) = (Instant::now(), cpu());
    let source = Arc::clone(spool);
    let parts = engine.write_all(move |at| (from + at < to).then(|| source.part(from + at))).await;
    let acked = began.elapsed().as_secs_f64();
    engine.flush(SHARD).await;
    let (took, used) = (began.elapsed().as_secs_f64(), cpu() - cpu_began);
    let rows = (parts * BATCH_ROWS) as f64;
    let line = Line::new("ingest").case("series", series).case("phase", name);
    let line = line.figure("rows_s", rows / took).figure("acked_rows_s", rows / acked);
    let line = line.figure("cpu_ns_row", used.as_nanos() as f64 / rows).figure("rows", rows);
    println!("{}", line.count("peak_anon_mb", peak.stop() >> 20).count("base_anon_mb", base >> 20));
}
