//! What was acknowledged: everything that every replica must have.
//!
//! Invariants: a point is in the ledger before it is sent, and counts as acknowledged only when its
//! write has returned without an error. Memory is small: of the fleet only the fate of each tick is
//! kept, its values are computed again; of live metrics the points themselves. Each writer keeps
//! its own part while it runs.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use quorate_protocol::point::{Point, Value};

use super::fleet::{Fleet, HOSTS};

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Sent, and not acknowledged: it may be there or not.
    Sent,
    /// Acknowledged: it must be there.
    Acked,
}

/// The fleet's part: the fate of each tick.
#[derive(Clone, Debug)]
pub(super) struct FleetLedger {
    pub(super) fleet: Fleet,
    ticks: Vec<Fate>,
}

impl FleetLedger {
    pub(super) const fn new(fleet: Fleet) -> Self {
        Self { fleet, ticks: Vec::new() }
    }

    /// Ticks are about to be sent.
    pub(super) fn sent(&mut self, ticks: Range<usize>) {
        if ticks.end > self.ticks.len() {
            self.ticks.resize(ticks.end, Fate::Sent);
        }
    }

    /// Ticks were acknowledged.
    pub(super) fn acked(&mut self, ticks: Range<usize>) {
        for fate in self.ticks.get_mut(ticks).into_iter().flatten() {
            *fate = Fate::Acked;
        }
    }

    /// The fate of a tick; none if it was never sent.
    pub(super) fn fate(&self, tick: usize) -> Option<Fate> {
        self.ticks.get(tick).copied()
    }

    /// Ticks that were sent.
    pub(super) const fn ticks(&self) -> usize {
        self.ticks.len()
    }

    /// Acknowledged ticks at or behind this one: what each host still owes.
    pub(super) fn acked_from(&self, tick: usize) -> u64 {
        let rest = self.ticks.get(tick..).unwrap_or_default();
        rest.iter().filter(|fate| **fate == Fate::Acked).count() as u64
    }

    fn points(&self) -> u64 {
        self.acked_from(0) * HOSTS as u64
    }
}

/// A point of live metrics.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LivePoint {
    pub(super) time: i64,
    /// By name, sorted.
    pub(super) fields: Vec<(Bytes, Value)>,
    pub(super) fate: Fate,
}

/// The live metrics' part: every point by series, in order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct LiveLedger {
    series: BTreeMap<Bytes, Vec<LivePoint>>,
}

impl LiveLedger {
    /// Points are about to be sent; times only grow.
    pub(super) fn sent(&mut self, points: &[Point]) {
        for point in points {
            let (time, fields) = (point.time(), point.fields().to_vec());
            let series = self.series.entry(point.key().clone()).or_default();
            series.push(LivePoint { time, fields, fate: Fate::Sent });
        }
    }

    /// Points were acknowledged.
    pub(super) fn acked(&mut self, points: &[Point]) {
        for point in points {
            let Some(series) = self.series.get_mut(point.key()) else {
                continue;
            };
            if let Ok(at) = series.binary_search_by_key(&point.time(), |live| live.time)
                && let Some(live) = series.get_mut(at)
            {
                live.fate = Fate::Acked;
            }
        }
    }

    /// The points of a series, in order of time.
    pub(super) fn series(&self, key: &[u8]) -> Option<&[LivePoint]> {
        self.series.get(key).map(Vec::as_slice)
    }

    /// All series.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.series.keys()
    }
}

/// How many of these points were acknowledged.
pub(super) fn acked(points: &[LivePoint]) -> u64 {
    points.iter().filter(|point| point.fate == Fate::Acked).count() as u64
}

/// Both parts.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub(super) fleet: FleetLedger,
    pub(super) live: LiveLedger,
}

impl Ledger {
    /// Points that were acknowledged.
    pub(super) fn points(&self) -> u64 {
        self.fleet.points() + self.live.series.values().map(|points| acked(points)).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_counts() {
        let mut fleet = FleetLedger::new(Fleet { seed: 1, start: 0 });
        fleet.sent(0..2);
        fleet.sent(2..3);
        fleet.acked(0..1);
        fleet.acked(2..3);
        fleet.acked(9..10);
        assert_eq!(fleet.fate(1), Some(Fate::Sent));
        assert_eq!(fleet.fate(3), None);
        assert_eq!(fleet.acked_from(1), 1);
        let points: Vec<Point> =
            (1..3).map(|at| Point::builder("m").field("v", at).at(at).unwrap()).collect();
        let mut live = LiveLedger::default();
        live.sent(&points);
        live.acked(&points[1..]);
        assert_eq!(live.series(b"m").map(acked), Some(1));
        let ledger = Ledger { fleet, live };
        assert_eq!(ledger.points(), 2 * HOSTS as u64 + 1);
    }
}
