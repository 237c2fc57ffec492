//! Decoded rows of consecutive series.
//!
//! Invariant: spans ascend by series, follow each other without gaps from row 0 to the last, and
//! none is empty; within a span rows ascend by (time, version); columns ascend by (field, type) and
//! have one entry per row. Built by folds and merges, returned by [`super::View::decode`].

use std::ops::Range;

use quorate_protocol::{batch::Column, id::Version, rows::Rows};

use crate::shard::series::SeriesId;

/// Where a series' rows stand in a row group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The series.
    pub(crate) series: SeriesId,
    /// Its rows.
    pub(crate) rows: Range<u32>,
}

impl Span {
    /// The rows as positions in the group's vectors.
    pub(crate) const fn range(&self) -> Range<usize> {
        self.rows.start as usize..self.rows.end as usize
    }
}

/// Rows of consecutive series, in order of (series, time, version).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RowGroup {
    /// The series, in ascending order.
    pub(crate) spans: Vec<Span>,
    /// Nanoseconds since the Unix epoch, per row.
    pub(crate) times: Vec<i64>,
    /// The version of each row.
    pub(crate) versions: Vec<Version>,
    /// The fields.
    pub(crate) columns: Vec<Column>,
}

impl RowGroup {
    /// Where a series' rows stand, if it has any.
    pub(crate) fn span_of(&self, series: SeriesId) -> Option<Range<usize>> {
        let at = self.spans.binary_search_by_key(&series, |span| span.series).ok()?;
        self.spans.get(at).map(Span::range)
    }

    /// The rows of one span, or of a part of it, without the columns they have no values in.
    pub(crate) fn rows_of(&self, range: Range<usize>) -> Rows {
        let columns = self.columns.iter().map(|column| column.slice(range.clone()));
        Rows {
            times: self.times[range.clone()].to_vec(),
            versions: self.versions[range.clone()].to_vec(),
            columns: columns.filter(|column| column.present.any()).collect(),
        }
    }
}
