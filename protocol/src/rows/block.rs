//! Rows as a block.

use super::Rows;
use crate::batch::DecodeError;

/// Why bytes are not a valid row block. Nothing of them may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// As for batches.
    #[error("row block: {0}")]
    Format(#[from] DecodeError),
}

pub(super) fn encode(rows: &Rows, out: &mut Vec<u8>) {
    let _ = (rows, out);
}

pub(super) fn decode(block: &[u8]) -> Result<Rows, BlockError> {
    let _ = block;
    Err(DecodeError::Truncated.into())
}
