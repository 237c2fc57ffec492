//! The load of `quorate bench write` and of all benchmarks: a fleet of hosts that report their CPUs.
//!
//! One measurement `cpu`, 10 tags, 10 float fields, a report every 10 s. Every value is a random walk:
//! steps of N(0,1) between 0 and 100, then rounded as [`Values`] says. Rows come ordered by time, then
//! host. Invariants: the seed decides every byte; a host's tags and walk depend on the seed and the
//! host alone; all forms of one [`Shape`] say the same points, so that this project and systems that
//! take text are given the same data.

mod table;

use std::io::Write;

pub use table::Table;

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

    /// Which fleet they are of.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The host that comes next.
    #[must_use]
    pub const fn host(&self) -> usize {
        self.host
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

/// Measurement and tags of a host, as a line begins.
fn head(seed: u64, host: usize) -> Vec<u8> {
    let mut head = MEASUREMENT.as_bytes().to_vec();
    for (key, value) in tags(seed, host) {
        head.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    head
}

fn append_line(head: &[u8], values: &[f64; FIELDS.len()], time: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    for (at, (field, value)) in FIELDS.iter().zip(values).enumerate() {
        out.push(if at == 0 { b' ' } else { b',' });
        // Writing to memory does not fail.
        let _ = write!(out, "{field}={value}");
    }
    let _ = writeln!(out, " {time}");
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
        Self {
            rows: Rows::new(shape),
            heads: (0..shape.hosts).map(|host| head(shape.seed, host)).collect(),
        }
    }

    /// Appends the next `rows` rows, a line each.
    pub fn append(&mut self, rows: usize, out: &mut Vec<u8>) {
        for row in self.rows.by_ref().take(rows) {
            append_line(&self.heads[row.host], &row.values, row.time, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_by_time_and_host_and_walk() {
        let shape = Shape { hosts: 7, values: Values::TwoDecimals, seed: 3, start: START };
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
