//! How fast points become bytes and bytes become points.
//!
//! The load is a fleet: one measurement, 10 tags, 10 whole-numbered float fields, 5,000-row
//! batches, 1,000 or 100,000 hosts. Throughput is in rows (elements) or text bytes. Run it with
//! `cargo bench -p quorate-benches --bench protocol`; it takes about a minute.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::fleet::{BATCH_ROWS, Lines, Row, Rows as Reports, Shape, Source, field_id};
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    id::Version,
    line::{Options, parse_into},
    rows::Rows,
};

fn protocol(criterion: &mut Criterion) {
    let header = PartHeader { version: Version(1), ..PartHeader::default() };
    let encode = |batch: &Batch| encode_part(batch, &header, Selection::All, &field_id);
    for (hosts, label) in [(1_000, "1k"), (100_000, "100k")] {
        let mut group = criterion.benchmark_group(format!("fleet_{label}"));
        group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));

        let shape = Shape { hosts, ..Shape::default() };
        let reports: Vec<Row> = Reports::new(shape).take(BATCH_ROWS).collect();
        let mut lines = Vec::new();
        Lines::new(shape).append(BATCH_ROWS, &mut lines);
        group.throughput(Throughput::Bytes(lines.len() as u64));
        group.bench_function("parse_bytes", |b| {
            b.iter(|| {
                let mut batch = Batch::new();
                let outcome = parse_into(&mut batch, black_box(&lines), Options::default());
                assert_eq!(outcome.points, BATCH_ROWS);
                batch
            });
        });

        group.throughput(Throughput::Elements(BATCH_ROWS as u64));
        let known = hosts.min(BATCH_ROWS);
        let Ok(mut source) = Source::new(&shape, 0, known) else { panic!("the fleet is valid") };
        assert_eq!(source.fill(reports.iter().copied()), Ok(()));
        group.bench_function("fill_new_series", |b| {
            b.iter(|| {
                let source = Source::new(&shape, 0, known);
                source.map(|mut source| source.fill(reports.iter().copied()).map(|()| source))
            });
        });
        group.bench_function("fill_known_series", |b| {
            b.iter(|| source.fill(reports.iter().copied()));
        });
        group.bench_function("encode", |b| b.iter(|| encode(black_box(&source.batch))));

        let Ok(part) = encode(&source.batch) else { panic!("the fleet can be encoded") };
        println!(
            "fleet_{label}: {:.1} bytes a row of text, {:.1} encoded",
            lines.len() as f64 / BATCH_ROWS as f64,
            part.len() as f64 / BATCH_ROWS as f64
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
    let shape = Shape { hosts: 1, ..Shape::default() };
    let Ok(mut source) = Source::new(&shape, 0, 1) else { panic!("the fleet is valid") };
    let mut reports = Reports::new(shape);
    for part in 0..1_000 {
        let filled = source.fill(reports.by_ref().take(5));
        let encoded = filled.ok().and_then(|()| {
            encode_part(&source.batch, &header(part + 1), Selection::All, &field_id).ok()
        });
        let decoded = encoded.and_then(|part| EncodedBatch::parse(part).ok()?.decode().ok());
        parts
            .extend(decoded.into_iter().flat_map(|part| part.into_rows()).map(|(_, _, rows)| rows));
    }
    let merged = Rows::merge(parts.clone());
    assert_eq!(merged.len(), BATCH_ROWS);
    let mut block = Vec::new();
    merged.encode(&mut block);
    println!("one_series: {:.3} bytes a value in a row block", block.len() as f64 / 5e4);
    group.throughput(Throughput::Elements(BATCH_ROWS as u64));
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
