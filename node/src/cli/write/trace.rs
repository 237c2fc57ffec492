//! `--trace`: what was done step by step for batches that failed or were slow.
//!
//! Invariants: standard error only, and only about those batches, of several attempts about the last; the client bounds what it keeps of each.

use std::time::Duration;

use quorate_client::WriteHistory;

use super::attempts::Sent;

/// Which batches are told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    /// Those that took so long, besides those that failed.
    pub(crate) slow: Duration,
}

impl Trace {
    /// What to say of a batch, if anything.
    pub(crate) fn tell(self, number: u64, sent: &Sent) -> Option<String> {
        let (history, what) = match &sent.error {
            Some(error) => (error.history()?, "failed"),
            None => (sent.receipts.last()?.history.as_ref()?, "was slow"),
        };
        let slow = |history: &WriteHistory| history.took().is_none_or(|took| took >= self.slow);
        if sent.error.is_none() && !slow(history) {
            return None;
        }
        Some(format!("batch {} {what}: {history}", number + 1))
    }
}
