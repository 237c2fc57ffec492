//! `quorate write --dry-run`: the canonical lines that would be written, in the order of the input.
//!
//! Invariant: contacts nobody and needs no certificates; standard output has lines only, the report
//! goes to standard error.

use quorate_client::Env;
use quorate_protocol::{
    batch::{FieldColumn, MeasurementBuilder},
    point::text,
};
use tokio::time::Instant;

use super::{
    Write,
    chunk::Chunk,
    input::Input,
    read::{self, parse},
    rejects::Rejects,
    tally::Tally,
    verdict,
};
use crate::cli::{fail::Fail, output::Output, tell};

pub(crate) async fn run(args: &Write, input: Input, env: &Env) -> Result<(), Fail> {
    let started = Instant::now();
    let options = args.options(env);
    let mut rejects = Rejects::open(args.rejects.as_deref())?;
    let mut tally = Tally::default();
    let mut out = Output::new();
    let mut canonical = Vec::new();
    let batches = read::start(input, args.batch as usize, options);
    let mut batches =
        batches.map_err(|error| Fail::failed(format!("cannot start a thread: {error}")))?;
    while let Some(parsed) = batches.recv().await {
        let parsed =
            parsed.map_err(|error| Fail::failed(format!("cannot read the input: {error}")))?;
        rejects.unreadable(&parsed)?;
        tally.rejected += parsed.errors.len();
        tally.points += parsed.points;
        tally.batches += usize::from(!parsed.batch.is_empty());
        canonical.clear();
        // Line by line, because a batch no longer knows the order across measurements.
        for line in parsed.chunks.into_iter().flat_map(Chunk::into_lines) {
            let line = parse(line, options);
            for measurement in line.batch.measurements() {
                write_lines(measurement, &mut canonical);
            }
        }
        out.bytes(&canonical)?;
    }
    out.flush()?;
    rejects.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    if args.connect.json {
        tell(&tally.describe(seconds).to_string());
    } else {
        tell(&format!("dry run: {}", tally.sentence(seconds)));
    }
    verdict(&tally, &rejects)
}

fn write_lines(measurement: &MeasurementBuilder, out: &mut Vec<u8>) {
    let mut columns: Vec<&FieldColumn> = measurement.columns().iter().collect();
    columns.sort_by(|a, b| a.name().cmp(b.name()));
    for (row, series, time) in measurement.rows() {
        let fields = columns
            .iter()
            .filter_map(|column| column.get(row).map(|value| (column.name().as_ref(), value)));
        text::write_line(out, measurement.series_key(series), fields, time);
        out.push(b'\n');
    }
}
