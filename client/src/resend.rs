//! The rows of a write that did not reach their level, once more.
//!
//! Invariants: only those rows, with the version of the first attempt; a row that the batch does not have
//! is told, never left out.

use quorate_protocol::{batch::Batch, code::Code};

use crate::{
    Client,
    config::WriteOptions,
    error::{Certainty, FailedRows, RowId, WriteError},
    receipt::Receipt,
    write::{self, Full, selection},
};

impl Client {
    /// Sends the rows again that a write did not get to its level, and only those, with the version of
    /// the first attempt: what was written in between is not overwritten, and what has arrived
    /// meanwhile is not doubled. `options.version` is not used.
    ///
    /// # Errors
    /// As [`Client::write`]; rows that are refused for good are so again. [`Code::Malformed`] if `failed`
    /// names a row that the batch does not have.
    ///
    /// [`Code::Malformed`]: quorate_protocol::code::Code::Malformed
    pub async fn resend(
        &self,
        database: &str,
        batch: &Batch,
        failed: &WriteError,
        options: &WriteOptions,
    ) -> Result<Receipt, WriteError> {
        let version = failed.receipt.version;
        if let Some(strange) = failed.rows().find(|row| !has(batch, *row)) {
            let RowId { measurement, row } = strange;
            let detail = format!(
                "row {row} of measurement {measurement} is not in this batch; resend the one that failed"
            );
            let receipt = Receipt {
                version,
                meta_index: self.core.topology.map().index,
                level: options.consistency,
                parts: Vec::new(),
                dropped: None,
                history: None,
            };
            let failed = FailedRows {
                rows: failed.rows().collect(),
                shard: None,
                code: Code::Malformed,
                certainty: Certainty::Definite,
                detail,
            };
            return Err(WriteError { receipt: Box::new(receipt), failed: vec![failed] });
        }
        let rows: Vec<RowId> = failed.rows().collect();
        let only = selection(batch, rows.iter());
        let options = WriteOptions { version: Some(version), ..options.clone() };
        write::write(&self.core, database, batch, Some(&only), &options, Full::Wait).await
    }
}

fn has(batch: &Batch, row: RowId) -> bool {
    let measurement = batch.measurements().get(row.measurement as usize);
    measurement.is_some_and(|measurement| (row.row as usize) < measurement.len())
}
