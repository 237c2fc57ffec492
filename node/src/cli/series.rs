//! A piece of one series, its fields by name: what queries, exports and the demo look at.
//!
//! Invariant: times ascend, every column has one entry per time, columns are sorted bytewise by
//! name; so the canonical lines of a piece follow from it without any further choice.

use bytes::Bytes;
use quorate_client::RowStream;
use quorate_protocol::{batch::Column, point::text};

use super::{
    fail::{Fail, with_advice},
    fields::FieldNames,
};

/// Some rows of one series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    /// The canonical series key.
    pub(crate) key: Bytes,
    /// Nanoseconds since the Unix epoch.
    pub(crate) times: Vec<i64>,
    /// The fields; their names are set.
    pub(crate) columns: Vec<Column>,
}

impl Series {
    /// Gives rows, as they come from a query or of windows, their fields' names.
    pub(crate) fn new(
        key: Bytes,
        times: Vec<i64>,
        mut columns: Vec<Column>,
        names: &mut FieldNames,
    ) -> Result<Self, Fail> {
        for column in &mut columns {
            if column.name.is_empty() {
                column.name = names.get(column.field).ok_or_else(|| {
                    let text =
                        format!("field {} is in the data but not in the schema", column.field);
                    Fail::Failed(with_advice(&text, Some("see 'quorate status' and try again")))
                })?;
            }
        }
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { key, times, columns })
    }

    /// Forgets all rows behind the first `count`.
    pub(crate) fn truncate(&mut self, count: usize) {
        if count < self.times.len() {
            self.times.truncate(count);
            for column in &mut self.columns {
                *column = column.slice(0..count);
            }
        }
    }

    /// Appends the canonical line of each row, each ended by a newline.
    pub(crate) fn write_lines(&self, out: &mut Vec<u8>) {
        for (row, time) in self.times.iter().enumerate() {
            let fields = self
                .columns
                .iter()
                .filter_map(|column| column.get(row).map(|value| (column.name.as_ref(), value)));
            text::write_line(out, &self.key, fields, *time);
            out.push(b'\n');
        }
    }
}

/// The next piece of a query's answer; none at its end.
pub(crate) async fn next(
    stream: &mut RowStream,
    names: &mut FieldNames,
) -> Result<Option<Series>, Fail> {
    match stream.next().await {
        None => Ok(None),
        Some(Err(error)) => Err(error.into()),
        Some(Ok((key, rows))) => Series::new(key, rows.times, rows.columns, names).map(Some),
    }
}
