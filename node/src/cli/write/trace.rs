//! `--trace`: what was done step by step for batches that failed or were slow.
//!
//! Invariants: standard error only, and only about those batches; the client bounds what it keeps of each.

use std::time::Duration;

use quorate_client::{Receipt, WriteError, WriteHistory};

/// Which batches are told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    /// Those that took so long, besides those that failed.
    pub(crate) slow: Duration,
}

impl Trace {
    /// What to say of a batch, if anything.
    pub(crate) fn tell(self, number: u64, result: &Result<Receipt, WriteError>) -> Option<String> {
        let (history, what) = match result {
            Err(error) => (error.history()?, "failed"),
            Ok(receipt) => (receipt.history.as_ref()?, "was slow"),
        };
        let slow = |history: &WriteHistory| history.took().is_none_or(|took| took >= self.slow);
        if result.is_ok() && !slow(history) {
            return None;
        }
        Some(format!("batch {} {what}: {history}", number + 1))
    }
}
