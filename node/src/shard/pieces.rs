//! The rows of fresh batches, by series, without taking the batches apart.
//!
//! Invariant: each distinct key is kept once, each value once, in the column it was decoded into;
//! a series' rows are put together only when they are asked for. (Rows of their own for every series
//! of every batch take fifteen times the memory when there are 100,000 series.) Filled from decoded
//! batches by [`super::fold`] and [`super::read`].

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use quorate_protocol::{
    batch::{Column, DecodedBatch, DecodedMeasurement},
    id::{FieldId, Version},
    rows::{Rows, Values},
    schema::FieldType,
};

use super::filter::ScanFilter;

/// One measurement of one batch.
struct Table {
    version: Version,
    times: Vec<i64>,
    columns: Vec<Column>,
}

/// The rows of one series in one table.
struct Piece {
    series: u32,
    table: u32,
    rows: Range<u32>,
}

/// A series of some fresh batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreshSeries {
    pub(super) hash: u64,
    pub(super) key: Bytes,
    /// Among the pieces.
    pieces: Range<usize>,
}

/// Decoded batches while they are being added.
#[derive(Default)]
pub(super) struct Collector {
    tables: Vec<Table>,
    pieces: Vec<Piece>,
    series: BTreeMap<(u64, Bytes), u32>,
}

/// Decoded batches, by series.
#[derive(Default)]
pub(super) struct Pieces {
    tables: Vec<Table>,
    pieces: Vec<Piece>,
}

impl Collector {
    /// Adds the wanted rows of a batch; `escaped` is the filter's measurement.
    pub(super) fn add_wanted(
        &mut self,
        batch: DecodedBatch,
        filter: Option<&ScanFilter>,
        escaped: Option<&[u8]>,
    ) {
        let version = batch.header.part.version;
        for mut measurement in batch.measurements {
            if escaped.is_some_and(|wanted| *wanted != *measurement.escaped_name) {
                continue;
            }
            let mut ranges = Vec::new();
            for series in std::mem::take(&mut measurement.series) {
                let mut rows = series.rows;
                if let Some(filter) = filter {
                    if !filter.tags_match(&series.key) {
                        continue;
                    }
                    rows = within(&measurement.times, rows, filter);
                }
                if !rows.is_empty() {
                    ranges.push((self.number(series.hash, &series.key), rows));
                }
            }
            if ranges.is_empty() {
                continue;
            }
            if let Some(filter) = filter.filter(|filter| !filter.fields.is_empty()) {
                measurement.columns.retain(|column| filter.fields.contains(&column.name));
            }
            let table = u32::try_from(self.tables.len()).unwrap_or(u32::MAX);
            self.tables.push(shrink(version, measurement, &mut ranges));
            let pieces = ranges.into_iter().map(|(series, rows)| Piece { series, table, rows });
            self.pieces.extend(pieces);
        }
    }

    fn number(&mut self, hash: u64, key: &Bytes) -> u32 {
        if let Some(number) = self.series.get(&(hash, key.clone())) {
            return *number;
        }
        let number = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        // A copy, because the key holds on to all keys of its batch.
        self.series.insert((hash, Bytes::copy_from_slice(key)), number);
        number
    }

    /// The series, by (hash, key), and their rows.
    pub(super) fn finish(mut self) -> (Vec<FreshSeries>, Pieces) {
        self.pieces.sort_by_key(|piece| piece.series);
        let mut starts = Vec::with_capacity(self.series.len());
        for (at, piece) in self.pieces.iter().enumerate() {
            if piece.series as usize == starts.len() {
                starts.push(at);
            }
        }
        let end =
            |number: u32| starts.get(number as usize + 1).copied().unwrap_or(self.pieces.len());
        let series = self
            .series
            .into_iter()
            .map(|((hash, key), number)| {
                // Every number was given together with its first piece.
                let start = starts.get(number as usize).copied().unwrap_or(self.pieces.len());
                FreshSeries { hash, key, pieces: start..end(number) }
            })
            .collect();
        (series, Pieces { tables: self.tables, pieces: self.pieces })
    }
}

