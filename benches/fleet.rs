//! The load of all benchmarks: a fleet of hosts that report their CPUs.
//!
//! One measurement `cpu`, 10 tags, 10 float fields, a report every 10 s. Every value is a random walk:
//! steps of N(0,1) between 0 and 100, then rounded as [`Values`] says. Rows come ordered by time, then
//! host. Invariants: the seed decides every byte; a host's tags and walk depend on the seed and the
//! host alone; [`Parts`] and [`Lines`] of one [`Shape`] say the same points, so that this project and
//! systems that take text are given the same data. Used by the benchmarks and by the `fleet` program.

use std::io::Write;

use bytes::Bytes;
use quorate_protocol::{
    batch::{Batch, ColumnRef, EncodeError, PartHeader, Selection, SeriesRef, encode_part},
    id::{BatchId, FieldId, ShardId, Version},
    point::PointError,
    schema::FieldType,
};

/// The measurement.
pub const MEASUREMENT: &str = "cpu";
/// The fields of every row; their ids are their positions plus 1.
pub const FIELDS: [&str; 10] = [
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
/// The tags of every host.
pub const TAGS: [&str; 10] = [
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
];
/// Time of the first report unless said otherwise, ns: 2016-01-01 00:00 UTC.
pub const START: i64 = 1_451_606_400_000_000_000;
/// Between two reports of a host, ns.
pub const INTERVAL: i64 = 10_000_000_000;
/// Rows of a batch.
pub const BATCH_ROWS: usize = 5_000;

/// Regions and the letters of their datacenters.
const REGIONS: [(&str, &[&str]); 9] = [
    ("us-east-1", &["a", "b", "c", "e"]),
    ("us-west-1", &["a", "b"]),
    ("us-west-2", &["a", "b", "c"]),
    ("eu-west-1", &["a", "b", "c"]),
    ("eu-central-1", &["a", "b"]),
    ("ap-southeast-1", &["a", "b"]),
    ("ap-southeast-2", &["a", "b"]),
    ("ap-northeast-1", &["a", "c"]),
    ("sa-east-1", &["a", "b", "c"]),
];
const SYSTEMS: [&str; 3] = ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"];
const TEAMS: [&str; 4] = ["SF", "NYC", "LON", "CHI"];
const ENVIRONMENTS: [&str; 3] = ["production", "staging", "test"];

/// How the walks are rounded. All are floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Down to whole numbers.
    Integer,
    /// To two decimals.
    TwoDecimals,
    /// Not at all: the low bits are noise.
    Full,
}

impl Values {
    /// By its name: `integer`, `decimal` or `full`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "integer" => Some(Self::Integer),
            "decimal" => Some(Self::TwoDecimals),
            "full" => Some(Self::Full),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::TwoDecimals => "decimal",
            Self::Full => "full",
        }
    }

    fn round(self, value: f64) -> f64 {
        match self {
            Self::Integer => value.floor(),
            Self::TwoDecimals => (value * 100.0).round() / 100.0,
            Self::Full => value,
        }
    }
}

/// Which fleet it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Hosts, which is series.
    pub hosts: usize,
    /// The kind of values.
    pub values: Values,
    /// Decides everything.
    pub seed: u64,
    /// Time of the first report, ns since the Unix epoch.
    pub start: i64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { hosts: 1_000, values: Values::Integer, seed: 1, start: START }
    }
}

/// A generator of numbers: splitmix64.
#[derive(Clone, Copy, Debug)]
struct Numbers(u64);

impl Numbers {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len() as u64) as usize]
    }

    const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Two independent numbers from N(0,1), by the method of Box and Muller.
    fn normal(&mut self) -> (f64, f64) {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.unit()).sin_cos();
        (radius * cos, radius * sin)
    }
}

/// The tags of a host of the fleet with this seed.
#[must_use]
pub fn tags(seed: u64, host: usize) -> [(&'static str, String); 10] {
    let mut numbers = Numbers(seed ^ (host as u64).wrapping_mul(0xa076_1d64_78bd_642f));
    let (region, letters) = REGIONS[numbers.below(REGIONS.len() as u64) as usize];
    let values = [
        format!("host_{host}"),
        region.to_owned(),
        format!("{region}{}", numbers.pick(letters)),
        numbers.below(100).to_string(),
        numbers.pick(&SYSTEMS).to_owned(),
        numbers.pick(&["x64", "x86"]).to_owned(),
        numbers.pick(&TEAMS).to_owned(),
        numbers.below(20).to_string(),
        numbers.below(2).to_string(),
        numbers.pick(&ENVIRONMENTS).to_owned(),
    ];
    let mut values = values.into_iter();
    TAGS.map(|tag| (tag, values.next().unwrap_or_default()))
}

/// The id of a field, for encoding parts.
#[must_use]
pub fn field_id(_: &[u8], name: &[u8], _: FieldType) -> Option<FieldId> {
    let at = FIELDS.iter().position(|field| field.as_bytes() == name)?;
    u32::try_from(at + 1).ok().map(FieldId)
}

/// One report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The host's number.
    pub host: usize,
    /// ns since the Unix epoch.
    pub time: i64,
    /// In the order of [`FIELDS`].
    pub values: [f64; FIELDS.len()],
}

