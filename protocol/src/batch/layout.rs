//! What an application knows about its rows before it has any: the measurement, the typed columns,
//! and the series.
//!
//! Invariant: everything of a [`Layout`] and of its [`Series`] has been checked when it exists, so
//! that adding a row by them ([`super::Filler`]) is left with the values and the time. Both are
//! cheap to clone, belong to no batch, and can be used by many tasks; a batch that is filled by
//! them still carries every key it mentions.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::series::SeriesTable;
use crate::{
    point::{PointError, check_key_len, key},
    schema::FieldType,
};

/// A measurement and its typed columns; the place where handles of series come from.
///
/// ```
/// use quorate_protocol::batch::{Batch, Layout};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Once.
/// let cpu = Layout::builder("cpu").float("usage").integer("procs").string("state").build()?;
/// let a = cpu.series(&[("host", "a"), ("region", "eu")])?;
/// let b = cpu.series(&[("host", "b"), ("region", "eu")])?;
///
/// // For every batch, as often as it takes.
/// let mut batch = Batch::new();
/// let mut rows = batch.fill(&cpu);
/// rows.push(&a, 1_700_000_000_000_000_000, (12.5, 311_i64, "ok"))?;
/// rows.push(&b, 1_700_000_000_000_000_000, (97.0, 2048_i64, Some("throttled")))?;
/// // A value that is not there.
/// rows.push(&a, 1_700_000_010_000_000_000, (12.5, None::<i64>, "ok"))?;
/// assert_eq!(batch.rows(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Layout(Arc<Inner>);

struct Inner {
    /// The measurement's name, escaped.
    escaped: Vec<u8>,
    columns: Vec<(Bytes, FieldType)>,
    /// The length of the longest name of a column.
    longest: usize,
    /// All series that were asked for; a handle's number is the index.
    series: Mutex<SeriesTable>,
}

/// A series of a layout: a handle that is made once and names the series in any batch.
#[derive(Clone)]
pub struct Series {
    layout: Layout,
    id: u32,
}

impl Layout {
    /// Starts a layout for a measurement, named as people write it (unescaped).
    #[must_use]
    pub fn builder(measurement: impl AsRef<[u8]>) -> LayoutBuilder {
        LayoutBuilder { measurement: measurement.as_ref().to_vec(), columns: Vec::new() }
    }

    /// The series with these tags (unescaped, in any order). The same tags give the same series. A
    /// layout remembers every series it was asked for until it and all of its handles are gone.
    ///
    /// # Errors
    /// Tags that a key cannot say, a tag given twice, a key that is too long beside the longest
    /// column's name.
    pub fn series<K, V>(&self, tags: &[(K, V)]) -> Result<Series, PointError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut table = self.table();
        let id = table.by_tags(tags)?;
        check_key_len(table.key(id).len(), self.0.longest)?;
        drop(table);
        Ok(Series { layout: self.clone(), id })
    }

    /// The measurement's name, unescaped.
    #[must_use]
    pub fn measurement(&self) -> Vec<u8> {
        key::unescape_measurement(&self.0.escaped)
    }

    /// The columns: names (unescaped) and types, in the order that rows give their values in.
    #[must_use]
    pub fn columns(&self) -> &[(Bytes, FieldType)] {
        &self.0.columns
    }

    pub(super) fn escaped_name(&self) -> &[u8] {
        &self.0.escaped
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, SeriesTable> {
        // A table is never left half changed: nothing that holds it panics.
        self.0.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measurement = self.0.escaped.escape_ascii().to_string();
        f.debug_struct("Layout")
            .field("measurement", &measurement)
            .field("columns", &self.0.columns)
            .finish_non_exhaustive()
    }
}

impl Series {
    /// The layout that the series belongs to.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The canonical key: see [`crate::point::key`].
    #[must_use]
    pub fn key(&self) -> Bytes {
        Bytes::copy_from_slice(self.layout.table().key(self.id))
    }

    /// The hash of the key, which decides the shard.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.layout.table().hash(self.id)
    }

    pub(super) const fn id(&self) -> u32 {
        self.id
    }
}

impl PartialEq for Series {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.layout.is(&other.layout)
    }
}

impl Eq for Series {}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Series({})", self.key().escape_ascii())
    }
}

/// A layout being put together; all checks happen in [`LayoutBuilder::build`].
#[derive(Clone, Debug)]
pub struct LayoutBuilder {
    measurement: Vec<u8>,
    columns: Vec<(Bytes, FieldType)>,
}

impl LayoutBuilder {
    /// Adds a column of finite `f64`, its name unescaped.
    #[must_use]
    pub fn float(self, name: impl AsRef<[u8]>) -> Self {
        self.column(name, FieldType::Float)
    }

    /// Adds a column of `i64`.
    #[must_use]
    pub fn integer(self, name: impl AsRef<[u8]>) -> Self {
        self.column(name, FieldType::Integer)
    }

    /// Adds a column of `u64`.
    #[must_use]
    pub fn unsigned(self, name: impl AsRef<[u8]>) -> Self {
        self.column(name, FieldType::Unsigned)
    }

    /// Adds a column of `bool`.
    #[must_use]
    pub fn boolean(self, name: impl AsRef<[u8]>) -> Self {
        self.column(name, FieldType::Boolean)
    }

    /// Adds a column of strings.
    #[must_use]
    pub fn string(self, name: impl AsRef<[u8]>) -> Self {
        self.column(name, FieldType::String)
    }

    /// Adds a column of a type that is known at run time only.
    #[must_use]
    pub fn column(mut self, name: impl AsRef<[u8]>, kind: FieldType) -> Self {
        self.columns.push((Bytes::copy_from_slice(name.as_ref()), kind));
        self
    }

    /// Finishes the layout.
    ///
    /// # Errors
    /// The first thing about it that breaks a rule: names that a line cannot say or that are too
    /// long, no column, a column given twice.
    pub fn build(self) -> Result<Layout, PointError> {
        key::check_measurement(&self.measurement)?;
        let mut escaped = Vec::new();
        key::escape_measurement(&mut escaped, &self.measurement);
        if self.columns.is_empty() {
            return Err(PointError::NoFields);
        }
        for (at, (name, _)) in self.columns.iter().enumerate() {
            key::check_field_name(name)?;
            if self.columns[..at].iter().any(|(other, _)| other == name) {
                return Err(PointError::DuplicateField(name.clone()));
            }
        }
        let longest = self.columns.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        check_key_len(escaped.len(), longest)?;
        let series = Mutex::new(SeriesTable::new(&escaped));
        Ok(Layout(Arc::new(Inner { escaped, columns: self.columns, longest, series })))
    }
}
