//! A batch as an application fills it: by points, by columns, or by lines.
//!
//! Invariant: a batch holds only what may be written, apart from type conflicts, which are found
//! later; rows keep the order they came in, so that the later of two equal ones can win. Clients
//! split it by shard ([`Batch::rows_iter`]) and encode each part once ([`super::encode_part`]).

use super::{
    Filler, Layout,
    intern::Interner,
    measurement::{ColumnRef, MeasurementBuilder, RowRef},
};
use crate::point::{Point, PointError, key};

/// Points, column by column.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Escaped names; the id is the index in `measurements`.
    names: Interner,
    measurements: Vec<MeasurementBuilder>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a point.
    pub fn push(&mut self, point: &Point) {
        self.push_row(point);
    }

    /// Adds a point, and says where it stands: its measurement's position and its row, as in
    /// [`Self::rows_iter`].
    pub fn push_row(&mut self, point: &Point) -> (usize, u32) {
        let at = self.measurement_at(key::measurement_of(point.key()));
        let measurement = &mut self.measurements[at];
        let series = measurement.series_by_key(point.key());
        let row = measurement.add_row(series, point.time());
        for (guess, (name, value)) in (0..).zip(point.fields()) {
            let kind = value.field_type();
            let column = measurement
                .guess_column(ColumnRef(guess), name, kind)
                .or_else(|| measurement.find_column(name, kind))
                .unwrap_or_else(|| measurement.add_column(name, kind));
            // The column has the value's type and a point's values are valid.
            let set = measurement.set(row, column, value.clone());
            debug_assert!(set.is_ok());
        }
        (at, row.0)
    }

    /// The part of the batch for a measurement, named as people write it.
    ///
    /// # Errors
    /// A name that a line cannot say.
    pub fn measurement(
        &mut self,
        name: impl AsRef<[u8]>,
    ) -> Result<&mut MeasurementBuilder, PointError> {
        key::check_measurement(name.as_ref())?;
        let mut escaped = Vec::with_capacity(name.as_ref().len() + 4);
        key::escape_measurement(&mut escaped, name.as_ref());
        Ok(self.measurement_by_escaped(&escaped))
    }

    /// The part of the batch for the rows of a layout: the fast way to fill a batch.
    pub fn fill(&mut self, layout: &Layout) -> Filler<'_> {
        Filler::new(self.measurement_by_escaped(layout.escaped_name()), layout)
    }

    /// The part of the batch for a measurement, by its valid escaped name.
    pub(crate) fn measurement_by_escaped(&mut self, escaped: &[u8]) -> &mut MeasurementBuilder {
        let at = self.measurement_at(escaped);
        &mut self.measurements[at]
    }

    fn measurement_at(&mut self, escaped: &[u8]) -> usize {
        let (id, new) = self.names.intern(escaped);
        if new {
            self.measurements.push(MeasurementBuilder::new(escaped));
        }
        id as usize
    }

    /// The number of the measurement with this escaped name.
    pub(crate) fn find_measurement(&self, escaped: &[u8]) -> Option<usize> {
        self.names.find(escaped).map(|id| id as usize)
    }

    /// Computes the hashes of series that lines left for later.
    pub(crate) fn complete_hashes(&mut self) {
        self.measurements.iter_mut().for_each(|measurement| measurement.table.complete());
    }

    pub(crate) fn measurement_mut(&mut self, index: usize) -> &mut MeasurementBuilder {
        &mut self.measurements[index]
    }

    /// The measurements, in order of first appearance; their positions are the measurement indices
    /// of [`Batch::rows_iter`] and [`super::Selection`].
    #[must_use]
    pub fn measurements(&self) -> &[MeasurementBuilder] {
        &self.measurements
    }

    /// The number of rows, duplicates included.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.measurements.iter().map(MeasurementBuilder::len).sum()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Roughly the memory the batch takes, in bytes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        self.measurements.iter().map(MeasurementBuilder::approximate_bytes).sum()
    }

    /// Measurement index, row index, series hash and time of every row: what routing needs.
    pub fn rows_iter(&self) -> impl Iterator<Item = (usize, u32, u64, i64)> {
        self.measurements.iter().enumerate().flat_map(|(at, measurement)| {
            measurement.rows().map(move |(RowRef(row), series, time)| {
                (at, row, measurement.series_hash(series), time)
            })
        })
    }

    /// Forgets all rows but keeps series and columns, so that their references stay good: the way
    /// to fill batch after batch from the same sources.
    pub fn clear_rows(&mut self) {
        self.measurements.iter_mut().for_each(MeasurementBuilder::clear_rows);
    }
}
