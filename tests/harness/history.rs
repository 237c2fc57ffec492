//! The ledger: what was written, what was acknowledged, and whether every replica has it.
//!
//! Invariant: an acknowledged value is on every replica, or one that may have been stored and is
//! newer; a value that was refused definitely, or never written, is on none; all replicas are equal
//! to the byte. Filled by the tests' writers, held against [`super::observe::exports`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use quorate_client::{
    Receipt, WriteError,
    error::{Certainty, RowId},
};
use quorate_protocol::{
    id::{NodeId, Version},
    point::{Point, key::measurement_of, text::write_value},
};

/// Series key, time, field name as written in a line.
type CellName = (Bytes, i64, Bytes);

/// What is known of one field of one row.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// The newest acknowledged value.
    acked: Option<(Version, Vec<u8>)>,
    /// Values that may have been stored.
    maybe: Vec<(Version, Vec<u8>)>,
}

/// All writes of a test.
#[derive(Debug, Default)]
pub struct Ledger {
    cells: Mutex<BTreeMap<CellName, Cell>>,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged values that every replica has.
    pub verified: usize,
    /// Acknowledged values that a replica lacks.
    pub missing: Vec<String>,
    /// Values on a replica that nobody can have stored.
    pub invented: Vec<String>,
    /// The first line in which two replicas differ.
    pub different: Option<String>,
}

impl Verdict {
    /// Fails the test unless everything is as it must be.
    ///
    /// # Panics
    /// If anything is missing, invented or different, or if nothing was compared.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert!(
            self.missing.is_empty() && self.invented.is_empty() && self.different.is_none(),
            "{self}"
        );
        assert!(self.verified > 0, "nothing was acknowledged, so nothing was tested");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |f: &mut fmt::Formatter<'_>, what, list: &[String]| {
            writeln!(f, "{} {what}", list.len())?;
            list.iter().take(5).try_for_each(|line| writeln!(f, "  {line}"))
        };
        writeln!(f, "{} values verified", self.verified)?;
        show(f, "acknowledged values missing", &self.missing)?;
        show(f, "values that nobody stored", &self.invented)?;
        self.different.iter().try_for_each(|line| writeln!(f, "replicas differ: {line}"))
    }
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<CellName, Cell>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of one write of these points, given in the order they were pushed.
    pub fn record(&self, points: &[Point], result: &Result<Receipt, WriteError>) {
        let failed: BTreeMap<RowId, Certainty> = match result {
            Ok(_) => BTreeMap::new(),
            Err(error) => error
                .failed
                .iter()
                .flat_map(|rows| rows.rows.iter().map(|row| (*row, rows.certainty)))
                .collect(),
        };
        let version = match result {
            Ok(receipt) => receipt.version,
            Err(error) => error.receipt.version,
        };
        let mut cells = self.cells();
        for (point, row) in points.iter().zip(rows_of(points)) {
            match failed.get(&row) {
                None => note(&mut cells, point, version, true),
                Some(Certainty::Indefinite) => note(&mut cells, point, version, false),
                Some(Certainty::Definite) => {}
            }
        }
    }

    /// Notes points that were stored under a version of the test's own making.
    pub fn stored(&self, points: &[Point], version: Version) {
        let mut cells = self.cells();
        points.iter().for_each(|point| note(&mut cells, point, version, true));
    }

    /// Notes a point that was tried under this version and failed.
    pub fn uncertain(&self, point: &Point, version: Version, certainty: Certainty) {
        if certainty == Certainty::Indefinite {
            note(&mut self.cells(), point, version, false);
        }
    }

    /// How many values were acknowledged.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.cells().values().filter(|cell| cell.acked.is_some()).count()
    }

    /// Holds all replicas against the ledger.
    #[must_use]
    pub fn check(&self, exports: &[(NodeId, String)]) -> Verdict {
        let cells = self.cells();
        let mut verdict = Verdict::default();
        let replicas: Vec<_> =
            exports.iter().map(|(node, text)| (node, parse_export(text))).collect();
        for (name, cell) in cells.iter() {
            let Some((acked_version, acked)) = &cell.acked else {
                continue;
            };
            let mut everywhere = true;
            for (node, replica) in &replicas {
                let found = replica.get(name);
                let newer = |value: &Vec<u8>| {
                    cell.maybe
                        .iter()
                        .any(|(version, maybe)| version > acked_version && maybe == value)
                };
                if !found.is_some_and(|value| value == acked || newer(value)) {
                    everywhere = false;
                    let found = found.map(|value| String::from_utf8_lossy(value).into_owned());
                    let want = String::from_utf8_lossy(acked);
                    verdict.missing.push(format!("node {node}: {name:?}: {want}, has {found:?}"));
                }
            }
            verdict.verified += usize::from(everywhere);
        }
        for (node, replica) in &replicas {
            for (name, value) in replica {
                let known = cells.get(name).is_some_and(|cell| {
                    cell.acked.iter().chain(&cell.maybe).any(|(_, known)| known == value)
                });
                if !known {
                    let value = String::from_utf8_lossy(value);
                    verdict.invented.push(format!("node {node}: {name:?} = {value}"));
                }
            }
        }
        verdict.different = first_difference(exports);
        verdict
    }
}

