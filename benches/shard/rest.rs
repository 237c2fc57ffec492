//! A shard that has come to rest: what it takes on the disk, and how fast it is read.
//!
//! 1,000 hosts with 20,000 reports each, integer-valued and two-decimal: the rows that `at_rest.sh`
//! gives to other systems. Once written, the shard is settled and made dense, and measured while
//! the node would still run; then other processes scan it.

use std::{path::Path, sync::Arc, time::Instant};

use quorate_benches::{
    fleet::{BATCH_ROWS, FIELDS, Shape, Values},
    probe::{Peak, cpu, disk_usage, thread_cpu},
    report::{Line, Summary},
};
use quorate_node::{
    executor::Executor,
    shard::{AggregateFilter, Config, ScanFilter, ShardStore},
};
use quorate_protocol::aggregate::Windows;

use super::{
    Plan,
    engine::Engine,
    spool::{self, SHARD, Spool},
};

const HOSTS: usize = 1_000;

pub(crate) fn parent(plan: &Plan, summary: &mut Summary) -> String {
    let reports = plan.scale(20_000, 50);
    let mut goals = String::new();
    for (values, most) in [(Values::Integer, 0.5), (Values::TwoDecimals, 1.4)] {
        let name = values.name();
        let spool = plan.dir.join(format!("rest-{name}.parts"));
        let shape = Shape { hosts: HOSTS, values, ..Shape::default() };
        spool::make(&spool, shape, HOSTS * reports / BATCH_ROWS);
        let dir = plan.dir.join(format!("rest-{name}"));
        let path = dir.display().to_string();
        let args = [HOSTS.to_string(), reports.to_string()];
        let [hosts, reports] = args;
        for _ in 0..plan.runs {
            let (hosts, reports) = (hosts.clone(), reports.clone());
            plan.child(summary, &["rest".into(), path.clone(), name.into(), hosts, reports]);
            plan.child(summary, &["scan".into(), path.clone(), name.into()]);
            std::fs::remove_dir_all(&dir).expect("the data was written here");
        }
        std::fs::remove_file(spool).expect("the load was made here");
        let case = format!("rest values={name}");
        let bytes = summary.median(&case, "bytes_per_value");
        goals.push_str(&Summary::goal(&format!("{case} bytes/value"), bytes, None, Some(most)));
        let case = format!("scan values={name} what=all");
        let rate = summary.median(&case, "values_s_core");
        goals.push_str(&Summary::goal(&format!("{case} values/s/core"), rate, Some(20e6), None));
        let whole = summary.median(&format!("scan values={name} what=aggregate"), "values_s_core");
        let ratio = whole.zip(rate).map(|(whole, scanned)| whole / scanned);
        goals.push_str(&Summary::goal(
            &format!("aggregate values={name} over scan"),
            ratio,
            Some(10.0),
            None,
        ));
    }
    goals
}

