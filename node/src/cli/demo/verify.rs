//! A replica against the ledger: every field value of every acknowledged point.
//!
//! Invariants: a point counts as verified only if all its fields are there with the same types and
//! bits, and no others; what was acknowledged and is not found is missing, also if its whole series
//! is. Fed with a replica's export in its order, in flat memory.

use std::collections::{HashMap, HashSet};

use quorate_protocol::{
    batch::{Column, Values},
    point::PointError,
};

use super::{
    fleet::{FIELDS, Fleet, Walk},
    ledger::{Fate, Ledger, LivePoint, acked},
};
use crate::cli::series::Series;

/// What the comparison of one replica found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Acknowledged points that are there with every value.
    pub(super) verified: u64,
    /// Field values compared and found equal.
    pub(super) values: u64,
    /// Acknowledged points that are not there.
    pub(super) missing: u64,
    /// Points that are there with another value than was sent.
    pub(super) wrong: u64,
    /// Points that were never sent.
    pub(super) unexpected: u64,
}

/// Where the comparison of a series is.
enum Place<'a> {
    Host { tick: usize, walk: Walk },
    Live { points: &'a [LivePoint], at: usize },
    Unknown,
}

/// Compares one replica.
pub(super) struct Verifier<'a> {
    ledger: &'a Ledger,
    hosts: &'a HashMap<Vec<u8>, usize>,
    key: Vec<u8>,
    place: Place<'a>,
    seen: HashSet<Vec<u8>>,
    found: Found,
}

impl<'a> Verifier<'a> {
    /// `hosts` are the fleet's series.
    pub(super) fn new(ledger: &'a Ledger, hosts: &'a HashMap<Vec<u8>, usize>) -> Self {
        Self {
            ledger,
            hosts,
            key: Vec::new(),
            place: Place::Unknown,
            seen: HashSet::new(),
            found: Found::default(),
        }
    }

    /// The next piece of the replica.
    pub(super) fn feed(&mut self, piece: &Series) {
        if piece.key != self.key {
            self.end_series();
            self.key = piece.key.to_vec();
            // A series that comes twice would be compared with its beginning again.
            self.place = if self.seen.insert(self.key.clone()) {
                self.find(&piece.key)
            } else {
                Place::Unknown
            };
        }
        match &mut self.place {
            Place::Unknown => self.found.unexpected += piece.times.len() as u64,
            Place::Host { tick, walk } => {
                let columns = fleet_columns(&piece.columns);
                for (row, time) in piece.times.iter().enumerate() {
                    host_row(&mut self.found, self.ledger, tick, walk, columns, row, *time);
                }
            }
            Place::Live { points, at } => {
                for (row, time) in piece.times.iter().enumerate() {
                    live_row(&mut self.found, points, at, &piece.columns, row, *time);
                }
            }
        }
    }

    fn find(&self, key: &[u8]) -> Place<'a> {
        if let Some(host) = self.hosts.get(key) {
            return Place::Host { tick: 0, walk: self.ledger.fleet.fleet.walk(*host) };
        }
        match self.ledger.live.series(key) {
            Some(points) => Place::Live { points, at: 0 },
            None => Place::Unknown,
        }
    }

    fn end_series(&mut self) {
        self.found.missing += match &self.place {
            Place::Unknown => 0,
            Place::Host { tick, .. } => self.ledger.fleet.acked_from(*tick),
            Place::Live { points, at } => acked(points.get(*at..).unwrap_or_default()),
        };
    }

    /// The result, when the replica's export has ended.
    pub(super) fn finish(mut self) -> Found {
        self.end_series();
        let hosts = self.hosts.keys().filter(|key| !self.seen.contains(*key)).count() as u64;
        self.found.missing += hosts * self.ledger.fleet.acked_from(0);
        for key in self.ledger.live.keys().filter(|key| !self.seen.contains(key.as_ref())) {
            self.found.missing += self.ledger.live.series(key).map_or(0, acked);
        }
        self.found
    }
}

/// The fleet's fields, if these are exactly theirs: sorted by name, all integers, no gaps.
fn fleet_columns(columns: &[Column]) -> Option<[&[i64]; FIELDS.len()]> {
    if columns.len() != FIELDS.len() {
        return None;
    }
    let mut out: [&[i64]; FIELDS.len()] = [&[]; FIELDS.len()];
    for ((column, name), slot) in columns.iter().zip(FIELDS).zip(&mut out) {
        match &column.values {
            Values::Integer(values)
                if column.name == name.as_bytes() && column.present.is_all() =>
            {
                *slot = values;
            }
            _ => return None,
        }
    }
    Some(out)
}

fn host_row(
    found: &mut Found,
    ledger: &Ledger,
    next: &mut usize,
    walk: &mut Walk,
    columns: Option<[&[i64]; FIELDS.len()]>,
    row: usize,
    time: i64,
) {
    let fleet = &ledger.fleet;
    let tick = fleet.fleet.tick(time).filter(|tick| *tick >= *next && *tick < fleet.ticks());
    let Some(tick) = tick else {
        found.unexpected += 1;
        return;
    };
    for skipped in *next..tick {
        walk.step();
        found.missing += u64::from(fleet.fate(skipped) == Some(Fate::Acked));
    }
    *next = tick + 1;
    let expected = walk.step();
    let same = columns.is_some_and(|columns| {
        columns.iter().zip(expected).all(|(column, value)| column.get(row) == Some(value))
    });
    settle(found, same, fleet.fate(tick), FIELDS.len());
}

fn live_row(
    found: &mut Found,
    points: &[LivePoint],
    at: &mut usize,
    columns: &[Column],
    row: usize,
    time: i64,
) {
    while let Some(skipped) = points.get(*at).filter(|point| point.time < time) {
        found.missing += u64::from(skipped.fate == Fate::Acked);
        *at += 1;
    }
    let Some(point) = points.get(*at).filter(|point| point.time == time) else {
        found.unexpected += 1;
        return;
    };
    *at += 1;
    let there = columns.iter().filter_map(|c| c.get(row).map(|value| (c.name.as_ref(), value)));
    let sent = point.fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    let same = there.eq(sent);
    settle(found, same, Some(point.fate), point.fields.len());
}

fn settle(found: &mut Found, same: bool, fate: Option<Fate>, values: usize) {
    if !same {
        found.wrong += 1;
    } else {
        found.values += values as u64;
        found.verified += u64::from(fate == Some(Fate::Acked));
    }
}

/// The fleet's series with their hosts.
pub(super) fn hosts() -> Result<HashMap<Vec<u8>, usize>, PointError> {
    let keys = Fleet::keys()?;
    Ok(keys.into_iter().enumerate().map(|(host, key)| (key, host)).collect())
}

#[cfg(test)]
mod tests;
