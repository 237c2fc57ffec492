//! How fast points become bytes and bytes become points.
//!
//! The load is a fleet: one measurement, 10 tags, 10 whole-numbered float fields, 5,000-row
//! batches, 1,000 or 100,000 hosts. Throughput is in rows (elements) or text bytes. Run it with
//! `cargo bench -p quorate-benches --bench protocol`; it takes about a minute.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_protocol::{
    batch::{
        Batch, ColumnRef, EncodedBatch, PartHeader, RowRef, Selection, SeriesRef, encode_part,
    },
    id::{FieldId, Version},
    line::{Options, parse_into},
    point::PointError,
    rows::Rows,
    schema::FieldType,
};

const ROWS: usize = 5_000;
const FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];
const START: i64 = 1_451_606_400_000_000_000;
const STEP: i64 = 10_000_000_000;

/// A number that looks random and is the same in every run.
fn noise(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn tags(host: usize) -> [(&'static str, String); 10] {
    let pick = |what: u64, of: u64| noise(host as u64 * 16 + what) % of;
    let region = format!("region-{}", pick(0, 9));
    [
        ("hostname", format!("host_{host}")),
        ("datacenter", format!("{region}-{}", pick(1, 3))),
        ("region", region),
        ("rack", pick(2, 100).to_string()),
        ("os", ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][pick(3, 3) as usize].to_owned()),
        ("arch", ["x64", "x86"][pick(4, 2) as usize].to_owned()),
        ("team", ["SF", "NYC", "LON", "CHI"][pick(5, 4) as usize].to_owned()),
        ("service", pick(6, 20).to_string()),
        ("service_version", pick(7, 2).to_string()),
        ("service_environment", ["production", "staging", "test"][pick(8, 3) as usize].to_owned()),
    ]
}

fn value(host: usize, step: i64, field: usize) -> f64 {
    (noise((host * 10 + field) as u64).wrapping_add(noise(step as u64) % 3) % 101) as f64
}

/// Host and step of the rows of batch `number`, in the order in which they are sampled.
fn samples(hosts: usize, number: usize) -> impl Iterator<Item = (usize, i64)> {
    (number * ROWS..(number + 1) * ROWS).map(move |i| (i % hosts, (i / hosts) as i64))
}

/// An application that keeps its references from batch to batch.
struct Source {
    batch: Batch,
    series: Vec<SeriesRef>,
    columns: Vec<ColumnRef>,
}

impl Source {
    fn new(hosts: impl Iterator<Item = usize>) -> Result<Self, PointError> {
        let mut batch = Batch::new();
        let cpu = batch.measurement("cpu")?;
        let series = hosts.map(|host| cpu.series(&tags(host))).collect::<Result<_, _>>()?;
        let columns = FIELDS
            .iter()
            .map(|name| cpu.column(name.as_bytes(), FieldType::Float))
            .collect::<Result<_, _>>()?;
        Ok(Self { batch, series, columns })
    }

    fn fill(&mut self, samples: impl Iterator<Item = (usize, i64)>) -> Result<(), PointError> {
        self.batch.clear_rows();
        let cpu = self.batch.measurement("cpu")?;
        for (host, step) in samples {
            let row: RowRef =
                cpu.row(self.series[host % self.series.len()], START + step * STEP)?;
            for (field, column) in self.columns.iter().enumerate() {
                cpu.set_float(row, *column, value(host, step, field))?;
            }
        }
        Ok(())
    }
}

fn text(hosts: usize) -> Vec<u8> {
    let mut out = String::new();
    for (host, step) in samples(hosts, 0) {
        out.push_str("cpu");
        let mut tags = tags(host);
        tags.sort();
        tags.iter().for_each(|(key, value)| out.push_str(&format!(",{key}={value}")));
        for (field, name) in FIELDS.iter().enumerate() {
            let separator = if field == 0 { ' ' } else { ',' };
            out.push_str(&format!("{separator}{name}={}", value(host, step, field)));
        }
        out.push_str(&format!(" {}\n", START + step * STEP));
    }
    out.into_bytes()
}

fn field_id(_: &[u8], name: &[u8], _: FieldType) -> Option<FieldId> {
    FIELDS.iter().position(|field| field.as_bytes() == name).map(|at| FieldId(at as u32 + 1))
}

fn protocol(criterion: &mut Criterion) {
    let header = PartHeader { version: Version(1), ..PartHeader::default() };
    let encode = |batch: &Batch| encode_part(batch, &header, Selection::All, &field_id);
    for (hosts, label) in [(1_000, "1k"), (100_000, "100k")] {
        let mut group = criterion.benchmark_group(format!("fleet_{label}"));
        group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));

        let lines = text(hosts);
        group.throughput(Throughput::Bytes(lines.len() as u64));
        group.bench_function("parse_bytes", |b| {
            b.iter(|| {
                let mut batch = Batch::new();
                let outcome = parse_into(&mut batch, black_box(&lines), Options::default());
                assert_eq!(outcome.points, ROWS);
                batch
            });
        });

        group.throughput(Throughput::Elements(ROWS as u64));
        let known = 0..hosts.min(ROWS);
        let Ok(mut source) = Source::new(known.clone()) else { panic!("the fleet is valid") };
        assert_eq!(source.fill(samples(hosts, 0)), Ok(()));
        group.bench_function("fill_new_series", |b| {
            b.iter(|| {
                Source::new(known.clone()).map(|mut s| s.fill(samples(hosts, 0)).map(|()| s))
            });
        });
        group.bench_function("fill_known_series", |b| b.iter(|| source.fill(samples(hosts, 0))));
        group.bench_function("encode", |b| b.iter(|| encode(black_box(&source.batch))));

        let Ok(part) = encode(&source.batch) else { panic!("the fleet can be encoded") };
        println!(
            "fleet_{label}: {:.1} bytes a row of text, {:.1} encoded",
            lines.len() as f64 / ROWS as f64,
            part.len() as f64 / ROWS as f64
        );
        group.bench_function("parse_header", |b| b.iter(|| EncodedBatch::parse(part.clone())));
        let Ok(parsed) = EncodedBatch::parse(part) else { panic!("the part is valid") };
        group.bench_function("decode", |b| b.iter(|| black_box(&parsed).decode()));
        let Ok(decoded) = parsed.decode() else { panic!("the part is valid") };
        group.bench_function("into_rows", |b| {
            b.iter(|| decoded.clone().into_rows().map(|(_, _, rows)| rows.len()).sum::<usize>());
        });
        group.finish();
    }
}