struct Walk {
    numbers: Numbers,
    values: [f64; FIELDS.len()],
}

impl Walk {
    fn new(seed: u64, host: usize) -> Self {
        let mut numbers = Numbers(seed ^ (host as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let values = [(); FIELDS.len()].map(|()| numbers.unit() * 100.0);
        Self { numbers, values }
    }

    fn step(&mut self) -> &[f64; FIELDS.len()] {
        for pair in self.values.chunks_mut(2) {
            let (first, second) = self.numbers.normal();
            for (value, step) in pair.iter_mut().zip([first, second]) {
                *value = (*value + step).clamp(0.0, 100.0);
            }
        }
        &self.values
    }
}

/// The reports of all hosts, in order of (time, host), without an end.
pub struct Rows {
    shape: Shape,
    walks: Vec<Walk>,
    step: i64,
    host: usize,
}

impl Rows {
    /// From the first report on.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let walks = (0..shape.hosts).map(|host| Walk::new(shape.seed, host)).collect();
        Self { shape, walks, step: 0, host: 0 }
    }

    fn next(&mut self) -> Row {
        let time = self.shape.start + self.step * INTERVAL;
        let host = self.host;
        let values = self.walks[host].step().map(|value| self.shape.values.round(value));
        self.host += 1;
        if self.host == self.shape.hosts {
            (self.host, self.step) = (0, self.step + 1);
        }
        Row { host, time, values }
    }
}

impl Iterator for Rows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        Some(Self::next(self))
    }
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
        let shape = self.rows.shape;
        let mut source = match self.all.take() {
            Some(source) => source,
            None if shape.hosts <= rows => {
                Source::new(&shape, 0, shape.hosts).map_err(PartError::Point)?
            }
            None => Source::new(&shape, self.rows.host, rows).map_err(PartError::Point)?,
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

/// The fleet as line protocol.
pub struct Lines {
    rows: Rows,
    /// Measurement and tags, per host.
    heads: Vec<Vec<u8>>,
}

impl Lines {
    /// From the first report on.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let head = |host: usize| {
            let mut head = MEASUREMENT.as_bytes().to_vec();
            for (key, value) in tags(shape.seed, host) {
                head.extend_from_slice(format!(",{key}={value}").as_bytes());
            }
            head
        };
        Self { rows: Rows::new(shape), heads: (0..shape.hosts).map(head).collect() }
    }

    /// Appends the next `rows` rows, a line each.
    pub fn append(&mut self, rows: usize, out: &mut Vec<u8>) {
        for row in self.rows.by_ref().take(rows) {
            out.extend_from_slice(&self.heads[row.host]);
            for (at, (field, value)) in FIELDS.iter().zip(row.values).enumerate() {
                out.push(if at == 0 { b' ' } else { b',' });
                // Writing to memory does not fail.
                let _ = write!(out, "{field}={value}");
            }
            let _ = writeln!(out, " {}", row.time);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_protocol::{
        batch::EncodedBatch,
        line::{Options, parse_into},
    };

    use super::*;

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

    #[test]
    fn rows_come_by_time_and_host_and_walk() {
        let shape = SHAPES[1];
        let rows: Vec<Row> = Rows::new(shape).take(7 * 1_000).collect();
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(row.host, at % 7);
            assert_eq!(row.time, START + INTERVAL * (at / 7) as i64);
            assert!(row.values.iter().all(|value| (0.0..=100.0).contains(value)));
        }
        let steps: Vec<f64> = rows.windows(8).map(|w| w[7].values[0] - w[0].values[0]).collect();
        let variance = steps.iter().map(|step| step * step).sum::<f64>() / steps.len() as f64;
        assert!(
            (0.8..1.2).contains(&variance),
            "steps are of N(0,1) but for the walls: {variance}"
        );
    }
}