/// The rows that these points become in a batch.
fn rows_of(points: &[Point]) -> Vec<RowId> {
    let mut measurements: Vec<(&[u8], u32)> = Vec::new();
    let mut rows = Vec::with_capacity(points.len());
    for point in points {
        let name = measurement_of(point.key());
        let at = measurements.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            measurements.push((name, 0));
            measurements.len() - 1
        });
        rows.push(RowId { measurement: u32::try_from(at).unwrap(), row: measurements[at].1 });
        measurements[at].1 += 1;
    }
    rows
}

fn note(cells: &mut BTreeMap<CellName, Cell>, point: &Point, version: Version, acked: bool) {
    for (field, value) in point.fields() {
        let mut text = Vec::new();
        write_value(&mut text, value.as_ref());
        let cell = cells.entry((point.key().clone(), point.time(), field.clone())).or_default();
        if !acked {
            cell.maybe.push((version, text));
        } else if cell.acked.as_ref().is_none_or(|(newest, _)| *newest < version) {
            // The older one may still be what a replica would show if the newer was lost; that is
            // a loss, so it is forgotten here.
            cell.acked = Some((version, text));
        }
    }
}

/// The first line in which one replica differs from the first.
#[must_use]
pub fn first_difference(exports: &[(NodeId, String)]) -> Option<String> {
    let ((first, reference), others) = exports.split_first()?;
    let (other, text) = others.iter().find(|(_, text)| text != reference)?;
    let mut pairs = reference.lines().zip(text.lines());
    let line = pairs.find(|(a, b)| a != b).map_or_else(
        || format!("{} lines against {}", reference.lines().count(), text.lines().count()),
        |(a, b)| format!("{a:?} against {b:?}"),
    );
    Some(format!("node {first} and node {other}: {line}"))
}

/// The cells of an export. Names without escapes, strings without newlines: what tests write.
fn parse_export(text: &str) -> BTreeMap<CellName, Vec<u8>> {
    let mut cells = BTreeMap::new();
    for line in text.lines() {
        let (key, rest) = line.split_once(' ').unwrap();
        let (fields, time) = rest.rsplit_once(' ').unwrap();
        let time: i64 = time.parse().unwrap();
        let mut quoted = false;
        for field in fields.split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        }) {
            let (name, value) = field.split_once('=').unwrap();
            let name = (
                Bytes::copy_from_slice(key.as_bytes()),
                time,
                Bytes::copy_from_slice(name.as_bytes()),
            );
            let twice = cells.insert(name, value.as_bytes().to_vec());
            assert!(twice.is_none(), "a row comes twice: {line}");
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use quorate_protocol::point::Point;

    use super::*;

    fn point(value: i64) -> Point {
        Point::builder("m").tag("t", "v").field("f", value).field("s", "a,b c").at(7).unwrap()
    }

    #[test]
    fn losses_inventions_and_differences_are_seen() {
        let ledger = Ledger::new();
        ledger.stored(&[point(1)], Version(1));
        ledger.stored(&[point(2)], Version(2));
        let line = |value| (NodeId(1), format!("m,t=v f={value}i,s=\"a,b c\" 7\n"));
        ledger.check(&[line(2), line(2)]).assert_whole();
        assert_eq!(ledger.check(&[line(2), line(1)]).missing.len(), 1);
        assert!(ledger.check(&[line(2), line(1)]).different.is_some());
        assert_eq!(ledger.check(&[line(3)]).invented.len(), 1);
        assert_eq!(ledger.check(&[(NodeId(1), String::new())]).missing.len(), 2);
    }
}
