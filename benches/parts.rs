//! The fleet as encoded parts, for what takes them without a client.
//!
//! Invariant: a part holds the same points as the lines of the same rows. Used by the benchmarks of the
//! protocol, the shard store and the hint queues.

use bytes::Bytes;
use quorate_node::fleet::{FIELDS, MEASUREMENT, Row, Rows, Shape, tags};
use quorate_protocol::{
    batch::{Batch, ColumnRef, EncodeError, PartHeader, Selection, SeriesRef, encode_part},
    id::{BatchId, FieldId, ShardId, Version},
    point::PointError,
    schema::FieldType,
};

/// Rows of a batch.
pub const BATCH_ROWS: usize = 5_000;

/// The id of a field, for encoding parts.
#[must_use]
pub fn field_id(_: &[u8], name: &[u8], _: FieldType) -> Option<FieldId> {
    let at = FIELDS.iter().position(|field| field.as_bytes() == name)?;
    u32::try_from(at + 1).ok().map(FieldId)
}

/// A batch that knows the series of some hosts, as an application keeps it: the `first` one and those
/// after it, around the end.
pub struct Source {
    /// The rows of the last fill.
    pub batch: Batch,
    hosts: usize,
    first: usize,
    series: Vec<SeriesRef>,
    columns: Vec<ColumnRef>,
}

impl Source {
    /// Finds the series of `count` hosts.
    ///
    /// # Errors
    /// None: the fleet's names are valid.
    pub fn new(shape: &Shape, first: usize, count: usize) -> Result<Self, PointError> {
        let hosts = shape.hosts;
        let mut batch = Batch::new();
        let cpu = batch.measurement(MEASUREMENT)?;
        let series = (first..first + count).map(|at| cpu.series(&tags(shape.seed, at % hosts)));
        let series = series.collect::<Result<_, _>>()?;
        let columns = FIELDS.iter().map(|name| cpu.column(name.as_bytes(), FieldType::Float));
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { batch, hosts, first, series, columns })
    }

    /// Replaces the rows by these, of hosts that it knows.
    ///
    /// # Errors
    /// None: the fleet's times and values are valid.
    pub fn fill(&mut self, rows: impl IntoIterator<Item = Row>) -> Result<(), PointError> {
        self.batch.clear_rows();
        let cpu = self.batch.measurement(MEASUREMENT)?;
        for row in rows {
            let series = self.series[(row.host + self.hosts - self.first) % self.hosts];
            let at = cpu.row(series, row.time)?;
            for (column, value) in self.columns.iter().zip(row.values) {
                cpu.set_float(at, *column, value)?;
            }
        }
        Ok(())
    }
}

/// Why there is no part.
#[derive(Debug)]
pub enum PartError {
    /// The points are not valid: a fault of the generator.
    Point(PointError),
    /// There are too many points, or none.
    Encode(EncodeError),
}

/// The fleet as encoded parts for one shard. Each part has a version of its own, later than those
/// before it, as a client gives them.
pub struct Parts {
    rows: Rows,
    shard: ShardId,
    made: u64,
    version: u64,
    /// Kept from part to part where every part has all hosts.
    all: Option<Source>,
}

impl Parts {
    /// From the first report on.
    #[must_use]
    pub fn new(shape: Shape, shard: ShardId) -> Self {
        let version = u64::try_from(shape.start).unwrap_or(0);
        Self { rows: Rows::new(shape), shard, made: 0, version, all: None }
    }

    /// As if everything were written this many parts later: with higher versions.
    #[must_use]
    pub const fn later(mut self, parts: u64) -> Self {
        self.made = parts;
        self
    }

    /// The next `rows` rows as a part.
    ///
    /// # Errors
    /// As [`encode_part`]: nothing, or too much.
    pub fn next(&mut self, rows: usize) -> Result<Bytes, PartError> {
        let shape = *self.rows.shape();
        let mut source = match self.all.take() {
            Some(source) => source,
            None if shape.hosts <= rows => {
                Source::new(&shape, 0, shape.hosts).map_err(PartError::Point)?
            }
            None => Source::new(&shape, self.rows.host(), rows).map_err(PartError::Point)?,
        };
        source.fill(self.rows.by_ref().take(rows)).map_err(PartError::Point)?;
        let (batch, version) = self.stamp();
        let header = PartHeader { batch, version, shard: self.shard, ..PartHeader::default() };
        let part = encode_part(&source.batch, &header, Selection::All, &field_id);
        if source.series.len() == shape.hosts {
            self.all = Some(source);
        }
        part.map_err(PartError::Encode)
    }

