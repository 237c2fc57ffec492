//! How fast points become bytes and bytes become points.
//!
//! The load is a fleet: one measurement, 10 tags, 10 whole-numbered float fields, 5,000-row
//! batches, 1,000 or 100,000 hosts. Throughput is in rows (elements) or text bytes. What is measured
//! is CPU time of the one thread that works, so that other work on the machine counts little. Run it
//! with `cargo bench -p quorate-benches --bench protocol`; it takes about four minutes.

use std::{hint::black_box, time::Duration};

use bytes::{Bytes, BytesMut};
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use quorate_benches::{
    fleet::{
        self, BATCH_ROWS, FIELDS, Lines, MEASUREMENT, Row, Rows as Reports, Shape, Source, Values,
        field_id,
    },
    probe::thread_cpu,
};
use quorate_protocol::{
    batch::{Batch, CellSlice, EncodedBatch, Layout, PartHeader, Selection, Series, encode_part},
    frame::{Frame, FrameCodec},
    id::{Epoch, MetaIndex, ShardId, Version},
    line::{Options, parse_into},
    message::Write,
    point::{Point, PointError},
    rows::Rows,
};
use tokio_util::codec::{Decoder, Encoder};

/// CPU time of the thread that measures.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        thread_cpu()
    }

    fn end(&self, start: Duration) -> Duration {
        thread_cpu().saturating_sub(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_secs_f64() * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn encode(batch: &Batch) -> Option<bytes::Bytes> {
    let header = PartHeader { version: Version(1), ..PartHeader::default() };
    encode_part(batch, &header, Selection::All, &field_id).ok()
}

/// The rows as points, each built of its names.
fn points(shape: &Shape, reports: &[Row]) -> impl Fn() -> Result<Batch, PointError> {
    let tags: Vec<_> = reports.iter().map(|row| fleet::tags(shape.seed, row.host)).collect();
    move || {
        let mut batch = Batch::new();
        for (row, tags) in reports.iter().zip(&tags) {
            let mut point = Point::builder(MEASUREMENT);
            for (key, value) in tags {
                point = point.tag(key, value);
            }
            for (field, value) in FIELDS.iter().zip(row.values) {
                point = point.field(field, value);
            }
            batch.push(&point.at(row.time)?);
        }
        Ok(batch)
    }
}

/// The rows as an application has them that made its handles before.
struct Handles<'a> {
    layout: Layout,
    series: Vec<Series>,
    rows: &'a [Row],
    times: Vec<i64>,
    columns: Vec<Vec<f64>>,
}

impl<'a> Handles<'a> {
    fn new(shape: &Shape, rows: &'a [Row]) -> Result<Self, PointError> {
        let layout = FIELDS.iter().fold(Layout::builder(MEASUREMENT), |layout, f| layout.float(f));
        let layout = layout.build()?;
        let series = rows.iter().map(|row| layout.series(&fleet::tags(shape.seed, row.host)));
        let series = series.collect::<Result<_, _>>()?;
        let times = rows.iter().map(|row| row.time).collect();
        let column = |at: usize| rows.iter().map(|row| row.values[at]).collect();
        Ok(Self { layout, series, rows, times, columns: (0..FIELDS.len()).map(column).collect() })
    }

    fn by_row(&self, batch: &mut Batch) {
        let mut fill = batch.fill(&self.layout);
        for (row, series) in self.rows.iter().zip(&self.series) {
            assert_eq!(fill.push(series, row.time, row.values), Ok(()));
        }
    }

    fn by_column(&self, batch: &mut Batch) {
        let columns: Vec<&dyn CellSlice> = self.columns.iter().map(|c| c as _).collect();
        let mut fill = batch.fill(&self.layout);
        assert_eq!(fill.push_columns(&self.series, &self.times, &columns), Ok(()));
    }
}

/// All ways to fill a batch, alone and with its encoding.
fn fill(group: &mut BenchmarkGroup<'_, CpuTime>, shape: &Shape, reports: &[Row]) {
    let points = points(shape, reports);
    let Ok(handles) = Handles::new(shape, reports) else { panic!("the fleet is valid") };
    group.bench_function("fill_points", |b| b.iter(&points));
    group.bench_function("fill_points_and_encode", |b| b.iter(|| points().map(|b| encode(&b))));
    group.bench_function("fill_handles_new_batch", |b| {
        b.iter(|| {
            let mut batch = Batch::new();
            handles.by_row(&mut batch);
            batch
        });
    });
    group.bench_function("fill_handles_new_batch_and_encode", |b| {
        b.iter(|| {
            let mut batch = Batch::new();
            handles.by_row(&mut batch);
            encode(&batch)
        });
    });
    let mut batch = Batch::new();
    group.bench_function("fill_handles_used_batch", |b| {
        b.iter(|| {
            batch.clear_rows();
            handles.by_row(&mut batch);
        });
    });
    group.bench_function("fill_columns_used_batch", |b| {
        b.iter(|| {
            batch.clear_rows();
            handles.by_column(&mut batch);
        });
    });
    group.bench_function("fill_columns_used_batch_and_encode", |b| {
        b.iter(|| {
            batch.clear_rows();
            handles.by_column(&mut batch);
            encode(&batch)
        });
    });
}

fn text(shape: Shape) -> Vec<u8> {
    let mut lines = Vec::new();
    Lines::new(shape).append(BATCH_ROWS, &mut lines);
    lines
}

fn parse(batch: &mut Batch, text: &[u8]) {
    let outcome = parse_into(batch, black_box(text), Options::default());
    assert_eq!(outcome.points, BATCH_ROWS);
}

/// Text of every kind of values, into a new batch and into a used one; and how many bytes a value takes.
fn parsing(criterion: &mut Criterion<CpuTime>) {
    for (hosts, label) in [(1_000, "1k"), (100_000, "100k")] {
        let mut group = criterion.benchmark_group(format!("parse_{label}"));
        group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
        for values in [Values::Integer, Values::TwoDecimals, Values::Full] {
            let lines = text(Shape { hosts, values, ..Shape::default() });
            let mut batch = Batch::new();
            parse(&mut batch, &lines);
            let part = encode(&batch).map_or(0, |part| part.len());
            println!(
                "{label} {}: {:.1} bytes a row of text, {:.2} bytes a value encoded",
                values.name(),
                lines.len() as f64 / BATCH_ROWS as f64,
                part as f64 / (BATCH_ROWS * FIELDS.len()) as f64,
            );
            group.throughput(Throughput::Bytes(lines.len() as u64));
            group.bench_function(format!("{}_new_batch", values.name()), |b| {
                b.iter(|| {
                    let mut batch = Batch::new();
                    parse(&mut batch, &lines);
                    batch
                });
            });
            group.bench_function(format!("{}_used_batch", values.name()), |b| {
                b.iter(|| {
                    batch.clear_rows();
                    parse(&mut batch, &lines);
                });
            });
        }
        group.finish();
    }
}

fn protocol(criterion: &mut Criterion<CpuTime>) {
    for (hosts, label) in [(1_000, "1k"), (100_000, "100k")] {
        let mut group = criterion.benchmark_group(format!("fleet_{label}"));
        group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
        let shape = Shape { hosts, ..Shape::default() };
        let reports: Vec<Row> = Reports::new(shape).take(BATCH_ROWS).collect();
        group.throughput(Throughput::Elements(BATCH_ROWS as u64));
        fill(&mut group, &shape, &reports);

        let known = hosts.min(BATCH_ROWS);
        let Ok(mut source) = Source::new(&shape, 0, known) else { panic!("the fleet is valid") };
        assert_eq!(source.fill(reports.iter().copied()), Ok(()));
        group.bench_function("encode", |b| b.iter(|| encode(black_box(&source.batch))));
        let Some(part) = encode(&source.batch) else { panic!("the fleet can be encoded") };
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

fn row_blocks(criterion: &mut Criterion<CpuTime>) {
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

/// Messages with a batch and without: to bytes in one buffer, and back.
fn framing(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("frame");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    let write = Write {
        shard: ShardId(1),
        epoch: Epoch(1),
        meta_index: MetaIndex(1_000),
        deadline_ms: 10_000,
        store: true,
        any: false,
        hint_for: Vec::new(),
    };
    for (label, bytes) in [("100_bytes", 100), ("60_kb", 60_000)] {
        let payload = Bytes::from(vec![7; bytes]);
        let frame = || Frame::new(1_000, &write, payload.clone()).expect("it can be encoded");
        let (mut codec, mut out) = (FrameCodec::default(), BytesMut::new());
        codec.encode(frame(), &mut out).expect("it is small");
        let encoded = out.clone();
        group.bench_function(format!("encode_{label}"), |b| {
            b.iter(|| {
                out.clear();
                codec.encode(frame(), &mut out)
            });
        });
        // As a lane does: the payload goes out from where it is.
        group.bench_function(format!("encode_head_{label}"), |b| b.iter(|| frame().head()));
        group.bench_function(format!("decode_{label}"), |b| {
            b.iter_batched(
                || encoded.clone(),
                |mut bytes| {
                    codec.decode(&mut bytes).map(|frame| frame.map(|f| f.message::<Write>()))
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = parsing, protocol, framing, row_blocks
);
criterion_main!(benches);
