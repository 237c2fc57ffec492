//! Adding rows of a layout to a batch: by handles of series, a row or whole columns at a time.
//!
//! Invariant: a batch holds the same whether its rows came this way or as points; what is refused
//! leaves nothing. Made by [`super::Batch::fill`].

use super::{
    FieldColumn, Layout, Series,
    measurement::{MeasurementBuilder, Row, SeriesRef},
    series::Adopted,
};
use crate::point::{PointError, check_time};

mod cell;
mod cells;
mod error;
mod slice;

pub use cell::Cell;
pub use cells::Cells;
pub use error::FillError;
pub use slice::CellSlice;

use cells::{Target, sealed};

/// What a measurement of a batch knows of a layout that filled it.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    layout: Layout,
    /// The columns of the batch, in the order of the layout's.
    columns: Vec<u32>,
    /// Per series of the layout: the series of the batch, plus one, or 0; perhaps shorter.
    series: Vec<u32>,
    adopted: Adopted,
}

/// Takes the rows of one layout for one batch.
#[derive(Debug)]
pub struct Filler<'b> {
    measurement: &'b mut MeasurementBuilder,
    bound: usize,
}

impl<'b> Filler<'b> {
    /// `measurement` is the layout's.
    pub(super) fn new(measurement: &'b mut MeasurementBuilder, layout: &Layout) -> Self {
        let known = measurement.bound.iter().position(|bound| bound.layout.is(layout));
        let bound = known.unwrap_or_else(|| {
            let columns = layout.columns().iter().map(|(name, kind)| {
                let column = measurement.find_column(name, *kind);
                column.unwrap_or_else(|| measurement.add_column(name, *kind)).0
            });
            let columns = columns.collect();
            let (layout, series) = (layout.clone(), Vec::new());
            let adopted = Adopted::default();
            measurement.bound.push(Bound { layout, columns, series, adopted });
            measurement.bound.len() - 1
        });
        Self { measurement, bound }
    }

    /// Adds a row: a time in nanoseconds since the Unix epoch and the values in the order of the
    /// layout's columns. Rows may come in any order; of rows with equal series and time the later
    /// one wins, field by field.
    ///
    /// # Errors
    /// The series is another layout's, there are not as many values as columns, or no point could
    /// have the time, the values, or none of them.
    #[inline]
    pub fn push(&mut self, series: &Series, time: i64, cells: impl Cells) -> Result<(), FillError> {
        let bound = &self.measurement.bound[self.bound];
        let columns = bound.layout.columns();
        if sealed::Cells::count(&cells) != columns.len() {
            let given = sealed::Cells::count(&cells);
            return Err(FillError::ColumnCount { columns: columns.len(), given });
        }
        let row = |reason| FillError::Row { row: 0, reason };
        check_time(time).map_err(row)?;
        if !sealed::Cells::check(&cells, columns).map_err(row)? {
            return Err(row(PointError::NoFields));
        }
        let series = self.series(series).ok_or(FillError::OtherLayout { row: 0 })?;
        let row = self.measurement.add_row(series, time).index();
        let (columns, string_bytes, bound) = self.measurement.parts();
        let places = &bound[self.bound].columns;
        sealed::Cells::put(cells, &mut Target { columns, places, row, string_bytes });
        Ok(())
    }

    /// Adds rows of one series: a time for each, and per column a slice with a value for each.
    ///
    /// ```
    /// use quorate_protocol::batch::{Batch, Layout};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cpu = Layout::builder("cpu").float("usage").integer("procs").build()?;
    /// let host = cpu.series(&[("host", "a")])?;
    /// let (usage, procs) = (vec![12.5, 13.0, 12.75], [Some(311), None, Some(312_i64)]);
    ///
    /// let mut batch = Batch::new();
    /// batch.fill(&cpu).push_series(&host, &[0, 10, 20], &[&usage, &procs])?;
    /// assert_eq!(batch.rows(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::push`], and slices of another length than the times; nothing is added then.
    pub fn push_series(
        &mut self,
        series: &Series,
        times: &[i64],
        columns: &[&dyn CellSlice],
    ) -> Result<(), FillError> {
        self.check_columns(times, columns)?;
        let Some(first) = self.series(series) else {
            return Err(FillError::OtherLayout { row: 0 });
        };
        let rows = times.iter().map(|time| Row { series: first.0, time: *time });
        self.measurement.rows.extend(rows);
        self.put_columns(times.len(), columns);
        Ok(())
    }