    fn stamp(&mut self) -> (BatchId, Version) {
        self.made += 1;
        (BatchId(u128::from(self.made)), Version(self.version + self.made * 1_000_003))
    }
}

/// Where an encoded part names its shard, and where the bytes begin that its checksum covers
/// (`SPEC.md`, the header of a part).
const SHARD_AT: usize = 52;
const CHECKED_FROM: usize = 8;

/// The same part for another shard: what a load is made of that goes on and on.
///
/// # Panics
/// If it is no part.
#[must_use]
pub fn readdressed(part: &[u8], shard: ShardId) -> Bytes {
    let mut part = part.to_vec();
    part[SHARD_AT..SHARD_AT + 8].copy_from_slice(&shard.0.to_le_bytes());
    let checksum = crc32fast::hash(&part[CHECKED_FROM..]);
    part[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    part.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_protocol::{
        batch::EncodedBatch,
        line::{Options, parse_into},
    };

    use super::*;
    use crate::fleet::{FIELDS, Lines, START, Values};

    const SHAPES: [Shape; 4] = [
        Shape { hosts: 7, values: Values::Integer, seed: 3, start: START },
        Shape { hosts: 7, values: Values::TwoDecimals, seed: 3, start: START },
        Shape { hosts: 7, values: Values::Full, seed: 3, start: START },
        // More hosts than a part has rows.
        Shape { hosts: 120, values: Values::Full, seed: 4, start: 0 },
    ];

    fn parts(shape: Shape, count: usize) -> Vec<Bytes> {
        let mut parts = Parts::new(shape, ShardId(1));
        (0..count).map(|_| parts.next(50).unwrap()).collect()
    }

    fn text(shape: Shape, rows: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Lines::new(shape).append(rows, &mut out);
        out
    }

    /// Every value, by series key, time and field, as bits.
    type Points = BTreeMap<(Bytes, i64, FieldId), u64>;

    fn points(parts: &[Bytes]) -> Points {
        let mut points = Points::new();
        for part in parts {
            let decoded = EncodedBatch::parse(part.clone()).unwrap().decode().unwrap();
            for (key, _, rows) in decoded.into_rows() {
                for column in &rows.columns {
                    for (row, time) in rows.times.iter().enumerate() {
                        let Some(quorate_protocol::point::ValueRef::Float(value)) = column.get(row)
                        else {
                            panic!("every field is a float");
                        };
                        let at = (key.clone(), *time, column.field);
                        assert_eq!(points.insert(at, value.to_bits()), None);
                    }
                }
            }
        }
        points
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        for shape in SHAPES {
            assert_eq!(parts(shape, 5), parts(shape, 5));
            assert_eq!(text(shape, 250), text(shape, 250));
            let other = Shape { seed: shape.seed + 1, ..shape };
            assert_ne!(parts(shape, 5), parts(other, 5));
            assert_ne!(text(shape, 250), text(other, 250));
        }
    }

    #[test]
    fn text_and_parts_say_the_same_points() {
        for shape in SHAPES {
            let mut batch = Batch::new();
            let outcome = parse_into(&mut batch, &text(shape, 250), Options::default());
            assert_eq!((outcome.points, outcome.errors.len()), (250, 0));
            let header = PartHeader::default();
            let encoded = encode_part(&batch, &header, Selection::All, &field_id).unwrap();
            let spoken = points(&[encoded]);
            assert_eq!(spoken, points(&parts(shape, 5)));
            assert_eq!(spoken.len(), 250 * FIELDS.len());
        }
    }

    #[test]
    fn a_part_can_be_sent_to_another_shard_and_written_again() {
        let part = parts(SHAPES[0], 1).remove(0);
        let moved = EncodedBatch::parse(readdressed(&part, ShardId(77))).unwrap();
        assert_eq!(moved.header().part.shard, ShardId(77));
        assert_eq!(points(&[moved.bytes().clone()]), points(std::slice::from_ref(&part)));
        let again = Parts::new(SHAPES[0], ShardId(1)).later(1_000).next(50).unwrap();
        let version =
            |part: &Bytes| EncodedBatch::parse(part.clone()).unwrap().header().part.version;
        assert!(version(&again) > version(&part));
        assert_eq!(points(&[again]), points(&[part]));
    }
}
