//! Encoding one shard's part of a batch.
//!
//! Invariant: the part obeys every rule of the format: rows sorted by (series, time), each once.
//! Clients call [`encode_part`] once per shard and write; the same bytes go everywhere.

use bytes::Bytes;

use self::{plan::Plan, write::Scratch};
use super::{
    Batch, BatchHeader, FieldColumn, HEADER_LEN, MAX_CELLS, MAX_KEY_BYTES, MAX_ROWS,
    MeasurementBuilder, PartHeader, header::CHECKED_FROM,
};
use crate::{id::FieldId, schema::FieldType};

mod plan;
mod write;

/// Which rows of a batch go into a part.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// All of them.
    All,
    /// Per measurement, by its index in [`Batch::measurements`], the row indices, ascending;
    /// measurements beyond the end have none.
    Rows(&'a [Vec<u32>]),
}

/// Finds the id of (measurement, field, type), names unescaped; `None` if that field has another
/// type.
pub type FieldIds<'a> = dyn Fn(&[u8], &[u8], FieldType) -> Option<FieldId> + 'a;

/// Why a part cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// No row is left.
    #[error("no row is left to write")]
    Empty,
    /// More rows, cells or key bytes than a part may have.
    #[error("the part has {rows} rows, {cells} cells and {key_bytes} bytes of keys; split it")]
    TooLarge {
        /// The rows, at most [`MAX_ROWS`].
        rows: usize,
        /// Rows times fields and series times tags, summed over measurements, at most [`MAX_CELLS`].
        cells: usize,
        /// The length of all series keys, at most [`MAX_KEY_BYTES`].
        key_bytes: usize,
    },
    /// A selected row is not in the batch, or the row indices do not ascend.
    #[error("the selection does not fit the batch")]
    BadSelection,
}

/// Encodes the selected rows as one self-contained part. `field_id` is asked once per column with
/// (measurement, field, type), names unescaped; columns without an id (type conflicts) are left
/// out, and so are rows that have no value left. Of rows with equal series and time the later one
/// wins, field by field.
///
/// # Errors
/// Nothing to write, or too much.
pub fn encode_part(
    batch: &Batch,
    header: &PartHeader,
    selection: Selection<'_>,
    field_id: &FieldIds<'_>,
) -> Result<Bytes, EncodeError> {
    let mut out = vec![0; HEADER_LEN];
    let mut scratch = Scratch::default();
    let mut total = Total::default();
    for (at, measurement) in batch.measurements().iter().enumerate() {
        let selected = match selection {
            Selection::All => None,
            Selection::Rows(rows) => Some(rows.get(at).map_or(&[][..], Vec::as_slice)),
        };
        let columns = columns_of(measurement, field_id);
        let Some(plan) = Plan::new(measurement, selected, &columns)? else {
            continue;
        };
        total.add(&plan, columns.len(), measurement.table.tags().len())?;
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        write::block(&mut out, measurement, &plan, &columns, &mut scratch);
        let len = u32::try_from(out.len() - start - 4).map_err(|_| total.too_large())?;
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }
    if total.rows == 0 {
        return Err(EncodeError::Empty);
    }
    let head = BatchHeader {
        part: *header,
        min_time: total.min_time,
        max_time: total.max_time,
        rows: u32::try_from(total.rows).map_err(|_| total.too_large())?,
        measurements: total.measurements,
    };
    out[..HEADER_LEN].copy_from_slice(&head.to_bytes());
    let checksum = crc32fast::hash(&out[CHECKED_FROM..]);
    out[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    // Senders bound what they hold by its length.
    out.shrink_to_fit();
    Ok(out.into())
}

/// The columns that have an id, in the order of their ids.
fn columns_of<'a>(
    measurement: &'a MeasurementBuilder,
    field_id: &FieldIds<'_>,
) -> Vec<(FieldId, &'a FieldColumn)> {
    let mut columns: Vec<(FieldId, &FieldColumn)> = measurement
        .columns()
        .iter()
        .filter(|column| !column.is_empty())
        .filter_map(|column| {
            let id = field_id(measurement.name(), column.name(), column.kind())?;
            Some((id, column))
        })
        .collect();
    columns.sort_by_key(|(id, _)| *id);
    columns.dedup_by_key(|(id, _)| *id);
    columns
}

/// What the part amounts to so far.
#[derive(Clone, Copy, Debug)]
struct Total {
    measurements: u32,
    rows: usize,
    cells: usize,
    key_bytes: usize,
    min_time: i64,
    max_time: i64,
}

impl Default for Total {
    fn default() -> Self {
        Self {
            measurements: 0,
            rows: 0,
            cells: 0,
            key_bytes: 0,
            min_time: i64::MAX,
            max_time: i64::MIN,
        }
    }
}

impl Total {
    fn add(&mut self, plan: &Plan, columns: usize, tags: usize) -> Result<(), EncodeError> {
        self.measurements += 1;
        self.rows += plan.times.len();
        self.cells += plan.times.len() * columns + plan.series.len() * tags;
        self.key_bytes += plan.key_bytes;
        for &time in &plan.times {
            self.min_time = self.min_time.min(time);
            self.max_time = self.max_time.max(time);
        }
        if self.rows > MAX_ROWS || self.cells > MAX_CELLS || self.key_bytes > MAX_KEY_BYTES {
            return Err(self.too_large());
        }
        Ok(())
    }

    const fn too_large(&self) -> EncodeError {
        EncodeError::TooLarge { rows: self.rows, cells: self.cells, key_bytes: self.key_bytes }
    }
}