fn row_blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_series");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    let header = |version| PartHeader { version: Version(version), ..PartHeader::default() };
    let mut parts = Vec::new();
    let Ok(mut source) = Source::new(0..1) else { panic!("the fleet is valid") };
    for part in 0..1_000 {
        let filled = source.fill((0..5).map(|step| (0, part * 5 + step)));
        let encoded = filled.ok().and_then(|()| {
            encode_part(&source.batch, &header(part as u64 + 1), Selection::All, &field_id).ok()
        });
        let decoded = encoded.and_then(|part| EncodedBatch::parse(part).ok()?.decode().ok());
        parts
            .extend(decoded.into_iter().flat_map(|part| part.into_rows()).map(|(_, _, rows)| rows));
    }
    let merged = Rows::merge(parts.clone());
    assert_eq!(merged.len(), ROWS);
    let mut block = Vec::new();
    merged.encode(&mut block);
    println!("one_series: {:.3} bytes a value in a row block", block.len() as f64 / 5e4);
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("merge_1000_parts", |b| b.iter(|| Rows::merge(parts.clone())));
    let halves: Vec<Rows> = (0..2)
        .map(|odd| Rows::merge(parts.iter().skip(odd).step_by(2).cloned().collect()))
        .collect();
    group.bench_function("merge_interleaved", |b| b.iter(|| Rows::merge(halves.clone())));
    group.bench_function("merge_equal_replicas", |b| {
        b.iter(|| Rows::merge(vec![merged.clone(), merged.clone(), merged.clone()]));
    });
    group.bench_function("block_encode", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            merged.encode(&mut out);
            out
        });
    });
    group.bench_function("block_decode", |b| b.iter(|| Rows::decode(black_box(&block))));
    group.finish();
}

criterion_group!(benches, protocol, row_blocks);
criterion_main!(benches);