/// Writes all rows, lets them come to rest, and measures the disk.
pub(crate) async fn write(dir: &Path, values: &str, hosts: usize, reports: usize) {
    let spool = Arc::new(Spool::open(&dir.with_extension("parts")));
    let rows = (hosts * reports) as u64;
    assert_eq!(spool.len() * BATCH_ROWS, hosts * reports);
    let engine = Arc::new(Engine::open(dir, Config::default(), true));
    let (began, cpu_began, peak) = (Instant::now(), cpu(), Peak::watch());
    let source = Arc::clone(&spool);
    engine.write_all(move |at| (at < source.len()).then(|| source.part(at))).await;
    engine.flush(SHARD).await;
    let wrote = (began.elapsed(), cpu() - cpu_began);
    // A rewriting that runs in the background is not waited for by the calls below: from here on
    // there is none.
    engine.close().await;
    let engine = Engine::open(dir, Config::default(), false);
    engine.settle(SHARD).await;
    let settled = (began.elapsed() - wrote.0, cpu() - cpu_began - wrote.1);
    let tiers = disk_usage(&dir.join("shards"));
    let dense = (Instant::now(), cpu());
    engine.densify(SHARD).await;
    let dense = (dense.0.elapsed(), cpu() - dense.1);
    // As a node does that has been idle for half a minute.
    engine.journal.trim(engine.shards.applied_through()).await.expect("it is open");
    let shards = disk_usage(&dir.join("shards"));
    let all = disk_usage(dir);
    engine.close().await;
    let closed = disk_usage(dir);
    let cells = rows as f64 * FIELDS.len() as f64;
    let line = Line::new("rest").case("values", values).count("rows", rows);
    let line = line
        .figure("bytes_per_value", shards as f64 / cells)
        .figure("bytes_per_value_before_dense", tiers as f64 / cells)
        .figure("bytes_per_value_with_journal", all as f64 / cells)
        .count("shard_bytes", shards)
        .count("dir_bytes", all)
        .count("dir_bytes_closed", closed)
        .figure("write_s", wrote.0.as_secs_f64())
        .figure("write_cpu_ns_value", wrote.1.as_nanos() as f64 / cells)
        .figure("settle_s", settled.0.as_secs_f64())
        .figure("settle_cpu_ns_value", settled.1.as_nanos() as f64 / cells)
        .figure("dense_s", dense.0.as_secs_f64())
        .figure("dense_cpu_ns_value", dense.1.as_nanos() as f64 / cells)
        .count("peak_anon_mb", peak.stop() >> 20);
    println!("{line}");
}

/// Reads everything, and one field of everything, and aggregates everything, on one thread.
pub(crate) async fn scan(dir: &Path, values: &str) {
    let store = ShardStore::open(Config::default(), &dir.join("shards"), Executor::Thread);
    let store = store.expect("the store can be opened");
    let all = ScanFilter::default();
    let one = ScanFilter { fields: vec![FIELDS[0].into()], ..ScanFilter::default() };
    // Once before, so that the file is in memory for all of them.
    read(&store, all.clone());
    // A window of a day takes blocks apart; one over all times takes them whole.
    let day = Windows::new(86_400_000_000_000);
    let works: [(&str, &dyn Fn() -> u64); 4] = [
        ("all", &|| read(&store, all.clone())),
        ("one_field", &|| read(&store, one.clone())),
        ("aggregate", &|| aggregate(&store, Windows::default())),
        ("aggregate_day", &|| aggregate(&store, day)),
    ];
    for (what, work) in works {
        let peak = Peak::watch();
        let (began, cpu_began) = (Instant::now(), thread_cpu());
        let cells = work();
        let (took, used) = (began.elapsed(), thread_cpu() - cpu_began);
        let line = Line::new("scan").case("values", values).case("what", what);
        let line = line
            .figure("values_s_core", cells as f64 / used.as_secs_f64())
            .figure("values_s", cells as f64 / took.as_secs_f64())
            .count("cells", cells)
            .count("peak_anon_mb", peak.stop() >> 20);
        println!("{line}");
    }
    store.close().await;
}

/// Scans on this thread and counts the values.
fn read(store: &ShardStore, filter: ScanFilter) -> u64 {
    let mut cells = 0;
    for item in store.scan(SHARD, filter).expect("the shard is there") {
        let rows = item.expect("nothing is damaged").rows;
        cells += rows.columns.iter().map(|column| column.present.count() as u64).sum::<u64>();
    }
    cells
}

/// Aggregates all fields of all series on this thread and counts the values that are in it.
fn aggregate(store: &ShardStore, windows: Windows) -> u64 {
    let filter = AggregateFilter { windows, ..AggregateFilter::default() };
    let mut cells = 0;
    for item in store.aggregate(SHARD, filter).expect("the shard is there") {
        let windows = item.expect("nothing is damaged").windows;
        cells += windows.iter().map(|(_, partial)| partial.count).sum::<u64>();
    }
    cells
}
