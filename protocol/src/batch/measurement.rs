//! The rows of one measurement while a batch is being filled.
//!
//! Invariant: every row names a series of this measurement; a field name may have several columns,
//! one per type, because which type is right is decided only when the batch is written. Filled by
//! applications through [`super::Batch::measurement`] and by the line parser.

use bytes::Bytes;

use super::{fill::Bound, intern::Interner, series::SeriesTable, store::Store};
use crate::{
    point::{PointError, Value, ValueRef, check_key_len, check_time, check_value, key},
    schema::FieldType,
};

/// A series of one measurement of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesRef(pub(super) u32);

/// A column of one measurement of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnRef(pub(crate) u32);

/// A row of one measurement of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef(pub(super) u32);

impl RowRef {
    /// The row's index, as [`super::Selection`] and [`super::Batch::rows_iter`] have it.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// One measurement's part of a batch.
#[derive(Clone, Debug)]
pub struct MeasurementBuilder {
    name: Bytes,
    pub(super) table: SeriesTable,
    columns: Vec<FieldColumn>,
    pub(super) rows: Vec<Row>,
    /// Field names; per name and type, the column's index + 1, or 0.
    fields: Interner,
    field_columns: Vec<[u32; 5]>,
    string_bytes: usize,
    /// The layouts that rows were added by.
    pub(super) bound: Vec<Bound>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) series: u32,
    pub(super) time: i64,
}

/// One field of one type.
#[derive(Clone, Debug)]
pub struct FieldColumn {
    name: Bytes,
    kind: FieldType,
    /// The name needs no escaping.
    plain: bool,
    pub(super) store: Store,
}

impl FieldColumn {
    /// The field's name, unescaped.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// The type of the values.
    #[must_use]
    pub const fn kind(&self) -> FieldType {
        self.kind
    }

    /// The value of a row, if it has one.
    #[must_use]
    pub fn get(&self, row: RowRef) -> Option<ValueRef<'_>> {
        self.store.values().get(self.store.position(row.0)?)
    }

    /// The name as a line says it, if that needs no escaping.
    pub(crate) fn plain_name(&self) -> Option<&[u8]> {
        self.plain.then_some(&self.name[..])
    }

    /// How many rows have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.values().len()
    }

    /// Whether no row has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows that have a value, ascending.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        let named = self.store.rows();
        (0..self.len()).map(move |at| named.map_or(at, |rows| rows[at] as usize))
    }
}

impl MeasurementBuilder {
    /// `escaped` is a valid escaped name.
    pub(super) fn new(escaped: &[u8]) -> Self {
        Self {
            name: key::unescape_measurement(escaped).into(),
            table: SeriesTable::new(escaped),
            columns: Vec::new(),
            rows: Vec::new(),
            fields: Interner::default(),
            field_columns: Vec::new(),
            string_bytes: 0,
            bound: Vec::new(),
        }
    }

    /// The measurement's name, unescaped.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// The measurement's name as it stands in keys.
    #[must_use]
    pub fn escaped_name(&self) -> &[u8] {
        self.table.escaped()
    }

