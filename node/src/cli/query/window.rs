//! Aggregates over windows of time, from pieces of series as they come.
//!
//! Invariants: windows are aligned as shard groups are; memory is one open window, whatever the
//! length of a series; a window that spans two pieces comes out once. Called by `query`.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_protocol::{
    batch::Column, id::FieldId, placement::group_bounds, point::Value, schema::FieldType,
};

use super::aggregate::{Accumulator, Aggregate};
use crate::cli::{fail::Fail, series::Series};

/// Cuts series into windows and aggregates each.
pub(crate) struct Windows {
    every: u64,
    aggregate: Aggregate,
    key: Bytes,
    /// Bounds of the open window.
    open: Option<(i64, i64)>,
    fields: BTreeMap<Bytes, (FieldType, Accumulator)>,
    done: Series,
}

impl Windows {
    /// `every` is in ns and not 0.
    pub(crate) fn new(every: u64, aggregate: Aggregate) -> Self {
        Self {
            every,
            aggregate,
            key: Bytes::new(),
            open: None,
            fields: BTreeMap::new(),
            done: Series::default(),
        }
    }

    /// Takes the next piece and gives what is complete: windows of one series, perhaps none. If a
    /// new series begins, that is the rest of the one before.
    pub(crate) fn push(&mut self, piece: &Series) -> Result<Vec<Series>, Fail> {
        let mut out = Vec::new();
        if piece.key != self.key {
            out.extend(self.finish()?);
            self.key = piece.key.clone();
        }
        let columns = piece.columns.iter();
        let columns: Vec<&Column> =
            columns.filter(|column| self.aggregate.result(column.kind()).is_some()).collect();
        for (row, time) in piece.times.iter().enumerate() {
            if self.open.is_none_or(|(start, end)| *time < start || *time >= end) {
                self.close()?;
                self.open = Some(group_bounds(*time, self.every));
            }
            for column in &columns {
                let Some(value) = column.get(row) else {
                    continue;
                };
                if let Some((_, accumulator)) = self.fields.get_mut(&column.name) {
                    accumulator.add(value);
                } else {
                    let mut accumulator = Accumulator::new(self.aggregate);
                    accumulator.add(value);
                    self.fields.insert(column.name.clone(), (column.kind(), accumulator));
                }
            }
        }
        if !self.done.times.is_empty() {
            out.push(self.take());
        }
        Ok(out)
    }

    /// The last window of the series, if one is open.
    pub(crate) fn finish(&mut self) -> Result<Option<Series>, Fail> {
        self.close()?;
        self.open = None;
        Ok((!self.done.times.is_empty()).then(|| self.take()))
    }

    fn take(&mut self) -> Series {
        let mut done = std::mem::take(&mut self.done);
        done.key = self.key.clone();
        done.columns.sort_by(|a, b| a.name.cmp(&b.name));
        done
    }

    /// Ends the open window.
    fn close(&mut self) -> Result<(), Fail> {
        let Some((start, _)) = self.open else {
            return Ok(());
        };
        let mut values: Vec<(Bytes, FieldType, Value)> = Vec::new();
        for (name, (kind, accumulator)) in std::mem::take(&mut self.fields) {
            let value = accumulator.finish(kind).map_err(|problem| {
                let name = String::from_utf8_lossy(&name);
                Fail::failed(format!("the sum of field {name:?} {problem}; use --agg mean"))
            })?;
            if let (Some(value), Some(kind)) = (value, self.aggregate.result(kind)) {
                values.push((name, kind, value));
            }
        }
        if values.is_empty() {
            return Ok(());
        }
        let rows = self.done.times.len();
        for (name, kind, _) in &values {
            if !self.done.columns.iter().any(|column| column.name == name) {
                let mut column = Column::new(FieldId(0), name.clone(), *kind);
                (0..rows).for_each(|_| column.push_absent());
                self.done.columns.push(column);
            }
        }
        for column in &mut self.done.columns {
            let found = values.iter().position(|(name, ..)| *name == column.name);
            let value = found.map(|at| values.swap_remove(at).2);
            // The type is the column's: it follows from the field's and the aggregate.
            if value.is_some_and(|value| column.values.push(value)) {
                column.present.push(true);
            } else {
                column.push_absent();
            }
        }
        self.done.times.push(start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::batch::Values;

    use super::*;

    fn piece(key: &'static str, rows: &[(i64, i64)]) -> Series {
        let mut column = Column::new(FieldId(1), Bytes::from("v"), FieldType::Integer);
        for (_, value) in rows {
            assert!(column.values.push(Value::from(*value)));
            column.present.push(true);
        }
        let times = rows.iter().map(|(time, _)| *time).collect();
        Series { key: Bytes::from(key), times, columns: vec![column] }
    }

    fn sums(pieces: &[Series]) -> Vec<(Bytes, i64, i64)> {
        let mut windows = Windows::new(10, Aggregate::Sum);
        let mut out: Vec<Series> = Vec::new();
        for piece in pieces {
            out.extend(windows.push(piece).unwrap());
        }
        out.extend(windows.finish().unwrap());
        let rows = |series: &Series| -> Vec<(Bytes, i64, i64)> {
            let Values::Integer(values) = &series.columns[0].values else { panic!("integers") };
            let rows = series.times.iter().zip(values);
            rows.map(|(time, value)| (series.key.clone(), *time, *value)).collect()
        };
        out.iter().flat_map(rows).collect()
    }

    #[test]
    fn windows_span_pieces_but_not_series() {
        let a = Bytes::from("a");
        let b = Bytes::from("b");
        let pieces = [
            piece("a", &[(-1, 1), (0, 2), (9, 3)]),
            piece("a", &[(9, 4), (10, 5), (35, 6)]),
            piece("b", &[(36, 7)]),
        ];
        let expected =
            [(a.clone(), -10, 1), (a.clone(), 0, 9), (a.clone(), 10, 5), (a, 30, 6), (b, 30, 7)];
        assert_eq!(sums(&pieces), expected);
    }

    #[test]
    fn splitting_a_series_changes_nothing() {
        let rows: Vec<(i64, i64)> = (0..100).map(|at| (at * 3, at)).collect();
        let whole = sums(&[piece("a", &rows)]);
        for split in [1, 7, 50, 99] {
            let (left, right) = rows.split_at(split);
            assert_eq!(sums(&[piece("a", left), piece("a", right)]), whole);
        }
    }

    #[test]
    fn text_has_no_sum() {
        let mut text = piece("a", &[(1, 1)]);
        text.columns[0] = Column::new(FieldId(2), Bytes::from("s"), FieldType::String);
        assert!(text.columns[0].values.push(Value::from("x")));
        text.columns[0].present.push(true);
        assert!(Windows::new(10, Aggregate::Sum).push(&text).unwrap().is_empty());
        let mut windows = Windows::new(10, Aggregate::Last);
        windows.push(&text).unwrap();
        assert_eq!(windows.finish().unwrap().unwrap().columns[0].values.len(), 1);
    }
}
