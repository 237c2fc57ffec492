//! Which rows of a measurement go into a part, and in which order.
//!
//! Invariant: series in order of first appearance; within a series, times strictly ascending; rows
//! of equal series and time form one output row, later rows last.

use super::EncodeError;
use crate::{
    batch::{
        FieldColumn, MeasurementBuilder,
        measurement::{Row, SeriesRef},
    },
    id::FieldId,
};

pub(super) struct Plan {
    /// The series of the part.
    pub(super) series: Vec<u32>,
    /// The output rows of each series.
    pub(super) counts: Vec<i64>,
    /// The time of each output row.
    pub(super) times: Vec<i64>,
    /// The rows of the batch, in output order.
    pub(super) order: Vec<u32>,
    /// Where in `order` each output row begins, and the end; `None`: one row each.
    pub(super) starts: Option<Vec<u32>>,
    /// The length of all keys.
    pub(super) key_bytes: usize,
}

impl Plan {
    /// `None` if no row is left.
    pub(super) fn new(
        measurement: &MeasurementBuilder,
        selected: Option<&[u32]>,
        columns: &[(FieldId, &FieldColumn)],
    ) -> Result<Option<Self>, EncodeError> {
        let rows = kept(measurement, selected, columns)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut plan = group(measurement, &rows);
        plan.key_bytes =
            plan.series.iter().map(|series| measurement.series_key(SeriesRef(*series)).len()).sum();
        let sorted = plan.sort(&measurement.rows);
        if !sorted {
            plan.merge();
        }
        Ok(Some(plan))
    }

    /// Sorts each series by time; false if a time occurs twice.
    fn sort(&mut self, rows: &[Row]) -> bool {
        let time = |row: &u32| rows[*row as usize].time;
        let (mut start, mut once) = (0, true);
        self.times.reserve(self.order.len());
        for &count in &self.counts {
            let end = start + count as usize;
            let group = &mut self.order[start..end];
            if !group.is_sorted_by(|a, b| time(a) < time(b)) {
                // Stable, so that later rows stay later.
                group.sort_by_key(time);
                once &= group.is_sorted_by(|a, b| time(a) < time(b));
            }
            self.times.extend(group.iter().map(time));
            start = end;
        }
        once
    }

    /// Makes one output row of rows with equal series and time.
    fn merge(&mut self) {
        let times = std::mem::take(&mut self.times);
        let mut starts = Vec::with_capacity(times.len() + 1);
        let mut start = 0;
        for count in &mut self.counts {
            let end = start + *count as usize;
            let before = starts.len();
            for at in start..end {
                if at == start || times[at] != times[at - 1] {
                    // The order has at most u32::MAX rows: it names them by u32.
                    starts.push(at as u32);
                    self.times.push(times[at]);
                }
            }
            *count = (starts.len() - before) as i64;
            start = end;
        }
        starts.push(self.order.len() as u32);
        self.starts = Some(starts);
    }
}

/// The selected rows that have a value in one of the columns.
fn kept(
    measurement: &MeasurementBuilder,
    selected: Option<&[u32]>,
    columns: &[(FieldId, &FieldColumn)],
) -> Result<Vec<u32>, EncodeError> {
    let len = measurement.rows.len();
    let mut rows: Vec<u32> = match selected {
        None => (0..len as u32).collect(),
        Some(rows) => {
            let inside = rows.last().is_none_or(|last| (*last as usize) < len);
            if !inside || !rows.is_sorted_by(|a, b| a < b) {
                return Err(EncodeError::BadSelection);
            }
            rows.to_vec()
        }
    };
    if !columns.iter().any(|(_, column)| column.len() == len) {
        let mut has = vec![false; len];
        for (_, column) in columns {
            column.rows().for_each(|row| has[row] = true);
        }
        rows.retain(|row| has[*row as usize]);
    }
    Ok(rows)
}

/// Sorts rows by series, keeping their order otherwise.
fn group(measurement: &MeasurementBuilder, rows: &[u32]) -> Plan {
    const NONE: u32 = u32::MAX;
    let mut ordinal = vec![NONE; measurement.table.len()];
    let (mut series, mut counts): (Vec<u32>, Vec<i64>) = (Vec::new(), Vec::new());
    for &row in rows {
        let of = measurement.rows[row as usize].series;
        let place = &mut ordinal[of as usize];
        if *place == NONE {
            *place = series.len() as u32;
            series.push(of);
            counts.push(0);
        }
        counts[*place as usize] += 1;
    }
    let mut next: Vec<usize> = Vec::with_capacity(counts.len());
    let mut sum = 0;
    for &count in &counts {
        next.push(sum);
        sum += count as usize;
    }
    let mut order = vec![0; rows.len()];
    for &row in rows {
        let of = ordinal[measurement.rows[row as usize].series as usize];
        let at = &mut next[of as usize];
        order[*at] = row;
        *at += 1;
    }
    Plan { series, counts, times: Vec::new(), order, starts: None, key_bytes: 0 }
}
