//! A generated fleet of hosts that report their CPUs: ten tags, ten integer fields, every ten
//! seconds.
//!
//! Invariant: the seed decides everything, and each host's values depend on the seed, the host and
//! the number of steps alone; so what was written can be computed again, host by host, when it is
//! read back. Used by the fleet writer and by the comparison with the replicas.

use std::ops::Range;

use quorate_protocol::{
    batch::{Batch, ColumnRef, SeriesRef},
    point::{PointError, key::series_key},
    schema::FieldType,
};

/// The measurement.
pub(super) const MEASUREMENT: &str = "cpu";
/// Hosts, which is rows per tick.
pub(super) const HOSTS: usize = 1000;
/// Ticks in a batch.
pub(super) const TICKS: usize = 5;
/// Fields of every row, sorted.
pub(super) const FIELDS: [&str; 10] = [
    "usage_guest",
    "usage_guest_nice",
    "usage_idle",
    "usage_iowait",
    "usage_irq",
    "usage_nice",
    "usage_softirq",
    "usage_steal",
    "usage_system",
    "usage_user",
];
/// Between two reports of a host, in ns.
pub(super) const INTERVAL: i64 = 10_000_000_000;

const REGIONS: [&str; 4] = ["eu-central-1", "eu-west-1", "us-east-1", "ap-south-1"];
const SYSTEMS: [&str; 3] = ["Debian12", "Ubuntu24.04", "Alpine3.20"];
const TEAMS: [&str; 5] = ["search", "payments", "media", "identity", "platform"];

/// Which fleet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fleet {
    pub(super) seed: u64,
    /// Time of the first tick, ns since the Unix epoch.
    pub(super) start: i64,
}

/// One step of splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Fleet {
    /// The time of a tick.
    pub(super) const fn time(&self, tick: usize) -> i64 {
        self.start + INTERVAL * tick as i64
    }

    /// The tick of a time, if it is one's.
    pub(super) fn tick(&self, time: i64) -> Option<usize> {
        let since = time.checked_sub(self.start)?;
        if since % INTERVAL == 0 { usize::try_from(since / INTERVAL).ok() } else { None }
    }

    /// The tags of a host.
    pub(super) fn tags(host: usize) -> [(&'static str, String); 10] {
        let region = REGIONS[host % REGIONS.len()];
        [
            ("hostname", format!("host_{host}")),
            ("region", region.to_owned()),
            ("datacenter", format!("{region}{}", ["a", "b", "c"][host / 4 % 3])),
            ("rack", (host / 12 % 100).to_string()),
            ("os", SYSTEMS[host / 7 % SYSTEMS.len()].to_owned()),
            ("arch", if host.is_multiple_of(3) { "arm64" } else { "x64" }.to_owned()),
            ("team", TEAMS[host / 5 % TEAMS.len()].to_owned()),
            ("service", (host / 20 % 20).to_string()),
            ("service_version", (host % 2).to_string()),
            ("service_environment", ["production", "staging", "test"][host / 11 % 3].to_owned()),
        ]
    }

    /// The series keys of all hosts, by host.
    pub(super) fn keys() -> Result<Vec<Vec<u8>>, PointError> {
        (0..HOSTS).map(|host| series_key(MEASUREMENT.as_bytes(), &Self::tags(host))).collect()
    }

    /// A host's values, from the first tick on.
    pub(super) fn walk(&self, host: usize) -> Walk {
        let mut state = self.seed ^ (host as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut values = [0; FIELDS.len()];
        for value in &mut values {
            *value = (next(&mut state) % 101) as i64;
        }
        Walk { state, values }
    }
}

/// A random walk of ten values between 0 and 100.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    state: u64,
    values: [i64; FIELDS.len()],
}

impl Walk {
    /// The values of the next tick.
    pub(super) fn step(&mut self) -> &[i64; FIELDS.len()] {
        let mut bits = next(&mut self.state);
        for value in &mut self.values {
            let step = (bits % 3) as i64 - 1;
            bits /= 3;
            *value = (*value + step).clamp(0, 100);
        }
        &self.values
    }
}

