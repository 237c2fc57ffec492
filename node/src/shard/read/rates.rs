//! Rates of reads, measured.

use std::time::Instant;

use quorate_protocol::{
    aggregate::Windows,
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    id::{FieldId, Sequence, ShardId, Version},
    point::Point,
};

use crate::{
    executor::Executor,
    shard::{AggregateFilter, Config, DigestFilter, ScanFilter, ShardStore, TagFilter, TagTest},
};

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn measure<T>(what: &str, values: f64, work: impl FnOnce() -> T) -> T {
    let (wall, before) = (Instant::now(), cpu());
    let done = work();
    let (cpu, wall) = (cpu() - before, wall.elapsed().as_secs_f64());
    println!("RATE {what}: {:.1} M values/s/core ({cpu:.3} s cpu, {wall:.3} s)", values / cpu / 1e6);
    done
}

const SHARD: ShardId = ShardId(1);

#[test]
#[ignore = "measures"]
fn rates() {
    let series: usize = std::env::var("SERIES").map_or(100, |v| v.parse().unwrap());
    let rows: usize = std::env::var("ROWS").map_or(20_000, |v| v.parse().unwrap());
    let scale: f64 = std::env::var("SCALE").map_or(1.0, |v| v.parse().unwrap());
    let dir = tempfile::tempdir_in("/work/tmp").unwrap();
    let config = Config { fresh_bytes: 1 << 40, ..Config::default() };
    let store = ShardStore::open(config, dir.path(), Executor::Inline).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut seed = 1_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % 7) as f64 - 3.0
    };
    let mut values = vec![[50.0; 10]; series];
    let (mut at, mut sequence) = (0, 0);
    while at < rows {
        let step = (rows - at).min((50_000 / series).max(1));
        let mut batch = Batch::new();
        for (host, values) in values.iter_mut().enumerate() {
            for row in at..at + step {
                let mut point = Point::builder("cpu")
                    .tag("hostname", format!("host_{host}"))
                    .tag("region", format!("region_{}", host % 7))
                    .tag("os", "linux");
                for (field, value) in values.iter_mut().enumerate() {
                    *value += next();
                    point = point.field(format!("f{field}"), *value / scale);
                }
                batch.push(&point.at(row as i64 * 10_000_000_000).unwrap());
            }
        }
        let version = Version(sequence + 1);
        let header = PartHeader { shard: SHARD, version, ..PartHeader::default() };
        let id = |_: &[u8], field: &[u8], _| {
            std::str::from_utf8(&field[1..]).ok()?.parse().ok().map(|id: u32| FieldId(id + 1))
        };
        let bytes = encode_part(&batch, &header, Selection::All, &id).unwrap();
        sequence += 1;
        store.accept(SHARD, Sequence(sequence), EncodedBatch::parse(bytes).unwrap()).unwrap();
        at += step;
        if sequence % 8 == 0 {
            runtime.block_on(store.flush(SHARD)).unwrap();
            runtime.block_on(store.settle(SHARD)).unwrap();
        }
    }
    runtime.block_on(store.flush(SHARD)).unwrap();
    runtime.block_on(store.settle(SHARD)).unwrap();
    {
        let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
        let state = pin.state().unwrap();
        let bytes: u64 = state.runs.iter().map(|run| run.bytes).sum();
        let blocks: u64 = state.runs.iter().map(|run| run.blocks).sum();
        println!("RATE {} runs, {blocks} blocks, {bytes} bytes", state.runs.len());
    }
    let all = (series * rows * 10) as f64;
    for _ in 0..2 {
        measure("scan", all, || {
            let mut rows = 0;
            for item in store.scan(SHARD, ScanFilter::default()).unwrap() {
                rows += item.unwrap().rows.len();
            }
            assert_eq!(rows * 10, all as usize);
        });
    }
    let fields = vec!["f3".into()];
    let filter = ScanFilter { fields, ..ScanFilter::default() };
    measure("scan of one field", all / 10.0, || {
        store.scan(SHARD, filter).unwrap().map(|item| item.unwrap().rows.len()).sum::<usize>()
    });
    for every in [0, 3_600_000_000_000, 300_000_000_000] {
        let filter =
            AggregateFilter { scan: ScanFilter::default(), windows: Windows::new(every) };
        measure(&format!("aggregate every {every}"), all, || {
            let windows = store.aggregate(SHARD, filter).unwrap();
            windows.map(|item| item.unwrap().windows.len()).sum::<usize>()
        });
    }
    let filter = DigestFilter {
        from: i64::MIN,
        to: i64::MAX,
        buckets: Windows::new(3_600_000_000_000),
        up_to: Version(u64::MAX),
    };
    measure("digest", all, || store.digest(SHARD, filter).unwrap());
    let report = measure("verify", all, || store.verify(SHARD).unwrap());
    println!("RATE {report:?}");
    let tag = TagFilter { key: "hostname".into(), test: TagTest::In(vec!["host_17".into()]) };
    let filter = ScanFilter { measurement: Some("cpu".into()), tags: vec![tag], ..ScanFilter::default() };
    measure("scan of one host", all / series as f64, || {
        store.scan(SHARD, filter).unwrap().map(|item| item.unwrap().rows.len()).sum::<usize>()
    });
}
