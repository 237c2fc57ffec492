//! Why rows cannot be added by handles.
//!
//! Invariant: whoever gets one of these finds the batch as it was. Used by [`super::Filler`].

use crate::point::PointError;

/// Why rows were refused; none of them is in the batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The series was made by another layout.
    #[error("row {row}: the series belongs to another layout")]
    OtherLayout {
        /// From 0, among the rows that were given.
        row: usize,
    },
    /// Not as many values, or slices of values, as the layout has columns.
    #[error("{given} columns were given, the layout has {columns}")]
    ColumnCount {
        /// The columns of the layout.
        columns: usize,
        /// What was given.
        given: usize,
    },
    /// A slice of values or of series that is longer or shorter than that of the times.
    #[error("{given} were given for {rows} times{}", of_what(*.column))]
    RowCount {
        /// The position of the slice, from 0; none if it is that of the series.
        column: Option<usize>,
        /// The number of times.
        rows: usize,
        /// The length of the slice.
        given: usize,
    },
    /// A time or a value that no point can have.
    #[error("row {row}: {reason}")]
    Row {
        /// From 0, among the rows that were given.
        row: usize,
        /// What is wrong with it.
        reason: PointError,
    },
}

fn of_what(at: Option<usize>) -> String {
    at.map_or_else(|| " (series)".to_owned(), |at| format!(" (column {at})"))
}