/// All hosts, tick by tick.
pub(super) struct Generator {
    fleet: Fleet,
    walks: Vec<Walk>,
    tick: usize,
}

/// A batch that can be filled with tick after tick: its series are found once.
pub(super) struct Slot {
    pub(super) batch: Batch,
    series: Vec<SeriesRef>,
    columns: Vec<ColumnRef>,
}

impl Slot {
    pub(super) fn new() -> Result<Self, PointError> {
        let mut batch = Batch::new();
        let measurement = batch.measurement(MEASUREMENT)?;
        let series = (0..HOSTS).map(|host| measurement.series(&Fleet::tags(host)));
        let series = series.collect::<Result<_, _>>()?;
        let columns =
            FIELDS.iter().map(|name| measurement.column(name.as_bytes(), FieldType::Integer));
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { series, columns, batch })
    }
}

impl Generator {
    pub(super) fn new(fleet: Fleet) -> Self {
        Self { fleet, walks: (0..HOSTS).map(|host| fleet.walk(host)).collect(), tick: 0 }
    }

    /// Fills a slot with the next ticks and says which they are.
    pub(super) fn fill(&mut self, slot: &mut Slot) -> Result<Range<usize>, PointError> {
        slot.batch.clear_rows();
        let measurement = slot.batch.measurement(MEASUREMENT)?;
        let ticks = self.tick..self.tick + TICKS;
        for tick in ticks.clone() {
            let time = self.fleet.time(tick);
            for (walk, series) in self.walks.iter_mut().zip(&slot.series) {
                let row = measurement.row(*series, time)?;
                for (value, column) in walk.step().iter().zip(&slot.columns) {
                    measurement.set_integer(row, *column, *value)?;
                }
            }
        }
        self.tick = ticks.end;
        Ok(ticks)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quorate_protocol::point::ValueRef;

    use super::*;

    const FLEET: Fleet = Fleet { seed: 7, start: 1_700_000_000_000_000_000 };

    #[test]
    fn what_was_written_can_be_computed_again() {
        let mut generator = Generator::new(FLEET);
        let mut slot = Slot::new().unwrap();
        let mut walks: Vec<Walk> = (0..HOSTS).map(|host| FLEET.walk(host)).collect();
        let keys = Fleet::keys().unwrap();
        for batch in 0..3 {
            let ticks = generator.fill(&mut slot).unwrap();
            assert_eq!(ticks, batch * TICKS..(batch + 1) * TICKS);
            let measurement = &slot.batch.measurements()[0];
            assert_eq!(measurement.len(), HOSTS * TICKS);
            for (at, (row, series, time)) in measurement.rows().enumerate() {
                let (tick, host) = (ticks.start + at / HOSTS, at % HOSTS);
                assert_eq!(FLEET.tick(time), Some(tick));
                assert_eq!(measurement.series_key(series), keys[host]);
                let expected = walks[host].step();
                for (column, value) in measurement.columns().iter().zip(expected) {
                    assert_eq!(column.get(row), Some(ValueRef::Integer(*value)));
                    assert!((0..=100).contains(value));
                }
            }
        }
    }

    #[test]
    fn hosts_are_different_series_and_walks_move() {
        let keys: BTreeSet<Vec<u8>> = Fleet::keys().unwrap().into_iter().collect();
        assert_eq!(keys.len(), HOSTS);
        let mut walk = FLEET.walk(3);
        let seen: BTreeSet<Vec<i64>> = (0..100).map(|_| walk.step().to_vec()).collect();
        assert!(seen.len() > 90);
        assert_ne!(FLEET.walk(1).step(), FLEET.walk(2).step());
        assert!(FIELDS.is_sorted());
    }

    #[test]
    fn times_between_ticks_are_none() {
        assert_eq!(FLEET.tick(FLEET.start + INTERVAL * 5), Some(5));
        assert_eq!(FLEET.tick(FLEET.start + 1), None);
        assert_eq!(FLEET.tick(FLEET.start - INTERVAL), None);
    }
}