/// The rows of a series within the filter's times.
fn within(times: &[i64], rows: Range<u32>, filter: &ScanFilter) -> Range<u32> {
    let slice = times.get(rows.start as usize..rows.end as usize).unwrap_or_default();
    // Fewer than 2^20 rows, so the positions fit.
    let before = |time: i64| slice.partition_point(|row| *row < time) as u32;
    let (start, end) = (before(filter.from), before(filter.to));
    rows.start + start..rows.start + end.max(start)
}

/// Keeps a table as it is if most of it is wanted, else only its wanted rows.
fn shrink(
    version: Version,
    measurement: DecodedMeasurement,
    ranges: &mut [(u32, Range<u32>)],
) -> Table {
    let DecodedMeasurement { times, columns, .. } = measurement;
    let wanted: usize = ranges.iter().map(|(_, rows)| rows.len()).sum();
    if wanted * 4 > times.len() {
        return Table { version, times, columns };
    }
    let empty = |column: &Column| Column::new(column.field, column.name.clone(), column.kind());
    let mut table = Table {
        version,
        times: Vec::with_capacity(wanted),
        columns: columns.iter().map(empty).collect(),
    };
    let mut at = 0;
    for (_, rows) in ranges {
        let old = rows.start as usize..rows.end as usize;
        table.times.extend(times.get(old.clone()).unwrap_or_default());
        for (to, from) in table.columns.iter_mut().zip(&columns) {
            to.extend(from, old.clone());
        }
        let len = rows.end - rows.start;
        *rows = at..at + len;
        at += len;
    }
    table
}

impl Pieces {
    /// The merged rows of a series.
    pub(super) fn rows(&self, series: &FreshSeries) -> Rows {
        let mut pieces: Vec<&Piece> =
            self.pieces.get(series.pieces.clone()).unwrap_or_default().iter().collect();
        pieces.sort_by_key(|piece| self.times(piece).first().copied());
        let apart = |two: &[&Piece]| match two {
            [a, b] => self.times(a).last() < self.times(b).first(),
            _ => true,
        };
        if pieces.windows(2).all(apart) {
            // The usual case. Merging also drops columns and rows without values.
            return Rows::merge(vec![self.joined(&pieces)]);
        }
        Rows::merge(pieces.into_iter().map(|piece| self.joined(&[piece])).collect())
    }

    /// The first and the last time of a series.
    pub(super) fn time_range(&self, series: &FreshSeries) -> Option<(i64, i64)> {
        let pieces = self.pieces.get(series.pieces.clone()).unwrap_or_default();
        let first = pieces.iter().filter_map(|piece| self.times(piece).first()).min()?;
        let last = pieces.iter().filter_map(|piece| self.times(piece).last()).max()?;
        Some((*first, *last))
    }

    fn table(&self, piece: &Piece) -> Option<&Table> {
        self.tables.get(piece.table as usize)
    }

    fn times(&self, piece: &Piece) -> &[i64] {
        self.table(piece).and_then(|table| table.times.get(range(piece))).unwrap_or_default()
    }

    /// Rows of pieces that follow each other in time.
    fn joined(&self, pieces: &[&Piece]) -> Rows {
        let len = pieces.iter().map(|piece| piece.rows.len()).sum();
        let mut rows = Rows {
            times: Vec::with_capacity(len),
            versions: Vec::with_capacity(len),
            columns: Vec::new(),
        };
        let mut heads: BTreeMap<(FieldId, FieldType), &Bytes> = BTreeMap::new();
        for table in pieces.iter().filter_map(|piece| self.table(piece)) {
            for column in &table.columns {
                heads.entry((column.field, column.kind())).or_insert(&column.name);
            }
        }
        for ((field, kind), name) in heads {
            let mut column = Column::new(field, name.clone(), kind);
            column.values = Values::with_capacity(kind, len);
            for piece in pieces {
                let columns = self.table(piece).map_or(&[][..], |table| &table.columns);
                match columns.iter().find(|from| from.field == field && from.kind() == kind) {
                    Some(from) => column.extend(from, range(piece)),
                    None => piece.rows.clone().for_each(|_| column.push_absent()),
                }
            }
            rows.columns.push(column);
        }
        for piece in pieces {
            let Some(table) = self.table(piece) else {
                continue;
            };
            rows.times.extend(self.times(piece));
            rows.versions.resize(rows.times.len(), table.version);
        }
        rows
    }
}

fn range(piece: &Piece) -> Range<usize> {
    piece.rows.start as usize..piece.rows.end as usize
}
