//! Versioned rows of one series: what shards store, scans carry and reads merge.
//!
//! Invariant: `times` and `versions` ascend by (time, version), each pair once; every column has one
//! entry per row; columns ascend by (field, type), each once. After [`Rows::merge`] every row holds
//! at least one field, and of every (time, field) only the winner: the highest (version, canonical
//! value). Made from decoded batches, blocks and merges; used by the shard store and by clients
//! that merge replicas.

use std::ops::Range;

use crate::id::{FieldId, Version};
pub use crate::{
    batch::{Column, Presence, Values},
    rows::block::BlockError,
};

mod block;
mod merge;

/// Rows of one series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Nanoseconds since the Unix epoch, per row.
    pub times: Vec<i64>,
    /// The version of each row.
    pub versions: Vec<Version>,
    /// The fields.
    pub columns: Vec<Column>,
}

impl Rows {
    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The first and the last time.
    #[must_use]
    pub fn time_range(&self) -> Option<(i64, i64)> {
        Some((*self.times.first()?, *self.times.last()?))
    }

    /// The column of a field.
    #[must_use]
    pub fn column(&self, field: FieldId) -> Option<&Column> {
        self.columns.iter().find(|column| column.field == field)
    }

    /// Roughly how much memory the rows take, in bytes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        let strings = |column: &Column| match &column.values {
            Values::String(slots) => slots.iter().map(|slot| slot.len() + 24).sum(),
            _ => 0_usize,
        };
        let columns: usize =
            self.columns.iter().map(|column| 64 + 8 * self.len() + strings(column)).sum();
        16 * self.len() + columns
    }

    /// The rows of all parts, conflicts resolved. The order of the parts does not matter, nor how
    /// often one is given, nor what has been merged before.
    #[must_use]
    pub fn merge(parts: Vec<Self>) -> Self {
        merge::merge(parts)
    }

    /// One row per time, with the winning value of every field and the highest version among them:
    /// what people see. The result is not for merging again.
    #[must_use]
    pub fn collapse(self) -> Self {
        merge::collapse(self)
    }

    /// The rows with `from <= time < to`.
    #[must_use]
    pub fn slice(&self, from: i64, to: i64) -> Self {
        let start = self.times.partition_point(|time| *time < from);
        let end = self.times.partition_point(|time| *time < to).max(start);
        self.range(start..end)
    }

    /// The rows at these positions, which lie within the rows.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Self {
        Self {
            times: self.times[range.clone()].to_vec(),
            versions: self.versions[range.clone()].to_vec(),
            columns: self
                .columns
                .iter()
                .map(|column| column.slice(range.clone()))
                .filter(|column| column.present.any())
                .collect(),
        }
    }

    /// Only these fields, and only the rows that have one of them.
    #[must_use]
    pub fn select(&self, fields: &[FieldId]) -> Self {
        let kept: Vec<&Column> =
            self.columns.iter().filter(|column| fields.contains(&column.field)).collect();
        let mut out = Self {
            columns: kept.iter().map(|c| Column::new(c.field, c.name.clone(), c.kind())).collect(),
            ..Self::default()
        };
        if kept.iter().any(|column| column.present.is_all()) {
            return Self {
                times: self.times.clone(),
                versions: self.versions.clone(),
                columns: kept.into_iter().cloned().collect(),
            };
        }
        for row in 0..self.len() {
            if kept.iter().any(|column| column.present.get(row)) {
                out.times.push(self.times[row]);
                out.versions.push(self.versions[row]);
                for (to, from) in out.columns.iter_mut().zip(&kept) {
                    to.extend(from, row..row + 1);
                }
            }
        }
        out
    }

    /// Appends the rows as a self-contained, checksummed block (`RowBlock` in `SPEC.md`).
    pub fn encode(&self, out: &mut Vec<u8>) {
        block::encode(self, out);
    }

    /// Reads a block back and checks everything about it.
    ///
    /// # Errors
    /// The block is damaged, or breaks a rule of the format or of this type.
    pub fn decode(block: &[u8]) -> Result<Self, BlockError> {
        block::decode(block)
    }
}