    /// The series with these tags (unescaped, in any order). Keep the answer: rows are cheap,
    /// finding their series is not.
    ///
    /// # Errors
    /// Tags that a key cannot say, a tag given twice, a key that is too long.
    pub fn series<K, V>(&mut self, tags: &[(K, V)]) -> Result<SeriesRef, PointError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        self.table.by_tags(tags).map(SeriesRef)
    }

    /// The series with this canonical key, which begins with this measurement's escaped name.
    pub(crate) fn series_by_key(&mut self, key: &[u8]) -> SeriesRef {
        SeriesRef(self.table.by_key(key))
    }

    /// The series that a line spelled this way, if that is known and plain.
    pub(crate) fn series_by_spelling(&mut self, spelling: &[u8]) -> Option<SeriesRef> {
        self.table.by_spelling(spelling).map(SeriesRef)
    }

    /// The series that a line begins with and the length of its key, if that is the next one and plain.
    pub(crate) fn next_series(&mut self, line: &[u8]) -> Option<(SeriesRef, usize)> {
        let (series, len) = self.table.by_next_spelling(line)?;
        Some((SeriesRef(series), len))
    }

    /// The series of a plain spelling that is not known, if it has the tags of the line before.
    pub(crate) fn series_by_spelled_tags(&mut self, spelling: &[u8]) -> Option<SeriesRef> {
        self.table.by_spelled_tags(spelling).map(SeriesRef)
    }

    /// Remembers the tags of a line.
    pub(crate) fn learn_spelling(&mut self, spelling: &[u8]) {
        self.table.learn_spelling(spelling);
    }

    /// Remembers another spelling of a key.
    pub(crate) fn add_spelling(&mut self, spelling: &[u8], series: SeriesRef) {
        self.table.add_spelling(spelling, series.0);
    }

    /// The column of a field (name unescaped) with values of one type.
    ///
    /// # Errors
    /// A name that a line cannot say, or that is too long.
    pub fn column(&mut self, name: &[u8], kind: FieldType) -> Result<ColumnRef, PointError> {
        if let Some(column) = self.find_column(name, kind) {
            return Ok(column);
        }
        key::check_field_name(name)?;
        check_key_len(self.table.escaped().len(), name.len())?;
        Ok(self.add_column(name, kind))
    }

    pub(crate) fn find_column(&self, name: &[u8], kind: FieldType) -> Option<ColumnRef> {
        let columns = &self.field_columns[self.fields.find(name)? as usize];
        columns[kind as usize].checked_sub(1).map(ColumnRef)
    }

    /// The column, if it is of this field and type.
    pub(super) fn guess_column(
        &self,
        guess: ColumnRef,
        name: &[u8],
        kind: FieldType,
    ) -> Option<ColumnRef> {
        let column = self.columns.get(guess.0 as usize)?;
        (column.kind == kind && column.name == name).then_some(guess)
    }

    /// Adds a column whose name has been checked and is not there with this type.
    pub(crate) fn add_column(&mut self, name: &[u8], kind: FieldType) -> ColumnRef {
        let (id, new) = self.fields.intern(name);
        if new {
            self.field_columns.push([0; 5]);
        }
        let plain = !name.iter().any(|byte| matches!(byte, b',' | b'=' | b' ' | b'"' | b'\\'));
        let name = Bytes::copy_from_slice(name);
        self.columns.push(FieldColumn { name, kind, plain, store: Store::new(kind) });
        let count = u32::try_from(self.columns.len()).unwrap_or(u32::MAX);
        self.field_columns[id as usize][kind as usize] = count;
        ColumnRef(count - 1)
    }

    /// Adds a row. Rows may come in any order; of rows with equal series and time the later one
    /// wins, field by field. A row that gets no value is not written.
    ///
    /// # Errors
    /// A time out of range.
    pub fn row(&mut self, series: SeriesRef, time: i64) -> Result<RowRef, PointError> {
        check_time(time)?;
        Ok(self.add_row(series, time))
    }

    /// Adds a row whose time has been checked.
    pub(crate) fn add_row(&mut self, series: SeriesRef, time: i64) -> RowRef {
        self.rows.push(Row { series: series.0, time });
        RowRef(u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX))
    }

    /// Sets a value of a row, over an earlier one.
    ///
    /// # Errors
    /// A value that no field can have, or of another type than the column's.
    pub fn set(&mut self, row: RowRef, column: ColumnRef, value: Value) -> Result<(), PointError> {
        check_value(value.as_ref())?;
        if let Value::String(string) = &value {
            self.string_bytes += string.len();
        }
        let column = &mut self.columns[column.0 as usize];
        column.store.set(row.0, value).map_err(|given| column.wrong(given))
    }

    /// Sets a valid value, not a string, of the column's type.
    #[inline]
    pub(crate) fn set_bits(
        &mut self,
        row: RowRef,
        column: ColumnRef,
        kind: FieldType,
        bits: u64,
    ) -> Result<(), PointError> {
        let column = &mut self.columns[column.0 as usize];
        match kind {
            FieldType::Float => column.store.set_float(row.0, f64::from_bits(bits)),
            FieldType::Integer => column.store.set_integer(row.0, bits.cast_signed()),
            FieldType::Unsigned => column.store.set_unsigned(row.0, bits),
            FieldType::Boolean => column.store.set_boolean(row.0, bits != 0),
            FieldType::String => Err(kind),
        }
        .map_err(|given| column.wrong(given))
    }

    #[inline]
    pub(crate) fn kind(&self, column: ColumnRef) -> FieldType {
        self.columns[column.0 as usize].kind
    }

    /// What adding a row by handles changes, and what it looks at.
    pub(super) fn parts(&mut self) -> (&mut [FieldColumn], &mut usize, &[Bound]) {
        (&mut self.columns, &mut self.string_bytes, &self.bound)
    }

    /// The columns, in order of first appearance.
    #[must_use]
    pub fn columns(&self) -> &[FieldColumn] {
        &self.columns
    }

    /// Whether some field has columns of several types.
    pub(crate) fn has_mixed_fields(&self) -> bool {
        self.fields.len() < self.columns.len()
    }

    /// The number of rows, duplicates included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Series, time and number of every row.
    pub fn rows(&self) -> impl Iterator<Item = (RowRef, SeriesRef, i64)> {
        (0_u32..).zip(&self.rows).map(|(at, row)| (RowRef(at), SeriesRef(row.series), row.time))
    }

    /// The canonical key of a series.
    #[must_use]
    pub fn series_key(&self, series: SeriesRef) -> &[u8] {
        self.table.key(series.0)
    }

    /// The hash of a series' key.
    #[must_use]
    pub fn series_hash(&self, series: SeriesRef) -> u64 {
        self.table.hash(series.0)
    }

    pub(super) fn clear_rows(&mut self) {
        self.rows.clear();
        self.string_bytes = 0;
        self.columns.iter_mut().for_each(|column| column.store.clear());
    }

    pub(super) fn approximate_bytes(&self) -> usize {
        let values: usize = self.columns.iter().map(|column| 64 + 8 * column.len()).sum();
        let bound: usize = self.bound.iter().map(Bound::approximate_bytes).sum();
        self.table.approximate_bytes() + values + bound + 16 * self.rows.len() + self.string_bytes
    }
}