    /// Adds rows of many series: a series and a time for each, and per column a slice with a value
    /// for each.
    ///
    /// # Errors
    /// As [`Self::push_series`].
    pub fn push_columns(
        &mut self,
        series: &[Series],
        times: &[i64],
        columns: &[&dyn CellSlice],
    ) -> Result<(), FillError> {
        if series.len() != times.len() {
            let (rows, given) = (times.len(), series.len());
            return Err(FillError::RowCount { column: None, rows, given });
        }
        self.check_columns(times, columns)?;
        let layout = &self.measurement.bound[self.bound].layout;
        if let Some(row) = series.iter().position(|series| !series.layout().is(layout)) {
            return Err(FillError::OtherLayout { row });
        }
        self.measurement.rows.reserve(times.len());
        for (series, time) in series.iter().zip(times) {
            // All are of this layout.
            let Some(series) = self.series(series) else { continue };
            self.measurement.add_row(series, *time);
        }
        self.put_columns(times.len(), columns);
        Ok(())
    }

    /// The batch's series for a handle; `None` if it is another layout's.
    #[inline]
    fn series(&mut self, series: &Series) -> Option<SeriesRef> {
        let bound = &self.measurement.bound[self.bound];
        if !series.layout().is(&bound.layout) {
            return None;
        }
        match bound.series.get(series.id() as usize) {
            Some(known) if *known > 0 => Some(SeriesRef(known - 1)),
            _ => Some(self.new_series(series.id())),
        }
    }

    /// Takes in a series that this batch does not have from this layout.
    #[cold]
    fn new_series(&mut self, id: u32) -> SeriesRef {
        let bound = &mut self.measurement.bound[self.bound];
        let table = bound.layout.table();
        let series = self.measurement.table.adopt(&table, id, &mut bound.adopted);
        drop(table);
        if bound.series.len() <= id as usize {
            bound.series.resize(id as usize + 1, 0);
        }
        bound.series[id as usize] = series + 1;
        SeriesRef(series)
    }

    fn check_columns(&self, times: &[i64], columns: &[&dyn CellSlice]) -> Result<(), FillError> {
        let own = self.measurement.bound[self.bound].layout.columns();
        if own.len() != columns.len() {
            return Err(FillError::ColumnCount { columns: own.len(), given: columns.len() });
        }
        let rows = times.len();
        let mut full = false;
        for (at, (column, (_, kind))) in columns.iter().zip(own).enumerate() {
            let given = column.rows();
            if given != rows {
                return Err(FillError::RowCount { column: Some(at), rows, given });
            }
            full |= column.check_all(*kind)?;
        }
        for (row, time) in times.iter().enumerate() {
            check_time(*time).map_err(|reason| FillError::Row { row, reason })?;
        }
        if !full {
            let none = |row: &usize| !columns.iter().any(|column| column.has(*row));
            if let Some(row) = (0..rows).find(none) {
                return Err(FillError::Row { row, reason: PointError::NoFields });
            }
        }
        Ok(())
    }

    /// Sets the values of the last `rows` rows.
    fn put_columns(&mut self, rows: usize, columns: &[&dyn CellSlice]) {
        // Rows are counted in u32.
        let first = (self.measurement.rows.len() - rows) as u32;
        let (to, string_bytes, bound) = self.measurement.parts();
        for (column, place) in columns.iter().zip(&bound[self.bound].columns) {
            *string_bytes += column.put_all(&mut to[*place as usize], first);
        }
    }
}

impl Bound {
    pub(super) fn approximate_bytes(&self) -> usize {
        4 * (self.columns.len() + self.series.len()) + self.adopted.approximate_bytes()
    }
}