impl FieldColumn {
    fn wrong(&self, given: FieldType) -> PointError {
        PointError::WrongType { column: self.kind, given }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($type:ty);)*) => {
        impl MeasurementBuilder {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// As [`Self::set`].
            #[inline]
            pub fn $name(
                &mut self,
                row: RowRef,
                column: ColumnRef,
                value: $type,
            ) -> Result<(), PointError> {
                let column = &mut self.columns[column.0 as usize];
                column.store.$name(row.0, value).map_err(|given| column.wrong(given))
            }
        )*}
    };
}

setters! {
    /// Sets an integer.
    set_integer(i64);
    /// Sets an unsigned integer.
    set_unsigned(u64);
    /// Sets a boolean.
    set_boolean(bool);
}

impl MeasurementBuilder {
    /// Sets a float.
    ///
    /// # Errors
    /// As [`Self::set`].
    #[inline]
    pub fn set_float(
        &mut self,
        row: RowRef,
        column: ColumnRef,
        value: f64,
    ) -> Result<(), PointError> {
        if !value.is_finite() {
            return Err(PointError::NotFinite);
        }
        let column = &mut self.columns[column.0 as usize];
        column.store.set_float(row.0, value).map_err(|given| column.wrong(given))
    }

    /// Sets a string.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_string(
        &mut self,
        row: RowRef,
        column: ColumnRef,
        value: impl Into<Bytes>,
    ) -> Result<(), PointError> {
        self.set(row, column, Value::String(value.into()))
    }
}
